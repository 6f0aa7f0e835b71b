"""Recordings as they are written: what is in them, that the same makes the same bytes, and where they end."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from stream_server.errors import ConfigError
from stream_server.protocol.client_side import Dropped, Error, Result
from stream_server.recording import writer as recording
from stream_server.recording.reader import open_recording
from stream_server.recording.writer import About, Writer

JPEG = b"\xff\xd8\xff\xe0 and so on"


def about(kind: Any = "image") -> About:
    return About("faces", "2023mar", "latest", 1, kind)


def result(seq: int, outputs: Any, age_ms: float = 7.0) -> Result:
    return Result(seq, outputs, "faces", "2023mar", age_ms, 1.0, 2.0, 1)


def write(path: Path, *, age_ms: float = 7.0) -> bytes:
    with Writer(path) as writer:
        writer.describe(about())
        writer.add("a.jpg", 0.0, JPEG)
        writer.add("b", 33.33333, b"no picture")
        writer.answer(1, result(1, {"faces": []}, age_ms))
        writer.add("ü", 66.7, JPEG)
        writer.add("last", 100.0, JPEG)
        writer.answer(3, Dropped(3, "superseded"))
        writer.answer(2, Error("bad_image", "in many words", retryable=False, seq=2))
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "r.zip")
    with open_recording(tmp_path / "r.zip") as read:
        assert read.about == about()
        assert [(item.name, item.at_ms) for item in read.items] == [
            ("a.jpg", 0.0),
            ("b", 33.333),
            ("ü", 66.7),
            ("last", 100.0),
        ]
        assert [item.answer for item in read.items] == [
            {"type": "result", "outputs": {"faces": []}},
            {"type": "error", "code": "bad_image"},
            {"type": "dropped", "reason": "superseded"},
            None,
        ]
        assert [read.payload(item) for item in read.items] == [JPEG, b"no picture", JPEG, JPEG]


@pytest.mark.parametrize(
    ("kind", "payload", "file"),
    [
        ("text", "Grüße", "items/000001.txt"),
        ("data", {"a": [1.5, "ü", None]}, "items/000001.json"),
        ("bytes", b"\0\1", "items/000001.bin"),
        ("bytes", memoryview(JPEG), "items/000001.jpg"),
        ("image", b"RIFF....WEBP", "items/000001.webp"),
        ("image", b"\x89PNG....", "items/000001.png"),
    ],
)
def test_items_are_files_of_their_kind(tmp_path: Path, kind: Any, payload: Any, file: str) -> None:
    with Writer(tmp_path / "r.zip") as writer:
        writer.describe(about(kind))
        writer.add("it", 0.0, payload)
    with open_recording(tmp_path / "r.zip") as read:
        assert read.items[0].file == file
        assert read.payload(read.items[0]) == payload


def test_any_zip_tool_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "r.zip")
    with zipfile.ZipFile(tmp_path / "r.zip") as archive:
        assert archive.testzip() is None
        names = ["items/000001.jpg", "items/000002.bin", "items/000003.jpg", "items/000004.jpg"]
        assert archive.namelist() == [*names, "recording.json"]
        body = json.loads(archive.read("recording.json"))
    assert body["format"] == 1
    assert [item["item"] for item in body["items"]] == names


def test_the_same_items_times_and_answers_make_the_same_bytes(tmp_path: Path) -> None:
    one = write(tmp_path / "one.zip")
    other = write(tmp_path / "another name.zip", age_ms=8.0)  # a server's own times are nothing of it
    assert one == other
    assert str(tmp_path).encode() not in one
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {(info.date_time, info.create_system) for info in archive.infolist()} == {(recording.EPOCH, 3)}


def test_an_interrupted_recording_is_whole(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Writer(tmp_path / "r.zip") as writer:
            writer.describe(about())
            writer.add("a.jpg", 0.0, JPEG)
            assert [path.name for path in tmp_path.iterdir()] == ["r.zip.part"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["r.zip"]
    with open_recording(tmp_path / "r.zip") as read:
        assert [item.answer for item in read.items] == [None]


def test_a_recording_of_nothing_replaces_nothing(tmp_path: Path) -> None:
    before = write(tmp_path / "r.zip")
    with Writer(tmp_path / "r.zip"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["r.zip"]
    assert (tmp_path / "r.zip").read_bytes() == before


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_is_not_a_regular_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "r.zip"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(FileExistsError, match="not a regular file"):
        Writer(path)
    assert [path] == list(tmp_path.iterdir())
    assert not path.is_file()


def test_items_are_on_the_disk_before_the_end(tmp_path: Path) -> None:
    with Writer(tmp_path / "r.zip") as writer:
        writer.describe(about())
        for _ in range(3):
            writer.add("a.jpg", 0.0, bytes(1 << 20))
        assert (tmp_path / "r.zip.part").stat().st_size >= 2 << 20


def test_a_full_recording_fits_what_python_can_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # two gigabytes are too slow to write, so all limits are smaller by the same factor
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", zipfile.ZIP64_LIMIT >> 14)
    for name in ("MAX_FILE_BYTES", "MAX_ITEM_BYTES", "MAX_INDEX_BYTES"):
        monkeypatch.setattr(recording, name, getattr(recording, name) >> 14)
    with Writer(tmp_path / "r.zip") as writer:
        writer.describe(about("bytes"))
        while not writer.full:
            writer.add("it", 0.0, bytes(recording.MAX_ITEM_BYTES))
    with open_recording(tmp_path / "r.zip") as read:
        assert len(read.items) == writer.count > 20


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_ITEMS", 2), ("MAX_FILE_BYTES", 100), ("MAX_INDEX_BYTES", 400)]
)
def test_a_recording_is_full_at_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(recording, limit, value)
    with Writer(tmp_path / "r.zip") as writer:
        writer.describe(about())
        writer.add("a.jpg", 0.0, JPEG)
        assert not writer.full
        writer.add("b.jpg", 1.0, JPEG * 5)
        writer.answer(2, result(2, "x" * 100))
        assert writer.full
    assert writer.full


def test_oversized_item_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_ITEM_BYTES", 10)
    monkeypatch.setattr(recording, "MAX_INDEX_BYTES", 1000)
    with Writer(tmp_path / "r.zip") as writer:
        writer.describe(about())
        with pytest.raises(ConfigError, match=r"a\.jpg has 11 bytes; items up to 10 can be recorded"):
            writer.add("a.jpg", 0.0, bytes(11))
        writer.add("b.jpg", 0.0, bytes(10))
        with pytest.raises(ConfigError, match="the answers are too large together"):
            writer.answer(1, result(1, "x" * 1000))
    with open_recording(tmp_path / "r.zip") as read:
        assert [(item.name, item.answer) for item in read.items] == [("b.jpg", None)]
