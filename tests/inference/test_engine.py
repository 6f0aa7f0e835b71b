"""The engine with real worker processes: answers, faults that cost one item, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import random
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from inference.engine import Engine
from inference.intake import (
    FREE_BYTES,
    MAX_STREAM_BYTES,
    ModelUnavailableError,
    OverloadedError,
    Refusal,
    StreamRequest,
    UnknownModelError,
)
from inference.items import RESERVED, Cause, Dropped, Failed, Item, Outcome, Result
from inference.model import MAX_OUTPUT, ModelError, ModelId, ModelSource, Policy
from inference.pool import pool as pool_module
from inference.pool import slot as slot_module
from inference.pool.groups import Group
from inference.pool.pool import WorkerOptions
from inference.pool.slot import Slot
from inference.scheduling.scheduler import UnknownStream
from tests.conftest import WAIT
from tests.inference.pool.test_pool import pending_timers

SAMPLES = "tests.inference.sample_models"

Start = Callable[..., Awaitable[Engine]]


def source(cls: str, **options: Any) -> ModelSource:
    return ModelSource(cls.lower(), f"{SAMPLES}:{cls}", options)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start engines; afterwards law 1 holds, and no process, zombie, descriptor, task or timer is left."""
    me = psutil.Process()
    children, fds = set(me.children(recursive=True)), me.num_fds()
    timers = pending_timers()
    engines = []
    unhandled: list[dict[str, Any]] = []  # an exception in a callback ends no test by itself
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))

    async def start(
        *models: str | ModelSource, workers: int = 1, groups: Sequence[Group] = (), **options: Any
    ) -> Engine:
        sources = [model if isinstance(model, ModelSource) else source(model) for model in models]
        engine = Engine(sources, workers, WorkerOptions(**options), groups)
        engines.append(engine)
        engine.start()
        async with asyncio.timeout(30):
            await engine.warm()
        await restarted(engine)
        return engine

    yield start
    for engine in engines:
        assert engine.statistics().total.balanced
        async with asyncio.timeout(WAIT):
            await engine.stop()
        total = engine.statistics().total
        assert total.balanced
        assert (total.waiting, total.running) == (0, 0)
    assert unhandled == []
    # fewer there may be: what an earlier test left to the garbage collector may go meanwhile
    assert set(me.children(recursive=True)) <= children
    assert me.num_fds() <= fds
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert pending_timers() <= timers


async def infer(engine: Engine, payload: bytes | str, model: str = "obeys") -> Outcome:
    async with asyncio.timeout(WAIT):
        return await engine.infer(model, payload.encode() if isinstance(payload, str) else payload)


async def outputs(engine: Engine, payload: bytes | str, model: str = "obeys") -> Any:
    outcome = await infer(engine, payload, model)
    assert isinstance(outcome, Result), outcome
    return json.loads(outcome.outputs)


async def failure(engine: Engine, payload: bytes | str, model: str = "obeys") -> Failed:
    outcome = await infer(engine, payload, model)
    assert isinstance(outcome, Failed), outcome
    return outcome


@pytest.fixture(autouse=True)
def every_delivery_was_taken(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What `Stream.deliver` asserts, the engine logs."""
    yield
    # the text is the teardown's own by now
    assert not [r for r in caplog.get_records("call") if "failed to take an outcome" in r.getMessage()]


class Owner:
    """Who a stream's outcomes go to: a function, and what its failure was."""

    def __init__(self, deliver: Callable[[Outcome], None]) -> None:
        self.deliver = deliver
        self.failure: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.failure = error


class Stream:
    """A stream of an engine, and the outcomes it got."""

    def __init__(self, engine: Engine, model: str, policy: Policy = "queue", window: int = 64) -> None:
        self.engine = engine
        self.outcomes: dict[int, Outcome] = {}
        self.sent = 0
        self.changed = asyncio.Event()
        self.failure: Exception | None = None
        self.stream = engine.open(StreamRequest(model, None, policy, window), self)
        self.number = self.stream.number

    def deliver(self, outcome: Outcome) -> None:
        assert outcome.item.seq not in self.outcomes, "a second outcome"
        self.outcomes[outcome.item.seq] = outcome
        self.changed.set()
        assert self.engine.tally(self.number).balanced

    def fail(self, error: Exception) -> None:
        self.failure = error

    def send(self, payload: str, deadline: float | None = None) -> None:
        self.sent += 1
        item = Item(self.number, self.sent, payload.encode(), self.engine.now(), deadline)
        self.engine.offer(self.stream, item)
        assert self.engine.tally(self.number).balanced

    async def running(self, how_many: int = 1) -> None:
        """Wait until so many of its items have been started on."""
        async with asyncio.timeout(WAIT):
            while self.engine.tally(self.number).running < how_many:
                await asyncio.sleep(0)

    async def answered(self, how_many: int | None = None) -> list[Outcome]:
        async with asyncio.timeout(WAIT):
            while len(self.outcomes) < (self.sent if how_many is None else how_many):
                self.changed.clear()
                await self.changed.wait()
        return [self.outcomes[seq] for seq in sorted(self.outcomes)]


async def restarted(engine: Engine) -> None:
    """Wait until every worker can work, and every spare."""
    await until(lambda: all(slot.ready for pool in engine._pools.values() for slot in pool.slots))


def unread_bytes(slot: Slot) -> int:
    """What the kernel holds of what was sent to a slot's worker (tty_ioctl(4), TIOCOUTQ)."""
    assert slot.worker
    sock = slot.worker._launched.transport._sock
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(count)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.01)


