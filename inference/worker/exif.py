"""Reads the orientation from EXIF data, as Chromium does; damaged data says nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator

UPRIGHT = 1

ORIENTATION, SUB_DIRECTORY = 0x0112, 0x8769
SHORT, LONG = 3, 4
MAX_ORIENTATION = 8


def read_orientation(tiff: bytes) -> int:
    """Read the orientation from EXIF's first directory or its sub-directory (CIPA DC-008, 4.6).

    The first valid tag counts, and only one of type SHORT with a single value.

    Args:
        tiff: the EXIF data from its byte order mark on.

    Returns:
        1 to 8; 1 if the data does not say.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return UPRIGHT
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start < 8:
        return UPRIGHT
    for tag, kind, count, value in _flattened(tiff, order, start):
        (short,) = struct.unpack(order + "H", value[:2])
        if (tag, kind, count) == (ORIENTATION, SHORT, 1) and 1 <= short <= MAX_ORIENTATION:
            return int(short)
    return UPRIGHT


def _flattened(tiff: bytes, order: str, start: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield a directory's entries, with those of its sub-directory where that is named; one, as each costs time."""
    followed = False
    for entry in _entries(tiff, order, start):
        yield entry
        if entry[:3] == (SUB_DIRECTORY, LONG, 1) and not followed:
            followed = True
            (below,) = struct.unpack(order + "I", entry[3])
            yield from _entries(tiff, order, below)


def _entries(tiff: bytes, order: str, at: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield tag, type, count and the four bytes of the value of each entry that is there in full."""
    if at + 2 > len(tiff):
        return
    (count,) = struct.unpack_from(order + "H", tiff, at)
    whole = (len(tiff) - at - 2) // 12
    for entry in range(at + 2, at + 2 + 12 * min(count, whole), 12):
        tag, kind, values = struct.unpack_from(order + "HHI", tiff, entry)
        yield tag, kind, values, tiff[entry + 8 : entry + 12]
