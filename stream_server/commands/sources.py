"""Where the `stream` command's items come from: files, folders, videos, cameras, standard input. It sends nothing.

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
from stream_server.errors import ConfigError

# we report what cannot be opened; OpenCV and FFmpeg would log it as well
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET, read when the first video is opened

JPEG_QUALITY = 90
"""Of re-encoded video frames: hardly a detector's score changes, and a frame of 640x480 takes about 60 KB."""

CHUNK_BYTES = 1 << 16
"""Read from standard input at once: what a Linux pipe holds."""

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

SOI = b"\xff\xd8\xff"
"""Start of image, and the first byte of the marker that must follow."""

SOS, EOI = 0xDA, 0xD9
STANDALONE = {0x01, *range(0xD0, 0xD9)}
AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""The marker that ends entropy-coded data, in which 0xFF precedes a stuffed zero or a restart marker."""


@dataclass(frozen=True, slots=True)
class SourceItem:
    """An item and what to call it: a file's name, or its number in the source, from 1.

    Attributes:
        payload: what `client.Stream.send` takes.
    """

    name: str
    payload: Any


@dataclass(frozen=True, slots=True)
class Source:
    """Items, read as they are taken.

    Attributes:
        items: to be read once; closing it closes the file or camera.
        total: how many there will be, where that is known; a video's header may be wrong about it.
    """

    items: Iterator[SourceItem]
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
        ConfigError: it is not there, cannot be read, or does not suit the model. Reading on raises it too.
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
        return Source(_frames(_open_camera(int(source.partition(":")[2] or 0))))
    path = Path(source)
    if path.is_dir():
        files = folder_files(path, kind)
        return Source(_read_files(files, kind), len(files))
    if not path.exists():
        raise ConfigError(f"no file or folder {source}; for a camera write webcam, for standard input -")
    if pictures and path.suffix.lower() in VIDEO_SUFFIXES:
        video = cv2.VideoCapture(str(path))
        if not video.isOpened():
            raise ConfigError(f"{path} cannot be read as a video; is it complete?")
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        return Source(_frames(video), count if count > 0 else None)
    return Source(_read_files([path], kind), 1)


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


def _read_files(files: Iterable[Path], kind: InputKind) -> Iterator[SourceItem]:
    for file in files:
        try:
            payload = file.read_bytes()
        except OSError as exc:
            raise ConfigError(f"cannot read {file}: {exc.strerror}") from exc
        yield SourceItem(file.name, _from_bytes(payload, kind, str(file)))


def _from_bytes(payload: bytes, kind: InputKind, where: str) -> Any:
    if kind == "text":
        return payload.decode("utf-8", "replace")
    if kind == "data":
        try:
            return json.loads(payload)
        except (ValueError, RecursionError) as exc:
            raise ConfigError(f"{where} is not JSON: {exc}") from exc
    return payload


def _open_camera(number: int) -> cv2.VideoCapture:
    camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise ConfigError(f"no camera {number}; is it plugged in, and does no other program use it?")
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a frame that waited in the driver is an old one
    return camera


def _frames(video: cv2.VideoCapture) -> Iterator[SourceItem]:
    """Encode a video's frames as JPEG until it ends."""
    number = 0
    try:
        while True:
            there, pixels = video.read()
            if not there:
                return
            number += 1
            _, jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
            yield SourceItem(str(number), jpeg.tobytes())
    finally:
        video.release()


def _standard_input(kind: InputKind, max_bytes: int) -> Iterator[SourceItem]:
    # our own file object: at exit Python waits for the lock of sys.stdin, which a reading thread may hold for ever
    with open(sys.stdin.fileno(), "rb", closefd=False) as file:
        pictures = kind in ("image", "bytes")
        # read1 gives what is there, where read would wait for a full chunk
        pieces = split_jpegs(file.read1, max_bytes) if pictures else _lines(file, kind, max_bytes)
        for number, piece in enumerate(pieces, 1):
            yield SourceItem(str(number), piece)


def _lines(file: IO[bytes], kind: InputKind, max_bytes: int) -> Iterator[Any]:
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes:
            raise ConfigError(f"line {number} of standard input is over {max_bytes:,} bytes")
        yield _from_bytes(line.rstrip(b"\r\n"), kind, f"line {number} of standard input")


def split_jpegs(read: Callable[[int], bytes], max_bytes: int) -> Iterator[bytes]:
    """Split JPEGs that follow each other, as in MJPEG; bytes between them, such as multipart headers, are skipped.

    A JPEG's end is found by following its segments (ITU-T T.81, annex B): its EXIF data may hold a thumbnail,
    which is a JPEG with an end of its own.

    Args:
        read: gives up to so many bytes, none at the end.
        max_bytes: largest JPEG.

    Raises:
        ConfigError: there is none at all, one is damaged or cut short, or one is too large.
    """
    window = _Window(read, max_bytes)
    found = 0
    while window.seek(SOI):
        found += 1
        yield window.take(_jpeg_size(window))
    if not found:
        raise ConfigError("standard input holds no JPEG; for an image model send JPEGs or MJPEG")


class _Window:
    """The part of standard input that is being looked at; offsets count from its beginning."""

    def __init__(self, read: Callable[[int], bytes], max_bytes: int) -> None:
        self._read = read
        self._max_bytes = max_bytes
        self._bytes = bytearray()

    def _more(self) -> bool:
        chunk = self._read(CHUNK_BYTES)
        self._bytes += chunk
        return bool(chunk)

    def _require_more(self) -> None:
        if len(self._bytes) > self._max_bytes:
            raise ConfigError(f"a JPEG in standard input is over {self._max_bytes:,} bytes, or damaged")
        if not self._more():
            raise ConfigError("standard input ends in the middle of a JPEG")

    def seek(self, pattern: bytes) -> bool:
        """Forget what comes before the next `pattern`; False if there is none."""
        while (at := self._bytes.find(pattern)) < 0:
            del self._bytes[: -len(pattern) + 1]  # its beginning may be at the end
            if not self._more():
                return False
        del self._bytes[:at]
        return True

    def u16(self, at: int) -> int:
        while len(self._bytes) < at + 2:
            self._require_more()
        return self._bytes[at] << 8 | self._bytes[at + 1]

    def search(self, pattern: re.Pattern[bytes], at: int) -> int:
        """Find a pattern of two bytes."""
        while not (match := pattern.search(self._bytes, at)):
            at = max(at, len(self._bytes) - 1)
            self._require_more()
        return match.start()

    def take(self, size: int) -> bytes:
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken


def _jpeg_size(window: _Window) -> int:
    at = 2
    while True:
        word = window.u16(at)
        marker = word & 0xFF
        if word >> 8 != 0xFF:
            raise ConfigError("a JPEG in standard input is damaged: a segment has a wrong length")
        if marker == EOI:
            return at + 2
        if marker == 0xFF:  # padding before a marker
            at += 1
        elif marker in STANDALONE:
            at += 2
        else:
            at += 2 + window.u16(at + 2)
            if marker == SOS:
                at = window.search(AFTER_SCAN, at)
