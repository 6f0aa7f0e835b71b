"""Reads a WebP's chunks before any decoder sees them (RFC 9649), and finds its first picture.

What the decoder gets is written here: that picture's bitstream in a file of its own. Animation, alpha and metadata
are left out, so that a canvas or a frame that claims more than there is costs nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from inference.worker.image_limits import bad, check_cost, cut_short, too_large

LOSSY, LOSSLESS = b"VP8 ", b"VP8L"

MAX_CHUNKS = 1_000
"""Before the first picture: a header, and perhaps a profile, an animation's parameters and unknown ones."""

NS_PIXEL = {LOSSY: 10, LOSSLESS: 15}
NS_BYTE = {LOSSY: 40, LOSSLESS: 20}
"""Nanoseconds. Of a lossy one, 12 megapixels at a quality of 80 take 0.28 s."""

PIXEL_BYTES = {LOSSY: 6, LOSSLESS: 7}
"""Lossless ones are decoded with an alpha that is dropped; Python's array is a copy of OpenCV's."""

START_CODE = b"\x9d\x01\x2a"
LOSSLESS_SIGNATURE = 0x2F
HAS_ALPHA = 0x10
"""In the last byte of a lossless picture's size: the decoder would take a fourth byte for each pixel."""


@dataclass(frozen=True, slots=True)
class Webp:
    """The size of a WebP's canvas, and its first picture: where it is on the canvas, and a file with that alone."""

    width: int
    height: int
    left: int
    top: int
    picture: bytes


def read(data: bytes) -> Webp:
    """Read the chunks up to the first picture.

    Raises:
        ItemError: ``bad_image`` (cut short, no picture, a picture that does not fit), ``too_large``.
    """
    canvas: tuple[int, int] | None = None
    for kind, body in _chunks(memoryview(data)[12:]):
        if kind == b"VP8X":
            if len(body) < 10:
                raise cut_short()
            canvas = _u24(body, 4) + 1, _u24(body, 7) + 1
        elif kind in (LOSSY, LOSSLESS):
            return _placed(canvas, (0, 0), None, kind, body)
        elif kind == b"ANMF" and canvas:
            if len(body) < 16:
                raise cut_short()
            size = _u24(body, 6) + 1, _u24(body, 9) + 1
            for inner, content in _chunks(body[16:]):
                if inner in (LOSSY, LOSSLESS):
                    return _placed(canvas, (2 * _u24(body, 0), 2 * _u24(body, 3)), size, inner, content)
            break
    raise bad("the WebP has no picture")


def _chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and body of each chunk; one that is not there in full is an error."""
    at = 0
    for _ in range(MAX_CHUNKS):
        if at >= len(view):
            return
        if at + 8 > len(view):
            raise cut_short()
        kind, size = struct.unpack_from("<4sI", view, at)
        if at + 8 + size > len(view):
            raise cut_short()
        yield kind, view[at + 8 : at + 8 + size]
        at += 8 + size + (size & 1)
    raise too_large(f"the WebP has over {MAX_CHUNKS:,} chunks before its first picture: encode it again")


def _placed(
    canvas: tuple[int, int] | None,
    corner: tuple[int, int],
    announced: tuple[int, int] | None,
    kind: bytes,
    body: memoryview,
) -> Webp:
    width, height = _size(kind, body)
    if not width or not height:
        raise bad("the WebP's size is invalid")
    canvas = canvas or (width, height)
    fits = corner[0] + width <= canvas[0] and corner[1] + height <= canvas[1]
    if (width, height) != (announced or canvas) or not fits:
        raise bad("the WebP's sizes contradict each other")
    pixels = canvas[0] * canvas[1]
    check_cost(*canvas, NS_PIXEL[kind] * pixels + NS_BYTE[kind] * len(body), PIXEL_BYTES[kind] * pixels)
    stream = bytearray(body)
    if kind == LOSSLESS:
        stream[4] &= ~HAS_ALPHA
    if len(stream) & 1:
        stream.append(0)
    head = struct.pack("<4sI4s4sI", b"RIFF", 12 + len(stream), b"WEBP", kind, len(body))
    return Webp(*canvas, *corner, head + stream)


def _size(kind: bytes, body: memoryview) -> tuple[int, int]:
    """Read a picture's size from its bitstream."""
    if len(body) < (10 if kind == LOSSY else 5):
        raise cut_short()
    if kind == LOSSY:
        if body[3:6] != START_CODE:
            raise bad("the WebP's picture is damaged")
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if body[0] != LOSSLESS_SIGNATURE:
        raise bad("the WebP's picture is damaged")
    (bits,) = struct.unpack_from("<I", body, 1)
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _u24(data: memoryview, at: int) -> int:
    return data[at] | data[at + 1] << 8 | data[at + 2] << 16
