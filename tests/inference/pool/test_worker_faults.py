"""What workers do wrong, W1 to W15: each fault is made on a real engine, beside a client that must not notice.

======  ===================================  ==========================================================
row     fault                                what must come of it
======  ===================================  ==========================================================
W1      SIGKILL in the middle of an item     the item runs once more; other slots untouched; slot back
W2      hang: Python loop, SIGSTOP, native   ended at the model's timeout, ``timeout``; slot back
W3      memory runs out                      ``out_of_memory`` or W1; the kernel ends a worker first
W4      segmentation fault                   ``worker_lost``; the traceback is in the log
W5      an item that ends every worker       two workers at most; the stream ends at its third
W6      crash loop at the start              ever longer pauses; the model is unavailable and says why
W7      a worker that breaks the protocol    it is replaced; lengths are capped
W8      an answer that comes too late        one outcome; counted as discarded if the client has gone
W9      a leak                               replaced between items, behind a warm spare
W10     one item in ten is ten times slower  ages bounded; what is dropped has its reason
W11     100 MB on the standard output        nobody waits; the log is bounded
W12     SIGKILL to the server, or its group  no worker survives; nothing in /dev/shm
W13     many deaths                          no zombie
W14     fork with threads                    nothing forks: a worker is a program of its own
W15     libraries with threads of their own  one thread in a worker
======  ===================================  ==========================================================

After every test the same must hold, see `oracle`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from inference.engine import Engine
from inference.items import Dropped, Failed, Outcome, Result
from inference.model import ModelSource, Policy
from inference.pool import pool as pool_module
from inference.pool import process as process_module
from inference.pool import slot as slot_module
from inference.pool import worker as worker_module
from inference.pool.pool import WorkerOptions
from inference.pool.process import WorkerProcess
from inference.pool.states import Stimulus
from inference.pool.worker import Worker
from inference.pool.worker_log import BURST, LINES_PER_S
from inference.scheduling.scheduler import MAX_KILLS
from inference.scheduling.statistics import Tally
from inference.wire.features import ON
from inference.worker.main import OOM_SCORE
from tests.conftest import WAIT
from tests.inference.pool.test_pool import pending_timers
from tests.inference.test_engine import Stream, load_on, outputs, restarted, source, unread_bytes, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the faults are made with what Linux has")

ROOT = Path(__file__).parents[3]

MOST_LOG_LINES = 2000
"""Of one test: the floods print a million."""


class Bystander:
    """A client of another model in the same workers: one item after the other, and each has its result."""

    def __init__(self, engine: Engine) -> None:
        self.stream = Stream(engine, "length")
        self._enough = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while not self._enough:
            self.stream.send("abc")
            await self.stream.answered()
            await asyncio.sleep(0.005)

    async def turn(self) -> None:
        """Wait until an item that is sent from now on is answered."""
        sent = self.stream.sent
        await until(lambda: len(self.stream.outcomes) > sent or self._task.done())

    async def end(self) -> None:
        await self.turn()
        self._enough = True
        await self._task
        assert {type(outcome) for outcome in self.stream.outcomes.values()} == {Result}


class Oracle:
    """Starts engines, each with a bystander."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self.bystanders: list[Bystander] = []

    async def start(self, *models: str | ModelSource, workers: int = 2, **options: Any) -> Engine:
        sources = [model if isinstance(model, ModelSource) else source(model) for model in models]
        engine = Engine([*sources, source("Length")], workers, WorkerOptions(**options))
        self.engines.append(engine)
        engine.start()
        async with asyncio.timeout(30):
            await engine.warm()
        await restarted(engine)
        self.bystanders.append(Bystander(engine))
        return engine

    async def turn(self) -> None:
        await self.bystanders[-1].turn()


def footprint() -> dict[str, Any]:
    """What this process and its children take up."""
    me = psutil.Process()
    return {
        "descriptors": me.num_fds(),
        "processes": {child.pid for child in me.children(recursive=True)},
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "shared memory": shared_memory(),
    }


def grown(before: dict[str, Any]) -> dict[str, Any]:
    """What of it has become more; what an earlier test left behind may well go meanwhile."""
    return {name: (before[name], now) for name, now in footprint().items() if not now <= before[name]}


def shared_memory() -> set[str]:
    """Segments and named semaphores; browsers, which other tests may run, have hidden names there."""
    return {entry.name for entry in Path("/dev/shm").iterdir() if not entry.name.startswith(".")}


