"""Every rule of the scheduler, without a clock or a worker; law 1 is checked after every single call."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from inference.items import POISON, Batch, Cause, Dropped, Failed, Item, Outcome, Result
from inference.model import ModelId, Policy
from inference.scheduling.scheduler import (
    ITEM_BYTES,
    MAX_BATCH_BYTES,
    MAX_KILLS,
    MAX_RETURNS,
    Scheduler,
    StreamFull,
    UnknownStream,
)
from inference.scheduling.state import FairBy
from inference.scheduling.statistics import Tally


class Audited(Scheduler):
    """The scheduler, which asserts law 1 after each call: per open stream, per model and in total."""

    def __init__(self, fair_by: FairBy = "stream") -> None:
        super().__init__(fair_by)
        self.opened: set[int] = set()

    def audit(self) -> None:
        statistics = self.statistics(0.0)
        assert statistics.total.balanced, statistics
        for model in statistics.models.values():
            tally = model.tally
            assert tally.balanced, statistics
            assert min(tally.waiting, tally.running) >= 0, statistics
            assert tally.discarded <= tally.results + tally.errors, statistics
            assert model.peak >= tally.waiting + tally.running, statistics
        for stream in self.opened:
            assert self.tally(stream).balanced, (stream, self.tally(stream))
        assert sum(model.open_streams for model in statistics.models.values()) == len(self.opened)
        rows = self.stream_statistics(statistics.models)
        assert {row.number for row in rows} == self.opened
        assert all(row.tally.balanced for row in rows)

    def open(
        self, number: int, model: str, policy: Policy, window: int, weight: float = 1.0, principal: str = ""
    ) -> None:
        super().open(number, model, policy, window, weight, principal)
        self.opened.add(number)
        self.audit()

    def offer(self, item: Item) -> list[Outcome]:
        try:
            return super().offer(item)
        finally:
            self.audit()

    def take(self, now: float, models: Container[str], free: int = 1) -> tuple[Batch | None, list[Outcome]]:
        try:
            return super().take(now, models, free)
        finally:
            self.audit()

    def done(self, batch: Batch, outcomes: Sequence[Outcome], cost: float, now: float = 0.0) -> list[Outcome]:
        try:
            return super().done(batch, outcomes, cost, now)
        finally:
            self.audit()

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        try:
            return super().lost(batch, cost, now, cause)
        finally:
            self.audit()

    def returned(self, batch: Batch, now: float = 0.0, cause: Cause = Cause.CRASH) -> list[Outcome]:
        try:
            return super().returned(batch, now, cause)
        finally:
            self.audit()

    def close(self, number: int) -> None:
        super().close(number)
        self.opened.discard(number)
        self.audit()

    def expire(self, now: float) -> tuple[list[Outcome], float | None]:
        try:
            return super().expire(now)
        finally:
            self.audit()

    def drain(self) -> list[Outcome]:
        try:
            return super().drain()
        finally:
            self.audit()

    def abandon(self, model: str, message: str = "it was lost", *, retryable: bool = True) -> list[Outcome]:
        try:
            return super().abandon(model, message, retryable=retryable)
        finally:
            self.audit()

    def refuse(self, outcome: Dropped | Failed) -> None:
        super().refuse(outcome)
        self.audit()

    def rebind(self, number: int, model: str) -> list[Outcome]:
        try:
            return super().rebind(number, model)
        finally:
            self.audit()


@pytest.fixture
def scheduler() -> Iterator[Audited]:
    audited = Audited()
    audited.add_model("m", 1)
    yield audited
    audited.audit()


@pytest.fixture
def wide() -> Iterator[Audited]:
    """A scheduler with one model, "m", whose batches hold up to four items."""
    audited = Audited()
    audited.add_model("m", 4)
    yield audited
    audited.audit()


def item(stream: int, seq: int, deadline: float | None = None) -> Item:
    return Item(stream, seq, b"", 0.0, deadline)


def result(of: Item) -> Result:
    return Result(of, "{}", "1", 0.0, 0.0, 1)


def failed(of: Item) -> Failed:
    return Failed(of, "model_error", "")


def take(scheduler: Scheduler, now: float = 0.0, models: Container[str] = ("m",)) -> Batch:
    batch, dropped = scheduler.take(now, models)
    assert batch is not None
    assert dropped == []
    return batch


def seqs(batch: Batch) -> list[int]:
    return [one.seq for one in batch.items]


def finish(scheduler: Audited, batch: Batch, cost: float = 0.001) -> list[Outcome]:
    return scheduler.done(batch, [result(one) for one in batch.items], cost)


def lose(scheduler: Scheduler, batch: Batch, now: float = 0.0, cause: Cause = Cause.CRASH) -> list[Outcome]:
    return scheduler.lost(batch, 0.001, now, cause)


def told(outcomes: Sequence[Outcome]) -> list[tuple[int, int, str]]:
    """Of which stream, which item, and the result, the reason it was dropped or the error's code."""
    return [
        (
            outcome.item.stream,
            outcome.item.seq,
            "result"
            if isinstance(outcome, Result)
            else outcome.reason
            if isinstance(outcome, Dropped)
            else outcome.code,
        )
        for outcome in outcomes
    ]


class TestHeldBack:
    @pytest.mark.parametrize("policy", ["latest", "queue"])
    def test_nothing_of_it_starts_before_it_goes_on(self, scheduler: Audited, policy: Policy) -> None:
        scheduler.open(1, "m", policy, 2)
        scheduler.open(2, "m", policy, 2)
        scheduler.offer(item(1, 1))
        scheduler.hold_back(1, True)
        scheduler.offer(item(2, 1))
        assert take(scheduler).items == (item(2, 1),)
        assert scheduler.take(0.0, ("m",)) == (None, [])
        scheduler.hold_back(1, False)
        assert take(scheduler).items == (item(1, 1),)

    def test_what_a_worker_ended_with_runs_again_all_the_same(self, scheduler: Audited) -> None:
        """The answers that hold it back may be waiting for its own."""
        scheduler.open(1, "m", "queue", 4)
        scheduler.offer(item(1, 1))
        scheduler.offer(item(1, 2))
        first = take(scheduler)
        scheduler.hold_back(1, True)
        scheduler.lost(first, 0.1, 0.0, Cause.CRASH)
        again = take(scheduler)
        assert again.items == (item(1, 1),)
        finish(scheduler, again)
        assert scheduler.take(0.0, ("m",)) == (None, [])


