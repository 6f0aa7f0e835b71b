"""mosec: two workers behind its server in Rust, raw bodies, batches of one.

Limits are mosec's defaults: of over 1024 waiting requests the newest is refused (429), and one that is not answered
within 3 s gets 408.
"""

from __future__ import annotations

import os
import sys

from mosec import Server, Worker

from benchmarks.peers.command import HOST, MODEL_VARIABLE, PATH, WORKERS, arguments
from benchmarks.peers.work import MODELS, Answer


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


def main() -> None:
    """Serve until SIGTERM."""
    port, _ = arguments(__doc__)
    sys.argv[1:] = ["--address", HOST, "--port", str(port), "--log-level", "warning"]
    server = Server()
    server.append_worker(Peer, num=WORKERS, route=PATH)
    server.run()


if __name__ == "__main__":
    main()
