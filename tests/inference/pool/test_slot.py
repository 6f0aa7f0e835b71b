"""One slot and its real workers: a batch at a time, deaths and backing off, wear, and replacement."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence

import pytest

from inference.items import Batch, Failed, Outcome, Result
from inference.model import DEFAULT_LOAD_TIMEOUT_S
from inference.pool import slot as slot_module
from inference.pool import worker as worker_module
from inference.pool.pool import LOAD_DEATHS
from inference.pool.slot import RESTARTS, Slot
from inference.pool.states import State
from tests.conftest import WAIT
from tests.inference.pool.test_pool import UNSTARTED, Make, Recorder, ask, batch, pools, until


@pytest.fixture
async def owner() -> Recorder:
    return Recorder()


@pytest.fixture
async def make(owner: Recorder) -> AsyncIterator[Make]:
    async with pools(owner) as make:
        yield make


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers be worn as soon as they serve."""
    monkeypatch.setattr(slot_module, "RECYCLE_PAUSE", 0.0)


def state_of(slot: Slot) -> State | None:
    return slot.worker.state if slot.worker else None


def pid_in(outcome: Outcome) -> int:
    assert isinstance(outcome, Result), outcome
    pid: int = json.loads(outcome.outputs)["pid"]
    return pid


async def test_a_slot_has_one_batch_at_a_time(make: Make, owner: Recorder) -> None:
    pool = make("Obeys")
    (slot,) = pool.slots
    assert (slot.ready, slot.free, slot.pid, slot.gone) == (False, False, None, True)
    pool.start()
    assert not slot.free
    with pytest.raises(RuntimeError, match="a worker that is starting has no transition for submit"):
        slot.worker.submit(batch(pool, "obeys", "answer"))
    await owner.until(lambda: slot.free)
    work = batch(pool, "obeys", "sleep 0.05", "refuse", "print x")
    frees = owner.frees
    slot.worker.submit(work)
    assert (slot.ready, slot.free) == (True, False)
    with pytest.raises(RuntimeError):
        slot.worker.submit(work)
    await owner.until(lambda: owner.done)
    ((done, (first, second, third), infer_ms),) = owner.done
    assert done is work
    assert isinstance(first, Result)
    assert second == Failed(work.items[1], "bad_word", "x" * 10)
    assert isinstance(third, Result)
    assert (third.outputs, third.batch, third.infer_ms) == ('"printed"', 3, infer_ms)
    assert infer_ms >= 50
    assert owner.frees == frees + 1
    assert slot.free


async def test_a_worker_that_is_being_ended_is_not_free(make: Make, owner: Recorder) -> None:
    pool = make("Length")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    assert slot.worker
    slot.worker._launched.transport._sock.shutdown(socket.SHUT_RD)
    async with asyncio.timeout(WAIT):
        while not slot.worker.exit_reason:
            await asyncio.sleep(0)
    assert not slot.free
    assert not slot.gone
    await owner.until(lambda: slot.free)


async def test_a_slot_that_was_ready_is_replaced_at_once(make: Make, owner: Recorder) -> None:
    pool = make("Twin")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    for _ in range(3):
        slot.worker.submit(batch(pool, "twin", "exit 1"))
        await owner.until(lambda: owner.lost)
        owner.lost.clear()
        assert slot.pid is not None
        await owner.until(lambda: slot.free)


async def test_a_worker_that_dies_whenever_it_is_ready_is_not_replaced_at_once_for_ever(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_module, "RESTART_EVERY", 60.0)
    pool = make("Length")
    pool.start()
    (slot,) = pool.slots
    for deaths in range(1, RESTARTS + 2):
        await owner.until(lambda: slot.ready)
        os.kill(slot.pid or 0, signal.SIGKILL)
        await owner.until(lambda deaths=deaths: slot.deaths == deaths)
        assert slot.gone == (deaths > RESTARTS)


async def test_time_gives_restarts_at_once_again(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_module, "RESTART_EVERY", 1e-9)  # it passes while the next worker starts
    pool = make("Length")
    pool.start()
    (slot,) = pool.slots
    for deaths in range(1, RESTARTS + 3):
        await owner.until(lambda: slot.ready)
        os.kill(slot.pid or 0, signal.SIGKILL)
        await owner.until(lambda deaths=deaths: slot.deaths == deaths)
        assert not slot.gone


