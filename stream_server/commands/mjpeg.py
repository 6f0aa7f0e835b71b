"""Splits JPEGs that follow each other, as in MJPEG. It decodes no picture, and a damaged one costs itself alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stream_server.errors import ConfigError

CHUNK_BYTES = 1 << 16
"""Read at once: what a Linux pipe holds."""

SOI = b"\xff\xd8\xff"
"""Start of image, and the first byte of the marker that must follow."""

START, SOS, EOI = 0xD8, 0xDA, 0xD9
STANDALONE = {0x01, *range(0xD0, 0xD8)}
AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""The marker that ends entropy-coded data, in which 0xFF precedes a stuffed zero or a restart marker."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A JPEG that cannot be sent.

    Attributes:
        code: "bad_image" or "too_large".
        message: why, for people.
    """

    code: str
    message: str


class _Broken(Exception):
    """The JPEG being looked at is not whole."""

    def __init__(self, code: str, message: str, at: int) -> None:
        super().__init__(message)
        self.damaged = Damaged(code, message)
        self.at = at  # up to here there is no next one


def split_jpegs(read: Callable[[int], bytes], max_bytes: int) -> Iterator[bytes | Damaged]:
    """Split JPEGs that follow each other; bytes between them, such as multipart headers, are skipped.

    A JPEG's end is found by following its segments (ITU-T T.81, annex B): its EXIF data may hold a thumbnail,
    which is a JPEG with an end of its own. After damage the search goes on in the last segment that was followed.
    A picture without its end is given as it is, up to the next one's start: what is left of it a decoder must say.

    Args:
        read: gives up to so many bytes, none at the end.
        max_bytes: largest JPEG.

    Raises:
        ConfigError: there is none at all.
    """
    window = _Window(read, max_bytes)
    found = 0
    while window.seek(SOI):
        found += 1
        try:
            size = _jpeg_size(window)
        except _Broken as exc:
            window.take(exc.at)
            yield exc.damaged
        else:
            yield window.take(size)
    if not found:
        raise ConfigError("there is no JPEG in it; for an image model send JPEGs or MJPEG")


class _Window:
    """The part of the input that is being looked at; offsets count from its beginning.

    Attributes:
        segment: where the last segment begins. If the JPEG is broken, its length may be what is wrong, and then it
            has passed over whole JPEGs.
    """

    def __init__(self, read: Callable[[int], bytes], max_bytes: int) -> None:
        self._read = read
        self._max_bytes = max_bytes
        self._bytes = bytearray()
        self.segment = 0

    def _more(self) -> bool:
        chunk = self._read(CHUNK_BYTES)
        self._bytes += chunk
        return bool(chunk)

    def _require_more(self) -> None:
        end = len(self._bytes)
        if end > self._max_bytes:
            raise _Broken("too_large", f"the JPEG is over {self._max_bytes:,} bytes, or damaged", end - 2)
        if not self._more():
            raise _Broken("bad_image", "the input ends in the middle of the JPEG", self.segment)

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
    at, scanned = 2, False
    window.segment = at
    while True:
        word = window.u16(at)
        marker = word & 0xFF
        if word >> 8 != 0xFF or marker == 0:
            raise _Broken("bad_image", "the JPEG is damaged: a segment has a wrong length", window.segment)
        if marker == START:
            if scanned:
                return at
            raise _Broken("bad_image", "the JPEG is damaged: another one begins within it", at)
        if marker == EOI:
            return at + 2
        if marker == 0xFF:  # padding before a marker
            at += 1
        elif marker in STANDALONE:
            at += 2
        else:
            window.segment = at + 2
            at += 2 + window.u16(at + 2)
            if marker == SOS:
                at, scanned = window.search(AFTER_SCAN, at), True
