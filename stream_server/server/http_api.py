"""What plain HTTP answers: health, models, metrics; JSON errors with the codes of the wire."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from aiohttp import web

from inference.engine import Engine, ModelStatus
from inference.model import NAME, ModelCard
from inference.scheduling.quantiles import Distribution
from inference.scheduling.statistics import ModelStatistics, Tally
from stream_server.errors import StreamServerError, Unavailable, UnknownModel, error_info
from stream_server.protocol.server_side import DEFAULT_WINDOW
from stream_server.server.config import Settings
from stream_server.server.connection import Connections
from stream_server.server.loop_lag import LoopLag
from stream_server.server.metrics import CONTENT_TYPE, Metrics

ENGINE = web.AppKey("engine", Engine)
METRICS = web.AppKey("metrics", Metrics)
SETTINGS = web.AppKey("settings", Settings)
LAG = web.AppKey("lag", LoopLag)
CONNECTIONS = web.AppKey("connections", Connections)
CALLERS = web.AppKey("callers", set[asyncio.Protocol])
"""The sockets on which a request has come."""

routes = web.RouteTableDef()

MAX_STREAMS_SHOWN = 100
"""Streams that a model's statistics list, those with the most worker time first: the rest are counted."""


def find_model(engine: Engine, name: str, version: str | None) -> ModelCard:
    """Find the card that a URL names.

    Raises:
        UnknownModel: the name is none, or no model or version has it.
        Unavailable: the model did not start, or has not yet.
    """
    for part in (name, version):
        if part is not None and not NAME.fullmatch(part):
            raise UnknownModel(f"{part[:64]!r} is no name")
    for status in engine.models():
        if status.name == name:
            break
    else:
        known = ", ".join(status.name for status in engine.models())
        raise UnknownModel(f"no model {name!r}; there are {known}")
    if status.card is None or status.state != "ready":
        raise Unavailable(f"model {name} is {status.state}" + (f": {status.reason}" if status.reason else ""))
    if version not in (None, status.card.version):
        raise UnknownModel(f"no version {version!r} of {name}; there is {status.card.version}")
    return status.card


def find_status(request: web.Request) -> ModelStatus:
    """Find what is known of the model that a URL names, loaded or not.

    Raises:
        UnknownModel: there is none.
    """
    name = request.match_info["model"]
    if NAME.fullmatch(name):
        for status in request.app[ENGINE].models():
            if status.name == name:
                return status
    raise UnknownModel(f"no model {name[:64]!r}")


def json_error(error: StreamServerError) -> web.Response:
    """An error as HTTP tells it: the table's status, and the wire's code."""
    info = error_info(error)
    body = {"error": str(error), "code": info.code, "retryable": info.retryable}
    headers = {"Retry-After": f"{info.retry_after_ms / 1e3:.0f}"} if info.retry_after_ms else None
    return web.json_response(body, status=info.status, headers=headers)


def _describe(status: ModelStatus) -> dict[str, Any]:
    card = status.card
    return {
        "name": status.name,
        "state": status.state,
        "reason": status.reason,
        "version": card and card.version,
        "versions": [card.version] if card else [],
        "input": card and card.input,
        "policy": card and card.policy,
        "window": card and DEFAULT_WINDOW[card.policy],
        "max_batch": card and card.max_batch,
        "latency_target_ms": card and card.latency_target_ms,
        "min_rate": card and card.min_rate,
        "timeout_ms": card and card.timeout_ms,
        "description": card.description if card else "",
    }


def _statistics(known: ModelStatistics, tally: Tally) -> dict[str, Any]:
    heaviest = sorted(known.streams, key=lambda stream: -stream.worker_s)[:MAX_STREAMS_SHOWN]
    return {
        **asdict(tally),
        "batch_cap": known.batch_cap,
        "peak": known.peak,
        "age_ms": _milliseconds(known.ages),
        "infer_ms": _milliseconds(known.costs),
        "open_streams": len(known.streams),
        "streams": [
            {
                "stream": f"s{stream.number}",
                "share": round(stream.share, 4),
                "worker_s": round(stream.worker_s, 3),
                **asdict(stream.tally),
            }
            for stream in heaviest
        ],
    }


def _milliseconds(durations: Distribution) -> dict[str, float]:
    named = {"p50": durations.quantile(0.5), "p99": durations.quantile(0.99), "max": durations.largest}
    return {"count": durations.count, **{name: round(s * 1e3, 3) for name, s in named.items()}}


@routes.get("/v2/health/live")
async def live(_: web.Request) -> web.Response:
    """Whether the process answers at all."""
    return web.json_response({"live": True})


@routes.get("/v2/health/ready")
async def ready(request: web.Request) -> web.Response:
    """Whether every model answers and new streams are welcome; 503 where not, with the state of what it needs."""
    engine = request.app[ENGINE]
    statuses = engine.models()
    draining = request.app[CONNECTIONS].draining
    is_ready = not draining and all(status.state == "ready" for status in statuses)
    body = {
        "ready": is_ready,
        "draining": draining,
        "models": {status.name: status.state for status in statuses},
        "sandbox": dict(engine.workers().sandbox),
    }
    return web.json_response(body, status=200 if is_ready else 503)


@routes.get("/v2/models")
async def models(request: web.Request) -> web.Response:
    """Every model, with its state."""
    return web.json_response({"models": [_describe(s) for s in request.app[ENGINE].models()]})


@routes.get("/v2/models/{model}")
async def model(request: web.Request) -> web.Response:
    """One model, with its state."""
    return web.json_response(_describe(find_status(request)))


@routes.get("/v2/models/{model}/stats")
async def stats(request: web.Request) -> web.Response:
    """What became of a model's items, how old its answers are, and who gets how much of the workers."""
    status = find_status(request)
    told = {}
    if status.card:
        known = request.app[ENGINE].model_statistics(status.name)
        told = _statistics(known, request.app[METRICS].tally(status.name, known.tally))
    return web.json_response({"model": status.name, **told})


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Everything an operator watches, in Prometheus format."""
    return web.Response(body=request.app[METRICS].render(), headers={"Content-Type": CONTENT_TYPE})
