"""Reads JSON as RFC 8259 has it; Python's own reader also takes NaN and Infinity, which no other understands."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)


def read(text: str) -> Any:
    """Read a text.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested more deeply than Python can read.
    """
    return _decoder.decode(text)
