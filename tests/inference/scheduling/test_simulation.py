"""Thousands of seeded worlds in which the scheduler keeps every law; and planted bugs, which these worlds find."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.items import Batch, Cause, DropReason, Item, Outcome
from inference.model import Policy
from inference.scheduling.scheduler import Scheduler
from inference.scheduling.state import Model, Stream, Suspect
from tests.inference.scheduling.simulation import Broken, Simulation

SEEDS, AT_ONCE = 10_000, 500


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_the_laws_hold(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        Simulation(seed).run()


def test_the_worlds_have_everything_in_them() -> None:
    met: Counter[str] = Counter()
    for seed in range(400):
        world = Simulation(seed)
        world.run()
        met += world.ledger.met
        met["race"] += world.races
        met["discarded"] += sum(tally.discarded for tally in world.ledger.tallies.values())
    outcomes = ("result", "bad", "superseded", "expired", "draining", "cancelled")
    ends = ("worker_lost", "timeout", "poison", "model_unavailable")
    for what in (*outcomes, *ends, "retried", "returned", "rebound", "discarded", "race"):
        assert met[what] > 20, what


def lines(seed: int) -> list[str]:
    seen: list[str] = []
    Simulation(seed, trace=seen.append).run()
    return seen


def test_a_seed_replays() -> None:
    assert lines(5) == lines(5)
    assert len(lines(5)) > 100
    assert lines(5) != lines(6)


@pytest.mark.parametrize("salt", ["1", "2"])
def test_a_seed_replays_in_another_process(salt: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.inference.scheduling.simulation", "5"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": salt},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == lines(5)


class StartsLate(Scheduler):
    """It starts items after their deadline."""

    def take(self, now: float, models: Container[str], free: int = 1) -> tuple[Batch | None, list[Outcome]]:
        batch, dropped = super().take(-math.inf, models, free)
        return batch and replace(batch, started=now), dropped


class DropsTwice(Scheduler):
    """What expired stays where it waits."""

    def expire(self, now: float) -> tuple[list[Outcome], float | None]:
        waiting = [(stream, stream.waiting.copy()) for stream in self._streams.values()]
        told = super().expire(now)
        for stream, items in waiting:
            stream.waiting = items
        return told


class KeepsTwo(Scheduler):
    """Two items of a `latest` stream wait."""

    def offer(self, item: Item) -> list[Outcome]:
        stream = self._stream(item.stream)
        if stream.policy == "queue" or len(stream.waiting) != 1:
            return super().offer(item)
        newest = stream.waiting.popleft()
        try:
            return super().offer(item)
        finally:
            stream.waiting.appendleft(newest)


class FillsBeyondTheCap(Scheduler):
    """A batch holds one item too many."""

    def add_model(self, model: str, max_batch: int, *args: float, **settings: Any) -> None:
        super().add_model(model, max_batch + 1, *args, **settings)


class OverlooksTheWindow(Scheduler):
    """One item too many of a `latest` stream runs."""

    def open(self, number: int, model: str, policy: Policy, window: int, *rest: Any) -> None:
        super().open(number, model, policy, window + (policy == "latest"), *rest)


class TakesTheLastFirst(Scheduler):
    """A queue is a stack."""

    def _fill(self, model: Model, *rest: Any) -> Iterator[Item]:
        for stream in model.streams.values():
            stream.waiting.reverse()
        yield from super()._fill(model, *rest)
        for stream in model.streams.values():
            stream.waiting.reverse()


class IgnoresWeights(Scheduler):
    """All streams weigh the same."""

    def open(self, number: int, model: str, policy: Policy, window: int, *_: Any) -> None:
        super().open(number, model, policy, window)


class ChargesNothing(Scheduler):
    """An item costs its stream nothing, whatever it took."""

    def _fill(self, model: Model, *rest: Any) -> Iterator[Item]:
        for stream in model.streams.values():
            stream.cost = 0.0
        yield from super()._fill(model, *rest)

    def _came_back(self, item: Item, cost: float, model: Model) -> Stream:
        running = self._streams[item.stream].running
        running[item.seq] = running[item.seq]._replace(estimate=cost)  # nothing to correct
        return super()._came_back(item, cost, model)


class StopsVirtualTime(Scheduler):
    """Virtual time does not go on: who comes late is owed all that the others had before."""

    def take(self, now: float, models: Container[str], free: int = 1) -> tuple[Batch | None, list[Outcome]]:
        for workers in self._groups.values():
            workers.virtual = 0.0
        return super().take(now, models, free)


class SharesVirtualTime(Scheduler):
    """All groups have one virtual time, the fastest one's."""

    def take(self, now: float, models: Container[str], free: int = 1) -> tuple[Batch | None, list[Outcome]]:
        fastest = max(workers.virtual for workers in self._groups.values())
        for workers in self._groups.values():
            workers.virtual = fastest
        return super().take(now, models, free)


