"""A load's division among processes, and its process, which is stopped and killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from urllib.request import urlopen

import msgspec
import pytest
from msgspec.structs import replace

from benchmarks.failures import RunFailed
from benchmarks.load import generator as generator_module
from benchmarks.load import load_process
from benchmarks.load.accounts import Account
from benchmarks.load.generator import Generator, Load, Outcome
from benchmarks.load.histograms import Latencies
from benchmarks.load.run import lateness
from benchmarks.load.servers import Program
from tests.benchmarks.stalling import running_here

LOAD = Load("http://127.0.0.1:1", "echo", "frame", streams=7, seconds=1.0, rate=50.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Program]:
    with running_here() as program:
        yield program


def posted(server: Program) -> int:
    with urlopen(f"{server.url}/posted") as response:
        return json.load(response)


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 9])
def test_shares_divide_streams_and_keep_numbers(processes: int) -> None:
    shares = replace(LOAD, processes=processes).shares()
    numbers = [share.first + number for share in shares for number in range(share.streams)]
    assert numbers == list(range(7))
    assert max(s.streams for s in shares) - min(s.streams for s in shares) <= 1
    assert {share.processes for share in shares} == {1}


def test_only_last_camera_frame_is_not_measured() -> None:
    assert replace(LOAD, policy="latest").measured_s == pytest.approx(0.98)
    assert LOAD.measured_s == 1.0
    assert replace(LOAD, policy="latest", rate=None).measured_s == 1.0


def test_plain_address_is_not_changed() -> None:
    assert replace(LOAD, transport="http").address == "http://127.0.0.1:1"
    assert LOAD.address == "http://127.0.0.1:1/v2/models/echo/stream?policy=queue"
    assert replace(LOAD, rate=None, window=4).address.endswith("?policy=queue&window=4")


def test_outcome_round_trips() -> None:
    account = Account(3, 1, 1, {"timeout": 1}, answers=[(0.5, 12.0, 13.0)], missing=[0.7])
    sent = Outcome(
        [account], Latencies([0.01]), Latencies([0.002]), Latencies([0.003]), {2: Latencies([0.01])}
    )
    got = Outcome.decode(sent.encode())
    assert (got.accounts[0].errors, got.accounts[0].unsent) == ({"timeout": 1}, 1)
    assert [tuple(answer) for answer in got.accounts[0].answers] == account.answers
    for name in ("latency", "lag", "loop"):
        assert getattr(got, name).percentile(99) == getattr(sent, name).percentile(99)
    assert (list(got.slots), got.slots[2].count) == ([2], 1)


def test_connection_error_is_reported() -> None:
    with Generator(LOAD) as generator, pytest.raises(RunFailed, match="Cannot connect to host"):
        generator.connect()


def test_killed_generator_fails_run(server: Program) -> None:
    with Generator(replace(LOAD, url=f"{server.url}/post", transport="http")) as generator:
        generator.connect()
        os.kill(generator.pid, signal.SIGKILL)
        os.waitid(os.P_PID, generator.pid, os.WEXITED | os.WNOWAIT)
        generator.go()
        with pytest.raises(RunFailed, match="load_process ended before it was done"):
            generator.finish()
        with pytest.raises(RunFailed, match="load_process ended before it was done"):
            generator.outcome()


def test_waiting_for_outcome_is_limited(server: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_module, "OUTCOME_S", 0.01)
    with Generator(replace(LOAD, url=f"{server.url}/post", transport="http")) as generator:
        generator.connect()
        with pytest.raises(RunFailed, match="has not given its outcome"):
            generator.outcome()  # there is no outcome before the run


class Closing:
    """A stream that closes together with the others, or never."""

    def __init__(self, together: asyncio.Barrier | None) -> None:
        self.together = together
        self.closed = False

    async def close(self) -> None:
        if self.together:
            await self.together.wait()
        else:
            await asyncio.Event().wait()
        self.closed = True


async def test_streams_close_concurrently_with_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = asyncio.Barrier(3)
    streams = [Closing(together) for _ in range(3)]
    async with asyncio.timeout(30):
        await load_process.close(streams)  # type: ignore[arg-type]
        monkeypatch.setattr(load_process, "CLOSE_S", 0.01)
        await load_process.close([Closing(None)])  # type: ignore[list-item]
    assert all(stream.closed for stream in streams)


def test_stopped_generator_reports_its_lag(server: Program) -> None:
    # long enough that it is still sending when it is stopped
    load = replace(LOAD, url=f"{server.url}/post", transport="http", streams=2, seconds=5.0)
    with Generator(load) as generator:
        generator.connect()
        generator.go()
        while not posted(server):
            time.sleep(0.005)  # its clock has started
        os.kill(generator.pid, signal.SIGSTOP)
        time.sleep(0.5)  # the fault itself, a tenth of the schedule
        os.kill(generator.pid, signal.SIGCONT)
        generator.finish()
        outcome = generator.outcome()
    assert sum(account.results for account in outcome.accounts) == 500
    assert lateness(outcome).startswith("the generator did not keep its schedule: items went out up to ")
    assert outcome.latency.percentile(99) > 100  # an item's clock runs from when it was due
    assert outcome.loop.percentile(99) > 100  # its event loop was stopped, too


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"strems": 1}, "unknown field `strems`"), ({"rate": "fast"}, r"got `str` - at `\$\.rate`")],
)
def test_invalid_load_names_key(change: dict[str, object], sentence: str) -> None:
    document = {**json.loads(msgspec.json.encode(LOAD)), **change}
    with pytest.raises(msgspec.ValidationError, match=sentence):
        msgspec.json.decode(json.dumps(document), type=Load)
