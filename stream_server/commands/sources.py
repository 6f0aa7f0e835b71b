"""Where the commands' items come from: files, folders, videos, cameras, standard input. It sends nothing.

What cannot be read costs itself alone: the source goes on after it, and gives its name and the reason.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

from inference.model import InputKind
from stream_server.commands.mjpeg import CHUNK_BYTES, SOI, Damaged, split_jpegs
from stream_server.commands.source_items import SourceItem, Unreadable
from stream_server.errors import ConfigError

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
        from stream_server.commands.video import open_camera  # noqa: PLC0415  # most sources need no OpenCV

        return Source(open_camera(number))
    path = Path(source)
    if path.is_dir():
        files = folder_files(path, kind)
        return Source(_read_files(files, kind), len(files))
    if not path.exists():
        raise ConfigError(f"no file or folder {source}; for a camera write webcam, for standard input -")
    if pictures and path.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(path, max_bytes)
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
            return SourceItem(name, json.loads(payload, parse_constant=_not_json, parse_float=_finite))
    except UnicodeDecodeError:
        return Unreadable(name, "bad_item", f"{where} is not UTF-8, and this model takes {kind}")
    except (ValueError, RecursionError) as exc:
        return Unreadable(name, "bad_item", f"{where} is not JSON: {exc}")
    return SourceItem(name, payload)


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:20]} is too large for a number")
    return number


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number of JSON")


def _open_video(path: Path, max_bytes: int) -> Source:
    if is_mjpeg(path):
        return Source(_mjpeg_file(path, max_bytes))
    from stream_server.commands.video import open_video  # noqa: PLC0415  # most sources need no OpenCV

    return Source(*open_video(path))


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