class ForgetsWhatRuns(Scheduler):
    """A stream that is closed is gone at once, with what runs."""

    def close(self, number: int) -> None:
        super().close(number)
        self._streams.pop(number, None)


class TellsTheDeparted(Scheduler):
    """It hands out results of streams that have been closed."""

    def done(self, batch: Batch, outcomes: Sequence[Outcome], cost: float, now: float) -> list[Outcome]:
        super().done(batch, outcomes, cost, now)
        return list(outcomes)


class CountsNoDiscards(Scheduler):
    """What comes when its client has gone is counted as any other."""

    def _count(self, stream: Stream, model: Model, outcome: Outcome) -> None:
        discarded = model.tally.discarded
        super()._count(stream, model, outcome)
        model.tally.discarded = discarded


class WakesNoOne(Scheduler):
    """A stream with an item that is to run again has no place among those that wait."""

    deaf = False

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        self.deaf = True
        try:
            return super().lost(batch, cost, now, cause)
        finally:
            self.deaf = False

    def _queue_up(self, stream: Stream, **how: bool) -> None:
        if not self.deaf:
            super()._queue_up(stream, **how)


class MarksNothing(Scheduler):
    """An item with which a worker ended is like any other."""

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        wanted = super().lost(batch, cost, now, cause)
        for stream in self._streams.values():
            stream.suspects.clear()
        return wanted


class TriesAThirdTime(Scheduler):
    """It forgets that an item runs for the second time."""

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        for item in batch.items:
            self._streams[item.stream].suspects.pop(item.seq, None)
        return super().lost(batch, cost, now, cause)


class EndangersOthers(Scheduler):
    """An item with which a worker ended runs again in a batch with others."""

    def _fill(self, model: Model, *rest: Any) -> Iterator[Item]:
        marks = [(stream, stream.suspects) for stream in model.streams.values()]
        for stream, _ in marks:
            stream.suspects = {}
        yield from super()._fill(model, *rest)
        for stream, suspects in marks:
            stream.suspects = suspects


class BlamesTheUnread(Scheduler):
    """Items that a worker had not read when it ended are taken for those that ended it."""

    def returned(self, batch: Batch, now: float, cause: Cause) -> list[Outcome]:
        return self.lost(batch, 0.0, now, cause)


class SaysNobodyStarted(Scheduler):
    """An item that is given up while it waits to run again is dropped, as if it had not run."""

    def _drop(self, stream: Stream, item: Item, reason: DropReason) -> Outcome:
        stream.suspects.pop(item.seq, None)
        return super()._drop(stream, item, reason)


class CondemnsNoOne(Scheduler):
    """A stream may end as many workers as it has items."""

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        for item in batch.items:
            self._streams[item.stream].kills.clear()
        return super().lost(batch, cost, now, cause)


class AcquitsNoOne(Scheduler):
    """An item that goes well the second time is held against its stream all the same."""

    def done(self, batch: Batch, outcomes: Sequence[Outcome], cost: float, now: float) -> list[Outcome]:
        for item in batch.items:
            stream = self._streams[item.stream]
            suspect = stream.suspects.get(item.seq)
            stream.kills += [suspect.alone] if suspect and suspect.alone is not None else []
        return super().done(batch, outcomes, cost, now)


class NeverForgives(Scheduler):
    """Workers that a stream ended long ago count as those of the last minute."""

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        return super().lost(batch, cost, 0.0, cause)


