"""Models for tests: each does one thing, mostly wrong. They run in workers; only their names are used here."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.model import ItemError, StatefulItem
from inference.wire.framing import MAX_ANSWER, MAX_HEADER, PREFIX
from inference.wire.worker_channel import WorkerChannel


class Length:
    """Answers how long an item is.

    This line is no part of the description.
    """

    input = "bytes"
    max_batch = 8

    def load(self) -> None:
        pass

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        return [{"length": len(item), "batch": len(items)} for item in items]


class Obeys(Length):
    """Does what the item says, to itself or to its process; its time ends no item of a slow machine's."""

    timeout_ms = 60_000

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        return [self.obey(item.decode()) for item in items]

    def obey(self, order: str) -> Any:
        if order == "\0":
            return "warm"
        what, _, argument = order.partition(" ")
        return getattr(self, what)(*argument.split())

    def answer(self, *words: str) -> Any:
        return {"answer": words, "pid": os.getpid()}

    def sleep(self, seconds: str) -> Any:
        time.sleep(float(seconds))
        return {"pid": os.getpid()}

    def stay(self, pid: str) -> Any:
        """Answer at once, but not in the process of that number: it is held there."""
        if int(pid) == os.getpid():
            time.sleep(600)
        return {"pid": os.getpid()}

    def wait(self) -> Any:
        """Wait for SIGUSR2, and say before that it is waited for."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        print("waits")
        signal.sigwait({signal.SIGUSR2})
        return {"pid": os.getpid()}

    def fail(self, error: str = "ValueError") -> None:
        raise {"ValueError": ValueError, "MemoryError": MemoryError}[error]("with a secret in its words")

    def refuse(self, code: str = "bad_word", length: str = "10") -> None:
        raise ItemError(code, "x" * int(length))

    def give_refusal(self) -> Any:
        return ItemError("given_back", "returned, not raised")

    def give_error(self) -> Any:
        return KeyError("returned")

    def exit(self, status: str) -> None:
        os._exit(int(status))

    def quit(self) -> None:
        sys.exit(3)

    def segfault(self) -> None:
        ctypes.string_at(0)

    def spin(self) -> None:
        print("spins")
        while True:
            pass

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def hang(self) -> None:
        print("hangs")
        while True:  # in native code, which a signal interrupts
            ctypes.CDLL(None).sleep(60)

    def outlive(self) -> None:
        ctypes.CDLL(None).prctl(1, 0)  # PR_SET_PDEATHSIG
        self.spin()

    def interrupt(self) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return "unmoved"

    def print(self, words: str, times: str = "1") -> Any:
        for _ in range(int(times)):
            print(words)
        return "printed"

    def flood(self, megabytes: str) -> Any:
        """Print lines of 64 characters, on both outputs in turn: so much, and then on until SIGUSR2 comes."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        lines = (b"x" * 63 + b"\n") * 1024
        n = 0
        while n < int(megabytes) * 16 or signal.SIGUSR2 not in signal.sigpending():
            sent = 0
            while sent < len(lines):
                sent += os.write(1 + n % 2, lines[sent:])
            n += 1
        return {"pid": os.getpid(), "lines": n * 1024}

    def poison(self, name: str) -> None:
        print("poison", name)
        os._exit(1)

    def allocate(self, megabytes: str) -> Any:
        return len(bytes(int(megabytes) << 20))  # zeros that the kernel need not write

    def fill(self, megabytes: str) -> Any:
        return len(bytearray(b"x") * (int(megabytes) << 20))

    def imported(self, module: str) -> Any:
        return module in sys.modules

    def write(self, what: str) -> Any:
        """Write to the worker's own socket, in place of what the worker would."""
        (fd,) = (int(fd.name) for fd in Path("/proc/self/fd").iterdir() if _is_socket(fd))
        sock = socket.socket(fileno=os.dup(fd))
        if what == "close":
            sock.shutdown(socket.SHUT_RDWR)
        elif what == "garbage":
            sock.sendall(b"\xff" * 100)
        elif what == "half":
            sock.sendall(PREFIX.pack(10, 10) + b"{")
            os._exit(0)
        elif what == "long-header":
            sock.sendall(PREFIX.pack(MAX_HEADER + 1, 0))
        elif what == "long-body":
            sock.sendall(PREFIX.pack(2, MAX_ANSWER + 1) + b"{}")
        else:
            WorkerChannel(sock).send(what.encode())
        time.sleep(0.2)
        return "written"


def _is_socket(fd: Path) -> bool:
    try:
        return fd.readlink().name.startswith("socket:")
    except FileNotFoundError:  # the listing's own
        return False


class Patient(Obeys):
    """Obeys, one item at a time."""

    max_batch = 1


class Twin(Obeys):
    """Obeys, one item at a time as well."""

    max_batch = 1


class Hasty(Twin):
    """Obeys, but may take no longer than a slow machine may for anything: for items that never end."""

    timeout_ms = 500


