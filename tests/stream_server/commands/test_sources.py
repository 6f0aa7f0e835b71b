"""Where the `stream` command's items come from."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from inference.model import InputKind
from stream_server.commands import sources, video
from stream_server.commands.source_items import SourceItem, Unreadable
from stream_server.commands.sources import folder_files, natural, open_source
from stream_server.errors import ConfigError
from tests.stream_server.commands.test_mjpeg import jpeg

SAMPLE = Path(sources.__file__).parents[2] / "web_client" / "sample.jpg"
LIMIT = 1 << 20


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
    assert list(open_source(str(file), "bytes", LIMIT).items) == [SourceItem("mail", b"Gr\xfc\xdfe")]
    file.write_text("Grüße", "utf-8")
    assert list(open_source(str(file), "text", LIMIT).items) == [SourceItem("mail", "Grüße")]


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("text", b"Gr\xfc\xdfe", "item is not UTF-8, and this model takes text"),
        ("text", jpeg(), "item is not UTF-8, and this model takes text"),
        ("data", b"Hello", "item is not JSON"),
        ("data", b'{"x": NaN}', "item is not JSON: NaN is not a number of JSON"),
        ("data", b"\xff", "item is not UTF-8, and this model takes data"),
        ("data", b'{"x": -1e999}', "item is not JSON: -1e999 is too large for a number"),
        ("data", b"[" * 100_000, "item is not JSON"),
    ],
)
def test_a_file_that_the_model_does_not_take_is_refused_and_costs_a_folder_itself_alone(
    tmp_path: Path, kind: InputKind, content: bytes, words: str
) -> None:
    (tmp_path / "item").write_bytes(content)
    (alone,) = open_source(str(tmp_path / "item"), kind, LIMIT).items
    assert isinstance(alone, Unreadable)
    assert words in alone.message
    suffix = {"text": ".txt", "data": ".json"}[kind]
    (tmp_path / f"1{suffix}").write_bytes(content)
    (tmp_path / f"2{suffix}").write_bytes(b"1")
    bad, good = open_source(str(tmp_path), kind, LIMIT).items
    assert isinstance(bad, Unreadable)
    assert (bad.name, bad.code) == (f"1{suffix}", "bad_item")
    assert isinstance(good, SourceItem)


def test_a_file_that_has_gone_costs_itself_alone(folder: Path) -> None:
    items = open_source(str(folder), "image", LIMIT).items
    (folder / "9.JPG").unlink()
    gone, there, _ = items
    assert isinstance(gone, Unreadable)
    assert (gone.name, gone.code) == ("9.JPG", "unreadable")
    assert "No such file" in gone.message
    assert isinstance(there, SourceItem)


def test_the_sample_is_the_portrait() -> None:
    source = open_source("sample", "image", LIMIT)
    assert source.total == 1
    assert list(source.items) == [SourceItem("sample.jpg", SAMPLE.read_bytes())]
    with pytest.raises(ConfigError, match="sample gives pictures, and this model takes text"):
        open_source("sample", "text", LIMIT)


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 8 * number, np.uint8))
    writer.release()


def test_a_video_gives_its_frames_as_jpeg_in_order(tmp_path: Path) -> None:
    write_video(tmp_path / "film.MP4", 20)
    source = open_source(str(tmp_path / "film.MP4"), "image", LIMIT)
    items = list(source.items)
    assert source.total == 20
    assert [item.name for item in items] == [str(number) for number in range(1, 21)]
    frames = [cv2.imdecode(np.frombuffer(item.payload, np.uint8), cv2.IMREAD_COLOR) for item in items]
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 20
    assert [round(frame.mean() / 8) for frame in frames] == pytest.approx(list(range(20)), abs=1)


def numbers(items: list[SourceItem | Unreadable]) -> list[int]:
    """The frames' numbers, those that could not be decoded below zero."""
    return [-item.count if isinstance(item, Unreadable) else int(item.name) for item in items]


