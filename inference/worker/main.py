"""The program of a worker process: load the models, then answer batches, one at a time.

Started as ``python -m inference.worker.main FD PARENT``; it talks only on the socket it inherits and ends when
that closes. This module imports nothing heavy: what a model needs comes with the model.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from inference.model import CODE_FAULTS, MAX_OUTPUT, ItemError, ModelError, ModelId, ModelSource, fault_of
from inference.wire import messages
from inference.wire.features import missing
from inference.wire.framing import MAX_ANSWER
from inference.wire.messages import MAX_CODE, MAX_MESSAGE, BatchHeader, ItemFailure
from inference.wire.worker_channel import DUMP_SIGNAL, WorkerChannel
from inference.worker import sandbox
from inference.worker.loaded_model import Answer, LoadedModel, out_of_memory
from inference.worker.outputs import Output

log = logging.getLogger("inference.worker.main")

PR_SET_PDEATHSIG = 1

OOM_SCORE = 500
"""Added to the server's, out of 1000: when memory runs out, the kernel ends a worker, which is replaced."""

PAGE = os.sysconf("SC_PAGE_SIZE")

LOOK_S = 0.1
"""Seconds between looks at the memory: a leak does no harm in so short a time, and a look is a system call."""


def die_with_parent(parent: int) -> None:
    """Ask Linux for SIGKILL when the server dies: a worker that hangs never reads the closed socket.

    Source: prctl(2); the check after it closes the race with a server that died before the call.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def raise_oom_score() -> None:
    """Ask Linux to end this process rather than the server when memory runs out (proc_pid_oom_score_adj(5))."""
    with suppress(OSError):  # not Linux, or not permitted
        adjustment = Path("/proc/self/oom_score_adj")
        adjustment.write_text(str(min(int(adjustment.read_text()) + OOM_SCORE, 1000)))


class Memory:
    """Tells this process's resident memory, also once the sandbox is closed."""

    def __init__(self) -> None:
        self._fd = -1
        if sys.platform == "linux":
            try:
                self._fd = os.open("/proc/self/statm", os.O_RDONLY)
            except OSError as exc:  # a container without /proc
                log.warning("resident memory is unknown, so no growth is noticed: %s", exc)
        self._looked = -LOOK_S
        self._resident_mb = 0

    def resident_mb(self) -> int:
        """MiB that are resident, as of the last `LOOK_S`; 0 without Linux's /proc. Source: proc_pid_statm(5)."""
        now = time.monotonic()
        if self._fd >= 0 and now - self._looked >= LOOK_S:
            self._looked = now
            self._resident_mb = int(os.pread(self._fd, 256, 0).split()[1]) * PAGE >> 20
        return self._resident_mb


def send(channel: WorkerChannel, message: messages.FromWorker, body: Sequence[bytes] = ()) -> None:
    """Send the server a message."""
    channel.send(messages.encode(message), body)


def load(channel: WorkerChannel, sources: Sequence[ModelSource]) -> dict[ModelId, LoadedModel]:
    """Load each model, saying which and what failed, so that the server knows whose a death was."""
    loaded: dict[ModelId, LoadedModel] = {}
    for source in sources:
        send(channel, messages.Importing(source.name))
        try:
            model = LoadedModel(source)
        except Exception as exc:  # noqa: BLE001  # a user's code may raise anything; it is logged
            send(channel, failure(source, exc))
            continue
        description = messages.short(model.card.description, messages.MAX_DESCRIPTION)
        send(channel, messages.Described(replace(model.card, description=description)))
        try:
            model.load()
        except Exception as exc:  # noqa: BLE001  # as above
            send(channel, failure(source, exc))
        else:
            loaded[model.card.id] = model
    return loaded


def failure(source: ModelSource, error: Exception) -> messages.ModelFailed:
    """Say why a model does not load, in words that clients may read."""
    permanent = isinstance(error, (ModelError, *CODE_FAULTS))
    if isinstance(error, ModelError):
        if error.__cause__ is not None:
            log.error("model %s does not load", source.name, exc_info=error)
        reason = str(error)
    else:
        log.error("model %s does not load", source.name, exc_info=error)
        what = fault_of(error) if permanent else type(error).__name__
        reason = f"loading it failed with {what}; the server's log has the traceback"
    return messages.ModelFailed(source.name, messages.short(reason, messages.MAX_REASON), permanent)


def code_of(sources: Sequence[ModelSource]) -> list[str]:
    """Give the folders of the models' own packages, or the files of modules that are in none."""
    places: list[str] = []
    for source in sources:
        top = sys.modules.get(source.reference.partition(":")[0].partition(".")[0])
        places += getattr(top, "__path__", None) or filter(None, [getattr(top, "__file__", None)])
    return places