class TestAnswers:
    async def test_an_item_has_its_result(self, start: Start) -> None:
        engine = await start("Length")
        outcome = await infer(engine, b"abc", "length")
        assert isinstance(outcome, Result)
        assert json.loads(outcome.outputs) == {"length": 3, "batch": 1}
        assert (outcome.version, outcome.batch) == ("1", 1)
        assert outcome.infer_ms > 0
        assert outcome.queue_ms >= 0
        assert engine.workers().ready == 1

    async def test_many_at_once_each_have_their_own(self, start: Start) -> None:
        engine = await start("Length", workers=2)
        payloads = [bytes(n) for n in range(300)]
        outcomes = await asyncio.gather(*(outputs(engine, p, "length") for p in payloads))
        assert [o["length"] for o in outcomes] == list(range(300))
        assert max(o["batch"] for o in outcomes) == 8
        assert engine.statistics().total.results == 300
        assert [known.open_streams for known in engine.statistics().of("length")] == [0]

    async def test_a_stream_is_answered_by_both_workers(self, start: Start) -> None:
        engine = await start("Twin", workers=2)
        stream = Stream(engine, "twin")
        for _ in range(4):
            stream.send("sleep 0.05")
        outcomes = await stream.answered()
        assert {json.loads(o.outputs)["pid"] for o in outcomes if isinstance(o, Result)} == set(
            engine.workers().pids
        )

    async def test_20_mb_go_and_the_most_comes_back(self, start: Start) -> None:
        engine = await start("Length", "Text")
        assert (await outputs(engine, bytes(20 << 20), "length"))["length"] == 20 << 20
        text = "x" * (MAX_OUTPUT - len('""'))
        assert await outputs(engine, text, "text") == text

    async def test_a_latest_stream_loses_only_what_was_superseded(self, start: Start) -> None:
        engine = await start("Twin")
        stream = Stream(engine, "twin", "latest", 1)
        for _ in range(10):
            stream.send("sleep 0.05")
            await stream.running()
        outcomes = await stream.answered()
        assert [type(o) for o in outcomes] == [Result, *[Dropped] * 8, Result]
        assert {o.reason for o in outcomes if isinstance(o, Dropped)} == {"superseded"}

    async def test_an_item_expires_while_every_worker_is_busy(self, start: Start) -> None:
        engine = await start("Patient")
        stream = Stream(engine, "patient")
        stream.send("sleep 30")
        await stream.running()
        stream.send("answer", deadline=engine.now() + 0.1)
        stream.send("answer", deadline=engine.now() + 0.05)
        await stream.answered(2)
        assert stream.outcomes[2] == Dropped(stream.outcomes[2].item, "expired")
        assert stream.outcomes[3] == Dropped(stream.outcomes[3].item, "expired")
        assert engine.now() >= stream.outcomes[2].item.deadline

    async def test_an_item_past_its_deadline_is_not_started(self, start: Start) -> None:
        engine = await start("Twin")
        stream = Stream(engine, "twin")
        stream.send("sleep 0.1")
        await stream.running()
        stream.send("answer", engine.now() + 0.01)
        stream.send("answer")
        time.sleep(0.02)  # else the worker might be free before that deadline, if this process stood still
        first, second, third = await stream.answered()
        assert isinstance(first, Result)
        assert second == Dropped(second.item, "expired")
        assert isinstance(third, Result)

    async def test_two_models_share_a_worker(self, start: Start) -> None:
        engine = await start("Length", "Text")
        assert (await outputs(engine, b"abc", "length"))["length"] == 3
        assert await outputs(engine, "abc", "text") == "abc"
        assert [(s.name, s.state, s.reason) for s in engine.models()] == [
            ("length", "ready", None),
            ("text", "ready", None),
        ]

    async def test_a_closed_stream_gets_nothing_more(self, start: Start) -> None:
        engine = await start("Twin")
        stream = Stream(engine, "twin")
        for _ in range(3):
            stream.send("sleep 0.02")
            await stream.running()
        stream.stream.close()
        assert await outputs(engine, "answer", "twin")
        assert stream.outcomes == {}
        total = engine.statistics().total
        assert (total.received, total.results, total.cancelled) == (4, 2, 2)

    async def test_closing_in_the_delivery_of_a_batch_stops_the_rest_of_it(self, start: Start) -> None:
        engine = await start("Obeys")
        got = []

        def close(outcome: Outcome) -> None:
            got.append(outcome)
            stream.close()

        other = Stream(engine, "obeys")
        other.send("sleep 0.05")
        stream = engine.open(StreamRequest("obeys", None, "queue", 8), Owner(close))
        for _ in range(3):
            stream.offer(b"answer")
        other.send("answer")
        await other.answered()
        assert await outputs(engine, "answer")
        assert len(got) == 1
        assert engine.workers().deaths == 0

    async def test_offering_in_a_delivery_keeps_every_item(self, start: Start) -> None:
        engine = await start("Twin", workers=2)
        got: list[Outcome] = []
        done = asyncio.Event()

        def offer_next(outcome: Outcome) -> None:
            got.append(outcome)
            if len(got) <= 40:
                # every other one is expired, so that it comes back from within the offer
                deadline = engine.now() - 1 if len(got) % 2 else None
                item = Item(stream.number, len(got) + 2, b"answer", engine.now(), deadline)
                engine.offer(stream, item)
            elif len(got) == 42:
                done.set()

        stream = engine.open(StreamRequest("twin", None, "queue", 8), Owner(offer_next))
        for _ in range(2):
            stream.offer(b"answer")
        async with asyncio.timeout(WAIT):
            await done.wait()
        assert sorted(o.item.seq for o in got) == list(range(1, 43))

    async def test_a_cancelled_call_disturbs_no_other(self, start: Start) -> None:
        engine = await start("Twin")
        call = asyncio.create_task(engine.infer("twin", b"answer"))
        (slot,) = engine._pools["default"].slots
        while not slot.busy:
            await asyncio.sleep(0)
        assert slot.worker
        assert select.select([slot.worker._launched.transport._sock], [], [], WAIT)[0]
        await asyncio.sleep(0)  # its answer is there, and is read right after the cancelling below
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await outputs(engine, "answer", "twin")
        assert [known.open_streams for known in engine.statistics().of("twin")] == [0]


