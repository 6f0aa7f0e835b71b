"""Where two answers differ. Pure: no I/O."""

from __future__ import annotations

import json
from typing import Any

SHOWN = 40
"""Characters of a value in a sentence."""

MAX_NUMBER = 2**1023
"""Whole numbers above do not fit a float, and are equal or not."""


def difference(recorded: Any, now: Any, tolerance: float = 0.0) -> str | None:
    """Say where two JSON values first differ, such as ``outputs.faces[0].score is 0.91, was 0.94``.

    Args:
        tolerance: by how much numbers may differ if one of them is a fraction; whole numbers are counts.

    Returns:
        None if they are equal.
    """
    # a stack, for values that are nested more deeply than functions can call each other
    left: list[tuple[str, Any, Any]] = [("", recorded, now)]
    while left:
        path, old, new = left.pop()
        if isinstance(old, dict) and isinstance(new, dict):
            names = [*old, *(name for name in new if name not in old)]
            for name in names:
                if name not in new or name not in old:
                    return f"{_join(path, name)} {'is gone' if name in old else 'is new'}"
            left += [(_join(path, name), old[name], new[name]) for name in reversed(names)]
        elif isinstance(old, list) and isinstance(new, list):
            if len(old) != len(new):
                return f"{path or 'it'} has {len(new)} elements, had {len(old)}"
            pairs = list(enumerate(zip(old, new, strict=True)))
            left += [(f"{path}[{at}]", *pair) for at, pair in reversed(pairs)]
        elif not _same(old, new, tolerance):
            return f"{path or 'it'} is {_short(new)}, was {_short(old)}"
    return None


def _join(path: str, name: str) -> str:
    shown = name if name.isidentifier() else json.dumps(name)[:SHOWN]
    return f"{path}.{shown}" if path else shown


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _same(old: Any, new: Any, tolerance: float) -> bool:
    if _number(old) and _number(new):
        fraction = isinstance(old, float) or isinstance(new, float)
        return bool(old == new or (fraction and abs(old - new) <= tolerance))
    return type(old) is type(new) and bool(old == new)


def _number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) <= MAX_NUMBER)
