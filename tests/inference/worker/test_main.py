"""The code in a worker: what it says on its socket, and how it ends. The worker is a real process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import psutil
import pytest

from inference.model import MAX_OUTPUT, MAX_STATE, ItemError, ModelId, ModelSource
from inference.pool.process import ENVIRONMENT
from inference.wire import messages
from inference.wire.framing import MAX_ANSWER, MAX_HEADER, frame
from inference.wire.messages import BatchHeader, ItemFailure
from inference.wire.worker_channel import WorkerChannel
from inference.worker import main as worker_module
from inference.worker.loaded_model import LoadedModel, read_data, read_text, sample_item
from inference.worker.main import MAX_CODE, MAX_MESSAGE, OOM_SCORE, Memory, answer, as_error
from inference.worker.outputs import Output, plain

SAMPLES = "tests.inference.sample_models"


def batch(model: str, *payloads: bytes) -> BatchHeader:
    return BatchHeader(model, "1", [len(p) for p in payloads])


class Worker:
    """A worker started as the server does, and the server's end of its socket."""

    def __init__(self, parent: int | None = None) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(10)
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "inference.worker.main",
                    str(theirs.fileno()),
                    str(parent or os.getpid()),
                ],
                pass_fds=[theirs.fileno()],
                stdout=2,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **ENVIRONMENT},
            )
        self.channel = WorkerChannel(self.sock)

    def load(self, *classes: str) -> list[dict[str, Any]]:
        """Tell it what to load; all that it says until it is ready."""
        sources = [ModelSource(cls.lower(), f"{SAMPLES}:{cls}") for cls in classes]
        models = [messages.ModelSetup(s.name, s.reference, msgspec.Raw(b"{}")) for s in sources]
        self.channel.send(messages.encode(messages.Setup(models, "off", 0)))
        said = [self.receive()[0]]
        while said[-1]["type"] != "ready":
            said.append(self.receive()[0])
        return said

    def ask(self, model: str, *payloads: bytes) -> tuple[dict[str, Any], bytes]:
        self.give(model, *payloads)
        return self.receive()

    def give(self, model: str, *payloads: bytes) -> None:
        self.channel.send(messages.encode(batch(model, *payloads)), payloads)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        message = self.channel.receive()
        assert message is not None, "the worker has gone"
        return json.loads(message[0]), bytes(message[1] or b"")

    def ended(self) -> tuple[int, str]:
        """Its exit status, and what it wrote to its error output."""
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    workers = []

    def start(parent: int | None = None) -> Worker:
        workers.append(Worker(parent))
        return workers[-1]

    yield start
    for worker in workers:
        worker.sock.close()
        worker.process.kill()
        worker.process.communicate()


Start = Callable[..., Worker]


def test_it_reports_each_model_and_then_that_it_is_ready(start: Start) -> None:
    said = start().load("Length", "LoadRaises", "Text")
    assert [message.pop("infer_ms") >= 0 for message in said if message["type"] == "loaded"] == [True] * 2
    assert 0 < said[-1].pop("resident_mb") < 1000
    assert said == [
        {"type": "importing", "model": "length"},
        {"type": "described", "card": card("length", "Answers how long an item is.")},
        {"type": "importing", "model": "loadraises"},
        {"type": "described", "card": card("loadraises", "Cannot be loaded.")},
        {
            "type": "failed",
            "model": "loadraises",
            "reason": "loading it failed with OSError; the server's log has the traceback",
        },
        {"type": "importing", "model": "text"},
        {"type": "described", "card": card("text", "Answers the text itself.") | {"input": "text"}},
        {"type": "sealing"},
        {"type": "loaded", "model": "length"},
        {"type": "loaded", "model": "text"},
        {"type": "ready"},
    ]


def card(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1",
        "input": "bytes",
        "policy": "queue",
        "max_batch": 8,
        "timeout_ms": 10_000,
        "description": description,
        "latency_target_ms": None,
        "min_rate": 0.0,
        "load_timeout_s": 300,
        "stateful": False,
    }


def test_it_answers_a_batch_with_lengths_and_errors_in_the_order_of_its_items(start: Start) -> None:
    worker = start()
    worker.load("Obeys")
    header, body = worker.ask("obeys", b"refuse cold", b"print x", b"give_refusal", b"print y")
    assert header.pop("infer_ms") > 0
    assert header.pop("resident_mb") > 0
    assert header == {
        "type": "answers",
        "items": [
            {"code": "cold", "message": "x" * 10},
            9,
            {"code": "given_back", "message": "returned, not raised"},
            9,
        ],
    }
    assert body == b'"printed"' * 2


def test_the_traceback_of_a_failing_model_goes_to_the_log_only(start: Start) -> None:
    worker = start()
    worker.load("Obeys")
    header, _ = worker.ask("obeys", b"fail")
    worker.sock.close()
    status, err = worker.ended()
    assert "secret" not in json.dumps(header)
    assert "with a secret in its words" in err
    assert status == 0


