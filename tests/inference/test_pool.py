"""Slots and their real workers: work handed over one batch at a time, deaths, backing off, stopping."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from inference import pool as pool_module
from inference.items import Batch, Failed, Item, Outcome, Result
from inference.model import ModelSource
from inference.pool import LOAD_DEATHS, Pool

SAMPLES = "tests.inference.sample_models"


class Recorder:
    """An owner that notes what the pool reports."""

    def __init__(self) -> None:
        self.done: list[tuple[Batch, list[Outcome], float]] = []
        self.changes = 0
        self.frees = 0
        self.event = asyncio.Event()

    def models_changed(self) -> None:
        self.changes += 1
        self.event.set()

    def worker_free(self) -> None:
        self.frees += 1
        self.event.set()

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        self.done.append((batch, list(outcomes), infer_ms))
        self.event.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.event.clear()
                await self.event.wait()


@pytest.fixture
async def owner() -> Recorder:
    return Recorder()


@pytest.fixture
async def make(owner: Recorder) -> AsyncIterator[Callable[..., Pool]]:
    """Make pools; afterwards they stop, and no process or file descriptor of theirs is left."""
    me = psutil.Process()
    children, fds = set(me.children(recursive=True)), me.num_fds()
    pools = []

    def make(*sources: ModelSource | str, workers: int = 1) -> Pool:
        each = [
            s if isinstance(s, ModelSource) else ModelSource(s.lower(), f"{SAMPLES}:{s}") for s in sources
        ]
        pools.append(Pool(each, workers, owner))
        return pools[-1]

    yield make
    for pool in pools:
        async with asyncio.timeout(10):
            await pool.stop()
    assert set(me.children(recursive=True)) == children
    assert me.num_fds() == fds


Make = Callable[..., Pool]


def batch(pool: Pool, model: str, *payloads: str) -> Batch:
    now = pool.loop.time()
    return Batch(model, tuple(Item(1, n, p.encode(), now) for n, p in enumerate(payloads, 1)), now)


async def test_a_slot_has_one_batch_at_a_time(make: Make, owner: Recorder) -> None:
    pool = make("Obeys")
    (slot,) = pool.slots
    assert (slot.ready, slot.free, slot.pid, slot.gone) == (False, False, None, True)
    pool.start()
    assert not slot.free
    with pytest.raises(RuntimeError, match="slot 0 is not free"):
        slot.submit(batch(pool, "obeys", "answer"))
    await owner.until(lambda: slot.free)
    work = batch(pool, "obeys", "sleep 0.05", "refuse", "print x")
    frees = owner.frees
    slot.submit(work)
    assert (slot.ready, slot.free) == (True, False)
    with pytest.raises(RuntimeError):
        slot.submit(work)
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


async def test_a_model_is_loading_then_ready(make: Make, owner: Recorder) -> None:
    pool = make("Length")
    assert pool.state("length") == ("loading", None)
    assert pool.card("length") is None
    pool.start()
    await owner.until(lambda: pool.state("length") == ("ready", None))
    card = pool.card("length")
    assert card
    assert (card.name, card.max_batch) == ("length", 8)


async def test_a_card_outlives_the_worker_that_sent_it(make: Make, owner: Recorder) -> None:
    pool = make("Length")
    pool.start()
    await owner.until(lambda: pool.slots[0].free)
    card = pool.card("length")
    os.kill(pool.slots[0].pid or 0, signal.SIGKILL)
    async with asyncio.timeout(10):
        while not pool.slots[0].deaths:
            await asyncio.sleep(0.001)
    assert pool.state("length") == ("loading", None)
    assert pool.card("length") == card
    await owner.until(lambda: pool.slots[0].free)


async def test_a_worker_that_is_being_ended_is_not_free(make: Make, owner: Recorder) -> None:
    pool = make("Length")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    assert slot._channel
    slot._channel._sock.shutdown(socket.SHUT_RD)
    async with asyncio.timeout(10):
        while not slot._epitaph:
            await asyncio.sleep(0)
    assert not slot.free
    assert not slot.gone
    await owner.until(lambda: slot.free)


async def test_a_death_tells_of_free_workers_after_its_outcomes(make: Make, owner: Recorder) -> None:
    pool = make("Twin", workers=2)
    pool.start()
    await owner.until(lambda: all(slot.free for slot in pool.slots))
    pool.slots[0].submit(batch(pool, "twin", "exit 1"))
    frees = owner.frees
    await owner.until(lambda: owner.done)
    assert owner.frees == frees + 1
    assert pool.slots[1].free
    ((_, outcomes, infer_ms),) = owner.done
    assert [o.code for o in outcomes if isinstance(o, Failed)] == ["worker_lost"]
    assert infer_ms == 0


async def test_a_slot_that_was_ready_is_replaced_at_once(make: Make, owner: Recorder) -> None:
    pool = make("Twin")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    for _ in range(3):
        slot.submit(batch(pool, "twin", "exit 1"))
        await owner.until(lambda: owner.done)
        owner.done.clear()
        assert slot.pid is not None
        await owner.until(lambda: slot.free)


async def test_a_crash_loop_is_no_fork_bomb(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = make("Length")
    pool.start()
    await asyncio.sleep(1.2)
    assert 2 <= pool.slots[0].deaths <= 6
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


async def test_stopping_while_no_worker_can_be_started(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    pool = make("Length")
    pool.start()
    async with asyncio.timeout(10):
        await pool.stop()
    monkeypatch.undo()
    await asyncio.sleep(0.3)
    assert pool.slots[0].gone


async def test_two_models_that_end_their_worker_are_both_left_out(
    make: Make, owner: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "LAST_BACKOFF", 0.05)
    bad = [ModelSource(n, f"{SAMPLES}:LoadExits", {"marks": str(tmp_path / n)}) for n in ("one", "two")]
    pool = make(*bad, "Length")
    pool.start()
    await owner.until(lambda: pool.slots[0].free)
    assert [pool.state(name)[0] for name in ("one", "two", "length")] == ["unavailable"] * 2 + ["ready"]
    assert [len((tmp_path / n).read_text()) for n in ("one", "two")] == [LOAD_DEATHS] * 2


async def test_loading_that_hangs_is_ended(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "LOAD_TIMEOUT", 0.4)
    monkeypatch.setattr(pool_module, "LAST_BACKOFF", 0.05)
    pool = make("LoadHangs", "Length")
    pool.start()
    await owner.until(lambda: pool.slots[0].free)
    state, reason = pool.state("loadhangs")
    assert (state, reason) == ("unavailable", "its worker ended while loading it (exit status -9)")
    assert pool.state("length") == ("ready", None)


async def test_stopping_gives_running_items_their_outcome(make: Make, owner: Recorder) -> None:
    pool = make("Patient", workers=2)
    pool.start()
    await owner.until(lambda: all(slot.free for slot in pool.slots))
    for slot, order in zip(pool.slots, ["sleep 30", "stop"], strict=True):
        slot.submit(batch(pool, "patient", order))
    async with asyncio.timeout(10):
        await pool.stop()
    assert all(slot.gone and not slot.free for slot in pool.slots)
    assert [o.code for _, (o,), _ in owner.done if isinstance(o, Failed)] == ["worker_lost"] * 2
