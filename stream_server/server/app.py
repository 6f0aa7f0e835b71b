"""The aiohttp application: routes, the page, the websocket's handshake, and the headers of every response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import resources
from typing import cast

from aiohttp import web

from inference.engine import Engine
from inference.intake import StreamRequest
from stream_server.errors import Draining, StreamServerError, TooManyStreams
from stream_server.protocol.server_side import SUBPROTOCOL, read_options
from stream_server.server import http_api, origins
from stream_server.server.callers import Caller, identify
from stream_server.server.config import Settings
from stream_server.server.connection import Connection, Connections, refuse
from stream_server.server.http_api import (
    CONNECTIONS,
    ENGINE,
    LAG,
    METRICS,
    SETTINGS,
    SNAPSHOTS,
    TRUSTED_PROXIES,
)
from stream_server.server.http_connection import HEADERS, HttpConnection
from stream_server.server.loop_lag import LoopLag
from stream_server.server.metrics import Metrics
from stream_server.server.paced_reader import PacedReader
from stream_server.server.session import max_message_bytes
from stream_server.server.snapshots import Snapshots

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""The kinds of files that make up the page; others in its folders are not served."""

CALLER = web.RequestKey("caller", Caller)
"""Who asks, and for which host, checked."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(settings: Settings, engine: Engine) -> web.Application:
    """Put the application together around an engine that has started."""
    app = web.Application(middlewares=[guard], client_max_size=settings.limits.max_item_bytes)
    app[SETTINGS] = settings
    app[ENGINE] = engine
    app[LAG] = LoopLag()
    metrics = app[METRICS] = Metrics(engine.statistics, engine.workers, app[LAG].recent)
    engine.observe = metrics.observe
    app[SNAPSHOTS] = Snapshots()
    app[CONNECTIONS] = Connections()
    app[TRUSTED_PROXIES] = settings.trusted()
    app.add_routes(http_api.routes)
    app.router.add_get("/v2/models/{model}/stream", stream)
    app.router.add_get("/v2/models/{model}/versions/{version}/stream", stream)
    for path, handler in page().items():
        app.router.add_get(path, handler)
    app.on_response_prepare.append(add_headers)
    return app


def page() -> dict[str, Handler]:
    """Read the page's files once, subfolders included: a request never names a file to open."""

    def serve(body: bytes, content_type: str) -> Handler:
        async def handler(_: web.Request) -> web.Response:
            headers = {"Content-Type": content_type, "Cache-Control": "no-cache"}
            return web.Response(body=body, headers=headers)

        return handler

    handlers = {}
    folders = [("/", resources.files("web_client"))]
    for prefix, folder in folders:
        for file in folder.iterdir():
            content_type = CONTENT_TYPES.get(file.name[file.name.rfind(".") :])
            if file.is_dir():
                folders.append((f"{prefix}{file.name}/", file))
            elif content_type:
                handlers[prefix + file.name] = serve(file.read_bytes(), content_type)
    handlers["/"] = handlers["/index.html"]
    return handlers


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add what every response carries."""
    response.headers.update(HEADERS)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check Host and Origin before anything else, and tell errors as JSON."""
    settings = request.app[SETTINGS]
    _connection(request).request_started()
    try:
        request[CALLER] = identify_caller(request)
        if request.match_info.handler is not stream:  # a websocket hears of its origin in its own words
            origins.check_origin(_header(request, "Origin"), request[CALLER], settings.allow_origin)
        return await handler(request)
    except StreamServerError as exc:
        return http_api.json_error(exc)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as exc:
        body = {"error": f"{exc.reason}: {request.method} {request.path[:64]}", "code": "no_route"}
        allow = {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else None
        return web.json_response(body, status=exc.status, headers=allow)


def _connection(request: web.Request) -> HttpConnection:
    return cast(HttpConnection, request.protocol)


def identify_caller(request: web.Request) -> Caller:
    """Tell who asks, and for which host.

    Raises:
        Forbidden: it is not this server's.
    """
    _header(request, "Host")
    address = request.get_extra_info("peername")
    peer = address[0] if isinstance(address, tuple) else ""  # of a unix socket: a path that the client chose
    caller = identify(peer, lambda name: request.headers.getall(name, []), request.app[TRUSTED_PROXIES])
    allowed = request.app[SETTINGS].allow_host
    return replace(caller, host=origins.check_target(request.raw_path, caller.host, allowed))


def _header(request: web.Request, name: str) -> str | None:
    return origins.only(name, request.headers.getall(name, []))


async def stream(request: web.Request) -> web.StreamResponse:
    """Upgrade to a websocket and serve one stream; whatever forbids it is said on the websocket."""
    settings = request.app[SETTINGS]
    asked: StreamRequest | StreamServerError
    try:
        asked = read_request(request)
    except StreamServerError as exc:
        asked = exc
    most = asked.max_bytes if isinstance(asked, StreamRequest) else settings.limits.max_text_bytes
    ws = web.WebSocketResponse(
        protocols=[SUBPROTOCOL],
        compress=False,  # JPEG does not shrink: 2 to 5 ms of CPU per frame for nothing
        autoping=False,  # pings are answered by whoever reads, and pongs are proof of life
        timeout=settings.timeouts.close_s,
        # the session refuses in words what is over its limit; what is over this, aiohttp stops reading, and a
        # client that still sends then meets a reset before it has read the close
        max_msg_size=2 * most,
    )
    if not ws.can_prepare(request).ok:
        headers = {"Upgrade": "websocket"}
        return web.json_response(
            {"error": "this address takes websockets only", "code": "not_a_websocket", "retryable": False},
            status=426,
            headers=headers,
        )
    await ws.prepare(request)
    transport, reader = request.transport, _connection(request).reader
    if transport is None or reader is None:  # the client has gone already
        return ws
    try:
        if isinstance(asked, StreamServerError):
            raise asked
        connection = open_connection(request, ws, transport, reader, asked)
    except StreamServerError as exc:
        request.app[METRICS].refuse(exc)
        await refuse(ws, transport, exc, settings.timeouts)
        return ws
    await request.app[CONNECTIONS].run(connection, asked.principal)
    return ws


def read_request(request: web.Request) -> StreamRequest:
    """Read what a stream asks for.

    Raises:
        StreamServerError: it is invalid, or the model cannot serve it.
    """
    settings = request.app[SETTINGS]
    origins.check_origin(_header(request, "Origin"), request[CALLER], settings.allow_origin)
    parts = request.match_info
    name, version = parts["model"], parts.get("version")
    card = http_api.find_card(request.app[ENGINE], name, version)
    options = read_options(request.query.items(), settings.limits.max_weight)
    return StreamRequest(
        name,
        version,
        options.policy,
        options.window,
        options.max_age_ms,
        options.weight or min(1.0, settings.limits.max_weight),
        request[CALLER].principal,
        max_message_bytes(card, settings.limits),
    )


def open_connection(
    request: web.Request,
    ws: web.WebSocketResponse,
    transport: asyncio.Transport,
    reader: PacedReader,
    asked: StreamRequest,
) -> Connection:
    """Open a stream if there is capacity for one more.

    Raises:
        StreamServerError: there is none, or the model has gone meanwhile.
    """
    settings, connections = request.app[SETTINGS], request.app[CONNECTIONS]
    limits = settings.limits
    if connections.draining:
        raise Draining("the server is shutting down; try again in a moment")
    if connections.of_principal(asked.principal) >= limits.max_streams_per_principal:
        most = limits.max_streams_per_principal
        raise TooManyStreams(f"your address has its {most} streams; close one, or try again later")
    if len(connections) >= limits.max_streams:
        raise TooManyStreams(f"the server has its {limits.max_streams} streams; try again later")
    return Connection(ws, transport, request.app[ENGINE], asked, settings, reader, connections.hangups)
