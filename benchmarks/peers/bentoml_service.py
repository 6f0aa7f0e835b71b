"""BentoML: a service of two worker processes, raw bodies, batches of one."""

from __future__ import annotations

import os
import sys

import bentoml
from bentoml_cli.cli import cli

from benchmarks.peers.shared import HOST, MODEL_VARIABLE, WORKERS, arguments
from benchmarks.peers.work import MODELS, Answer


@bentoml.service(
    name="peer",
    workers=WORKERS,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Peer:
    """One model in each worker process."""

    def __init__(self) -> None:
        self._predict = MODELS[os.environ[MODEL_VARIABLE]]()

    @bentoml.api
    def predict(self, payload: bytes, /) -> Answer:
        """Answer an item; the body is taken as it is, since it is the only argument."""
        return self._predict(payload)


def main() -> None:
    """Serve until SIGTERM."""
    port, _ = arguments(__doc__)
    sys.argv[1:] = ["serve", f"{__spec__.name}:Peer", "--host", HOST, "--port", str(port)]
    cli()


if __name__ == "__main__":
    main()