@pytest.fixture(autouse=True)
async def oracle(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Oracle]:
    """After every test: the law, the bystander's answers, nothing left, nothing unhandled, a bounded log."""
    before, timers = footprint(), pending_timers()
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    oracle = Oracle()
    yield oracle
    for bystander in oracle.bystanders:
        await bystander.end()
    for engine in oracle.engines:
        assert engine.statistics().total.balanced
        async with asyncio.timeout(WAIT):
            await engine.stop()
        total = engine.statistics().total
        assert total.received == total.results + total.errors + total.dropped
        assert (total.waiting, total.running) == (0, 0)
    gc.collect()  # a task's exception that nobody retrieved is told then
    assert unhandled == []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WAIT):
            while grown(before):
                await asyncio.sleep(0.02)
    assert grown(before) == {}
    assert pending_timers() <= timers
    # the text is the teardown's own by now
    logged = [record.getMessage() for record in caplog.get_records("call")]
    assert not any("failed to take an outcome" in line for line in logged), "see Stream.deliver"
    assert len(logged) < MOST_LOG_LINES


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers be worn as soon as they serve."""
    monkeypatch.setattr(slot_module, "RECYCLE_PAUSE", 0.0)


def need_the_truth(engine: Engine) -> None:
    """Skip where kills from outside cannot be told from others."""
    if engine.workers().sandbox.get("seccomp") != ON or process_module.oom_kills() is None:
        pytest.skip("this machine does not tell who sent a SIGKILL")


async def fail(stream: Stream, order: str) -> Failed:
    """Send an item that must fail; its error."""
    stream.send(order)
    await stream.answered()
    outcome = stream.outcomes[stream.sent]
    assert isinstance(outcome, Failed), outcome
    return outcome


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What workers have printed, without their numbers."""
    lines = [record.getMessage() for record in caplog.records if record.name == "inference.worker.main"]
    return [line.partition(": ")[2] for line in lines]


def pids_in(outcomes: list[Outcome]) -> list[int]:
    return [json.loads(o.outputs)["pid"] for o in outcomes if isinstance(o, Result)]


async def test_w01_sigkill_mid_inference_costs_no_item_and_no_other_slot(oracle: Oracle) -> None:
    engine = await oracle.start("Patient")
    chance = random.Random(1)
    kills = 6
    async with load_on(engine, "patient", "sleep 0.1") as stream:
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0, 0.1))
            killed, other = chance.sample(engine.workers().pids, 2)
            under_way = stream.sent
            os.kill(killed, signal.SIGKILL)
            await until(lambda killed=killed: killed not in engine.workers().pids)
            await restarted(engine)
            assert other in engine.workers().pids
            # what was retried has its answer, so that no item is hit twice
            await until(lambda sent=under_way: all(seq in stream.outcomes for seq in range(1, sent + 1)))
            await oracle.turn()
    workers = engine.workers()
    assert (workers.deaths, workers.ready) == (kills, 2)
    assert 1 <= engine.statistics().total.retried <= kills
    assert engine.statistics().total.errors == 0


async def test_w01_killing_all_workers_at_once_blames_no_item(oracle: Oracle) -> None:
    """A second try may be given to a worker that is dead already: that it has not read it is no guilt."""
    engine = await oracle.start("Patient", workers=4)
    for _ in range(5):
        stream = Stream(engine, "patient")
        stream.send("sleep 0.05")
        await stream.running()
        for pid in engine.workers().pids:
            os.kill(pid, signal.SIGKILL)
        for pid in engine.workers().pids:  # one that still lived could read the second try, and end with it
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        (outcome,) = await stream.answered()
        assert isinstance(outcome, Result), outcome
        await restarted(engine)
        await oracle.turn()  # so that no item of the bystander is hit twice
    assert engine.statistics().total.errors == 0


async def test_w01_killing_the_busy_worker_again_and_again_blames_no_stream(oracle: Oracle) -> None:
    engine = await oracle.start("Patient", spares=1)
    need_the_truth(engine)
    stream = Stream(engine, "patient")
    for sent in range(1, 4):
        stream.send("sleep 0.3")
        for kills in range(1, MAX_KILLS):
            busy = None
            while busy is None:
                await asyncio.sleep(0.005)
                workers = [slot.worker for slot in engine._pools["default"].slots if slot.busy]
                busy = next(
                    (w for w in workers if w._batch.model.name == "patient" and not w.exit_reason), None
                )
            os.kill(busy.pid, signal.SIGKILL)
            await until(lambda n=kills, s=sent: engine.workers().deaths == n + (s - 1) * (MAX_KILLS - 1))
        outcome = (await stream.answered())[-1]
        assert isinstance(outcome, Result), outcome


