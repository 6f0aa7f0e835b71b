"""A load, and the process that puts it on a server, as seen by the benchmark that starts it.

The process connects, writes ``ready``, waits for ``go``, writes ``done`` when everything is answered, and then its
outcome. `benchmarks.load.load_process` is what runs in it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from benchmarks.failures import RunFailed
from benchmarks.load.accounts import Account
from benchmarks.load.histograms import Latencies
from benchmarks.load.schedule import Arrivals
from benchmarks.load.subprocesses import Child

Transport: TypeAlias = Literal["stream", "websocket", "http"]

CONNECT_S = 60.0
"""Far more than 64 handshakes take: the limit is for servers that do not answer."""

LATE_S = 60.0
"""How long a run may wait for answers after its last item."""

OUTCOME_S = 60.0
"""Time limit of making accounts and histograms; some 100,000 items take a second."""


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Streams of one kind."""

    url: str  # the server's address; of a plain transport the complete address of the endpoint
    model: str
    payload: str  # a name in `PAYLOADS`; a stream sends its items in turn
    streams: int
    seconds: float  # how long items are sent
    policy: str = "queue"
    # items per second of each stream in an open loop; None for a closed loop, which sends the next item when one is
    # answered
    rate: float | None = None
    window: int = 1  # items in flight of a closed loop
    count: int | None = None  # items of each stream of a closed loop, instead of a time
    seed: int = 1  # of the schedules
    # `stream` is this project's protocol. `websocket` is a plain one, whose n-th message answers the n-th item.
    # `http` posts each item: any 2xx is a result, any other status an error, and in an open loop no post waits for
    # a connection.
    transport: Transport = "stream"
    kept: bool = True  # whether posts reuse connections
    arrivals: Arrivals = "steady"
    processes: int = 1  # how many share the streams
    first: int = 0  # the number of the first stream in this process's share

    @property
    def address(self) -> str:
        """Where a stream connects to."""
        if self.transport != "stream":
            return self.url
        path = f"{self.url}/v2/models/{self.model}/stream?policy={self.policy}"
        return path if self.rate else f"{path}&window={self.window}"

    @property
    def measured_s(self) -> float:
        """Items due before this are measured, in seconds since the start of the run.

        A camera's last frame has no newer one to replace it: under overload it gets old because the run ends, not
        because the server is late.
        """
        if self.policy == "latest" and self.arrivals == "steady" and self.rate:
            return self.seconds - 1 / self.rate
        return self.seconds

    def shares(self) -> list[Load]:
        """Divide the streams among the processes as evenly as possible."""
        ends = [self.streams * number // self.processes for number in range(self.processes + 1)]
        return [
            replace(self, streams=end - start, first=self.first + start, processes=1)
            for start, end in pairwise(ends)
            if end > start
        ]


class Outcome(msgspec.Struct):
    """What a generator's process reports after a run.

    Neither `latency` nor `slots` has what was due after the load's `measured_s`.
    """

    accounts: list[Account]
    latency: Latencies = msgspec.field(default_factory=Latencies)  # of every item (`Account.waits`)
    # by how much items of an open loop went out late through the generator's own fault
    lag: Latencies = msgspec.field(default_factory=Latencies)
    loop: Latencies = msgspec.field(default_factory=Latencies)  # how late the event loop was for its timer
    slots: dict[int, Latencies] = {}  # latencies of results, by the slot of a timeline in which they arrived

    def encode(self) -> str:
        """Write it for `decode`."""
        return msgspec.json.encode(self, enc_hook=Latencies.encode).decode()

    @staticmethod
    def decode(text: str) -> Outcome:
        """Read what the process wrote."""
        return msgspec.json.decode(text, type=Outcome, dec_hook=lambda _, text: Latencies.decode(text))


class Generator(Child):
    """A load's process; a context, at whose end it is killed."""

    def __init__(self, load: Load) -> None:
        super().__init__("benchmarks.load.load_process", load)
        self._load = load

    def connect(self) -> None:
        """Wait until every stream is open.

        Raises:
            Refused: the server refused a stream.
            RunFailed: it does not answer; or, as in all methods below, the process has ended.
        """
        if not self._read_word("ready", CONNECT_S):
            raise RunFailed(f"the load did not connect to {self._load.address}")

    def go(self) -> None:
        """Start the run."""
        self.tell("go")

    def done_within(self, seconds: float) -> bool:
        """Wait for the end of the run; return whether it came in time."""
        return self._read_word("done", seconds)

    def finish(self) -> None:
        """Wait for the end of the run, whose length its load limits."""
        if not self.done_within(self._load.seconds + LATE_S):
            raise RunFailed(
                f"streams to {self._load.address} have not ended {LATE_S:.0f} s after the last item"
            )

    def outcome(self) -> Outcome:
        """Read its report, after the run."""
        line = self.line(OUTCOME_S)
        if line is None:
            raise RunFailed(f"the load's process has not given its outcome {OUTCOME_S:.0f} s after the run")
        return Outcome.decode(line)

    def _read_word(self, word: str, seconds: float) -> bool:
        line = self.line(seconds)
        if line not in {word, None}:
            raise RunFailed(f"the load's process says {line!r} instead of {word!r}")
        return line is not None
