"""The synchronous client for scripts and notebooks: the asynchronous one on a loop in a thread, nothing more.

with connect_sync("http://127.0.0.1:8080", model="spam") as stream:
    for answer in stream.process(texts):
        ...
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from inference.model import Policy
from stream_server.client.stream import Backoff, Stream, connect
from stream_server.errors import StreamClosed
from stream_server.protocol.client_side import Answer, End, Ready, Statistics

__all__ = ["SyncStream", "connect_sync"]

T = TypeVar("T")


class SyncStream:
    """A `client.Stream` for synchronous code; its methods are documented there.

    Any thread may call them. Ctrl-C interrupts them, and leaving the `with` block then closes the stream.
    """

    def __init__(self, stream: Stream, loop: _Loop) -> None:
        self._stream = stream
        self._loop = loop

    @property
    def ready(self) -> Ready:
        """The server's description of this stream."""
        return self._stream.ready

    @property
    def ended(self) -> End | None:
        """The server's count of the stream, once `end` came."""
        return self._stream.ended

    @property
    def statistics(self) -> Statistics:
        """A snapshot of what this client counts."""

        async def snapshot() -> Statistics:  # on the loop, where nothing is half counted
            return self._stream.statistics

        return self._loop.do(snapshot()) if self._loop.runs else self._stream.statistics

    def send(self, item: Any, id: str | None = None, max_age_ms: int | None = None) -> int:  # noqa: A002
        """Send an item and return its `seq`; see `client.Stream.send`."""
        return self._loop.do(self._stream.send(item, id, max_age_ms))

    def room(self) -> None:
        """Wait until fewer than a window of items is unanswered; see `client.Stream.room`."""
        self._loop.do(self._stream.room())

    def end(self) -> End | None:
        """End the stream and wait for the server's count; see `client.Stream.end`."""
        return self._loop.do(self._stream.end())

    def __iter__(self) -> Iterator[Answer]:
        """Read answers until the server's `end`."""
        while (answer := self._loop.do(_next(self._stream))) is not None:
            yield answer

    def process(self, items: Iterable[Any]) -> Generator[Answer]:
        """Keep the window full and yield one answer for each item, in order; see `client.Stream.process`.

        Args:
            items: read in another thread, unless they are a list or tuple: waiting for an item delays no answer.
        """
        answers = self._stream.process(items)
        try:
            while (answer := self._loop.do(_next(answers))) is not None:
                yield answer
        except GeneratorExit:  # broken off; any other exception came from `answers`, and closed it
            if self._loop.runs:
                self._loop.do(_close(answers))
            raise


async def _next(answers: Stream | AsyncGenerator[Answer]) -> Answer | None:
    return await anext(answers, None)


async def _close(answers: AsyncGenerator[Answer]) -> None:
    await answers.aclose()


class _Loop:
    """An event loop in a thread: a notebook's own thread runs one already."""

    def __enter__(self) -> _Loop:
        started: Future[asyncio.AbstractEventLoop] = Future()

        async def main() -> None:
            self._stop = asyncio.Event()
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()

        # a daemon: a program that never leaves its `with` block can still exit
        self._thread = threading.Thread(target=lambda: asyncio.run(main()), name="stream-client", daemon=True)
        self._thread.start()
        self._loop = started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def runs(self) -> bool:
        return not self._loop.is_closed()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it there, and wait for it here."""
        if not self.runs:
            work.close()
            raise StreamClosed("this stream was closed; connect again")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # does something after Ctrl-C only


@contextmanager
def connect_sync(  # noqa: PLR0913  # as `connect` has them
    url: str,
    model: str = "faces",
    *,
    version: str | None = None,
    policy: Policy | None = None,
    window: int | None = None,
    max_age_ms: int | None = None,
    weight: float | None = None,
    reconnect: Backoff | bool = False,
) -> Iterator[SyncStream]:
    """Open a stream to a model; see `client.connect` for the arguments and the errors."""
    with _Loop() as loop:
        opening = connect(
            url,
            model,
            version=version,
            policy=policy,
            window=window,
            max_age_ms=max_age_ms,
            weight=weight,
            reconnect=reconnect,
        )
        stream = loop.do(opening.__aenter__())
        try:
            yield SyncStream(stream, loop)
        finally:
            loop.do(opening.__aexit__(None, None, None))
