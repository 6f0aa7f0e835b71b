"""An aiohttp websocket and its session: it reads, writes and pings, and decides nothing.

Reading and writing are a task each. Only the writer sends, so what a slow client has not read piles up in
the session, which then wants no input, and nowhere else; and every send has the same limit of time. (aiohttp alone
answers a close, from within the reading, and nothing is sent after it.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine

from aiohttp import WSMsgType, web

from inference.engine import Engine
from inference.intake import StreamRequest
from inference.items import Outcome
from stream_server.errors import Broken, Idle, StreamServerError, error_info
from stream_server.protocol.server_side import write_error
from stream_server.server.config import Limits, Timeouts
from stream_server.server.engine_errors import as_stream_errors
from stream_server.server.paced_reader import PacedReader
from stream_server.server.session import NewItem, Session

log = logging.getLogger(__name__)

READ_SIZE = 64 << 10
"""What one read takes from a client's socket: a frame of 640x480. asyncio's own 256 KiB are over malloc's
threshold for mapping memory, so that every read would cost three system calls and a dozen page faults more: with
frames of 42 KB that was a third of the server's time."""


LONG_TEXT = 1024
"""Characters from which the time is taken that a text takes to parse: a shorter one takes less than 0.1 ms."""

READ_AT_ONCE = 16
"""Messages that are read before the loop sees to others, if so many have come."""


class Connection:
    """One stream's websocket, after its handshake; the owner of the engine's stream.

    Args:
        transport: what carries `ws`.
        reader: what brings its frames.
        request: what the client asked for.

    Raises:
        StreamServerError: the engine does not open such a stream.
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        engine: Engine,
        request: StreamRequest,
        limits: Limits,
        timeouts: Timeouts,
        reader: PacedReader,
    ) -> None:
        self._ws = ws
        self._transport = transport
        if hasattr(transport, "max_size"):  # asyncio's; other loops read into a buffer that they keep
            transport.max_size = READ_SIZE
        with as_stream_errors():
            stream = self._stream = engine.open(request, self)
        self._session = Session(stream, limits, time.monotonic(), reader.allowance)
        reader.on_flood = self._flooded
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._last_receive = time.monotonic()
        self._pinged = 0.0
        self._ping_due = False
        self._pong: bytes | None = None  # to the newest ping: RFC 6455 section 5.5.3 lets it stand for all
        self._sending_since: float | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._client_left = False
        self._outgoing = asyncio.Event()  # the writer has something to do
        self._may_read = asyncio.Event()  # the session may want input again

    async def run(self) -> None:
        """Serve the stream until either side ends it."""
        session, stream = self._session, self._stream
        self._outgoing.set()
        self._schedule_heartbeat()
        reader = asyncio.create_task(self._read(), name=f"read-s{stream.number}")
        try:
            await self._write()
        except (TimeoutError, ConnectionError):
            self.abort()
        finally:
            self._heartbeat.cancel()
            if self._write_timer:
                self._write_timer.cancel()
            stream.close()
            # with nobody in receive(), closing reads on until the client's close: to close a socket with
            # unread bytes in it would reset the connection, and the client might never read why
            reader.cancel()
            await asyncio.wait([reader])
        if session.close_code is not None:
            await close(self._ws, self._transport, session.close_code, self._timeouts.close_s)
        if error := self._ws.exception():
            # its traceback holds the websocket that holds it: 24 KiB that only a full collection would free
            error.__traceback__ = error.__context__ = None
        tally = stream.tally()
        name, counts = f"s{stream.number}", (tally.received, tally.results)
        log.info("stream %s to %s: %d items, %d results", name, stream.model, *counts)

    def deliver(self, outcome: Outcome) -> None:
        """Take an item's outcome from the engine."""
        self._session.complete(outcome, time.monotonic())
        self._outgoing.set()

    def fail(self, error: Exception) -> None:
        """End the conversation: an outcome could not be delivered, so that answers would be missing."""
        self._session.fail(Broken())
        self._outgoing.set()

    def drain(self, grace_ms: int, retry_after_ms: int) -> None:
        """Tell the client that the server is shutting down."""
        self._session.drain(grace_ms, retry_after_ms)
        self._outgoing.set()

    def abort(self) -> None:
        """Drop the connection at once: a transport's `close` waits for ever for a client that does not read."""
        self._transport.abort()

    async def _read(self) -> None:
        try:
            read = 0
            while await self._read_one():
                read += 1
                if read % READ_AT_ONCE == 0:  # what has come already is received without waiting
                    await asyncio.sleep(0)
        except Exception:  # a defect of ours: this stream ends with 1011, the others continue
            log.exception("reading from a stream failed")
            self._session.fail(Broken())
        self._client_left = True
        self._outgoing.set()

    async def _read_one(self) -> bool:
        """Receive one message and pass it on; return whether the client is still connected."""
        session = self._session
        while not (session.wants_input and self._stream.may_offer):
            self._may_read.clear()
            await self._may_read.wait()
            self._last_receive = time.monotonic()  # nobody reads its pongs meanwhile; our own pings wake this
        if pause := session.pause(self._last_receive):
            await asyncio.sleep(pause)
        message = await self._ws.receive()
        self._last_receive = time.monotonic()
        if message.type is WSMsgType.BINARY or message.type is WSMsgType.TEXT:
            item = self._parse(message.data)
            if item is not None:
                self._stream.offer(item.payload, max_age_ms=item.max_age_ms, refusal=item.refusal)
            if session.has_outgoing:
                self._outgoing.set()
        elif message.type is WSMsgType.PING:
            self._pong = message.data
            self._outgoing.set()
        elif message.type is not WSMsgType.PONG:
            return False  # it closed, vanished, or broke the websocket protocol, which aiohttp answers
        return True

    def _parse(self, message: str | bytes) -> NewItem | None:
        session, now = self._session, self._last_receive
        if isinstance(message, bytes) or len(message) < LONG_TEXT:
            return session.receive(message, now)
        before = time.thread_time()
        item = session.receive(message, now)
        session.spend_parsing(time.thread_time() - before, now)
        return item

    def _flooded(self) -> None:
        self._session.fail_flooding()
        self._outgoing.set()

    async def _write(self) -> None:
        session = self._session
        while not self._client_left:
            await self._outgoing.wait()
            self._outgoing.clear()
            for text in session.take_outgoing():
                await self._within_time(self._ws.send_str(text))
            if self._pong is not None:
                data, self._pong = self._pong, None
                await self._within_time(self._ws.pong(data))
            if self._ping_due:
                self._ping_due = False
                await self._within_time(self._ws.ping())
            if session.close_code is not None and not session.has_outgoing:
                return
            self._may_read.set()

    async def _within_time(self, sending: Coroutine[None, None, None]) -> None:
        """Send, and drop the connection if the client does not read for too long.

        One timer covers every send that starts while it runs: most of them complete at once.
        """
        self._sending_since = time.monotonic()
        if self._write_timer is None:
            self._write_timer = self._loop.call_later(self._timeouts.write_s, self._on_write_timeout)
        await sending
        self._sending_since = None

    def _on_write_timeout(self) -> None:
        self._write_timer = None
        if self._sending_since is not None:
            left = self._sending_since + self._timeouts.write_s - time.monotonic()
            if left > 0:
                self._write_timer = self._loop.call_later(left, self._on_write_timeout)
            else:
                self.abort()

    def _schedule_heartbeat(self) -> None:
        half = self._timeouts.heartbeat_s / 2
        self._heartbeat_due = time.monotonic() + half
        self._heartbeat = self._loop.call_later(half, self._beat)

    def _beat(self) -> None:
        half = self._timeouts.heartbeat_s / 2
        now = time.monotonic()
        if now - self._heartbeat_due > half:
            self._last_receive = now  # the loop or machine was stopped: what clients sent is still unread
        self._schedule_heartbeat()
        silent = now - self._last_receive
        if silent < 1.5 * half:  # due at two heartbeats, and no timer is exact
            return
        if self._pinged <= self._last_receive:
            self._pinged = now
            self._ping_due = True
        else:
            self._session.fail(Idle(f"nothing heard for {silent:.0f} s, not even a pong"))
        self._outgoing.set()