async def test_a_crash_loop_is_no_fork_bomb(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = make("Length")
    started = pool.clock.now()
    pool.start()
    await owner.until(lambda: pool.slots[0].deaths >= 5)
    assert pool.clock.now() - started >= 0.1 + 0.2 + 0.4 + 0.8
    monkeypatch.undo()
    await owner.until(lambda: pool.slots[0].free)


async def test_a_worker_that_cannot_be_started_is_tried_again(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    pool = make("Length", workers=2)
    pool.start()
    assert all(slot.gone for slot in pool.slots)
    monkeypatch.undo()
    await owner.until(lambda: all(slot.free for slot in pool.slots))


async def test_loading_that_hangs_is_ended(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_module, "LAST_BACKOFF", 0.05)
    pool = make("LoadHangs", "Length")
    pool.start()
    (slot,) = pool.slots
    # no sooner, as a short time might be over: a worker's start, which is no model's, may take any time
    await until(lambda: state_of(slot) == State.LOADING)
    assert slot.worker
    assert slot.worker._timer
    assert 0 < slot.worker._timer._left <= DEFAULT_LOAD_TIMEOUT_S  # type: ignore[attr-defined]
    slot.worker._timer._call()  # type: ignore[attr-defined]
    await owner.until(lambda: slot.free)
    state, reason = pool.state("loadhangs")
    sentence = (
        "loading loadhangs took over 300 s; if it needs longer, raise load_timeout_s in [models.loadhangs]"
    )
    assert (state, reason, slot.deaths) == ("unavailable", sentence, 1)
    assert pool.state("length") == ("ready", None)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("spares", [0, 1])
async def test_a_worker_is_replaced_after_so_many_batches(make: Make, owner: Recorder, spares: int) -> None:
    pool = make("Obeys", spares=spares, recycle_batches=3)
    pool.start()
    pids = []
    for n in range(9):
        await owner.until(lambda: all(slot.ready for slot in pool.slots))
        (slot,) = (slot for slot in pool.slots if slot.free)
        pids.append(pid_in(await ask(pool, owner, slot, "obeys", "answer")))
        assert sum(slot.recycled for slot in pool.slots) == (n + 1) // 3
    assert [pids[n : n + 3] for n in (0, 3, 6)] == [[pids[n]] * 3 for n in (0, 3, 6)]
    assert len(set(pids)) == 3
    assert sum(slot.deaths for slot in pool.slots) == 0


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("spares", [0, 1])
async def test_a_worker_is_replaced_when_it_has_grown_too_far(
    make: Make, owner: Recorder, spares: int
) -> None:
    pool = make("Hoards", spares=spares, recycle_mb=80)
    pool.start()
    kept = []
    for _ in range(6):
        await owner.until(lambda: all(slot.ready for slot in pool.slots))
        (slot,) = (slot for slot in pool.slots if slot.free)
        outcome = await ask(pool, owner, slot, "hoards", "30")
        assert isinstance(outcome, Result)
        kept.append(json.loads(outcome.outputs)["kept"])
    assert kept == [1, 2, 3, 1, 2, 3]
    assert sum(slot.recycled for slot in pool.slots) == 2
    assert sum(slot.deaths for slot in pool.slots) == 0
    await owner.until(lambda: all(slot.ready for slot in pool.slots))
    assert all(0 < slot.resident_mb < 80 for slot in pool.slots), "a new worker's memory is told"


@pytest.mark.usefixtures("no_pause")
async def test_memory_that_a_worker_had_when_it_was_ready_is_no_growth(make: Make, owner: Recorder) -> None:
    pool = make("Hoards", recycle_mb=10)
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    assert slot.resident_mb > 10
    assert isinstance(await ask(pool, owner, slot, "hoards", "0"), Result)
    assert (slot.recycled, slot.free) == (0, True)


@pytest.mark.usefixtures("no_pause")
async def test_a_worker_whose_memory_ran_out_is_replaced(make: Make, owner: Recorder) -> None:
    pool = make("Obeys")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    before = slot.pid
    failed = await ask(pool, owner, slot, "obeys", "fail ValueError")
    assert isinstance(failed, Failed)
    assert (slot.recycled, slot.free) == (0, True), "another error is no reason"
    failed = await ask(pool, owner, slot, "obeys", "fail MemoryError")
    assert isinstance(failed, Failed)
    assert failed.code == "out_of_memory"
    await owner.until(lambda: slot.free)
    assert (slot.recycled, slot.deaths) == (1, 0)
    assert slot.pid != before


async def test_a_young_worker_is_not_worn(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_module, "RECYCLE_PAUSE", 3600.0)  # it is young however long the test takes
    pool = make("Hoards", recycle_batches=1, recycle_mb=1)
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    before = slot.pid
    for _ in range(3):
        assert isinstance(await ask(pool, owner, slot, "hoards", "2"), Result)
    assert (slot.pid, slot.recycled, slot.free) == (before, 0, True)


@pytest.mark.usefixtures("no_pause")
async def test_without_limits_a_worker_is_never_worn(make: Make, owner: Recorder) -> None:
    pool = make("Hoards")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    for _ in range(5):
        assert isinstance(await ask(pool, owner, slot, "hoards", "30"), Result)
    assert (slot.recycled, slot.free) == (0, True)


async def test_a_stale_worker_finishes_its_batch_first(make: Make, owner: Recorder) -> None:
    pool = make("Obeys")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    before = slot.pid
    work = batch(pool, "obeys", "sleep 0.2", "answer")
    slot.worker.submit(work)
    slot.worker.worn = True
    pool.renew()
    assert (slot.busy, slot.recycled) == (True, 0)
    await owner.until(lambda: owner.done)
    ((_, outcomes, _),) = owner.done
    assert [pid_in(outcome) for outcome in outcomes] == [before, before]
    await owner.until(lambda: slot.free)
    assert (slot.recycled, slot.stale) == (1, False)
    assert slot.pid != before


async def test_a_retired_worker_that_does_not_end_is_ended(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STOP_GRACE", 0.3)
    pool = make("Lingers", sandbox="off")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    before, started = slot.pid, pool.clock.now()
    slot.retire()
    assert (slot.ready, slot.free, slot.gone) == (False, False, False)
    await owner.until(lambda: slot.free)
    assert pool.clock.now() - started >= 0.3, "it was given its time"
    assert slot.pid != before
    assert (slot.recycled, slot.deaths) == (1, 0)
    os.kill(slot.pid or 0, signal.SIGKILL)  # it would linger at the stop as well


async def test_a_retired_worker_that_is_killed_is_no_death(make: Make, owner: Recorder) -> None:
    pool = make("Lingers", sandbox="off")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    slot.retire()
    os.kill(slot.pid or 0, signal.SIGKILL)
    await owner.until(lambda: slot.free)
    assert (slot.recycled, slot.deaths) == (1, 0)
    os.kill(slot.pid or 0, signal.SIGKILL)
    await owner.until(lambda: slot.deaths)
    assert (slot.recycled, slot.deaths) == (1, 1), "the next one's is"
    await owner.until(lambda: slot.free)
    os.kill(slot.pid or 0, signal.SIGKILL)


class Fails(Recorder):
    """An owner with a defect."""

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        raise KeyError("a defect of the scheduler")


async def test_our_own_defect_is_not_called_the_workers_and_leaves_no_batch_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    owner = Fails()
    async with pools(owner) as make:
        pool = make("Obeys")
        pool.start()
        (slot,) = pool.slots
        await owner.until(lambda: slot.free)
        work = batch(pool, "obeys", "answer")
        slot.worker.submit(work)
        await owner.until(lambda: owner.lost)
        assert owner.lost == [(work, False)]
        await owner.until(lambda: slot.free)
    assert "nonsense" not in caplog.text
    assert "a defect of the scheduler" in caplog.text
    assert "worker ended (the server failed to take its message" in caplog.text


async def test_a_batch_is_lost_also_when_what_follows_a_death_fails(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make("Twin")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    unhandled: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: unhandled.append(repr(context["exception"]))
    )

    def fail() -> None:
        monkeypatch.undo()
        raise KeyError("a defect")

    monkeypatch.setattr(pool, "balance", fail)
    work = batch(pool, "twin", "exit 1")
    slot.worker.submit(work)
    await owner.until(lambda: owner.lost)
    assert owner.lost == [(work, False)]
    await owner.until(lambda: slot.free)
    assert unhandled == ["KeyError('a defect')"]


async def test_of_nonsense_little_is_logged(
    make: Make, owner: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make("Twin")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    slot.worker.submit(batch(pool, "twin", f'write {{"type":"{"x" * 100_000}"}}'))
    await owner.until(lambda: owner.lost)
    (line,) = (message for message in caplog.messages if "sent nonsense: " in message)
    assert len(line) < 300
    await owner.until(lambda: slot.free)


async def test_a_death_in_the_sealing_is_no_models(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_module, "LAST_BACKOFF", 0.05)
    pool = make("Length", "SealExits")
    pool.start()
    await owner.until(lambda: pool.state("length")[0] == "unavailable")
    assert pool.slots[0].deaths == LOAD_DEATHS
    for model in ("length", "sealexits"):
        state, reason = pool.state(model)
        assert (state, reason) == ("unavailable", UNSTARTED)


async def test_a_batch_that_takes_too_long_is_lost_as_such(make: Make, owner: Recorder) -> None:
    pool = make("Hasty")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    work = batch(pool, "hasty", "spin")
    slot.worker.submit(work)
    await owner.until(lambda: owner.lost)
    assert owner.lost == [(work, True)]
    assert slot.deaths == 1
    await owner.until(lambda: slot.free)


async def test_a_batch_that_ends_just_after_its_time_counts_and_its_place_is_in_the_log(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "DUMP_GRACE", 60.0)
    pool = make("Twin")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    before = slot.pid
    waiting = asyncio.create_task(ask(pool, owner, slot, "twin", "wait"))
    await until(lambda: f"{before}: waits" in caplog.messages)
    slot.worker._disarm()
    slot.worker._hangs()  # as the timer would, which might come before the worker has begun
    await until(lambda: re.search(r"sample_models\.py\", line \d+ in wait", caplog.text))
    os.kill(before or 0, signal.SIGUSR2)
    assert pid_in(await waiting) == before
    assert (slot.deaths, slot.free) == (0, True)
    assert pid_in(await ask(pool, owner, slot, "twin", "answer")) == before, "nothing is left of it"
