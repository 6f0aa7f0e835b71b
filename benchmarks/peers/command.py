"""How every peer is started: ``python -m benchmarks.peers.NAME PORT MODEL``, on this machine's loopback alone."""

from __future__ import annotations

import argparse
import os

from benchmarks.peers.work import MODELS

HOST = "127.0.0.1"
WORKERS = 2
PATH = "/predict"

MODEL_VARIABLE = "PEER_MODEL"
"""Where the model's name is for a framework that imports the peer's module again in each worker."""


def arguments(description: str | None) -> tuple[int, str]:
    """Read the port and the model's name from the command line, and leave the name in the environment, too."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("port", type=int)
    parser.add_argument("model", choices=sorted(MODELS))
    args = parser.parse_args()
    os.environ[MODEL_VARIABLE] = args.model
    return args.port, args.model
