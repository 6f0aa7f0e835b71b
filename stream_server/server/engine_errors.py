"""Translates what the engine raises into the errors of the wire. It catches nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inference.intake import ModelUnavailableError, OverloadedError, UnknownModelError
from stream_server.errors import Overloaded, Unavailable, UnknownModel


@contextmanager
def as_stream_errors() -> Iterator[None]:
    """Raise the wire's error in the place of the engine's."""
    try:
        yield
    except UnknownModelError as exc:
        raise UnknownModel(str(exc)) from exc
    except ModelUnavailableError as exc:
        raise Unavailable(str(exc)) from exc
    except OverloadedError as exc:
        raise Overloaded(str(exc)) from exc
