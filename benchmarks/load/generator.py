"""A load, and the process that puts it on a server, as the benchmark that starts it sees them.

The process connects, says ``ready``, waits for ``go``, says ``done`` when everything is answered, and then gives
its outcome. What happens inside it is in `benchmarks.load.load_process`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, Self, TypeAlias

from benchmarks.failures import RunFailed
from benchmarks.load.accounts import Account
from benchmarks.load.arrivals import Arrivals
from benchmarks.load.histograms import Latencies
from benchmarks.load.subprocesses import Child

Transport: TypeAlias = Literal["stream", "websocket", "http"]

CONNECT_S = 60.0
"""Far above what 64 handshakes take: only a server that does not answer is given up."""

LATE_S = 60.0
"""How long after its last item a run may still wait for answers, before it is given up."""

OUTCOME_S = 60.0
"""How long its process may then take to settle its books; it takes a second for some 100,000 items."""


@dataclass(frozen=True, slots=True)
class Load:
    """Streams of one kind.

    Attributes:
        url: the server's address; of a plain transport the endpoint's complete one.
        payload: a name in `PAYLOADS`; a stream sends its items in turn.
        rate: items per second of each stream, sent on a schedule whatever is answered. None for a closed loop,
            which sends the next item when one is answered.
        window: items in flight of a closed loop.
        seconds: how long items are sent.
        count: items of each stream of a closed loop, in place of a time.
        seed: of the schedules; the same seed makes the same ones.
        transport: `stream` is this project's protocol. `websocket` is a plain one, whose n-th message answers the
            n-th item. `http` posts each item by itself: any 2xx is its result, any other
            status its error, and in an open loop nothing waits for a connection.
        kept: whether posts use connections again; else each has one of its own.
        arrivals: how an open loop's items follow each other.
        processes: how many of them share the streams.
        first: the number of the first stream, where a process has only a share of them.
    """

    url: str
    model: str
    payload: str
    streams: int
    seconds: float
    policy: str = "queue"
    rate: float | None = None
    window: int = 1
    count: int | None = None
    seed: int = 1
    transport: Transport = "stream"
    kept: bool = True
    arrivals: Arrivals = "steady"
    processes: int = 1
    first: int = 0

    @property
    def address(self) -> str:
        """Where a stream connects to."""
        if self.transport != "stream":
            return self.url
        path = f"{self.url}/v2/models/{self.model}/stream?policy={self.policy}"
        return path if self.rate else f"{path}&window={self.window}"

    @property
    def measured_s(self) -> float:
        """Until when an item has to be due to be measured, in seconds since the start of the run.

        The last frame of a camera waits for its turn without a newer one that replaces it, as no other does: under
        overload it gets old because the run ends, not because the server is late.
        """
        if self.policy == "latest" and self.arrivals == "steady" and self.rate:
            return self.seconds - 1 / self.rate
        return self.seconds

    def shares(self) -> list[Load]:
        """Divide the streams among the processes, as evenly as they go."""
        ends = [self.streams * number // self.processes for number in range(self.processes + 1)]
        return [
            replace(self, streams=end - start, first=self.first + start, processes=1)
            for start, end in pairwise(ends)
            if end > start
        ]


@dataclass(slots=True)
class Outcome:
    """What one generator's process has to say after a run; `Latencies` take seconds and give milliseconds.

    Attributes:
        accounts: of its streams.
        latency: how long every item waited since it was due (`Account.waits`).
            Neither this nor `slots` has what was due after the load's `measured_s`.
        lag: by how much items went out late by the generator's own fault, in an open loop.
        loop: by how much the process' event loop was late for its own timer.
        slots: how long the results took since they were due, by the slot of a timeline in which they came.
    """

    accounts: list[Account]
    latency: Latencies = field(default_factory=Latencies)
    lag: Latencies = field(default_factory=Latencies)
    loop: Latencies = field(default_factory=Latencies)
    slots: dict[int, Latencies] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Write it for `from_json`."""
        return {
            "accounts": [asdict(account) for account in self.accounts],
            "latency": self.latency.encode(),
            "lag": self.lag.encode(),
            "loop": self.loop.encode(),
            "slots": {str(slot): latencies.encode() for slot, latencies in self.slots.items()},
        }

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Outcome:
        """Read what the process wrote."""
        return cls(
            [Account(**account) for account in body["accounts"]],
            Latencies.decode(body["latency"]),
            Latencies.decode(body["lag"]),
            Latencies.decode(body["loop"]),
            {int(slot): Latencies.decode(text) for slot, text in body["slots"].items()},
        )


class Generator:
    """A load's process; a context, at whose end it is gone."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._child = Child("benchmarks.load.load_process", asdict(load))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.__exit__()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._child.pid

    def connect(self) -> None:
        """Wait until every stream is open.

        Raises:
            Refused: the server does not take a stream.
            RunFailed: it does not answer; or, as of all that follows, the process has ended.
        """
        if not self._heard("ready", CONNECT_S):
            raise RunFailed(f"the load did not connect to {self._load.address}")

    def go(self) -> None:
        """Begin."""
        self._child.tell("go")

    def done_within(self, seconds: float) -> bool:
        """Wait for the end of the run, for so long at most; whether it came."""
        return self._heard("done", seconds)

    def finish(self) -> None:
        """Wait for the end of the run, whose length its load limits."""
        if not self.done_within(self._load.seconds + LATE_S):
            raise RunFailed(
                f"streams to {self._load.address} have not ended {LATE_S:.0f} s after the last item"
            )

    def outcome(self) -> Outcome:
        """What it has to say, after the run."""
        line = self._child.line(OUTCOME_S)
        if line is None:
            raise RunFailed(f"the load's process has not given its outcome {OUTCOME_S:.0f} s after the run")
        return Outcome.from_json(json.loads(line))

    def accounts(self) -> list[Account]:
        """What became of each stream, after the run."""
        return self.outcome().accounts

    def _heard(self, word: str, seconds: float) -> bool:
        line = self._child.line(seconds)
        if line not in {word, None}:
            raise RunFailed(f"the load's process says {line!r} in place of {word!r}")
        return line is not None