class TestItemFaults:
    async def test_one_bad_item_of_a_batch_fails_alone(self, start: Start) -> None:
        engine = await start("Obeys")
        stream = Stream(engine, "obeys")
        orders = ["sleep 0.05", "answer a", "fail", "answer b", "refuse", "give_refusal", "give_error"]
        for order in [*orders, "fail MemoryError"]:
            stream.send(order)
            await stream.running()
        _, a, fail, b, refuse, given, error, memory = await stream.answered()
        assert isinstance(a, Result)
        assert a.batch == 7
        assert isinstance(b, Result)
        assert [f.code for f in (fail, refuse, given, error, memory) if isinstance(f, Failed)] == [
            "model_error",
            "bad_word",
            "given_back",
            "model_error",
            "out_of_memory",
        ]
        assert engine.workers().deaths == 0

    @pytest.mark.parametrize(
        ("order", "code", "message"),
        [
            ("fail", "model_error", "the model failed with ValueError"),
            ("fail MemoryError", "out_of_memory", "the item needs more memory than a worker has"),
            ("refuse too_dark", "too_dark", "x" * 10),
            ("give_refusal", "given_back", "returned, not raised"),
            ("give_error", "model_error", "the model failed with KeyError"),
        ],
    )
    async def test_a_failing_item_says_why(self, start: Start, order: str, code: str, message: str) -> None:
        engine = await start("Obeys")
        failed = await failure(engine, order)
        assert (failed.code, failed.message, failed.retryable) == (code, message, False)
        assert engine.workers().deaths == 0

    @pytest.mark.parametrize("code", [*sorted(RESERVED), "Loud", "with-dash", "x1", "_", "ü"])
    async def test_a_code_that_no_model_may_give_is_a_model_error(self, start: Start, code: str) -> None:
        engine = await start("Obeys")
        failed = await failure(engine, f"refuse {code}")
        assert (failed.code, failed.message, failed.retryable) == ("model_error", "x" * 10, False)
        assert engine.workers().deaths == 0

    async def test_a_refusal_of_a_megabyte_is_cut_and_ends_no_worker(self, start: Start) -> None:
        engine = await start("Obeys")
        stream = Stream(engine, "obeys")
        for order in ["sleep 0.02", "refuse wordy 2000000", "answer"]:
            stream.send(order)
        _, refused, answer = await stream.answered()
        assert isinstance(refused, Failed)
        assert refused.code == "wordy"
        assert refused.message == "x" * 240
        assert isinstance(answer, Result)
        assert engine.workers().deaths == 0

    @pytest.mark.parametrize("model", ["WrongCount", "NoSequence"])
    async def test_a_model_that_answers_no_batch_fails_its_items(self, start: Start, model: str) -> None:
        engine = await start(model)
        stream = Stream(engine, model.lower())
        for _ in range(5):
            stream.send("x")
        codes = {o.code for o in await stream.answered() if isinstance(o, Failed)}
        assert codes == {"bad_output"}
        assert engine.workers().deaths == 0

    @pytest.mark.parametrize("how", ["pop", "clear", "pad", "replace"])
    async def test_what_predict_does_to_its_list_costs_nothing(self, start: Start, how: str) -> None:
        engine = await start(source("Changes", how=how))
        stream = Stream(engine, "changes")
        for n in range(1, 9):
            stream.send("x" * n)
        answers = await stream.answered()
        assert [json.loads(o.outputs) for o in answers if isinstance(o, Result)] == list(range(1, 9))
        assert engine.workers().deaths == 0

    async def test_outputs_are_json_or_a_bad_output(self, start: Start) -> None:
        engine = await start("Outputs")
        stream = Stream(engine, "outputs")
        good = {
            "half a pair": "\ud800",
            "null": None,
            "text": "Grüße",
            "scalars": [0.5, -7, True],
            "array": [[0, 1, 2], [3, 4, 5]],
            "zero": 2.5,
            "tuple": [1, "two"],
            "empty": [],
        }
        bad = ["nan", "infinity", "object", "bytes", "set", "keys", "circular", "deep"]
        for name in [*good, *bad]:
            stream.send(name)
        outcomes = await stream.answered()
        texts = [o.outputs for o in outcomes if isinstance(o, Result)]
        assert [json.loads(text) for text in texts] == list(good.values())
        assert [o.code for o in outcomes[len(good) :] if isinstance(o, Failed)] == ["bad_output"] * len(bad)
        assert engine.workers().deaths == 0

    async def test_one_array_may_answer_a_batch(self, start: Start) -> None:
        engine = await start("Array")
        assert await asyncio.gather(*(outputs(engine, bytes(n), "array") for n in range(5))) == list(range(5))

    @pytest.mark.parametrize(
        ("model", "payload"),
        [
            ("Text", b"\xff\xfe"),
            ("Text", b"cut off \xc3"),
            ("Data", b"\xff"),
            ("Data", b"{"),
            ("Data", b""),
            ("Data", b"[" * 100_000),
            ("Data", b"1" * 5000),
        ],
    )
    async def test_an_item_that_cannot_be_read_fails_alone(
        self, start: Start, model: str, payload: bytes
    ) -> None:
        engine = await start(model)
        name = model.lower()
        good = b'"good"'
        outcomes = await asyncio.gather(*(infer(engine, p, name) for p in (good, good, payload, good)))
        assert [type(o) for o in outcomes] == [Result, Result, Failed, Result]
        assert isinstance(outcomes[2], Failed)
        assert outcomes[2].code == "bad_item"
        assert not outcomes[2].retryable
        assert engine.workers().deaths == 0


