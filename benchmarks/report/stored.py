"""Results as JSON, and back without a loss. What does not fit is refused with a sentence that says where.

Of each figure the document has what was measured and the verdict, too, so that a program need not know how they
are made; they must agree with the rounds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from benchmarks.report.results import Figure, Results, Section

MADE = "measured", "verdict"
"""What a figure's document has besides its fields."""


class Unreadable(ValueError):
    """A document that holds no results."""


def as_json(results: Results) -> str:
    """Write results, with a line for each value, so that two runs can be compared line by line.

    Raises:
        ValueError: a number is not finite, which JSON cannot hold.
    """
    document = asdict(results)
    for section, written in zip(results.sections, document["sections"], strict=True):
        for figure, row in zip(section.figures, written["figures"], strict=True):
            row |= {name: getattr(figure, name) for name in MADE}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def read_json(text: str) -> Results:
    """Read what `as_json` wrote.

    Raises:
        Unreadable: it is something else; the message says what, and where.
    """
    try:
        document = json.loads(text)
    except ValueError as exc:
        raise Unreadable(f"this is no JSON: {exc}") from exc
    found: Results = _read(Results, document, "results")
    return found


def merge(several: Sequence[Results]) -> Results:
    """Put several runs into one: their sections one after the other; facts that differ, with all their values."""
    facts: dict[str, str | float] = {}
    for name in dict.fromkeys(name for results in several for name in results.facts):
        values = list(dict.fromkeys(results.facts[name] for results in several if name in results.facts))
        facts[name] = values[0] if len(values) == 1 else " and ".join(map(str, values))
    sections: list[Section] = [section for results in several for section in results.sections]
    return Results(facts, tuple(sections))


def _read(kind: Any, value: Any, place: str) -> Any:
    """Read one value as what a type hint says."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _object(kind, value, place)
    if origin is UnionType:
        return _read(_fitting(inner, value), value, place)
    if origin is tuple and isinstance(value, list):
        return _tuple(inner, value, place)
    if origin is dict and isinstance(value, dict):
        return {name: _read(inner[1], each, f"{place}.{name}") for name, each in value.items()}
    if not _plain(kind, value):
        raise Unreadable(f"{place} is {json.dumps(value)[:60]}, and shall be {_named(kind)}")
    return value


def _plain(kind: Any, value: Any) -> bool:
    """Whether a value is a text, a number, or what else holds no others, as a type hint says."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        # bool is an int to Python
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return kind in (str, bool, NoneType) and isinstance(value, kind)


def _fitting(kinds: Sequence[Any], value: Any) -> Any:
    """Choose of several types the one to read a value as."""
    if isinstance(value, str) and str in kinds:
        return str
    if value is None and NoneType in kinds:
        return NoneType
    return next(kind for kind in kinds if kind not in (str, NoneType))


def _tuple(kinds: tuple[Any, ...], value: list[Any], place: str) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise Unreadable(f"{place} has {len(value)} values, and shall have {len(kinds)}")
    return tuple(_read(kinds[number], each, f"{place}[{number}]") for number, each in enumerate(value))


def _object(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise Unreadable(f"{place} is {json.dumps(value)[:60]}, and shall be an object")
    own = {name: each for name, each in value.items() if kind is not Figure or name not in MADE}
    hints = get_type_hints(kind)
    if unknown := sorted(own.keys() - hints.keys()):
        raise Unreadable(f"{place} has {unknown[0]!r}, which nothing has that is written here")
    for field in fields(kind):
        if field.name not in own and field.default is MISSING and field.default_factory is MISSING:
            raise Unreadable(f"{place} lacks {field.name!r}")
    made = kind(**{name: _read(hints[name], each, f"{place}.{name}") for name, each in own.items()})
    if isinstance(made, Figure):
        _agree(made, value, place)
    return made


def _agree(figure: Figure, value: Mapping[str, Any], place: str) -> None:
    """Refuse a figure without rounds, or one whose measured value or verdict is not that of its rounds."""
    if not figure.rounds:
        raise Unreadable(f"{place}.rounds is empty")
    for name in MADE:
        if name in value and value[name] != getattr(figure, name):
            raise Unreadable(
                f"{place}.{name} is {json.dumps(value[name])}, and its rounds make {getattr(figure, name)}"
            )


def _named(kind: Any) -> str:
    """Name a type in words."""
    words = {str: "a text", float: "a finite number", bool: "true or false", NoneType: "null"}
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return words.get(kind) or ("a list" if get_origin(kind) is tuple else "an object")
