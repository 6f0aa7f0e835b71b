"""Which names a user's module cannot have: those of the packages that come with this one."""

from __future__ import annotations

from pathlib import Path

OWN_PACKAGES = ("benchmarks", "inference", "stream_server", "web_client")
"""Importable before anything in the user's folder."""


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
