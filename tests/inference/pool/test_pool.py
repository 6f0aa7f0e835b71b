"""A pool and its real workers: models and their states, warm spares, renewal, second tries to load, stopping."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from inference.items import Batch, Cause, Failed, Item, Outcome, Result
from inference.model import ModelId, ModelSource
from inference.pool import pool as pool_module
from inference.pool import slot as slot_module
from inference.pool import worker as worker_module
from inference.pool.pool import LOAD_DEATHS, Pool, WorkerOptions
from inference.pool.process import WorkerProcess
from inference.pool.slot import Slot
from tests.conftest import WAIT

SAMPLES = "tests.inference.sample_models"


class Recorder:
    """An owner that notes what the pool reports, and what can be seen at each report."""

    def __init__(self) -> None:
        self.done: list[tuple[Batch, list[Outcome], float]] = []
        self.lost: list[tuple[Batch, bool]] = []
        self.changes = 0
        self.frees = self.killed = 0
        self.event = asyncio.Event()
        self.look: Callable[[], Any] = lambda: None
        self.seen: list[Any] = []

    def watch(self, look: Callable[[], Any]) -> None:
        self.look = look
        self.seen.clear()

    def told(self) -> None:
        self.seen.append(self.look())
        self.event.set()

    def models_changed(self) -> None:
        self.changes += 1
        self.told()

    def worker_free(self) -> None:
        self.frees += 1
        self.told()

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        self.done.append((batch, list(outcomes), infer_ms))
        self.told()

    def worker_killed(self) -> None:
        self.killed += 1

    def batch_lost(self, batch: Batch, cause: Cause, *, unread: bool) -> None:
        self.lost.append((batch, cause is Cause.TIMEOUT))
        self.told()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():
                self.event.clear()
                await self.event.wait()


Make = Callable[..., Pool]


@asynccontextmanager
async def pools(owner: Recorder) -> AsyncIterator[Make]:
    """Make pools; afterwards they stop, and no process, file descriptor or timer of theirs is left."""
    me = psutil.Process()
    children, fds = set(me.children(recursive=True)), me.num_fds()
    timers = pending_timers()
    made = []

    def make(*sources: ModelSource | str, workers: int = 1, **options: Any) -> Pool:
        each = [
            s if isinstance(s, ModelSource) else ModelSource(s.lower(), f"{SAMPLES}:{s}") for s in sources
        ]
        made.append(Pool(each, workers, owner, WorkerOptions(**options)))
        return made[-1]

    yield make
    for pool in made:
        async with asyncio.timeout(WAIT):
            await pool.stop()
    # fewer there may be: what an earlier test left to the garbage collector may go meanwhile
    assert set(me.children(recursive=True)) <= children
    assert me.num_fds() <= fds
    assert pending_timers() <= timers


def pending_timers() -> set[str]:
    """What the loop will call later; asyncio has no other way to ask."""
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return {repr(timer) for timer in scheduled if not timer.cancelled()}


@pytest.fixture
async def owner() -> Recorder:
    return Recorder()


@pytest.fixture
async def make(owner: Recorder) -> AsyncIterator[Make]:
    async with pools(owner) as make:
        yield make


def batch(pool: Pool, model: str, *payloads: str) -> Batch:
    now = pool.clock.now()
    return Batch(
        ModelId(model, "1"), tuple(Item(1, n, p.encode(), now) for n, p in enumerate(payloads, 1)), now
    )


def only(pool: Pool, what: Callable[[Slot], bool]) -> Slot:
    (slot,) = filter(what, pool.slots)
    return slot


def serving(slot: Slot) -> bool:
    return slot.serving


def spare(slot: Slot) -> bool:
    return not slot.serving


def all_ready(pool: Pool) -> bool:
    return all(slot.ready for slot in pool.slots)


async def ask(pool: Pool, owner: Recorder, slot: Slot, model: str, payload: str) -> Outcome:
    """Give a slot an item; its outcome."""
    work = batch(pool, model, payload)
    slot.worker.submit(work)
    await owner.until(lambda: any(done is work for done, _, _ in owner.done))
    ((outcome,),) = (outcomes for done, outcomes, _ in owner.done if done is work)
    return outcome


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
    await owner.until(lambda: pool.slots[0].deaths)
    assert pool.state("length") == ("loading", None)
    assert pool.card("length") == card
    await owner.until(lambda: pool.slots[0].free)


async def test_a_death_tells_of_free_workers_after_its_outcomes(make: Make, owner: Recorder) -> None:
    pool = make("Twin", workers=2)
    pool.start()
    await owner.until(lambda: all(slot.free for slot in pool.slots))
    pool.slots[0].worker.submit(batch(pool, "twin", "exit 1"))
    frees = owner.frees
    await owner.until(lambda: owner.frees > frees)
    assert pool.slots[1].free
    ((lost, timed_out),) = owner.lost
    assert [item.payload for item in lost.items] == [b"exit 1"]
    assert not timed_out


async def test_stopping_while_no_worker_can_be_started(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    pool = make("Length")
    pool.start()
    async with asyncio.timeout(WAIT):
        await pool.stop()
    monkeypatch.undo()
    await asyncio.sleep(0.3)
    assert pool.slots[0].gone


async def test_two_models_that_end_their_worker_are_both_left_out(
    make: Make, owner: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_module, "LAST_BACKOFF", 0.05)
    bad = [ModelSource(n, f"{SAMPLES}:LoadExits", {"marks": str(tmp_path / n)}) for n in ("one", "two")]
    pool = make(*bad, "Length")
    pool.start()
    await owner.until(lambda: pool.slots[0].free)
    assert [pool.state(name)[0] for name in ("one", "two", "length")] == ["unavailable"] * 2 + ["ready"]
    assert [len((tmp_path / n).read_text()) for n in ("one", "two")] == [LOAD_DEATHS] * 2


async def test_stopping_gives_running_items_their_outcome(make: Make, owner: Recorder) -> None:
    pool = make("Patient", workers=2)
    pool.start()
    await owner.until(lambda: all(slot.free for slot in pool.slots))
    for slot, order in zip(pool.slots, ["sleep 30", "stop"], strict=True):
        slot.worker.submit(batch(pool, "patient", order))
    async with asyncio.timeout(WAIT):
        await pool.stop()
    assert all(slot.gone and not slot.free for slot in pool.slots)
    assert len(owner.lost) == 2


async def test_what_a_warm_inference_took_is_known_with_the_card(make: Make, owner: Recorder) -> None:
    pool = make("WarmsUp", "Data")
    pool.start()
    await owner.until(lambda: all_ready(pool))
    assert pool.infer_ms(ModelId("warmsup", "1")) == pytest.approx(50)
    assert pool.infer_ms(ModelId("data", "1")) == 0


async def test_spares_start_when_those_that_serve_are_ready(make: Make, owner: Recorder) -> None:
    pool = make("Length", workers=2, spares=1)
    owner.watch(lambda: (all(slot.ready for slot in pool.slots[:2]), pool.slots[2].gone))
    pool.start()
    assert [slot.gone for slot in pool.slots] == [False, False, True]
    await owner.until(lambda: all_ready(pool))
    assert (False, False) not in owner.seen
    assert (True, False) in owner.seen
    assert [slot.serving for slot in pool.slots] == [True, True, False]


async def test_a_spare_gets_no_work(make: Make, owner: Recorder) -> None:
    pool = make("Patient", spares=1)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    one, other = pool.slots
    one.worker.submit(batch(pool, "patient", "sleep 30"))
    assert (one.free, other.free, other.idle) == (False, False, True)
    with pytest.raises(RuntimeError, match="is a spare, and not free"):
        other.worker.submit(batch(pool, "patient", "answer"))


async def test_a_warm_spare_takes_over_at_once_when_a_worker_is_killed(make: Make, owner: Recorder) -> None:
    pool = make("Patient", spares=1)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    one, other = pool.slots
    warm = other.pid
    one.worker.submit(batch(pool, "patient", "sleep 30"))
    # when the owner hears of the loss, the spare is there for what was lost
    owner.watch(lambda: (len(owner.lost), other.pid, other.free, one.serving, one.ready))
    os.kill(one.pid or 0, signal.SIGKILL)
    await owner.until(lambda: owner.lost)
    assert owner.seen[-1] == (1, warm, True, False, False)
    outcome = await ask(pool, owner, other, "patient", "answer")
    assert isinstance(outcome, Result)
    assert json.loads(outcome.outputs)["pid"] == warm
    await owner.until(lambda: one.ready)
    assert [slot.serving for slot in pool.slots] == [False, True], "the replacement is the spare now"
    assert not one.free
    assert (one.deaths, one.recycled) == (1, 0)


async def test_a_spare_that_dies_is_replaced_and_nobody_notices(make: Make, owner: Recorder) -> None:
    pool = make("Length", spares=1)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    one, other = pool.slots
    before = (one.pid, other.pid)
    os.kill(other.pid or 0, signal.SIGKILL)
    await owner.until(lambda: not other.ready)
    assert one.free
    await owner.until(lambda: other.ready)
    assert one.pid == before[0]
    assert other.pid != before[1]
    assert [slot.serving for slot in pool.slots] == [True, False]


async def test_more_deaths_than_spares_leave_as_many_places_as_before(make: Make, owner: Recorder) -> None:
    pool = make("Length", workers=2, spares=1)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    owner.watch(lambda: sum(slot.serving for slot in pool.slots))
    for slot in pool.slots:
        os.kill(slot.pid or 0, signal.SIGKILL)
    await owner.until(lambda: sum(slot.deaths for slot in pool.slots) == 3)
    await owner.until(lambda: all_ready(pool))
    assert set(owner.seen) == {2}
    assert sum(slot.free for slot in pool.slots) == 2


@pytest.mark.parametrize("spares", [0, 1])
async def test_renewing_replaces_one_worker_at_a_time(make: Make, owner: Recorder, spares: int) -> None:
    pool = make("Length", workers=3 - spares, spares=spares)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    before = {slot.pid for slot in pool.slots}
    owner.watch(lambda: (sum(slot.ready for slot in pool.slots), sum(slot.free for slot in pool.slots)))
    pool.renew(all_workers=True)
    await owner.until(lambda: all(slot.recycled for slot in pool.slots) and all_ready(pool))
    assert not before & {slot.pid for slot in pool.slots}
    assert {ready for ready, _ in owner.seen} == {2, 3}, "one is away at most"
    assert min(free for _, free in owner.seen) == 2, "with a spare, as many serve as ever"
    assert [(slot.recycled, slot.deaths, slot.stale) for slot in pool.slots] == [(1, 0, False)] * 3


UNSTARTED = "no worker lives until it is ready; the server's log says how they ended"


@pytest.mark.parametrize("executable", ["/bin/false", "/nonexistent/python"])
async def test_models_are_unavailable_when_no_worker_can_be_started(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(slot_module, "LAST_BACKOFF", 0.05)
    pool = make("Length", "Data")
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", executable)
        pool.start()
        await owner.until(lambda: pool.state("data")[0] != "loading")
        assert [pool.state(model) for model in ("length", "data")] == [("unavailable", UNSTARTED)] * 2
    await owner.until(lambda: pool.slots[0].free)
    assert [pool.state(model) for model in ("length", "data")] == [("ready", None)] * 2


async def test_a_model_that_another_worker_holds_is_ready_though_no_more_can_be_started(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slot_module, "LAST_BACKOFF", 0.05)
    pool = make("Length", workers=2)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    one, other = pool.slots
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/bin/false")
        os.kill(one.pid or 0, signal.SIGKILL)
        await owner.until(lambda: one.deaths > LOAD_DEATHS + 1)
        assert pool.state("length") == ("ready", None)
        assert "unavailable" not in caplog.text
        os.kill(other.pid or 0, signal.SIGKILL)
        await owner.until(lambda: pool.state("length")[0] == "unavailable")
    await owner.until(lambda: all_ready(pool))


async def test_a_spare_that_alone_holds_a_model_serves_until_it_does_no_more(
    make: Make, owner: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model was repaired and another broken before the workers were renewed."""
    monkeypatch.setattr(pool_module, "FIRST_RETRY", 3600.0)  # however long the test takes
    causes = {name: tmp_path / name for name in "xy"}
    pool = make(
        *(
            ModelSource(n, f"{SAMPLES}:Repaired", {"marks": str(tmp_path / "marks"), "cause": str(cause)})
            for n, cause in causes.items()
        ),
        spares=1,
    )
    causes["x"].touch()
    pool.start()
    await owner.until(lambda: all_ready(pool))
    one, other = pool.slots
    causes["x"].unlink()
    causes["y"].touch()
    owner.watch(lambda: pool.state("y")[0])
    pool.renew(all_workers=True)
    await owner.until(lambda: other.recycled and other.ready)
    assert [(set(slot.names), slot.serving, slot.recycled) for slot in pool.slots] == [
        ({"y"}, True, 0),
        ({"x"}, True, 1),
    ]
    assert isinstance(await ask(pool, owner, one, "y", "abc"), Result)
    assert isinstance(await ask(pool, owner, other, "x", "abc"), Result)
    assert pool._retry
    pool._retry.cancel()
    pool._try_again()  # as that timer would
    assert (other.ready, other.stale) == (True, False), "it is not taken from the model that it alone has"
    pool.renew(all_workers=True)
    await owner.until(lambda: other.recycled == 2 and other.ready)
    assert (set(other.names), one.recycled) == ({"x"}, 0), "the one that may load again is the one that tries"
    causes["y"].unlink()
    pool.renew(all_workers=True)
    await owner.until(lambda: one.recycled and all_ready(pool))
    assert [set(slot.names) for slot in pool.slots] == [{"x", "y"}] * 2
    assert [slot.serving for slot in pool.slots] == [False, True]
    assert set(owner.seen) == {"ready"}