class Connections:
    """The streams that are open, and whether more are welcome.

    Attributes:
        draining: the server is shutting down.
    """

    def __init__(self) -> None:
        self._open: dict[Connection, asyncio.Future[None]] = {}
        self._principals: Counter[str] = Counter()
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    def of_principal(self, principal: str) -> int:
        """How many were opened on behalf of one principal."""
        return self._principals[principal]

    async def run(self, connection: Connection, principal: str) -> None:
        """Serve one stream, as one of these."""
        closed = self._open[connection] = asyncio.get_running_loop().create_future()
        self._principals[principal] += 1
        try:
            await connection.run()
        finally:
            del self._open[connection]
            self._principals[principal] -= 1
            if not self._principals[principal]:
                del self._principals[principal]
            closed.set_result(None)

    def drain(self, grace_ms: int, retry_after_ms: int) -> None:
        """Tell every client that the server is shutting down; a stream ends when its items are answered."""
        self.draining = True
        for connection in self._open:
            connection.drain(grace_ms, retry_after_ms)

    async def closed(self, seconds: float) -> bool:
        """Wait until no stream is open, for at most so many seconds; return whether none is."""
        if self._open:
            await asyncio.wait(self._open.values(), timeout=seconds)
        return not self._open

    def abort(self) -> None:
        """Drop every connection."""
        for connection in self._open:
            connection.abort()


async def close(ws: web.WebSocketResponse, transport: asyncio.Transport, code: int, close_s: float) -> None:
    """Close with a handshake, then abort: aiohttp's close has no time limit on a client that does not read."""
    try:
        async with asyncio.timeout(close_s):
            await ws.close(code=code)
    except (TimeoutError, ConnectionError):
        transport.abort()


async def refuse(
    ws: web.WebSocketResponse, transport: asyncio.Transport, error: StreamServerError, timeouts: Timeouts
) -> None:
    """Send why the stream is refused, and close."""
    try:
        async with asyncio.timeout(timeouts.write_s):
            await ws.send_str(write_error(error))
    except (TimeoutError, ConnectionError):
        transport.abort()
    await close(ws, transport, error_info(error).close or 1011, timeouts.close_s)
