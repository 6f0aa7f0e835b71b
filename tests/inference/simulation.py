"""The scheduler's world, simulated: streams, workers, a clock; and a ledger that asserts the laws after every step.

Everything follows from the seed. This replays a run and prints every step of it:

    python -m tests.inference.simulation SEED
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from typing import TypeVar

from inference.backlog import KILL_SPAN, KILLS
from inference.items import POISON, Batch, Dropped, Failed, Item, Outcome, Result
from inference.model import Policy
from inference.scheduler import Scheduler, StreamFull
from inference.statistics import Tally

T = TypeVar("T")
Trace = Callable[[str], object]

STEPS = 70
"""Random steps of a run, before what is left runs out."""

RACES, LAPS, DISTANCE = 0.03, 240, 80.0
"""Share of the runs that end in two races; batches in a race, at most; and the worker time that each group of
streams races for, in dearest items: enough to see who is treated unfairly. One race costs as much as five runs."""

SLACK = 4
"""How many of the dearest items, besides those that run, two streams may be apart by: items are not divided, and
what they cost is known only when they have run."""


class Broken(AssertionError):
    """A law is. It says by which seed, and how to see it."""


class Account:
    """What the ledger knows of a stream: its terms, and where its unanswered items are.

    Attributes:
        waiting: items that wait, in the order in which they are to start.
        retried: items that a worker ended with: they wait for their second chance or have it.
        charges: items that ended a worker which they had alone, and when; without the acquitted.
        cost: seconds that a worker takes for one of its items.
        paid: seconds of worker time it was charged with.
        spent: seconds of worker time it was given since the race began.
    """

    __slots__ = (
        "charges",
        "condemned",
        "cost",
        "model",
        "number",
        "open",
        "paid",
        "policy",
        "retried",
        "running",
        "spent",
        "tally",
        "waiting",
        "weight",
        "window",
    )

    def __init__(self, number: int, model: str, policy: Policy, window: int, weight: float) -> None:
        self.number, self.model, self.policy, self.window, self.weight = number, model, policy, window, weight
        self.open, self.condemned = True, False
        self.waiting: dict[int, Item] = {}
        self.running: dict[int, Item] = {}
        self.retried: set[int] = set()
        self.charges: list[tuple[int, float]] = []
        self.tally = Tally()
        self.cost = self.paid = self.spent = 0.0

    @property
    def room(self) -> bool:
        return self.policy == "latest" or len(self.waiting) < self.window

    @property
    def may_start(self) -> bool:
        """Whether an item of it waits that any free worker must take."""
        return bool(self.waiting) and (self.policy == "queue" or len(self.running) < self.window)

    def farewell(self, why: str) -> dict[int, str]:
        """What is told of those that wait when they are given up; of one that ran, not that nobody started."""
        return {seq: "worker_lost" if seq in self.retried else why for seq in self.waiting}

    def wait_again(self, item: Item) -> dict[int, str]:
        """Let an item that has come back wait before all others; what is told, of it or another, for that."""
        self.waiting = {item.seq: self.running.pop(item.seq), **self.waiting}
        if not self.open:
            return self.farewell("cancelled")
        if self.condemned:
            return {item.seq: POISON}
        if self.policy == "latest" and len(self.waiting) > 1:  # law 2: the newer one is wanted
            older = min(self.waiting)
            return {older: self.farewell("superseded")[older]}
        return {}


class Ledger:
    """Where every item is, by what goes into the scheduler and comes out; it asserts the laws.

    Attributes:
        accounts: the streams that are open, or closed with something running.
        limits: the largest batch of each model.
        present, peaks: items of each model that wait or run, and the most there were.
        gone: what became of the items of streams that are no more, by model.
        met: how often anything was told.
    """

    def __init__(self, models: Sequence[str], trace: Trace | None) -> None:
        self.accounts: dict[int, Account] = {}
        self.limits = dict.fromkeys(models, 1)
        self.present = dict.fromkeys(models, 0)
        self.peaks = dict.fromkeys(models, 0)
        self.gone = {name: Tally() for name in models}
        self.met: Counter[str] = Counter()
        self.trace = trace

    def offered(self, account: Account, item: Item, outcomes: Sequence[Outcome]) -> None:
        expected = account.farewell("superseded") if account.policy == "latest" else {}
        there = self.present[account.model] + 1
        self.peaks[account.model] = max(self.peaks[account.model], there - len(expected))
        self.present[account.model] = there
        account.tally.received += 1
        account.waiting[item.seq] = item
        if account.condemned:
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
            self._answer(account, outcome, account.farewell("expired").get(item.seq))
        if batch is None:
            for account in self.accounts.values():
                assert not (account.may_start and account.model in held), (
                    f"a worker idles while an item of stream {account.number} waits"
                )
            return
        assert batch.model in held, f"a batch of {batch.model} for a worker that has not loaded it"
        assert batch.started == now, f"a batch that starts at {batch.started}, not {now}"
        assert 1 <= len(batch.items) <= self.limits[batch.model], f"a batch of {len(batch.items)}"
        for item in batch.items:
            self._start(item, batch, now)

    def done(self, batch: Batch, outcomes: Sequence[Outcome], wanted: Sequence[Outcome], cost: float) -> None:
        due = [outcome for outcome in outcomes if self.accounts[outcome.item.stream].open]
        assert wanted == due, f"told {wanted} instead of {due}"
        for outcome in outcomes:
            account, seq = self.accounts[outcome.item.stream], outcome.item.seq
            account.paid += cost / len(batch.items)
            if account.charges:
                account.charges = [charge for charge in account.charges if charge[0] != seq]
            self._answer(account, outcome, _said(outcome))
            self._forget(account)

    def lost(
        self, batch: Batch, wanted: Sequence[Outcome], cost: float, now: float, *, timed_out: bool
    ) -> None:
        alone = len(batch.items) == 1
        told = _by_item(wanted)
        for item in reversed(batch.items):
            account = self.accounts[item.stream]
            account.paid += cost / len(batch.items)
            if alone and account.open:
                account.charges.append((item.seq, now))
                recent = [when for _, when in account.charges if now - when <= KILL_SPAN]
                account.condemned |= len(recent) >= KILLS
            if account.condemned:
                expected = dict.fromkeys([item.seq, *account.waiting], POISON)
            elif alone and timed_out:
                expected = {item.seq: "timeout"}
            elif item.seq in account.retried:
                expected = {item.seq: "worker_lost"}
            else:
                account.retried.add(item.seq)
                expected = account.wait_again(item)
                account.tally.retried += item.seq not in expected
                self.met["retried"] += item.seq not in expected
            self._came_back(account, expected, told)
        assert not told, f"told, and is to run again or its stream is closed: {list(told.values())}"

    def returned(self, batch: Batch, wanted: Sequence[Outcome]) -> None:
        told = _by_item(wanted)
        for item in reversed(batch.items):
            account = self.accounts[item.stream]
            self._came_back(account, account.wait_again(item), told)
            self.met["returned"] += 1
        assert not told, f"told, and waits on or its stream is closed: {list(told.values())}"

    def closed(self, account: Account) -> None:
        account.open = False
        self._untold(account, account.farewell("cancelled"))
        self._forget(account)

    def expired(self, now: float, outcomes: Sequence[Outcome], again: float | None) -> None:
        expected: dict[tuple[int, int], str] = {}
        rest: list[float] = []
        for account in self.accounts.values():
            for seq, why in account.farewell("expired").items():
                deadline = account.waiting[seq].deadline
                if deadline is not None and deadline <= now:
                    expected[account.number, seq] = why
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
        for number, account in self.accounts.items():
            stream, mine = streams[number], account.tally
            mine.waiting, mine.running = len(account.waiting), len(account.running)
            assert stream.tally == mine, f"stream {number} counts {stream.tally}, not {mine}"
            assert abs(stream.worker_s - account.paid) < 1e-6, (
                f"stream {number} is charged {stream.worker_s} s"
            )
            assert account.policy == "queue" or mine.waiting <= 1, (
                f"{mine.waiting} items of stream {number} wait"
            )
        for model in scheduler._models.values():
            assert len(model.heap) <= len(model.streams), (
                f"streams of {model.name} that are no more have places"
            )

    def check_end(self, scheduler: Scheduler, now: float) -> None:
        """Nothing is left, and nothing was lost on the way."""
        statistics = scheduler.statistics(now)
        assert statistics.total.balanced, f"in total: {statistics.total}"
        assert not self.accounts, f"left: {list(self.accounts)}"
        for name, model in statistics.models.items():
            assert model.tally == self.gone[name], f"{name} counts {model.tally}, not {self.gone[name]}"
            assert model.peak == self.peaks[name], f"{name} had {model.peak} at once, not {self.peaks[name]}"
        for kept in scheduler._models.values():
            left = (kept.heap, kept.streams, kept.workers.streams, kept.present, kept.waiting)
            assert not any(left), f"left of {kept.name}: {left}"

    def _start(self, item: Item, batch: Batch, now: float) -> None:
        account, seq = self.accounts[item.stream], item.seq
        if self.trace:
            self.trace(f"    stream {item.stream} item {seq} starts, one of {len(batch.items)}")
        assert account.model == batch.model, f"an item for {account.model} in a batch of {batch.model}"
        assert account.open, f"started though its stream is closed: {item}"
        assert not account.condemned, f"started though its stream is condemned: {item}"
        assert item.deadline is None or item.deadline > now, f"started after its deadline: {item}"
        assert seq in account.waiting, f"started though it does not wait: {item}"
        assert seq == next(iter(account.waiting)), f"started out of order: {item}"
        assert seq not in account.retried or len(batch.items) == 1, (
            f"a worker ended with it, and it does not run alone: {item}"
        )
        account.running[seq] = account.waiting.pop(seq)
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
        tally = account.tally
        if isinstance(outcome, Result):
            tally.results += 1
        elif isinstance(outcome, Failed):
            tally.errors += 1
        else:
            setattr(tally, said, getattr(tally, said) + 1)
        if not account.open and not isinstance(outcome, Dropped):
            tally.discarded += 1
        self.present[account.model] -= 1
        self.met[said] += 1

    def _forget(self, account: Account) -> None:
        if not account.open and not account.running and self.accounts.pop(account.number, None):
            account.tally.waiting = account.tally.running = 0
            self.gone[account.model] += account.tally


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
    """

    __slots__ = ("batch", "ends", "held", "models")

    def __init__(self, models: Sequence[str]) -> None:
        self.models = self.held = models
        self.batch: Batch | None = None
        self.ends = 0.0


