"""Files that are no recordings, or damaged ones, or made to harm: each gets one sentence, and costs no more."""

from __future__ import annotations

import json
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stream_server.errors import ConfigError
from stream_server.recording import reader as recorded
from stream_server.recording.reader import open_recording

ITEM = {"name": "a", "at_ms": 0.0, "item": "items/000001.bin", "answer": None}
INDEX = {
    "format": 1,
    "model": "echo",
    "version": "1",
    "policy": "queue",
    "window": 16,
    "input": "bytes",
    "items": [ITEM],
}
PAYLOAD = b"the item"


def make(
    path: Path,
    index: Any = INDEX,
    *,
    payload: bytes = PAYLOAD,
    name: str = "items/000001.bin",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, payload, compression)
        archive.writestr("recording.json", index if isinstance(index, bytes) else json.dumps(index))
    return path


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in INDEX.items() if key != name}


def item(**changes: Any) -> dict[str, Any]:
    return INDEX | {"items": [ITEM | changes]}


def read(path: Path) -> list[Any]:
    with open_recording(path) as recording:
        return [recording.payload(one) for one in recording.items]


def refused(path: Path, words: str) -> None:
    """It is refused in one sentence, when it is opened or when its item is read."""
    with pytest.raises(ConfigError) as raised:
        read(path)
    said = str(raised.value)
    assert words in said
    assert said.startswith((f"{path} is not a whole recording: ", f"cannot read {path}: "))
    assert "\n" not in said
    assert len(said) < len(str(path)) + 150


def test_there_is_something_to_refuse(tmp_path: Path) -> None:
    assert read(make(tmp_path / "r.zip")) == [PAYLOAD]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"{", "Input data was truncated"),
        (b"{\xff", "codec"),
        (b"[" * 100_000, "recording.json holds something else"),
        (b'{"format": 1, "x": ' + b"[" * 100_000, "recording.json is nested too deeply"),
        (b"1" * 5000, "recording.json holds something else"),
        ([], "recording.json holds something else"),
        (INDEX | {"format": 2}, "its format is 2, and this program reads 1"),
        (INDEX | {"format": True}, "`format` in recording.json must be a whole number"),
        (INDEX | {"window": 65}, "`window` in recording.json must be a whole number from 1 to 64"),
        (INDEX | {"window": 1.5}, "`window` in recording.json must be a whole number from 1 to 64"),
        (INDEX | {"policy": "random"}, "`policy` in recording.json must be latest or queue"),
        (INDEX | {"input": "x" * 1000}, "`input` in recording.json must be bytes, data, image or text"),
        (INDEX | {"model": None}, "`model` in recording.json must be a string (a model's name)"),
        (INDEX | {"model": "../x"}, "`model` in recording.json must be a string (a model's name)"),
        (INDEX | {"items": {}}, "`items` in recording.json must be a list"),
        (INDEX | {"items": [1]}, "recording.json holds something else in `items[0]`"),
        (
            item(at_ms="0"),
            "`items[0].at_ms` in recording.json must be a number from 0 to 10,000,000,000 (",
        ),
        (item(at_ms=-1), "`items[0].at_ms` in recording.json must be a number from 0 to"),
        (item(at_ms=float("inf")), "JSON is malformed"),
        (item(at_ms=float("nan")), "JSON is malformed"),
        (item(at_ms=10**400), "`items[0].at_ms` in recording.json must be a number from 0 to"),
        (item(name=["a"]), "`items[0].name` in recording.json must be a string"),
        (item(item="items/000002.bin"), "items/000002.bin is missing"),
        (
            item(item="../../etc/passwd"),
            "`items[0].item` in recording.json must be a string (the name of an item's file)",
        ),
        (
            item(item="recording.json"),
            "`items[0].item` in recording.json must be a string (the name of an item's file)",
        ),
        (item(answer="yes"), "recording.json holds something else in `items[0].answer`"),
        (item(answer={"type": "result"}), "`items[0].answer.outputs` is missing"),
        (
            item(answer={"type": "error", "code": 1}),
            "`items[0].answer.code` in recording.json must be a string",
        ),
        (
            item(answer={"type": "dropped", "reason": "x", "more": "y" * 1000}),
            "`items[0].answer.more` in recording.json is unknown",
        ),
        *[(without(name), f"`{name}` is missing in recording.json") for name in INDEX],
    ],
)
def test_an_index_of_something_else(tmp_path: Path, index: Any, words: str) -> None:
    refused(make(tmp_path / "r.zip", index), words)


