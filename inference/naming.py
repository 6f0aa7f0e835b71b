"""Names of models: those that ship, and modules of a user's that cannot be imported because of their name."""

from __future__ import annotations

from pathlib import Path

from inference.model import ModelError, ModelSource

SHIPPED = {
    "faces": "inference.models.faces:Faces",
    "spam": "inference.models.spam:Spam",
    "echo": "inference.models.echo:Echo",
}
"""The models that come with the package."""

OWN_PACKAGES = ("benchmarks", "inference", "stream_server", "web_client")
"""Importable before anything in the user's folder."""


def named_source(text: str) -> ModelSource:
    """Read a shipped model's name, or ``[name=]package.module:Class``.

    Raises:
        ModelError: it is neither, or its module has the name of one of our packages.
    """
    if text in SHIPPED:
        return ModelSource(text, SHIPPED[text])
    try:
        source = ModelSource.parse(text)
    except ModelError as exc:
        raise ModelError(f"{exc}; or name one that ships: {', '.join(SHIPPED)}") from None
    if reason := clash(source.reference):
        raise ModelError(reason)
    return source


def clash(reference: str, root: Path = Path(__file__).parents[1]) -> str | None:
    """Say why a model cannot be imported if its module is named like one of our packages, else None.

    Args:
        reference: ``package.module:Class``.
        root: the folder that holds our packages.
    """
    module = reference.partition(":")[0]
    top, *rest = module.split(".")
    if top not in OWN_PACKAGES:
        return None
    file = root.joinpath(top, *rest)
    if rest and (file.with_suffix(".py").is_file() or (file / "__init__.py").is_file()):
        return None
    return (
        f"{reference}: the name {top!r} is taken by a package of this program, so a module of yours with that "
        f"name cannot be imported; rename {top}"
    )