class Simulation:
    """One run of the world. A model's name begins with that of its group.

    Attributes:
        crashing, failing: the share of batches that end their worker, and of items that fail.
        poisonous, hurried: the share of items that end every worker they run in, and that have a deadline.
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
        self.poisonous, self.hurried = self.pick((0.0, 0.0, 0.05, 0.3)), self.pick((0.0, 0.3, 0.8))
        self.absent, self.deaf = 0.5, self.pick((0.0, 0.1))
        self.alarm: float | None = None
        self.scheduler = scheduler()
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
            how = f"python -m tests.inference.simulation {self.seed}"
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
        item = Item(account.number, account.tally.received + 1, b"", self.now, deadline)
        room = account.room
        assert self.scheduler.room(account.number) is room, f"room, or none, for {item}"
        try:
            outcomes = self.scheduler.offer(item)
        except StreamFull:
            if room:
                raise
            return
        assert room, f"taken in beyond the window: {item}"
        if self.chance() < self.poisonous:
            self.poison.add((item.stream, item.seq))
        self.ledger.offered(account, item, outcomes)

    def serve(self, racers: Sequence[Account] = ()) -> None:
        free = [worker for worker in self.workers if worker.batch is None and worker.held]
        for number, worker in enumerate(free):
            for account in racers:
                while not account.condemned and len(account.waiting) < account.window:
                    self.offer(account)
            self.give(worker, len(free) - number)

    def give(self, worker: Worker, free: int) -> None:
        batch, given_up = self.scheduler.take(self.now, worker.held, free)
        self.ledger.taken(self.now, worker.held, batch, given_up)
        if batch is not None:
            accounts = [self.ledger.accounts[item.stream] for item in batch.items]
            cost = sum(account.cost * (0.7 + 0.6 * self.chance()) for account in accounts)
            worker.batch, worker.ends = batch, self.now + cost
            share, group = cost / len(accounts), batch.model[0]
            self.dearest[group] = max(self.dearest[group], share)
            for account in accounts:
                account.spent += share

    def finish(self) -> None:
        busy = [worker for worker in self.workers if worker.batch]
        if busy:
            self.end(self.pick(busy))

    def end(self, worker: Worker) -> None:
        """What a worker does comes to its end, or the worker to its own."""
        batch, worker.batch = worker.batch, None
        assert batch
        self.now = max(self.now, worker.ends)
        cost = worker.ends - batch.started
        if self.chance() < self.deaf:
            self.ledger.returned(batch, self.scheduler.returned(batch))
            return
        poisoned = self.poison and any((item.stream, item.seq) in self.poison for item in batch.items)
        if poisoned or self.chance() < self.crashing:
            timed_out = self.chance() < 0.2
            if self.chance() < self.absent:
                worker.held = ()
            wanted = self.scheduler.lost(batch, cost, self.now, timed_out=timed_out)
            self.ledger.lost(batch, wanted, cost, self.now, timed_out=timed_out)
            return
        outcomes: list[Outcome] = [
            Failed(item, "bad", "") if self.chance() < self.failing else Result(item, "", "", 0.0, 0.0, 1)
            for item in batch.items
        ]
        self.random.shuffle(outcomes)
        self.ledger.done(batch, outcomes, self.scheduler.done(batch, outcomes, cost, self.now), cost)

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
        self.scheduler.add_model(name, limit, target, min_rate=self.pick((0.0, 0.0, 5.0)), group=name[0])
        self.ledger.limits[name] = limit

    def reload(self) -> None:
        self.load(self.pick(self.models))

    def enter(self) -> None:
        model, weight = self.pick(self.models), self.pick((0.5, 1.0, 3.0))
        if len(self.open) < 8 and (self.scheduler.admits(model, weight, self.now) or self.chance() < 0.5):
            self.start_stream(model, self.pick(("latest", "queue")), self.pick((1, 2, 4)), weight)

    def start_stream(self, model: str, policy: Policy, window: int, weight: float) -> Account:
        self.opened += 1
        self.scheduler.open(self.opened, model, policy, window, weight)
        account = Account(self.opened, model, policy, window, weight)
        account.cost = self.pick((0.002, 0.005, 0.015))
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
        self.ledger.drained(self.scheduler.drain())

    def abandon(self) -> None:
        model = self.pick(self.models)
        self.ledger.abandoned(model, self.scheduler.abandon(model))

    def rest(self) -> None:
        self.now += 40.0 + 40.0 * self.chance()

    def race(self) -> None:
        """Two streams of each group always have something that waits; then two more, who missed nothing by that."""
        self.staff()
        self.poisonous, self.hurried, self.crashing = 0.0, 0.0, min(self.crashing, 0.02)
        while self.open:
            self.step(Simulation.leave)
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
            if other.model[0] == group and not (one.condemned or other.condemned):
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
        self.crashing = 0.0
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
    Simulation.rest: 0.2,
}
"""What happens, and how often."""

EVENTS, FREQUENCIES = list(LIFE), list(itertools.accumulate(LIFE.values()))


if __name__ == "__main__":
    Simulation(int(sys.argv[1]), trace=print).run()