class BlamesTheNeighbour(Scheduler):
    """Whoever came first pays for an item that ended its worker alone, whosever it was."""

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        guilty = self._streams[batch.items[0].stream]
        scapegoat = next(iter(guilty.model.streams.values()))
        kills = guilty.kills
        wanted = super().lost(batch, cost, now, cause)
        if guilty.kills is not kills:
            scapegoat.kills, guilty.kills = guilty.kills, kills
        return wanted


class ChargesInCompany(Scheduler):
    """Every item of a batch with which a worker ended is held against its stream."""

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        if len(batch.items) > 1:
            for item in batch.items:
                self._streams[item.stream].blame(Suspect(), now, proven=True)
        return super().lost(batch, cost, now, cause)


class BlamesTheVictim(Scheduler):
    """A worker that was killed from outside is held against its item."""

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        return super().lost(batch, cost, now, Cause.CRASH if cause is Cause.OUTSIDE else cause)


class ConvictsInDoubt(Scheduler):
    """An end of which it is not known whether it came from outside counts like a crash."""

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        return super().lost(batch, cost, now, Cause.CRASH if cause is Cause.UNKNOWN else cause)


class SeesNoOthersDie(Scheduler):
    """That workers without an item are killed as well tells it nothing."""

    def worker_killed(self, now: float) -> None:
        pass


class ExcusesForEver(Scheduler):
    """Once a worker without an item was killed, nothing is ever proven by a signal."""

    def worker_killed(self, now: float) -> None:
        super().worker_killed(math.inf)


class KillsForEver(Scheduler):
    """An item whose worker is killed from outside is never given up."""

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        for item in batch.items:
            if suspect := self._streams[item.stream].suspects.get(item.seq):
                suspect.kills = 0
        return super().lost(batch, cost, now, cause)


class TriesOnlyTheNewest(Scheduler):
    """An item that is to run again gives way to a newer one."""

    def offer(self, item: Item) -> list[Outcome]:
        stream = self._stream(item.stream)
        given_up: list[Outcome] = []
        while stream.policy == "latest" and stream.waiting:
            given_up.append(self._drop(stream, stream.waiting.popleft(), "superseded"))
        return given_up + super().offer(item)


class TriesNothingLate(Scheduler):
    """An item that is to run again expires."""

    def _waiting_item(self, number: int, seq: int) -> Item | None:
        waiting = self._streams[number].waiting if number in self._streams else ()
        return next((item for item in waiting if item.seq == seq), None)


class LosesTheSuspicion(Scheduler):
    """A stream that has ended a worker is trusted with company again at once."""

    def _fill(self, model: Model, *rest: Any) -> Iterator[Item]:
        kills = [(stream, stream.kills) for stream in model.streams.values()]
        for stream, _ in kills:
            stream.kills = []
        yield from super()._fill(model, *rest)
        for stream, before in kills:
            stream.kills = before


class SplitsEqually(Scheduler):
    """A batch's cost is split equally over its items, large and small."""

    share: float | None = None

    def _came_back(self, item: Item, cost: float, model: Model) -> Stream:
        return super()._came_back(item, cost if self.share is None else self.share, model)

    def done(self, batch: Batch, outcomes: Sequence[Outcome], cost: float, now: float) -> list[Outcome]:
        self.share = cost / len(batch.items)
        try:
            return super().done(batch, outcomes, cost, now)
        finally:
            self.share = None


class ChargesTheHangToAll(SplitsEqually):
    """All who were in a batch pay alike for the time in which it hung."""

    def done(self, batch: Batch, outcomes: Sequence[Outcome], cost: float, now: float) -> list[Outcome]:
        return Scheduler.done(self, batch, outcomes, cost, now)

    def lost(self, batch: Batch, cost: float, now: float, cause: Cause) -> list[Outcome]:
        self.share = cost / len(batch.items)
        try:
            return super().lost(batch, cost, now, cause)
        finally:
            self.share = None


class LeavesNothing(Scheduler):
    """Streams that have nothing left to run keep their heap entries until their turns come."""

    def _leave(self, stream: Stream, *, anyway: bool = False) -> None:
        pass


class ForgetsTheState(Scheduler):
    """A result's state is not kept for the stream's next item."""

    def done(self, batch: Batch, outcomes: Sequence[Outcome], cost: float, now: float) -> list[Outcome]:
        wanted = super().done(batch, outcomes, cost, now)
        for stream in self._streams.values():
            stream.state = b""
        return wanted


