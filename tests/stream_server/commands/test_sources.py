"""Where the `stream` command's items come from."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.model import InputKind
from stream_server.commands import sources
from stream_server.commands.sources import (
    AFTER_SCAN,
    SourceItem,
    folder_files,
    natural,
    open_source,
    split_jpegs,
)
from stream_server.errors import ConfigError

SAMPLE = Path(sources.__file__).parents[2] / "web_client" / "sample.jpg"
LIMIT = 1 << 20


def jpeg(width: int = 32, *, thumbnail: bytes = b"", progressive: bool = False) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (24, width, 3), np.uint8)
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive), cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    data = cv2.imencode(".jpg", pixels, flags)[1].tobytes()
    if thumbnail:
        app1 = b"Exif\0\0" + thumbnail
        data = data[:2] + b"\xff\xe1" + (len(app1) + 2).to_bytes(2, "big") + app1 + data[2:]
    return data


def split(stream: bytes, chunk: int = 1 << 16, limit: int = LIMIT) -> list[bytes]:
    file = io.BytesIO(stream)
    return list(split_jpegs(lambda size: file.read(min(size, chunk)), limit))


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_jpegs_are_split_wherever_the_reads_fall(chunk: int) -> None:
    jpegs = [jpeg(32), jpeg(64, thumbnail=jpeg(8)), jpeg(16, progressive=True), jpeg(48)]
    assert split(b"".join(jpegs), chunk) == jpegs


def test_what_lies_between_jpegs_is_skipped() -> None:
    multipart = b"".join(
        b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(width) + b"\r\n" for width in (16, 24, 32)
    )
    assert split(multipart, 100) == [jpeg(16), jpeg(24), jpeg(32)]
    padded = jpeg(16)[:2] + b"\xff\xff\xff" + jpeg(16)[2:]  # T.81, B.1.1.2: any number before a marker
    assert split(padded) == [padded]


def test_an_end_within_a_segment_between_scans_is_none() -> None:
    whole = jpeg(64, progressive=True)
    second = AFTER_SCAN.search(whole, whole.index(b"\xff\xda") + 12)
    assert second
    comment = b"\xff\xfe\x00\x04\xff\xd9"
    whole = whole[: second.start()] + comment + whole[second.start() :]
    assert split(whole + jpeg(16)) == [whole, jpeg(16)]


def test_input_without_jpeg_is_an_error() -> None:
    for stream in (b"", b"PNG and so on", b"\xff\xd8"):
        with pytest.raises(ConfigError, match="standard input holds no JPEG"):
            split(stream)
    with pytest.raises(ConfigError, match="ends in the middle"):
        split(jpeg() + jpeg()[:-1])
    with pytest.raises(ConfigError, match="a segment has a wrong length"):
        split(b"\xff\xd8\xff\xe0\x00\x04abc" + bytes(10))


def test_an_endless_jpeg_is_not_kept() -> None:
    def endless() -> Iterator[bytes]:
        yield jpeg()[:-2]
        while True:
            yield bytes(1 << 16)

    chunks = endless()
    with pytest.raises(ConfigError, match="over 1,048,576 bytes"):
        next(split_jpegs(lambda _: next(chunks), LIMIT))


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_at_all_do_harm(noise: bytes, chunk: int) -> None:
    stream = jpeg(16) + b"\xff\xd8\xff" + noise
    try:
        found = split(stream, chunk)
    except ConfigError:
        return
    assert found[0] == jpeg(16)
    assert all(piece.startswith(b"\xff\xd8\xff") and piece.endswith(b"\xff\xd9") for piece in found)


def test_numbers_in_names_sort_as_numbers() -> None:
    names = ["frame 10.jpg", "frame 9.jpg", "Frame 1.jpg", "2.jpg", "a.jpg", "010.jpg"]
    assert sorted(names, key=natural) == [
        "2.jpg",
        "010.jpg",
        "a.jpg",
        "Frame 1.jpg",
        "frame 9.jpg",
        "frame 10.jpg",
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("10.jpg", "9.JPG", "x.png", "notes.txt", "more.txt", "a.json", "film.mp4"):
        (tmp_path / name).write_bytes(b'{"a": 1}')
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("image", ["9.JPG", "10.jpg", "x.png"]),
        ("text", ["more.txt", "notes.txt"]),
        ("data", ["a.json"]),
        ("bytes", ["9.JPG", "10.jpg", "a.json", "film.mp4", "more.txt", "notes.txt", "x.png"]),
    ],
)
def test_a_folder_gives_what_the_model_takes(folder: Path, kind: InputKind, names: list[str]) -> None:
    assert [file.name for file in folder_files(folder, kind)] == names
    source = open_source(str(folder), kind, LIMIT)
    assert source.total == len(names)
    payload = {"text": '{"a": 1}', "data": {"a": 1}}.get(kind, b'{"a": 1}')
    assert list(source.items) == [SourceItem(name, payload) for name in names]


def test_folder_without_items_for_the_model_is_an_error(tmp_path: Path) -> None:
    for kind in ("image", "bytes"):
        with pytest.raises(ConfigError, match=r"no .* in"):
            open_source(str(tmp_path), kind, LIMIT)


def test_a_file_of_any_other_name_is_one_item(tmp_path: Path) -> None:
    file = tmp_path / "mail"
    file.write_bytes(b"Gr\xfc\xdfe")
    assert list(open_source(str(file), "text", LIMIT).items) == [SourceItem("mail", "Gr��e")]
    assert list(open_source(str(file), "bytes", LIMIT).items) == [SourceItem("mail", b"Gr\xfc\xdfe")]
    with pytest.raises(ConfigError, match="mail is not JSON"):
        list(open_source(str(file), "data", LIMIT).items)


def test_the_sample_is_the_portrait() -> None:
    source = open_source("sample", "image", LIMIT)
    assert source.total == 1
    assert list(source.items) == [SourceItem("sample.jpg", SAMPLE.read_bytes())]
    with pytest.raises(ConfigError, match="sample gives pictures, and this model takes text"):
        open_source("sample", "text", LIMIT)


def write_video(path: Path, frames: int) -> None:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    for number in range(frames):
        video.write(np.full((48, 64, 3), 8 * number, np.uint8))
    video.release()


def test_a_video_gives_its_frames_as_jpeg_in_order(tmp_path: Path) -> None:
    write_video(tmp_path / "film.MP4", 20)
    source = open_source(str(tmp_path / "film.MP4"), "image", LIMIT)
    items = list(source.items)
    assert source.total == 20
    assert [item.name for item in items] == [str(number) for number in range(1, 21)]
    frames = [cv2.imdecode(np.frombuffer(item.payload, np.uint8), cv2.IMREAD_COLOR) for item in items]
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 20
    assert [round(frame.mean() / 8) for frame in frames] == pytest.approx(list(range(20)), abs=1)


def test_source_that_cannot_be_opened_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no film")
    for source, words in (
        (str(tmp_path / "film.mp4"), "cannot be read as a video"),
        (str(tmp_path / "nothing"), "for a camera write webcam"),
        ("webcam:99", "no camera 99"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_source(source, "image", LIMIT)
    assert capfd.readouterr().err == "", "OpenCV's own words help nobody"


def test_only_a_webcam_goes_on_by_itself() -> None:
    assert sources.is_live("webcam")
    assert sources.is_live("webcam:3")
    assert not any(map(sources.is_live, ["webcam.jpg", "-", "sample", "webcam:x"]))


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BufferedWriter]:
    """The other end of standard input."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as file, os.fdopen(writing, "wb", buffering=0) as other:
        monkeypatch.setattr(sys, "stdin", file)
        yield other  # type: ignore[misc]


