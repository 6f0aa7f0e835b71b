"""Decodes JSON into typed values, and explains which key is wrong and what it may be.

The only place that interprets the errors of msgspec.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import msgspec
from msgspec import inspect

T = TypeVar("T")

_FOUND = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<field>.*)`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a value does not fit its type.

    Attributes:
        kind: a field that is not there, one that must not be there, or one with a wrong value.
        key: its path, such as ``limits.max_streams`` or ``models[0]``; empty for the value as a whole.
        allowed: what the value may be, such as "a whole number from 1 to 64"; empty if that is not known.
    """

    kind: Literal["missing", "unknown", "invalid"]
    key: str
    allowed: str = ""


def explain(error: msgspec.ValidationError, wanted: Any) -> Problem:
    """Say what an error of msgspec means.

    Args:
        wanted: the type that the value was decoded into.
    """
    found = _FOUND.fullmatch(str(error))
    what, path = (found["what"], found["path"] or "") if found else (str(error), "")
    if field := _FIELD.fullmatch(what):
        kind: Literal["missing", "unknown"] = "missing" if field["what"].startswith("missing") else "unknown"
        return Problem(kind, f"{path}.{field['field']}" if path else field["field"])
    types: list[inspect.Type] = list(_flat(inspect.type_info(wanted)))
    for step in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        types = [inner for one in types for inner in _inside(one, step)]
    return Problem("invalid", path, " or ".join(dict.fromkeys(filter(None, map(describe, types)))))


def _flat(one: inspect.Type) -> Iterator[inspect.Type]:
    match one:
        case inspect.UnionType(types):
            for each in types:
                yield from _flat(each)
        case inspect.NoneType():
            pass
        case _:
            yield one


def _inside(one: inspect.Type, step: str) -> Iterator[inspect.Type]:
    match one:
        case inspect.Metadata(inner):
            yield from _inside(inner, step)
        case inspect.StructType(fields=fields) | inspect.DataclassType(fields=fields):
            for field in fields:
                if field.encode_name == step:
                    yield from _flat(field.type)
        case inspect.ListType(item) | inspect.VarTupleType(item):
            yield from _flat(item)
        case inspect.DictType(_, value):
            yield from _flat(value)


def allowed(cls: type[msgspec.Struct], name: str) -> str:
    """Say what a field of a struct allows."""
    types = _inside(inspect.type_info(cls), name)
    return " or ".join(dict.fromkeys(filter(None, map(describe, types))))


def describe(one: inspect.Type) -> str:
    """Say what a type allows; a hint that stands in its metadata follows in brackets."""
    text = ""
    match one:
        case inspect.Metadata(inner, extra_json_schema=extra):
            hint = (extra or {}).get("description")
            text = f"{describe(inner)} ({hint})" if hint else describe(inner)
        case inspect.BoolType():
            text = "true or false"
        case inspect.IntType():
            text = "a whole number" + _range(one)
        case inspect.FloatType():
            text = "a number" + _range(one)
        case inspect.StrType(min_length, max_length):
            text = "a string"
            if max_length is not None:
                text += f" of {min_length or 0} to {max_length} characters"
        case inspect.LiteralType(values):
            *most, last = map(str, values)
            text = f"{', '.join(most)} or {last}" if most else last
        case inspect.VarTupleType(inspect.StrType()) | inspect.ListType(inspect.StrType()):
            text = "a list of strings"
        case inspect.VarTupleType() | inspect.ListType():
            text = "a list"
    return text


def _range(one: inspect.IntType | inspect.FloatType) -> str:
    if one.ge is not None and one.le is not None:
        return f" from {_plain(one.ge)} to {_plain(one.le)}"
    above = f" above {_plain(one.gt)}" if one.gt is not None else ""
    if one.ge is not None:
        above = f" of at least {_plain(one.ge)}"
    return above + (f", at most {_plain(one.le)}" if one.le is not None else "")


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.10g}"


def decode(decoder: msgspec.json.Decoder[T], text: str | bytes) -> T:
    r"""Decode JSON.

    msgspec refuses half a surrogate pair (``"\ud800"``), which RFC 8259 section 8.2 allows and Python programs
    send: such a text is read again by Python's own reader.

    Raises:
        msgspec.ValidationError: it is JSON, but not of the decoder's type.
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if isinstance(text, str) and "\\ud" in text.lower():
            return _decode_slowly(decoder, text)
        raise


def _decode_slowly(decoder: msgspec.json.Decoder[T], text: str) -> T:
    value = json.loads(text, parse_constant=_refuse)
    if isinstance(value, dict):
        for raw in _raw_fields(decoder.type):
            if raw in value:
                value[raw] = msgspec.Raw(json.dumps(value[raw], allow_nan=False).encode())
    converted: T = msgspec.convert(value, decoder.type)
    return converted


def _raw_fields(wanted: Any) -> set[str]:
    structs = [one for one in _flat(inspect.type_info(wanted)) if isinstance(one, inspect.StructType)]
    return {f.encode_name for one in structs for f in one.fields if isinstance(f.type, inspect.RawType)}


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def words(literal: Any) -> str:
    """Write the values of a `Literal` as a sentence has them: ``latest or queue``."""
    return describe(inspect.LiteralType(get_args(literal)))