def test_it_tells_what_the_second_inference_took_for_the_first_pays_for_what_happens_once(
    start: Start,
) -> None:
    said = start().load("WarmsUp", "Data")
    infer_ms = {m["model"]: m["infer_ms"] for m in said if m["type"] == "loaded"}
    assert infer_ms["warmsup"] == pytest.approx(50), "the first took half a second"
    assert infer_ms["data"] == 0, "nothing is known of data without a sample"


def test_its_answers_tell_how_much_memory_it_holds(start: Start) -> None:
    worker = start()
    worker.load("Hoards")
    before, during, after = (
        worker.ask("hoards", order)[0]["resident_mb"] for order in (b"0", b"64", b"release")
    )
    assert 64 <= during - before < 128
    assert after < during


def test_the_kernel_ends_it_before_the_server_when_memory_runs_out(start: Start) -> None:
    worker = start()
    worker.load("Length")
    ours, its = (int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in ("self", worker.process.pid))
    assert its == min(ours + OOM_SCORE, 1000)


def test_what_the_kernel_adds_up_for_it_ends_at_the_most_there_is() -> None:
    script = (
        "from pathlib import Path\nfrom inference.worker.main import raise_oom_score\n"
        "score = Path('/proc/self/oom_score_adj')\nscore.write_text('900')\n"
        "raise_oom_score()\nprint(score.read_text())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1000"


def test_a_crash_in_native_code_leaves_the_traceback_of_where_it_was(start: Start) -> None:
    worker = start()
    worker.load("Obeys")
    worker.give("obeys", b"segfault")
    status, err = worker.ended()
    assert status == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in err
    assert re.search(r"sample_models\.py\", line \d+ in segfault", err)


def test_numpy_in_a_worker_has_one_thread(start: Start) -> None:
    worker = start()
    worker.load("Threads")
    _, body = worker.ask("threads", b"x")
    assert body == b"1"


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_the_signals_of_a_terminal_are_ignored(start: Start, signal_number: int) -> None:
    worker = start()
    worker.load("Length")
    worker.process.send_signal(signal_number)
    header, _ = worker.ask("length", b"x")
    assert header["type"] == "answers"


def test_it_ends_in_silence_when_the_server_closes(start: Start) -> None:
    worker = start()
    worker.load("Length")
    worker.sock.close()
    assert worker.ended() == (0, "")


@pytest.mark.parametrize("size", [1, 5_000_000])
def test_it_ends_in_silence_when_the_server_goes_while_it_answers(start: Start, size: int) -> None:
    worker = start()
    worker.load("Text", "Patient")
    worker.give("patient", b"sleep 0.2")
    worker.give("text", b"x" * size)
    if size > 1:
        worker.receive()  # it is in the middle of the second answer, which fills the socket
        worker.sock.recv(1)
    worker.sock.close()
    assert worker.ended() == (0, "")


def test_it_ends_in_silence_when_the_server_goes_with_its_answers_unread(start: Start) -> None:
    worker = start()
    worker.load("Text")
    asked = b"".join(frame(messages.encode(batch("text", b"x")), [b"x"]))
    with contextlib.suppress(TimeoutError):
        worker.sock.settimeout(0.3)
        while True:
            worker.sock.sendall(asked)  # until it reads no more, for it cannot write
    worker.sock.close()
    assert worker.ended() == (0, "")


def test_it_ends_when_the_server_has_already_died(start: Start) -> None:
    worker = start(parent=1)  # whoever started it is not who told it to
    assert worker.ended() == (0, "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(7), 7),
        (np.str_("text"), "text"),
    ],
)
def test_numpy_values_become_plain(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


@pytest.mark.parametrize("value", [object(), {1}, b"", 1j])
def test_what_has_no_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        plain(value)


def test_texts_and_data_are_read() -> None:
    assert read_text(memoryview("Grüße".encode())) == "Grüße"
    assert read_data(memoryview(b'{"x": [1, null]}')) == {"x": [1, None]}


@pytest.mark.parametrize(
    ("read", "payload"), [(read_text, b"a\xff"), (read_data, b"{"), (read_data, b"[" * 10**6)]
)
def test_what_cannot_be_read_is_the_items_own_error(
    read: Callable[[memoryview], Any], payload: bytes
) -> None:
    with pytest.raises(ItemError) as caught:
        read(memoryview(payload))
    assert caught.value.code == "bad_item"


@pytest.mark.parametrize(("kind", "sample"), [("text", str), ("bytes", bytes), ("data", type(None))])
def test_there_is_something_to_warm_up_with(kind: Any, sample: type) -> None:
    assert isinstance(sample_item(kind, None), sample)


@pytest.mark.parametrize(("long_side", "size"), [(None, (640, 480)), (320, (320, 240)), (1, (1, 1))])
def test_the_image_to_warm_up_with_has_the_working_size(long_side: int | None, size: tuple[int, int]) -> None:
    image = sample_item("image", long_side)
    assert (image.width, image.height) == size
    assert image.pixels.shape == (size[1], size[0], 3)


def test_the_errors_of_the_largest_batch_fit_a_header() -> None:
    worst = ItemError("\U0001f600" * MAX_CODE * 2, "\U0001f600" * MAX_MESSAGE * 2)
    answers = messages.Answers(1.0, 1, [as_error(worst)] * 256, states=[MAX_STATE] * 256)
    assert len(messages.encode(answers)) < MAX_HEADER
    assert as_error(ItemError("code", "message")) == ItemFailure("code", "message")


def test_resident_memory_is_what_the_kernel_says() -> None:
    memory = Memory()
    try:
        assert memory.resident_mb() == pytest.approx(psutil.Process().memory_info().rss / 2**20, abs=4)
    finally:
        os.close(memory._fd)  # a worker keeps it all its life


def test_resident_memory_is_looked_at_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    try:
        before = memory.resident_mb()
        monkeypatch.setattr(worker_module, "LOOK_S", 3600.0)
        held = bytearray(b"x") * (64 << 20)
        assert memory.resident_mb() == before > 0
        monkeypatch.setattr(worker_module, "LOOK_S", 0.0)
        assert memory.resident_mb() - before > 32
        assert len(held) == 64 << 20
    finally:
        os.close(memory._fd)


class Raises:
    """Raises the error it was made with where it is turned into something else."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def tolist(self) -> list[Any]:
        raise self.error

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        raise self.error


class Table:
    """Has one row, and gives its two columns, as a data frame does."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["one", "other"])


class Lies:
    """Answers what the test puts in."""

    input = "bytes"
    max_batch = 4
    answers: Any = None

    def load(self) -> None:
        pass

    def predict(self, items: Sequence[bytes]) -> Any:
        return self.answers if b"lie" in items else [1] * len(items)


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (Table(), "bad_output"),
        (Raises(ZeroDivisionError()), "model_error"),
        (Raises(MemoryError()), "out_of_memory"),
        ([Raises(RuntimeError("a tensor that requires grad"))], "bad_output"),
        ([Raises(MemoryError())], "out_of_memory"),
        ([MemoryError()], "out_of_memory"),
    ],
)
def test_whatever_an_answer_raises_costs_its_item_alone(
    monkeypatch: pytest.MonkeyPatch, answers: Any, code: str
) -> None:
    monkeypatch.setattr(Lies, "answers", answers)
    model = LoadedModel(ModelSource("lies", f"{__name__}:Lies"))
    model.load()
    (given,) = model.answer([memoryview(b"lie")])
    assert isinstance(given, ItemError)
    assert given.code == code


