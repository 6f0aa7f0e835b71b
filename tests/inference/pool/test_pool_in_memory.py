"""The pool, its slots and workers over launchers in memory: no process, no socket, no waiting; time is a number."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from inference.items import Batch, Cause, Failed, Item, Outcome, Result
from inference.model import DEFAULT_LOAD_TIMEOUT_S, ModelError, ModelId, ModelSource, ServingSettings
from inference.pool.pool import LOAD_DEATHS, Pool, WorkerOptions
from inference.pool.slot import MAX_KILLS, RESTART_EVERY, RESTARTS
from inference.pool.states import State
from inference.pool.worker import DUMP_GRACE, EXIT_GRACE, FIRST_PROGRESS, START_TIMEOUT, STOP_GRACE
from inference.wire import messages
from tests.inference.pool.memory_workers import MemoryClock, MemoryLauncher, MemoryWorker, card_of, raw

BOTH = {"a": "1", "b": "1"}


@dataclass
class Notes:
    """An owner that keeps what it is told, and checks that each batch ends once."""

    done: list[tuple[Batch, list[Outcome]]] = field(default_factory=list)
    lost: list[tuple[Batch, Cause, bool]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    changes: int = 0
    killed: int = 0

    def models_changed(self) -> None:
        self.changes += 1

    def worker_free(self) -> None:
        pass

    def batch_done(self, batch: Batch, outcomes: Sequence[Outcome], infer_ms: float) -> None:
        self.done.append((batch, list(outcomes)))
        self._end(batch)

    def worker_killed(self) -> None:
        self.killed += 1

    def batch_lost(self, batch: Batch, cause: Cause, *, unread: bool) -> None:
        self.lost.append((batch, cause, unread))
        self._end(batch)

    def _end(self, batch: Batch) -> None:
        assert id(batch) not in self.ended, "a second end of one batch"
        self.ended.append(id(batch))


class World:
    """A pool with everything around it."""

    def __init__(self, *sources: ModelSource, workers: int = 1, **options: Any) -> None:
        self.clock = MemoryClock()
        self.launcher = MemoryLauncher(self.clock)
        self.owner = Notes()
        self.pool = Pool(
            sources, workers, self.owner, WorkerOptions(**options), launcher=self.launcher, clock=self.clock
        )
        self.pool.start()

    def load(self, versions: dict[str, str | None], **card: Any) -> None:
        """Let every worker load that has been told to."""
        for _ in range(20):
            self.launcher.reap()
            told = [w for w in self.launcher.living if w.inbox and isinstance(w.inbox[0][0], messages.Setup)]
            if not told:
                return
            for worker in told:
                worker.load(versions, **card)
        pytest.fail("the pool replaces workers for ever")

    def batch(self, name: str = "a", version: str = "1", size: int = 1, **more: Any) -> Batch:
        now = self.clock.now()
        items = tuple(Item(1, seq, b"payload", now) for seq in range(1, size + 1))
        return Batch(ModelId(name, version), items, now, **more)

    def versions(self, name: str) -> list[str]:
        return [card.version for card in self.pool.cards(name)]

    @property
    def worker(self) -> MemoryWorker:
        (worker,) = self.launcher.living
        return worker


def source(name: str, settings: ServingSettings | None = None, **options: Any) -> ModelSource:
    return ModelSource(name, f"module:{name.upper()}", options, settings or ServingSettings())


async def test_a_batch_goes_to_a_worker_and_its_answers_come_back() -> None:
    world = World(source("a"))
    assert (world.pool.state("a"), world.pool.workers()[0].state) == (("loading", None), State.STARTING)
    world.load({"a": "7"})
    (worker,) = world.pool.free_workers()
    assert (set(worker.models), worker.pid, worker.name) == ({ModelId("a", "7")}, None, "memory-0")
    work = world.batch("a", "7", size=2)
    worker.submit(work)
    assert world.pool.free_workers() == []
    assert world.worker.answer("1", '"two"') == messages.BatchHeader("a", "7", [7, 7])
    ((done, outcomes),) = world.owner.done
    assert done is work
    assert [o.outputs for o in outcomes if isinstance(o, Result)] == ["1", '"two"']
    assert {o.version for o in outcomes if isinstance(o, Result)} == {"7"}
    assert world.pool.free_workers() == [worker]
    assert world.clock.pending() == []


async def test_a_worker_is_given_no_batch_of_a_version_that_it_does_not_hold() -> None:
    world = World(source("a"))
    world.load({"a": "1"})
    (worker,) = world.pool.workers()
    with pytest.raises(KeyError):
        worker.submit(world.batch("a", "2"))
    assert (worker.state, world.worker.inbox, world.clock.pending()) == (State.IDLE, [], [])


async def test_during_a_renewal_each_version_answers_its_own_batches() -> None:
    world = World(source("a"), workers=2)
    world.load({"a": "1"})
    old, other = world.pool.workers()
    old.submit(world.batch())
    world.pool.renew(all_workers=True)
    assert (old.state, other.state) == (State.BUSY, State.STOPPING)
    world.load({"a": "2"})
    assert world.versions("a") == ["1", "2"]
    assert world.pool.card("a") == card_of("a", "2")
    new = next(worker for worker in world.pool.workers() if worker is not old)
    new.submit(world.batch("a", "2"))
    for busy in world.launcher.living:
        busy.answer()
    results = [outcome for _, outcomes in world.owner.done for outcome in outcomes]
    assert [r.version for r in results if isinstance(r, Result)] == ["1", "2"]
    world.load({"a": "2"})
    assert world.versions("a") == ["2"]
    assert [slot.recycled for slot in world.pool.slots] == [1, 1]


async def test_an_old_worker_that_loads_late_does_not_become_the_newest_version() -> None:
    world = World(source("a"), workers=2)
    first, late = world.launcher.living
    first.load({"a": "1"})
    world.pool.renew(all_workers=True)
    first.die()
    world.launcher.living[-1].load({"a": "2"})
    assert world.versions("a") == ["2"]
    late.load({"a": "1"})
    assert world.versions("a") == ["1", "2"]
    assert world.pool.card("a") == card_of("a", "2")
    world.load({"a": "2"})
    assert world.versions("a") == ["2"]


async def test_a_version_that_does_not_load_takes_no_worker_from_the_old_one() -> None:
    world = World(source("a"), source("b"), workers=2)
    world.load({"a": "1", "b": "1"})
    world.pool.renew(all_workers=True)
    world.load({"a": None, "b": "2"})
    assert world.versions("a") == ["1"]
    assert world.pool.state("a") == ("ready", None)
    assert any(ModelId("a", "1") in worker.models for worker in world.pool.free_workers())


async def test_a_model_is_added_while_the_others_go_on() -> None:
    world = World(source("a"), workers=2)
    world.load({"a": "1"})
    world.pool.add(source("b"))
    assert world.pool.state("b") == ("loading", None)
    assert len(world.pool.free_workers()) == 1, "one after the other"
    world.load(BOTH)
    assert (world.versions("a"), world.versions("b")) == (["1"], ["1"])
    assert [set(worker.models) for worker in world.pool.free_workers()] == [
        {ModelId("a", "1"), ModelId("b", "1")}
    ] * 2
    assert {worker.generation for worker in world.pool.workers()} == {world.pool.generation} == {1}


async def test_a_name_is_added_once() -> None:
    world = World(source("a"))
    with pytest.raises(ModelError, match="there is a model 'a' already"):
        world.pool.add(source("a"))
    assert world.pool.generation == 0


async def test_a_model_that_is_removed_is_given_no_more_work_at_once() -> None:
    world = World(source("a"), source("b"), workers=2)
    world.load(BOTH)
    busy, _ = world.pool.workers()
    busy.submit(world.batch("b"))
    world.pool.remove("b")
    assert not any(model.name == "b" for worker in world.pool.workers() for model in worker.models)
    assert (world.pool.cards("b"), world.pool.card("b")) == ([], None)
    with pytest.raises(KeyError):
        world.pool.state("b")
    world.launcher.living[0].answer()
    ((_, (outcome,)),) = world.owner.done
    assert isinstance(outcome, Result), "what ran already has its answer"
    world.load({"a": "1"})
    assert [set(worker.models) for worker in world.pool.free_workers()] == [{ModelId("a", "1")}] * 2
    with pytest.raises(KeyError):
        world.pool.remove("b")


async def test_a_worker_that_still_loads_a_removed_model_does_not_bring_it_back() -> None:
    world = World(source("a"), source("b"))
    world.pool.remove("b")
    world.pool.add(source("b", weights="other"))
    first = world.worker
    first.load(BOTH)
    assert (world.versions("a"), world.versions("b")) == (["1"], [])
    world.launcher.reap()
    assert world.worker.options == {"a": {}, "b": {"weights": "other"}}
    world.load({"a": "1", "b": "2"})
    assert world.versions("b") == ["2"]


async def test_the_operators_settings_are_applied_here_and_not_sent() -> None:
    settings = ServingSettings(timeout_ms=250, max_batch=2)
    world = World(source("a", settings, threshold=0.5))
    assert world.worker.options == {"a": {"threshold": 0.5}}
    world.load({"a": "1"})
    card = world.pool.card("a")
    assert card
    assert (card.timeout_ms, card.max_batch) == (250, 2)
    world.pool.free_workers()[0].submit(world.batch())
    assert world.clock.pending() == [0.25]


async def test_settings_that_do_not_fit_the_class_make_the_model_unavailable() -> None:
    world = World(source("a", ServingSettings(timeout_ms=50)), source("b"))
    world.load(BOTH, latency_target_ms=100)
    state, reason = world.pool.state("a")
    assert (state, reason) == ("unavailable", "model a: `latency_target_ms` must be 1 to its `timeout_ms`")
    assert world.pool.state("b") == ("ready", None)
    assert {model.name for model in world.pool.free_workers()[0].models} == {"b"}


@pytest.mark.parametrize("value", [object(), float("nan"), "\ud800", {1, 2}, [[b"bytes"]]])
async def test_options_that_cannot_be_sent_cost_their_own_model_alone(value: Any) -> None:
    world = World(source("a", bad=value), source("b"))
    assert world.worker.options == {"b": {}}
    world.load(BOTH)
    state, reason = world.pool.state("a")
    assert state == "unavailable"
    assert reason
    assert reason.startswith("the options of a are not JSON values: ")
    assert world.pool.state("b") == ("ready", None)
    assert world.clock.pending() == [], "another try would change nothing"


async def test_options_that_are_too_long_together_cost_the_last_models() -> None:
    world = World(source("a", big="x" * 600_000), source("b", big="x" * 600_000), source("c"))
    assert set(world.worker.options) == {"a", "c"}
    assert world.pool.state("b")[0] == "unavailable"
    world.load({"a": "1", "c": "1"})
    assert world.clock.pending() == [], "another try would change nothing"


async def test_a_models_own_time_bounds_its_loading() -> None:
    world = World(source("a"))
    world.worker.say(messages.Importing("a"))
    world.worker.deliver()
    assert world.clock.pending() == [FIRST_PROGRESS, DEFAULT_LOAD_TIMEOUT_S]
    world.clock.advance(3)
    world.worker.say(messages.Described(card_of("a", load_timeout_s=8)))
    world.worker.deliver()
    assert world.clock.pending() == [5.0, 7.0], "its import counts"
    world.clock.advance(4.9)
    assert not world.worker.killed
    world.clock.advance(0.2)
    assert world.worker.killed


async def test_a_constant_bounds_starting() -> None:
    world = World(source("a"))
    world.clock.advance(START_TIMEOUT)
    assert world.worker.killed


@pytest.mark.parametrize("seconds", [None, 7, 3600])
async def test_a_models_clock_bounds_its_import(seconds: int | None) -> None:
    world = World(source("a", ServingSettings(load_timeout_s=seconds)))
    world.worker.say(messages.Importing("a"))
    world.worker.deliver()
    world.clock.advance((seconds or DEFAULT_LOAD_TIMEOUT_S) - 0.1)
    assert not world.worker.killed
    world.clock.advance(0.2)
    assert world.worker.killed


def begin(world: World, worker: MemoryWorker, name: str) -> None:
    worker.say(messages.Importing(name), messages.Described(card_of(name)))
    worker.deliver()


async def test_each_model_has_a_clock_of_its_own() -> None:
    world = World(source("a"), source("b"))
    begin(world, world.worker, "a")
    world.clock.advance(DEFAULT_LOAD_TIMEOUT_S - 1)
    begin(world, world.worker, "b")
    world.clock.advance(DEFAULT_LOAD_TIMEOUT_S - 1)
    assert not world.worker.killed


async def test_a_model_that_loads_for_too_long_is_left_out_at_once_and_says_so() -> None:
    world = World(source("a", ServingSettings(load_timeout_s=7)), source("b"))
    begin(world, world.worker, "a")
    world.clock.advance(7)
    world.launcher.reap()
    reason = "loading a took over 7 s; if it needs longer, raise load_timeout_s in [models.a]"
    assert world.pool.state("a") == ("unavailable", reason)
    assert not world.pool.permanent("a")
    world.clock.advance(0.2)
    world.load({"b": "1"})
    assert world.pool.state("b") == ("ready", None)


async def test_loading_says_how_far_it_is_and_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    world = World(source("a"), source("b"), workers=2)
    for worker in world.launcher.living:
        begin(world, worker, "a")
    world.clock.advance(25)
    assert world.pool.state("a") == ("loading", "for 25 s so far, of at most 300 s (`load_timeout_s`)")
    assert world.pool.state("b") == ("loading", "its worker is loading a now")
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"model a has been loading for {n} s; it may take 300 s (`load_timeout_s`)" for n in (10, 20)
    ], "once for all workers"


async def test_a_spare_serves_the_other_models_while_one_loads() -> None:
    world = World(source("a"), source("b"), spares=1)
    first = world.worker
    begin(world, first, "a")
    world.clock.advance(FIRST_PROGRESS)
    spare = world.launcher.living[1]
    assert set(spare.options) == {"b"}
    spare.load({"b": "1"})
    assert (world.pool.state("b"), world.pool.state("a")[0]) == (("ready", None), "loading")
    assert [set(worker.models) for worker in world.pool.free_workers()] == [{ModelId("b", "1")}]

    begin(world, first, "b")
    loaded = [messages.Loaded(name, 5.0) for name in BOTH]
    first.inbox.clear()
    first.say(messages.Sealing(), *loaded, messages.Ready(10))
    first.deliver()
    assert world.pool.state("a") == ("ready", None)
    world.load(BOTH)
    both = {ModelId("a", "1"), ModelId("b", "1")}
    assert [set(worker.models) for worker in world.pool.workers()] == [both, both], "the spare was replaced"
    assert len(world.pool.free_workers()) == 1


async def test_a_spare_that_finds_another_slow_model_begins_again_without_both() -> None:
    world = World(source("a"), source("b"), source("c"), spares=1)
    begin(world, world.worker, "a")
    world.clock.advance(FIRST_PROGRESS)
    begin(world, world.launcher.living[1], "b")
    world.clock.advance(FIRST_PROGRESS)
    world.launcher.reap()
    assert set(world.launcher.living[1].options) == {"c"}
    world.launcher.living[1].load({"c": "1"})
    assert world.pool.state("c") == ("ready", None)


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
async def test_there_is_no_worker_without_a_model(names: list[str]) -> None:
    world = World(*map(source, names), spares=1)
    for name in names:
        begin(world, world.worker, name)
        world.clock.advance(FIRST_PROGRESS)
        if name == "a" and len(names) > 1:
            begin(world, world.launcher.living[1], "b")
            break
    world.clock.advance(FIRST_PROGRESS)
    world.launcher.reap()
    assert all(worker.options for worker in world.launcher.living if worker.inbox)


async def test_what_would_fail_again_is_told_from_what_may_not() -> None:
    world = World(source("a"), source("b"), source("c", ServingSettings(latency_target_ms=5000)))
    for name, permanent in (("a", True), ("b", False)):
        world.worker.say(messages.Importing(name), messages.ModelFailed(name, "why", permanent))
    world.worker.say(messages.Importing("c"), messages.Described(card_of("c")))
    world.worker.deliver()
    assert [world.pool.permanent(name) for name in "abc"] == [True, False, True]


async def test_deaths_while_loading_leave_that_model_out() -> None:
    world = World(source("a"), source("b"))
    for _ in range(LOAD_DEATHS):
        worker = world.worker
        worker.say(messages.Importing("a"))  # read only when its exit is known: it counts all the same
        worker.die(7)
        world.clock.advance(10.0)
    assert world.pool.state("a") == ("unavailable", "its worker ended while loading it (exit status 7)")
    assert set(world.worker.options) == {"b"}


@pytest.mark.parametrize(
    "says", [[], [messages.Importing("a")], [messages.Importing("a"), messages.Sealing()]]
)
async def test_kills_from_outside_are_no_evidence_against_a_model_that_has_loaded(
    says: list[messages.FromWorker],
) -> None:
    world = World(source("a"), source("b"))
    world.load(BOTH)
    world.worker.die()
    for _ in range(40):
        world.worker.say(*says)
        world.worker.deliver()
        world.worker.die(-signal.SIGKILL)
        world.clock.advance(RESTART_EVERY)
    assert set(world.worker.options) == {"a", "b"}, "a worker starts within a second, and loads both"
    assert [world.pool.state(name) for name in "ab"] == [("loading", None)] * 2
    world.load(BOTH)
    assert world.pool.state("a") == ("ready", None)


async def test_a_model_that_has_loaded_and_ends_its_worker_for_want_of_memory_is_tried_ever_more_seldom() -> (
    None
):
    world = World(source("a"))
    world.load({"a": "1"})
    world.worker.die()
    delays = []

    def die_for_want_of_memory() -> None:
        world.worker.memory = False
        world.worker.say(messages.Importing("a"))
        world.worker.deliver()
        world.worker.die(-signal.SIGKILL)

    for _ in range(MAX_KILLS + LOAD_DEATHS - 2):
        die_for_want_of_memory()
        (delay,) = world.clock.pending()
        delays.append(round(delay, 3))
        world.clock.advance(delay)
        assert world.pool.state("a") == ("loading", None)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
    die_for_want_of_memory()
    assert world.pool.state("a") == ("unavailable", "its worker ended while loading it (exit status -9)")


@pytest.mark.parametrize("status", [7, -signal.SIGSEGV, -signal.SIGABRT])
async def test_crashes_are_evidence_against_a_model_that_has_loaded(status: int) -> None:
    world = World(source("a"), source("b"))
    world.load(BOTH)
    world.worker.die()
    for _ in range(LOAD_DEATHS):
        world.worker.say(messages.Importing("a"))
        world.worker.deliver()
        world.worker.die(status)
        world.clock.advance(10.0)
    assert world.pool.state("a")[0] == "unavailable"


SEALED = {"seccomp": "on"}


@pytest.mark.parametrize(
    ("status", "features", "memory", "cause"),
    [
        (-signal.SIGKILL, SEALED, True, Cause.OUTSIDE),
        (-signal.SIGKILL, SEALED, False, Cause.UNKNOWN),
        (-signal.SIGKILL, {"seccomp": "denied: no"}, True, Cause.UNKNOWN),
        (-signal.SIGKILL, {}, True, Cause.UNKNOWN),
        (-signal.SIGTERM, SEALED, True, Cause.UNKNOWN),
        (-signal.SIGSEGV, SEALED, True, Cause.CRASH),
        (-signal.SIGSYS, SEALED, True, Cause.CRASH),
        (1, SEALED, True, Cause.CRASH),
        (0, SEALED, True, Cause.CRASH),
    ],
)
async def test_why_a_worker_ended_is_told_only_as_far_as_it_is_certain(
    status: int, features: dict[str, str], memory: bool, cause: Cause
) -> None:
    world = World(source("a"))
    world.load({"a": "1"}, features=features)
    work = world.batch()
    world.pool.workers()[0].submit(work)
    world.worker.inbox.clear()
    world.worker.memory = memory
    world.worker.die(status)
    assert world.owner.lost == [(work, cause, False)]


async def test_a_worker_that_is_killed_without_a_batch_is_told() -> None:
    world = World(source("a"))
    world.load({"a": "1"})
    world.worker.die(1)
    world.load({"a": "1"})
    assert world.owner.killed == 0, "it may have been its own doing"
    world.worker.die(-signal.SIGKILL)
    assert world.owner.killed == 1


async def test_a_worker_that_closes_its_end_has_a_moment_to_be_gone() -> None:
    """The end of one that is killed from outside is often seen before its exit is."""
    world = World(source("a"))
    for late in (False, True):
        world.load({"a": "1"}, features=SEALED)
        work = world.batch()
        world.pool.workers()[0].submit(work)
        world.worker.inbox.clear()
        world.worker.events.lost("it closed its end")
        assert not world.pool.free_workers()
        if late:
            world.clock.advance(EXIT_GRACE)
        assert world.worker.killed is late
        world.worker.die()
        assert world.owner.lost.pop() == (work, Cause.CRASH if late else Cause.OUTSIDE, False)


async def test_a_hang_is_dumped_then_killed_and_its_batch_timed_out() -> None:
    world = World(source("a"))
    world.load({"a": "1"})
    (worker,) = world.pool.workers()
    work = world.batch()
    worker.submit(work)
    world.worker.inbox.clear()  # it has read it
    world.clock.advance(1.0)
    assert (worker.state, world.worker.dumped, world.worker.killed) == (State.HUNG, 1, False)
    world.clock.advance(DUMP_GRACE)
    assert (worker.state, world.worker.killed, worker.free) == (State.KILLED, True, False)
    world.worker.die()
    assert world.owner.lost == [(work, Cause.TIMEOUT, False)]


async def test_an_answer_in_the_moment_of_the_dump_counts() -> None:
    world = World(source("a"))
    world.load({"a": "1"})
    (worker,) = world.pool.workers()
    worker.submit(world.batch())
    world.clock.advance(1.0)
    world.worker.answer()
    assert len(world.owner.done) == 1
    assert (worker.state, world.clock.pending()) == (State.IDLE, [])


async def test_an_answer_that_is_found_after_the_exit_counts_and_the_worker_gets_no_more() -> None:
    world = World(source("a"), workers=2)
    world.load({"a": "1"})
    worker, _ = world.pool.workers()
    worker.submit(world.batch())
    dying = world.launcher.living[0]
    dying.inbox.clear()
    dying.say(messages.Answers(0.0, 10, [1]), body=b"1")
    dying.die()
    assert (len(world.owner.done), world.owner.lost) == (1, [])
    assert worker.state is State.GONE
    assert worker not in world.pool.workers()


@pytest.mark.parametrize("read", [False, True])
async def test_whether_a_lost_batch_was_read_is_what_the_transport_says(read: bool) -> None:
    world = World(source("a"))
    world.load({"a": "1"})
    work = world.batch()
    world.pool.workers()[0].submit(work)
    if read:
        world.worker.inbox.clear()
    world.worker.die()
    assert world.owner.lost == [(work, Cause.UNKNOWN, not read)]


NONSENSE = [
    b"",
    b"{",
    b"[]",
    b"\xff",
    b"[" * 100_000,
    raw({"type": "answers"}),
    raw({"type": "unknown"}),
    raw({"type": "ready", "resident_mb": 10}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [1], "more": 1}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": -1, "items": [1]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1 << 60, "items": [1]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1.5, "items": [1]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": True, "items": [1]}),
    raw({"type": "answers", "infer_ms": "0", "resident_mb": 1, "items": [1]}),
    raw({"type": "answers", "infer_ms": float("nan"), "resident_mb": 1, "items": [1]}),
    raw({"type": "answers", "infer_ms": float("inf"), "resident_mb": 1, "items": [1]}),
    b'{"type":"answers","infer_ms":1e999,"resident_mb":1,"items":[1]}',
    raw({"type": "answers", "infer_ms": -1, "resident_mb": 1, "items": [1]}),
    raw({"type": "answers", "infer_ms": 1, "resident_mb": 1, "items": [1]}),  # longer than it has had it
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": []}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [0]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [-1]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [2]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [1, 1]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [1] * 257}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [True]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [{"code": "c"}]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [{"code": 1, "message": "m"}]}),
    raw({"type": "answers", "infer_ms": 0, "resident_mb": 1, "items": [1], "states": [0]}),
]


@pytest.mark.parametrize("header", NONSENSE, ids=lambda header: repr(header[:70]))
async def test_nonsense_in_place_of_an_answer_costs_that_worker_alone(header: bytes) -> None:
    world = World(source("a"), workers=2)
    world.load({"a": "1"})
    work = world.batch()
    world.pool.workers()[0].submit(work)
    hostile, honest = world.launcher.living
    hostile.inbox.clear()
    hostile.say(header, body=b"1")
    hostile.deliver()
    assert (hostile.killed, honest.killed) == (True, False)
    hostile.say(messages.Answers(0.0, 1, [1]), body=b"1")
    hostile.die()
    assert (world.owner.done, world.owner.lost) == ([], [(work, Cause.CRASH, False)])


@pytest.mark.parametrize(
    "said",
    [
        [messages.Importing("nobody")],
        [messages.Importing("a"), messages.Importing("a")],
        [messages.Described(card_of("a"))],
        [messages.Importing("a"), messages.Described(card_of("b"))],
        [messages.ModelFailed("a", "before it was tried")],
        [messages.Loaded("a", 1.0)],
        [messages.Sealing(), messages.Loaded("a", 1.0)],
        [messages.Ready(1)],
        [messages.Answers(0.0, 1, [])],
        [messages.Sealing(), messages.Sandbox({"x" * 65: "on"})],
        [raw({"type": "importing", "model": "a"}), raw({"type": "described", "card": {"name": "a"}})],
        [
            raw({"type": "importing", "model": "a"}),
            raw({"type": "described", "card": {"name": "a", "version": "../..", "input": "bytes", "policy": "queue",
                                               "max_batch": 1, "timeout_ms": 1, "description": ""}}),
        ],
    ],
    ids=repr,
)  # fmt: skip
async def test_a_worker_that_says_while_it_starts_what_it_may_not_is_killed(said: list[Any]) -> None:
    world = World(source("a"), source("b"))
    world.worker.say(*said)
    world.worker.deliver()
    assert world.worker.killed
    assert world.pool.card("a") is None


async def test_codes_that_only_the_engine_gives_are_not_taken_from_a_model() -> None:
    world = World(source("a"))
    world.load({"a": "1"})
    codes = ["cold", "poison", "worker_lost", "Not A Code"]
    world.pool.workers()[0].submit(world.batch(size=4))
    world.worker.inbox.clear()
    failures: list[int | messages.ItemFailure] = [messages.ItemFailure(code, "why") for code in codes]
    world.worker.say(messages.Answers(0.0, 1, failures))
    world.worker.deliver()
    ((_, outcomes),) = world.owner.done
    assert [o.code for o in outcomes if isinstance(o, Failed)] == ["cold", *["model_error"] * 3]


async def test_states_go_out_with_a_batch_and_come_back_unread() -> None:
    world = World(source("a"))
    world.load({"a": "1"}, stateful=True)
    world.pool.workers()[0].submit(world.batch(size=3, states=(b"", b"\xffopaque", b"")))
    header, body = world.worker.inbox.pop()
    assert header == messages.BatchHeader("a", "1", [7, 7, 7], states=[0, 7, 0])
    assert body == b"\xffopaque" + b"payload" * 3
    items: list[int | messages.ItemFailure] = [1, messages.ItemFailure("bad", "m"), 2]
    world.worker.say(messages.Answers(0.0, 1, items, states=[2, 0, 0]), body=b"\xfe\x001" + b"22")
    world.worker.deliver()
    ((_, (first, second, third)),) = world.owner.done
    assert isinstance(first, Result)
    assert isinstance(second, Failed)
    assert isinstance(third, Result)
    assert (first.outputs, first.state) == ("1", b"\xfe\x00")
    assert (third.outputs, third.state) == ("22", b"")


async def test_a_stateful_models_answers_without_states_are_nonsense() -> None:
    world = World(source("a"))
    world.load({"a": "1"}, stateful=True)
    world.pool.workers()[0].submit(world.batch(states=(b"",)))
    world.worker.answer()
    assert world.worker.killed


async def test_restarts_come_at_once_until_there_were_too_many() -> None:
    world = World(source("a"))
    for _ in range(RESTARTS):
        world.load({"a": "1"})
        world.worker.die()
        assert world.launcher.living, "it is replaced at once"
    world.load({"a": "1"})
    world.worker.die()
    assert (world.launcher.living, world.clock.pending()) == ([], [RESTART_EVERY])
    world.clock.advance(RESTART_EVERY)
    assert world.launcher.living


async def test_a_launcher_that_fails_is_asked_ever_more_seldom() -> None:
    world = World(source("a"))
    world.launcher.fails = True
    world.worker.die(1)
    delays = []
    for _ in range(6):
        (delay, *_) = world.clock.pending()
        delays.append(round(delay, 3))
        world.clock.advance(delay)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
    assert world.pool.state("a")[0] == "unavailable"
    world.launcher.fails = False
    world.clock.advance(10.0)
    world.load({"a": "1"})
    assert world.pool.state("a") == ("ready", None)


async def test_stopping_ends_busy_workers_at_once_and_idle_ones_after_their_grace() -> None:
    world = World(source("a"), workers=2)
    world.load({"a": "1"})
    work = world.batch()
    world.pool.workers()[0].submit(work)
    busy, idle = world.launcher.living
    busy.inbox.clear()
    stopping = asyncio.create_task(world.pool.stop())
    await asyncio.sleep(0)
    assert (busy.killed, idle.killed, idle.transport.open) == (True, False, False)
    world.clock.advance(STOP_GRACE)
    assert idle.killed
    world.launcher.reap()
    await stopping
    assert world.owner.lost == [(work, Cause.CRASH, False)]
    assert (world.pool.workers(), world.clock.pending(), len(world.launcher.workers)) == ([], [], 2)


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_in_whatever_order(seed: int) -> None:
    """Every batch ends once, each result names its batch's version, no renewal leaves a model without a worker."""
    chance = random.Random(seed)
    world = World(source("a"), source("b"), workers=chance.choice([2, 3]), spares=chance.choice([0, 1]))
    versions: dict[str, str | None] = {"a": "1", "b": "1", "c": "1"}
    world.load(versions)
    given, calm = 0, True
    for step in range(200):
        what = chance.choices(
            ["submit", "answer", "load", "renew", "add", "remove", "die", "hang", "lie", "pass"],
            [30, 25, 25, 3, 2, 2, 3, 1, 2, 5],
        )[0]
        loading = [w for w in world.launcher.living if w.inbox and isinstance(w.inbox[0][0], messages.Setup)]
        busy = [w for w in world.launcher.living if w.inbox and not isinstance(w.inbox[0][0], messages.Setup)]
        busy = [w for w in busy if not w.killed and w.transport.open]
        if what == "submit" and (free := world.pool.free_workers()) and free[0].models:
            worker = chance.choice(free)
            if worker.models:
                worker.submit(world.batch(*chance.choice(sorted(worker.models)), size=chance.randint(1, 4)))
                given += 1
        elif what == "answer" and busy:
            chance.choice(busy).answer()
        elif what == "load" and loading:
            worker_ = chance.choice(loading)
            if not worker_.killed and worker_.transport.open:
                worker_.load(versions)
        elif what == "renew":
            versions |= {chance.choice("ab"): str(step)}
            world.pool.renew(all_workers=True)
        elif what == "add" and "c" not in world.pool._models.sources:
            world.pool.add(source("c"))
        elif what == "remove" and "c" in world.pool._models.sources:
            world.pool.remove("c")
        elif what == "die" and world.launcher.living:
            chance.choice(world.launcher.living).die()
            calm = False
        elif what == "hang" and busy:
            world.clock.advance(1.0 + DUMP_GRACE)
            calm = False
        elif what == "lie" and busy:
            chance.choice(busy).say(b"{")
            calm = False
        for worker_ in world.launcher.living:
            worker_.deliver()
        if chance.random() < 0.5:
            world.launcher.reap()
        if calm:
            for name in "ab":
                able = [w for w in world.pool.workers() if w.ready and any(m.name == name for m in w.models)]
                assert able, f"step {step}: nobody holds {name}"
        assert sum(slot.serving for slot in world.pool.slots) >= world.pool._workers
    stopping = asyncio.create_task(world.pool.stop())
    await asyncio.sleep(0)
    world.clock.advance(STOP_GRACE)
    world.launcher.reap()
    await stopping
    assert len(world.owner.ended) == given
    for batch, outcomes in world.owner.done:
        assert [o.item for o in outcomes] == list(batch.items)
        assert {o.version for o in outcomes if isinstance(o, Result)} <= {batch.model.version}
    assert world.clock.pending() == []
