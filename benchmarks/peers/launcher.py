"""Starts peers, and waits until they answer correctly."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]

from benchmarks.failures import RunFailed
from benchmarks.load.servers import ONE_THREAD, START_S, Program, end
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.command import HOST
from benchmarks.peers.probe import NotYet, ask, wrong

ASK_AGAIN_S = 0.02
"""Between two tries: less than a tenth of the quickest start, which takes 0.3 s."""


@contextmanager
def serving_peer(
    peer: Peer, model: str, python: str = sys.executable, *, ahead: Sequence[str] = ()
) -> Iterator[Program]:
    """Run a peer with one model and two workers on a free port, to the end of the context.

    Args:
        python: the interpreter that has the peer's requirements.
        ahead: prefix of the command, such as `POLITELY`.

    Raises:
        RunFailed: it does not start, or its answers are wrong.
    """
    # everything it writes, sockets and settings included, is removed with this folder
    with TemporaryDirectory(prefix="peer-") as name:
        folder = Path(name)
        port = free_port()
        log = folder / "log.txt"
        started = time.perf_counter()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*ahead, *peer.command(python, port, model)],
                cwd=folder,
                env={**os.environ, **ONE_THREAD, "TMPDIR": name},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        known: list[psutil.Process] = []
        try:
            _await(peer, peer.url(port), model, process, log)
            ready_s = time.perf_counter() - started
            program = Program(psutil.Process(process.pid), peer.url(port), ready_s, peer.transport)
            known = program.workers
            yield program
        finally:
            end(process, known)


def free_port() -> int:
    """Find an unused port: some peers cannot inherit an open socket."""
    with socket.create_server((HOST, 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _await(peer: Peer, url: str, model: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask until there is a right answer."""
    until = time.monotonic() + START_S
    while True:
        try:
            answer = ask(peer, url, model)
            break
        except NotYet as exc:
            if process.poll() is not None:
                raise RunFailed(f"{peer.name} ended: {_last(log)}") from exc
            if time.monotonic() > until:
                raise RunFailed(
                    f"{peer.name} did not start in {START_S:.0f} s ({exc}): {_last(log)}"
                ) from exc
            time.sleep(ASK_AGAIN_S)  # servers have no common way to report that they are ready
    if fault := wrong(model, answer):
        raise RunFailed(f"{peer.name} answers wrong: {fault}")


def _last(log: Path) -> str:
    """Give the last line of a log, where an error says what it is."""
    lines = log.read_text("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