async def test_renewing_waits_for_who_is_busy(make: Make, owner: Recorder) -> None:
    pool = make("Patient", workers=2)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    one, other = pool.slots
    first, second = one.pid, other.pid
    one.worker.submit(batch(pool, "patient", "sleep 0.6"))
    pool.renew(all_workers=True)
    await owner.until(lambda: other.recycled and other.ready)
    assert one.pid == first
    await owner.until(lambda: one.recycled and one.ready)
    ((_, (outcome,), _),) = owner.done
    assert isinstance(outcome, Result)
    assert json.loads(outcome.outputs)["pid"] == first
    assert (other.pid != second, other.recycled, one.recycled) == (True, 1, 1)


async def test_renewing_spares_who_alone_holds_a_model(
    make: Make,
    owner: Recorder,
    repaired: Callable[[str], ModelSource],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_RETRY", 3600.0)  # however long the test takes
    pool = make(repaired("raise"), "Length", workers=2)
    one, other = pool.slots
    (tmp_path / "cause").unlink()
    one.start()
    await owner.until(lambda: one.ready)
    (tmp_path / "cause").touch()
    other.start()
    await owner.until(lambda: other.ready)
    owner.watch(lambda: pool.state("repaired")[0])
    pool.renew(all_workers=True)
    await owner.until(lambda: other.recycled and other.ready)
    assert (one.recycled, one.stale, set(owner.seen)) == (0, True, {"ready"})
    (tmp_path / "cause").unlink()
    pool.renew(all_workers=True)
    await owner.until(lambda: one.recycled and all_ready(pool))
    assert set(owner.seen) == {"ready"}
    assert all("repaired" in slot.names for slot in pool.slots)


async def test_the_only_worker_is_renewed_too(make: Make, owner: Recorder) -> None:
    pool = make("Length")
    pool.start()
    await owner.until(lambda: all_ready(pool))
    (slot,) = pool.slots
    before = slot.pid
    pool.renew(all_workers=True)
    await owner.until(lambda: slot.recycled and slot.ready)
    assert slot.pid != before


@pytest.fixture
def repaired(tmp_path: Path) -> Callable[[str], ModelSource]:
    """A model that cannot be loaded while the file `cause` is there."""
    (tmp_path / "cause").touch()

    def make(how: str) -> ModelSource:
        options = {"marks": str(tmp_path / "marks"), "cause": str(tmp_path / "cause"), "how": how}
        return ModelSource("repaired", f"{SAMPLES}:Repaired", options)

    return make


def attempts(folder: Path) -> list[float]:
    """When it was tried to load the model."""
    return [float(line) for line in (folder / "marks").read_text().splitlines()]


Repaired = Callable[[str], ModelSource]


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("how", ["raise", "exit"])
async def test_a_model_is_available_once_what_kept_it_from_loading_is_gone(
    make: Make,
    owner: Recorder,
    repaired: Repaired,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
    spares: int,
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_RETRY", 0.1)
    monkeypatch.setattr(slot_module, "LAST_BACKOFF", 0.05)
    pool = make(repaired(how), "Length", workers=2 - spares, spares=spares)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    assert pool.state("repaired")[0] == "unavailable"
    first = len(attempts(tmp_path))
    owner.watch(lambda: any(slot.ready and "length" in slot.names for slot in pool.slots))
    await until(lambda: len(attempts(tmp_path)) >= first + 1)
    assert pool.state("repaired")[0] == "unavailable"
    (tmp_path / "cause").unlink()
    await owner.until(lambda: all("repaired" in slot.names for slot in pool.slots) and all_ready(pool))
    assert pool.state("repaired") == ("ready", None)
    assert all(owner.seen), "the other model was ready all the time"
    assert "model repaired is available" in caplog.text
    done = len(attempts(tmp_path))
    await asyncio.sleep(0.5)
    assert len(attempts(tmp_path)) == done, "nothing is tried any more"


async def test_attempts_to_load_come_ever_more_seldom_and_cost_a_spare(
    make: Make, owner: Recorder, repaired: Repaired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_RETRY", 3600.0)  # however long the start takes
    pool = make(repaired("raise"), "Length", spares=1)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    one, _ = pool.slots
    before, first = one.pid, len(attempts(tmp_path))
    assert pool._retry
    pool._retry.cancel()
    pool._retry_delay = 0.2
    pool._try_again()  # as that timer would, now that the spare is there
    await until(lambda: len(attempts(tmp_path)) == first + 4)
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts(tmp_path)[first:])]
    assert all(gap >= least for gap, least in zip(gaps, (0.2, 0.4, 0.8), strict=True)), gaps
    assert (one.pid, one.recycled) == (before, 0)


async def test_the_only_worker_is_not_taken_from_the_models_that_it_has(
    make: Make, owner: Recorder, repaired: Repaired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_RETRY", 0.05)
    pool = make(repaired("raise"), "Length")
    pool.start()
    await owner.until(lambda: all_ready(pool))
    (slot,) = pool.slots
    before = slot.pid
    await asyncio.sleep(0.5)
    assert (slot.pid, len(attempts(tmp_path))) == (before, 1)
    (tmp_path / "cause").unlink()
    pool.renew(all_workers=True)  # the operator's decision
    await owner.until(lambda: pool.state("repaired")[0] == "ready")


async def test_the_only_worker_tries_again_if_it_has_nothing_else(
    make: Make, owner: Recorder, repaired: Repaired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_RETRY", 0.1)
    pool = make(repaired("raise"))
    pool.start()
    await owner.until(lambda: pool.state("repaired")[0] == "unavailable")
    (tmp_path / "cause").unlink()
    await owner.until(lambda: pool.state("repaired")[0] == "ready")


async def test_a_state_goes_with_each_item_to_whichever_worker_is_free(make: Make, owner: Recorder) -> None:
    pool = make("Counts", workers=2)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    state, seen = b"", []
    for n in range(4):
        work = replace(batch(pool, "counts", "bytes" if n == 2 else "count"), states=(state,))
        pool.free_workers()[n % 2].submit(work)
        await owner.until(lambda n=n: len(owner.done) == n + 1)
        (result,) = owner.done[-1][1]
        assert isinstance(result, Result), result
        state = result.state
        seen.append(json.loads(result.outputs)["n"])
    assert seen == [1, 2, 3, 4]


async def test_an_error_that_utf_8_cannot_hold_costs_its_item_alone(make: Make, owner: Recorder) -> None:
    pool = make("Quotes")
    pool.start()
    (slot,) = pool.slots
    await owner.until(lambda: slot.free)
    failed = await ask(pool, owner, slot, "quotes", '"\\ud800"')
    assert failed == Failed(failed.item, "quoted", "what is ?")
    assert (slot.deaths, slot.free) == (0, True)


async def test_options_that_cannot_be_encoded_leave_the_other_models_alone(
    make: Make, owner: Recorder
) -> None:
    pool = make(ModelSource("options", f"{SAMPLES}:Options", {"factor": object()}), "Length")
    pool.start()
    await owner.until(lambda: all_ready(pool))
    assert pool.state("options")[0] == "unavailable"
    assert isinstance(await ask(pool, owner, pool.slots[0], "length", "abc"), Result)


async def test_nothing_is_tried_again_after_the_stop(
    make: Make, owner: Recorder, repaired: Repaired, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "FIRST_RETRY", 0.3)
    pool = make(repaired("raise"), workers=2)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    assert any("AwakeTimer" in timer for timer in pending_timers())
    before = len(attempts(tmp_path))
    await pool.stop()
    assert not any("AwakeTimer" in timer for timer in pending_timers())
    await asyncio.sleep(0.5)
    assert len(attempts(tmp_path)) == before
    assert all(slot.gone for slot in pool.slots)


async def test_stopping_while_a_worker_is_replaced(make: Make, owner: Recorder) -> None:
    pool = make("Length", workers=2)
    pool.start()
    await owner.until(lambda: all_ready(pool))
    pool.renew(all_workers=True)
    assert sum(slot.ready for slot in pool.slots) == 1
    async with asyncio.timeout(WAIT):
        await pool.stop()
    assert all(slot.gone for slot in pool.slots)


async def test_a_worker_that_does_not_end_when_its_socket_closes_is_ended(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "STOP_GRACE", 0.3)
    pool = make("Lingers", workers=2, sandbox="off")
    pool.start()
    await owner.until(lambda: all_ready(pool))
    started = pool.clock.now()
    async with asyncio.timeout(WAIT):
        await pool.stop()
    assert pool.clock.now() - started >= 0.3, "it was given its time"
    assert all(slot.gone for slot in pool.slots)


async def test_stopping_does_not_wait_for_ever_for_what_cannot_be_ended(
    make: Make, owner: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "STOP_GRACE", 0.1)
    monkeypatch.setattr(pool_module, "REAP_GRACE", 0.1)
    pool = make("Lingers", sandbox="off")
    pool.start()
    await owner.until(lambda: all_ready(pool))
    (slot,) = pool.slots
    with monkeypatch.context() as stuck:
        stuck.setattr(WorkerProcess, "kill", lambda _: None)
        async with asyncio.timeout(WAIT):
            await pool.stop()
    assert f"after they were killed workers {slot.pid} are still there" in caplog.text
    os.kill(slot.pid or 0, signal.SIGKILL)
    await until(lambda: slot.gone)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what nobody reports."""
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.01)
