"""The aiohttp application: routes, the page, the websocket's handshake, and the headers of every response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources

from aiohttp import web

from inference.engine import Engine
from stream_server.errors import Draining, Overloaded, StreamServerError, TooManyStreams
from stream_server.protocol.server_side import SUBPROTOCOL, read_options
from stream_server.server import http_api
from stream_server.server import origins as security
from stream_server.server.config import Settings
from stream_server.server.connection import Connection, Connections, refuse
from stream_server.server.http_api import CALLERS, CONNECTIONS, ENGINE, LAG, METRICS, SETTINGS
from stream_server.server.loop_lag import LoopLag
from stream_server.server.metrics import Metrics
from stream_server.server.session import Session

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What the page is made of; files of other kinds in its folder are not served."""

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

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(settings: Settings, engine: Engine) -> web.Application:
    """Put the application together around an engine that has started."""
    app = web.Application(middlewares=[guard], client_max_size=settings.limits.max_item_bytes)
    app[SETTINGS] = settings
    app[ENGINE] = engine
    app[LAG] = LoopLag()
    app[METRICS] = Metrics(engine.statistics, engine.workers, app[LAG].recent)
    app[CONNECTIONS] = Connections(settings.limits.max_unanswered_bytes)
    app[CALLERS] = set()
    app.add_routes(http_api.routes)
    app.router.add_get("/v2/models/{model}/stream", stream)
    app.router.add_get("/v2/models/{model}/versions/{version}/stream", stream)
    for path, handler in page().items():
        app.router.add_get(path, handler)
    app.on_response_prepare.append(add_headers)
    return app


def page() -> dict[str, Handler]:
    """Read the page's files, once: what is served is fixed from here on, and no request names a file."""

    def serve(body: bytes, content_type: str) -> Handler:
        async def handler(_: web.Request) -> web.Response:
            headers = {"Content-Type": content_type, "Cache-Control": "no-cache"}
            return web.Response(body=body, headers=headers)

        return handler

    handlers = {}
    for file in resources.files("web_client").iterdir():
        content_type = CONTENT_TYPES.get(file.name[file.name.rfind(".") :])
        if content_type:
            handlers[f"/{file.name}"] = serve(file.read_bytes(), content_type)
    handlers["/"] = handlers["/index.html"]
    return handlers


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add what every response carries."""
    response.headers.update(HEADERS)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check Host and Origin before anything else, and tell errors as JSON."""
    settings = request.app[SETTINGS]
    request.app[CALLERS].add(request.protocol)
    try:
        host = security.check_host(request.headers.get("Host"), settings.allow_host)
        if request.match_info.handler is not stream:  # a websocket hears of its origin in its own words
            security.check_origin(request.headers.get("Origin"), host, settings.allow_origin)
        return await handler(request)
    except StreamServerError as exc:
        return http_api.json_error(exc)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as exc:
        body = {"error": f"{exc.reason}: {request.method} {request.path[:64]}", "code": "no_route"}
        allow = {"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else None
        return web.json_response(body, status=exc.status, headers=allow)


async def stream(request: web.Request) -> web.StreamResponse:
    """Upgrade to a websocket and serve one stream; whatever forbids it is said on the websocket."""
    settings, engine = request.app[SETTINGS], request.app[ENGINE]
    opened: Session | StreamServerError
    try:
        opened = open_session(request)
    except StreamServerError as exc:
        opened = exc
    most = opened.max_message_bytes if isinstance(opened, Session) else settings.limits.max_text_bytes
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
    transport = request.transport
    if transport is None:  # the client has gone already
        return ws
    if isinstance(opened, Session):
        try:
            admit(request, opened)
        except StreamServerError as exc:
            opened = exc
    if isinstance(opened, StreamServerError):
        request.app[METRICS].refuse(opened)
        await refuse(ws, transport, opened, settings.timeouts)
        return ws
    connection = Connection(ws, transport, opened, engine, settings.timeouts, request.app[METRICS])
    await request.app[CONNECTIONS].run(connection, opened.model, request.remote or "")
    return ws


def open_session(request: web.Request) -> Session:
    """Read what a stream asks for.

    Raises:
        StreamServerError: there is no such thing.
    """
    settings = request.app[SETTINGS]
    security.check_origin(request.headers.get("Origin"), request.headers["Host"], settings.allow_origin)
    parts = request.match_info
    card = http_api.find_model(request.app[ENGINE], parts["model"], parts.get("version"))
    options = read_options(request.query.items(), settings.limits.max_weight)
    return Session(card, options, settings.limits, request.app[CONNECTIONS].held)


def admit(request: web.Request, session: Session) -> None:
    """Check that there is room for one stream more; it must be opened before anything else happens.

    Raises:
        StreamServerError: there is none.
    """
    limits, connections = request.app[SETTINGS].limits, request.app[CONNECTIONS]
    if connections.draining:
        raise Draining("the server is shutting down; try again in a moment")
    if connections.of_peer(request.remote or "") >= limits.max_streams_per_principal:
        most = limits.max_streams_per_principal
        raise TooManyStreams(f"your address has its {most} streams; close one, or try again later")
    if len(connections) >= limits.max_streams:
        raise TooManyStreams(f"the server has its {limits.max_streams} streams; try again later")
    if not request.app[ENGINE].admits(session.model, session.weight):
        raise Overloaded("with one stream more, not every stream would get the rate that its model promises")
