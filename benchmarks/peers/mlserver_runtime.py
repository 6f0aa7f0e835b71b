"""MLServer: a runtime in two parallel workers, a custom handler for raw bodies, batches of one.

The Open Inference Protocol would carry an image as base64 in JSON. A custom handler is what MLServer's
documentation offers besides, and the cheaper of the two. Metrics and the compression of answers are off.
"""
# Annotations must be values here, not text: MLServer hands them to FastAPI from another module.

import asyncio
import json
import socket
from pathlib import Path

from fastapi import Body
from mlserver import MLModel, MLServer
from mlserver.cli.serve import load_settings
from mlserver.handlers import custom_handler

from benchmarks.peers.shared import HOST, PATH, WORKERS, arguments
from benchmarks.peers.work import MODELS, Answer


class Peer(MLModel):
    """One model in each worker."""

    async def load(self) -> bool:
        """Load the model, in a worker."""
        self._predict = MODELS[self.settings.parameters.extra["model"]]()
        return True

    @custom_handler(rest_path=PATH)
    async def answer(self, payload: bytes = Body(media_type="application/octet-stream")) -> Answer:
        """Answer an item, in a worker."""
        return self._predict(payload)


def free_port() -> int:
    """Find a port for gRPC, which cannot be switched off."""
    with socket.create_server((HOST, 0)) as listening:
        return listening.getsockname()[1]


def write_settings(port: int, model: str) -> None:
    """Write the two files that MLServer reads, into the working directory."""
    settings = {
        "host": HOST,
        "http_port": port,
        "grpc_port": free_port(),
        "parallel_workers": WORKERS,
        "debug": False,
        "metrics_endpoint": None,
        "gzip_enabled": False,
    }
    runtime = {
        "name": "peer",
        "implementation": f"{__spec__.name}.Peer",
        "parameters": {"extra": {"model": model}},
    }
    Path("settings.json").write_text(json.dumps(settings), "utf-8")
    Path("model-settings.json").write_text(json.dumps(runtime), "utf-8")


async def serve() -> None:
    """Do as ``mlserver start .`` does."""
    settings, models = await load_settings(".")
    await MLServer(settings).start(models)


def main() -> None:
    """Serve until SIGTERM; uvloop is on from `mlserver`'s import on."""
    write_settings(*arguments(__doc__))
    asyncio.run(serve())


if __name__ == "__main__":
    main()
