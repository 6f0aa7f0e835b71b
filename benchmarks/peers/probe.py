"""Asks a peer for one answer, to check that it is ready and answers correctly."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Callable
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from benchmarks.load.payloads import FRAME_BYTES, Payloads, frame, portrait, texts
from benchmarks.peers.catalogue import Peer
from benchmarks.peers.work import BATCHED

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
        return f"{str(answer)[:SHOWN]} is no answer of this model"


def _wrong(model: str, answer: Any) -> str:
    if model.startswith("echo"):
        return "" if answer == {"bytes": FRAME_BYTES} else f"{answer} is no count of {FRAME_BYTES} bytes"
    if model == "spam":
        return "" if answer["label"] == "ham" else f"an invitation to lunch is no {answer['label']}"
    boxes = [face["box"] for face in answer["faces"]]
    if len(boxes) != 1:
        return f"{len(boxes)} faces in place of the one in the sample"
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
