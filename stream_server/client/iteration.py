"""Reads any iterable without blocking the event loop, whatever its items are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import PurePath
from queue import SimpleQueue
from typing import Any

GRACE_S = 1.0
"""Longest wait for a running `next` at the end: enough to decode a frame; a read of a keyboard may never return."""

BATCH_DIMENSIONS = 4
"""Of a numpy array that holds several pictures; one picture would be sent row by row."""

_DONE: Any = object()


def check_iterable(items: object) -> None:
    """Refuse one item where several are expected: a str would be sent letter by letter.

    Raises:
        TypeError: it is one item, or cannot be iterated over.
    """
    one = isinstance(items, (str, bytes, bytearray, memoryview, PurePath, Mapping))
    one = one or getattr(items, "ndim", BATCH_DIMENSIONS) < BATCH_DIMENSIONS
    if one or not (isinstance(items, (Iterable, AsyncIterable)) or hasattr(items, "__getitem__")):
        raise TypeError(
            f"process() takes an iterable of items, such as a list, not one {type(items).__name__}; "
            "write process([item]), or send(item)"
        )


async def each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any]:
    """Yield the items one by one, read only when asked for, and close a generator at the end.

    A list or tuple is read in place. Any other synchronous iterable may wait for a disk, a camera or a person,
    so a thread of its own reads it.
    """
    if isinstance(items, AsyncIterable):
        source = aiter(items)
        try:
            async for item in source:
                yield item
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()
    elif isinstance(items, (list, tuple)):
        for item in items:
            yield item
    else:
        iterator = iter(items)
        thread = _Thread()
        try:
            while (
                item := await asyncio.wrap_future(thread.call(lambda: next(iterator, _DONE)))
            ) is not _DONE:
                yield item
        finally:
            await thread.finish(getattr(iterator, "close", None))


class _Thread:
    """Calls functions one after the other, in a daemon thread: a call that never returns must not block the exit.

    The thread pools of the standard library wait for their threads at exit.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="stream-items", daemon=True).start()

    def call(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, function))
        return future

    async def finish(self, last: Callable[[], Any] | None) -> None:
        """Make a last call, after the one that runs; leave it to the thread if that takes too long."""
        closed = self.call(last or (lambda: None))
        self._calls.put(None)
        done, _ = await asyncio.wait({asyncio.wrap_future(closed)}, timeout=GRACE_S)
        for future in done:
            future.result()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as exc:  # noqa: BLE001  # the caller gets it
                    future.set_exception(exc)
