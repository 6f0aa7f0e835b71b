"""The engine with real worker processes: answers, faults that cost one item, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from inference.engine import Engine
from inference.items import Dropped, Failed, Item, Outcome, Result
from inference.model import ModelError, ModelSource, Policy

SAMPLES = "tests.inference.sample_models"

Start = Callable[..., Awaitable[Engine]]


def source(cls: str, **options: Any) -> ModelSource:
    return ModelSource(cls.lower(), f"{SAMPLES}:{cls}", options)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start engines; afterwards law 1 holds, and no process, zombie or file descriptor of theirs is left."""
    me = psutil.Process()
    children, fds = set(me.children(recursive=True)), me.num_fds()
    engines = []
    unhandled: list[dict[str, Any]] = []  # an exception in a callback ends no test by itself
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))

    async def start(*models: str | ModelSource, workers: int = 1) -> Engine:
        sources = [model if isinstance(model, ModelSource) else source(model) for model in models]
        engine = Engine(sources, workers)
        engines.append(engine)
        engine.start()
        async with asyncio.timeout(30):
            await engine.warm()
        await restarted(engine, workers)
        return engine

    yield start
    for engine in engines:
        assert engine.statistics().total.balanced
        async with asyncio.timeout(10):
            await engine.stop()
        total = engine.statistics().total
        assert total.balanced
        assert (total.waiting, total.running) == (0, 0)
    assert unhandled == []
    assert set(me.children(recursive=True)) == children
    assert me.num_fds() == fds


async def infer(engine: Engine, payload: bytes | str, model: str = "obeys") -> Outcome:
    async with asyncio.timeout(20):
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
    assert "failed to take an outcome" not in caplog.text


class Stream:
    """A stream of an engine, and the outcomes it got."""

    def __init__(self, engine: Engine, model: str, policy: Policy = "queue", window: int = 64) -> None:
        self.engine = engine
        self.outcomes: dict[int, Outcome] = {}
        self.sent = 0
        self.changed = asyncio.Event()
        self.number = engine.open(model, policy, window, self.deliver)

    def deliver(self, outcome: Outcome) -> None:
        assert outcome.item.seq not in self.outcomes, "a second outcome"
        self.outcomes[outcome.item.seq] = outcome
        self.changed.set()
        assert self.engine.tally(self.number).balanced

    def send(self, payload: str, deadline: float | None = None) -> None:
        self.sent += 1
        self.engine.offer(Item(self.number, self.sent, payload.encode(), self.engine.now(), deadline))
        assert self.engine.tally(self.number).balanced

    async def answered(self, how_many: int | None = None) -> list[Outcome]:
        async with asyncio.timeout(20):
            while len(self.outcomes) < (self.sent if how_many is None else how_many):
                self.changed.clear()
                await self.changed.wait()
        return [self.outcomes[seq] for seq in sorted(self.outcomes)]


async def restarted(engine: Engine, slots: int = 1) -> None:
    async with asyncio.timeout(20):
        while engine.workers().ready < slots:
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
        assert engine.statistics().models["length"].streams == ()

    async def test_a_stream_is_answered_by_both_workers(self, start: Start) -> None:
        engine = await start("Twin", workers=2)
        stream = Stream(engine, "twin")
        for _ in range(4):
            stream.send("sleep 0.05")
        outcomes = await stream.answered()
        assert {json.loads(o.outputs)["pid"] for o in outcomes if isinstance(o, Result)} == set(
            engine.workers().pids
        )

    async def test_20_mb_go_and_come_back(self, start: Start) -> None:
        engine = await start("Length", "Text")
        assert (await outputs(engine, bytes(20 << 20), "length"))["length"] == 20 << 20
        assert await outputs(engine, "ü" * (10 << 20), "text") == "ü" * (10 << 20)

    async def test_a_latest_stream_loses_only_what_was_superseded(self, start: Start) -> None:
        engine = await start("Twin")
        stream = Stream(engine, "twin", "latest", 1)
        for _ in range(10):
            stream.send("sleep 0.05")
        outcomes = await stream.answered()
        assert [type(o) for o in outcomes] == [Result, *[Dropped] * 8, Result]
        assert {o.reason for o in outcomes if isinstance(o, Dropped)} == {"superseded"}

    async def test_an_item_expires_while_every_worker_is_busy(self, start: Start) -> None:
        engine = await start("Patient")
        stream = Stream(engine, "patient")
        stream.send("sleep 30")
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
        stream.send("answer", engine.now() + 0.01)
        stream.send("answer")
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
        engine.close(stream.number)
        assert await outputs(engine, "answer", "twin")
        assert stream.outcomes == {}
        total = engine.statistics().total
        assert (total.received, total.results, total.cancelled) == (4, 2, 2)

    async def test_closing_in_the_delivery_of_a_batch_stops_the_rest_of_it(self, start: Start) -> None:
        engine = await start("Obeys")
        got = []

        def close(outcome: Outcome) -> None:
            got.append(outcome)
            engine.close(stream)

        other = Stream(engine, "obeys")
        other.send("sleep 0.05")
        stream = engine.open("obeys", "queue", 8, close)
        for seq in (1, 2, 3):
            engine.offer(Item(stream, seq, b"answer", engine.now()))
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
                engine.offer(Item(stream, len(got) + 2, b"answer", engine.now(), deadline))
            elif len(got) == 42:
                done.set()

        stream = engine.open("twin", "queue", 8, offer_next)
        for seq in (1, 2):
            engine.offer(Item(stream, seq, b"answer", engine.now()))
        async with asyncio.timeout(10):
            await done.wait()
        assert sorted(o.item.seq for o in got) == list(range(1, 43))

    async def test_a_cancelled_call_disturbs_no_other(self, start: Start) -> None:
        engine = await start("Twin")
        call = asyncio.create_task(engine.infer("twin", b"answer"))
        await asyncio.sleep(0)
        time.sleep(0.2)  # its answer lies in the socket now, and is read right after the cancelling below
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await outputs(engine, "answer", "twin")
        assert engine.statistics().models["twin"].streams == ()