def test_standard_input_gives_lines_of_text(stdin: io.BufferedWriter) -> None:
    stdin.write("Grüße\r\n\nlast".encode())
    stdin.close()
    assert list(open_source("-", "text", LIMIT).items) == [
        SourceItem("1", "Grüße"),
        SourceItem("2", ""),
        SourceItem("3", "last"),
    ]


def test_standard_input_gives_lines_of_json(stdin: io.BufferedWriter) -> None:
    stdin.write(b'{"x": [1, 2]}\nnull\nno JSON\n')
    items = open_source("-", "data", LIMIT).items
    assert [next(items).payload, next(items).payload] == [{"x": [1, 2]}, None]
    with pytest.raises(ConfigError, match="line 3 of standard input is not JSON"):
        next(items)


def test_standard_input_gives_jpegs_as_they_come(stdin: io.BufferedWriter) -> None:
    items = open_source("-", "image", LIMIT).items
    for width in (16, 32):
        stdin.write(jpeg(width))  # and the pipe stays open: a camera's next picture comes later
        assert next(items).payload == jpeg(width)


def test_a_line_over_the_limit_is_not_kept(stdin: io.BufferedWriter) -> None:
    stdin.write(json.dumps("x" * 100).encode() + b"\n")
    with pytest.raises(ConfigError, match="line 1 of standard input is over 50 bytes"):
        next(open_source("-", "text", 50).items)
