"""The asynchronous client: one websocket to one model, items out, answers back. It never imports the server.

async with connect("http://127.0.0.1:8080", model="faces") as stream:
    async for answer in stream.process(frames):
        ...
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed

from inference.model import Policy
from inference.pictures import is_bytes, to_bytes
from stream_server.client.connecting import Backoff, open_connection, receive, reopen_connection
from stream_server.client.iteration import check_iterable, each
from stream_server.client.keepalive import WatchedConnection
from stream_server.errors import ConnectionLost, Refused, StreamClosed
from stream_server.protocol.client_side import (
    END,
    Answer,
    Dropped,
    End,
    Error,
    Goaway,
    PendingItems,
    Ready,
    Result,
    Statistics,
    check_options,
    encode_item,
    stream_address,
    write_meta,
)
from stream_server.protocol.server_side import Meta, StreamOptions

__all__ = ["Backoff", "Stream", "connect"]

log = logging.getLogger(__name__)

MAX_HELD = 1024
"""Most items of a stream unanswered, or answered and unread: half a minute of a camera, about 1 MB of faces."""


class Stream:
    """One client's flow of items to one model; `connect` makes it.

    Every item sent gets exactly one answer, in order. Unread answers are kept: at most `MAX_HELD`,
    unanswered items included; beyond that `send` waits. So the socket is always read, and a program may pause for
    minutes, as long as it does not block the event loop.

    A slow server is kept while bytes move in either direction; after 60 s without one the connection is lost.

    Attributes:
        ready: the server's description of this stream; after a reconnect, of the new one.
        ended: the server's count of the stream once `end` came; with several connections, of the last.
    """

    def __init__(
        self, address: str, backoff: Backoff | None, opened: WatchedConnection, ready: Ready
    ) -> None:
        self.ready = ready
        self.ended: End | None = None
        self._address = address
        self._backoff = backoff
        self._last_connection = opened  # the last connection
        self._connection: WatchedConnection | None = opened  # the one to send on
        self._feeder: asyncio.Task[None] | None = None
        self._pending = PendingItems()
        self._unread: deque[Answer] = deque()
        self._changed = asyncio.Event()
        self._sending = asyncio.Lock()  # keeps a `meta` beside its item, and senders in line
        self._meta_pending = False
        self._abandoned = 0  # discard answers up to this seq
        self._ending = False
        self._leaving = False
        self._warned = False
        self._retry_after_s = 0.0
        self._reader = self._start(self._run())

    @property
    def statistics(self) -> Statistics:
        """A snapshot of what this client counts, over all its connections."""
        return self._pending.statistics

    async def send(self, item: Any, id: str | None = None, max_age_ms: int | None = None) -> int:  # noqa: A002
        """Send an item and return its `seq`, from 1.

        On a `queue` stream it waits while the window is full. On a `latest` stream it does not, since the server
        drops the older item; call `room` first to send only what gets a result.

        Args:
            item: bytes or a Path for an image or bytes model; for an image model also a numpy array (uint8, height
                x width x 3 in blue green red as OpenCV has it, or height x width for grey) or a PIL image, which
                are encoded as JPEG in a thread; str for a text model; for a data model what JSON can hold.
            id: your own name for it, which its answer carries.
            max_age_ms: drop it as expired if it waited longer, in milliseconds.

        Raises:
            TypeError, ValueError: not what the model takes, or what JSON cannot hold.
            OSError: a file cannot be read.
            ImportError: an array, and OpenCV is not installed.
            TooLarge: over the server's limit. Nothing was sent.
            StreamClosed: after `end`.
            ClientError: the stream is over, for the reason given.
        """
        message: str | bytes | None = None
        if is_bytes(item) or self.ready.input in ("text", "data"):
            message = encode_item(item, self.ready, max_age_ms)
        async with self._sending:
            if message is None:  # in here, so that none overtakes it
                ready = self.ready
                read = await asyncio.to_thread(to_bytes, item, ready.input, ready.model, ready.max_item_bytes)
                message = encode_item(read, ready, max_age_ms)
            while True:
                await self._until(
                    lambda: self._open_for(self.ready.window if self.ready.policy == "queue" else MAX_HELD)
                )
                connection = self._connection
                if self._ending or connection is None:
                    raise StreamClosed("this stream has ended; connect again to send more")
                if await self._described(connection, message, max_age_ms):
                    break
            # from here on the item counts: it is written before `send` first waits, so cancelling splits nothing
            seq = self._pending.send(id)
            try:
                await connection.send(message)
            except ConnectionClosed:
                if self._backoff is None:
                    await self._until(lambda: False)
            return seq

    async def room(self) -> None:
        """Wait until fewer than a window of items is unanswered, so that what is sent now is not superseded.

        With a camera: wait for room, then take the picture, then `send` it.
        """
        await self._until(lambda: self._open_for(self.ready.window))

    async def end(self) -> End | None:
        """End the stream: send `end`, wait for the server's count of the stream, and return it.

        Answers can be read before, meanwhile or after. None if a reconnecting stream lost its server meanwhile.
        """
        async with self._sending:
            await self._until(lambda: self._connection is not None)
            if not self._ending and self._connection is not None:
                self._ending = True
                with suppress(ConnectionClosed):  # the reader sees it too, and knows what it means
                    await self._connection.send(END)
        await self._until(lambda: self.ended is not None)
        return self.ended

    def __aiter__(self) -> AsyncIterator[Answer]:
        """Read answers until the server's `end`."""
        return self

    async def __anext__(self) -> Answer:
        if self._feeder is not None:
            raise RuntimeError("process() reads this stream's answers; read them from there")
        await self._until(lambda: bool(self._unread))
        if not self._unread:
            raise StopAsyncIteration
        return self._take()

    async def process(self, items: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Answer]:
        """Send items as fast as the window allows, and yield one answer for each, in order.

        A list or tuple is read in place. Any other synchronous iterable may wait for a disk, a camera or a person:
        it is read in a thread of its own, an item at a time, when there is room for one. Breaking off, or another
        `process`, closes the source too and discards the answers to what was already sent.

        Args:
            items: each of them what `send` takes.

        Raises:
            TypeError: `items` is one item, such as a str, bytes or a path.
            RuntimeError: answers to what was sent before are unread, or another `process` took over.
            Exception: what `items` raised, after the answers to what was sent; and see `send`.
        """
        check_iterable(items)
        if self._feeder is not None:
            await self._abandon(self._feeder)
        elif self._unread or (self._pending.unanswered and self._pending.sent > self._abandoned):
            raise RuntimeError("read the answers to what was sent before, then process() more")
        feeder = self._feeder = self._start(self._feed(items))

        def happened() -> bool:
            over = feeder.done() and not self._pending.unanswered
            return bool(self._unread) or over or self._feeder is not feeder

        try:
            while True:
                await self._until(happened)
                if self._feeder is not feeder:
                    raise RuntimeError("another process() took this stream over")
                if not self._unread:
                    break
                yield self._take()
            await feeder
        finally:
            if self._feeder is feeder:
                await self._abandon(feeder)

    async def _abandon(self, feeder: asyncio.Task[None]) -> None:
        self._feeder = None
        await _cancel(feeder)
        self._unread.clear()
        self._abandoned = self._pending.sent

    async def _feed(self, items: Iterable[Any] | AsyncIterable[Any]) -> None:
        def room() -> bool:
            # what the caller has not read counts like what is unanswered: never more than a window of it
            return self._open_for(self.ready.window) and len(self._unread) < self.ready.window

        async with aclosing(each(items)) as source:
            await self._until(room)
            async for item in source:
                await self.send(item)
                await self._until(room)

    async def _described(
        self, connection: WatchedConnection, message: str | bytes, max_age_ms: int | None
    ) -> bool:
        """Send the `meta` of a binary item that needs one; False if its connection is gone."""
        if isinstance(message, bytes) and (max_age_ms is not None or self._meta_pending):
            # cancelled while waiting here, this would describe the next item; that one then sends its own
            self._meta_pending = True
            try:
                await connection.send(write_meta(Meta(None, max_age_ms)))
            except ConnectionClosed:
                await self._until(lambda: self._connection is not connection)
                return False
            self._meta_pending = False
        return True

    def _open_for(self, most: int) -> bool:
        """Whether another item may go out while fewer than `most` are unanswered."""
        unanswered = self._pending.unanswered
        room = unanswered < most and unanswered + len(self._unread) < MAX_HELD
        return self._ending or (self._connection is not None and not self._leaving and room)

    def _take(self) -> Answer:
        self._wake()  # there may be room for another item
        return self._unread.popleft()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, happened: Callable[[], bool]) -> None:
        """Wait until something happened or the stream ended; raise what ended it, except `end`."""
        while self.ended is None:
            if self._reader.cancelled():
                raise StreamClosed("this stream was closed; connect again")
            if happened() or (self._reader.done() and self._reader.result() is None):
                break
            await self._changed.wait()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._wake())
        return task

    async def _close(self) -> None:
        await _cancel(self._reader, *([self._feeder] if self._feeder else []))
        await self._last_connection.close()

    async def _run(self) -> None:
        """Read answers until `end`, over as many connections as the backoff allows."""
        while True:
            try:
                return await self._receive(self._last_connection)
            except (ConnectionLost, Refused) as exc:
                lost = exc
            finally:
                self._connection = None
                self._wake()
            if self._backoff is None or (isinstance(lost, Refused) and not lost.retryable):
                raise lost
            self._deliver(self._pending.lose(str(lost)))
            if self._ending:
                return None
            await self._last_connection.close()
            self._last_connection, self.ready = await reopen_connection(
                self._address, self._backoff, lost, self._retry_after_s
            )
            self._connection, self._leaving, self._retry_after_s = self._last_connection, False, 0.0
            self._wake()

    async def _receive(self, connection: WatchedConnection) -> None:
        while True:
            match message := await receive(connection, self._address, lambda: self._pending.unanswered):
                case Result() | Dropped() | Error():
                    self._deliver([self._pending.settle(message)])
                case Goaway() if self._backoff is not None:
                    self._leaving = True
                    self._retry_after_s = message.retry_after_ms / 1000
                case End() if not self._pending.unanswered and (self._ending or self._backoff is None):
                    self.ended = message
                    return
            if self._leaving and not self._ending and not self._pending.unanswered:
                raise ConnectionLost("the server drains, and all was answered")

    def _deliver(self, answers: Iterable[Answer]) -> None:
        self._unread.extend(answer for answer in answers if (answer.seq or 0) > self._abandoned)
        self._wake()
        if len(self._unread) == MAX_HELD and not self._warned:
            self._warned = True
            log.warning("%s: %d answers wait to be read, so `send` waits too", self._address, MAX_HELD)


