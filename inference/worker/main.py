"""The code in a worker process: load the models, then answer batches, one at a time.

Started as ``python -m inference.worker.main FD PARENT``; it talks only on the socket it inherits and ends when
that closes. This module imports nothing heavy: what a model needs comes with the model.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

from inference.model import MAX_OUTPUT, InputKind, ItemError, Model, ModelError, ModelSource, describe
from inference.wire.channel import DUMP_SIGNAL, MAX_ANSWER, Header, WorkerChannel
from inference.wire.features import Mode, missing
from inference.worker import sandbox

log = logging.getLogger("inference.worker.main")

PR_SET_PDEATHSIG = 1

MAX_CODE, MAX_MESSAGE = 64, 240
"""Longest error of an item, in characters: 256 of them in the worst JSON, 12 bytes each, fit `MAX_HEADER`."""

OOM_SCORE = 500
"""Added to the server's, out of 1000: when memory runs out, the kernel ends a worker, which is replaced."""

PAGE = os.sysconf("SC_PAGE_SIZE")

LOOK_S = 0.1
"""Seconds between looks at the memory: a leak does no harm in so short a time, and a look is a system call."""

Answer: TypeAlias = bytes | ItemError
"""One item's outputs as JSON, or why it has none."""


def die_with_parent(parent: int) -> None:
    """Ask Linux for SIGKILL when the server dies: a worker that hangs never reads the closed socket.

    Source: prctl(2); the check after it closes the race with a server that died before the call.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def volunteer_for_the_kernel() -> None:
    """Ask Linux to end this process rather than the server when memory runs out (proc_pid_oom_score_adj(5))."""
    with suppress(OSError):  # not Linux, or not permitted
        adjustment = Path("/proc/self/oom_score_adj")
        adjustment.write_text(str(min(int(adjustment.read_text()) + OOM_SCORE, 1000)))


class Memory:
    """Tells this process's resident memory, also once the sandbox is closed."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform == "linux" else -1
        self._looked = -LOOK_S
        self._resident_mb = 0

    def resident_mb(self) -> int:
        """MiB that are resident, as of the last `LOOK_S`; 0 if this is not Linux. Source: proc_pid_statm(5)."""
        now = time.monotonic()
        if self._fd >= 0 and now - self._looked >= LOOK_S:
            self._looked = now
            self._resident_mb = int(os.pread(self._fd, 256, 0).split()[1]) * PAGE >> 20
        return self._resident_mb


def plain(value: Any) -> Any:
    """Turn a numpy scalar or array into what JSON holds.

    Raises:
        TypeError: it is neither.
    """
    to_list = getattr(value, "tolist", None)
    if to_list is None:
        raise TypeError(f"a {type(value).__name__} is nothing JSON can hold")
    return to_list()


_outputs = json.JSONEncoder(allow_nan=False, default=plain)


