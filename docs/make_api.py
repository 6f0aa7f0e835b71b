"""Write docs/api.md from the docstrings of what `inference` and `stream_server` export: ``make api``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

TARGET = Path(__file__).with_name("api.md")

HEAD = """\
# The Python API

What `stream_server` (the clients) and `inference` (models and the engine) export. Runnable programs are in
[examples](../examples). This file is written by `make api` from the docstrings; edit those.
"""


def document() -> str:
    """Write the whole page."""
    parts = [HEAD]
    for package in ("stream_server", "inference"):
        module = import_module(package)
        parts.append(f"## {package}\n\n{inspect.getdoc(module)}\n")
        parts += [_entry(module, name) for name in module.__all__]
    return "\n".join(parts)


def _entry(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if not (inspect.isclass(value) or inspect.isroutine(value)) or not value.__doc__:
        return f"### {name}\n\nA type: `{_plain(str(value))}`\n"
    base = f", a {value.__base__.__name__}" if _is_error(value) else ""
    parts = [f"### {name}{base}\n", _code(name, value), _text(inspect.getdoc(value) or "")]
    for method, function in _methods(value):
        parts += [f"#### {name}.{method}\n", _code(method, function), _text(inspect.getdoc(function) or "")]
    return "\n".join(part for part in parts if part)


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def _methods(value: Any) -> Iterator[tuple[str, Any]]:
    if inspect.isclass(value):
        for name, member in vars(value).items():
            if not name.startswith("_") and inspect.isroutine(member) and inspect.getdoc(member):
                yield name, member
            elif not name.startswith("_") and isinstance(member, property):
                yield name, member.fget


def _code(name: str, value: Any) -> str:
    if _is_error(value):
        return ""
    target = getattr(value, "__func__", value)  # of a classmethod
    try:
        return f"```python\n{name}{_plain(str(inspect.signature(target)))}\n```\n"
    except (TypeError, ValueError):
        return ""


def _plain(signature: str) -> str:
    """Leave out what readers need not know: quotes around annotations, and where a type lives."""
    for module in ("stream_server.client.stream.", "stream_server.protocol.client_side.", "inference.items."):
        signature = signature.replace(module, "")
    return signature.replace("'", "").replace("typing.", "")


def _text(doc: str) -> str:
    """Turn a docstring's sections into lists."""
    lines = []
    for line in doc.splitlines():
        if line in ("Args:", "Attributes:", "Raises:", "Returns:"):
            lines += [f"**{line}**", ""]
        elif line.startswith("    ") and not line.startswith("     "):
            lines.append(f"- {line.strip()}")
        else:
            lines.append(line.replace("        ", "  ") if line.startswith("        ") else line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(TARGET.write_text(document(), "utf-8") == 0)