@pytest.mark.parametrize(
    ("error", "code"), [(MemoryError(), "out_of_memory"), (RuntimeError("a defect"), "bad_item")]
)
def test_whatever_decoding_raises_costs_its_item_alone(error: Exception, code: str) -> None:
    def decode(payload: memoryview) -> bytes:
        if payload == b"bad":
            raise error
        return bytes(payload)

    model = LoadedModel(ModelSource("lies", f"{__name__}:Lies"))
    model._decode = decode
    bad, good = model.answer([memoryview(b"bad"), memoryview(b"good")])
    assert isinstance(bad, ItemError)
    assert (bad.code, good) == (code, Output(b"1"))


class Wordy:
    """Answers each item with so many bytes."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def answer(self, payloads: Sequence[memoryview], states: Sequence[memoryview]) -> list[Output]:
        return [Output(bytes(size)) for size in self.sizes]


def ask(*sizes: int) -> list[int | str]:
    """The lengths of the answers that fit, and the errors of the others."""
    model = cast(LoadedModel, Wordy(*sizes))
    asked = batch("wordy", *[b"x"] * len(sizes))
    memory = Memory()
    try:
        answers, outputs = answer(
            {ModelId("wordy", "1"): model}, asked, memoryview(bytes(len(sizes))), memory
        )
    finally:
        os.close(memory._fd)
    assert [len(output) for output in outputs] == [size for size in answers.items if isinstance(size, int)]
    return [size if isinstance(size, int) else size.message for size in answers.items]


def test_an_answer_may_be_as_long_as_clients_read_whatever_else_is_in_its_batch() -> None:
    assert ask(MAX_OUTPUT) == [MAX_OUTPUT]
    assert ask(9, MAX_OUTPUT, *[9] * 200) == [9, MAX_OUTPUT, *[9] * 200]
    too_long, fits = ask(MAX_OUTPUT + 1, 2)
    assert too_long == "the model's answer has 16,777,217 bytes; 16,777,216 is the most"
    assert fits == 2


def test_of_a_batch_whose_answers_are_too_long_together_the_longest_fail() -> None:
    most = MAX_ANSWER // MAX_OUTPUT
    *fits, crowded = ask(1, *[MAX_OUTPUT - 1] * most, MAX_OUTPUT)
    assert fits == [1, *[MAX_OUTPUT - 1] * most]
    assert "needs a smaller `max_batch`" in str(crowded)
