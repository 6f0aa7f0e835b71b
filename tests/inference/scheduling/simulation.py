"""The scheduler's world, simulated: streams, workers, a clock; and a ledger that asserts the laws after every step.

Everything follows from the seed. This replays a run and prints every step of it:

    python -m tests.inference.scheduling.simulation SEED
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TypeVar

from inference.items import POISON, Batch, Dropped, Failed, Item, Outcome, Result
from inference.model import Policy
from inference.scheduling.deadlines import FEW
from inference.scheduling.scheduler import ITEM_BYTES, MAX_RETURNS, Scheduler, StreamFull
from inference.scheduling.state import KILL_SPAN, KILLS
from inference.scheduling.statistics import Tally

T = TypeVar("T")
Trace = Callable[[str], object]

STEPS = 70
"""Random steps of a run, before what is left runs out."""

RACES, LAPS, DISTANCE = 0.04, 240, 80.0
"""Share of the runs that end in two races; batches in a race, at most; and the worker time that each group of
streams races for, in dearest items: enough to see who is treated unfairly. One race costs as much as five runs."""

SLACK = 4
"""How many of the dearest items, besides those that run, two streams may be apart by: items are not divided, and
what they cost is known only when they have run."""

HANG = 100
"""A batch that takes too long takes so many times what it would have taken."""

NOISE = 0.3
"""What an item takes is within so much of what its payload tells."""

PAYLOADS = {cost: bytes(round(cost * 1e6) - ITEM_BYTES) for cost in (0.002, 0.005, 0.015)}
"""By what they take, in seconds: payloads whose sizes, with what every item costs besides, are in proportion."""


class Broken(AssertionError):
    """A law is. It says by which seed, and how to see it."""


class Account:
    """What the ledger knows of a stream: its terms, and where its unanswered items are.

    Attributes:
        waiting: items that wait, in the order in which they are to start.
        retried: items that a worker ended with: they wait for their second chance or have it.
        ends: when items ended a worker that they had alone; without the acquitted.
        guilty: of these, the items of which that is proven: by a second time, or because they took too long.
        kills: when items of it that end every worker ended one, alone or not.
        poisonous: the share of its items that do.
        cost: seconds that a worker takes for one of its items.
        paid: seconds of worker time it was charged with.
        spent: seconds of worker time that its items took since the race began, but for what nobody is to pay.
        ran_on: the model version on which each of its running items was started.
        since_bound: the items that were started since it was last bound to a version: only they leave a state.
        returns: how often each item came back unread.
        state: what the next item of a stateful model is to get.
    """

    __slots__ = (
        "blocked",
        "cost",
        "ends",
        "guilty",
        "kills",
        "model",
        "number",
        "open",
        "paid",
        "poisonous",
        "policy",
        "ran_on",
        "retried",
        "returns",
        "running",
        "since_bound",
        "spent",
        "state",
        "stateful",
        "tally",
        "waiting",
        "weight",
        "window",
    )

    def __init__(self, number: int, model: str, policy: Policy, window: int, weight: float) -> None:
        self.number, self.model, self.policy, self.window, self.weight = number, model, policy, window, weight
        self.open, self.blocked = True, False
        self.waiting: dict[int, Item] = {}
        self.running: dict[int, Item] = {}
        self.retried: set[int] = set()
        self.ran_on: dict[int, str] = {}
        self.since_bound: set[int] = set()
        self.returns: Counter[int] = Counter()
        self.state, self.stateful = b"", False
        self.ends: dict[int, list[float]] = {}
        self.guilty: set[int] = set()
        self.kills: list[float] = []
        self.tally = Tally()
        self.cost = self.paid = self.spent = self.poisonous = 0.0

    @property
    def room(self) -> bool:
        return self.policy == "latest" or len(self.waiting) < self.window

    @property
    def may_start(self) -> bool:
        """Whether an item of it waits that any free worker must take."""
        most = 1 if self.stateful else math.inf if self.policy == "queue" else self.window
        return bool(self.waiting) and len(self.running) < most

    @property
    def replaceable(self) -> list[int]:
        """Those that wait and give way to a newer one and to their deadline."""
        return [seq for seq in self.waiting if seq not in self.retried]

    def isolated(self, now: float) -> bool:
        """Whether nothing of it may run in company: it ended a worker, or may have."""
        proven = (when for seq in self.guilty for when in self.ends[seq])
        return bool(self.retried) or any(now - when <= KILL_SPAN for when in proven)

    def end(self, seq: int, now: float, *, timed_out: bool) -> None:
        """An item that was alone ended its worker; three within the span condemn, if all before it are proven."""
        self.ends.setdefault(seq, []).append(now)
        held = [when for other in self.guilty | {seq} for when in self.ends[other]]
        self.blocked |= sum(now - when <= KILL_SPAN for when in held) >= KILLS
        if timed_out or seq in self.retried:
            self.guilty.add(seq)

    def acquit(self, seq: int) -> None:
        """An item has run to its end."""
        if seq in self.retried:
            self.tally.retried += 1
            self.ends.pop(seq, None)

    def farewell(self, why: str) -> dict[int, str]:
        """What is told of those that wait when they are given up; of one that ran, not that nobody started."""
        return {seq: "worker_lost" if seq in self.retried else why for seq in self.waiting}

    def wait_again(self, item: Item) -> dict[int, str]:
        """Let an item that has come back wait where it was; what is told, of it or another, for that."""
        self.waiting = dict(sorted({item.seq: self.running.pop(item.seq), **self.waiting}.items()))
        if not self.open:
            return self.farewell("cancelled")
        if self.blocked:
            return {item.seq: POISON}
        if self.policy == "latest":  # law 2: the newest is wanted
            return {seq: "superseded" for seq in self.replaceable if seq != max(self.waiting)}
        return {}


class Ledger:
    """Where every item is, by what goes into the scheduler and comes out; it asserts the laws.

    Attributes:
        accounts: the streams that are open, or closed with something running.
        limits: the largest batch of each model.
        present, peaks: items of each model that wait or run, and the most there were.
        tallies: what became of the items of each model.
        met: how often anything was told.
        most, crowd: items that waited, and streams that there were, at once.
    """

    def __init__(self, models: Sequence[str], trace: Trace | None) -> None:
        self.accounts: dict[int, Account] = {}
        self.limits = dict.fromkeys(models, 1)
        self.present = dict.fromkeys(models, 0)
        self.peaks = dict.fromkeys(models, 0)
        self.tallies = {name: Tally() for name in models}
        self.met: Counter[str] = Counter()
        self.most = self.crowd = self.checks = 0
        self.trace = trace

    def offered(self, account: Account, item: Item, outcomes: Sequence[Outcome]) -> None:
        expected = dict.fromkeys(account.replaceable if account.policy == "latest" else (), "superseded")
        there = self.present[account.model] + 1
        self.most = max(self.most, sum(self.present.values()) + 1)
        self.peaks[account.model] = max(self.peaks[account.model], there - len(expected))
        self.present[account.model] = there
        account.tally.received += 1
        self.tallies[account.model].received += 1
        account.waiting[item.seq] = item
        if account.blocked:
            expected[item.seq] = POISON
        self._told(account, expected, outcomes)

    def taken(
        self, now: float, held: Container[str], batch: Batch | None, given_up: Sequence[Outcome]
    ) -> None:
        for outcome in given_up:
            item = outcome.item
            assert item.deadline is not None, f"given up, and has no deadline: {outcome}"
            assert item.deadline <= now, f"given up before its deadline: {outcome}"
            account = self.accounts[item.stream]
            self._answer(account, outcome, "expired" if item.seq in account.replaceable else None)
        if batch is None:
            for account in self.accounts.values():
                assert not (account.may_start and account.model in held), (
                    f"a worker idles while an item of stream {account.number} waits"
                )
            return
        assert batch.model in held, f"a batch of {batch.model} for a worker that has not loaded it"
        assert batch.started == now, f"a batch that starts at {batch.started}, not {now}"
        assert 1 <= len(batch.items) <= self.limits[batch.model], f"a batch of {len(batch.items)}"
        assert len(batch.states) in (0, len(batch.items)), f"states {batch.states}"
        for number, item in enumerate(batch.items):
            account = self.accounts[item.stream]
            assert bool(batch.states) is account.stateful, f"states, or none: {batch.states}"
            if account.stateful:
                assert batch.states[number] == account.state, f"state {batch.states[number]!r} for {item}"
            self._start(item, batch, now)

    def charged(self, costs: dict[int, float], paid: dict[int, float], cost: float, dearest: float) -> None:
        """A batch has come back: nobody pays for others' items, and all is paid, but for what ended a worker.

        Args:
            costs, paid: what each stream's items would have taken alone, and what the stream was charged.
            cost: what the batch took.
            dearest: the most that was ever to be paid for these streams' items; infinite if no worker ended, or
                with one item alone.
        """
        unfair = (1 + NOISE) / (1 - NOISE) + 1e-9
        if dearest == math.inf:
            assert abs(sum(paid.values()) - cost) < 1e-9, f"of {cost} s are charged {paid}"
            for number, share in paid.items():
                assert len(paid) == 1 or costs[number] / unfair <= share <= costs[number] * unfair, (
                    f"stream {number} is charged {share} s for {costs[number]}"
                )
        else:
            assert all(share <= dearest * unfair for share in paid.values()), (
                f"what ended a worker is charged to all who were in it: {paid}"
            )
        for number, share in paid.items():
            if number in self.accounts:
                self.accounts[number].paid += share

    def killed(self, account: Account, now: float, workers: int) -> None:
        """An item of it that ends every worker ended another: that is soon over."""
        account.kills = [when for when in account.kills if now - when <= KILL_SPAN] + [now]
        assert len(account.kills) <= (KILLS + 1) * workers, (
            f"stream {account.number} ended {len(account.kills)} workers of {workers} in a minute"
        )

    def done(self, batch: Batch, outcomes: Sequence[Outcome], wanted: Sequence[Outcome]) -> None:
        due = [outcome for outcome in outcomes if self.accounts[outcome.item.stream].open]
        assert wanted == due, f"told {wanted} instead of {due}"
        for outcome in outcomes:
            account, seq = self.accounts[outcome.item.stream], outcome.item.seq
            if seq in account.retried:
                self.tallies[batch.model].retried += 1
            account.acquit(seq)
            if isinstance(outcome, Result) and seq in account.since_bound:
                account.state = outcome.state
            self._answer(account, outcome, _said(outcome))
            self._forget(account)

    def lost(self, batch: Batch, wanted: Sequence[Outcome], now: float, *, timed_out: bool) -> None:
        alone = len(batch.items) == 1
        told = _by_item(wanted)
        for item in batch.items:
            account = self.accounts[item.stream]
            account.tally.retried += item.seq in account.retried
            self.tallies[batch.model].retried += item.seq in account.retried
            if alone and account.open:
                account.end(item.seq, now, timed_out=timed_out)
            if account.blocked:
                expected = dict.fromkeys([item.seq, *account.waiting], POISON)
            elif alone and timed_out:
                expected = {item.seq: "timeout"}
            elif item.seq in account.retried:
                expected = {item.seq: "worker_lost"}
            else:
                account.retried.add(item.seq)
                self.met["retried"] += 1
                expected = self._wait_again(account, item)
            self._came_back(account, expected, told)
        assert not told, f"told, and is to run again or its stream is closed: {list(told.values())}"

    def returned(self, batch: Batch, wanted: Sequence[Outcome]) -> None:
        told = _by_item(wanted)
        for item in batch.items:
            account = self.accounts[item.stream]
            account.returns[item.seq] += 1
            if account.returns[item.seq] > MAX_RETURNS and item.seq in account.retried:
                expected = {item.seq: "worker_lost"}
                self.met["given up unread"] += 1
            else:
                if account.returns[item.seq] == MAX_RETURNS:
                    account.retried.add(item.seq)
                expected = self._wait_again(account, item)
            self._came_back(account, expected, told)
            self.met["returned"] += 1
        assert not told, f"told, and waits on or its stream is closed: {list(told.values())}"

    def rebound(self, account: Account, model: str, outcomes: Sequence[Outcome]) -> None:
        """A stream was bound to another version: what waits goes with it, what runs stays where it is."""
        if model != account.model:
            self._move(account.model, model, len(account.waiting))
            account.model, account.state = model, b""
            account.since_bound.clear()
            self.met["rebound"] += 1
        assert not outcomes, f"told {outcomes}"

    def _move(self, old: str, new: str, items: int) -> None:
        self.tallies[old].rebound += items
        self.tallies[new].received += items
        self.present[old] -= items
        self.present[new] += items
        self.peaks[new] = max(self.peaks[new], self.present[new])

    def _wait_again(self, account: Account, item: Item) -> dict[int, str]:
        ran_on = account.ran_on.pop(item.seq)
        if ran_on != account.model:
            self._move(ran_on, account.model, 1)
        return account.wait_again(item)

    def closed(self, account: Account) -> None:
        account.open = False
        self._untold(account, account.farewell("cancelled"))
        self._forget(account)

    def expired(self, now: float, outcomes: Sequence[Outcome], again: float | None) -> None:
        expected: dict[tuple[int, int], str] = {}
        rest: list[float] = []
        for account in self.accounts.values():
            for seq in account.replaceable:
                deadline = account.waiting[seq].deadline
                if deadline is not None and deadline <= now:
                    expected[account.number, seq] = "expired"
                elif deadline is not None:
                    rest.append(deadline)
        self._all_told(expected, outcomes)
        assert again == min(rest, default=None), (
            f"the next deadline is {min(rest, default=None)}, not {again}"
        )

    def drained(self, outcomes: Sequence[Outcome]) -> None:
        accounts = self.accounts.values()
        self._all_told(
            {(one.number, seq): why for one in accounts for seq, why in one.farewell("draining").items()},
            outcomes,
        )

    def abandoned(self, model: str, outcomes: Sequence[Outcome]) -> None:
        accounts = [account for account in self.accounts.values() if account.model == model]
        self._all_told(
            {(one.number, seq): "model_unavailable" for one in accounts for seq in one.waiting}, outcomes
        )

    def check(self, scheduler: Scheduler) -> None:
        """Law 1: the scheduler's books are these, stream by stream. And it holds no more than it may."""
        streams = scheduler._streams  # `tally` makes a copy, and knows no stream that is closed
        assert len(streams) == len(self.accounts), f"streams {list(streams)}, not {list(self.accounts)}"
        waiting = 0
        for number, account in self.accounts.items():
            stream, mine = streams[number], account.tally
            mine.running = len(account.running)
            mine.waiting = here = len(account.waiting)
            waiting += here
            assert stream.tally == mine, f"stream {number} counts {stream.tally}, not {mine}"
            assert abs(stream.worker_s - account.paid) < 1e-6, (
                f"stream {number} is charged {stream.worker_s} s"
            )
            if here > 1 and account.policy == "latest":
                assert len(account.replaceable) <= 1, f"{here} items of stream {number} wait"
                assert here <= account.window + 1, f"{here} items of stream {number} wait to run again"
            assert (stream.entry is not None) is account.may_start, f"stream {number} has a place, or none"
        self.most, self.crowd = max(self.most, waiting), max(self.crowd, len(streams))
        assert len(scheduler._deadlines) <= FEW + 2 * self.most, f"{len(scheduler._deadlines)} deadlines"
        for model in scheduler._models.values():
            assert len(model.heap) <= 2 * self.crowd, f"closed streams of {model.id} have heap entries"
            present = self.present[model.id]
            assert model.tally.present == present, f"{model.id} has {model.tally}, not {present} present"
        self.checks += 1
        for workers in scheduler._groups.values() if self.checks % 16 == 0 else ():
            by_principal = scheduler._fair_by == "principal"
            busy_streams = [stream for stream in workers.streams.values() if stream.tally.present]
            sharing = (
                [1.0 for payer in workers.principals.values() if payer.busy]
                if by_principal
                else [stream.weight for stream in busy_streams]
            )
            assert workers.busy == len(sharing), f"{workers.busy} share the workers, not {len(sharing)}"
            ahead = sum(weight for _, weight in workers.ahead)
            assert abs(workers.weight - sum(sharing) - ahead) < 1e-6, f"their weight is {workers.weight}"
            for payer in workers.principals.values():
                streams = [s for s in workers.streams.values() if s.principal is payer]
                busy = [s for s in streams if s.tally.present]
                assert (payer.streams, payer.busy) == (len(streams), len(busy)), payer
                assert abs(payer.weight - sum(s.weight for s in busy)) < 1e-9, payer

    def check_end(self, scheduler: Scheduler, now: float) -> None:
        """Nothing is left, and nothing was lost on the way."""
        statistics = scheduler.statistics(now)
        assert statistics.total.balanced, f"in total: {statistics.total}"
        assert not self.accounts, f"left: {list(self.accounts)}"
        for name, model in statistics.models.items():
            assert model.tally == self.tallies[name], f"{name} counts {model.tally}, not {self.tallies[name]}"
            assert model.open_streams == 0, f"{name} has {model.open_streams} streams"
            assert model.peak == self.peaks[name], f"{name} had {model.peak} at once, not {self.peaks[name]}"
        for kept in scheduler._models.values():
            workers = kept.workers
            left = (kept.heap, kept.streams, workers.streams, workers.principals, kept.tally.present)
            assert not any(left), f"left of {kept.id}: {left}"

    def _start(self, item: Item, batch: Batch, now: float) -> None:
        account, seq = self.accounts[item.stream], item.seq
        if self.trace:
            self.trace(f"    stream {item.stream} item {seq} starts, one of {len(batch.items)}")
        assert account.model == batch.model, f"an item for {account.model} in a batch of {batch.model}"
        assert account.open, f"started though its stream is closed: {item}"
        assert not account.blocked, f"started though its stream is blocked: {item}"
        again = seq in account.retried
        assert again or item.deadline is None or item.deadline > now, f"started after its deadline: {item}"
        assert seq in account.waiting, f"started though it does not wait: {item}"
        assert seq == next(iter(account.waiting)), f"started out of order: {item}"
        assert len(batch.items) == 1 or not account.isolated(now), (
            f"its stream may have ended a worker, and it does not run alone: {item}"
        )
        account.running[seq] = account.waiting.pop(seq)
        account.ran_on[seq] = batch.model
        account.since_bound.add(seq)
        assert not account.stateful or len(account.running) == 1, (
            f"a second item of stream {item.stream} runs"
        )
        assert account.policy == "queue" or len(account.running) <= account.window, (
            f"{len(account.running)} items of stream {item.stream} run, and its window is {account.window}"
        )

    def _came_back(
        self, account: Account, expected: dict[int, str], told: dict[tuple[int, int], Outcome]
    ) -> None:
        if account.open:
            keys = [(account.number, seq) for seq in expected]
            self._told(account, expected, [told.pop(key) for key in keys if key in told])
        else:
            self._untold(account, expected)
        self._forget(account)

    def _all_told(self, expected: dict[tuple[int, int], str], outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            item = outcome.item
            self._answer(self.accounts[item.stream], outcome, expected.pop((item.stream, item.seq), None))
        assert not expected, f"nothing is told of {expected}"

    def _told(self, account: Account, expected: dict[int, str], outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._answer(account, outcome, expected.pop(outcome.item.seq, None))
        assert not expected, f"nothing is told of stream {account.number}'s {expected}"

    def _untold(self, account: Account, expected: dict[int, str]) -> None:
        """It is counted, but nobody is there to be told."""
        for seq, why in expected.items():
            item = account.running.get(seq) or account.waiting[seq]
            outcome = Dropped(item, "cancelled") if why == "cancelled" else Failed(item, why, "")
            self._answer(account, outcome, why)

    def _answer(self, account: Account, outcome: Outcome, expected: str | None) -> None:
        item, said = outcome.item, _said(outcome)
        if self.trace:
            self.trace(f"    stream {item.stream} item {item.seq}: {said}")
        ran = item.seq in account.running or item.seq in account.retried
        assert item in (account.waiting.pop(item.seq, None), account.running.pop(item.seq, None)), (
            f"a second outcome: {outcome}"
        )
        assert not (ran and isinstance(outcome, Dropped)), f"dropped, and it had started: {outcome}"
        assert said == expected, f"{said} instead of {expected}: {outcome}"
        account.retried.discard(item.seq)
        model = account.ran_on.pop(item.seq, account.model)
        for tally in (account.tally, self.tallies[model]):
            if isinstance(outcome, Result):
                tally.results += 1
            elif isinstance(outcome, Failed):
                tally.errors += 1
            else:
                setattr(tally, said, getattr(tally, said) + 1)
            if not account.open and not isinstance(outcome, Dropped):
                tally.discarded += 1
                tally.undelivered += isinstance(outcome, Failed)
        self.present[model] -= 1
        self.met[said] += 1

    def _forget(self, account: Account) -> None:
        if not account.open and not account.running:
            self.accounts.pop(account.number, None)


def _said(outcome: Outcome) -> str:
    if isinstance(outcome, Result):
        return "result"
    return outcome.code if isinstance(outcome, Failed) else outcome.reason


def _by_item(outcomes: Sequence[Outcome]) -> dict[tuple[int, int], Outcome]:
    told = {(outcome.item.stream, outcome.item.seq): outcome for outcome in outcomes}
    assert len(told) == len(outcomes), f"a second outcome: {outcomes}"
    return told


class Worker:
    """One worker process.

    Attributes:
        held: those of its models that it has loaded; none between its end and its replacement's start.
        ends: when its batch is done.
        costs: what each of its streams' items in the batch take.
    """

    __slots__ = ("batch", "costs", "ends", "held", "models")

    def __init__(self, models: Sequence[str]) -> None:
        self.models = self.held = models
        self.batch: Batch | None = None
        self.ends = 0.0
        self.costs: dict[int, float] = {}


class Simulation:
    """One run of the world. A model's name begins with that of its group.

    Attributes:
        crashing, failing: the share of batches that end their worker, and of items that fail.
        hurried: the share of items that have a deadline.
        poisonous: the share of items that end every worker they run in, as streams may have it.
        filming: every stream is a camera that never waits: it has sent another frame whenever anything happens.
        racing: nothing hangs alone, for it would pay for that longer than a race lasts.
        absent: the share of lost workers that no spare stands in for.
        deaf: the share of batches whose worker ends before it has read them.
        alarm: when the next item was said to expire.
        crews: how many workers each group has.
        dearest: the most that an item of each group has cost.
        races: how often the shares of two streams were compared.
    """

    def __init__(
        self, seed: int, scheduler: Callable[[], Scheduler] = Scheduler, trace: Trace | None = None
    ) -> None:
        self.seed, self.trace = seed, trace
        self.random = random.Random(seed)
        self.chance = self.random.random
        self.now = 0.0
        self.open: list[Account] = []
        self.opened = self.races = 0
        self.poison: set[tuple[int, int]] = set()
        self.crashing, self.failing = self.pick((0.0, 0.02, 0.2)), self.pick((0.0, 0.2))
        self.poisonous = self.pick(((0.0,), (0.0,), (0.05,), (0.3,), (0.0, 0.0, 0.2, 1.0)))
        self.hurried = self.pick((0.0, 0.3, 0.8))
        self.filming, self.racing = self.chance() < 0.05, False
        self.absent, self.deaf = 0.5, self.pick((0.0, 0.1))
        self.alarm: float | None = None
        self.scheduler = scheduler()
        self.scheduler._fair_by = self.pick(("stream", "stream", "principal"))
        self.workers: list[Worker] = []
        self.models: list[str] = []
        self.groups = ("x", "y")[: self.pick((1, 1, 2))]
        self.crews: dict[str, int] = {}
        self.dearest = dict.fromkeys(self.groups, 0.01)
        for group in self.groups:
            models = [group + one for one in ("a", "b")[: self.pick((1, 2))]]
            self.crews[group] = self.pick((1, 1, 2, 3))
            self.scheduler.add_group(group, self.crews[group])
            self.workers += [Worker(models) for _ in range(self.crews[group])]
            self.models += models
        self.ledger = Ledger(self.models, trace)
        self.stateful = self.pick((False, False, False, True))
        for name in self.models:
            self.load(name)
            self.scheduler.expect(name, self.pick((0.002, 0.01)))

    def pick(self, these: Sequence[T]) -> T:
        return these[int(self.chance() * len(these))]

    def run(self) -> None:
        """Live through it.

        Raises:
            Broken: a law is, or the scheduler raised what it must not.
        """
        try:
            self.enter()
            for event in self.random.choices(EVENTS, cum_weights=FREQUENCIES, k=STEPS):
                self.step(event)
            if self.chance() < RACES:
                self.race()
            self.run_out()
        except Exception as exc:
            how = f"python -m tests.inference.scheduling.simulation {self.seed}"
            raise Broken(f"seed {self.seed}: {type(exc).__name__}: {exc}\nto see it: {how}") from exc

    def step(self, event: Callable[..., object], *args: object) -> None:
        if self.trace:
            self.trace(f"{self.now:.6f} {event.__name__}")
        event(self, *args)
        self.serve()
        self.ledger.check(self.scheduler)

    def arrive(self) -> None:
        self.now += self.chance() * 0.004
        if self.open:
            self.offer(self.pick(self.open))

    def burst(self) -> None:
        if self.open:
            account = self.pick(self.open)
            for _ in range(account.window + 1):
                self.offer(account)

    def offer(self, account: Account) -> None:
        deadline = self.now + self.chance() * 0.1 if self.chance() < self.hurried else None
        item = Item(account.number, account.tally.received + 1, PAYLOADS[account.cost], self.now, deadline)
        room = account.room
        assert self.scheduler.has_capacity(account.number) is room, f"room, or none, for {item}"
        try:
            outcomes = self.scheduler.offer(item)
        except StreamFull:
            if room:
                raise
            return
        assert room, f"taken in beyond the window: {item}"
        if self.chance() < account.poisonous:
            self.poison.add((item.stream, item.seq))
        self.ledger.offered(account, item, outcomes)

    def serve(self, racers: Sequence[Account] = ()) -> None:
        if self.filming:
            for account in self.open:
                self.offer(account)
        for group in self.groups:
            free = [
                one for one in self.workers if one.models[0][0] == group and one.held and one.batch is None
            ]
            for number, worker in enumerate(free):
                for account in racers:
                    while not account.blocked and len(account.waiting) < account.window:
                        self.offer(account)
                self.give(worker, len(free) - number)

    def give(self, worker: Worker, free: int) -> None:
        batch, given_up = self.scheduler.take(self.now, worker.held, free)
        self.ledger.taken(self.now, worker.held, batch, given_up)
        if batch is not None:
            worker.batch, worker.costs, group = batch, {}, batch.model[0]
            for item in batch.items:
                account = self.ledger.accounts[item.stream]
                cost = account.cost * (1 - NOISE + 2 * NOISE * self.chance())
                account.spent += cost
                worker.costs[item.stream] = worker.costs.get(item.stream, 0.0) + cost
                self.dearest[group] = max(self.dearest[group], cost)
            worker.ends = self.now + sum(worker.costs.values())

    def finish(self) -> None:
        busy = [worker for worker in self.workers if worker.batch]
        if busy:
            self.end(self.pick(busy))

    def end(self, worker: Worker) -> None:
        """What a worker does comes to its end, or the worker to its own."""
        batch, worker.batch = worker.batch, None
        assert batch
        alone = len(batch.items) == 1
        streams = [self.scheduler._streams[number] for number in worker.costs]
        before = [stream.worker_s for stream in streams]
        deaf = self.chance() < self.deaf
        poisoned = {item.stream for item in batch.items if (item.stream, item.seq) in self.poison}
        ended = not deaf and (bool(poisoned) or self.chance() < self.crashing)
        timed_out = ended and self.chance() < 0.2 and not (alone and self.racing)
        if timed_out:
            worker.ends += (HANG - 1) * (worker.ends - batch.started)
        self.now = max(self.now, worker.ends)
        cost = 0.0 if deaf else worker.ends - batch.started
        if deaf:
            self.ledger.returned(batch, self.scheduler.returned(batch))
        elif ended:
            if self.chance() < self.absent:
                worker.held = ()
            for account in [self.ledger.accounts[number] for number in poisoned]:
                self.ledger.killed(account, self.now, self.crews[batch.model[0]])
            wanted = self.scheduler.lost(batch, cost, self.now, timed_out=timed_out)
            self.ledger.lost(batch, wanted, self.now, timed_out=timed_out)
        else:
            outcomes: list[Outcome] = [
                Failed(item, "bad", "")
                if self.chance() < self.failing
                else Result(item, "", "", 0.0, 0.0, 1, str(item.seq).encode() if batch.states else b"")
                for item in batch.items
            ]
            self.random.shuffle(outcomes)
            self.ledger.done(batch, outcomes, self.scheduler.done(batch, outcomes, cost, self.now))
        paid = {one.number: one.worker_s - was for one, was in zip(streams, before, strict=True)}
        most = len(batch.items) * self.dearest[batch.model[0]] if ended and not alone else math.inf
        self.ledger.charged(worker.costs if not deaf else paid, paid, cost, most)

    def restart(self) -> None:
        """Workers that ended have been replaced; of one's models, some may not have loaded."""
        for worker in self.workers:
            if not worker.held:
                worker.held = worker.models if self.chance() < 0.8 else worker.models[:1]

    def staff(self) -> None:
        """From now on every worker is there."""
        self.absent = self.deaf = 0.0
        for worker in self.workers:
            worker.held = worker.models

    def load(self, name: str) -> None:
        limit, target = self.pick((1, 1, 2, 5)), self.pick((math.inf, math.inf, 0.02))
        self.scheduler.add_model(
            name, limit, target, min_rate=self.pick((0.0, 0.0, 5.0)), group=name[0], stateful=self.stateful
        )
        self.ledger.limits[name] = limit

    def reload(self) -> None:
        self.load(self.pick(self.models))

    def enter(self) -> None:
        model, weight = self.pick(self.models), self.pick((0.5, 1.0, 3.0))
        if len(self.open) < 8 and (self.scheduler.admits(model, weight, self.now) or self.chance() < 0.5):
            policy = self.pick(("latest", "queue"))
            account = self.start_stream(
                model, "latest" if self.filming else policy, self.pick((1, 2, 4)), weight
            )
            account.poisonous = self.pick(self.poisonous)

    def start_stream(self, model: str, policy: Policy, window: int, weight: float) -> Account:
        self.opened += 1
        principal = "alone" if self.racing else self.pick(("one", "two"))
        self.scheduler.open(self.opened, model, policy, window, weight, principal)
        account = Account(self.opened, model, policy, window, weight)
        account.cost = self.pick(tuple(PAYLOADS))
        account.stateful = self.stateful
        self.ledger.accounts[account.number] = account
        self.open.append(account)
        return account

    def leave(self) -> None:
        if self.open:
            account = self.open.pop(int(self.chance() * len(self.open)))
            self.scheduler.close(account.number)
            self.ledger.closed(account)

    def expire(self) -> None:
        self.now = max(self.now, self.alarm) if self.alarm else self.now + self.chance() * 0.02
        outcomes, self.alarm = self.scheduler.expire(self.now)
        self.ledger.expired(self.now, outcomes, self.alarm)

    def drain(self) -> None:
        self.forget_kills()
        self.ledger.drained(self.scheduler.drain())

    def forget_kills(self) -> None:
        """What was to run again never will, so that nothing is proven by it."""
        for account in self.open:
            account.kills.clear()

    def abandon(self) -> None:
        self.forget_kills()
        model = self.pick(self.models)
        self.ledger.abandoned(model, self.scheduler.abandon(model, "lost", retryable=True))
        if self.open and self.open[0].model == model and not self.open[0].blocked:
            account = self.open[0]
            item = Item(account.number, account.tally.received + 1, PAYLOADS[account.cost], self.now)
            outcomes = self.scheduler.offer(item)
            assert [_said(outcome) for outcome in outcomes] == ["model_unavailable"], outcomes
            account.tally.received += 1
            account.tally.errors += 1
            self.ledger.tallies[model].received += 1
            self.ledger.tallies[model].errors += 1
            self.ledger.peaks[model] = max(self.ledger.peaks[model], self.ledger.present[model] + 1)
        self.load(model)

    def rebind(self) -> None:
        if self.open:
            account = self.pick(self.open)
            model = self.pick([name for name in self.models if name[0] == account.model[0]])
            self.ledger.rebound(account, model, self.scheduler.rebind(account.number, model))

    def refuse(self) -> None:
        """An item comes that cannot run."""
        if self.open:
            account = self.pick(self.open)
            item = Item(account.number, account.tally.received + 1, b"", self.now)
            self.scheduler.refuse(Failed(item, "empty", ""))
            for tally in (account.tally, self.ledger.tallies[account.model]):
                tally.received += 1
                tally.errors += 1

    def rest(self) -> None:
        self.now += 40.0 + 40.0 * self.chance()

    def race(self) -> None:
        """Two streams of each group always have something that waits; then two more, who missed nothing by that."""
        self.staff()
        self.filming, self.racing, self.hurried, self.crashing = False, True, 0.0, min(self.crashing, 0.02)
        while self.open:
            self.step(Simulation.leave)
        if self.stateful:  # a stream of which one item runs at a time may get less than its share
            while any(worker.batch for worker in self.workers):
                self.step(Simulation.finish)
            self.stateful = False
            for name in self.models:
                self.load(name)
        racers: list[Account] = []
        for _ in range(2):
            for group in self.groups * 2:
                model = self.pick([name for name in self.models if name[0] == group])
                weight = self.pick((0.5, 1.0, 3.0))
                # `latest` streams get their share where nothing keeps an item of theirs from starting
                if self.ledger.limits[model] == self.crews[group] == 1 and self.chance() < 0.5:
                    racers.append(self.start_stream(model, "latest", 1, weight))
                else:
                    racers.append(self.start_stream(model, "queue", 6, weight))
            for account in racers:
                account.spent = 0.0
            for lap in range(LAPS):
                self.step(Simulation.lap, racers)
                if lap % 16 == 0 and self.raced(racers):
                    break
            self.compare(racers)

    def lap(self, racers: Sequence[Account]) -> None:
        busy = [worker for worker in self.workers if worker.batch]
        if busy:
            self.end(min(busy, key=lambda worker: worker.ends))
        self.serve(racers)

    def raced(self, racers: Iterable[Account]) -> bool:
        """Whether they raced long enough, in every group."""
        spent = dict.fromkeys(self.groups, 0.0)
        for account in racers:
            spent[account.model[0]] += account.spent
        return all(spent[group] > DISTANCE * self.dearest[group] for group in self.groups)

    def compare(self, racers: Iterable[Account]) -> None:
        """Law 3: over its weight, each got nearly the same."""
        for one, other in itertools.combinations(racers, 2):
            group = one.model[0]
            if other.model[0] == group and not (one.blocked or other.blocked):
                largest = max(limit for name, limit in self.ledger.limits.items() if name[0] == group)
                unit = self.dearest[group] * (1 / one.weight + 1 / other.weight)
                apart = abs(one.spent / one.weight - other.spent / other.weight)
                assert apart <= (SLACK + largest * self.crews[group]) * unit, (
                    f"unfair: stream {one.number} of weight {one.weight} had {one.spent:.3f} s of the workers, "
                    f"and {other.number} of {other.weight} had {other.spent:.3f} s"
                )
                self.races += 1

    def run_out(self) -> None:
        """What is left comes to its end, and nothing stays."""
        self.staff()
        self.filming, self.crashing = False, 0.0
        self.step(Simulation.finish)
        while any(worker.batch for worker in self.workers):
            self.step(Simulation.finish)
        while self.open:
            left = list(self.open[-1].waiting)
            assert not left, f"of stream {self.open[-1].number} {left} wait for ever"
            self.step(Simulation.leave)
        self.ledger.check_end(self.scheduler, self.now)


LIFE: dict[Callable[[Simulation], None], float] = {
    Simulation.arrive: 10.0,
    Simulation.finish: 9.0,
    Simulation.enter: 1.5,
    Simulation.restart: 1.0,
    Simulation.burst: 0.7,
    Simulation.leave: 0.7,
    Simulation.expire: 0.7,
    Simulation.abandon: 0.3,
    Simulation.drain: 0.2,
    Simulation.reload: 0.2,
    Simulation.rebind: 0.3,
    Simulation.refuse: 0.2,
    Simulation.rest: 0.2,
}
"""What happens, and how often."""

EVENTS, FREQUENCIES = list(LIFE), list(itertools.accumulate(LIFE.values()))


if __name__ == "__main__":
    Simulation(int(sys.argv[1]), trace=print).run()