class TestItemFaults:
    async def test_one_bad_item_of_a_batch_fails_alone(self, start: Start) -> None:
        engine = await start("Obeys")
        stream = Stream(engine, "obeys")
        orders = ["sleep 0.05", "answer a", "fail", "answer b", "refuse", "give_refusal", "give_error"]
        for order in [*orders, "fail MemoryError"]:
            stream.send(order)
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
        assert codes == {"bad_output"} if model == "WrongCount" else {"model_error"}
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
    async def test_a_death_costs_the_items_in_that_worker(self, start: Start, order: str) -> None:
        engine = await start("Twin", workers=2)
        before = set(engine.workers().pids)
        stream = Stream(engine, "twin")
        for each in ["sleep 0.2", order, "answer", "answer", "answer"]:
            stream.send(each)
        first, lost, *others = await stream.answered()
        assert isinstance(first, Result)
        assert isinstance(lost, Failed)
        assert (lost.code, lost.retryable) == ("worker_lost", True)
        assert all(isinstance(other, Result) for other in others)
        await restarted(engine, 2)
        workers = engine.workers()
        assert workers.deaths == 1
        assert len(set(workers.pids) & before) == 1
        assert engine.models()[0].state == "ready"

    async def test_a_killed_worker_is_replaced(self, start: Start) -> None:
        engine = await start("Patient", workers=2)
        stream = Stream(engine, "patient")
        stream.send("sleep 0.3")
        stream.send("sleep 0.3")
        killed = engine.workers().pids[0]
        os.kill(killed, signal.SIGKILL)
        outcomes = await stream.answered()
        assert sorted(type(o).__name__ for o in outcomes) == ["Failed", "Result"]
        await restarted(engine, 2)
        assert killed not in engine.workers().pids
        assert not psutil.pid_exists(killed)

    async def test_an_idle_worker_that_is_killed_costs_nothing(self, start: Start) -> None:
        engine = await start("Length")
        os.kill(engine.workers().pids[0], signal.SIGKILL)
        async with asyncio.timeout(10):
            while not engine.workers().deaths:
                await asyncio.sleep(0.001)
        stream = Stream(engine, "length")
        stream.send("abc")
        (outcome,) = await stream.answered()
        assert isinstance(outcome, Result)

    @pytest.mark.parametrize("order", ["spin", "stop", "hang", "sleep 60"])
    async def test_a_hang_ends_at_the_timeout_and_the_slot_comes_back(self, start: Start, order: str) -> None:
        engine = await start("Twin", workers=2)
        stream = Stream(engine, "twin")
        for each in [order, *["sleep 0.05"] * 6]:
            stream.send(each)
        hung, *others = await stream.answered()
        assert isinstance(hung, Failed)
        assert (hung.code, hung.retryable) == ("timeout", False)
        assert all(isinstance(other, Result) for other in others)
        await restarted(engine, 2)
        assert await outputs(engine, "answer", "twin")
        assert engine.workers().deaths == 1

    async def test_a_free_worker_takes_over_what_a_death_held_back(self, start: Start) -> None:
        """A `latest` stream's next item may start when the one before it is lost, not when a slot is back."""
        engine = await start("Patient", workers=2)
        stream = Stream(engine, "patient", "latest", 1)
        stream.send("exit 1")
        stream.send("answer")
        await stream.answered(1)
        assert engine.tally(stream.number).running == 1
        assert engine.workers().ready == 1
        _, second = await stream.answered()
        assert isinstance(second, Result)

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
            '{"type":"ready"}',
            '{"type":"loading","model":"stranger"}',
            '{"type":"loading","model":["twin"]}',
            '{"type":"failed","model":"stranger","reason":"x"}',
            '{"type":"loaded","card":{"name":"twin"}}',
            '{"type":"answers"}',
            '{"type":"answers","infer_ms":1,"items":[]}',
            '{"type":"answers","infer_ms":1,"items":[1,1]}',
            '{"type":"answers","infer_ms":1,"items":["x"]}',
            '{"type":"answers","infer_ms":1,"items":[5]}',
            '{"type":"answers","infer_ms":1,"items":[-1]}',
            '{"type":"answers","infer_ms":1e300,"items":[{"code":"c","message":"m"}]}',
            '{"type":"answers","infer_ms":-5,"items":[{"code":"c","message":"m"}]}',
        ],
    )
    async def test_a_worker_that_talks_nonsense_is_replaced(self, start: Start, written: str) -> None:
        engine = await start("Twin")
        before = engine.workers().pids
        failed = await failure(engine, f"write {written}", "twin")
        assert failed.code == "worker_lost"
        await restarted(engine)
        assert engine.workers().pids != before
        assert engine.workers().deaths == 1
        assert await outputs(engine, "answer", "twin")
        assert [(s.name, s.state) for s in engine.models()] == [("twin", "ready")]

    async def test_a_worker_that_answers_unasked_gets_no_more_work(self, start: Start) -> None:
        """The genuine answer follows the forged one, when there is no batch to answer."""
        engine = await start("Twin")
        forged = '{"type":"answers","infer_ms":0,"items":[{"code":"forged","message":"m"}]}'
        assert (await failure(engine, f"write {forged}", "twin")).code == "forged"
        async with asyncio.timeout(10):
            while not engine.workers().deaths:
                await asyncio.sleep(0.01)
        await restarted(engine)
        assert await outputs(engine, "answer", "twin")

    async def test_many_deaths_leave_nothing(self, start: Start) -> None:
        engine = await start("Twin", workers=2)
        stream = Stream(engine, "twin")
        for _ in range(12):
            stream.send("exit 1")
        codes = {o.code for o in await stream.answered() if isinstance(o, Failed)}
        assert codes == {"worker_lost"}
        await restarted(engine, 2)
        assert await outputs(engine, "answer", "twin")
        assert [p.status() for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE] == []

    async def test_what_a_model_prints_stays_off_the_servers_output(
        self, start: Start, capfd: pytest.CaptureFixture[str]
    ) -> None:
        engine = await start("Obeys")
        assert await outputs(engine, "print hello-from-a-model 100") == "printed"
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("hello-from-a-model") == 100


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
        with pytest.raises(ModelError, match="is not ready"):
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

        number = engine.open("length", "queue", 1, fail)
        pids = engine.workers().pids
        engine.offer(Item(number, 1, b"x", engine.now()))
        (outcome,) = await other.answered(1)
        assert isinstance(outcome, Result)
        assert engine.workers().pids == pids
        assert f"stream {number}: its owner failed to take an outcome" in caplog.text
        caplog.clear()


