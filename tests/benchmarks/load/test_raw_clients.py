"""Raw clients against a real server and a scripted one: reports are correct, and every fault is counted."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from benchmarks.failures import RunFailed
from benchmarks.load.raw_clients import GOING_AWAY, NORMAL, Plan, RawClients, Report
from tests.conftest import RunningServer
from tests.stream_server.peer import Peer, Script, obedient, scripted


def address(url: str) -> str:
    return f"{url}/v2/models/echo/stream?policy=queue"


def test_idle_clients_leave_on_request(server: RunningServer) -> None:
    with RawClients(Plan(address(server.url), 30)) as clients:
        assert clients.report().seconds > 0
        clients.tell("count")
        assert clients.report() == Report(open=30)
        clients.tell("leave")
        assert clients.report() == Report(codes={NORMAL: 30})


def test_idle_clients_see_server_going_away(start_server: Callable[..., RunningServer]) -> None:
    server = start_server("--model", "echo", "--workers", "1")
    with RawClients(Plan(address(server.url), 10)) as clients:
        clients.report()
        assert server.stop(signal.SIGTERM) == 0
        assert clients.report() == Report(codes={GOING_AWAY: 10})


def test_visits_are_served(server: RunningServer) -> None:
    before = server.metrics()['stream_items_results_total{model="echo"}']
    with RawClients(Plan(address(server.url), 4, seconds=60.0, visits=25)) as clients:
        told = clients.report()
    assert (told.failed, len(told.waits_ms)) == (0, 25)
    assert all(wait > 0 for wait in told.waits_ms)
    assert server.metrics()['stream_items_results_total{model="echo"}'] == before + 25


async def against(script: Script, plan: Callable[[str], Plan], lines: int) -> list[Report]:
    """What clients of a scripted server say."""

    def visit(url: str) -> list[Report]:
        with RawClients(plan(address(url))) as clients:
            return [clients.report() for _ in range(lines)]

    async with scripted(script, subprotocols=None) as url:
        return await asyncio.to_thread(visit, url)


async def test_pings_are_answered() -> None:
    async def ping(peer: Peer) -> None:
        await peer.ready()
        await (await peer.ws.ping(b"there?"))
        await peer.ws.close(GOING_AWAY)

    _, ended = await against(ping, lambda url: Plan(url, 3), 2)
    assert ended == Report(codes={GOING_AWAY: 3})


async def test_connection_without_close_frame_is_abnormal() -> None:
    async def cut(peer: Peer) -> None:
        await peer.ready()
        await (await peer.ws.ping())  # so that the greeting has been read
        peer.cut()

    _, ended = await against(cut, lambda url: Plan(url, 3), 2)
    assert ended == Report(codes={1006: 3})


async def test_visit_without_answer_fails() -> None:
    async def forget(peer: Peer) -> None:
        await peer.ready()
        await peer.ws.recv()
        await peer.say("end", received=1, results=0, dropped=0, errors=0)
        await peer.ws.close()

    (told,) = await against(forget, lambda url: Plan(url, 1, seconds=60.0, visits=2), 1)
    assert told.failed == 2


async def test_concurrent_failed_visits_are_all_counted() -> None:
    async def fail_every_fourth(peer: Peer) -> None:
        if peer.number % 4:
            await obedient(peer)
            return
        await peer.ready()
        await peer.ws.close(1011)

    (told,) = await against(fail_every_fourth, lambda url: Plan(url, 16, seconds=60.0, visits=400), 1)
    assert (told.visits, told.failed, len(told.waits_ms)) == (400, 100, 400)


async def test_failed_visit_does_not_stop_others() -> None:
    async def turn_away(peer: Peer) -> None:
        match peer.number % 3:
            case 0:
                peer.cut()
            case 1:
                await peer.say("error", code="overloaded", message="full", retryable=True)
            case _:
                await obedient(peer)

    (told,) = await against(turn_away, lambda url: Plan(url, 4, seconds=60.0, visits=60), 1)
    assert (told.visits, told.failed, len(told.waits_ms)) == (60, 40, 20)


def test_visits_to_unused_port_fail() -> None:
    with RawClients(Plan("http://127.0.0.1:1/", 2, seconds=60.0, visits=6)) as clients:
        told = clients.report()
    assert (told.visits, told.failed, told.waits_ms) == (6, 6, [])


def test_refused_idle_client_ends_run_with_reason(server: RunningServer) -> None:
    plan = Plan(address(server.url).replace("echo", "nothing"), 2)
    with RawClients(plan) as clients, pytest.raises(RunFailed, match="refused a stream: no model 'nothing'"):
        clients.report()


async def test_failed_handshake_ends_run() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await reader.read()  # until the client closes
        writer.close()
        await writer.wait_closed()
        answered.set()

    answered = asyncio.Event()

    def visit(port: int) -> None:
        with RawClients(Plan(f"http://127.0.0.1:{port}/", 1)) as clients:
            clients.report()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with pytest.raises(RunFailed, match="403"):
            await asyncio.to_thread(visit, server.sockets[0].getsockname()[1])
        await answered.wait()