def begin(
    channel: WorkerChannel, setup: messages.Setup, memory: Memory, parent: int
) -> dict[ModelId, LoadedModel]:
    """Load the models, close the sandbox behind them, and say which are ready."""
    sources = [
        ModelSource(model.name, model.reference, msgspec.json.decode(model.options)) for model in setup.models
    ]
    if setup.memory_mb:
        try:
            sandbox.limit_memory(setup.memory_mb)
        except OSError as exc:  # a container may forbid it
            log.warning("memory is not limited to worker_memory_mb: %s", exc.strerror)
    separated = setup.sandbox != "off" and sandbox.separate()
    models = load(channel, sources)
    die_with_parent(parent)  # again, for a model may have cleared it; from the sealing on none can
    send(channel, messages.Sealing())
    if setup.sandbox != "off":
        features = sandbox.seal(code_of(sources), separated=separated)
        send(channel, messages.Sandbox(features))
        for loaded in models.values():
            loaded.sandbox = features
        if setup.sandbox == "require" and (lacking := missing(features)):
            reason = f"its sandbox is not whole: {lacking}"
            for model in models:
                send(channel, messages.ModelFailed(model.name, reason))
            models = {}
    for held, loaded in models.items():
        send(channel, messages.Loaded(held.name, loaded.infer_ms))
    send(channel, messages.Ready(memory.resident_mb()))
    return models


def answer(
    models: Mapping[ModelId, LoadedModel], batch: BatchHeader, body: memoryview | None, memory: Memory
) -> tuple[messages.Answers, list[bytes]]:
    """Answer a batch: the header, and the parts of its body.

    Args:
        body: the states and payloads; None where there was no memory for them.
    """
    started = time.perf_counter()
    answers: list[Answer]
    if body is None:
        answers = [out_of_memory()] * len(batch.lengths)
    else:
        parts = list(messages.cut(body, [*batch.states, *batch.lengths]))
        states, payloads = parts[: len(batch.states)], parts[len(batch.states) :]
        answers = fitting(models[ModelId(batch.model, batch.version)].answer(payloads, states))
    outputs = [a for a in answers if isinstance(a, Output)]
    items = [len(a.text) if isinstance(a, Output) else as_error(a) for a in answers]
    new = [a.state if isinstance(a, Output) else b"" for a in answers] if batch.states else []
    infer_ms = (time.perf_counter() - started) * 1e3
    header = messages.Answers(infer_ms, memory.resident_mb(), items, states=list(map(len, new)))
    return header, [*new, *(output.text for output in outputs)]


def fitting(answers: Sequence[Answer]) -> list[Answer]:
    """Put an error in the place of what is over `MAX_OUTPUT`, and of the largest that have no room in `MAX_ANSWER`.

    The smaller ones come first, so that none lacks room because of a larger neighbour.
    """
    fits = list(answers)
    room = MAX_ANSWER
    sizes = [
        (len(answer.text), len(answer.state), i)
        for i, answer in enumerate(answers)
        if isinstance(answer, Output)
    ]
    for size, state, i in sorted(sizes):
        if size > MAX_OUTPUT:
            words = f"the model's answer has {size:,} bytes; {MAX_OUTPUT:,} is the most"
            fits[i] = ItemError("bad_output", words)
        elif size + state > room:
            words = f"the model's answers to a batch have over {MAX_ANSWER:,} bytes: it needs a smaller `max_batch`"
            fits[i] = ItemError("bad_output", words)
        else:
            room -= size + state
    return fits


def as_error(error: ItemError) -> ItemFailure:
    """Write an item's error for the header, cut to what a header can hold of every item in a batch."""
    return ItemFailure(messages.short(str(error.code), MAX_CODE), messages.short(str(error), MAX_MESSAGE))


def main(fd: int, parent: int) -> None:
    """Serve the socket `fd` until it closes."""
    # its life hangs on the socket alone: a Ctrl-C or a SIGTERM to the group must not cut a drain short
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(parent)
    raise_oom_score()
    faulthandler.enable()  # a segmentation fault leaves its traceback in the server's log, and so does a hang
    faulthandler.register(DUMP_SIGNAL)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    memory = Memory()
    channel = WorkerChannel(socket.socket(fileno=fd))
    models: dict[ModelId, LoadedModel] = {}
    while (received := channel.receive()) is not None:
        message = messages.read_to_worker(received[0])
        if isinstance(message, messages.Setup):
            models = begin(channel, message, memory, parent)
            gc.freeze()  # libraries and models stay: a full collection between two items need not look at them
        else:
            send(channel, *answer(models, message, received[1], memory))


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]))
    except ConnectionError:
        sys.exit(0)  # the server went while an answer was under way