class TestStopping:
    async def test_everything_that_waits_or_runs_has_an_outcome(self, start: Start) -> None:
        engine = await start("Patient", workers=2)
        stream = Stream(engine, "patient")
        for _ in range(5):
            stream.send("sleep 30")
        async with asyncio.timeout(10):
            await engine.stop()
        outcomes = await stream.answered()
        assert [o.code for o in outcomes if isinstance(o, Failed)] == ["worker_lost"] * 2
        assert [o.reason for o in outcomes if isinstance(o, Dropped)] == ["draining"] * 3
        assert engine.workers().pids == ()

    async def test_what_is_offered_while_it_stops_has_an_outcome_too(self, start: Start) -> None:
        engine = await start("Patient")
        stream = Stream(engine, "patient")
        stream.send("sleep 30")
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)  # it has begun, and its worker is not yet reaped
        stream.send("answer")
        await stopping
        _, late = await stream.answered()
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
        async with asyncio.timeout(10):
            await engine.stop()

    async def test_stopping_between_two_attempts_to_start_leaves_nothing(
        self, start: Start, tmp_path: Path
    ) -> None:
        engine = Engine([source("LoadExits", marks=str(tmp_path / "marks"))], 1)
        engine.start()
        async with asyncio.timeout(10):
            while engine.workers().deaths < 2 or engine.workers().pids:
                await asyncio.sleep(0.005)
            await engine.stop()
        await asyncio.sleep(0.3)
        assert engine.workers().pids == ()

    async def test_the_context_manager_warms_and_stops(self, start: Start) -> None:
        async with Engine([source("Length")], 1) as engine:
            assert engine.models()[0].state == "ready"
        assert engine.workers().pids == ()


PARENT = """
import asyncio, sys
from inference.engine import Engine
from inference.model import ModelSource

async def main():
    async with Engine([ModelSource("patient", "tests.inference.sample_models:Patient")], 2) as engine:
        if sys.argv[1]:
            call = asyncio.create_task(engine.infer("patient", sys.argv[1].encode()))
            await asyncio.sleep(0.1)
        print(*engine.workers().pids, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("doing", ["", "spin", "hang", "sleep 60"])
def test_a_killed_parent_leaves_no_worker(doing: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, doing], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    watches = [os.pidfd_open(pid) for pid in pids]  # readable when it has ended, reaped or not
    parent.kill()
    parent.wait()
    ended = [bool(select.select([watch], [], [], 2)[0]) for watch in watches]
    for watch in watches:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(watch, signal.SIGKILL)
        os.close(watch)
    assert ended == [True, True]
