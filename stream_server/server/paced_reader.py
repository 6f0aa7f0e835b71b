"""Stands before aiohttp's websocket parser: passes frames on a few at a time, as fast as a stream may send them.

aiohttp parses in one go all that one read of the socket has brought, up to 40,000 empty frames, and hands fragments
to nobody before their message is whole. So no code behind its parser can count them, or let others run in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from stream_server.server.allowance import Allowance
from stream_server.server.frames import FrameScanner

FRAMES_AT_ONCE = 64
"""Frames that are parsed before the loop sees to others: about 0.1 ms. A window of small items is no more."""

PAUSE_S = 0.02
"""Shortest wait of a stream that is over its allowance, so that it does not wake the loop for each frame."""

BREACH = b"\x83\x80\0\0\0\0"
"""A frame with a reserved opcode. aiohttp has no call to fail a connection; it closes with 1002 on
parsing this."""


class Parser(Protocol):
    """What aiohttp's connection feeds."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Parse; return whether the connection is to be closed, and what was not parsed."""

    def feed_eof(self) -> None:
        """Take the end of the connection."""


class Flow(Protocol):
    """The connection's flow control, shared with aiohttp's queue of messages."""

    queue_is_full: bool

    def hold(self, holder: object) -> None:
        """Read nothing more from the socket until the holder releases it."""

    def release(self, holder: object) -> None:
        """Read on, unless another holds it or the queue is full."""

    def close(self) -> None:
        """Take nothing more from the client."""


class PacedReader:
    """A `Parser` in front of another one. While it holds anything back, the socket is not read.

    Args:
        rate: how many frames and messages per second a stream may send besides its items.

    Attributes:
        flow: the connection's flow control.
        allowance: the stream's.
        on_flood: called once when the stream is over its allowance for too long; nothing is parsed any more.
    """

    def __init__(self, parser: Parser, flow: Flow, rate: float) -> None:
        self._parser = parser
        self.flow = flow
        self._scanner = FrameScanner()
        self._held = b""
        self._waiting = False  # for time to pass, or for others to run, or for the queue
        self._step: asyncio.Handle | None = None
        self._discarding = False
        self.allowance = Allowance(rate, time.monotonic())
        self.on_flood: Callable[[], None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether the socket must not be read."""
        return self._waiting

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what the socket has brought."""
        if self._discarding:
            return False, b""
        if self._held:
            data = self._held + data
        if self._waiting:
            self._held = data
            self.flow.hold(self)
            return False, b""
        return self._advance(data), b""

    def feed_eof(self) -> None:
        """Take the end of the connection; what is held back is lost with it."""
        self._discard()
        self.on_flood = None
        self._parser.feed_eof()

    def resume(self) -> None:
        """Go on: the queue has room again."""
        if self._waiting and self._step is None:
            self._step = asyncio.get_running_loop().call_soon(self._go_on)

    def _advance(self, data: bytes) -> bool:
        """Pass on what may be; return whether the connection is to be closed."""
        scanner = self._scanner
        end, cost = scanner.scan(data, FRAMES_AT_ONCE)
        self._held = data[end:]
        close = False
        if end:
            close, _ = self._parser.feed_data(data if end == len(data) else data[:end])
        if scanner.violation:
            self._discard()
            close, _ = self._parser.feed_data(BREACH)
        elif cost or scanner.stopped:
            self._pause(cost)
        return close

    def _pause(self, cost: int) -> None:
        now = time.monotonic()
        self.allowance.spend(cost, now)
        if self.allowance.flooding:
            self._discard()
            if self.on_flood:
                self.on_flood()
            return
        delay = self.allowance.delay(now)
        if not (delay or self._scanner.stopped):
            return
        loop = asyncio.get_running_loop()
        self._waiting = True
        self.flow.hold(self)
        if delay:
            self._step = loop.call_later(max(delay, PAUSE_S), self._go_on)
        else:
            self._step = loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._step = None
        if self.flow.queue_is_full:
            return  # `resume` comes
        self._waiting = False
        if self._held and self._advance(self._held):
            self.flow.close()
        if not self._waiting:
            self.flow.release(self)

    def _discard(self) -> None:
        """Drop what is held, and all that comes: unread bytes would reset the connection as it is closed."""
        self._discarding = True
        self._held = b""
        self._waiting = False
        if self._step:
            self._step.cancel()
            self._step = None
