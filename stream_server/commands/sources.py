"""Where the commands' items come from: files, folders, videos, cameras, standard input. It sends nothing.

What cannot be read costs itself alone: the source goes on after it, and gives its name and the reason.

OpenCV is imported here, so nothing that the server's process imports may import this.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import cv2

from inference.model import InputKind
from stream_server.commands.mjpeg import CHUNK_BYTES, SOI, Damaged, split_jpegs
from stream_server.errors import ConfigError

# we report what cannot be opened; OpenCV and FFmpeg would log it as well
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET, read when the first video is opened

JPEG_QUALITY = 90
"""Of re-encoded video frames: hardly a detector's score changes, and a frame of 640x480 takes about 60 KB."""

SUFFIXES: dict[InputKind, frozenset[str]] = {
    "image": frozenset({".jpg", ".jpeg", ".png", ".webp"}),
    "text": frozenset({".txt"}),
    "data": frozenset({".json"}),
}
"""What is taken from a folder; for a bytes model everything."""

VIDEO_SUFFIXES = frozenset(
    {
        ".3gp",
        ".avi",
        ".flv",
        ".m4v",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".webm",
        ".wmv",
    }
)

COUNTING_SUFFIXES = frozenset({".3gp", ".avi", ".m4v", ".mov", ".mp4"})
"""Videos whose header counts the frames; of others OpenCV guesses the number from the duration and the rate."""

GUESS_S = 1.0
"""By how much the last frame of those others may come before the duration ends."""

MOST_FAILED = 100
"""Reads in a row that fail before a video is taken to have ended: three seconds of damage, and 2 ms at its end."""


@dataclass(frozen=True, slots=True)
class SourceItem:
    """An item and what to call it: a file's name, or its number in the source, from 1.

    Attributes:
        payload: what `client.Stream.send` takes.
    """

    name: str
    payload: Any


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An item, or several, that could not be read and cannot be sent.

    Attributes:
        name: what to call it, as `SourceItem` has it.
        code: why, as the server calls it: "bad_image", "bad_item", "too_large", or "unreadable".
        message: the same for people.
        count: how many.
    """

    name: str
    code: str
    message: str
    count: int = 1


class FileUnreadable(ConfigError):
    """The only file that was asked for cannot be read or does not suit the model."""

    def __init__(self, item: Unreadable) -> None:
        super().__init__(item.message)
        self.item = item


@dataclass(frozen=True, slots=True)
class Source:
    """Items, read as they are taken.

    Attributes:
        items: to be read once; closing it closes the file or camera.
        total: how many there will be, where that is known; a video's header may be wrong about it.
    """

    items: Iterator[SourceItem | Unreadable]
    total: int | None = None


def is_live(source: str) -> bool:
    """Whether a source goes on by itself: a webcam."""
    return re.fullmatch(r"webcam(:\d+)?", source) is not None


def open_source(source: str, kind: InputKind, max_bytes: int) -> Source:
    """Open what the command line names.

    Args:
        source: a folder, a file, ``webcam``, ``webcam:N``, ``sample``, or ``-`` for standard input.
        kind: what the model takes.
        max_bytes: largest item that is read from standard input.

    Raises:
        ConfigError: it is not there, cannot be read, or does not suit the model.
    """
    pictures = kind in ("image", "bytes")
    if source == "-":
        return Source(_standard_input(kind, max_bytes))
    if source == "sample" or is_live(source):
        if not pictures:
            raise ConfigError(f"{source} gives pictures, and this model takes {kind}")
        if source == "sample":
            portrait = resources.files("web_client") / "sample.jpg"
            return Source(iter([SourceItem("sample.jpg", portrait.read_bytes())]), 1)
        number = int(source.partition(":")[2] or 0)
        return Source(_camera_frames(_open_camera(number), number))
    path = Path(source)
    if path.is_dir():
        files = folder_files(path, kind)
        return Source(_read_files(files, kind), len(files))
    if not path.exists():
        raise ConfigError(f"no file or folder {source}; for a camera write webcam, for standard input -")
    if pictures and path.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(path, max_bytes)
    item = _read_file(path, kind)
    if isinstance(item, Unreadable):
        raise FileUnreadable(item)
    return Source(iter([item]), 1)


def folder_files(folder: Path, kind: InputKind) -> list[Path]:
    """List the files in a folder that a model of this kind takes, ``10.jpg`` after ``9.jpg``.

    Raises:
        ConfigError: there is none.
    """
    suffixes = SUFFIXES.get(kind)
    files = [
        file
        for file in folder.iterdir()
        if file.is_file() and (not suffixes or file.suffix.lower() in suffixes)
    ]
    if not files:
        raise ConfigError(f"no {', '.join(sorted(suffixes or ())) or 'file'} in {folder}")
    return sorted(files, key=lambda file: natural(file.name))


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that compares the numbers in a name as numbers, and puts them before letters."""
    parts = [part for part in re.split(r"(\d+)", name.casefold()) if part]
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts]


def _read_files(files: Iterable[Path], kind: InputKind) -> Iterator[SourceItem | Unreadable]:
    return (_read_file(file, kind) for file in files)


