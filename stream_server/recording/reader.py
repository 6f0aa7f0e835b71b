"""Reads recordings that may be damaged, foreign or meant to harm. No network, no loop, no clock.

Every number in the file is checked before anything is allocated for it, nothing in it is decompressed, and no name
in it becomes a path. Whatever is wrong is a `ConfigError` of one sentence.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from inference.model import NAME, InputKind, Policy
from stream_server.errors import ConfigError
from stream_server.recording.writer import (
    FORMAT,
    INDEX,
    MAX_INDEX_BYTES,
    MAX_ITEM_BYTES,
    MAX_ITEMS,
    About,
    Item,
)

ITEM_FILE = re.compile(r"items/[0-9]{6}\.[a-z]{3,4}")

MAX_AT_MS = 10**10
"""Latest time of an item: four months."""

END_RECORD = struct.Struct("<4sHHHHIIH")
"""A zip's end of central directory record (APPNOTE.TXT 4.3.16), which comes last where there is no comment."""

LOCATOR_BYTES = 20
ENTRY_BYTES = 100
"""Most bytes of the directory for one file: 46, and a name of ours."""


class Damaged(Exception):
    """What makes a file no recording, for `open_recording` to say."""


class Recording:
    """A recording that is open for reading, see `open_recording`.

    Attributes:
        about: what was recorded.
        items: in the order in which they were sent.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._zip = archive
        body = json.loads(self._read(INDEX, MAX_INDEX_BYTES))
        self.about = _about(body)
        listed = _field(body, "items", list)
        if len(listed) > MAX_ITEMS:
            raise Damaged(f"it lists {len(listed):,} items; {MAX_ITEMS:,} are the most")
        self.items = tuple(map(_item, listed))
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
        """Look a file up, and make sure that to read it takes no more than it says and we allow."""
        try:
            info = self._zip.getinfo(name)
        except KeyError:
            raise Damaged(f"there is no {name} in it") from None
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Damaged(f"{name} is compressed, which nothing in a recording is")
        if info.file_size > most:
            raise Damaged(f"{name} has {info.file_size:,} bytes; {most:,} are the most")
        return info


@contextmanager
def open_recording(path: Path) -> Iterator[Recording]:
    """Open a recording and read its index; items are read one by one, when they are asked for.

    Raises:
        ConfigError: it cannot be read, or it is no recording or not a whole one.
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
    """Say in one sentence whatever a strange file makes the zip and JSON readers raise."""
    try:
        yield
    except Damaged as exc:
        raise ConfigError(f"{path} is no whole recording: {exc}") from exc
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, struct.error) as exc:
        # RuntimeError: encrypted, of a kind that Python does not know, or nested too deeply
        reason = str(exc)[:80] or "it ends too early"
        raise ConfigError(f"{path} is no whole recording: {reason}") from exc


def _check_directory(file: int) -> None:
    """Make sure that a zip's directory is as small as a recording's, before it is read as a whole."""
    size = os.fstat(file).st_size
    tail = os.pread(file, LOCATOR_BYTES + END_RECORD.size, max(0, size - LOCATOR_BYTES - END_RECORD.size))
    if len(tail) < LOCATOR_BYTES + END_RECORD.size:
        raise Damaged("it is too short")
    signature, _, _, _, count, length, _, comment = END_RECORD.unpack_from(tail, LOCATOR_BYTES)
    if signature != b"PK\x05\x06" or comment:
        raise Damaged("its end is missing, or it is no zip of ours")
    if tail.startswith(b"PK\x06\x07") or count > MAX_ITEMS + 1 or length > count * ENTRY_BYTES:
        raise Damaged("it holds more files than a recording can")


def _about(body: Any) -> About:
    if (number := _field(body, "format", int)) != FORMAT:
        raise Damaged(f"its format is {number}, and this program reads {FORMAT}")
    window = _field(body, "window", int)
    if not 1 <= window <= 64:
        raise Damaged(f"its window is {window}")
    model, version = _field(body, "model", str), _field(body, "version", str)
    if not NAME.fullmatch(model):
        raise Damaged(f"{model[:40]!r} is not a model name")
    return About(model, version, _word(body, "policy", Policy), window, _word(body, "input", InputKind))


def _item(body: Any) -> Item:
    at_ms, file = _field(body, "at_ms", int, float), _field(body, "item", str)
    if not 0 <= at_ms <= MAX_AT_MS:
        raise Damaged(f"its at_ms is {json.dumps(at_ms)[:40]}")
    if not ITEM_FILE.fullmatch(file):
        raise Damaged(f"{file[:40]!r} is no item's file")
    answer = _field(body, "answer", dict, type(None))
    if answer is not None:
        _check_answer(answer)
    return Item(_field(body, "name", str), at_ms, file, answer)


def _check_answer(answer: dict[str, Any]) -> None:
    match answer:
        case {"type": "result", "outputs": _, **rest} if not rest:
            return
        case {"type": "dropped", "reason": str(), **rest} if not rest:
            return
        case {"type": "error", "code": str(), **rest} if not rest:
            return
    raise Damaged(f"an answer is {json.dumps(answer)[:60]}")


def _word(body: Any, name: str, words: Any) -> Any:
    value = _field(body, name, str)
    if value not in get_args(words):
        raise Damaged(f"its {name} is {value[:40]!r}")
    return value


def _field(body: Any, name: str, *types: type) -> Any:
    """Take a field of a JSON object, and check its type; bool is no int here."""
    if not isinstance(body, dict) or name not in body:
        raise Damaged(f"there is no {name} where one must be")
    if type(body[name]) not in types:
        raise Damaged(f"its {name} is {json.dumps(body[name])[:40]}")
    return body[name]
