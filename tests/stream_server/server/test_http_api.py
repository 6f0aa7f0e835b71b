"""What plain HTTP answers, asked of a running server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream_server import Error, Result, connect
from stream_server.errors import Overloaded, TooManyStreams
from stream_server.server.http_api import json_error
from tests.conftest import RunningServer

SAMPLES = "tests.inference.sample_models"

NO_NAMES = {
    "climbing out": "../../etc/passwd",
    "climbing out, slashes encoded": "..%2f..%2fetc%2fpasswd",
    "climbing out, dots encoded": "%2e%2e%2f%2e%2e%2fetc",
    "climbing out, encoded twice": "%252e%252e%252fetc",
    "climbing out, the other slash": "..%5c..%5cetc",
    "the folder itself": "%2e",
    "the folder above": "%2e%2e",
    "absolute": "%2fetc%2fpasswd",
    "NUL": "echo%00",
    "a newline": "echo%0a",
    "a carriage return": "echo%0d%0aSet-Cookie:%20a=b",
    "an escape": "%1b%5b31mecho",
    "a space": "echo%20",
    "a semicolon": "echo;v=1",
    "upper case": "ECHO",
    "a dash first": "-echo",
    "a dot first": ".echo",
    "another alphabet": "%d0%b5cho",
    "wide letters": "%ef%bd%85cho",
    "no UTF-8": "%ff%fe",
    "65 letters": "e" * 65,
    "300 letters": "e" * 300,
    "markup": "%3cimg%20src=x%20onerror=alert(1)%3e",
}


def get_json(server: RunningServer, path: str) -> tuple[int, Any]:
    status, headers, body = server.get(path)
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    return status, json.loads(body)


def test_it_is_live_and_ready(server: RunningServer) -> None:
    assert get_json(server, "/v2/health/live") == (200, {"live": True})
    status, body = get_json(server, "/v2/health/ready")
    assert "no_new_privileges" in body.pop("sandbox")
    assert (status, body) == (
        200,
        {"ready": True, "draining": False, "models": dict.fromkeys(("faces", "spam", "echo"), "ready")},
    )


def test_models_are_described(server: RunningServer) -> None:
    status, body = get_json(server, "/v2/models")
    assert status == 200
    models = {model["name"]: model for model in body["models"]}
    assert list(models) == ["faces", "spam", "echo"]
    faces = models["faces"]
    assert (faces["state"], faces["reason"], faces["version"]) == ("ready", None, "2023mar")
    assert (faces["input"], faces["policy"], faces["window"]) == ("image", "latest", 1)
    echo = models["echo"]
    assert (echo["input"], echo["policy"], echo["window"], echo["max_batch"]) == ("bytes", "queue", 16, 32)
    assert echo["description"] == "Answers how many bytes an item has."
    assert echo["versions"] == ["1"]
    assert echo["min_rate"] == 0


@pytest.mark.parametrize("name", ["faces", "spam", "echo"])
def test_a_model_is_described_as_in_the_list(name: str, server: RunningServer) -> None:
    _, every = get_json(server, "/v2/models")
    assert get_json(server, f"/v2/models/{name}") == (
        200,
        next(model for model in every["models"] if model["name"] == name),
    )


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES.keys())
def test_what_is_no_name_is_no_model(name: str, server: RunningServer) -> None:
    status, headers, body = server.get(f"/v2/models/{name}")
    assert status == 404
    assert json.loads(body)["code"] in ("unknown_model", "no_route")
    assert b"root:" not in body
    assert "Set-Cookie" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/",
        "/v2/models/",
        "/v3/models",
        "/v2/health",
        "/nothing",
        "//etc/passwd",
        "/v2/models/echo/",
    ],
)
def test_other_addresses_are_a_404_in_json(path: str, server: RunningServer) -> None:
    status, body = get_json(server, path)
    assert (status, body["code"]) == (404, "no_route")


def test_a_model_that_is_not_there_is_named(server: RunningServer) -> None:
    status, body = get_json(server, "/v2/models/nothing")
    assert (status, body["code"], body["retryable"]) == (404, "unknown_model", False)
    assert "nothing" in body["error"]


def test_metrics_are_what_a_scraper_reads(server: RunningServer) -> None:
    status, headers, body = server.get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"stream_items_received", "stream_age_seconds", "stream_workers", "streams"} <= families


def test_labels_are_never_a_clients_words(server: RunningServer) -> None:
    for name in ("nothing", "evil{}", "%22%0a"):
        server.get(f"/v2/models/{name}")
    for family in text_string_to_metric_families(server.get("/metrics")[2].decode()):
        for sample in family.samples:
            assert sample.labels.get("model", "echo") in ("faces", "spam", "echo")


def test_a_model_that_does_not_load_is_told_and_the_others_serve(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server("--workers", "1", "--model", "echo", "--model", f"broken={SAMPLES}:LoadRaises")
    status, body = get_json(server, "/v2/health/ready")
    assert (status, body["ready"]) == (503, False)
    assert body["models"] == {"echo": "ready", "broken": "unavailable"}
    status, model = get_json(server, "/v2/models/broken")
    assert (status, model["state"], model["version"]) == (200, "unavailable", None)
    assert "OSError" in model["reason"]
    assert "secret" not in model["reason"], "a client is not told of paths"


async def test_statistics_of_a_model(start_server: Callable[..., RunningServer]) -> None:
    server = start_server("--workers", "1", "--model", "echo", "--model", "faces")
    async with connect(server.url, model="echo") as busy, connect(server.url, model="echo") as idle:
        answers = [answer async for answer in busy.process([b"x"] * 20)]
        status, body = get_json(server, "/v2/models/echo/stats")
        assert status == 200
        assert (body["model"], body["received"], body["results"], body["open_streams"]) == ("echo", 20, 20, 2)
        assert 1 <= body["peak"] <= 17
        assert body["age_ms"]["count"] == body["infer_ms"]["count"] == 20
        assert 0 < body["age_ms"]["p50"] <= body["age_ms"]["p99"] <= body["age_ms"]["max"]
        # the age on the wire goes up to the writing of the answer, so it is a little higher
        assert body["age_ms"]["max"] <= max(a.age_ms for a in answers if isinstance(a, Result)) * 1.02
        assert body["retried"] == body["discarded"] == 0
        shares = {stream["stream"]: (stream["share"], stream["results"]) for stream in body["streams"]}
        assert shares == {busy.ready.stream: (1.0, 20), idle.ready.stream: (0.0, 0)}
        assert isinstance(await anext(aiter(idle.process([b""]))), Error)
        body = get_json(server, "/v2/models/echo/stats")[1]
        assert (body["received"], body["results"], body["errors"]) == (21, 20, 1), "the empty one never ran"
    assert server.metrics()['stream_items_received_total{model="echo"}'] == 21
    assert get_json(server, "/v2/models/faces/stats")[1]["received"] == 0
    assert get_json(server, "/v2/models/nothing/stats")[0] == 404


async def test_statistics_tell_what_ran_twice_and_what_nobody_waited_for(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server("--workers", "1", "--model", f"patient={SAMPLES}:Patient")

    def patient() -> dict[str, Any]:
        told: dict[str, Any] = get_json(server, "/v2/models/patient/stats")[1]
        return told

    async with asyncio.timeout(60), connect(server.url, "patient") as stream:
        (answer,) = [answer async for answer in stream.process([b"exit 1"])]
        assert isinstance(answer, Error)
        assert (answer.code, answer.retryable) == ("worker_lost", False)
        assert (patient()["retried"], patient()["errors"], patient()["discarded"]) == (1, 1, 0)
        await stream.send(b"stop")
        worker = server.stopped_worker()
    while patient()["open_streams"]:
        await asyncio.sleep(0.01)
    worker.resume()  # not before: somebody would still wait for it
    while patient()["running"]:
        await asyncio.sleep(0.01)
    assert (patient()["results"], patient()["discarded"]) == (1, 1)
    metrics = server.metrics()
    assert metrics['stream_items_retried_total{model="patient"}'] == 1
    assert metrics['stream_items_discarded_total{model="patient"}'] == 1


def test_a_promise_is_told(start_server: Callable[..., RunningServer]) -> None:
    model = "promise=tests.stream_server.sample_models:Promise"
    server = start_server("--workers=1", f"--model={model}", "--set=models.promise.options.min_rate=2.5")
    assert get_json(server, "/v2/models/promise")[1]["min_rate"] == 2.5


def test_who_finds_no_room_is_told_when_to_come_back() -> None:
    """Seconds, as in RFC 9110 section 10.2.3."""
    refused = json_error(Overloaded("full"))
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    assert refused.text
    assert json.loads(refused.text) == {"error": "full", "code": "overloaded", "retryable": True}
    assert "Retry-After" not in json_error(TooManyStreams("full")).headers
