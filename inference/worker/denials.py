"""Says what the sandbox denied, from the exception that it caused in a model's code.

A library that swallows the error, as OpenCV's `imread` does, leaves nothing to name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from inference.wire.features import ON
from inference.worker.sandbox import MAX_THREADS

LONGEST_PATH = 120
"""Characters of a path in a sentence, which a client reads; its end tells most."""

STARTS_PROCESSES = ("subprocess", "multiprocessing", "concurrent")


def denial(error: BaseException, features: Mapping[str, str]) -> str | None:
    """Name what the sandbox denied, if an exception or one that it was raised from says so; else None.

    Args:
        features: what `sandbox.seal` returned; empty before it was called.
    """
    for exc in _causes(error):
        if isinstance(exc, OSError) and exc.errno == errno.EACCES and _active(features, "landlock"):
            if sentence := _about_file(exc.filename) if exc.filename is not None else _about_call(exc):
                return sentence
        elif isinstance(exc, OSError) and exc.errno == errno.EPERM and _active(features, "seccomp"):
            return _about_call(exc)
        elif isinstance(exc, FileNotFoundError) and "No usable temporary directory" in str(exc):
            if _active(features, "landlock"):  # `tempfile` has tried them all
                return (
                    "the sandbox denied writing a temporary file: a worker writes no files once it has loaded"
                )
        elif type(exc).__name__ == "gaierror" and _active(features, "seccomp"):
            return "the sandbox denied looking up a host's name: a worker has no network once it has loaded"
        elif isinstance(exc, RuntimeError) and str(exc) == "can't start new thread":
            return f"no more threads can be started: a worker has {MAX_THREADS} at most, start them in `load`"
    return None


def _active(features: Mapping[str, str], name: str) -> bool:
    state = features.get(name, "")
    return state == ON or state.startswith("partial")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    exc: BaseException | None = error
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__


def _about_file(filename: Any) -> str | None:
    """Tell reading from writing by trying to read: the error itself does not say. None: it is not the sandbox."""
    path = os.fsdecode(filename) if isinstance(filename, str | bytes) else None
    if path is None:
        return None
    shown = _shown(path)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        # faccessat(2) does not ask Landlock: what it denies is denied to this user anyway
        permitted = os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
        return f"the sandbox denied opening {shown}; read it in `load`" if permitted else None
    except (OSError, ValueError):  # it is not there, so it was to be made
        pass
    return f"the sandbox denied writing {shown}: a worker writes no files once it has loaded"


def _shown(path: str) -> str:
    return path if len(path) <= LONGEST_PATH else f"...{path[-LONGEST_PATH:]}"


def _about_call(exc: OSError) -> str:
    frames = list(_frames(exc))
    modules = {str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames[-3:]}
    if modules & set(STARTS_PROCESSES):
        return "the sandbox denied starting a process: a worker starts none once it has loaded"
    if "socket" in modules:
        return "the sandbox denied opening a socket: a worker has no network once it has loaded"
    if isinstance(exc.filename, str):
        return f"the sandbox denied changing {_shown(exc.filename)}: a worker changes no files once it has loaded"
    where = ""
    if frames:
        frame, line = frames[-1]
        where = f" in {os.path.basename(frame.f_code.co_filename)}, line {line}"  # noqa: PTH119  # see sandbox.py
    return f"the sandbox denied a system call{where}: a worker only computes once it has loaded"


def _frames(exc: BaseException) -> Iterator[tuple[FrameType, int]]:
    tb = exc.__traceback__
    while tb is not None:
        yield tb.tb_frame, tb.tb_lineno
        tb = tb.tb_next