async def test_w01_streams_are_served_soon_after_forty_kills_whatever_they_hit(oracle: Oracle) -> None:
    """Also workers that start or load, which a model that has loaded is not left out for."""
    engine = await oracle.start("Patient")
    chance = random.Random(3)
    async with load_on(engine, "patient") as stream:
        for deaths in range(1, 41):
            await until(lambda: engine.workers().pids)
            await asyncio.sleep(chance.uniform(0, 0.1))
            if pids := engine.workers().pids:
                os.kill(chance.choice(pids), signal.SIGKILL)
                await until(lambda n=deaths: engine.workers().deaths >= min(n, 1))
        assert {status.state for status in engine.models()} <= {"ready", "loading"}
        sent = stream.sent
        await until(lambda: sent in stream.outcomes)
        await restarted(engine)
    failed = [outcome for outcome in stream.outcomes.values() if not isinstance(outcome, Result)]
    assert all(isinstance(outcome, Failed) and outcome.retryable for outcome in failed), failed


async def test_w01_an_item_that_the_dying_worker_had_not_read_waits_on_as_if_nothing_had_happened(
    oracle: Oracle,
) -> None:
    engine = await oracle.start("Patient", workers=1)
    stream = Stream(engine, "patient")
    (pid,) = engine.workers().pids
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)  # it may read on until it has heard of it
    stream.send("answer unharmed")
    await stream.running()
    os.kill(pid, signal.SIGKILL)
    (outcome,) = await stream.answered()
    assert isinstance(outcome, Result)
    tally = engine.tally(stream.number)
    assert (tally.results, tally.retried) == (1, 0)


@pytest.mark.parametrize("hang", ["spin", "stop", "hang"])
async def test_w02_a_hang_ends_at_the_timeout(
    oracle: Oracle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hang: str
) -> None:
    monkeypatch.setattr(worker_module, "DUMP_GRACE", WAIT if hang != "stop" else 0.1)
    hangs = Worker._hangs
    where = re.compile(rf"line \d+ in {hang}$")

    def there(worker: Worker) -> bool:
        if hang == "stop":
            return psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED
        return f"{hang}s" in printed(caplog)

    def hangs_when_there(worker: Worker) -> None:
        """Take the worker's time as over, but not before the worker has come to hang."""
        if there(worker):
            hangs(worker)
        else:
            worker._timer = asyncio.get_running_loop().call_later(0.01, worker._hangs)

    monkeypatch.setattr(Worker, "_hangs", hangs_when_there)
    engine = await oracle.start("Hasty", "Twin")
    before = set(engine.workers().pids)
    stream = Stream(engine, "hasty")
    started = engine.now()
    stream.send(hang)
    await stream.running()
    (slot,) = (
        slot
        for slot in engine._pools["default"].slots
        if slot.busy and slot.worker._batch.model.name == "hasty"
    )
    if hang != "stop":
        await until(lambda: any(map(where.search, printed(caplog))))
        slot.worker._disarm()  # the timer might come before the worker has written it
        slot.worker._end(worker_module.TIMEOUT, Stimulus.TIMEOUT)
    (failed,) = await stream.answered()
    assert isinstance(failed, Failed)
    assert engine.now() - started >= 0.5
    assert (failed.code, failed.retryable) == ("timeout", False)
    assert engine.tally(stream.number).retried == 0, "it would hang again"
    await restarted(engine)
    assert engine.workers().deaths == 1
    assert len(before & set(engine.workers().pids)) == 1
    assert f"(a batch took too long, exit status {-signal.SIGKILL})" in caplog.text
    told = any(map(where.search, printed(caplog)))
    assert told == (hang != "stop"), "the log tells where it was, unless it was stopped"
    assert await outputs(engine, "answer", "twin")