class TestLatest:
    def test_a_newer_item_replaces_the_waiting_one_which_is_reported(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        assert scheduler.offer(item(1, 1)) == []
        assert scheduler.offer(item(1, 2)) == [Dropped(item(1, 1), "superseded")]
        assert scheduler.offer(item(1, 3)) == [Dropped(item(1, 2), "superseded")]
        assert seqs(take(scheduler)) == [3]
        assert scheduler.tally(1) == Tally(received=3, superseded=2, running=1)

    def test_what_runs_is_never_replaced(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        scheduler.offer(item(1, 1))
        running = take(scheduler)
        assert scheduler.offer(item(1, 2)) == []
        assert finish(scheduler, running) == [result(item(1, 1))]

    @pytest.mark.parametrize("window", [1, 2, 5])
    def test_at_most_window_items_run(self, scheduler: Audited, window: int) -> None:
        scheduler.open(1, "m", "latest", window)
        batches = []
        for seq in range(1, window + 1):
            scheduler.offer(item(1, seq))
            batches.append(take(scheduler))
        scheduler.offer(item(1, window + 1))
        assert scheduler.take(0.0, ("m",)) == (None, [])
        finish(scheduler, batches[0])
        assert seqs(take(scheduler)) == [window + 1]

    def test_it_always_has_room(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        for seq in range(1, 10):
            assert scheduler.has_capacity(1)
            scheduler.offer(item(1, seq))

    def test_a_superseding_item_keeps_the_place_of_the_superseded(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        scheduler.open(2, "m", "latest", 1)
        scheduler.offer(item(1, 1))
        scheduler.offer(item(2, 1))
        scheduler.offer(item(1, 2))
        assert take(scheduler).items == (item(1, 2),)

    def test_a_full_window_of_one_stream_does_not_stop_another(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        scheduler.open(2, "m", "latest", 1)
        scheduler.offer(item(1, 1))
        take(scheduler)
        scheduler.offer(item(1, 2))
        scheduler.offer(item(2, 1))
        assert take(scheduler).items == (item(2, 1),)


class TestQueue:
    def test_the_bound_counts_what_waits(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 2)
        scheduler.offer(item(1, 1))
        take(scheduler)
        scheduler.offer(item(1, 2))
        scheduler.offer(item(1, 3))
        assert not scheduler.has_capacity(1)
        with pytest.raises(StreamFull, match="stream 1"):
            scheduler.offer(item(1, 4))
        assert scheduler.tally(1) == Tally(received=3, waiting=2, running=1)
        take(scheduler)
        assert scheduler.has_capacity(1)
        assert scheduler.offer(item(1, 4)) == []

    def test_its_items_start_in_their_order(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 50)
        for seq in range(1, 51):
            scheduler.offer(item(1, seq))
        assert [seqs(take(scheduler))[0] for _ in range(50)] == list(range(1, 51))

    def test_as_many_run_as_there_are_workers(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 3)
        for seq in (1, 2, 3):
            scheduler.offer(item(1, seq))
        for _ in range(3):
            take(scheduler)
        assert scheduler.tally(1).running == 3


class TestExpiry:
    @pytest.mark.parametrize("policy", ["latest", "queue"])
    def test_an_expired_item_is_dropped_when_its_turn_comes(self, scheduler: Audited, policy: Policy) -> None:
        scheduler.open(1, "m", policy, 4)
        scheduler.offer(item(1, 1, deadline=5.0))
        assert scheduler.take(5.0, ("m",)) == (None, [Dropped(item(1, 1, 5.0), "expired")])
        assert scheduler.tally(1) == Tally(received=1, expired=1)

    def test_an_item_runs_up_to_its_deadline(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 1)
        scheduler.offer(item(1, 1, deadline=5.0))
        assert seqs(take(scheduler, 4.999)) == [1]

    def test_the_items_behind_an_expired_one_run(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        for seq, deadline in enumerate([1.0, 1.0, None, 1.0, 9.0], 1):
            scheduler.offer(item(1, seq, deadline))
        batch, dropped = scheduler.take(2.0, ("m",))
        assert batch
        assert seqs(batch) == [3]
        assert [d.item.seq for d in dropped] == [1, 2]
        batch, dropped = scheduler.take(2.0, ("m",))
        assert batch
        assert seqs(batch) == [5]
        assert [d.item.seq for d in dropped] == [4]

    def test_items_expire_while_no_worker_is_free(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.open(2, "m", "latest", 1)
        for seq, deadline in enumerate([5.0, None, 2.0, 9.0], 1):
            scheduler.offer(item(1, seq, deadline))
        scheduler.offer(item(2, 1, deadline=3.0))
        assert scheduler.expire(1.0) == ([], 2.0)
        dropped, again = scheduler.expire(5.0)
        assert [(one.item.stream, one.item.seq, one.reason) for one in dropped] == [
            (1, 3, "expired"),
            (2, 1, "expired"),
            (1, 1, "expired"),
        ]
        assert again == 9.0
        assert [seqs(take(scheduler, 5.0)) for _ in range(2)] == [[2], [4]]
        assert scheduler.expire(5.0) == ([], None)

    def test_a_stream_whose_items_all_expired_keeps_no_place(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1, deadline=1.0))
        scheduler.expire(1.0)
        assert scheduler._models["m"].heap == []
        assert scheduler._streams[1].entry is None

    def test_one_that_was_not_read_expires_all_the_same(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1, deadline=5.0))
        unread = take(scheduler)
        assert scheduler.expire(4.0) == ([], None), "it runs"
        scheduler.returned(unread)
        assert scheduler.expire(4.0) == ([], 5.0)
        assert told(scheduler.expire(5.0)[0]) == [(1, 1, "expired")]

    def test_deadlines_of_what_waits_no_more_are_not_kept(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        for seq in range(1, 1001):
            scheduler.offer(item(1, seq, deadline=1000.0 + seq))
        assert len(scheduler._deadlines) < 200
        assert scheduler.expire(0.0) == ([], 2000.0)
        assert len(scheduler._deadlines) == 1

    def test_places_of_what_waits_no_more_are_not_kept(self, scheduler: Audited) -> None:
        for stream in range(10):
            scheduler.open(stream, "m", "latest", 1)
        for seq in range(100):
            for stream in range(10):
                scheduler.offer(item(stream, seq, deadline=float(seq)))
            scheduler.expire(float(seq))
        assert len(scheduler._models["m"].heap) <= 10

    def test_a_stream_that_comes_back_has_no_claim_to_its_old_place(self, scheduler: Audited) -> None:
        for stream in (1, 2):
            scheduler.open(stream, "m", "queue", 9)
        scheduler.offer(item(1, 1, deadline=1.0))
        scheduler.offer(item(2, 1))
        scheduler.expire(1.0)
        scheduler.offer(item(1, 2))
        assert [take(scheduler).items[0].stream for _ in range(2)] == [2, 1]

    def test_expired_items_of_one_model_do_not_hide_another_model(self, scheduler: Audited) -> None:
        scheduler.add_model("n", 1)
        scheduler.open(1, "m", "queue", 1)
        scheduler.open(2, "n", "queue", 1)
        scheduler.offer(item(1, 1, deadline=1.0))
        scheduler.offer(item(2, 1))
        batch, dropped = scheduler.take(2.0, ("m", "n"))
        assert batch == Batch("n", (item(2, 1),), 2.0)
        assert dropped == [Dropped(item(1, 1, 1.0), "expired")]

    def test_an_expired_item_costs_its_stream_nothing(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 200)
        scheduler.open(2, "m", "queue", 200)
        for seq in range(1, 101):
            scheduler.offer(item(1, seq, deadline=1.0))
        for seq in range(101, 104):
            scheduler.offer(item(1, seq))
        for seq in range(1, 4):
            scheduler.offer(item(2, seq))
        served = []
        for _ in range(6):
            batch, _ = scheduler.take(2.0, ("m",))
            assert batch
            served.append(batch.items[0].stream)
            finish(scheduler, batch)
        assert served == [1, 2, 1, 2, 1, 2] or served == [2, 1, 2, 1, 2, 1]


def batches_under_load(scheduler: Audited, cost_of: Callable[[int], float], rounds: int) -> list[int]:
    """Run batches of "m" while three hundred items wait always; their sizes."""
    streams = range(100, 105)
    for stream in streams:
        scheduler.open(stream, "m", "queue", 64)
    sizes: list[int] = []
    numbers = itertools.count(1)
    for _ in range(rounds):
        for stream in streams:
            while scheduler.has_capacity(stream):
                scheduler.offer(item(stream, next(numbers)))
        batch = take(scheduler)
        finish(scheduler, batch, cost_of(len(batch.items)))
        sizes.append(len(batch.items))
    for stream in streams:
        scheduler.close(stream)
    return sizes


class TestBatches:
    @pytest.mark.parametrize(("waiting", "sizes"), [(1, [1]), (4, [4]), (6, [4, 2]), (9, [4, 4, 1])])
    def test_take_what_waits_up_to_the_limit(
        self, scheduler: Audited, waiting: int, sizes: list[int]
    ) -> None:
        scheduler.add_model("m", 4)
        scheduler.open(1, "m", "queue", 16)
        for seq in range(1, waiting + 1):
            scheduler.offer(item(1, seq))
        assert [len(take(scheduler).items) for _ in sizes] == sizes
        assert scheduler.take(0.0, ("m",)) == (None, [])

    def test_one_item_of_each_waiting_stream_before_a_second_of_any(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 4)
        for stream in (1, 2, 3, 4):
            scheduler.open(stream, "m", "queue", 16)
            for seq in range(1, 5):
                scheduler.offer(item(stream, seq))
        for turn in range(1, 5):
            batch = take(scheduler)
            assert sorted((one.stream, one.seq) for one in batch.items) == [(s, turn) for s in (1, 2, 3, 4)]

    def test_grow_one_by_one_while_full_ones_keep_to_the_target(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 4, target=0.02)
        sizes = batches_under_load(scheduler, cost_of=lambda size: 0.001 * size, rounds=6)
        assert sizes == [1, 2, 3, 4, 4, 4]

    def test_settle_where_they_take_as_long_as_the_target(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 256, target=0.02)
        sizes = batches_under_load(scheduler, cost_of=lambda size: 0.001 * size, rounds=200)
        assert all(17 <= size <= 21 for size in sizes[30:]), "at most one over, then a tenth back"
        slower = batches_under_load(scheduler, cost_of=lambda size: 0.01 * size, rounds=200)
        assert all(1 <= size <= 3 for size in slower[30:])

    def test_do_not_grow_when_less_waits_than_they_hold(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 8, target=1.0)
        batches_under_load(scheduler, cost_of=lambda size: 0.001, rounds=3)
        for seq in range(1001, 1021):
            scheduler.open(seq, "m", "latest", 1)
            scheduler.offer(item(seq, 1))
            finish(scheduler, take(scheduler), 0.001)
            scheduler.close(seq)
        assert scheduler.statistics(0.0).models["m"].batch_cap == 4

    def test_keep_what_they_learnt_when_the_same_model_is_loaded_again(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 8, target=1.0)
        batches_under_load(scheduler, cost_of=lambda size: 0.001, rounds=3)
        scheduler.add_model("m", 8, target=1.0)
        assert scheduler.statistics(0.0).models["m"].batch_cap == 4
        scheduler.add_model("m", 16, target=1.0)
        assert scheduler.statistics(0.0).models["m"].batch_cap == 1
        scheduler.add_model("m", 16)
        assert scheduler.statistics(0.0).models["m"].batch_cap == 16

    def test_hold_items_of_one_model_only(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 8)
        scheduler.add_model("n", 8)
        for stream, model in enumerate(["m", "n", "m", "n"], 1):
            scheduler.open(stream, model, "latest", 1)
            scheduler.offer(item(stream, 1))
        models = ("m", "n")
        first, second = take(scheduler, models=models), take(scheduler, models=models)
        assert (first.model, [one.stream for one in first.items]) == ("m", [1, 3])
        assert (second.model, [one.stream for one in second.items]) == ("n", [2, 4])

    def test_do_not_exceed_a_latest_streams_window(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 8)
        scheduler.open(1, "m", "latest", 2)
        scheduler.offer(item(1, 1))
        assert len(take(scheduler).items) == 1

    def test_expired_items_take_no_room(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 2)
        scheduler.open(1, "m", "queue", 9)
        for seq, deadline in enumerate([None, 1.0, None], 1):
            scheduler.offer(item(1, seq, deadline))
        batch, _ = scheduler.take(2.0, ("m",))
        assert batch
        assert seqs(batch) == [1, 3]

    def test_are_divided_among_the_workers_that_are_free(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 8)
        scheduler.expect("m", 0.01)
        scheduler.open(1, "m", "queue", 16)
        for seq in range(1, 8):
            scheduler.offer(item(1, seq))
        sizes = []
        for free in (3, 2, 1):
            batch, _ = scheduler.take(0.0, ("m",), free)
            assert batch
            sizes.append(len(batch.items))
        assert sizes == [3, 2, 2]

    def test_are_not_divided_where_handing_them_over_costs_more(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 8)
        scheduler.expect("m", 0.0001)
        scheduler.open(1, "m", "queue", 16)
        for seq in range(1, 8):
            scheduler.offer(item(1, seq))
        batch, _ = scheduler.take(0.0, ("m",), 3)
        assert batch
        assert len(batch.items) == 7

    def test_a_worker_gets_only_models_it_holds(self, scheduler: Audited) -> None:
        scheduler.add_model("n", 1)
        scheduler.open(1, "m", "queue", 1)
        scheduler.offer(item(1, 1))
        assert scheduler.take(0.0, ("n",)) == (None, [])
        assert scheduler.take(0.0, ()) == (None, [])
        assert take(scheduler).model == "m"

    def test_know_when_they_started(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 1)
        scheduler.offer(item(1, 1))
        assert take(scheduler, 7.5).started == 7.5


class TestClosing:
    def test_cancels_what_waits(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 3)
        for seq in (1, 2, 3):
            scheduler.offer(item(1, seq))
        scheduler.close(1)
        assert scheduler.take(0.0, ("m",)) == (None, [])
        assert scheduler.statistics(0.0).models["m"].tally == Tally(received=3, cancelled=3)

    def test_discards_what_runs_but_counts_it(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 3)
        scheduler.open(2, "m", "queue", 3)
        scheduler.add_model("m", 4)
        for seq in (1, 2):
            scheduler.offer(item(1, seq))
        scheduler.offer(item(2, 1))
        batch = take(scheduler)
        scheduler.close(1)
        assert scheduler.statistics(0.0).total.running == 3
        outcomes = [failed(one) if one.seq == 2 else result(one) for one in batch.items]
        assert scheduler.done(batch, outcomes, 0.1) == [result(item(2, 1))]
        tally = scheduler.statistics(0.0).models["m"].tally
        assert tally == Tally(received=3, results=2, errors=1, discarded=2, undelivered=1)

    @pytest.mark.parametrize("when", ["never opened", "closed", "closed while it runs"])
    def test_a_stream_that_is_not_open_can_do_nothing(self, scheduler: Audited, when: str) -> None:
        if when != "never opened":
            scheduler.open(1, "m", "queue", 3)
            if when == "closed while it runs":
                scheduler.offer(item(1, 1))
                take(scheduler)
            scheduler.close(1)
        for call in (scheduler.tally, scheduler.has_capacity, scheduler.close):
            with pytest.raises(UnknownStream, match="stream 1"):
                call(1)
        with pytest.raises(UnknownStream):
            scheduler.offer(item(1, 2))

    def test_nothing_of_closed_streams_is_kept(self, scheduler: Audited) -> None:
        """Not even when no worker holds their model, so that nothing is ever taken."""
        for stream in range(1000):
            scheduler.open(stream, "m", "latest", 1)
            scheduler.offer(item(stream, 1))
            scheduler.close(stream)
        model = scheduler._models["m"]
        assert (len(scheduler._streams), len(model.streams), len(model.heap)) == (0, 0, 0)

    def test_the_places_of_others_outlive_a_close(self) -> None:
        def order(leaving: Sequence[int]) -> list[int]:
            scheduler = Audited()
            scheduler.add_model("m", 1)
            weights = random.Random(1)
            for stream in range(40):
                scheduler.open(stream, "m", "latest", 1, weights.uniform(0.1, 10))
                scheduler.offer(item(stream, 1))
            for _ in range(40):
                finish(scheduler, take(scheduler))
            for stream in range(40):
                scheduler.offer(item(stream, 2))
            for stream in leaving:
                scheduler.close(stream)
            return [take(scheduler).items[0].stream for _ in range(40 - len(leaving))]

        undisturbed = order([])
        assert undisturbed != sorted(undisturbed)
        leaving = range(0, 40, 3)
        assert order(leaving) == [stream for stream in undisturbed if stream not in leaving]


class TestDraining:
    def test_drops_what_waits_and_lets_finish_what_runs(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 3)
        scheduler.open(2, "m", "latest", 1)
        for seq in (1, 2, 3):
            scheduler.offer(item(1, seq))
        scheduler.offer(item(2, 1))
        running = take(scheduler)
        dropped = scheduler.drain()
        assert {(d.item.stream, d.item.seq, d.reason) for d in dropped} == {
            (1, 2, "draining"),
            (1, 3, "draining"),
            (2, 1, "draining"),
        }
        assert scheduler.drain() == []
        assert scheduler.take(0.0, ("m",)) == (None, [])
        assert len(finish(scheduler, running)) == 1
        assert scheduler.statistics(0.0).total == Tally(received=4, results=1, draining=3)


class TestAbandoning:
    def test_fails_what_waits_for_that_model_alone(self, scheduler: Audited) -> None:
        scheduler.add_model("n", 1)
        for stream, model in enumerate(["m", "m", "n"], 1):
            scheduler.open(stream, model, "queue", 3)
            scheduler.offer(item(stream, 1))
        running = take(scheduler)
        scheduler.offer(item(1, 2))
        failed = scheduler.abandon("m")
        assert {(f.item.stream, f.item.seq) for f in failed} == {(1, 2), (2, 1)}
        assert {(f.code, f.retryable) for f in failed} == {("model_unavailable", True)}
        assert scheduler.abandon("m") == []
        assert take(scheduler, models=("m", "n")).model == "n"
        assert len(finish(scheduler, running)) == 1
        assert scheduler.statistics(0.0).models["m"].tally == Tally(received=3, results=1, errors=2)


class TestReturning:
    """Of items whose worker ended before it had read them."""

    def test_they_wait_on_in_their_order_and_make_batches_again(self, wide: Audited) -> None:
        wide.open(1, "m", "queue", 9)
        for seq in range(1, 7):
            wide.offer(item(1, seq))
        assert wide.returned(take(wide)) == []
        assert wide.tally(1) == Tally(received=6, waiting=6)
        assert [seqs(take(wide)) for _ in range(2)] == [[1, 2, 3, 4], [5, 6]]

    def test_their_stream_is_charged_nothing(self, scheduler: Audited) -> None:
        for stream in (1, 2):
            scheduler.open(stream, "m", "queue", 9)
            for seq in (1, 2, 3, 4):
                scheduler.offer(item(stream, seq))
        for _ in range(3):
            scheduler.returned(take(scheduler))
        started = [take(scheduler).items[0].stream for _ in range(4)]
        assert Counter(started) == {1: 2, 2: 2}
        assert [s.worker_s for s in scheduler.stream_statistics(["m"])] == [0.0, 0.0]

    def test_a_newer_one_of_a_latest_stream_supersedes_it(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        scheduler.offer(item(1, 1))
        unread = take(scheduler)
        scheduler.offer(item(1, 2))
        assert scheduler.returned(unread) == [Dropped(item(1, 1), "superseded")]
        assert seqs(take(scheduler)) == [2]

    def test_those_of_a_closed_stream_are_cancelled_and_told_to_nobody(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1))
        unread = take(scheduler)
        scheduler.close(1)
        assert scheduler.returned(unread) == []
        assert scheduler.statistics(0.0).total == Tally(received=1, cancelled=1)

    def test_one_whose_stream_was_blocked_meanwhile_does_not_run(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        for seq in range(1, 5):
            scheduler.offer(item(1, seq))
        unread, *others = [take(scheduler) for _ in range(4)]
        for batch in others:
            lose(scheduler, batch, cause=Cause.TIMEOUT)
        assert told(scheduler.returned(unread)) == [(1, 1, POISON)]
        assert scheduler.take(0.0, ("m",)) == (None, [])

    def test_a_second_try_that_was_not_read_is_still_the_second(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1))
        lose(scheduler, take(scheduler))
        scheduler.returned(take(scheduler))
        scheduler.offer(item(1, 2))
        again = take(scheduler)
        assert seqs(again) == [1]
        assert told(lose(scheduler, again)) == [(1, 1, "worker_lost")]


class TestLosing:
    """Of items whose worker ended with them."""

    def test_each_runs_once_more_and_alone_before_what_waits(self, wide: Audited) -> None:
        wide.open(1, "m", "queue", 9)
        for seq in range(1, 7):
            wide.offer(item(1, seq))
        assert lose(wide, take(wide)) == []
        assert wide.tally(1) == Tally(received=6, waiting=6)
        for seq in (1, 2, 3, 4):
            second = take(wide)
            assert seqs(second) == [seq]
            finish(wide, second)
        assert seqs(take(wide)) == [5, 6]
        assert wide.tally(1) == Tally(received=6, results=4, running=2, retried=4)

    def test_those_of_two_batches_run_again_in_their_order(self, wide: Audited) -> None:
        wide.open(1, "m", "queue", 9)
        for seq in range(1, 9):
            wide.offer(item(1, seq))
        first, second = take(wide), take(wide)
        lose(wide, first)
        lose(wide, second)
        assert [seqs(take(wide))[0] for _ in range(8)] == list(range(1, 9))

    def test_while_one_waits_or_runs_again_its_stream_has_no_company(self, wide: Audited) -> None:
        for stream in (1, 2):
            wide.open(stream, "m", "queue", 9)
        wide.offer(item(1, 1))
        lose(wide, take(wide))
        wide.offer(item(1, 2))
        wide.offer(item(2, 1))
        batches = [take(wide) for _ in range(3)]
        assert {batch.items for batch in batches} == {(item(1, 1),), (item(1, 2),), (item(2, 1),)}
        for batch in batches:
            finish(wide, batch)
        wide.offer(item(1, 3))
        wide.offer(item(2, 2))
        assert len(take(wide).items) == 2

    def test_one_does_not_join_a_batch_that_has_begun(self, wide: Audited) -> None:
        for stream in (1, 2, 3):
            wide.open(stream, "m", "queue", 9)
        wide.offer(item(1, 1))
        lost = take(wide)
        wide.offer(item(2, 1))
        wide.offer(item(3, 1))
        lose(wide, lost)
        batches = [[(one.stream, one.seq) for one in take(wide).items] for _ in range(2)]
        assert batches == [[(2, 1), (3, 1)], [(1, 1)]]
        assert wide.take(0.0, ("m",)) == (None, [])

    def test_one_that_goes_well_the_second_time_has_its_result(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 1)
        scheduler.offer(item(1, 1))
        lose(scheduler, take(scheduler))
        assert finish(scheduler, take(scheduler)) == [result(item(1, 1))]
        assert scheduler.tally(1) == Tally(received=1, results=1, retried=1)

    @pytest.mark.parametrize("together", [1, 2])
    def test_none_runs_a_third_time(self, wide: Audited, together: int) -> None:
        wide.open(1, "m", "queue", 9)
        for seq in range(1, together + 1):
            wide.offer(item(1, seq))
        assert lose(wide, take(wide)) == []
        outcomes = lose(wide, take(wide))
        assert told(outcomes) == [(1, 1, "worker_lost")]
        assert isinstance(outcomes[0], Failed)
        assert not outcomes[0].retryable, "it is the item, for it was alone"
        left = together - 1
        assert wide.tally(1) == Tally(received=together, errors=1, waiting=left, retried=1)

    def test_none_runs_a_third_time_though_its_model_was_given_up_meanwhile(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1))
        lose(scheduler, take(scheduler))
        second = take(scheduler)
        scheduler.offer(item(1, 2))
        assert told(scheduler.abandon("m")) == [(1, 2, "model_unavailable")]
        assert told(lose(scheduler, second)) == [(1, 1, "worker_lost")]

    def test_one_that_took_too_long_alone_is_not_tried_again(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 1)
        scheduler.offer(item(1, 1))
        assert told(lose(scheduler, take(scheduler), cause=Cause.TIMEOUT)) == [(1, 1, "timeout")]
        assert scheduler.tally(1) == Tally(received=1, errors=1)

    def test_of_several_that_took_too_long_each_is_tried_alone(self, wide: Audited) -> None:
        wide.open(1, "m", "queue", 9)
        for seq in (1, 2):
            wide.offer(item(1, seq))
        assert lose(wide, take(wide), cause=Cause.TIMEOUT) == []
        assert told(lose(wide, take(wide), cause=Cause.TIMEOUT)) == [(1, 1, "timeout")]
        assert told(finish(wide, take(wide))) == [(1, 2, "result")]

    def test_one_of_a_latest_stream_gives_way_neither_to_a_newer_one_nor_to_its_deadline(
        self, scheduler: Audited
    ) -> None:
        scheduler.open(1, "m", "latest", 1)
        scheduler.offer(item(1, 1, deadline=5.0))
        lost = take(scheduler)
        scheduler.offer(item(1, 2, deadline=5.0))
        assert lose(scheduler, lost, 4.0) == []
        assert told(scheduler.offer(item(1, 3, deadline=7.0))) == [(1, 2, "superseded")]
        assert scheduler.expire(6.0) == ([], 7.0)
        assert told(scheduler.offer(item(1, 4, deadline=6.0))) == [(1, 3, "superseded")]
        assert told(finish(scheduler, take(scheduler, 6.0))) == [(1, 1, "result")]
        assert told(scheduler.take(6.0, ("m",))[1]) == [(1, 4, "expired")]

    def test_one_of_a_latest_stream_that_waits_alone_stays_when_a_newer_one_comes(
        self, scheduler: Audited
    ) -> None:
        scheduler.open(1, "m", "latest", 1)
        scheduler.offer(item(1, 1))
        lose(scheduler, take(scheduler))
        assert scheduler.offer(item(1, 2)) == []
        finish(scheduler, take(scheduler))
        assert seqs(take(scheduler)) == [2]

    def test_of_two_of_a_latest_stream_both_run_again_and_the_newest_behind_them(
        self, scheduler: Audited
    ) -> None:
        scheduler.open(1, "m", "latest", 2)
        scheduler.offer(item(1, 1))
        older = take(scheduler)
        scheduler.offer(item(1, 2))
        newer = take(scheduler)
        for seq in (3, 4):
            scheduler.offer(item(1, seq))
        assert lose(scheduler, newer) == []
        assert lose(scheduler, older) == []
        assert [seqs(take(scheduler)) for _ in range(2)] == [[1], [2]]
        assert scheduler.take(0.0, ("m",)) == (None, []), "its window is full"
        assert scheduler.tally(1) == Tally(received=4, superseded=1, waiting=1, running=2)

    def test_of_a_latest_stream_one_that_runs_again_replaces_an_older_one_that_was_not_read(
        self, scheduler: Audited
    ) -> None:
        scheduler.open(1, "m", "latest", 2)
        scheduler.offer(item(1, 1))
        unread = take(scheduler)
        scheduler.offer(item(1, 2))
        lost = take(scheduler)
        scheduler.returned(unread)
        assert told(lose(scheduler, lost)) == [(1, 1, "superseded")]

    @pytest.mark.parametrize("how", ["drained", "closed"])
    def test_of_one_that_is_given_up_while_it_waits_nobody_says_it_never_started(
        self, scheduler: Audited, how: str
    ) -> None:
        scheduler.open(1, "m", "latest", 1)
        scheduler.offer(item(1, 1))
        lose(scheduler, take(scheduler))
        if how == "drained":
            outcomes = scheduler.drain()
            assert told(outcomes) == [(1, 1, "worker_lost")]
            assert isinstance(outcomes[0], Failed)
            assert outcomes[0].retryable
            assert scheduler._streams[1].suspects == {}
        else:
            scheduler.close(1)
        assert scheduler.statistics(0.0).total.errors == 1
        assert scheduler.statistics(0.0).total.dropped == 0

    def test_one_that_never_ran_again_was_not_retried(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1))
        lose(scheduler, take(scheduler))
        scheduler.returned(take(scheduler))
        scheduler.drain()
        assert scheduler.tally(1) == Tally(received=1, errors=1)

    def test_one_that_waits_when_its_stream_closes_is_an_error_for_nobody(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 1)
        scheduler.offer(item(1, 1))
        lose(scheduler, take(scheduler))
        scheduler.close(1)
        assert scheduler.take(0.0, ("m",)) == (None, [])
        assert scheduler.statistics(0.0).total == Tally(received=1, errors=1, discarded=1, undelivered=1)

    def test_one_whose_stream_has_closed_is_not_run_again(self, wide: Audited) -> None:
        wide.open(1, "m", "queue", 9)
        wide.open(2, "m", "queue", 9)
        for stream in (1, 2):
            wide.offer(item(stream, 1))
        lost = take(wide)
        wide.close(1)
        assert lose(wide, lost) == []
        assert [(one.stream, one.seq) for one in take(wide).items] == [(2, 1)]
        expected = Tally(received=2, errors=1, running=1, discarded=1, undelivered=1)
        assert wide.statistics(0.0).total == expected
        assert list(wide._streams) == [2]

    def test_they_stand_beyond_the_window_which_stays_full(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 1)
        scheduler.offer(item(1, 1))
        running = take(scheduler)
        scheduler.offer(item(1, 2))
        lose(scheduler, running)
        assert scheduler.tally(1).waiting == 2
        take(scheduler)
        assert not scheduler.has_capacity(1)

    def test_the_time_of_its_worker_is_charged_to_the_stream_of_one_that_was_alone(
        self, wide: Audited
    ) -> None:
        wide.expect("m", 0.01)
        for stream in (1, 2):
            wide.open(stream, "m", "queue", 9)
            wide.offer(item(stream, 1))
        wide.lost(take(wide), 3.0, 3.0, Cause.TIMEOUT)
        wide.lost(take(wide), 3.0, 6.0, Cause.TIMEOUT)
        shares = [stream.worker_s for stream in wide.stream_statistics(["m"])]
        assert shares == pytest.approx([3.01, 0.01]), "together they pay what such items took before"

    def test_one_that_hangs_does_not_starve_its_neighbour(self, wide: Audited) -> None:
        wide.expect("m", 0.01)
        streams = range(1, 6)
        for stream in streams:
            wide.open(stream, "m", "queue", 9)
        wide.offer(item(1, 1))
        wide.offer(item(2, 1))
        wide.lost(take(wide), 10.0, 10.0, Cause.TIMEOUT)
        wide.close(1)
        wide.offer(item(2, 2))
        for stream in (3, 4, 5):
            for seq in range(1, 10):
                wide.offer(item(stream, seq))
        started: list[int] = []
        for _ in range(8):
            batch = take(wide)
            started += [one.stream for one in batch.items]
            finish(wide, batch, 0.01 * len(batch.items))
        assert started[:12].count(2) == 2

    def test_a_stream_whose_items_end_workers_does_not_starve_the_others(self, scheduler: Audited) -> None:
        for stream in (1, 2):
            scheduler.open(stream, "m", "queue", 50)
            for seq in range(1, 51):
                scheduler.offer(item(stream, seq))
        scheduler.lost(take(scheduler), 1.0, 1.0, Cause.CRASH)
        served: Counter[int] = Counter()
        for _ in range(20):
            batch = take(scheduler)
            served[batch.items[0].stream] += 1
            finish(scheduler, batch, 0.02)
        assert served[2] >= 19, "the second try, which had its place already, and then those whose turn it is"


class TestPoison:
    """Of streams whose items end workers."""

    def end(self, scheduler: Audited, seq: int, now: float, cause: Cause = Cause.CRASH) -> list[Outcome]:
        """Let a new item of stream 1 take two workers with it; or one, by taking too long."""
        scheduler.offer(item(1, seq))
        if cause is Cause.CRASH:
            assert lose(scheduler, take(scheduler), now) == []
        return lose(scheduler, take(scheduler), now, cause)

    def test_three_workers_in_a_minute_are_the_end_of_it(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        assert told(self.end(scheduler, 1, 0.0)) == [(1, 1, "worker_lost")]
        for seq in (2, 3, 4):
            scheduler.offer(item(1, seq))
        outcomes = lose(scheduler, take(scheduler), 60.0)
        assert told(outcomes) == [(1, 2, POISON), (1, 3, POISON), (1, 4, POISON)]
        assert all(isinstance(outcome, Failed) and outcome.fatal for outcome in outcomes)
        assert not any(isinstance(outcome, Failed) and outcome.retryable for outcome in outcomes)
        assert scheduler.take(60.0, ("m",)) == (None, [])
        assert scheduler.tally(1) == Tally(received=4, errors=4, retried=1)

    def test_whatever_it_still_sends_has_its_error_at_once(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        self.end(scheduler, 1, 0.0)
        self.end(scheduler, 2, 0.0, cause=Cause.TIMEOUT)
        for seq in (3, 4):
            assert told(scheduler.offer(item(1, seq))) == [(1, seq, POISON)]
            assert scheduler.take(0.0, ("m",)) == (None, [])
        assert scheduler.tally(1).errors == 4

    def test_the_others_run_on(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        self.end(scheduler, 1, 0.0)
        self.end(scheduler, 2, 0.0, cause=Cause.TIMEOUT)
        scheduler.open(2, "m", "queue", 9)
        scheduler.offer(item(2, 1))
        assert told(finish(scheduler, take(scheduler))) == [(2, 1, "result")]

    def test_three_in_more_than_a_minute_are_not(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        for seq, now in enumerate([0.0, 60.1, 120.2, 180.3], 1):
            assert told(self.end(scheduler, seq, now, cause=Cause.TIMEOUT)) == [(1, seq, "timeout")]

    def test_those_that_ended_in_company_are_nobodys_fault(self, wide: Audited) -> None:
        wide.open(1, "m", "queue", 9)
        for turn in range(5):
            for seq in (1, 2):
                wide.offer(item(1, 2 * turn + seq))
            assert lose(wide, take(wide)) == []
            for _ in range(2):
                finish(wide, take(wide))
        assert wide.tally(1) == Tally(received=10, results=10, retried=10)

    @pytest.mark.parametrize("outcome", [result, failed])
    def test_a_second_try_that_does_no_harm_acquits_it(
        self, scheduler: Audited, outcome: Callable[[Item], Outcome]
    ) -> None:
        scheduler.open(1, "m", "queue", 9)
        for seq in range(1, 7):
            scheduler.offer(item(1, seq))
            assert lose(scheduler, take(scheduler)) == []
            second = take(scheduler)
            assert scheduler.done(second, [outcome(one) for one in second.items], 0.001) != []
        assert scheduler.tally(1).retried == 6

    def test_an_acquittal_takes_back_one_charge_and_no_more(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        self.end(scheduler, 1, 0.0, cause=Cause.TIMEOUT)
        scheduler.offer(item(1, 2))
        lose(scheduler, take(scheduler))
        finish(scheduler, take(scheduler))
        assert told(self.end(scheduler, 3, 0.0)) == [(1, 3, POISON)], "the first ended one, and this two"

    def test_an_acquittal_takes_back_its_own_charge(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1))
        scheduler.offer(item(1, 2))
        lose(scheduler, take(scheduler), 0.0)
        second = take(scheduler)
        assert seqs(second) == [1]
        lose(scheduler, take(scheduler), 50.0)  # the other, in the meantime
        finish(scheduler, second)
        scheduler.offer(item(1, 3))
        third = take(scheduler)
        assert lose(scheduler, third, 100.0) != [], "its second try"
        lose(scheduler, take(scheduler), 101.0)
        assert told(scheduler.offer(item(1, 4))) == [(1, 4, POISON)], "those of 50, 100 and 101 s stand"

    def test_three_workers_that_are_ended_at_once_from_outside_condemn_no_one(
        self, scheduler: Audited
    ) -> None:
        scheduler.open(1, "m", "queue", 9)
        for seq in range(1, 6):
            scheduler.offer(item(1, seq))
        for batch in [take(scheduler) for _ in range(5)]:
            assert lose(scheduler, batch) == []
        for _ in range(5):
            finish(scheduler, take(scheduler))
        assert scheduler.tally(1) == Tally(received=5, results=5, retried=5)

    def test_a_camera_whose_worker_is_ended_from_outside_again_and_again_lives_on(
        self, scheduler: Audited
    ) -> None:
        scheduler.open(1, "m", "latest", 1)
        scheduler.offer(item(1, 1))
        for turn in range(1, 7):
            running = take(scheduler)
            scheduler.offer(item(1, 2 * turn))
            assert lose(scheduler, running, float(turn)) == []
            scheduler.offer(item(1, 2 * turn + 1))
            assert told(finish(scheduler, take(scheduler))) == [(1, max(1, 2 * turn - 1), "result")]
        assert scheduler.tally(1) == Tally(received=13, results=6, superseded=6, waiting=1, retried=6)

    @pytest.mark.parametrize("every", [1, 2, 7], ids=["every frame", "every second", "every seventh"])
    @pytest.mark.parametrize("max_age", [None, 0.001], ids=["for ever", "for a millisecond"])
    def test_a_camera_that_ends_workers_costs_its_neighbours_one_and_itself_three(
        self, wide: Audited, every: int, max_age: float | None
    ) -> None:
        streams = range(1, 5)
        for stream in streams:
            wide.open(stream, "m", "latest", 1)
        sent = itertools.count(1)
        now, ended, results = 0.0, Counter[bool](), Counter[int]()
        while now < 50.0 and not wide._streams[1].blocked:
            seq = next(sent)
            for stream in streams:
                wide.offer(Item(stream, seq, b"", now, max_age and now + max_age))
            batch, _ = wide.take(now, ("m",))
            assert batch
            newer = next(sent)
            for stream in streams:
                wide.offer(Item(stream, newer, b"", now, max_age and now + max_age))
            now += 0.05
            if any(one.stream == 1 and one.seq // 2 % every == 0 for one in batch.items):
                ended[len(batch.items) == 1] += 1
                lose(wide, batch, now)
            else:
                results.update(one.stream for one in batch.items)
                finish(wide, batch)
        assert wide._streams[1].blocked
        assert ended[False] <= 1
        assert ended[True] == 3
        assert not any(wide._streams[stream].blocked for stream in (2, 3, 4))

    def test_after_a_minute_it_may_have_company_again(self, wide: Audited) -> None:
        for stream in (1, 2):
            wide.open(stream, "m", "queue", 9)
        self.end(wide, 1, 0.0, cause=Cause.TIMEOUT)
        sizes = []
        for turn, now in enumerate((60.0, 60.1), 1):
            wide.offer(item(1, 1 + turn))
            wide.offer(item(2, turn))
            batch = take(wide, now)
            sizes.append(len(batch.items))
            finish(wide, batch)
            while (rest := wide.take(now, ("m",))[0]) is not None:
                finish(wide, rest)
        assert sizes == [1, 2]

    def test_kills_from_outside_are_held_against_nothing(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        for seq in range(1, 9):
            scheduler.offer(item(1, seq))
            for _ in range(MAX_KILLS - 1):
                assert lose(scheduler, take(scheduler), cause=Cause.OUTSIDE) == []
            assert told(finish(scheduler, take(scheduler))) == [(1, seq, "result")]
        assert not scheduler._streams[1].kills

    def test_one_whose_workers_are_killed_again_and_again_is_given_back(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1))
        outcomes = [lose(scheduler, take(scheduler), cause=Cause.OUTSIDE) for _ in range(MAX_KILLS)][-1]
        assert told(outcomes) == [(1, 1, "worker_lost")]
        assert isinstance(outcomes[0], Failed)
        assert outcomes[0].retryable, "the item did nothing"
        assert not scheduler._streams[1].blocked

    def test_where_a_kill_may_be_the_items_doing_the_third_alone_proves_it(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        for seq in (1, 2):
            scheduler.offer(item(1, seq))
            assert lose(scheduler, take(scheduler), cause=Cause.UNKNOWN) == []
            assert lose(scheduler, take(scheduler), cause=Cause.UNKNOWN) == []
            assert told(finish(scheduler, take(scheduler))) == [(1, seq, "result")]
        scheduler.offer(item(1, 3))
        outcomes = [lose(scheduler, take(scheduler), cause=Cause.UNKNOWN) for _ in range(3)]
        assert [told(each) for each in outcomes] == [[], [], [(1, 3, "worker_lost")]]
        scheduler.offer(item(1, 4))
        assert told(lose(scheduler, take(scheduler), cause=Cause.UNKNOWN)) == [(1, 4, POISON)]

    @pytest.mark.parametrize(("later", "excused"), [(60.0, True), (60.1, False)])
    def test_a_worker_without_an_item_that_is_killed_tells_that_kills_come_from_outside(
        self, scheduler: Audited, later: float, excused: bool
    ) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.worker_killed(100.0)
        scheduler.offer(item(1, 1))
        outcomes = [lose(scheduler, take(scheduler), 100.0 + later, Cause.UNKNOWN) for _ in range(3)]
        assert told(outcomes[-1]) == ([] if excused else [(1, 1, "worker_lost")])

    @pytest.mark.parametrize("cause", [Cause.CRASH, Cause.UNKNOWN])
    def test_several_poisonous_streams_do_not_excuse_each_other(
        self, scheduler: Audited, cause: Cause
    ) -> None:
        streams = range(1, 9)
        for stream in streams:
            scheduler.open(stream, "m", "queue", 99)
            for seq in range(1, 10):
                scheduler.offer(item(stream, seq))
        ended: Counter[int] = Counter()
        while (batch := scheduler.take(0.0, ("m",))[0]) is not None:
            ended[batch.items[0].stream] += 1
            lose(scheduler, batch, cause=cause)
        assert ended == dict.fromkeys(streams, 3 if cause is Cause.CRASH else 4)
        assert all(scheduler._streams[stream].blocked for stream in streams)

    @pytest.mark.parametrize("cause", [Cause.OUTSIDE, Cause.UNKNOWN])
    def test_batches_that_were_not_read_before_kills_from_outside_are_not_counted(
        self, scheduler: Audited, cause: Cause
    ) -> None:
        scheduler.open(1, "m", "latest", 1)
        scheduler.offer(item(1, 1))
        scheduler.worker_killed(0.0)
        for _ in range(20):
            assert scheduler.returned(take(scheduler), 1.0, cause) == []
        assert told(finish(scheduler, take(scheduler))) == [(1, 1, "result")]
        assert scheduler.tally(1).retried == 0

    def test_what_runs_of_it_is_still_answered(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1))
        running = take(scheduler)
        self.end(scheduler, 2, 0.0)
        self.end(scheduler, 3, 0.0, cause=Cause.TIMEOUT)
        assert finish(scheduler, running) == [result(item(1, 1))]
        assert told(scheduler.offer(item(1, 4))) == [(1, 4, POISON)]

    def test_it_stays_blocked_when_what_ran_ends_a_worker_much_later(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        scheduler.offer(item(1, 1))
        running = take(scheduler)
        self.end(scheduler, 2, 0.0)
        self.end(scheduler, 3, 0.0, cause=Cause.TIMEOUT)
        assert told(lose(scheduler, running, 100.0)) == [(1, 1, POISON)]
        assert told(scheduler.offer(item(1, 4))) == [(1, 4, POISON)]

    def test_a_closed_one_is_charged_with_nothing(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 9)
        for seq in (1, 2, 3, 4):
            scheduler.offer(item(1, seq))
        running = [take(scheduler) for _ in range(4)]
        scheduler.close(1)
        for batch in running:
            assert lose(scheduler, batch) == []
        assert scheduler.statistics(0.0).total == Tally(received=4, errors=4, discarded=4, undelivered=4)
        assert not scheduler._streams


class TestStatistics:
    def test_count_each_fate_once(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        for seq in (1, 2):
            scheduler.offer(item(1, seq))
        batch = take(scheduler)
        scheduler.done(batch, [failed(one) for one in batch.items], 0.1)
        scheduler.offer(item(1, 3, deadline=1.0))
        scheduler.take(2.0, ("m",))
        scheduler.offer(item(1, 4))
        finish(scheduler, take(scheduler))
        scheduler.offer(item(1, 5))
        tally = scheduler.tally(1)
        assert tally == Tally(received=5, results=1, errors=1, superseded=1, expired=1, waiting=1)
        assert tally.dropped == 2

    def test_keep_what_a_stream_that_is_no_more_retried_and_discarded(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 2)
        for seq in (1, 2):
            scheduler.offer(item(1, seq))
        lose(scheduler, take(scheduler))
        running = take(scheduler), take(scheduler)
        assert scheduler.statistics(0.0).total == Tally(received=2, running=2)
        scheduler.close(1)
        lose(scheduler, running[0])
        assert finish(scheduler, running[1]) == []
        expected = Tally(received=2, results=1, errors=1, retried=1, discarded=2, undelivered=1)
        assert scheduler.statistics(0.0).total == expected
        assert expected.balanced, "retried and discarded are no outcomes of their own"

    def test_tell_the_ages_and_costs_of_results_alone(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 3)
        for seq in (1, 2, 3):
            scheduler.offer(item(1, seq))
        scheduler.add_model("m", 3)
        batch = take(scheduler)
        outcomes = [failed(one) if one.seq == 2 else result(one) for one in batch.items]
        scheduler.done(batch, outcomes, 0.3, now=2.0)
        model = scheduler.statistics(2.0).models["m"]
        assert (model.ages.count, model.ages.largest) == (2, 2.0)
        assert (model.costs.count, model.costs.largest) == (2, pytest.approx(0.1))
        assert scheduler.statistics(1000.0).models["m"].ages.count == 0

    def test_tell_the_peak_and_each_streams_share(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 3)
        scheduler.open(2, "m", "latest", 1)
        for stream, seq in ((1, 1), (1, 2), (2, 1), (2, 2)):
            scheduler.offer(item(stream, seq))
        for cost in (0.2, 0.1, 0.1):
            finish(scheduler, take(scheduler), cost)
        scheduler.offer(item(1, 3))
        model = scheduler.statistics(0.0).models["m"]
        assert model.peak == 3, "two that wait in one stream, one in the other; what was superseded is gone"
        streams = scheduler.stream_statistics(["m"])
        assert sum(stream.worker_s for stream in streams) == pytest.approx(0.4)
        assert [stream.share for stream in streams] == [pytest.approx(0.75), pytest.approx(0.25)]

    def test_tell_of_the_streams_with_the_most_worker_time_first(self, scheduler: Audited) -> None:
        for stream, cost in ((1, 0.1), (2, 0.3), (3, 0.2), (4, 0.0)):
            scheduler.open(stream, "m", "queue", 1)
            scheduler.offer(item(stream, 1))
            finish(scheduler, take(scheduler), cost)
        rows = scheduler.stream_statistics(["m"], most=2)
        assert [row.number for row in rows] == [2, 3]
        assert rows[0].share == pytest.approx(0.5), "of all streams, not of those that are told of"

    def test_are_a_snapshot(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "latest", 1)
        before, tally = scheduler.statistics(0.0), scheduler.tally(1)
        scheduler.offer(item(1, 1))
        assert before.total == Tally()
        assert tally == Tally()

    def test_are_per_model_and_in_total(self, scheduler: Audited) -> None:
        scheduler.add_model("n", 1)
        for stream, model in enumerate(["m", "n", "n"], 1):
            scheduler.open(stream, model, "queue", 1)
            scheduler.offer(item(stream, 1))
        scheduler.close(3)
        statistics = scheduler.statistics(0.0)
        assert {name: model.tally for name, model in statistics.models.items()} == {
            "m": Tally(received=1, waiting=1),
            "n": Tally(received=2, waiting=1, cancelled=1),
        }
        assert [model.open_streams for model in statistics.models.values()] == [1, 1]
        assert statistics.total == Tally(received=3, waiting=2, cancelled=1)

    def test_a_lost_item_would_be_seen(self) -> None:
        assert not Tally(received=2, results=1).balanced
        assert not Tally(received=1, results=1, superseded=1).balanced


@dataclass
class Sender:
    """A stream that always has something to run, and what running it costs."""

    cost: float
    weight: float = 1.0
    model: str = "m"
    policy: Policy = "queue"
    fails: bool = False
    window: int = 4
    spent: float = 0.0
    served: int = 0
    seq: Iterator[int] = field(default_factory=lambda: count(1))


def serve(scheduler: Audited, senders: Sequence[Sender], seconds: float, workers: int = 1) -> None:
    """Let `workers` serve what the senders always have waiting, by a simulated clock."""
    for number, sender in enumerate(senders):
        scheduler.open(number, sender.model, sender.policy, sender.window, sender.weight)
    models = {sender.model for sender in senders}
    busy: list[tuple[float, int, Batch, float]] = []
    order = count()
    now = 0.0
    while now < seconds:
        for number, sender in enumerate(senders):
            while scheduler.tally(number).waiting < (sender.window if sender.policy == "queue" else 1):
                scheduler.offer(item(number, next(sender.seq)))
        while len(busy) < workers:
            batch, _ = scheduler.take(now, models)
            if batch is None:
                break
            cost = sum(senders[one.stream].cost for one in batch.items)
            heapq.heappush(busy, (now + cost, next(order), batch, cost))
        now, _, batch, cost = heapq.heappop(busy)
        for one in batch.items:
            senders[one.stream].spent += senders[one.stream].cost
            senders[one.stream].served += 1
        outcomes = [failed(one) if senders[one.stream].fails else result(one) for one in batch.items]
        scheduler.done(batch, outcomes, cost)


class TestFairness:
    def test_sending_a_hundred_times_more_gains_nothing(self, scheduler: Audited) -> None:
        flood = Sender(0.01, window=100)
        modest = [Sender(0.01, window=1) for _ in range(20)]
        serve(scheduler, [flood, *modest], 10.5)
        assert all(abs(sender.spent - 0.5) < 0.03 for sender in [flood, *modest])

    def test_a_flood_does_not_delay_a_newcomer(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 10_000)
        for seq in range(1, 10_001):
            scheduler.offer(item(1, seq))
        for _ in range(100):
            finish(scheduler, take(scheduler))
        scheduler.open(2, "m", "latest", 1)
        scheduler.offer(item(2, 1))
        assert 2 in {take(scheduler).items[0].stream for _ in range(2)}

    def test_a_stream_that_slept_has_saved_nothing_up(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 1000)
        scheduler.open(2, "m", "queue", 1000)
        for seq in range(1, 501):
            scheduler.offer(item(1, seq))
        for _ in range(400):
            finish(scheduler, take(scheduler))
        for seq in range(1, 101):
            scheduler.offer(item(2, seq))
        served = Counter(take(scheduler).items[0].stream for _ in range(40))
        assert abs(served[1] - served[2]) <= 2

    @pytest.mark.parametrize("policy", ["latest", "queue"])
    @pytest.mark.parametrize("weight", [0.2, 2.0, 10.0])
    def test_twice_the_weight_is_twice_the_share(
        self, scheduler: Audited, weight: float, policy: Policy
    ) -> None:
        heavy = Sender(0.01, weight=weight, policy=policy, window=1)
        serve(scheduler, [heavy, light := Sender(0.01)], 30.0)
        assert heavy.spent / light.spent == pytest.approx(weight, rel=0.05)

    def test_weight_counts_in_worker_time_and_not_in_items(self, scheduler: Audited) -> None:
        heavy, light = Sender(0.05, weight=3.0), Sender(0.01)
        serve(scheduler, [heavy, light], 60.0)
        assert heavy.spent / light.spent == pytest.approx(3.0, rel=0.1)

    def test_expensive_items_are_charged(self, scheduler: Audited) -> None:
        large, small = Sender(0.1), Sender(0.01)
        serve(scheduler, [large, small], 60.0)
        assert large.spent / small.spent == pytest.approx(1.0, rel=0.1)
        assert small.served > 8 * large.served

    @pytest.mark.parametrize("weight", [1.0, 3.0])
    def test_items_that_fail_dearly_are_charged(self, scheduler: Audited, weight: float) -> None:
        """A stream whose every item hangs until the timeout pays for the time."""
        hanging, good = Sender(1.0, weight, fails=True), Sender(0.01)
        serve(scheduler, [hanging, good], 100.0)
        assert hanging.spent / good.spent == pytest.approx(weight, rel=0.1)

    def test_costs_that_alternate_are_charged_at_their_mean(self, scheduler: Audited) -> None:
        class Alternating(Sender):
            @property  # type: ignore[misc]
            def cost(self) -> float:
                return 0.1 if self.served % 2 else 0.001

            @cost.setter
            def cost(self, _: float) -> None:
                pass

        uneven, even = Alternating(0.0), Sender(0.01)
        serve(scheduler, [uneven, even], 60.0)
        assert uneven.spent / even.spent == pytest.approx(1.0, rel=0.25)

    def test_what_its_items_took_before_is_charged_when_they_start(self, scheduler: Audited) -> None:
        costs = {1: 1.0, 2: 0.01}
        for stream, waiting in ((1, 4), (2, 1000)):
            scheduler.open(stream, "m", "queue", 1000)
            for seq in range(1, waiting + 1):
                scheduler.offer(item(stream, seq))
        for _ in range(800):  # until the dear stream has long been even with the other
            batch = take(scheduler)
            finish(scheduler, batch, costs[batch.items[0].stream])
        for seq in (5, 6):
            scheduler.offer(item(1, seq))
        started = [take(scheduler).items[0].stream for _ in range(20)]
        assert started.count(1) == 1

    def test_costs_in_mixed_batches_are_charged_at_their_mean(self, wide: Audited) -> None:
        """A stream gets back what it was charged too much, though it never stops waiting."""
        for stream in (1, 2, 3):
            wide.open(stream, "m", "queue", 1000)
            for seq in range(1, 1000):
                wide.offer(item(stream, seq))
        chance = random.Random(1)
        for _ in range(400):
            batch = take(wide)
            finish(wide, batch, 0.001 * chance.choice((1, 30)))
        shares = [stream.worker_s for stream in wide.stream_statistics(["m"])]
        assert max(shares) <= 1.03 * min(shares), shares

    def test_large_items_pay_for_their_part_of_a_batch(self, scheduler: Audited) -> None:
        scheduler.add_model("m", 2)
        for stream, size in ((1, 10 * ITEM_BYTES - ITEM_BYTES), (2, 0)):
            scheduler.open(stream, "m", "queue", 1)
            scheduler.offer(Item(stream, 1, bytes(size), 0.0))
        batch = take(scheduler)
        scheduler.done(batch, [result(one) for one in reversed(batch.items)], 0.11, 0.0)
        shares = [stream.worker_s for stream in scheduler.stream_statistics(["m"])]
        assert shares == pytest.approx([0.10, 0.01])

    def test_an_estimate_is_taken_back_as_it_was_made(self, scheduler: Audited) -> None:
        """Whatever was learnt meanwhile, from the same batch or another."""
        scheduler.add_model("m", 2)
        scheduler.expect("m", 0.01)
        scheduler.open(1, "m", "queue", 9)
        for seq in range(1, 5):
            scheduler.offer(item(1, seq))
        batches = take(scheduler), take(scheduler)
        for batch in batches:
            finish(scheduler, batch, 1.0)
        assert scheduler._streams[1].finish == pytest.approx(2.0)

    def test_a_new_stream_is_charged_what_the_model_took_before(self, scheduler: Audited) -> None:
        scheduler.add_model("n", 1)
        scheduler.open(1, "m", "queue", 50)
        for seq in range(1, 51):
            scheduler.offer(item(1, seq))
        for _ in range(50):
            finish(scheduler, take(scheduler), 0.5)
        scheduler.close(1)
        for stream, model in ((2, "m"), (3, "n")):
            scheduler.open(stream, model, "queue", 20)
            for seq in range(1, 21):
                scheduler.offer(item(stream, seq))
        started = Counter(take(scheduler, models=("m", "n")).model for _ in range(20))
        assert started["m"] == 1

    def test_two_models_share_by_worker_time(self, scheduler: Audited) -> None:
        scheduler.add_model("n", 1)
        slow, fast = Sender(0.05, model="m"), Sender(0.002, model="n")
        serve(scheduler, [slow, fast], 20.0)
        assert slow.spent / fast.spent == pytest.approx(1.0, rel=0.1)

    @pytest.mark.parametrize("policy", ["latest", "queue"])
    def test_a_model_that_runs_in_batches_gains_nothing_by_them(
        self, scheduler: Audited, policy: Policy
    ) -> None:
        scheduler.add_model("n", 8)
        one, many = Sender(0.01, policy=policy, window=1), Sender(0.01, model="n", window=16)
        serve(scheduler, [one, many], 20.0)
        assert one.spent / many.spent == pytest.approx(1.0, rel=0.1)

    @pytest.mark.parametrize("workers", [2, 3])
    def test_several_workers_share_alike(self, scheduler: Audited, workers: int) -> None:
        senders = [Sender(0.1), *(Sender(0.01, window=8) for _ in range(5))]
        serve(scheduler, senders, 15.0, workers)
        share = sum(sender.spent for sender in senders) / len(senders)
        assert [sender.spent for sender in senders] == pytest.approx([share] * 6, rel=0.1)

    def test_equals_are_served_in_turn(self, scheduler: Audited) -> None:
        for stream in range(8):
            scheduler.open(stream, "m", "latest", 1)
        turns = []
        for seq in range(1, 5):
            for stream in range(8):
                scheduler.offer(item(stream, seq))
            for _ in range(8):
                batch = take(scheduler)
                turns.append(batch.items[0].stream)
                finish(scheduler, batch)
        assert all(set(turns[i : i + 8]) == set(range(8)) for i in range(0, 32, 8))


class TestAdmission:
    """A stream of "p" is promised ten items per second, each of 40 ms: two fifths of a worker."""

    @pytest.fixture
    def promising(self) -> Iterator[Audited]:
        audited = Audited()
        audited.add_group("default", 1)
        audited.add_model("p", 1, min_rate=10.0)
        audited.add_model("q", 1)
        audited.expect("p", 0.04)
        yield audited
        audited.audit()

    def flood(self, scheduler: Audited, number: int, model: str, weight: float = 1.0) -> None:
        """Open a stream that sends more than anyone can bear, until a tenth of a second has passed."""
        scheduler.open(number, model, "latest", 1, weight)
        for seq in range(1, 101):
            scheduler.offer(Item(number, seq, b"", seq / 1000))

    def test_whoever_is_promised_nothing_is_let_in_where_nobody_is(self, scheduler: Audited) -> None:
        for number in range(5):
            assert scheduler.admits("m", 1.0, 0.1)
            self.flood(scheduler, number, "m")

    def test_as_many_are_let_in_as_promises_can_be_kept(self, promising: Audited) -> None:
        for number in (1, 2):
            assert promising.admits("p", 1.0, 0.0)
            promising.open(number, "p", "latest", 1)
        assert not promising.admits("p", 1.0, 0.0)
        promising.close(1)
        assert promising.admits("p", 1.0, 0.0)

    def test_twice_the_workers_keep_twice_the_promises(self, promising: Audited) -> None:
        promising.add_group("default", 2)
        for number in range(1, 6):
            assert promising.admits("p", 1.0, 0.0)
            promising.open(number, "p", "latest", 1)
        assert not promising.admits("p", 1.0, 0.0)

    def test_asking_changes_nothing(self, promising: Audited) -> None:
        assert all(promising.admits("p", 1.0, 0.0) for _ in range(10))
        assert promising.statistics(0.0).total == Tally()

    @pytest.mark.parametrize(("weight", "admitted"), [(1.0, False), (4.0, True)])
    def test_a_weight_that_makes_its_fair_share_large_enough_helps(
        self, promising: Audited, weight: float, admitted: bool
    ) -> None:
        promising.expect("q", 0.04)
        self.flood(promising, 1, "q", weight=3.0)
        assert promising.admits("p", weight, 0.1) is admitted

    def test_who_asks_for_little_leaves_the_rest(self, promising: Audited) -> None:
        promising.expect("q", 0.04)
        promising.open(1, "q", "latest", 1, 3.0)
        assert promising.admits("p", 1.0, 0.0), "it has sent nothing yet"
        promising.offer(Item(1, 1, b"", 0.0))
        assert promising.admits("p", 1.0, 0.0), "one item is no rate"
        for seq in range(2, 12):
            promising.offer(Item(1, seq, b"", (seq - 1) * 0.2))
        assert promising.admits("p", 1.0, 2.0), "five items per second are a fifth of the worker"

    def test_who_falls_silent_asks_for_ever_less(self, promising: Audited) -> None:
        promising.expect("q", 0.04)
        self.flood(promising, 1, "q", weight=3.0)
        assert [promising.admits("p", 1.0, now) for now in (0.1, 0.12, 0.2, 1.0)] == [
            False,
            False,
            True,
            True,
        ]

    def test_who_is_promised_nothing_stays_out_where_it_could_take_what_others_were(
        self, promising: Audited
    ) -> None:
        promising.open(1, "p", "latest", 1)
        assert promising.admits("q", 1.0, 0.0)
        promising.open(2, "p", "latest", 1)
        assert not promising.admits("q", 1.0, 0.0)
        assert promising.admits("q", 0.5, 0.0), "it could take half as much"

    def test_who_was_promised_something_is_counted_for_it_though_it_is_silent(
        self, promising: Audited
    ) -> None:
        promising.open(1, "p", "latest", 1)
        promising.open(2, "p", "latest", 1)
        assert not promising.admits("p", 1.0, 1000.0)

    def test_who_is_promised_something_is_not_taken_to_ask_for_more(self, promising: Audited) -> None:
        promising.open(1, "p", "latest", 1)
        assert promising.admits("p", 2.0, 0.0), "though its share would be twice as much"

    def test_what_other_groups_were_promised_does_not_count(self, promising: Audited) -> None:
        promising.add_group("other", 1)
        promising.add_model("o", 1, min_rate=5.0, group="other")
        promising.expect("o", 0.04)
        self.flood(promising, 1, "o", weight=3.0)
        for number in (2, 3):
            promising.open(number, "p", "latest", 1)
        assert not promising.admits("p", 1.0, 0.1)
        assert promising.admits("o", 1.0, 0.1)

    def test_a_changed_promise_counts(self, promising: Audited) -> None:
        promising.add_model("p", 1, min_rate=30.0)
        assert not promising.admits("p", 1.0, 0.0)

    def test_what_items_take_counts_once_it_is_measured(self, promising: Audited) -> None:
        promising.open(1, "p", "queue", 50)
        for seq in range(1, 51):
            promising.offer(item(1, seq))
        for _ in range(50):
            finish(promising, take(promising, models=("p",)), 0.2)
        promising.close(1)
        assert not promising.admits("p", 1.0, 0.0)
        promising.expect("p", 0.0001)
        assert not promising.admits("p", 1.0, 0.0), "it was measured, so nobody need expect anything"

    def test_the_newest_expectation_counts_until_then(self, promising: Audited) -> None:
        promising.expect("p", 0.2)
        assert not promising.admits("p", 1.0, 0.0)
        promising.statistics(0.0)  # which measures nothing
        promising.expect("p", 0.1)
        assert promising.admits("p", 1.0, 0.0)


class TestGroups:
    @pytest.mark.parametrize("ahead", [0, 3])
    def test_one_that_is_far_ahead_takes_no_stream_of_another_its_share(self, ahead: int) -> None:
        scheduler = Audited()
        for number, (group, weight) in enumerate([("slow", 2.0), ("slow", 1.0), ("fast", 1.0)], 1):
            scheduler.add_group(group, 1)
            scheduler.add_model(group, 1, group=group)
            scheduler.open(number, group, "queue", 300, weight)
            for seq in range(1, 301):
                scheduler.offer(item(number, seq))
        started: Counter[int] = Counter()
        for _ in range(60):
            for _ in range(ahead):
                finish(scheduler, take(scheduler, models=("fast",)), 1.0)
            batch = take(scheduler, models=("slow",))
            started.update(one.stream for one in batch.items)
            finish(scheduler, batch, 0.01)
        assert started[1] == pytest.approx(40, abs=2)
        assert started[2] == pytest.approx(20, abs=2)

    def test_models_of_one_group_share_one_virtual_time(self, scheduler: Audited) -> None:
        """A newcomer to one model owes nothing for what streams of another had, and has no claim to it."""
        scheduler.add_model("n", 1)
        scheduler.open(1, "m", "queue", 1000)
        for seq in range(1, 201):
            scheduler.offer(item(1, seq))
        for _ in range(100):
            finish(scheduler, take(scheduler))
        scheduler.open(2, "n", "queue", 1000)
        for seq in range(1, 101):
            scheduler.offer(item(2, seq))
        started: Counter[int] = Counter()
        for _ in range(40):
            batch = take(scheduler, models=("m", "n"))
            started.update(one.stream for one in batch.items)
            finish(scheduler, batch)
        assert abs(started[1] - started[2]) <= 2

    def test_a_group_may_be_told_its_workers_before_or_after_its_models(self) -> None:
        scheduler = Audited()
        scheduler.add_model("p", 1, min_rate=10.0, group="late")
        scheduler.expect("p", 0.15)
        assert not scheduler.admits("p", 1.0, 0.0)
        scheduler.add_group("late", 2)
        assert scheduler.admits("p", 1.0, 0.0)


OLD, NEW = ModelId("m", "1"), ModelId("m", "2")


class TestVersions:
    @pytest.fixture
    def both(self) -> Iterator[Audited]:
        audited = Audited()
        audited.add_model(OLD, 1)
        audited.add_model(NEW, 1)
        yield audited
        audited.audit()

    def test_a_stream_runs_only_on_the_version_that_it_is_bound_to(self, both: Audited) -> None:
        both.open(1, OLD, "queue", 2)
        both.offer(item(1, 1))
        assert both.take(0.0, [NEW]) == (None, [])
        assert take(both, models=[OLD]).model == OLD

    def test_what_waits_goes_with_a_stream_that_is_rebound_and_what_runs_stays(self, both: Audited) -> None:
        both.open(1, OLD, "queue", 4)
        for seq in (1, 2, 3):
            both.offer(item(1, seq))
        running = take(both, models=[OLD])
        assert both.rebind(1, NEW) == []
        assert both.take(0.0, [OLD]) == (None, [])
        assert seqs(take(both, models=[NEW])) == [2]
        finish(both, running)
        models = both.statistics(0.0).models
        assert models[OLD].tally == Tally(received=3, results=1, rebound=2)
        assert models[NEW].tally == Tally(received=2, waiting=1, running=1)
        assert both.statistics(0.0).total == Tally(received=3, results=1, waiting=1, running=1)

    def test_an_item_that_a_worker_of_the_old_version_lost_runs_on_the_new_one(self, both: Audited) -> None:
        both.open(1, OLD, "queue", 4)
        both.offer(item(1, 1))
        running = take(both, models=[OLD])
        both.rebind(1, NEW)
        assert both.lost(running, 0.1, 0.0, Cause.CRASH) == []
        again = take(both, models=[NEW])
        assert (again.model, seqs(again)) == (NEW, [1])
        finish(both, again)
        assert both.statistics(0.0).models[NEW].tally == Tally(received=1, results=1, retried=1)

    def test_rebinding_to_the_same_version_changes_nothing(self, both: Audited) -> None:
        both.open(1, OLD, "queue", 4)
        both.offer(item(1, 1))
        both.rebind(1, OLD)
        assert both.statistics(0.0).models[OLD].tally == Tally(received=1, waiting=1)
        assert seqs(take(both, models=[OLD])) == [1]

    def test_an_abandoned_version_fails_what_waits_and_what_comes_until_it_is_added_again(
        self, both: Audited
    ) -> None:
        both.open(1, OLD, "queue", 4)
        both.offer(item(1, 1))
        (first,) = both.abandon(OLD, "version 1 is no longer served", retryable=False)
        (second,) = both.offer(item(1, 2))
        for seq, failed in enumerate((first, second), 1):
            assert failed == Failed(
                item(1, seq), "model_unavailable", "version 1 is no longer served", retryable=False
            )
        both.add_model(OLD, 1)
        assert both.offer(item(1, 3)) == []

    def test_a_version_is_removed_when_no_stream_is_bound_to_it_and_nothing_runs(self, both: Audited) -> None:
        both.open(1, OLD, "queue", 4)
        both.offer(item(1, 1))
        running = take(both, models=[OLD])
        both.remove_model(OLD)
        assert OLD in both.versions("m"), "a stream is bound to it"
        both.rebind(1, NEW)
        assert OLD in both.versions("m"), "an item runs"
        finish(both, running)
        assert both.versions("m") == [NEW]
        statistics = both.statistics(0.0)
        assert list(statistics.models) == [NEW]
        assert statistics.gone == {"m": Tally(received=1, results=1)}, "its counts are kept"
        assert statistics.total == statistics.tally("m") == Tally(received=1, results=1)

    def test_a_removed_version_that_is_added_again_stays(self, both: Audited) -> None:
        both.open(1, OLD, "queue", 4)
        both.abandon(OLD, "gone", retryable=False)
        both.remove_model(OLD)
        both.add_model(OLD, 1)
        assert both.offer(item(1, 1)) == []
        both.close(1)
        assert OLD in both.versions("m")


class TestState:
    @pytest.fixture
    def counting(self) -> Iterator[Audited]:
        audited = Audited()
        for model in (OLD, NEW):
            audited.add_model(model, 4, stateful=True)
        yield audited
        audited.audit()

    def done(self, scheduler: Audited, batch: Batch) -> None:
        """Count one further in each item's stream."""
        outcomes = [
            replace(result(one), state=str(int(state or b"0") + 1).encode())
            for one, state in zip(batch.items, batch.states, strict=True)
        ]
        scheduler.done(batch, outcomes, 0.1)

    def test_a_stream_that_comes_back_to_a_version_does_not_get_the_state_of_before(
        self, counting: Audited
    ) -> None:
        counting.open(1, OLD, "queue", 4)
        counting.offer(item(1, 1))
        first = take(counting, models=[OLD])
        counting.rebind(1, NEW)
        counting.rebind(1, OLD)
        self.done(counting, first)
        counting.offer(item(1, 2))
        assert take(counting, models=[OLD]).states == (b"",)

    def test_each_item_gets_what_the_one_before_it_left(self, counting: Audited) -> None:
        counting.open(1, OLD, "queue", 4)
        for seq in (1, 2, 3):
            counting.offer(item(1, seq))
        states = []
        for _ in range(3):
            batch = take(counting, models=[OLD])
            states += batch.states
            self.done(counting, batch)
        assert states == [b"", b"1", b"2"]

    def test_one_item_of_a_stream_runs_and_those_of_several_streams_make_a_batch(
        self, counting: Audited
    ) -> None:
        for stream in (1, 2):
            counting.open(stream, OLD, "queue", 4)
            for seq in (1, 2):
                counting.offer(item(stream, seq))
        batch = take(counting, models=[OLD])
        assert [(one.stream, one.seq) for one in batch.items] == [(1, 1), (2, 1)]
        assert counting.take(0.0, [OLD]) == (None, [])
        self.done(counting, batch)
        assert take(counting, models=[OLD]).states == (b"1", b"1")

    @pytest.mark.parametrize("end", ["dropped", "failed"])
    def test_an_item_without_a_result_leaves_the_state_alone(self, counting: Audited, end: str) -> None:
        counting.open(1, OLD, "latest", 1)
        counting.offer(item(1, 1))
        self.done(counting, take(counting, models=[OLD]))
        counting.offer(item(1, 2))
        if end == "failed":
            batch = take(counting, models=[OLD])
            counting.done(batch, [failed(one) for one in batch.items], 0.1)
        counting.offer(item(1, 3))  # supersedes the second where that waits
        assert take(counting, models=[OLD]).states == (b"1",)

    def test_the_second_try_gets_the_same_state(self, counting: Audited) -> None:
        counting.open(1, OLD, "queue", 4)
        for seq in (1, 2):
            counting.offer(item(1, seq))
        self.done(counting, take(counting, models=[OLD]))
        counting.lost(take(counting, models=[OLD]), 0.1, 0.0, Cause.CRASH)
        batch = take(counting, models=[OLD])
        assert (seqs(batch), batch.states) == ([2], (b"1",))

    def test_another_version_starts_anew_and_what_still_ran_on_the_old_one_is_forgotten(
        self, counting: Audited
    ) -> None:
        counting.open(1, OLD, "queue", 4)
        for seq in (1, 2):
            counting.offer(item(1, seq))
        running = take(counting, models=[OLD])
        counting.rebind(1, NEW)
        self.done(counting, running)
        assert take(counting, models=[NEW]).states == (b"",)


class TestPrincipals:
    def shares(self, fair_by: FairBy) -> Counter[str]:
        """Worker time of two principals, one with a stream and one with nine, all with something that waits."""
        scheduler = Audited(fair_by)
        scheduler.add_model("m", 1)
        for stream in range(1, 11):
            scheduler.open(stream, "m", "queue", 2, principal="one" if stream == 1 else "nine")
        sent = Counter[int]()
        for _ in range(200):
            for stream in range(1, 11):
                while scheduler.has_capacity(stream):
                    sent[stream] += 1
                    scheduler.offer(item(stream, sent[stream]))
            finish(scheduler, take(scheduler), 0.01)
        shares = Counter[str]()
        for row in scheduler.stream_statistics(["m"]):
            shares[row.principal] += row.share
        return shares

    def test_streams_share_equally_by_default(self) -> None:
        assert self.shares("stream")["one"] == pytest.approx(0.1, abs=0.01)

    def test_principals_share_equally_on_request(self) -> None:
        assert self.shares("principal")["one"] == pytest.approx(0.5, abs=0.02)

    def test_a_principal_that_is_idle_leaves_the_workers_to_the_others(self) -> None:
        scheduler = Audited("principal")
        scheduler.add_model("m", 1)
        scheduler.open(1, "m", "queue", 2, principal="idle")
        scheduler.open(2, "m", "queue", 2, principal="busy")
        for seq in (1, 2):
            scheduler.offer(item(2, seq))
        for _ in range(2):
            finish(scheduler, take(scheduler), 0.01)
        scheduler.offer(item(1, 1))
        assert [one.stream for one in take(scheduler).items] == [1]

    @pytest.mark.parametrize("fair_by", ["stream", "principal"])
    @pytest.mark.parametrize("streams", [0, 10, 100])
    def test_streams_that_come_and_go_with_an_item_each_get_no_more_than_their_share(
        self, fair_by: FairBy, streams: int
    ) -> None:
        """Two items at a time, each on a stream that was idle, or on a new one: as one-shot requests are."""
        scheduler = Scheduler(fair_by)
        scheduler.add_model("m", 1)
        scheduler.open(0, "m", "queue", 8, principal="waits")
        for stream in range(1, streams + 1):
            scheduler.open(stream, "m", "queue", 2, principal="rotates")
        sent, served, opened = Counter[int](), Counter[bool](), itertools.count(1)
        out = 0
        for _ in range(2000):
            while scheduler.tally(0).waiting < 4:
                sent[0] += 1
                scheduler.offer(item(0, sent[0]))
            while out < 2:
                stream = next(opened)
                if streams:
                    stream = stream % streams + 1
                else:
                    scheduler.open(stream, "m", "queue", 2, principal="rotates")
                sent[stream] += 1
                scheduler.offer(item(stream, sent[stream]))
                out += 1
            batch = take(scheduler)
            stream = batch.items[0].stream
            served[stream == 0] += 1
            scheduler.done(batch, [result(one) for one in batch.items], 0.01, 0.0)
            if stream:
                out -= 1
                if not streams:
                    scheduler.close(stream)
        expected = 1 / 3 if fair_by == "stream" else 1 / 2
        assert served[True] / 2000 == pytest.approx(expected, abs=0.03)

    def test_many_slow_cameras_of_one_principal_get_no_more_than_a_busy_one(self) -> None:
        scheduler = Scheduler("principal")
        scheduler.add_model("m", 1)
        scheduler.open(0, "m", "queue", 8, principal="one")
        for stream in range(1, 91):
            scheduler.open(stream, "m", "latest", 1, principal="other")
        sent, served, now = Counter[int](), Counter[bool](), 0.0
        for step in range(3000):  # a hundred items a second; each camera sends one
            now = step / 100
            while scheduler.tally(0).waiting < 4:
                sent[0] += 1
                scheduler.offer(item(0, sent[0]))
            camera = step % 100 + 1
            if camera <= 90:
                sent[camera] += 1
                scheduler.offer(item(camera, sent[camera]))
            batch = take(scheduler, now)
            served[batch.items[0].stream == 0] += 1
            scheduler.done(batch, [result(one) for one in batch.items], 0.01, now)
        assert served[True] / 3000 > 0.33, "with a share per stream it would be a ninety-first"

    def test_weights_divide_what_their_principal_gets(self) -> None:
        scheduler = Audited("principal")
        scheduler.add_model("m", 1)
        scheduler.open(1, "m", "queue", 2, 1.0, "one")
        scheduler.open(2, "m", "queue", 2, 0.25, "one")
        scheduler.open(3, "m", "queue", 2, 1.0, "other")
        sent = Counter[int]()
        for _ in range(300):
            for stream in (1, 2, 3):
                while scheduler.has_capacity(stream):
                    sent[stream] += 1
                    scheduler.offer(item(stream, sent[stream]))
            finish(scheduler, take(scheduler), 0.01)
        assert [row.share for row in scheduler.stream_statistics(["m"])] == pytest.approx(
            [0.4, 0.1, 0.5], abs=0.02
        )

    def test_nothing_of_a_principal_without_streams_is_kept(self) -> None:
        scheduler = Audited("principal")
        scheduler.add_model("m", 1)
        for stream in range(100):
            scheduler.open(stream, "m", "latest", 1, principal=f"p{stream}")
            scheduler.offer(item(stream, 1))
            scheduler.close(stream)
        assert not scheduler._groups["default"].principals

    def test_a_promise_is_kept_to_principals_where_they_share(self) -> None:
        """Ten streams of one principal share what it gets, so that their promises must fit into that."""
        admitted = {}
        for fair_by in ("stream", "principal"):
            scheduler = Scheduler(fair_by)
            scheduler.add_model("m", 1, min_rate=9.0)
            scheduler.expect("m", 0.01)
            scheduler.open(0, "m", "queue", 8, principal="greedy")
            for seq in range(1, 9):
                scheduler.offer(Item(0, seq, b"", seq / 1000))
            admitted[fair_by] = 0
            while scheduler.admits("m", 1.0, 0.01) and admitted[fair_by] < 20:
                admitted[fair_by] += 1
                scheduler.open(admitted[fair_by], "m", "queue", 8, principal="many")
        assert admitted["principal"] < admitted["stream"]


class TestRefusing:
    def test_what_cannot_run_is_counted_as_received_and_answered(self, scheduler: Audited) -> None:
        scheduler.open(1, "m", "queue", 2)
        scheduler.refuse(Failed(item(1, 1), "empty", ""))
        scheduler.refuse(Dropped(item(1, 2), "draining"))
        assert scheduler.tally(1) == Tally(received=2, errors=1, draining=1)
        assert scheduler.statistics(0.0).total == Tally(received=2, errors=1, draining=1)

    def test_a_stream_that_is_not_open_cannot_be_refused_anything(self, scheduler: Audited) -> None:
        with pytest.raises(UnknownStream):
            scheduler.refuse(Failed(item(1, 1), "empty", ""))


class TestBatchesThatAreNeverRead:
    def test_an_item_that_comes_back_unread_again_and_again_runs_alone_and_then_fails(
        self, wide: Audited
    ) -> None:
        for stream in (1, 2):
            wide.open(stream, "m", "queue", 2)
            wide.offer(item(stream, 1))
        for _ in range(MAX_RETURNS):
            batch = take(wide)
            assert len(batch.items) == 2
            assert wide.returned(batch) == []
        for stream in (1, 2):
            batch = take(wide)
            assert [one.stream for one in batch.items] == [stream], "each runs alone"
            (error,) = wide.returned(batch)
            assert isinstance(error, Failed)
            assert error.code == "worker_lost"
        assert wide.take(0.0, ["m"]) == (None, [])

    def test_an_item_that_is_read_at_last_has_its_answer_and_nothing_is_remembered(
        self, wide: Audited
    ) -> None:
        wide.open(1, "m", "queue", 2)
        wide.offer(item(1, 1))
        for _ in range(MAX_RETURNS):
            wide.returned(take(wide))
        finish(wide, take(wide))
        assert wide.tally(1) == Tally(received=1, results=1, retried=1)
        assert wide._streams[1].returns == {}


class TestBatchBytes:
    def heavy(self, stream: int, seq: int, size: int) -> Item:
        return Item(stream, seq, bytes(size), 0.0)

    def test_a_batch_takes_no_more_bytes_than_a_worker_shall_hold(self, wide: Audited) -> None:
        wide.open(1, "m", "queue", 8)
        for seq in (1, 2, 3):
            wide.offer(self.heavy(1, seq, MAX_BATCH_BYTES // 2))
        assert seqs(take(wide)) == [1, 2]
        assert seqs(take(wide)) == [3]

    def test_an_item_of_more_bytes_runs_alone(self, wide: Audited) -> None:
        wide.open(1, "m", "queue", 8)
        wide.offer(self.heavy(1, 1, MAX_BATCH_BYTES + 1))
        wide.offer(self.heavy(1, 2, 1))
        assert seqs(take(wide)) == [1]