class LoadedModel:
    """A model that is ready to answer, with the decoding its kind of item needs.

    Attributes:
        infer_ms: what its second inference took, without decoding: the first also pays for what happens once. 0
            where there is no sample to infer.
    """

    def __init__(self, source: ModelSource) -> None:
        self._model: Model = source.build()
        self.card = describe(source.name, self._model)
        self._decode = decoder(self.card.input, getattr(self._model, "long_side", None))
        self._model.load()
        if "cv2" in sys.modules:
            sys.modules["cv2"].setNumThreads(1)
        self.infer_ms = self._warm()

    def answer(self, payloads: Sequence[memoryview]) -> list[Answer]:
        """Answer a batch: as many answers as payloads, in their order.

        Whatever decoding, the model or its answers raise costs the item that they raise it for; only what is no
        `Exception`, as `SystemExit`, ends the worker.
        """
        answers: dict[int, Answer] = {}
        items: dict[int, Any] = {}
        for i, payload in enumerate(payloads):
            try:
                items[i] = self._decode(payload)
            except ItemError as exc:
                answers[i] = exc
            except MemoryError:
                answers[i] = out_of_memory()
            except Exception as exc:  # a decoder may raise what nobody has seen yet
                log.warning("an item for model %s cannot be decoded", self.card.name, exc_info=True)
                answers[i] = ItemError("bad_item", f"decoding the item failed with {type(exc).__name__}")
        if items:
            outputs = self._predict(list(items.values()))
            answers.update(zip(items, map(self._encode, outputs), strict=True))
        return [answers[i] for i in range(len(payloads))]

    def _predict(self, items: list[Any]) -> list[Any]:
        try:
            outputs = list(self._model.predict(items))
        except MemoryError:
            if len(items) == 1:
                return [out_of_memory()]
        except ItemError as exc:
            if len(items) == 1:
                return [exc]
        except Exception as exc:  # a user's code may raise anything, and it costs one item
            if len(items) == 1:
                log.warning("model %s failed on an item", self.card.name, exc_info=True)
                return [ItemError("model_error", f"the model failed with {type(exc).__name__}")]
        else:
            if len(outputs) == len(items):
                return outputs
            log.warning("model %s: %d answers to %d items", self.card.name, len(outputs), len(items))
            return [ItemError("bad_output", "the model's answers do not match its items")] * len(items)
        # something in the batch is bad: one by one, so that it alone fails
        return [output for item in items for output in self._predict([item])]

    def _encode(self, output: Any) -> Answer:
        if isinstance(output, ItemError):
            return output
        if isinstance(output, MemoryError):
            return out_of_memory()
        if isinstance(output, Exception):
            return ItemError("model_error", f"the model failed with {type(output).__name__}")
        try:
            return _outputs.encode(output).encode()
        except MemoryError:
            return out_of_memory()
        except Exception:  # the encoder's are TypeError and ValueError, but `tolist` may raise anything
            log.warning("model %s answered what JSON cannot hold", self.card.name, exc_info=True)
            return ItemError("bad_output", "the model's answer is nothing JSON can hold")

    def _warm(self) -> float:
        """Run twice, so that no client waits for what happens only the first time; what the second took."""
        sample = sample_item(self.card.input, getattr(self._model, "long_side", None))
        if sample is None:
            return 0.0
        self._predict([sample])
        started = time.perf_counter()
        self._predict([sample])
        return (time.perf_counter() - started) * 1e3


def out_of_memory() -> ItemError:
    """Say that an item does not fit into the worker's memory; the server replaces the worker."""
    return ItemError("out_of_memory", "the item needs more memory than a worker has")


def decoder(kind: InputKind, long_side: int | None) -> Callable[[memoryview], Any]:
    """Give the function that turns a payload into what `predict` takes."""
    if kind == "image":
        from inference.worker import images  # noqa: PLC0415  # imports OpenCV, which other models do without

        return lambda payload: images.decode(payload, long_side)
    return {"text": read_text, "data": read_data}.get(kind, bytes)


def read_text(payload: memoryview) -> str:
    """Read a text item.

    Raises:
        ItemError: ``bad_item``, it is not UTF-8.
    """
    try:
        return str(payload, "utf-8")
    except UnicodeDecodeError as exc:
        raise ItemError("bad_item", f"the text is not UTF-8 from byte {exc.start} on") from None


def read_data(payload: memoryview) -> Any:
    """Read a data item.

    Raises:
        ItemError: ``bad_item``, it is no JSON, or nested more deeply than Python can read.
    """
    try:
        return json.loads(bytes(payload))
    except (ValueError, RecursionError):
        raise ItemError("bad_item", "the data is no JSON, or nested too deeply") from None