def _read_file(file: Path, kind: InputKind) -> SourceItem | Unreadable:
    try:
        payload = file.read_bytes()
    except OSError as exc:
        return Unreadable(file.name, "unreadable", f"cannot read {file}: {exc.strerror}")
    return _from_bytes(payload, kind, file.name, str(file))


def _from_bytes(payload: bytes, kind: InputKind, name: str, where: str) -> SourceItem | Unreadable:
    try:
        if kind == "text":
            return SourceItem(name, payload.decode("utf-8"))
        if kind == "data":
            return SourceItem(name, json.loads(payload, parse_constant=_not_json))
    except UnicodeDecodeError:
        return Unreadable(name, "bad_item", f"{where} is not UTF-8, and this model takes {kind}")
    except (ValueError, RecursionError) as exc:
        return Unreadable(name, "bad_item", f"{where} is not JSON: {exc}")
    return SourceItem(name, payload)


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number of JSON")


def _open_camera(number: int) -> cv2.VideoCapture:
    camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise ConfigError(f"no camera {number}; is it plugged in, and does no other program use it?")
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a frame that waited in the driver is an old one
    return camera


def _open_video(path: Path, max_bytes: int) -> Source:
    if is_mjpeg(path):
        return Source(_mjpeg_file(path, max_bytes))
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise ConfigError(f"{path} cannot be read as a video; is it complete?")
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    return Source(_video_frames(video, path), count if count > 0 else None)


def is_mjpeg(path: Path) -> bool:
    """Whether a file is JPEGs one after the other, which need no decoder.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return path.suffix.lower() in (".mjpeg", ".mjpg") and file.read(len(SOI)) == SOI
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc


def _mjpeg_file(path: Path, max_bytes: int) -> Iterator[SourceItem | Unreadable]:
    with path.open("rb") as file:
        yield from _jpegs(file.read, max_bytes)


def _video_frames(video: cv2.VideoCapture, path: Path) -> Iterator[SourceItem | Unreadable]:
    """Encode a video's frames as JPEG until it ends; go on after frames that cannot be decoded."""
    number = failed = 0
    seconds = 0.0
    try:
        while failed < MOST_FAILED:
            there, pixels = video.read()
            if not there:
                failed += 1
                continue
            if failed:
                yield _undecoded(number + 1, failed)
            number += failed + 1
            failed = 0
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            yield _encoded(number, pixels)
        if (missing := _missing(video, path, number, seconds)) > 0:
            yield _undecoded(number + 1, missing)
    finally:
        video.release()


def _missing(video: cv2.VideoCapture, path: Path, number: int, seconds: float) -> int:
    """Count the frames that should have come after the last one that did."""
    promised = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    if path.suffix.lower() in COUNTING_SUFFIXES:
        return promised - number
    rate = video.get(cv2.CAP_PROP_FPS)
    left_s = promised / rate - seconds if rate > 0 else 0.0
    return int(left_s * rate) if left_s > GUESS_S else 0


def _undecoded(first: int, count: int) -> Unreadable:
    last = first + count - 1
    name = str(first) if count == 1 else f"{first}-{last}"
    return Unreadable(name, "bad_image", f"{count:,} frames of the video could not be decoded", count)


def _camera_frames(camera: cv2.VideoCapture, number: int) -> Iterator[SourceItem | Unreadable]:
    count = 0
    try:
        while True:
            there, pixels = camera.read()
            count += 1
            if not there:
                yield Unreadable(str(count), "unreadable", f"camera {number} gives no more pictures")
                return
            yield _encoded(count, pixels)
    finally:
        camera.release()


def _encoded(number: int, pixels: Any) -> SourceItem:
    _, jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return SourceItem(str(number), jpeg.tobytes())


def _jpegs(read: Callable[[int], bytes], max_bytes: int) -> Iterator[SourceItem | Unreadable]:
    for number, piece in enumerate(split_jpegs(read, max_bytes), 1):
        if isinstance(piece, Damaged):
            yield Unreadable(str(number), piece.code, piece.message)
        else:
            yield SourceItem(str(number), piece)


def _standard_input(kind: InputKind, max_bytes: int) -> Iterator[SourceItem | Unreadable]:
    # our own file object: at exit Python waits for the lock of sys.stdin, which a reading thread may hold for ever
    with open(sys.stdin.fileno(), "rb", closefd=False) as file:
        # read1 gives what is there, where read would wait for a full chunk
        yield from (
            _jpegs(file.read1, max_bytes) if kind in ("image", "bytes") else _lines(file, kind, max_bytes)
        )


def _lines(file: IO[bytes], kind: InputKind, max_bytes: int) -> Iterator[SourceItem | Unreadable]:
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        where = f"line {number} of standard input"
        if len(line) > max_bytes and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(CHUNK_BYTES)
            yield Unreadable(str(number), "too_large", f"{where} is over {max_bytes:,} bytes")
        else:
            yield _from_bytes(line.rstrip(b"\r\n"), kind, str(number), where)
