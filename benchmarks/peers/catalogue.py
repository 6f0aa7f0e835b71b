"""The peers: name, module, transport and requirements of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.generator import Transport
from benchmarks.peers.shared import HOST, PATH

HERE = Path(__file__).parent

DETECTOR = HERE / "detector.txt"
"""The requirements of the models, in the same versions for every peer, so that only the servers differ."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another model server."""

    name: str  # as its own documentation writes it
    module: str  # in this package, and the name of its requirements file
    websocket: bool = False  # a plain websocket with a JSON answer per message; else a POST per frame
    batches: bool = False  # whether it also serves models that end with `BATCHED`
    quick: bool = False  # whether it starts and installs quickly enough for a quick run

    @property
    def transport(self) -> Transport:
        """Of a load on it."""
        return "websocket" if self.websocket else "http"

    def url(self, port: int) -> str:
        """Where it takes frames."""
        return f"http://{HOST}:{port}{PATH}"

    @property
    def requirements(self) -> tuple[Path, Path]:
        """The files of pinned requirements, its own first."""
        return HERE / f"{self.module}.txt", DETECTOR

    def pins(self) -> list[str]:
        """Read its own requirements, ``name==version`` each."""
        lines = self.requirements[0].read_text("utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    def command(self, python: str, port: int, model: str) -> tuple[str, ...]:
        """The command that serves a model on a port; `python` has its requirements."""
        return python, "-m", f"benchmarks.peers.{self.module}", str(port), model


AIOHTTP = Peer("aiohttp + pool", "aiohttp_pool", websocket=True, quick=True)

PEERS = (
    AIOHTTP,
    Peer("FastAPI + pool", "fastapi_pool", websocket=True, quick=True),
    Peer("mosec", "mosec_worker", batches=True, quick=True),
    Peer("LitServe", "litserve_api", batches=True),
    Peer("BentoML", "bentoml_service"),
    Peer("MLServer", "mlserver_runtime"),
    Peer("Ray Serve", "ray_deployment"),
)
