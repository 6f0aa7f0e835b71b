"""The command line of every peer, ``python -m benchmarks.peers.NAME PORT MODEL``; loopback only."""

from __future__ import annotations

import argparse
import os

from benchmarks.peers.work import MODELS

HOST = "127.0.0.1"
WORKERS = 2
PATH = "/predict"

MODEL_VARIABLE = "PEER_MODEL"
"""Environment variable with the model's name, for frameworks that import the peer's module in each worker."""


def arguments(description: str | None) -> tuple[int, str]:
    """Read the port and the model's name; also put the name into the environment."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("port", type=int)
    parser.add_argument("model", choices=sorted(MODELS))
    args = parser.parse_args()
    os.environ[MODEL_VARIABLE] = args.model
    return args.port, args.model