@asynccontextmanager
async def connect(  # noqa: PLR0913  # an option of the protocol is one here
    url: str,
    model: str = "faces",
    *,
    version: str | None = None,
    policy: Policy | None = None,
    window: int | None = None,
    max_age_ms: int | None = None,
    weight: float | None = None,
    reconnect: Backoff | bool = False,
) -> AsyncIterator[Stream]:
    """Open a stream to a model; leaving the block closes it, with or without `Stream.end` before.

    Args:
        url: the server's base address, http(s):// or ws(s)://.
        model, version: which model answers; without a version the server's current one.
        policy: "latest" or "queue"; by default the model's own.
        window: how many unanswered items to keep in flight, 1 to 64; by default the policy's own.
        max_age_ms: drop items as expired that waited longer, in milliseconds.
        weight: your share of the workers relative to other streams, from 0.01 to what the server allows; it counts
            where there is not enough for all, and by default everybody has 1.
        reconnect: True, or a `Backoff`: open a new connection when one is lost; items unanswered by then get an
            `Error` "connection_lost". The first connection is tried once only: a wrong address is an error at once.

    Raises:
        TypeError, ValueError: an option is of a wrong type or out of range.
        ConfigError: `url` is not an address.
        ConnectFailed: no server there, or it does not speak the protocol.
        Refused: the server refused the stream.
    """
    backoff = Backoff() if reconnect is True else reconnect or None
    options = StreamOptions(policy, window, max_age_ms, weight)
    check_options(options)
    address = stream_address(url, model, version, options)
    stream = Stream(address, backoff, *await open_connection(address))
    try:
        yield stream
    finally:
        await stream._close()


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()  # asyncio then does not log its exception
    await asyncio.wait(tasks)  # not `await task`: that would take our own cancellation for the task's
