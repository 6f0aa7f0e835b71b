"""What plain HTTP answers: health, models, metrics; JSON errors with the codes of the wire."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from aiohttp import web

from inference.engine import Engine, ModelStatus
from inference.intake import DEFAULT_WINDOW
from inference.model import NAME, ModelCard
from inference.scheduling.quantiles import Distribution
from inference.scheduling.statistics import Tally
from stream_server.errors import StreamServerError, UnknownModel, error_info
from stream_server.server.callers import TrustedProxies
from stream_server.server.config import Settings
from stream_server.server.connection import Connections
from stream_server.server.engine_errors import as_stream_errors
from stream_server.server.loop_lag import LoopLag
from stream_server.server.metrics import CONTENT_TYPE, Metrics
from stream_server.server.snapshots import Snapshots

ENGINE = web.AppKey("engine", Engine)
METRICS = web.AppKey("metrics", Metrics)
SETTINGS = web.AppKey("settings", Settings)
SNAPSHOTS = web.AppKey("snapshots", Snapshots)
LAG = web.AppKey("lag", LoopLag)
CONNECTIONS = web.AppKey("connections", Connections)
TRUSTED_PROXIES = web.AppKey("trusted_proxies", TrustedProxies)

routes = web.RouteTableDef()

COUNTS = [field.name for field in fields(Tally) if field.name not in ("rebound", "undelivered")]
"""What is told of a tally. `dataclasses.asdict` takes 15 times as long to read it."""

MAX_STREAMS_SHOWN = 100
"""Streams that a model's statistics list, those with the most worker time first: the rest are counted."""


def find_card(engine: Engine, name: str, version: str | None) -> ModelCard:
    """Find the card of the version that a URL names; without one, of the model's current version.

    Raises:
        UnknownModel: the name is invalid, or no model or version has it.
        Unavailable: the model did not start, or has not yet.
    """
    for part in (name, version):
        if part is not None:
            _check_name(part)
    with as_stream_errors():
        return engine.resolve(name, version)


def find_status(request: web.Request) -> ModelStatus:
    """Find what is known of the model that a URL names, loaded or not.

    Raises:
        UnknownModel: there is none.
    """
    name = request.match_info["model"]
    _check_name(name)
    with as_stream_errors():
        return request.app[ENGINE].model(name)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UnknownModel(f"{name[:64]!r} is not a valid name")


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
        "versions": list(status.versions),
        "input": card and card.input,
        "policy": card and card.policy,
        "window": card and DEFAULT_WINDOW[card.policy],
        "max_batch": card and card.max_batch,
        "latency_target_ms": card and card.latency_target_ms,
        "min_rate": card and card.min_rate,
        "timeout_ms": card and card.timeout_ms,
        "description": card.description if card else "",
    }


def _statistics(engine: Engine, status: ModelStatus) -> dict[str, Any]:
    """What the statistics of a model say, all its versions together."""
    statistics = engine.statistics()
    versions = {model: known for model, known in statistics.models.items() if model.name == status.name}
    if not versions:
        return {}
    ages = sum((known.ages for known in versions.values()), Distribution())
    costs = sum((known.costs for known in versions.values()), Distribution())
    current = versions.get(status.card.id) if status.card else None
    return {
        **_counts(statistics.tally(status.name)),
        "batch_cap": current.batch_cap if current else 0,
        "peak": max(known.peak for known in versions.values()),
        "age_ms": _milliseconds(ages),
        "infer_ms": _milliseconds(costs),
        "open_streams": sum(known.open_streams for known in versions.values()),
        "streams": [
            {
                "stream": f"s{row.number}",
                "share": round(row.share, 4),
                "worker_s": round(row.worker_s, 3),
                **_counts(row.tally),
            }
            for row in engine.stream_statistics(status.name, MAX_STREAMS_SHOWN)
        ],
    }


def _counts(tally: Tally) -> dict[str, int]:
    """The counts that add up: what moved between versions is received once, and `discarded` has the undelivered."""
    return {name: getattr(tally, name) for name in COUNTS}


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
    body: dict[str, Any] = {
        "ready": is_ready,
        "draining": draining,
        "models": {status.name: status.state for status in statuses},
        "sandbox": dict(engine.workers().sandbox),
    }
    if reasons := {status.name: status.reason for status in statuses if status.reason}:
        body["reasons"] = reasons
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

    def make() -> bytes:
        return json.dumps({"model": status.name, **_statistics(request.app[ENGINE], status)}).encode()

    # the prefix keeps apart a model that has a name of ours
    body = request.app[SNAPSHOTS].get(f"stats {status.name}", make)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Everything an operator watches, in Prometheus format."""
    body = request.app[SNAPSHOTS].get("metrics", request.app[METRICS].render)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