def test_every_truncation(tmp_path: Path) -> None:
    whole = make(tmp_path / "r.zip").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "t.zip").write_bytes(whole[:size])
        refused(tmp_path / "t.zip", "")


def test_every_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    """Bytes that nobody reads, such as times, may change; whatever is read is right, or refused."""
    whole = make(tmp_path / "r.zip").read_bytes()
    for at in range(len(whole)):
        (tmp_path / "f.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with suppress(ConfigError):
            assert read(tmp_path / "f.zip") == [PAYLOAD]


def test_missing_file_and_foreign_zip_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.zip", "No such file or directory")
    refused(tmp_path, "Is a directory")
    (tmp_path / "photo.jpg").write_bytes(bytes(10_000))
    refused(tmp_path / "photo.jpg", "its end is missing, or it is not a recording's zip")
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "it is too short")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("letter.txt", "hello")
    refused(tmp_path / "other.zip", "recording.json is missing")


def test_nothing_is_decompressed(tmp_path: Path) -> None:
    bomb = make(tmp_path / "b.zip", payload=bytes(50 << 20), compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20
    refused(bomb, "items/000001.bin is compressed, which nothing in a recording is")
    with zipfile.ZipFile(tmp_path / "i.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("recording.json", b" " * (50 << 20))
    refused(tmp_path / "i.zip", "recording.json is compressed")


@pytest.mark.parametrize(
    ("limit", "name"), [("MAX_ITEM_BYTES", "items/000001.bin"), ("MAX_INDEX_BYTES", "recording")]
)
def test_oversized_parts_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, name: str
) -> None:
    monkeypatch.setattr(recorded, limit, 7)
    refused(make(tmp_path / "r.zip"), name)
    refused(make(tmp_path / "r.zip"), "7 are the most")


def test_a_size_that_is_not_there_allocates_nothing(tmp_path: Path) -> None:
    """The directory says that an item has 60 MB, and the file ends long before."""
    path = make(tmp_path / "r.zip")
    whole = bytearray(path.read_bytes())
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 20 : entry + 28] = struct.pack("<II", 60 << 20, 60 << 20)
    path.write_bytes(whole)
    refused(path, "")


def test_too_many_items_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MAX_ITEMS", 3)
    refused(make(tmp_path / "r.zip", INDEX | {"items": [ITEM] * 4}), "it lists 4 items; 3 are the most")


def test_a_directory_larger_than_a_recordings_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:
        archive.writestr("x" * 5000, b"")
    refused(tmp_path / "long.zip", "it holds more files than a recording can")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(5):
            archive.writestr(str(number), b"")
    monkeypatch.setattr(recorded, "MAX_ITEMS", 3)
    refused(tmp_path / "many.zip", "it holds more files than a recording can")


def test_the_long_form_of_a_zip_is_refused(tmp_path: Path) -> None:
    """Its directory's size stands elsewhere, where the check does not look and the reader does."""
    path = make(tmp_path / "r.zip")
    whole = path.read_bytes()
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, 0, 1)
    path.write_bytes(whole[:-22] + locator + whole[-22:])
    refused(path, "it holds more files than a recording can")


def test_an_item_of_the_wrong_kind(tmp_path: Path) -> None:
    text = make(tmp_path / "t.zip", INDEX | {"input": "text"}, payload=b"\xff")
    refused(text, "codec")
    refused(make(tmp_path / "d.zip", INDEX | {"input": "data"}, payload=b"{"), "Expecting")


def test_outputs_may_hold_whatever_json_can(tmp_path: Path) -> None:
    outputs = {"half": "\ud800", "huge": 10**400, "deep": [[[None]]]}
    path = make(tmp_path / "r.zip", item(answer={"type": "result", "outputs": outputs}))
    with open_recording(path) as recording:
        assert recording.items[0].answer == {"type": "result", "outputs": outputs}