class TestWorkerFaults:
    @pytest.mark.parametrize("order", ["exit 0", "exit 9", "quit", "segfault"])
    async def test_an_item_that_ends_its_worker_is_tried_twice_and_costs_no_other(
        self, start: Start, order: str
    ) -> None:
        engine = await start("Twin", workers=2)
        stream = Stream(engine, "twin")
        for each in ["sleep 0.2", order, "answer", "answer", "answer"]:
            stream.send(each)
        first, lost, *others = await stream.answered()
        assert isinstance(first, Result)
        assert isinstance(lost, Failed)
        assert (lost.code, lost.retryable) == ("worker_lost", False)
        assert all(isinstance(other, Result) for other in others)
        assert engine.tally(stream.number).retried == 1
        await restarted(engine)
        assert engine.workers().deaths == 2
        assert engine.models()[0].state == "ready"

    async def test_of_a_batch_that_is_lost_each_item_runs_once_more_alone(self, start: Start) -> None:
        engine = await start("Obeys")
        stream = Stream(engine, "obeys")
        for order in ["sleep 0.05", "answer a", "exit 1", "answer b", "answer c"]:
            stream.send(order)
            await stream.running()
        _, a, lost, b, c = await stream.answered()
        assert [(o.batch, json.loads(o.outputs)["answer"]) for o in (a, b, c) if isinstance(o, Result)] == [
            (1, ["a"]),
            (1, ["b"]),
            (1, ["c"]),
        ]
        assert isinstance(lost, Failed)
        assert (lost.code, lost.retryable) == ("worker_lost", False)
        assert engine.tally(stream.number).retried == 4
        assert engine.workers().deaths == 2

    @pytest.mark.parametrize("pinned", [False, True])
    async def test_a_stream_is_opened_while_the_only_worker_is_being_replaced(
        self, start: Start, pinned: bool
    ) -> None:
        engine = await start("Twin")
        version = engine.resolve("twin").version if pinned else None
        (pid,) = engine.workers().pids
        os.kill(pid, signal.SIGKILL)
        await until(lambda: engine.model("twin").state == "loading")
        card = engine.resolve("twin", version)  # what was pinned to waits as well
        assert card == engine.resolve("twin")
        stream = Stream(engine, "twin")
        stream.send("answer")
        assert isinstance((await stream.answered())[0], Result)

    async def test_a_worker_killed_from_outside_is_replaced_and_costs_nothing(self, start: Start) -> None:
        engine = await start("Patient", workers=2)
        stream = Stream(engine, "patient")
        slot = engine._pools["default"].slots[0]
        killed = engine.workers().pids[0]
        stream.send(f"stay {killed}")
        stream.send(f"stay {killed}")
        await stream.running(2)
        await until(lambda: not unread_bytes(slot))  # what a worker had not read is no second try
        os.kill(killed, signal.SIGKILL)
        outcomes = await stream.answered()
        assert [type(o) for o in outcomes] == [Result, Result]
        assert engine.tally(stream.number).retried == 1
        await restarted(engine)
        assert killed not in engine.workers().pids
        assert not psutil.pid_exists(killed)

    async def test_an_idle_worker_that_is_killed_costs_nothing(self, start: Start) -> None:
        engine = await start("Length")
        stream = Stream(engine, "length")
        os.kill(engine.workers().pids[0], signal.SIGKILL)
        async with asyncio.timeout(WAIT):
            while not engine.workers().deaths:
                await asyncio.sleep(0.001)
        stream.send("abc")
        (outcome,) = await stream.answered()
        assert isinstance(outcome, Result)

    @pytest.mark.parametrize("order", ["spin", "stop", "hang", "sleep 60"])
    async def test_a_hang_ends_at_the_timeout_and_the_slot_comes_back(self, start: Start, order: str) -> None:
        engine = await start("Hasty", "Twin", workers=2)
        stream, other = Stream(engine, "hasty"), Stream(engine, "twin")
        started = engine.now()
        stream.send(order)
        for _ in range(6):
            other.send("sleep 0.05")
        (hung,) = await stream.answered()
        assert engine.now() - started >= 0.5
        assert isinstance(hung, Failed)
        assert (hung.code, hung.retryable) == ("timeout", False)
        assert {type(outcome) for outcome in await other.answered()} == {Result}
        await restarted(engine)
        assert await outputs(engine, "answer", "twin")
        assert engine.workers().deaths == 1

    async def test_a_free_worker_takes_over_what_a_death_held_back(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A `latest` stream's next item may start when the one before it is lost, not when a slot is back."""
        engine = await start("Patient", workers=3)
        monkeypatch.setattr(Slot, "start", lambda _: None)  # a slot that is back would take it
        stream = Stream(engine, "patient", "latest", 1)
        stream.send("exit 1")
        await stream.running()
        stream.send("answer")
        (first,) = await stream.answered(1)
        assert isinstance(first, Failed)
        assert (first.code, first.retryable) == ("worker_lost", False), "it had a second try"
        assert engine.tally(stream.number).running == 1
        assert engine.workers().ready == 1
        _, second = await stream.answered()
        assert isinstance(second, Result)
        assert engine.tally(stream.number).retried == 1

    async def test_signals_of_a_terminal_do_not_end_a_worker(self, start: Start) -> None:
        engine = await start("Obeys")
        assert await outputs(engine, "interrupt") == "unmoved"
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(engine.workers().pids[0], number)
        assert await outputs(engine, "answer")
        assert engine.workers().deaths == 0

    @pytest.mark.parametrize(
        "written",
        [
            "garbage",
            "half",
            "close",
            '{"no":"type"}',
            '{"type":"greeting"}',
            '{"type":"ready","resident_mb":1}',
            '{"type":"loading","model":"stranger"}',
            '{"type":"loading","model":["twin"]}',
            '{"type":"failed","model":"stranger","reason":"x"}',
            '{"type":"loaded","card":{"name":"twin"},"infer_ms":1}',
            '{"type":"loaded","card":{"name":"twin","version":"1","input":"bytes","policy":"queue","max_batch":1,'
            '"timeout_ms":1,"description":""},"infer_ms":1}',
            '{"type":"answers"}',
            '{"type":"answers","infer_ms":0,"items":[],"resident_mb":1}',
            '{"type":"answers","infer_ms":0,"items":[1,1],"resident_mb":1}',
            '{"type":"answers","infer_ms":0,"items":["x"],"resident_mb":1}',
            '{"type":"answers","infer_ms":0,"items":[5],"resident_mb":1}',
            '{"type":"answers","infer_ms":0,"items":[-1],"resident_mb":1}',
            '{"type":"answers","infer_ms":1e300,"items":[{"code":"c","message":"m"}],"resident_mb":1}',
            '{"type":"answers","infer_ms":-5,"items":[{"code":"c","message":"m"}],"resident_mb":1}',
            '{"type":"answers","infer_ms":0,"items":[{"code":"c","message":"m"}]}',
            '{"type":"answers","infer_ms":0,"items":[{"code":"c","message":"m"}],"resident_mb":-1}',
            '{"type":"answers","infer_ms":0,"items":[{"code":"c","message":"m"}],"resident_mb":true}',
            '{"type":"answers","infer_ms":0,"items":[{"code":"c","message":"m"}],"resident_mb":1%s}'
            % ("0" * 400),
            '{"type":"answers","infer_ms":1%s,"items":[{"code":"c","message":"m"}],"resident_mb":1}'
            % ("0" * 400),
            '{"type":"answers","infer_ms":"0","items":[{"code":"c","message":"m"}],"resident_mb":1}',
            '{"type":"answers","infer_ms":0,"items":[{"code":["c"],"message":"m"}],"resident_mb":1}',
            '{"type":["answers"]}',
            '{"type":"answers","infer_ms":0,"items":[{"code":"c","message":"m"}],"resident_mb":"1"}',
        ],
    )
    async def test_a_worker_that_talks_nonsense_is_replaced(self, start: Start, written: str) -> None:
        engine = await start("Twin")
        before = engine.workers().pids
        failed = await failure(engine, f"write {written}", "twin")
        assert (failed.code, failed.retryable) == ("worker_lost", False)
        await restarted(engine)
        assert engine.workers().pids != before
        assert engine.workers().deaths == 2
        assert await outputs(engine, "answer", "twin")
        assert [(s.name, s.state) for s in engine.models()] == [("twin", "ready")]

    async def test_a_worker_that_answers_unasked_gets_no_more_work(self, start: Start) -> None:
        """The genuine answer follows the forged one, when there is no batch to answer."""
        engine = await start("Twin")
        forged = '{"type":"answers","infer_ms":0,"items":[{"code":"forged","message":"m"}],"resident_mb":1}'
        assert (await failure(engine, f"write {forged}", "twin")).code == "forged"
        async with asyncio.timeout(WAIT):
            while not engine.workers().deaths:
                await asyncio.sleep(0.01)
        await restarted(engine)
        assert await outputs(engine, "answer", "twin")

    async def test_many_deaths_leave_nothing(self, start: Start) -> None:
        engine = await start("Twin", workers=2)
        streams = [Stream(engine, "twin") for _ in range(6)]
        for stream in streams:
            stream.send("exit 1")
        codes = [o.code for stream in streams for o in await stream.answered() if isinstance(o, Failed)]
        assert codes == ["worker_lost"] * 6
        await restarted(engine)
        assert engine.workers().deaths == 12
        assert await outputs(engine, "answer", "twin")
        assert [p.status() for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE] == []

    async def test_what_a_model_prints_is_in_the_log_and_not_on_the_servers_output(
        self, start: Start, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = await start("Obeys")
        assert await outputs(engine, "print hello-from-a-model 100") == "printed"
        (pid,) = engine.workers().pids
        await until(lambda: caplog.messages.count(f"{pid}: hello-from-a-model") == 100)
        assert capfd.readouterr() == ("", "")
        assert {(r.name, r.levelname) for r in caplog.records} == {("inference.worker.main", "WARNING")}


class TestLoading:
    @pytest.mark.parametrize(
        ("model", "reason"),
        [
            (source("LoadRaises"), "loading it failed with OSError; the server's log has the traceback"),
            (source("NoSuchClass"), f"module {SAMPLES} has no NoSuchClass"),
            (source("NoPredict"), "model nopredict has no method `predict`"),
            (source("NoInput"), "model noinput: `input` is None; set it to one of image, bytes, text, data"),
            (
                ModelSource("absent", "no_such_module:Model"),
                "cannot import no_such_module: no module named 'no_such_module'; install it, or start the "
                "server in the folder that holds it",
            ),
        ],
        ids=lambda value: getattr(value, "name", ""),
    )
    async def test_a_model_that_does_not_load_is_unavailable_and_the_others_serve(
        self, start: Start, model: ModelSource, reason: str
    ) -> None:
        engine = await start(model, "Length", workers=2)
        status = engine.models()[0]
        assert (status.state, status.card, status.reason) == ("unavailable", None, reason)
        assert (await outputs(engine, b"abc", "length"))["length"] == 3
        with pytest.raises(ModelUnavailableError, match="is unavailable"):
            await engine.infer(model.name, b"")
        assert engine.workers().deaths == 0

    async def test_a_model_whose_loading_ends_the_worker_is_left_out(
        self, start: Start, tmp_path: Path
    ) -> None:
        marks = tmp_path / "marks"
        engine = await start("Length", source("LoadExits", marks=str(marks)))
        status = engine.models()[1]
        assert status.state == "unavailable"
        assert status.reason == "its worker ended while loading it (exit status 7)"
        await restarted(engine)
        assert (await outputs(engine, b"abc", "length"))["length"] == 3
        assert marks.read_text() == "xxx"
        assert engine.workers().deaths == 3

    async def test_a_model_that_ends_the_worker_once_is_loaded_again(
        self, start: Start, tmp_path: Path
    ) -> None:
        engine = await start(source("LoadExitsOnce", marks=str(tmp_path / "marks")))
        assert engine.models()[0].state == "ready"
        assert (await outputs(engine, b"abc", "loadexitsonce"))["length"] == 3
        assert engine.workers().deaths == 1

    async def test_a_model_that_fails_its_warming_up_serves(self, start: Start) -> None:
        engine = await start("WarmingFails")
        assert (await outputs(engine, b"abc", "warmingfails"))["length"] == 3

    async def test_items_of_a_model_that_was_lost_do_not_wait_for_ever(
        self, start: Start, tmp_path: Path
    ) -> None:
        """It was ready, its only worker died, and it could not be loaded again."""
        engine = await start(source("LoadsOnce", marks=str(tmp_path / "marks")), "Length")
        stream = Stream(engine, "loadsonce")
        for _ in range(20):
            stream.send("exit")
        outcomes = await stream.answered()
        assert {type(o) for o in outcomes} == {Failed}
        assert engine.models()[0].state == "unavailable"
        await restarted(engine)
        stream.send("x")
        late = (await stream.answered())[-1]
        assert isinstance(late, Failed)
        assert (late.code, late.retryable) == ("model_unavailable", True)
        assert (await outputs(engine, b"abc", "length"))["length"] == 3

    async def test_items_do_not_wait_for_ever_when_no_worker_can_be_started_again(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(slot_module, "LAST_BACKOFF", 0.05)
        engine = await start("Length")
        stream = Stream(engine, "length")
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/bin/false")
            os.kill(engine.workers().pids[0], signal.SIGKILL)
            await until(lambda: engine.workers().deaths)
            stream.send("abc")
            (lost,) = await stream.answered()
            assert isinstance(lost, Failed)
            assert (lost.code, lost.retryable) == ("model_unavailable", True)
            assert engine.models()[0].state == "unavailable"
        await restarted(engine)
        assert (await outputs(engine, b"abc", "length"))["length"] == 3

    async def test_no_model_at_all_is_refused(self) -> None:
        with pytest.raises(ModelError, match="no model to run"):
            Engine([], 1)

    async def test_two_models_of_one_name_are_refused(self) -> None:
        with pytest.raises(ModelError, match="same name"):
            Engine([source("Length"), source("Length")], 1)


class TestOwners:
    async def test_an_owner_that_fails_costs_its_own_stream_alone(
        self, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = await start("Length")
        other = Stream(engine, "length")

        def fail(outcome: Outcome) -> None:
            other.send("next")
            raise KeyError(outcome.item.seq)

        owner = Owner(fail)
        stream = engine.open(StreamRequest("length", None, "queue", 8), owner)
        pids = engine.workers().pids
        for _ in range(3):
            stream.offer(b"x")
        (outcome,) = await other.answered(1)
        assert isinstance(outcome, Result)
        assert engine.workers().pids == pids
        assert isinstance(owner.failure, KeyError), "it is told, so that the rest of its stream does not wait"
        with pytest.raises(UnknownStream):
            stream.offer(b"more")
        assert engine.budget.used == 0
        assert f"stream {stream.number}: its owner failed to take an outcome" in caplog.text
        caplog.clear()

    async def test_an_owner_may_offer_again_whenever_it_is_told(self, start: Start) -> None:
        """Also when what it offers has its outcome at once, thousands of times."""
        engine = await start("Length")
        told: list[Outcome] = []

        def again(outcome: Outcome) -> None:
            told.append(outcome)
            if len(told) < 3000:
                stream.offer(b"x", refusal=Refusal("empty"))

        stream = engine.open(StreamRequest("length"), Owner(again))
        stream.offer(b"x", refusal=Refusal("empty"))
        assert [outcome.item.seq for outcome in told] == list(range(1, 3001))

    async def test_an_owner_that_cannot_even_fail_disturbs_no_other(
        self, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Hopeless(Owner):
            def fail(self, error: Exception) -> None:
                raise error

        engine = await start("Obeys")
        other = Stream(engine, "obeys")
        stream = engine.open(StreamRequest("obeys"), Hopeless(lambda outcome: 1 / 0))
        other.send("sleep 0.05")
        await other.running()
        for _ in range(2):
            stream.offer(b"answer")
            other.send("answer")
        assert len(await other.answered()) == 3
        assert engine.workers().deaths == 0
        caplog.clear()

    async def test_what_is_offered_to_a_stopped_engine_is_dropped(self, start: Start) -> None:
        engine = await start("Length")
        stream = Stream(engine, "length")
        await engine.stop()
        stream.stream.offer(b"x")
        (dropped,) = stream.outcomes.values()
        assert isinstance(dropped, Dropped)
        assert dropped.reason == "draining"

    async def test_a_request_beyond_the_byte_budget_is_refused(self, start: Start) -> None:
        engine = await start("Obeys")
        engine.budget.limit = 5
        stream = Stream(engine, "obeys")
        stream.send("sleep 0.1")
        with pytest.raises(OverloadedError):
            await engine.infer("obeys", b"answer")
        await stream.answered()
        assert isinstance(await engine.infer("obeys", b"answer"), Result)


class TestIntake:
    async def test_bytes_are_released_when_an_item_has_its_outcome(self, start: Start) -> None:
        """Not when its turn to be told comes: a dropped frame must not keep its bytes behind a slow one."""
        engine = await start("Obeys")
        stream = Stream(engine, "obeys", "latest", 1)
        stream.send("sleep 0.2")
        await stream.running()
        for _ in range(100):
            stream.send("answer " + "x" * 10_000)
        assert engine.budget.used == stream.stream.bytes < 11_000, "what runs, and the newest"
        await stream.answered()
        assert engine.budget.used == stream.stream.bytes == 0
        assert all(outcome.item.payload == b"" for outcome in stream.outcomes.values())

    async def test_bytes_are_released_when_a_stream_is_closed(self, start: Start) -> None:
        engine = await start("Obeys")
        stream = Stream(engine, "obeys")
        for _ in range(3):
            stream.send("sleep 0.05")
        assert engine.budget.used > 0
        stream.stream.close()
        assert engine.budget.used == 0

    async def test_over_the_budget_a_stream_may_offer_one_large_item_at_a_time(self, start: Start) -> None:
        engine = await start("Obeys")
        engine.budget.limit = 5
        first, second = Stream(engine, "obeys"), Stream(engine, "obeys")
        first.send("sleep 0.1")
        assert first.stream.may_offer, "small items always may"
        first.send("answer " + "x" * FREE_BYTES)
        assert not first.stream.may_offer
        assert second.stream.may_offer
        await first.answered()
        assert first.stream.may_offer

    async def test_answers_that_are_not_read_count_and_stop_their_stream_alone(self, start: Start) -> None:
        engine = await start("Obeys")
        unread, other = Stream(engine, "obeys"), Stream(engine, "obeys")
        unread.stream.hold(MAX_STREAM_BYTES + 1)
        assert engine.budget.used == MAX_STREAM_BYTES + 1
        assert not unread.stream.may_offer
        for stream in (unread, other):
            stream.send("answer x")
        await other.answered()
        assert engine.tally(unread.stream.number).waiting == 1
        unread.stream.hold(0)
        await unread.answered()
        assert engine.budget.used == 0

    async def test_over_the_budget_a_stream_with_large_unread_answers_gets_no_more(
        self, start: Start
    ) -> None:
        engine = await start("Obeys")
        engine.budget.limit = 5
        large, small = Stream(engine, "obeys"), Stream(engine, "obeys")
        large.stream.hold(FREE_BYTES + 1)
        small.stream.hold(FREE_BYTES)
        for stream in (large, small):
            stream.send("answer x")
        await small.answered()
        assert engine.tally(large.stream.number).waiting == 1
        large.stream.close()
        small.stream.close()
        assert engine.budget.used == 0

    async def test_a_stream_of_large_items_may_have_two_of_the_largest(self, start: Start) -> None:
        engine = await start("Obeys")
        stream = engine.open(StreamRequest("obeys", max_bytes=20), Owner(lambda outcome: None))
        assert stream.may_offer
        stream.offer(b"sleep 0.1".ljust(20))
        assert stream.may_offer, "one item may always come"
        stream.offer(b"x")
        assert not stream.may_offer

    @pytest.mark.parametrize(
        ("asked", "policy", "window", "capacity", "weight"),
        [
            ({}, "queue", 16, 17, 1.0),
            ({"policy": "latest"}, "latest", 1, 1, 1.0),
            ({"policy": "latest", "window": 4}, "latest", 4, 4, 1.0),
            ({"window": 3, "weight": 0.25}, "queue", 3, 4, 0.25),
        ],
    )
    async def test_a_caller_chooses_and_the_model_has_defaults(
        self, start: Start, asked: dict[str, Any], policy: Policy, window: int, capacity: int, weight: float
    ) -> None:
        engine = await start("Length")
        stream = engine.open(StreamRequest("length", **asked), Owner(lambda outcome: None))
        assert (stream.policy, stream.window, stream.capacity, stream.weight) == (
            policy,
            window,
            capacity,
            weight,
        )

    async def test_an_item_that_cannot_run_is_counted_once_and_told_in_its_place(self, start: Start) -> None:
        engine = await start("Obeys")
        stream = Stream(engine, "obeys")
        stream.sent = 2
        stream.stream.offer(b"", refusal=Refusal("empty", "send bytes"))
        stream.stream.offer(b"x", refusal=Refusal("draining"))
        first, second = await stream.answered()
        assert (isinstance(first, Failed) and first.code, isinstance(second, Dropped) and second.reason) == (
            "empty",
            "draining",
        )
        tally = stream.stream.tally()
        assert (tally.received, tally.errors, tally.draining) == (2, 1, 1)
        assert engine.statistics().total == tally

    async def test_every_delivery_is_observed_with_the_version_that_answered(self, start: Start) -> None:
        engine = await start("Length")
        seen: list[tuple[ModelId, Outcome]] = []
        engine.observe = lambda model, outcome, now: seen.append((model, outcome))
        assert await outputs(engine, "abc", "length")
        ((model, outcome),) = seen
        assert (model, isinstance(outcome, Result)) == (ModelId("length", "1"), True)

    async def test_a_request_goes_through_the_same_intake(self, start: Start) -> None:
        engine = await start("Obeys")
        slow = Stream(engine, "obeys")
        slow.send("sleep 0.3")
        await slow.running()
        late = await engine.infer("obeys", b"answer", max_age_ms=20)
        assert isinstance(late, Dropped)
        assert late.reason == "expired"
        await slow.answered()
        assert engine.budget.used == 0

    async def test_principals_are_told_apart_in_the_statistics(self, start: Start) -> None:
        engine = await start("Length")
        engine.open(StreamRequest("length", principal="10.0.0.1"), Owner(lambda outcome: None))
        (row,) = engine.stream_statistics("length")
        assert row.principal == "10.0.0.1"


class TestVersions:
    async def test_a_version_that_one_worker_loaded_reaches_the_others(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when the files change and a worker crashes: streams follow the newest, so the others would idle."""
        monkeypatch.setattr(pool_module, "RECYCLE_PAUSE", 0.0)
        file = tmp_path / "version"
        file.write_text("1")
        engine = await start(source("Versioned", file=str(file)), workers=2)
        stream = Stream(engine, "versioned")
        file.write_text("2")
        os.kill(engine.workers().pids[0], signal.SIGKILL)
        await until(lambda: engine.model("versioned").versions == ("2",))
        await restarted(engine)
        stream.send("abc")
        (answer,) = await stream.answered()
        assert isinstance(answer, Result)
        assert answer.version == stream.stream.model.version == "2"
        assert list(engine.statistics().models) == [ModelId("versioned", "2")], "the old one is forgotten"

    async def test_a_model_can_be_added_and_removed_while_another_is_served(self, start: Start) -> None:
        engine = await start("Twin", workers=2, spares=1)
        async with load_on(engine, "twin"):
            engine.add_model(source("Length"), "default")
            assert engine.model("length").state == "loading"
            await until(lambda: engine.model("length").state == "ready")
            assert (await outputs(engine, b"abc", "length"))["length"] == 3
            stream = Stream(engine, "length")
            engine.remove_model("length")
            stream.send("abc")
            (refused,) = await stream.answered()
            assert isinstance(refused, Failed)
            assert (refused.code, refused.retryable) == ("model_unavailable", False)
            assert "no longer served" in refused.message
            with pytest.raises(UnknownModelError):
                engine.resolve("length")
            with pytest.raises(UnknownModelError):
                engine.remove_model("length")
            with pytest.raises(ModelError, match="is served already"):
                engine.add_model(source("Twin"), "default")
            with pytest.raises(ModelError, match="still has open streams"):
                engine.add_model(source("Length"), "default")
            stream.stream.close()
            engine.add_model(source("Length"), "default")
            await until(lambda: engine.model("length").state == "ready")
            assert (await outputs(engine, b"abcd", "length"))["length"] == 4
        assert engine.workers().deaths == 0


class TestState:
    async def test_a_counting_model_neither_skips_nor_repeats_while_its_workers_are_killed(
        self, start: Start
    ) -> None:
        engine = await start("Counts", workers=3, spares=1)
        streams = [Stream(engine, "counts", window=8) for _ in range(4)]
        randomly = random.Random(1)
        killed: set[int] = set()
        while sum(len(stream.outcomes) for stream in streams) < 2000:
            for stream in streams:
                while stream.sent - len(stream.outcomes) < 4:
                    stream.send(randomly.choice(["count", "count", "count", "bytes", "fail"]))
            if len(killed) < 12 and randomly.random() < 0.02 and engine.workers().serving:
                killed.add(randomly.choice(engine.workers().serving))
                for pid in killed & set(engine.workers().serving):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0)
        for stream in streams:
            counted = 0
            for outcome in await stream.answered():
                if isinstance(outcome, Result):
                    counted += 1
                    assert json.loads(outcome.outputs) == {"n": counted}
                else:
                    assert isinstance(outcome, Failed)
                    assert outcome.code in ("failed", "worker_lost")
            assert counted > 100
        assert engine.workers().deaths >= len(killed) > 5

    async def test_dropped_frames_do_not_touch_the_state(self, start: Start) -> None:
        engine = await start("Counts")
        stream = Stream(engine, "counts", "latest", 1)
        for _ in range(50):
            stream.send("count")
            if stream.sent % 10 == 0:
                await stream.answered(stream.sent)
        results = [o for o in await stream.answered() if isinstance(o, Result)]
        assert len(results) < 50
        assert [json.loads(o.outputs)["n"] for o in results] == list(range(1, len(results) + 1))

    async def test_each_stream_has_a_state_of_its_own(self, start: Start) -> None:
        engine = await start("Counts", workers=2)
        one, other = Stream(engine, "counts"), Stream(engine, "counts")
        for stream in (one, one, other):
            stream.send("count")
        assert [json.loads(o.outputs)["n"] for o in await one.answered() if isinstance(o, Result)] == [1, 2]
        assert [json.loads(o.outputs)["n"] for o in await other.answered() if isinstance(o, Result)] == [1]


class TestResolving:
    async def test_a_name_resolves_to_the_current_version_and_an_unknown_one_says_what_there_is(
        self, start: Start
    ) -> None:
        engine = await start("Length")
        assert engine.resolve("length").id == engine.resolve("length", "1").id == ModelId("length", "1")
        with pytest.raises(UnknownModelError, match="no model 'width'; there are length"):
            engine.resolve("width")
        with pytest.raises(UnknownModelError, match="no version '2' of model length; it has 1"):
            engine.resolve("length", "2")


@contextlib.asynccontextmanager
async def load_on(engine: Engine, model: str, order: str = "sleep 0.005") -> AsyncIterator[Stream]:
    """Keep all workers busy with a stream of short items; after it each of them has its result."""
    stream = Stream(engine, model)
    enough = False

    async def send() -> None:
        while not enough:
            while stream.sent - len(stream.outcomes) < 8:
                stream.send(order)
            await stream.answered(len(stream.outcomes) + 1)

    sending = asyncio.create_task(send())
    try:
        yield stream
    finally:
        enough = True
        await sending
    outcomes = await stream.answered()
    assert {type(outcome) for outcome in outcomes} == {Result}
    assert len(outcomes) == stream.sent


class TestReplacing:
    @pytest.mark.parametrize(("workers", "spares"), [(2, 0), (1, 1), (1, 0)])
    async def test_renewing_under_load_loses_nothing(self, start: Start, workers: int, spares: int) -> None:
        engine = await start("Twin", workers=workers, spares=spares)
        before = set(engine.workers().pids)
        async with load_on(engine, "twin") as stream:
            await stream.answered(20)
            engine.renew()
            await until(lambda: engine.workers().recycled == workers + spares)
            await restarted(engine)
            await stream.answered(len(stream.outcomes) + 20)
        assert not before & set(engine.workers().pids)
        assert engine.workers().deaths == 0
        assert engine.tally(stream.number).retried == 0
        pids = [json.loads(o.outputs)["pid"] for o in await stream.answered() if isinstance(o, Result)]
        assert pids[0] in before
        assert pids[-1] not in before

    async def test_recycling_under_load_loses_nothing(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(slot_module, "RECYCLE_PAUSE", 0.0)
        engine = await start("Twin", workers=2, spares=1, recycle_batches=25)
        served = []
        async with load_on(engine, "twin") as stream:
            while engine.workers().recycled < 5:
                await stream.answered(len(stream.outcomes) + 1)
                served.append(engine.workers().ready)
        assert min(served) == 2, "there was always a spare to take the place"
        assert engine.workers().deaths == 0
        assert engine.tally(stream.number).retried == 0

    async def test_a_spare_takes_over_from_a_killed_worker_without_a_cold_start(self, start: Start) -> None:
        engine = await start("Patient", spares=1)
        serving, warm = engine.workers().pids
        assert engine.workers().spares == 1
        stream = Stream(engine, "patient")
        stream.send(f"stay {serving}")
        await stream.running()
        stream.send("answer")
        os.kill(serving, signal.SIGKILL)
        await stream.answered()
        pids = [json.loads(o.outputs)["pid"] for o in await stream.answered() if isinstance(o, Result)]
        assert pids == [warm, warm]
        await restarted(engine)
        workers = engine.workers()
        assert (workers.slots, workers.ready, workers.spares, workers.deaths) == (1, 1, 1, 1)
        assert await outputs(engine, "answer", "patient") == {"answer": [], "pid": warm}

    async def test_what_workers_hold_is_added_up(self, start: Start) -> None:
        engine = await start("Hoards", workers=2)
        before = engine.workers().resident_mb
        assert (await outputs(engine, "64", "hoards"))["kept"] == 1
        assert 64 <= engine.workers().resident_mb - before < 128
        real = sum(psutil.Process(pid).memory_info().rss for pid in engine.workers().pids)
        assert engine.workers().resident_mb == pytest.approx(real / 2**20, abs=16)


class TestSecondTries:
    @pytest.mark.parametrize("how", ["raise", "exit"])
    async def test_a_model_comes_back_without_a_restart_and_the_others_never_notice(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        monkeypatch.setattr(pool_module, "FIRST_RETRY", 0.2)
        monkeypatch.setattr(slot_module, "LAST_BACKOFF", 0.05)
        cause, marks = tmp_path / "cause", tmp_path / "marks"
        cause.touch()
        repaired = source("Repaired", marks=str(marks), cause=str(cause), how=how)
        engine = await start(repaired, "Twin", workers=2)
        tried = len(marks.read_text().splitlines())
        async with load_on(engine, "twin"):
            await until(lambda: len(marks.read_text().splitlines()) > tried)
            assert engine.models()[0].state == "unavailable"
            with pytest.raises(ModelUnavailableError):
                await engine.infer("repaired", b"abc")
            cause.unlink()
            await until(lambda: engine.models()[0].state == "ready")
            assert engine.models()[0].reason is None
            assert (await outputs(engine, b"abc", "repaired"))["length"] == 3
            await until(lambda: all("repaired" in slot.names for slot in engine._pools["default"].slots))

    async def test_renewing_tries_again_too(self, start: Start, tmp_path: Path) -> None:
        cause = tmp_path / "cause"
        cause.touch()
        engine = await start(
            source("Repaired", marks=str(tmp_path / "marks"), cause=str(cause), how="exit"), "Length"
        )
        assert engine.models()[0].state == "unavailable"
        cause.unlink()
        engine.renew()
        await until(lambda: engine.models()[0].state == "ready")
        assert (await outputs(engine, b"abc", "repaired"))["length"] == 3
        assert (await outputs(engine, b"abc", "length"))["length"] == 3


class TestGroups:
    async def test_each_group_has_its_own_workers(self, start: Start) -> None:
        slow = Group("slow", ("patient",), 2)
        engine = await start("Twin", "Patient", "Length", groups=[slow])
        assert engine.workers().slots == 3
        ours = {(await outputs(engine, "answer", "twin"))["pid"] for _ in range(5)}
        stream = Stream(engine, "patient")
        for _ in range(4):
            stream.send("sleep 0.05")
        theirs = {json.loads(o.outputs)["pid"] for o in await stream.answered() if isinstance(o, Result)}
        assert (len(ours), len(theirs)) == (1, 2)
        assert ours | theirs == set(engine.workers().pids)
        assert not ours & theirs
        assert (await outputs(engine, b"abc", "length"))["length"] == 3
        assert [(s.name, s.state) for s in engine.models()] == [
            ("twin", "ready"),
            ("patient", "ready"),
            ("length", "ready"),
        ]

    async def test_a_feature_of_the_sandbox_is_on_where_every_group_has_it(self) -> None:
        engine = Engine([source("Length"), source("Data")], 1, groups=[Group("own", ("data",))])
        default, own = engine._pools.values()
        assert engine.workers().sandbox == {}
        own.sealed({"network": "denied", "files": "on"})
        assert engine.workers().sandbox == {"network": "denied", "files": "on"}
        default.sealed({"network": "on", "files": "on"})
        assert engine.workers().sandbox == {"network": "denied", "files": "on"}
        default.sealed({"network": "on", "files": "unsupported"})
        assert engine.workers().sandbox == {"network": "denied", "files": "unsupported"}

    async def test_a_hang_in_one_group_leaves_the_others_throughput_alone(self, start: Start) -> None:
        engine = await start("Twin", "Patient", groups=[Group("slow", ("patient",))])
        (hung,) = (slot.pid for slot in list(engine._pools.values())[1].slots)
        stuck = Stream(engine, "patient")
        for _ in range(3):
            stuck.send("hang")
        await stuck.running()
        async with load_on(engine, "twin") as stream:
            await stream.answered(100)
        assert stuck.outcomes == {}
        assert engine.tally(stuck.number).running == 1
        assert engine.tally(stuck.number).waiting == 2
        assert hung in engine.workers().pids

    async def test_a_death_in_one_group_is_no_death_in_another(self, start: Start) -> None:
        engine = await start("Twin", "Patient", spares=1, groups=[Group("slow", ("patient",))])
        (ours, theirs) = ([slot.pid for slot in pool.slots] for pool in engine._pools.values())
        assert (await failure(engine, "exit 1", "patient")).code == "worker_lost"
        await restarted(engine)
        assert [slot.pid for slot in engine._pools["default"].slots] == ours
        assert not {slot.pid for slot in list(engine._pools.values())[1].slots} & set(theirs)
        assert (engine.workers().slots, engine.workers().spares, engine.workers().deaths) == (2, 2, 2)

    async def test_renewing_renews_every_group(self, start: Start) -> None:
        engine = await start("Twin", "Patient", groups=[Group("slow", ("patient",))])
        before = set(engine.workers().pids)
        engine.renew()
        await until(lambda: engine.workers().recycled == 2)
        await restarted(engine)
        assert not before & set(engine.workers().pids)

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            ([Group("slow", ("absent",))], "group slow has no model 'absent' to hold"),
            ([Group("a", ("twin",)), Group("b", ("twin",))], "model twin is in two groups"),
        ],
    )
    async def test_groups_that_are_wrong_are_refused(self, groups: list[Group], message: str) -> None:
        with pytest.raises(ModelError, match=message):
            Engine([source("Twin")], 1, groups=groups)


async def test_an_item_that_came_back_unread_expires_while_no_worker_is_free(start: Start) -> None:
    engine = await start("Patient", workers=1)
    busy, stream = Stream(engine, "patient"), Stream(engine, "patient", "latest", 1)
    now = engine.now()
    deadline = now + 0.1
    stream.send("never started", deadline)
    batch, _ = engine._scheduler.take(now, {ModelId("patient", "1")})
    assert batch
    await until(lambda: engine.now() > deadline and engine._expiry is None)
    busy.send("sleep 30")
    await busy.running()
    engine.batch_lost(batch, Cause.CRASH, unread=True)
    assert await stream.answered() == [Dropped(batch.items[0], "expired")]


class TestStopping:
    async def test_everything_that_waits_or_runs_has_an_outcome(self, start: Start) -> None:
        engine = await start("Patient", workers=2)
        stream = Stream(engine, "patient")
        for _ in range(5):
            stream.send("sleep 30")
        await stream.running(2)
        await until(lambda: not any(map(unread_bytes, engine._pools["default"].slots)))
        async with asyncio.timeout(WAIT):
            await engine.stop()
        outcomes = await stream.answered()
        assert [o.code for o in outcomes if isinstance(o, Failed)] == ["worker_lost"] * 2
        assert [o.reason for o in outcomes if isinstance(o, Dropped)] == ["draining"] * 3
        assert engine.workers().pids == ()

    async def test_what_is_offered_while_it_stops_has_an_outcome_too(self, start: Start) -> None:
        engine = await start("Patient")
        stream = Stream(engine, "patient")
        stream.send("sleep 30")
        await stream.running()
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)  # it has begun, and its worker is not yet reaped
        stream.send("answer")
        await stopping
        _, late = await stream.answered()
        assert late == Dropped(late.item, "draining")

    async def test_what_is_offered_while_it_stops_leaves_no_timer(self, start: Start) -> None:
        engine = await start("Length")
        stream = Stream(engine, "length")
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        stream.send("late", engine.now() + 60)
        await stopping
        assert not any("_expire" in timer for timer in pending_timers())
        (late,) = await stream.answered()
        assert late == Dropped(late.item, "draining")

    async def test_stopping_twice_is_stopping(self, start: Start) -> None:
        engine = await start("Length")
        await engine.stop()
        await engine.stop()
        with pytest.raises(ModelError):
            await engine.infer("length", b"")

    async def test_stopping_before_anything_has_loaded_leaves_nothing(self, start: Start) -> None:
        engine = Engine([source("Length")], 2)
        engine.start()
        assert len(engine.workers().pids) == 2
        async with asyncio.timeout(WAIT):
            await engine.stop()

    async def test_stopping_forgets_that_a_model_was_to_be_tried_again(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_module, "FIRST_RETRY", 3600.0)  # however long the start takes
        engine = await start("LoadRaises", "Length", workers=2)
        assert any("AwakeTimer" in timer for timer in pending_timers())
        await engine.stop()
        assert not any("AwakeTimer" in timer for timer in pending_timers())

    async def test_stopping_between_two_attempts_to_start_leaves_nothing(
        self, start: Start, tmp_path: Path
    ) -> None:
        engine = Engine([source("LoadExits", marks=str(tmp_path / "marks"))], 1)
        engine.start()
        async with asyncio.timeout(WAIT):
            while engine.workers().deaths < 2 or engine.workers().pids:
                await asyncio.sleep(0)  # looked at in every pass of the loop, or the pause may be missed
            await engine.stop()
        await asyncio.sleep(0.3)
        assert engine.workers().pids == ()

    async def test_the_context_manager_warms_and_stops(self, start: Start) -> None:
        async with Engine([source("Length")], 1) as engine:
            assert engine.models()[0].state == "ready"
        assert engine.workers().pids == ()
