"""Starts peers, and asks each for one answer, to check that it is ready and answers correctly."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil  # type: ignore[import-untyped]
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from benchmarks.failures import RunFailed
from benchmarks.load.payloads import FRAME_BYTES, Payloads, frame, portrait, texts
from benchmarks.load.servers import ONE_THREAD, START_S, Program, end
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.shared import HOST
from benchmarks.peers.work import BATCHED

ASK_AGAIN_S = 0.02
"""Between two tries: less than a tenth of the quickest start, which takes 0.3 s."""

ANSWER_S = 5.0
"""One item of an idle server takes milliseconds, and the first one of a lazy one a second."""

SAMPLE_FACE = (223.6, 78.7, 113.7, 139.2)
"""The box of the one face in the sample picture: left, top, width, height in pixels."""

TOLERANCE = 12.0
"""Pixels by which a box may differ, because decoders and releases round differently: a tenth of the face."""

SHOWN = 200
"""Characters of an answer in a message: an error's body may be a page."""


class NotYet(Exception):
    """The server does not answer yet; the message says what happened."""


ITEMS: dict[str, Callable[[], Payloads]] = {"echo": frame, f"echo{BATCHED}": frame, "spam": texts}
"""The items of models that do not take pictures."""


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
        raise RunFailed(f"{peer.name} gives a wrong answer: {fault}")


def _last(log: Path) -> str:
    """Give the last line of a log, where an error says what it is."""
    lines = log.read_text("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


def item(model: str) -> str | bytes:
    """Give an item that the model takes."""
    return ITEMS.get(model, portrait)()[0]


def ask(peer: Peer, url: str, model: str) -> Any:
    """Send one item and read the JSON of its answer.

    Raises:
        NotYet: there is none.
    """
    try:
        return json.loads((_over_websocket if peer.websocket else _post)(url, item(model)))
    except (OSError, http.client.HTTPException, WebSocketException, ValueError) as exc:
        raise NotYet(f"{type(exc).__name__}: {exc}") from exc


def wrong(model: str, answer: Any) -> str:
    """Say what is wrong with an answer to `item(model)`; "" if it is right."""
    try:
        return _wrong(model, answer)
    except (KeyError, TypeError, ValueError):
        # any JSON: an error's body, a list, a box of three numbers
        return f"{str(answer)[:SHOWN]} is not an answer of this model"


def _wrong(model: str, answer: Any) -> str:
    if model.startswith("echo"):
        return (
            "" if answer == {"bytes": FRAME_BYTES} else f"{answer} instead of a count of {FRAME_BYTES} bytes"
        )
    if model == "spam":
        return (
            "" if answer["label"] == "ham" else f"an invitation to lunch is classified as {answer['label']}"
        )
    boxes = [face["box"] for face in answer["faces"]]
    if len(boxes) != 1:
        return f"{len(boxes)} faces instead of the one in the sample"
    far = max(abs(one - other) for one, other in zip(boxes[0], SAMPLE_FACE, strict=True))
    return "" if far <= TOLERANCE else f"the face of the sample is not at {boxes[0]}"


def _post(url: str, payload: str | bytes) -> bytes:
    headers = {"Content-Type": "application/octet-stream"}
    body = payload.encode() if isinstance(payload, str) else payload
    request = urllib.request.Request(url, body, headers)  # noqa: S310  # the address of a server started here
    with urllib.request.urlopen(request, timeout=ANSWER_S) as response:  # noqa: S310  # as above
        answer: bytes = response.read()
    return answer


def _over_websocket(url: str, payload: str | bytes) -> str | bytes:
    address = url.replace("http://", "ws://")
    with connect(address, compression=None, proxy=None, open_timeout=ANSWER_S) as ws:
        ws.send(payload)
        return ws.recv(ANSWER_S)
