"""mosec: two workers behind its server in Rust, raw bodies; batches wait for a millisecond, the least it knows.

Limits are mosec's defaults: of over 1024 waiting requests the newest is refused (429), and one that is not answered
within 3 s gets 408.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mosec import Server, Worker

from benchmarks.peers.shared import HOST, MODEL_VARIABLE, PATH, WORKERS, arguments
from benchmarks.peers.work import BATCHED, MAX_BATCH, MODELS, Answer


class Peer(Worker):
    """One model in each worker; mosec writes what `forward` gives back as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._predict = MODELS[os.environ[MODEL_VARIABLE]]()

    def deserialize(self, data: bytes) -> bytes:
        """Take the body as it is; the default would parse JSON."""
        return data

    def forward(self, data: bytes) -> Answer:
        """Answer an item."""
        return self._predict(data)


class Batching(Peer):
    """The same, for what mosec collects in a batch."""

    def forward(self, data: Sequence[bytes]) -> list[Answer]:  # type: ignore[override]  # mosec calls it so
        """Answer a batch."""
        return [self._predict(item) for item in data]


def main() -> None:
    """Serve until SIGTERM."""
    port, model = arguments(__doc__)
    sys.argv[1:] = ["--address", HOST, "--port", str(port), "--log-level", "warning"]
    server = Server()
    if model.endswith(BATCHED):
        server.append_worker(Batching, num=WORKERS, route=PATH, max_batch_size=MAX_BATCH, max_wait_time=1)
    else:
        server.append_worker(Peer, num=WORKERS, route=PATH)
    server.run()


if __name__ == "__main__":
    main()