def test_a_damaged_frame_does_not_end_a_video(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"mp4v"), 30, (320, 240))
    noise = np.random.default_rng(1)
    for _ in range(40):
        writer.write(noise.integers(0, 256, (240, 320, 3), np.uint8))
    writer.release()
    whole = film.read_bytes()
    middle = len(whole) // 2
    film.write_bytes(whole[:middle] + bytes(30_000) + whole[middle + 30_000 :])
    items = list(open_source(str(film), "image", LIMIT).items)
    missing = sum(item.count for item in items if isinstance(item, Unreadable))
    found = [item for item in items if isinstance(item, SourceItem)]
    assert missing >= 1
    assert len(found) + missing == 40
    assert int(found[-1].name) > 30, "it goes on behind the damage"


@pytest.mark.parametrize(("name", "codec"), [("film.avi", "MJPG"), ("film.mkv", "MJPG")])
def test_a_video_that_was_cut_has_fewer_frames_than_it_promises(
    tmp_path: Path, name: str, codec: str
) -> None:
    film = tmp_path / name
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*codec), 30, (64, 48))
    for number in range(90):
        writer.write(np.full((48, 64, 3), number, np.uint8))
    writer.release()
    assert numbers(list(open_source(str(film), "image", LIMIT).items)) == list(range(1, 91))
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    *found, missing = numbers(list(open_source(str(film), "image", LIMIT).items))
    assert found == list(range(1, len(found) + 1))
    assert len(found) - missing == pytest.approx(90, abs=1)


def test_a_file_of_jpegs_is_sent_as_it_is(tmp_path: Path) -> None:
    film = tmp_path / "film.mjpeg"
    film.write_bytes(jpeg(16) + jpeg(32)[:20] + bytes(4) + jpeg(32)[20:] + jpeg(48))
    first, damaged, last = open_source(str(film), "image", LIMIT).items
    assert (first, last) == (SourceItem("1", jpeg(16)), SourceItem("3", jpeg(48)))
    assert isinstance(damaged, Unreadable)


def test_a_camera_that_stops_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        left = 2

        def isOpened(self) -> bool:  # noqa: N802  # OpenCV's
            return True

        def set(self, *_: object) -> None: ...

        def read(self) -> tuple[bool, object]:
            self.left -= 1
            return self.left >= 0, np.zeros((8, 8, 3), np.uint8)

        def release(self) -> None: ...

    monkeypatch.setattr(video.cv2, "VideoCapture", lambda _: Camera())
    *pictures, end = open_source("webcam", "image", LIMIT).items
    assert len(pictures) == 2
    assert end == Unreadable("3", "unreadable", "camera 0 gives no more pictures")


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
    stdin.write(b'{"x": [1, 2]}\nnull\nno JSON\n"last"\n')
    stdin.close()
    items = list(open_source("-", "data", LIMIT).items)
    assert [item.payload for item in items if isinstance(item, SourceItem)] == [{"x": [1, 2]}, None, "last"]
    assert isinstance(items[2], Unreadable)
    assert items[2].message.startswith("line 3 of standard input is not JSON")


def test_standard_input_gives_jpegs_as_they_come(stdin: io.BufferedWriter) -> None:
    items = open_source("-", "image", LIMIT).items
    for width in (16, 32):
        stdin.write(jpeg(width))  # and the pipe stays open: a camera's next picture comes later
        assert next(items).payload == jpeg(width)


def test_a_line_over_the_limit_is_not_kept_and_costs_itself_alone(stdin: io.BufferedWriter) -> None:
    lines = [b"x" * 50, b"x" * 51, b"x" * 30_000, b"short", b"x" * 60]
    stdin.write(b"\n".join(lines))  # less than a pipe holds
    stdin.close()
    items = list(open_source("-", "text", 50).items)
    assert [(item.name, isinstance(item, SourceItem)) for item in items] == [
        ("1", True),
        ("2", False),
        ("3", False),
        ("4", True),
        ("5", False),
    ]
    assert items[1] == Unreadable("2", "too_large", "line 2 of standard input is over 50 bytes")
