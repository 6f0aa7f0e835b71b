"""Clients in thousands, here in dozens: they see a server's greeting, its goodbye, and whatever is neither."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.failures import RunFailed
from benchmarks.visitors import GOING, NORMAL, Plan, Visitors
from tests.conftest import RunningServer
from tests.stream_server.peer import Peer, Script, scripted


def address(url: str) -> str:
    return f"{url}/v2/models/echo/stream?policy=queue"


def test_those_that_stay_leave_when_told(server: RunningServer) -> None:
    with Visitors(Plan(address(server.url), 30)) as visitors:
        assert visitors.heard()["seconds"] > 0
        visitors.tell("count")
        assert visitors.heard() == {"open": 30, "codes": {}}
        visitors.tell("leave")
        assert visitors.heard() == {"codes": {str(NORMAL): 30}}


def test_those_that_stay_are_told_when_the_server_stops(start_server: Callable[..., RunningServer]) -> None:
    server = start_server("--model", "echo", "--workers", "1")
    with Visitors(Plan(address(server.url), 10)) as visitors:
        visitors.heard()
        assert server.stop(signal.SIGTERM) == 0
        assert visitors.heard() == {"codes": {str(GOING): 10}}


def test_those_that_come_and_go_are_served(server: RunningServer) -> None:
    before = server.metrics()['stream_items_results_total{model="echo"}']
    with Visitors(Plan(address(server.url), 4, seconds=60.0, visits=25)) as visitors:
        told = visitors.heard()
    assert (told["failed"], len(told["waits_ms"])) == (0, 25)
    assert all(wait > 0 for wait in told["waits_ms"])
    assert server.metrics()['stream_items_results_total{model="echo"}'] == before + 25


async def against(script: Script, plan: Callable[[str], Plan], lines: int) -> list[dict[str, Any]]:
    """What visitors of a scripted server say."""

    def visit(url: str) -> list[dict[str, Any]]:
        with Visitors(plan(address(url))) as visitors:
            return [visitors.heard() for _ in range(lines)]

    async with scripted(script, subprotocols=None) as url:
        return await asyncio.to_thread(visit, url)


async def test_pings_are_answered() -> None:
    async def ping(peer: Peer) -> None:
        await peer.ready()
        await (await peer.ws.ping(b"there?"))
        await peer.ws.close(GOING)

    _, ended = await against(ping, lambda url: Plan(url, 3), 2)
    assert ended == {"codes": {str(GOING): 3}}


async def test_who_is_cut_off_is_counted() -> None:
    async def cut(peer: Peer) -> None:
        await peer.ready()
        await (await peer.ws.ping())  # so that the greeting has been read
        peer.cut()

    _, ended = await against(cut, lambda url: Plan(url, 3), 2)
    assert ended == {"codes": {"1006": 3}}


async def test_a_visit_without_an_answer_has_failed() -> None:
    async def forget(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        await peer.say("end", received=1, results=0, dropped=0, errors=0)
        await peer.ws.close()

    (told,) = await against(forget, lambda url: Plan(url, 1, seconds=60.0, visits=2), 1)
    assert told["failed"] == 2


def test_a_server_that_refuses_ends_the_run(server: RunningServer, capfd: pytest.CaptureFixture[str]) -> None:
    plan = Plan(address(server.url).replace("echo", "nothing"), 2)
    with Visitors(plan) as visitors, pytest.raises(RunFailed, match="have failed"):
        visitors.heard()
    assert "unknown_model" in capfd.readouterr().err
