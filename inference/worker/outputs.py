"""Checks and encodes what `predict` returned. Each fault is a sentence that says what came and what was expected.

It calls no model. The sentences name types, shapes and lengths, never values: clients read them.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from inference.model import MAX_STATE

Payload: TypeAlias = bytes | memoryview

JSON_STATE, RAW_STATE = b"j", b"b"
"""First byte of an encoded state: what follows is JSON, or the bytes themselves."""

EXPECTED = "return a list with one answer per item"


class Output(NamedTuple):
    """The answer to an item as JSON, and the stream's new state; empty for None and for stateless models."""

    text: bytes
    state: bytes = b""


class BadOutput(Exception):
    """What `predict` returned is not an answer.

    Attributes:
        certain: the model's code is wrong, so that other items would fare no better.
    """

    def __init__(self, message: str, *, certain: bool = True) -> None:
        super().__init__(message)
        self.certain = certain


def answers_of(returned: Any, count: int) -> list[Any]:
    """Take the answers out of what `predict` returned: a list, a tuple or another sequence, or an array.

    A generator is refused, because with some servers `yield` sends one answer in parts.

    Raises:
        BadOutput: it is something else, or has another length.
    """
    if inspect.iscoroutine(returned):
        returned.close()  # else Python warns that it was never awaited
        raise BadOutput("`predict` returned a coroutine; write `def predict`, without `async`")
    if isinstance(returned, str | bytes | bytearray | memoryview) or not (
        isinstance(returned, Sequence) or _is_array(returned)
    ):
        raise BadOutput(f"`predict` returned {kind_of(returned)}; {EXPECTED}")
    if len(returned) != count:
        answers, items = _counted(len(returned), "answer"), _counted(count, "item")
        raise BadOutput(f"`predict` returned {answers} to {items}; {EXPECTED}")
    return list(returned)


def encode_output(answer: Any, *, stateful: bool) -> Output:
    """Encode one answer; for a stateful model a pair of an answer and a state.

    Raises:
        BadOutput: it is not such a pair, JSON cannot hold it, or the state is too large.
    """
    if not stateful:
        return Output(_encode(answer, "answer"))
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        got = kind_of(answer)
        if isinstance(answer, tuple | list):
            got += f" of length {len(answer)}"
        raise BadOutput(f"`predict` of a stateful model answered with {got}; return a pair (answer, state)")
    output, state = answer
    text, encoded = _encode(output, "answer"), encode_state(state)
    if len(encoded) > MAX_STATE:
        words = f"the model's state has {len(encoded):,} bytes; {MAX_STATE:,} is the most"
        raise BadOutput(words, certain=False)
    return Output(text, encoded)


def encode_state(state: Any) -> bytes:
    """Encode a stream's state; empty for None.

    Raises:
        BadOutput: it is neither bytes nor what JSON can hold.
    """
    if state is None:
        return b""
    if isinstance(state, bytes | bytearray | memoryview):
        return RAW_STATE + bytes(state)
    return JSON_STATE + _encode(state, "state")


def read_state(encoded: Payload) -> Any:
    """Decode what `encode_state` gave."""
    if not encoded:
        return None
    if bytes(encoded[:1]) == RAW_STATE:
        return bytes(encoded[1:])
    return json.loads(bytes(encoded[1:]))


def kind_of(value: Any) -> str:
    """Name a value by its type, and an array by its shape and type."""
    if value is None:
        return "None"
    name = type(value).__name__
    if _is_array(value) or (hasattr(value, "shape") and hasattr(value, "dtype")):
        return f"an array of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"an {name}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def plain(value: Any) -> Any:
    """Turn a numpy scalar or array into what JSON holds.

    Raises:
        TypeError: it is neither.
    """
    to_list = getattr(value, "tolist", None)
    if to_list is None or isinstance(value, type | memoryview):
        raise TypeError(f"{kind_of(value)}, which JSON cannot hold")
    return to_list()


_json = json.JSONEncoder(allow_nan=False, default=plain)


def _encode(value: Any, what: str) -> bytes:
    try:
        return _json.encode(value).encode()
    except MemoryError:
        raise
    except RecursionError as exc:
        raise BadOutput(f"the model's {what} is nested too deeply for JSON", certain=False) from exc
    except UnicodeEncodeError as exc:
        raise BadOutput(f"the model's {what} has a text that UTF-8 cannot hold", certain=False) from exc
    except ValueError as exc:  # the encoder has one class for both
        if "Circular" in str(exc):
            raise BadOutput(f"the model's {what} contains itself") from exc
        words = f"the model's {what} holds NaN or infinity, which JSON cannot hold; use None"
        raise BadOutput(words, certain=False) from exc
    except TypeError as exc:  # of `plain`, or of the encoder about a key; both name a type alone
        raise BadOutput(f"the model's {what} holds {_about_key(str(exc))}") from exc
    except Exception as exc:  # `tolist` may raise anything
        words = f"the model's {what} holds what cannot be converted: {type(exc).__name__}"
        raise BadOutput(words, certain=False) from exc


def _about_key(words: str) -> str:
    if words.startswith("keys must be"):
        return (
            f"a dict with a key of type {words.rpartition(', not ')[2]}; JSON has texts and numbers as keys"
        )
    return words


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
