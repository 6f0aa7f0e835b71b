"""Recordings of streams: items, when each was sent and its answer, in one file. `reader` reads them.

A recording is a plain zip, which any tool opens: the items under ``items/`` as they were sent, and `INDEX`, a JSON
object that names the model, the stream's options and every item with its time and answer. Nothing in it is
compressed, and nothing in it depends on when, where or by what it was written: the same items, times and answers
make the same bytes.
"""

from __future__ import annotations

import errno
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from inference.model import InputKind, Policy
from stream_server.errors import ConfigError
from stream_server.protocol.client_side import Answer, Dropped, Ready, Result

FORMAT = 1
INDEX = "recording.json"

MAX_ITEMS = 50_000
"""An hour of a camera at 14 frames a second. A zip counts to 65,535 before it needs extensions, which we refuse."""

MAX_ITEM_BYTES = 64 << 20
"""Largest item: eight times the default of a server."""

MAX_INDEX_BYTES = 64 << 20
"""Largest index, of which answers may fill half before no more items are recorded: 50,000 answers with a face."""

MAX_FILE_BYTES = 7 << 28
"""No item is added beyond these 1.75 GiB: Python writes a plain zip whose directory begins below two, and before it
come one more item and the index, with up to 64 MiB each."""

SUFFIXES: dict[InputKind, str] = {"text": "txt", "data": "json"}
MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
"""How the pictures that models take begin; any other bytes get the suffix ``.bin``."""

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in a recording: the earliest that a zip can hold."""


@dataclass(frozen=True, slots=True)
class About:
    """What was recorded.

    Attributes:
        model, version: what answered.
        policy, window: the stream's own.
        input: what the model takes.
    """

    model: str
    version: str
    policy: Policy
    window: int
    input: InputKind

    @classmethod
    def stream(cls, ready: Ready) -> Self:
        """Describe an open stream."""
        return cls(ready.model, ready.version, ready.policy, ready.window, ready.input)


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a recording.

    Attributes:
        name: what its source called it.
        at_ms: milliseconds from the sending of the first item to its own.
        file: where its bytes are.
        answer: what it got, as `kept` writes it; None if the stream ended before.
    """

    name: str
    at_ms: float
    file: str
    answer: dict[str, Any] | None


def kept(answer: Answer) -> dict[str, Any]:
    """Reduce an answer to what does not change when a model answers the same item again: no times, no `seq`."""
    match answer:
        case Result():
            return {"type": "result", "outputs": answer.outputs}
        case Dropped():
            return {"type": "dropped", "reason": answer.reason}
        case _:
            return {"type": "error", "code": answer.code}


class Writer:
    """Writes a recording as it goes; a context manager, at whose end the file is complete, even after an error.

    Until then the file has another name, so that an earlier recording is replaced by a complete one or not at all.
    Without any item there is no file.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_file():  # it would be replaced at the end, be it a device
            raise FileExistsError(errno.EEXIST, "it exists and is not a regular file", str(path))
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._zip = zipfile.ZipFile(self._part, "w", allowZip64=False)
        self._about: About | None = None
        self._items: list[str] = []
        self._answers: list[str] = []
        self._index_bytes = 0
        self._end = 0  # of the last item in the file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._zip:
            if self._items:
                self._write(INDEX, self._index().encode())
        if self._items:
            self._part.replace(self._path)
        else:
            self._part.unlink()

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether no more items may be added."""
        return (
            self.count >= MAX_ITEMS
            or self._index_bytes >= MAX_INDEX_BYTES // 2
            or self._end >= MAX_FILE_BYTES
        )

    def describe(self, about: About) -> None:
        """Say what is recorded, before the first item."""
        self._about = about

    def add(self, name: str, at_ms: float, payload: Any) -> None:
        """Write an item that is sent; it is the next one, from 1.

        Raises:
            ConfigError: it is too large.
        """
        assert self._about
        body, suffix = _encode(payload, self._about.input)
        if len(body) > MAX_ITEM_BYTES:
            raise ConfigError(
                f"{name} has {len(body):,} bytes; items up to {MAX_ITEM_BYTES:,} can be recorded"
            )
        file = f"items/{self.count + 1:06}.{suffix}"
        self._write(file, body)
        self._items.append(json.dumps({"name": name, "at_ms": round(at_ms, 3), "item": file}))
        self._answers.append("null")
        self._index_bytes += len(self._items[-1])

    def answer(self, number: int, answer: Answer) -> None:
        """Note an item's answer.

        Raises:
            ConfigError: there is no room for it.
        """
        text = json.dumps(kept(answer))
        self._index_bytes += len(text)
        if self._index_bytes > MAX_INDEX_BYTES * 3 // 4:  # the rest is for what joins them
            raise ConfigError("the answers are too large together; record fewer items, with --limit")
        self._answers[number - 1] = text

    def _index(self) -> str:
        assert self._about
        head = json.dumps({"format": FORMAT, **asdict(self._about)})
        pairs = zip(self._items, self._answers, strict=True)
        lines = ",\n".join(f'{item[:-1]}, "answer": {answer}}}' for item, answer in pairs)
        return f'{head[:-1]}, "items": [\n{lines}\n]}}\n'

    def _write(self, name: str, body: bytes) -> None:
        info = zipfile.ZipInfo(name, EPOCH)
        info.create_system = 3  # Unix, wherever this runs
        info.external_attr = 0o644 << 16
        self._zip.writestr(info, body)
        self._end = info.header_offset + len(body)


def _encode(payload: Any, kind: InputKind) -> tuple[bytes, str]:
    """Write an item as a file: its bytes, and its suffix."""
    if kind == "text":
        return payload.encode("utf-8"), SUFFIXES[kind]
    if kind == "data":
        return json.dumps(payload).encode(), SUFFIXES[kind]
    body = bytes(payload)
    return body, next((suffix for magic, suffix in MAGIC if body.startswith(magic)), "bin")