class WrongCount(Length):
    """Answers one item too few, unless it is warmed up."""

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        return [0] * (len(items) - (items[0] != b"\0"))


class NoSequence(Length):
    """Answers with nothing that has a length, unless it is warmed up."""

    def predict(self, items: Sequence[bytes], /) -> Any:
        return [0] * len(items) if items[0] == b"\0" else None


class Changes(Length):
    """Changes the list that it was given, and then answers the lengths of its items."""

    def __init__(self, *, how: str) -> None:
        self.how = how

    def predict(self, items: list[bytes], /) -> Sequence[Any]:
        lengths = [len(item) for item in items]
        if self.how == "pop":
            while items:
                items.pop()
        elif self.how == "clear":
            items.clear()
        elif self.how == "pad":
            items += [b""] * (8 - len(items))
        else:
            items[:] = [b"nothing"]
        return lengths


class Returns(Length):
    """Returns what a test sets, as it is."""

    made: Any = None
    max_batch = 4

    def predict(self, items: list[Any], /) -> Any:
        return self.made(items) if self.made else [0] * len(items)


class Spoils(Returns):
    """Changes each item, and fails on one of several."""

    input = "data"

    def predict(self, items: list[Any], /) -> Any:
        taken = [item.pop("n") for item in items]
        if len(items) > 1:
            raise ValueError("not these")
        return taken


class AsyncPredict(Length):
    """Has a coroutine for a method."""

    async def predict(self, items: Sequence[bytes], /) -> Any:  # type: ignore[override]
        return [0] * len(items)


class AsyncLoad(Length):
    """Has a coroutine for a method."""

    async def load(self) -> None:  # type: ignore[override]
        pass


class Yields(Length):
    """Is a generator."""

    def predict(self, items: Sequence[bytes], /) -> Any:
        yield from items


class OneItem(Length):
    """Takes more than one argument."""

    def predict(self, item: bytes, size: int, /) -> Any:  # type: ignore[override]
        return [size]


class LoadTakes(Length):
    """Cannot be loaded without a path."""

    def load(self, path: str) -> None:  # type: ignore[override]
        pass


class WholeBatch(Length):
    """Answers a batch with one answer, as if it were one item."""

    def predict(self, items: Sequence[bytes], /) -> Any:
        return [sum(map(len, items))]


class Misspelt(Length):
    """Has a mistake that shows when it is called."""

    def predict(self, items: Sequence[bytes], /) -> Any:
        return [length(item) for item in items]  # type: ignore[name-defined]  # noqa: F821


class RefusesOption(Length):
    """Refuses the value of its option."""

    def __init__(self, *, factor: int) -> None:
        raise ValueError(f"factor must be odd, not {factor}")


class NeedsLibrary(Length):
    """Imports what is not there when it loads."""

    def load(self) -> None:
        import no_such_library  # type: ignore[import-not-found]  # noqa: F401


class Outputs(Length):
    """Answers something JSON may or may not hold."""

    def load(self) -> None:
        import numpy as np

        loop: list[Any] = []
        loop.append(loop)
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        self.outputs = {
            b"nan": {"score": float("nan")},
            b"infinity": np.array([1.0, np.inf]),
            b"object": object(),
            b"bytes": b"raw",
            b"set": {1},
            b"keys": {(1, 2): 3},
            b"circular": loop,
            b"deep": deep,
            b"half a pair": "\ud800",
            b"null": None,
            b"text": "Grüße",
            b"scalars": [np.float32(0.5), np.int64(-7), np.bool_(True)],
            b"array": np.arange(6, dtype=np.uint8).reshape(2, 3),
            b"zero": np.array(2.5),
            b"tuple": (1, "two"),
            b"empty": np.zeros((0, 4)),
        }

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        return [self.outputs[item] for item in items]


class Array(Length):
    """Answers all items with one numpy array."""

    def predict(self, items: Sequence[bytes], /) -> Any:
        import numpy as np

        return np.array([len(item) for item in items])


class Text(Length):
    """Answers the text itself."""

    input = "text"

    def predict(self, items: Sequence[str], /) -> Sequence[Any]:
        return list(items)


class Data(Text):
    """Answers the data itself."""

    input = "data"


class Quotes(Data):
    """Refuses every item, in words that quote it."""

    def predict(self, items: Sequence[Any], /) -> Sequence[Any]:
        return [ItemError("quoted", f"what is {item}") for item in items]


class Threads(Length):
    """Multiplies matrices and answers how many threads the worker has and may have."""

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        import numpy as np

        square = np.ones((400, 400))
        for _ in range(5):
            square = square @ square / 400
        return [sum(1 for _ in Path("/proc/self/task").iterdir())] * len(items)


class LoadRaises(Length):
    """Cannot be loaded."""

    def load(self) -> None:
        raise OSError("no weights in /home/someone/secret")


class LoadHangs(Length):
    """Never comes back from loading."""

    def load(self) -> None:
        ctypes.CDLL(None).sleep(60)


