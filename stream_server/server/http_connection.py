"""A client's connection: aiohttp's, with a deadline for every request, paced frames, and errors in our own form."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from stream_server.server.config import Limits, Timeouts
from stream_server.server.connection_table import ConnectionTable
from stream_server.server.paced_reader import PacedReader

log = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
        "connect-src 'self' ws: wss:; img-src 'self' blob: data:; media-src 'self' blob:; "
        "style-src 'self'; require-trusted-types-for 'script'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Server": "stream-server",
}
"""What every response carries."""


class HttpConnection(web.RequestHandler):
    """aiohttp's protocol of one connection.

    Args:
        server: the application's, that runs the handlers.
        table: where it is entered while it is open.
    """

    def __init__(
        self, server: web.Server, table: ConnectionTable[HttpConnection], limits: Limits, timeouts: Timeouts
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), access_log=None)  # type: ignore[arg-type]
        self._table = table
        self._limits = limits
        self._timeouts = timeouts
        self._socket: asyncio.Transport | None = None  # aiohttp forgets its own when it starts to close
        self._unsent = math.inf
        self.queue_is_full = False
        self._holders: set[object] = set()
        self.reader: PacedReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter it in the table; it has `hello_s` for its first request."""
        self._socket = cast(asyncio.Transport, transport)
        self._table.add(self, time.monotonic() + self._timeouts.hello_s)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take it out again."""
        self._table.remove(self)
        super().connection_lost(exc)
        self._socket = self.reader = None
        self._holders.clear()

    def request_started(self) -> None:
        """The head of a request is complete."""
        self._table.serve(self)

    def check_deadline(self) -> None:
        """Abort, its deadline having passed, unless the client has read some of what it is sent since the last."""
        if self._socket is None:
            return
        unsent = self._socket.get_write_buffer_size()
        if 0 < unsent < self._unsent:
            self._unsent = unsent
            self._table.wait(self, time.monotonic() + self._timeouts.write_s)
        else:
            self.abort()

    def abort(self) -> None:
        """Drop the connection; what is unsent is lost."""
        if self._socket is not None:
            self._socket.abort()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response, for as long as the client reads it; then wait for its next request."""
        if isinstance(resp, web.HTTPException):
            resp = error_page(resp.status, resp.reason, keep_alive=bool(resp.keep_alive))
        self._unsent = math.inf
        self._table.wait(self, time.monotonic() + self._timeouts.write_s)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._table.wait(self, time.monotonic() + self._timeouts.keepalive_s)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP, and defects of ours; the connection closes."""
        if isinstance(exc, HttpProcessingError):
            log.debug("not HTTP from %s: %s", request.remote, message)
        else:
            log.error("a request failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; it cannot become an error")
        return error_page(status, message)

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """Begin a websocket."""
        self.reader = PacedReader(parser, self, self._limits.max_overhead_per_s)
        super().set_parser(cast(Any, self.reader), data_received_cb)

    def pause_reading(self) -> None:
        """Aiohttp's queue of messages, or of a request's body, is full."""
        self.queue_is_full = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """It is not any more."""
        self.queue_is_full = False
        super().resume_reading(resume_parser)
        if self._holders:
            self._pause()
        if self.reader is not None:
            self.reader.resume()

    def hold(self, holder: object) -> None:
        """Read nothing more from the socket until the holder releases it."""
        self._holders.add(holder)
        self._pause()

    def release(self, holder: object) -> None:
        """Read on, unless another holds it or the queue is full."""
        self._holders.discard(holder)
        if not (self._holders or self.queue_is_full) and self._readable:
            cast(asyncio.Transport, self.transport).resume_reading()

    @property
    def _readable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def _pause(self) -> None:
        if self._readable:
            cast(asyncio.Transport, self.transport).pause_reading()


def error_page(status: int, message: str | None, *, keep_alive: bool = False) -> web.Response:
    """What is answered before a request reaches the application, or after it has failed there."""
    code = "internal" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "bad_request"
    body = {
        "error": (message or HTTPStatus(status).phrase).partition("\n")[0].rstrip(":"),
        "code": code,
        "retryable": code == "internal",
    }
    response = web.json_response(body, status=status, headers=HEADERS)
    if not keep_alive:
        response.force_close()
    return response


def busy_response() -> bytes:
    """What a connection is told for which there is no room."""
    body = json.dumps({"error": "too many connections", "code": "too_many_connections", "retryable": True})
    headers = HEADERS | {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "Retry-After": "5",
        "Connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 503 Service Unavailable\r\n{lines}\r\n{body}".encode()