def sample_item(kind: InputKind, long_side: int | None) -> Any:
    """Make a small valid item to warm up with; None where only the model's author could."""
    if kind == "image":
        import numpy as np  # noqa: PLC0415  # as above

        from inference.worker import images  # noqa: PLC0415

        width = long_side or 640
        height = max(1, width * 3 // 4)
        return images.Image(np.zeros((height, width, 3), np.uint8), width, height)
    return {"text": "warm up", "bytes": b"\0"}.get(kind)


def load(channel: WorkerChannel, sources: Sequence[ModelSource]) -> dict[str, LoadedModel]:
    """Load each model, saying which and what failed, so that the server knows whose a death was."""
    loaded: dict[str, LoadedModel] = {}
    for source in sources:
        channel.send({"type": "loading", "model": source.name})
        try:
            loaded[source.name] = LoadedModel(source)
        except ModelError as exc:
            channel.send({"type": "failed", "model": source.name, "reason": str(exc)})
        except Exception as exc:  # a user's code may raise anything
            log.exception("model %s does not load", source.name)
            # clients read the reason, and an exception's own words may hold paths
            reason = f"loading it failed with {type(exc).__name__}; the server's log has the traceback"
            channel.send({"type": "failed", "model": source.name, "reason": reason})
    return loaded


def code_of(sources: Sequence[ModelSource]) -> list[str]:
    """Give the folders of the models' own packages, or the files of modules that are in none."""
    places: list[str] = []
    for source in sources:
        top = sys.modules.get(source.reference.partition(":")[0].partition(".")[0])
        places += getattr(top, "__path__", None) or filter(None, [getattr(top, "__file__", None)])
    return places


def begin(channel: WorkerChannel, setup: Header, memory: Memory) -> dict[str, LoadedModel]:
    """Load the models, close the sandbox behind them, and say which are ready."""
    sources = [ModelSource(**source) for source in setup["models"]]
    mode: Mode = setup["sandbox"]
    if setup["memory_mb"]:
        sandbox.limit_memory(setup["memory_mb"])
    if mode != "off":
        sandbox.separate()
    models = load(channel, sources)
    if mode != "off":
        channel.send({"type": "sealing"})  # a death from here on is no model's
        features = sandbox.seal(code_of(sources))
        channel.send({"type": "sandbox", "features": features})
        if mode == "require" and (lacking := missing(features)):
            reason = f"its sandbox is not whole: {lacking}"
            for name in models:
                channel.send({"type": "failed", "model": name, "reason": reason})
            models = {}
    for model in models.values():
        channel.send({"type": "loaded", "card": asdict(model.card), "infer_ms": model.infer_ms})
    channel.send({"type": "ready", "resident_mb": memory.resident_mb()})
    return models


def answer(
    models: dict[str, LoadedModel], header: Header, body: memoryview | None
) -> tuple[Header, list[bytes]]:
    """Answer one batch message: per item the length of its outputs in the body, or its error.

    Args:
        body: the payloads; None where there was no memory for them.
    """
    started = time.perf_counter()
    lengths = header["lengths"]
    answers: list[Answer]
    if body is None:
        answers = [out_of_memory()] * len(lengths)
    else:
        ends = accumulate(lengths)
        payloads = [body[end - length : end] for length, end in zip(lengths, ends, strict=True)]
        answers = fitting(models[header["model"]].answer(payloads))
    items = [len(a) if isinstance(a, bytes) else as_error(a) for a in answers]
    outputs = [a for a in answers if isinstance(a, bytes)]
    infer_ms = (time.perf_counter() - started) * 1e3
    return {"type": "answers", "infer_ms": infer_ms, "items": items}, outputs


def fitting(answers: Sequence[Answer]) -> list[Answer]:
    """Put an error in the place of what is over `MAX_OUTPUT`, and of the largest that have no room in `MAX_ANSWER`.

    The smaller ones come first, so that none lacks room because of a larger neighbour.
    """
    fits = list(answers)
    room = MAX_ANSWER
    for size, i in sorted((len(answer), i) for i, answer in enumerate(answers) if isinstance(answer, bytes)):
        if size > MAX_OUTPUT:
            words = f"the model's answer has {size:,} bytes; {MAX_OUTPUT:,} is the most"
            fits[i] = ItemError("bad_output", words)
        elif size > room:
            words = f"the model's answers to a batch have over {MAX_ANSWER:,} bytes: it needs a smaller `max_batch`"
            fits[i] = ItemError("bad_output", words)
        else:
            room -= size
    return fits


def as_error(error: ItemError) -> dict[str, str]:
    """Write an item's error for the header, cut to what a header can hold of every item in a batch."""
    return {"code": str(error.code)[:MAX_CODE], "message": str(error)[:MAX_MESSAGE]}


def main(fd: int, parent: int) -> None:
    """Serve the socket `fd` until it closes."""
    # its life hangs on the socket alone: a Ctrl-C or a SIGTERM to the group must not cut a drain short
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(parent)
    volunteer_for_the_kernel()
    faulthandler.enable()  # a segmentation fault leaves its traceback in the server's log, and so does a hang
    faulthandler.register(DUMP_SIGNAL)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    memory = Memory()
    channel = WorkerChannel(socket.socket(fileno=fd))
    message = channel.receive()
    if message is None:
        return
    models = begin(channel, message[0], memory)
    gc.freeze()  # libraries and models stay: a full collection between two items need not look at them
    while (message := channel.receive()) is not None:
        header, outputs = answer(models, *message)
        channel.send({**header, "resident_mb": memory.resident_mb()}, outputs)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]))
    except ConnectionError:
        sys.exit(0)  # the server went while an answer was under way
