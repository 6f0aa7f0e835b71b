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
from sys import getsizeof
from typing import Literal

from aiohttp import WSMsgType, web

from inference.engine import Engine
from inference.intake import StreamRequest
from inference.items import Outcome
from stream_server.errors import Broken, Idle, StreamServerError, error_info
from stream_server.protocol.server_side import write_error
from stream_server.server.config import Settings, Timeouts
from stream_server.server.engine_errors import as_stream_errors
from stream_server.server.paced_reader import PacedReader
from stream_server.server.progress import MIN_RATE, Progress
from stream_server.server.session import NewItem, Session
from stream_server.server.traffic import Hangups, Traffic

log = logging.getLogger(__name__)

READ_SIZE = 64 << 10
"""What one read takes from a client's socket: a frame of 640x480. asyncio's own 256 KiB are over malloc's
threshold for mapping memory, so that every read would cost three system calls and a dozen page faults more: with
frames of 42 KB that was a third of the server's time."""

WRITE_TICKS = 4
"""How often within ``write_s`` a client that a send waits for is looked at."""


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
        hangups: tells when the client has gone.

    Raises:
        StreamServerError: the engine does not open such a stream.
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        engine: Engine,
        request: StreamRequest,
        settings: Settings,
        reader: PacedReader,
        hangups: Hangups,
    ) -> None:
        self._ws = ws
        self._transport = transport
        if hasattr(transport, "max_size"):  # asyncio's; other loops read into a buffer that they keep
            transport.max_size = READ_SIZE
        with as_stream_errors():
            stream = self._stream = engine.open(request, self)
        self._session = Session(stream, settings.limits, time.monotonic(), reader.allowance)
        reader.on_flood = self._flooded
        self._timeouts = settings.timeouts
        self._loop = asyncio.get_running_loop()
        self._traffic = Traffic(transport, reader.flow, engine.budget, self._on_hangup)
        self._hangups, self._watch = hangups, hangups.watch(transport, self._on_hangup)
        self._last_receive = self._last_send = time.monotonic()
        self._sent = self._acknowledged = self._received = 0  # bytes; the latter two at the last beat
        self._arriving: Progress | None = None  # of a large message, since the first beat that saw it
        self._pinged = 0.0
        self._ping_due = False
        self._pong: bytes | None = None  # to the newest ping: RFC 6455 section 5.5.3 lets it stand for all
        self._sending = False
        self._send_progress: Progress | None = (
            None  # of the send that waits, since the first tick that saw it
        )
        self._outstanding = 0
        self._write_timer: asyncio.TimerHandle | None = None
        self._client_left = self._hung_up = False
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
        except (TimeoutError, ConnectionError) as exc:
            self.abort()
            drop_frames(exc)
        finally:
            self._heartbeat.cancel()
            if self._write_timer:
                self._write_timer.cancel()
            self._hangups.forget(self._watch, self._on_hangup)
            stream.close()
            # with nobody in receive(), closing reads on until the client's close: to close a socket with
            # unread bytes in it would reset the connection, and the client might never read why
            reader.cancel()
            await asyncio.wait([reader])
        self._traffic.close()
        # also when the client has left: aiohttp would close again, and keep the error that it has then
        await close(self._ws, self._transport, session.close_code or 1001, self._timeouts.close_s)
        tally = stream.tally()
        name, counts = f"s{stream.number}", (tally.received, tally.results)
        log.info("stream %s to %s: %d items, %d results", name, stream.model, *counts)

    def deliver(self, outcome: Outcome) -> None:
        """Take an item's outcome from the engine."""
        self._session.complete(outcome, time.monotonic())
        self._stream.hold(self._session.held)
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
        if self._hung_up:
            self.abort()  # a send may wait for it
        self._outgoing.set()

    def _on_hangup(self) -> None:
        """The client has gone: what it has sent is read as far as it may be, for nothing can be answered."""
        self._hung_up = True
        self._may_read.set()
        if self._traffic.paused:
            self.abort()

    async def _read_one(self) -> bool:
        """Receive one message and pass it on; return whether the client is still connected."""
        session = self._session
        while not (session.wants_input and self._stream.may_offer):
            if self._hung_up:
                return False
            self._may_read.clear()
            await self._may_read.wait()
            self._last_receive = time.monotonic()  # nobody reads its pongs meanwhile; our own pings wake this
        if pause := session.pause(self._last_receive):
            await asyncio.sleep(pause)
        self._traffic.receive()
        message = await self._ws.receive()
        self._last_receive = time.monotonic()
        if message.type is WSMsgType.BINARY or message.type is WSMsgType.TEXT:
            self._traffic.taken(len(message.data))
            item = self._parse(message.data)
            if item is not None:
                self._stream.offer(item.payload, max_age_ms=item.max_age_ms, refusal=item.refusal)
            if session.has_outgoing:
                self._outgoing.set()
        elif message.type is WSMsgType.PING or message.type is WSMsgType.PONG:
            self._traffic.taken(len(message.data), control=True)
            if message.type is WSMsgType.PONG:
                return True
            self._pong = message.data
            self._outgoing.set()
        else:
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
            texts = session.take_outgoing()
            left = sum(map(getsizeof, texts))
            texts.reverse()
            while texts:
                left -= getsizeof(texts[-1])
                data = texts.pop().encode()
                # aiohttp and the transport have a copy each
                self._stream.hold(session.held + left + 2 * len(data))
                await self._send(data, WSMsgType.TEXT)
            self._stream.hold(session.held)
            if self._pong is not None:
                data, self._pong = self._pong, None
                await self._send(data, WSMsgType.PONG)
            if self._ping_due:
                self._ping_due = False
                await self._send(b"", WSMsgType.PING)
            if session.close_code is not None and not session.has_outgoing:
                return
            self._may_read.set()

    async def _send(self, data: bytes, kind: Literal[WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG]) -> None:
        """Send, and drop the connection if the client takes nothing for too long, or too little.

        One timer covers every send that starts while it runs: most of them complete at once.
        """
        self._sent += len(data)
        sending = self._ws.send_frame(data, kind)
        del data
        self._sending, self._send_progress = True, None
        if self._write_timer is None:
            self._schedule_write_tick()
        await sending
        self._sending = False
        self._last_send = time.monotonic()

    def _schedule_write_tick(self) -> None:
        self._write_timer = self._loop.call_later(self._timeouts.write_s / WRITE_TICKS, self._on_write_tick)

    def _on_write_tick(self) -> None:
        self._write_timer = None
        if not self._sending:
            return
        before, self._outstanding = self._outstanding, self._traffic.outstanding()
        if self._send_progress is None:
            self._send_progress = Progress(self._timeouts.write_s / WRITE_TICKS, WRITE_TICKS)
        elif self._send_progress.stalled(before - self._outstanding):
            self.abort()
            return
        self._schedule_write_tick()

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
        arrived, acknowledged = self._moved()
        if self._traffic.paused or max(arrived, acknowledged) >= MIN_RATE * half:
            self._last_receive = now  # what is held back has its pongs behind it
        silent = now - self._last_receive
        if self._arrives_too_slowly(arrived):
            self._session.fail(Idle(f"a message came more slowly than {MIN_RATE:,} bytes per second"))
        elif silent >= 1.5 * half and self._pinged > self._last_receive:
            self._session.fail(Idle(f"nothing heard for {silent:.0f} s, not even a pong"))
        # due at two heartbeats, and no timer is exact; either direction, for proxies close what carries nothing
        elif max(silent, now - self._last_send) >= 1.5 * half:
            self._pinged = now
            self._ping_due = True
        else:
            return
        self._outgoing.set()

    def _moved(self) -> tuple[int, int]:
        """Bytes that have come, and that the client has acknowledged, since the last beat."""
        traffic = self._traffic
        received, acknowledged = self._received, self._acknowledged
        self._received, self._acknowledged = traffic.received, self._sent - traffic.outstanding()
        return self._received - received, self._acknowledged - acknowledged

    def _arrives_too_slowly(self, arrived: int) -> bool:
        """Whether a large message comes too slowly; pongs between its parts are no excuse."""
        if not self._traffic.unfinished:
            self._arriving = None
        elif self._arriving is None:
            self._arriving = Progress(self._timeouts.heartbeat_s / 2, 3)
        else:
            return self._arriving.stalled(arrived)
        return False


class Connections:
    """The streams that are open, and whether more are welcome.

    Attributes:
        draining: the server is shutting down.
        hangups: tells when a client has gone.
    """

    def __init__(self) -> None:
        self._open: dict[Connection, asyncio.Future[None]] = {}
        self._principals: Counter[str] = Counter()
        self.draining = False
        self.hangups = Hangups()

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
    drop_frames(ws.exception())


def drop_frames(error: BaseException | None) -> None:
    """Break the reference cycle of an error and a frame that it has passed, for these hold messages of megabytes.

    aiohttp keeps the error in the websocket, or in a future, that a frame of its traceback knows. Only a full
    collection would free them, and that is rare.
    """
    while error is not None:
        before = error.__cause__ or error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None  # without links, no chain is endless
        error = before


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