class KeepsTheStateOfAnotherVersion(Scheduler):
    """A stream that is bound to another version goes on with its state."""

    def rebind(self, number: int, model: str) -> list[Outcome]:
        state = self._streams[number].state
        told = super().rebind(number, model)
        self._streams[number].state = state
        return told


class ReturnsForEver(Scheduler):
    """What comes back unread is never given up."""

    def returned(self, batch: Batch, now: float, cause: Cause) -> list[Outcome]:
        for item in batch.items:
            self._streams[item.stream].returns.pop(item.seq, None)
        return super().returned(batch, now, cause)


class LosesWhatWaits(Scheduler):
    """What waits stays counted on the version that the stream has left."""

    def _move_waiting(self, stream: Stream, old: Model, new: Model) -> None:
        pass


BUGS: dict[type[Scheduler], tuple[int, str]] = {
    StartsLate: (50, "started after its deadline"),
    DropsTwice: (200, "a second outcome|has a place|room, or none"),
    KeepsTwo: (50, "nothing is told of .*superseded"),
    LeavesNothing: (50, "has a place"),
    ForgetsTheState: (100, "state b'' for"),
    KeepsTheStateOfAnotherVersion: (200, "state b'"),
    ReturnsForEver: (500, "worker_lost|does not run alone|retried"),
    LosesWhatWaits: (50, "present"),
    FillsBeyondTheCap: (50, "a batch of"),
    OverlooksTheWindow: (50, "its window is|has a place"),
    TakesTheLastFirst: (50, "started out of order"),
    IgnoresWeights: (500, "unfair"),
    ChargesNothing: (500, "unfair"),
    StopsVirtualTime: (2000, "unfair"),
    SharesVirtualTime: (2000, "unfair"),
    ForgetsWhatRuns: (50, "streams .* not"),
    TellsTheDeparted: (50, "told .* instead of"),
    CountsNoDiscards: (50, "counts .* discarded=0"),
    WakesNoOne: (50, "a worker idles"),
    MarksNothing: (50, "nothing is told of .*worker_lost|poison instead of|told, and waits on"),
    TriesAThirdTime: (50, "nothing is told of .*worker_lost|counts Tally"),
    EndangersOthers: (50, "does not run alone|it had started"),
    BlamesTheUnread: (50, "does not run alone|retried=1|nothing is told of"),
    SaysNobodyStarted: (50, "it had started|cancelled=1"),
    CondemnsNoOne: (50, "nothing is told of .*poison|instead of poison"),
    AcquitsNoOne: (500, "poison instead of|whether to send"),
    NeverForgives: (200, "poison instead of|does not run alone|are charged"),
    BlamesTheNeighbour: (50, "poison|does not run alone"),
    ChargesInCompany: (50, "poison instead of"),
    BlamesTheVictim: (200, "instead of|whether to send|is charged"),
    ConvictsInDoubt: (200, "instead of|whether to send"),
    SeesNoOthersDie: (500, "instead of|whether to send|are charged"),
    ExcusesForEver: (2000, "nothing is told of|does not run alone|are charged"),
    KillsForEver: (2000, "nothing is told of .*worker_lost"),
    TriesOnlyTheNewest: (50, "worker_lost instead of None"),
    TriesNothingLate: (100, "worker_lost instead of None"),
    LosesTheSuspicion: (50, "does not run alone"),
    ChargesTheHangToAll: (200, "is charged to all|unfair"),
    SplitsEqually: (200, "is charged"),
}
"""Each with the seeds within which it is found, a few times as many as it took, and the words that name it."""


def complaint(seed: int, scheduler: type[Scheduler]) -> str | None:
    try:
        Simulation(seed, scheduler).run()
    except Broken as broken:
        return str(broken)
    return None


@pytest.mark.parametrize(("bug", "within", "words"), [(bug, *found) for bug, found in BUGS.items()])
def test_a_planted_bug_is_found(bug: type[Scheduler], within: int, words: str) -> None:
    for seed in range(within):
        assert complaint(seed, Scheduler) is None, "broken without a planted bug"
        if said := complaint(seed, bug):
            break
    else:
        pytest.fail(f"not found in {within} seeds: {bug.__doc__}")
    assert re.search(words, said), f"found after {seed + 1} seeds, but not for what it is"