async def test_w02_a_worker_that_stands_still_with_the_server_is_not_late(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that is frozen, or on a machine that is suspended."""
    monkeypatch.setattr(worker_module, "DUMP_GRACE", 0.0)  # in which its answer would come
    engine = await oracle.start("Hasty", workers=1)
    stream = Stream(engine, "hasty")
    (pid,) = engine.workers().pids
    for _ in range(3):
        stream.send("sleep 0.1")
        await stream.running()
        os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(1.0)  # twice the model's time, in which the loop stands still as well
        os.kill(pid, signal.SIGCONT)
        assert isinstance((await stream.answered())[-1], Result)
    assert engine.workers().deaths == 0


@pytest.mark.usefixtures("no_pause")
async def test_w03_memory_that_ends_at_its_limit_costs_that_item_and_renews_the_worker(
    oracle: Oracle,
) -> None:
    engine = await oracle.start("Patient", memory_mb=2000, spares=1)
    stream = Stream(engine, "patient")
    before = set(engine.workers().pids)
    failed = await fail(stream, "allocate 4000")
    assert (failed.code, failed.retryable) == ("out_of_memory", False)
    await until(lambda: engine.workers().recycled == 1)
    await restarted(engine)
    assert len(before & set(engine.workers().pids)) == 2
    assert engine.workers().deaths == 0
    stream.send("allocate 500")
    assert isinstance((await stream.answered())[-1], Result)


async def test_w03_an_item_that_the_worker_cannot_even_read_costs_that_item_alone(oracle: Oracle) -> None:
    engine = await oracle.start("Patient", memory_mb=200)
    stream = Stream(engine, "patient")
    failed = await fail(stream, "answer" + " " * (200 << 20))
    assert (failed.code, failed.retryable) == ("out_of_memory", False)
    stream.send("answer")
    assert isinstance((await stream.answered())[-1], Result)
    assert engine.workers().deaths == 0


async def test_w03_the_kernel_ends_workers_before_the_server(oracle: Oracle) -> None:
    engine = await oracle.start("Patient", spares=1)

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert len(engine.workers().pids) == 3
    assert {score(pid) for pid in engine.workers().pids} == {min(score(os.getpid()) + OOM_SCORE, 1000)}


@contextlib.contextmanager
def memory_group(megabytes: int) -> Iterator[Path]:
    """A memory cgroup below this process's own, which is removed again.

    Raises:
        OSError, LookupError: none can be made here.
    """
    paths = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            group, limit = Path(mount + paths["memory"]), "memory.limit_in_bytes"
            break
        if kind == "cgroup2" and "memory" in Path(mount, "cgroup.controllers").read_text().split():
            group, limit = Path(mount + paths[""]), "memory.max"
            break
    else:
        raise LookupError("no mounted cgroup hierarchy has the memory controller")
    group /= f"test-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(megabytes << 20))
        yield group
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):  # busy for a moment after its last process
                group.rmdir()
                break
            threading.Event().wait(0.02)


async def test_w03_a_worker_that_the_kernel_ends_is_replaced_and_costs_nothing(
    oracle: Oracle, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(memory_group(100))
        except (OSError, LookupError) as exc:
            pytest.skip(f"no memory cgroup can be made here: {exc}")
        engine = await oracle.start("Patient", workers=1)
        (held,) = engine.workers().pids
        (group / "cgroup.procs").write_text(str(held))
        stream = Stream(engine, "patient")
        stream.send("fill 300")
        (outcome,) = await stream.answered()
        assert isinstance(outcome, Result), "its second worker is in no such group"
        assert engine.tally(stream.number).retried == 1
        assert engine.workers().deaths == 1
        assert held not in engine.workers().pids
        assert f"exit status {-signal.SIGKILL}" in caplog.text
    assert not group.exists()


async def test_w04_a_segfault_is_a_lost_worker_and_leaves_its_traceback(
    oracle: Oracle, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await oracle.start("Twin")
    stream = Stream(engine, "twin")
    failed = await fail(stream, "segfault")
    assert (failed.code, failed.retryable) == ("worker_lost", False)
    await restarted(engine)
    assert engine.workers().deaths == 2, "and the stream has one more before it ends"
    assert caplog.text.count(f"exit status {-signal.SIGSEGV}") == 2
    lines = printed(caplog)
    assert lines.count("Fatal Python error: Segmentation fault") == 2
    assert sum(bool(re.search(r"sample_models\.py\", line \d+ in segfault", line)) for line in lines) == 2
    stream.send("answer")
    assert isinstance((await stream.answered())[-1], Result)


@pytest.mark.parametrize("policy", ["queue", "latest"])
async def test_w05_a_poison_item_ends_two_workers_and_a_stream_of_them_three(
    oracle: Oracle, caplog: pytest.LogCaptureFixture, policy: Policy
) -> None:
    engine = await oracle.start("Twin")
    poisonous = Stream(engine, "twin", policy, 8 if policy == "queue" else 1)
    async with load_on(engine, "twin"):
        failures = [await fail(poisonous, f"poison {n}") for n in range(4)]
        await restarted(engine)
    assert [(failed.code, failed.retryable) for failed in failures] == [
        ("worker_lost", False),
        ("poison", False),
        ("poison", False),
        ("poison", False),
    ]
    assert engine.workers().deaths == 3
    assert [line for line in printed(caplog) if line.startswith("poison")] == [
        "poison 0",
        "poison 0",
        "poison 1",
    ], "no item had a third worker, and nothing ran any more"
    poisonous.stream.close()
    assert (await outputs(engine, "answer", "twin"))["answer"] == [], "the model serves others"
    assert engine.workers().deaths == 3


async def test_w05_what_waits_behind_the_poison_ends_with_it(oracle: Oracle) -> None:
    engine = await oracle.start("Twin", workers=1)
    stream = Stream(engine, "twin")
    for order in ["exit 1", "exit 1", "answer", "answer"]:
        stream.send(order)
    outcomes = await stream.answered()
    assert [o.code for o in outcomes if isinstance(o, Failed)] == ["worker_lost", *["poison"] * 3]
    assert engine.workers().deaths == 3


class Started(WorkerProcess):
    """Notes when workers are started."""

    times: list[float]

    def __init__(self, loop: asyncio.AbstractEventLoop, on_exit: Callable[[int], None]) -> None:
        self.times.append(loop.time())
        super().__init__(loop, on_exit)


async def test_w06_a_worker_that_ends_at_its_start_is_tried_at_ever_longer_intervals(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await oracle.start("Patient")
    monkeypatch.setattr(Started, "times", [], raising=False)
    with monkeypatch.context() as broken:
        broken.setattr(process_module, "WorkerProcess", Started)
        broken.setattr(sys, "executable", "/bin/false")
        killed, other = engine.workers().pids
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(Started.times) >= 4)
        assert engine.workers().ready == 1
        assert other in engine.workers().pids
    first = Started.times[:4]
    gaps = [later - earlier for earlier, later in itertools.pairwise(first)]
    assert all(gap >= least for gap, least in zip(gaps, (0.1, 0.2, 0.4), strict=True)), gaps
    await restarted(engine)


@pytest.mark.parametrize(
    ("how", "starts", "reason"),
    [
        ("raise", 2, "loading it failed with OSError; the server's log has the traceback"),
        ("exit", 4, "its worker ended while loading it (exit status 7)"),
    ],
)
async def test_w06_a_model_that_cannot_be_loaded_is_unavailable_and_tried_ever_more_seldom(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, starts: int, reason: str
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_RETRY", 3600.0)  # however long the start takes
    monkeypatch.setattr(slot_module, "LAST_BACKOFF", 0.05)
    marks, cause = tmp_path / "marks", tmp_path / "cause"
    cause.touch()

    def attempts() -> list[float]:
        return [float(line) for line in marks.read_text().splitlines()]

    broken = source("Repaired", marks=str(marks), cause=str(cause), how=how)
    engine = await oracle.start(broken, "Twin")
    status = engine.models()[0]
    assert (status.state, status.reason) == ("unavailable", reason)
    assert len(attempts()) <= starts
    seen = len(attempts())
    (pool,) = engine._pools.values()
    assert pool._retry
    pool._retry.cancel()
    pool._retry, pool._retry_delay = None, 0.3
    pool._retry_later()
    async with load_on(engine, "twin"):
        await until(lambda: len(attempts()) >= seen + 3)
    third, second, first = attempts()[-1:-4:-1]
    assert third - second >= 0.6
    assert second - first >= 0.3
    assert engine.models()[0].state == "unavailable"


ERROR = '{"code":"forged","message":"m"}'

GARBLED = {
    "garbage": "it broke the framing: a message of ",
    "half": "exit status 0)",
    "long-header": f"it broke the framing: a message of {(1 << 20) + 1} + 0 bytes",
    "long-body": f"it broke the framing: a message of 2 + {(64 << 20) + 1} bytes",
    '{"type":"answers","infer_ms":0,"items":[50],"resident_mb":1}': "parts of 50 bytes in a body of 0",
    '{"type":"answers","infer_ms":0,"items":[],"resident_mb":1}': "0 answers, 0 states to 1 items",
    f'{{"type":"answers","infer_ms":0,"items":[{ERROR},{ERROR}],"resident_mb":1}}': "2 answers, 0 states to",
    '{"type":"importing","model":"nobody"}': "that is busy has no transition for importing",
}
"""What a worker writes in place of its answer, and what the log says of it."""


@pytest.mark.parametrize("written", GARBLED)
async def test_w07_a_worker_that_breaks_the_protocol_is_replaced(
    oracle: Oracle, caplog: pytest.LogCaptureFixture, written: str
) -> None:
    engine = await oracle.start("Twin")
    stream = Stream(engine, "twin")
    failed = await fail(stream, f"write {written}")
    assert (failed.code, failed.retryable) == ("worker_lost", False)
    await restarted(engine)
    assert engine.workers().deaths == 2
    assert caplog.text.count(GARBLED[written]) == 2
    stream.send("answer")
    assert isinstance((await stream.answered())[-1], Result)


async def test_w07_a_second_answer_ends_the_worker_and_answers_nothing(
    oracle: Oracle, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no number in an answer: it can only be to the one batch that its worker has."""
    engine = await oracle.start("Twin", workers=1)
    stream = Stream(engine, "twin")
    forged = f'{{"type":"answers","infer_ms":0,"items":[{ERROR}],"resident_mb":1}}'
    stream.send(f"write {forged}")
    stream.send("answer")
    await stream.running()
    # both answers come in one read, and the next item is given to the worker in between: had they come apart,
    # the genuine one might have been read so late that it could be to that item
    (slot,) = engine._pools["default"].slots
    assert slot.worker
    sock, give_up = slot.worker._launched.transport._sock, engine.now() + WAIT
    while engine.now() < give_up:
        with contextlib.suppress(BlockingIOError):
            if sock.recv(1 << 16, socket.MSG_PEEK).count(b'"type":"answers"') == 2:
                break
        threading.Event().wait(0.01)
    failed, answer = await stream.answered()
    assert isinstance(failed, Failed)
    assert failed.code == "forged"
    assert isinstance(answer, Result)
    assert engine.workers().deaths == 1  # the genuine answer came second
    # by then the worker had another item, and not for as long as the answer says that it took
    assert "nonsense: BadMessage('a batch that took " in caplog.text


class SlowToDie(WorkerProcess):
    """Lives on when it is killed, so that it can still answer, as long as it must."""

    must_live = True

    def kill(self) -> None:
        if not self.must_live:
            super().kill()


async def test_w08_an_answer_after_the_timeout_is_no_second_outcome(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[tuple[str, str]] = []
    received = Worker.received

    def hear(worker: Worker, header: memoryview, body: memoryview) -> None:
        heard.append((json.loads(bytes(header))["type"], worker.exit_reason))
        received(worker, header, body)

    monkeypatch.setattr(Worker, "received", hear)
    with monkeypatch.context() as slow:
        slow.setattr(process_module, "WorkerProcess", SlowToDie)
        engine = await oracle.start("Hasty")
    stream = Stream(engine, "hasty")
    stream.send("wait")
    await stream.running()
    (slot,) = (
        slot
        for slot in engine._pools["default"].slots
        if slot.busy and slot.worker._batch.model.name == "hasty"
    )
    await until(lambda: slot.worker.exit_reason and "waits" in printed(caplog))
    os.kill(slot.pid or 0, signal.SIGUSR2)
    await until(lambda: ("answers", "a batch took too long") in heard)  # it has come, and too late
    monkeypatch.setattr(SlowToDie, "must_live", False)
    slot.worker._launched.kill()
    (failed,) = await stream.answered()
    assert isinstance(failed, Failed)
    assert failed.code == "timeout"
    tally = engine.tally(stream.number)
    assert (tally.received, tally.errors, tally.results, tally.discarded) == (1, 1, 0, 0)
    await restarted(engine)


async def test_w08_an_answer_after_the_items_deadline_is_its_outcome(
    oracle: Oracle, caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline is for starting on it; what has been worked out is not thrown away."""
    engine = await oracle.start("Twin")
    stream = Stream(engine, "twin")
    deadline = engine.now() + 1.0
    stream.send("wait", deadline)
    await stream.running()
    (slot,) = (
        slot
        for slot in engine._pools["default"].slots
        if slot.busy and slot.worker._batch.model.name == "twin"
    )
    await until(lambda: engine.now() > deadline and "waits" in printed(caplog))
    os.kill(slot.pid or 0, signal.SIGUSR2)
    (outcome,) = await stream.answered()
    assert isinstance(outcome, Result)
    tally = engine.tally(stream.number)
    assert (tally.received, tally.results, tally.expired) == (1, 1, 0)


@pytest.mark.parametrize(("killed", "counted"), [(False, "results"), (True, "errors")])
async def test_w08_an_outcome_after_the_disconnect_is_counted_and_discarded(
    oracle: Oracle, killed: bool, counted: str
) -> None:
    engine = await oracle.start("Patient")
    stream = Stream(engine, "patient")
    stream.send("sleep 30" if killed else "sleep 0.2")
    await stream.running()
    (slot,) = (
        slot
        for slot in engine._pools["default"].slots
        if slot.busy and slot.worker._batch.model.name == "patient"
    )
    stream.stream.close()

    def tally() -> Tally:
        return engine.statistics().of("patient")[0].tally

    assert (tally().received, tally().running, tally().discarded) == (1, 1, 0)
    if killed:
        await until(lambda: not unread_bytes(slot))
        os.kill(slot.pid or 0, signal.SIGKILL)
    await until(lambda: not tally().running)
    assert (tally().received, getattr(tally(), counted), tally().discarded, tally().retried) == (1, 1, 1, 0)
    assert stream.outcomes == {}


@pytest.mark.usefixtures("no_pause")
async def test_w09_a_leaking_worker_is_replaced_behind_a_warm_spare(oracle: Oracle) -> None:
    engine = await oracle.start("Hoards", workers=1, spares=1, recycle_mb=100)
    stream = Stream(engine, "hoards")
    start = engine.workers().resident_mb
    peak, serving = 0, []
    for _ in range(12):
        await until(lambda: engine.workers().spares == 1)
        stream.send("30")
        await stream.answered()
        peak = max(peak, engine.workers().resident_mb)
        serving.append(engine.workers().ready)
    outcomes = await stream.answered()
    assert [json.loads(o.outputs)["kept"] for o in outcomes if isinstance(o, Result)] == [1, 2, 3, 4] * 3
    assert len(set(pids_in(outcomes))) == 3
    assert (engine.workers().recycled, engine.workers().deaths) == (3, 0)
    assert set(serving) == {1}, "a spare was there each time"
    assert 90 <= peak - start <= 160
    assert engine.statistics().total.retried == 0


async def test_w10_slow_items_make_drops_and_no_old_answers(oracle: Oracle) -> None:
    engine = await oracle.start("Drifts")
    streams = [Stream(engine, "drifts", "latest", 1) for _ in range(4)]
    patience, give_up = 0.3, engine.now() + WAIT
    # three at once, of which one at most can be started on, until there are enough to have slow ones among them
    while engine.statistics().of("drifts")[0].tally.results < 100 and engine.now() < give_up:
        for stream in streams:
            for _ in range(3):
                stream.send("x", engine.now() + patience)
        await asyncio.sleep(0.01)
    outcomes = [outcome for stream in streams for outcome in await stream.answered()]
    results = [o for o in outcomes if isinstance(o, Result)]
    dropped = [o for o in outcomes if isinstance(o, Dropped)]
    assert len(results) + len(dropped) == len(outcomes) == sum(stream.sent for stream in streams)
    assert {o.reason for o in dropped} <= {"superseded", "expired"}
    assert len(dropped) > len(results) > 20
    statistics = engine.statistics().of("drifts")[0]
    assert statistics.tally.dropped == len(dropped)
    assert max(o.queue_ms for o in results) <= patience * 1e3, "nothing older was started on"
    assert statistics.peak <= 2 * len(streams), "one runs and one waits"


async def test_w11_a_flood_of_output_blocks_nobody_and_the_log_is_bounded(
    oracle: Oracle, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await oracle.start("Patient")
    stream = Stream(engine, "patient")
    started = engine.now()
    stream.send("flood 100")
    await until(lambda: "x" * 63 in printed(caplog))
    for _ in range(3):
        await oracle.turn()
    assert not stream.outcomes, "the bystander was answered meanwhile"
    (slot,) = (
        slot
        for slot in engine._pools["default"].slots
        if slot.busy and slot.worker._batch.model.name == "patient"
    )
    os.kill(slot.pid or 0, signal.SIGUSR2)
    (flood,) = [json.loads(o.outputs) for o in await stream.answered() if isinstance(o, Result)]
    assert flood["lines"] >= (100 << 20) // 64
    os.kill(flood["pid"], signal.SIGKILL)  # at its end it is told how much was left out since the last line
    await until(lambda: engine.workers().deaths)
    lines = printed(caplog)
    left_out = [re.fullmatch(r"\(([\d,]+) lines left out\)", line) for line in lines]
    told = lines.count("x" * 63)
    assert told + sum(int(found[1].replace(",", "")) for found in left_out if found) == flood["lines"]
    assert BURST <= told <= BURST + (engine.now() - started) * LINES_PER_S
    assert len(lines) <= 2 * told
    await restarted(engine)


PARENT = """
import asyncio, sys
from inference.engine import Engine
from inference.model import ModelSource

async def main():
    async with Engine([ModelSource("patient", "tests.inference.sample_models:Patient")], 2) as engine:
        while engine.workers().ready < 2:
            await asyncio.sleep(0.01)
        if sys.argv[1]:
            call = asyncio.create_task(engine.infer("patient", sys.argv[1].encode()))
            await asyncio.sleep(0.1)
        print(*engine.workers().pids, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("whom", ["kill", "killpg"])
@pytest.mark.parametrize("doing", ["", "spin", "hang", "outlive"])
async def test_w12_a_killed_server_leaves_no_worker_and_no_shared_memory(whom: str, doing: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, doing], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout
    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    watches = [os.pidfd_open(pid) for pid in pids]  # readable when it has ended, reaped or not
    getattr(os, whom)(parent.pid, signal.SIGKILL)
    parent.wait()
    ended = [bool(select.select([watch], [], [], WAIT)[0]) for watch in watches]
    for watch in watches:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(watch, signal.SIGKILL)
        os.close(watch)
    assert ended == [True, True]


async def test_w12_workers_use_no_shared_memory_that_could_stay(oracle: Oracle) -> None:
    engine = await oracle.start("Obeys")
    await oracle.turn()
    for pid in (os.getpid(), *engine.workers().pids):
        assert "/dev/shm" not in Path(f"/proc/{pid}/maps").read_text()


async def test_w13_many_deaths_leave_no_zombie(oracle: Oracle) -> None:
    """48 of them, not the thousand that the table once asked for: each costs a start, and they are all alike."""
    me = psutil.Process()
    others = set(me.children())  # multiprocessing's resource tracker, if a test before this one needed it
    engine = await oracle.start("Patient", workers=4)
    seen: set[int] = set()
    for deaths in range(4, 52, 4):
        seen.update(engine.workers().pids)
        for pid in engine.workers().pids:
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: pid not in engine.workers().pids)
            await oracle.turn()  # so that no item of its is hit twice
        assert engine.workers().deaths == deaths
        await restarted(engine)
        workers = set(me.children()) - others
        assert [worker.pid for worker in workers if worker.status() == psutil.STATUS_ZOMBIE] == []
        assert {worker.pid for worker in workers} == set(engine.workers().pids)
    assert len(seen) == 48
    assert not any(psutil.pid_exists(pid) for pid in seen)


FORKS = {"fork", "forkpty", "vfork", "preexec_fn", "multiprocessing", "ProcessPoolExecutor"}
BEFORE_THREADS = {"stream_server/commands/init_process.py": {"fork"}}
"""What forks before any thread or lock exists: the first process of a container."""


def test_w14_no_code_forks() -> None:
    """A fork takes a copy of every lock, and not the threads that would release them."""
    words: dict[str, set[str]] = {}
    for package in ("inference", "stream_server"):
        for file in (ROOT / package).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
            found = {node.id for node in nodes if isinstance(node, ast.Name)}
            found |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            found |= {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
            for node in nodes:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                    found |= {part for name in names for part in name.split(".")}
            words[str(file.relative_to(ROOT))] = found
    assert {name: found & FORKS for name, found in words.items() if found & FORKS} == BEFORE_THREADS
    assert "Popen" in words["inference/pool/process.py"], "the words of a module are found"


async def test_w14_a_worker_is_a_program_of_its_own(oracle: Oracle) -> None:
    held, release = threading.Event(), threading.Event()
    lock = threading.Lock()

    def hold() -> None:
        with lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        engine = await oracle.start("Obeys")
    finally:
        release.set()
        thread.join()
    for pid in engine.workers().pids:
        worker = psutil.Process(pid)
        *command, fd, parent = worker.cmdline()
        assert command == [sys.executable, "-P", "-m", "inference.worker.main"]
        assert fd.isdigit()
        assert int(parent) == os.getpid() == worker.ppid()
    assert "pytest" in sys.modules
    assert await outputs(engine, "imported inference.worker.main") is False, "it is __main__ there"
    assert await outputs(engine, "imported inference.wire.framing") is True
    assert await outputs(engine, "imported pytest") is False, "nothing of this process is in it"


async def test_w15_libraries_have_one_thread_in_a_worker(oracle: Oracle) -> None:
    faces = ModelSource("faces", "inference.models.faces:Faces")
    engine = await oracle.start(faces, "Threads", "Libraries")
    portrait = (ROOT / "web_client" / "sample.jpg").read_bytes()
    most = dict.fromkeys(engine.workers().pids, 0)
    running = [asyncio.ensure_future(engine.infer("faces", portrait)) for _ in range(20)]
    while not all(call.done() for call in running):
        for pid in most:
            most[pid] = max(most[pid], len(list(Path(f"/proc/{pid}/task").iterdir())))
        await asyncio.sleep(0.002)
    for call in running:
        outcome = await call
        assert isinstance(outcome, Result)
        assert len(json.loads(outcome.outputs)["faces"]) == 1
    assert set(most.values()) == {1}, "ONNX Runtime and the decoding, while they run"
    assert await outputs(engine, b"x", "threads") == 1, "NumPy"
    assert await outputs(engine, b"x", "libraries") == 1, "OpenCV"
    for pid in most:
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        environment = psutil.Process(pid).environ()
        assert {environment[f"{name}_NUM_THREADS"] for name in ("OMP", "OPENBLAS", "MKL")} == {"1"}
