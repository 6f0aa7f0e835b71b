"""Reads recordings that may be damaged, foreign or hostile. No network, no loop, no clock.

Every number in the file is checked before anything is allocated for it, nothing in it is decompressed, and no name
in it becomes a path. Whatever is wrong is a `ConfigError` of one sentence.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from inference.model import NAME, InputKind, Policy
from stream_server.errors import ConfigError
from stream_server.protocol.decoding import decode, explain
from stream_server.protocol.server_side import MAX_WINDOW
from stream_server.recording.writer import (
    FORMAT,
    INDEX,
    MAX_INDEX_BYTES,
    MAX_ITEM_BYTES,
    MAX_ITEMS,
    About,
    Item,
)

MAX_AT_MS = 10**10
"""Latest time of an item: four months."""

END_RECORD = struct.Struct("<4sHHHHIIH")
"""A zip's end of central directory record (APPNOTE.TXT 4.3.16), which comes last if there is no comment."""

LOCATOR_BYTES = 20
ENTRY_BYTES = 100
"""Most bytes of the directory for one file: 46, and a name of ours."""


class Damaged(Exception):
    """Why a file is not a recording, for `open_recording` to say."""


class Recording:
    """A recording that is open for reading, see `open_recording`.

    Attributes:
        about: what was recorded.
        items: in the order in which they were sent.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._zip = archive
        index = _read_index(self._read(INDEX, MAX_INDEX_BYTES))
        if len(index.items) > MAX_ITEMS:
            raise Damaged(f"it lists {len(index.items):,} items; {MAX_ITEMS:,} are the most")
        self.about = About(index.model, index.version, index.policy, index.window, index.input)
        self.items = tuple(item.public() for item in index.items)
        for item in self.items:
            self._find(item.file, MAX_ITEM_BYTES)

    def payload(self, item: Item) -> Any:
        """Read an item, as it is sent: bytes, for a text model a str, for a data model what its JSON holds.

        Raises:
            ConfigError: it is damaged.
        """
        with _reading(self._path):
            body = self._read(item.file, MAX_ITEM_BYTES)
            if self.about.input == "text":
                return body.decode("utf-8")
            return json.loads(body) if self.about.input == "data" else body

    def _read(self, name: str, most: int) -> bytes:
        return self._zip.read(self._find(name, most))

    def _find(self, name: str, most: int) -> zipfile.ZipInfo:
        """Look a file up, and check that reading it takes no more memory than we allow."""
        try:
            info = self._zip.getinfo(name)
        except KeyError:
            raise Damaged(f"{name} is missing") from None
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Damaged(f"{name} is compressed, which nothing in a recording is")
        if info.file_size > most:
            raise Damaged(f"{name} has {info.file_size:,} bytes; {most:,} are the most")
        return info


@contextmanager
def open_recording(path: Path) -> Iterator[Recording]:
    """Open a recording and read its index; items are read one by one, when they are asked for.

    Raises:
        ConfigError: it cannot be read, or it is not a whole recording.
    """
    with _reading(path):
        file = path.open("rb")
    with file:
        with _reading(path):
            _check_directory(file.fileno())
            archive = zipfile.ZipFile(file)
            recording = Recording(path, archive)
        with archive:
            yield recording


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever the zip and JSON readers raise into one sentence."""
    try:
        yield
    except Damaged as exc:
        raise ConfigError(f"{path} is not a whole recording: {exc}") from exc
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, struct.error) as exc:
        # RuntimeError: encrypted, of a kind that Python does not know, or nested too deeply
        reason = str(exc)[:80] or "it ends too early"
        raise ConfigError(f"{path} is not a whole recording: {reason}") from exc


def _check_directory(file: int) -> None:
    """Make sure that a zip's directory is as small as a recording's, before it is read as a whole."""
    size = os.fstat(file).st_size
    tail = os.pread(file, LOCATOR_BYTES + END_RECORD.size, max(0, size - LOCATOR_BYTES - END_RECORD.size))
    if len(tail) < LOCATOR_BYTES + END_RECORD.size:
        raise Damaged("it is too short")
    signature, _, _, _, count, length, _, comment = END_RECORD.unpack_from(tail, LOCATOR_BYTES)
    if signature != b"PK\x05\x06" or comment:
        raise Damaged("its end is missing, or it is not a recording's zip")
    if tail.startswith(b"PK\x06\x07") or count > MAX_ITEMS + 1 or length > count * ENTRY_BYTES:
        raise Damaged("it holds more files than a recording can")


class _KeptResult(Struct, tag="result", forbid_unknown_fields=True):
    outputs: Any


class _KeptDropped(Struct, tag="dropped", forbid_unknown_fields=True):
    reason: str


class _KeptError(Struct, tag="error", forbid_unknown_fields=True):
    code: str


class _Item(Struct):
    name: str
    at_ms: Annotated[float, Meta(ge=0, le=MAX_AT_MS, description="milliseconds")]
    item: Annotated[
        str, Meta(pattern=r"\Aitems/[0-9]{6}\.[a-z]{3,4}\Z", description="the name of an item's file")
    ]
    answer: _KeptResult | _KeptDropped | _KeptError | None

    def public(self) -> Item:
        answer: dict[str, Any] | None = None
        match self.answer:
            case _KeptResult(outputs):
                answer = {"type": "result", "outputs": outputs}
            case _KeptDropped(reason):
                answer = {"type": "dropped", "reason": reason}
            case _KeptError(code):
                answer = {"type": "error", "code": code}
        return Item(self.name, self.at_ms, self.item, answer)


class _Index(Struct):
    format: int
    model: Annotated[str, Meta(pattern=rf"\A{NAME.pattern}\Z", description="a model's name")]
    version: str
    policy: Policy
    window: Annotated[int, Meta(ge=1, le=MAX_WINDOW)]
    input: InputKind
    items: list[_Item]


class _Format(Struct):
    format: int


_INDEX = msgspec.json.Decoder(_Index)
_FORMAT = msgspec.json.Decoder(_Format)


def _read_index(body: bytes) -> _Index:
    text = body.decode("utf-8")
    wanted: Any = _Format
    try:
        if (number := decode(_FORMAT, text).format) != FORMAT:
            raise Damaged(f"its format is {str(number)[:20]}, and this program reads {FORMAT}")
        wanted = _Index
        return decode(_INDEX, text)
    except msgspec.ValidationError as exc:
        problem = explain(exc, wanted)
    except RecursionError:
        raise Damaged(f"{INDEX} is nested too deeply") from None
    key = f"`{problem.key[:40]}`"
    if problem.kind == "missing":
        raise Damaged(f"{key} is missing in {INDEX}")
    if problem.kind == "unknown":
        raise Damaged(f"{key} in {INDEX} is unknown")
    if not problem.allowed:
        raise Damaged(f"{INDEX} holds something else{f' in {key}' if problem.key else ''}")
    raise Damaged(f"{key} in {INDEX} must be {problem.allowed}")