class SealExits(Length):
    """Lets its process end when its sandbox is closed."""

    def load(self) -> None:
        sys.modules["inference.worker.sandbox"].seal = lambda _: os._exit(9)  # type: ignore[attr-defined]


class LoadExits(Length):
    """Takes its process with it whenever it is loaded, and leaves a mark each time."""

    def __init__(self, marks: str) -> None:
        self.marks = Path(marks)

    def load(self) -> None:
        with self.marks.open("a") as file:
            file.write("x")
        os._exit(7)


class LoadExitsOnce(LoadExits):
    """Takes its process with it the first time that it is loaded."""

    def load(self) -> None:
        if not self.marks.exists():
            super().load()


class LoadsOnce(LoadExits):
    """Can be loaded once, and then no more; an item can end its process."""

    max_batch = 1

    def load(self) -> None:
        if self.marks.exists():
            raise OSError("gone")
        self.marks.touch()

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        if items == [b"exit"]:
            os._exit(1)
        return super().predict(items)


class Repaired(LoadExits):
    """Cannot be loaded as long as a file is there; leaves the time of each attempt in another."""

    def __init__(self, marks: str, cause: str, how: str = "raise") -> None:
        super().__init__(marks)
        self.cause = Path(cause)
        self.how = how

    def load(self) -> None:
        with self.marks.open("a") as file:
            file.write(f"{time.monotonic()}\n")
        if self.cause.exists():
            if self.how == "exit":
                os._exit(7)
            raise OSError("the weights are not there yet")


class Libraries(Length):
    """Computes with OpenCV, and answers how many threads OpenCV may have."""

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        import cv2
        import numpy as np

        for _ in range(20):
            cv2.GaussianBlur(np.ones((480, 640, 3), np.uint8), (31, 31), 5)
        return [cv2.getNumThreads()] * len(items)

    def load(self) -> None:
        import cv2  # noqa: F401  # a worker limits what is imported when its models are loaded


class Drifts(Length):
    """Takes 10 ms for an item, and for every tenth ten times as long."""

    max_batch = 1
    count = 0

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        self.count += 1
        time.sleep(0.01 if self.count % 10 else 0.1)
        return super().predict(items)


class Lingers(Patient):
    """Starts a thread that its process waits for, so that it does not end when its socket closes."""

    def load(self) -> None:
        threading.Thread(target=threading.Event().wait).start()


class WarmingFails(Length):
    """Fails on the first item, which is the one that warms it up."""

    warm = False

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        if not self.warm:
            self.warm = True
            raise ValueError("cold")
        return super().predict(items)


class WarmsUp(Length):
    """Takes half a second for the first item, and a tenth of that for every other, by a clock of its own."""

    warm = False
    clock = 0.0

    def load(self) -> None:
        time.perf_counter = lambda: self.clock  # what the worker measures with

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        self.clock += 0.05 if self.warm else 0.5
        self.warm = True
        return super().predict(items)


class Hoards(Length):
    """Takes as many MiB of memory as an item says and keeps them, until one says to release them."""

    max_batch = 1

    def load(self) -> None:
        self.kept: list[bytearray] = []
        sys.modules["__main__"].LOOK_S = 0.0  # the worker then tells its memory anew with every answer

    def predict(self, items: Sequence[bytes], /) -> Sequence[Any]:
        if items == [b"release"]:
            self.kept.clear()
        elif items != [b"\0"]:
            self.kept.append(bytearray(b"x") * (int(items[0]) << 20))
        return [{"kept": len(self.kept), "pid": os.getpid()}] * len(items)


class Options(Length):
    """Takes options."""

    input = "bytes"

    def __init__(self, *, factor: int) -> None:
        self.version = str(factor)


class Counts:
    """Counts the items of each stream in its state; an item says what else to do."""

    input = "text"
    max_batch = 8
    stateful = True

    def load(self) -> None:
        pass

    def predict(self, items: Sequence[StatefulItem], /) -> Sequence[Any]:
        return [self.count(item.value, item.state) for item in items]

    def count(self, order: str, state: Any) -> Any:
        what, _, argument = order.partition(" ")
        n = 1 if state is None else state["n"] + 1 if isinstance(state, dict) else len(state) + 1
        if what == "fail":
            raise ItemError("failed", "x")
        if what == "give":
            return ItemError("given", "x")
        if what == "alone":
            return {"n": n}
        return {"n": n}, {
            "bytes": lambda: b"x" * n,
            "forget": lambda: None,
            "object": object,
            "pad": lambda: {"n": n, "pad": "x" * int(argument)},
        }.get(what, lambda: {"n": n})()


class Versioned(Length):
    """Has the version that a file holds when it is loaded."""

    def __init__(self, *, file: str) -> None:
        self.version = Path(file).read_text("utf-8")


class NoPredict:
    """Has no predict."""

    input = "bytes"

    def load(self) -> None:
        pass


class NoInput:
    """Does not say what it takes."""

    def load(self) -> None:
        pass

    def predict(self, items: Sequence[Any], /) -> Sequence[Any]:
        return items


NOT_A_CLASS = 5
