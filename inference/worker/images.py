"""Decodes a frame inside a worker, JPEG, PNG or WebP to pixels at a model's working size; it knows no model.

The size that a header claims is read here, before any decoder sees the bytes, because decoders allocate
what a header claims: 48 KB that claim 30000x30000 pixels cost a minute and gigabytes.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg

from inference.image import Image, Pixels
from inference.model import ItemError

MAX_PIXELS = 25_000_000
"""Largest frame: most cameras and phones take 24 megapixels in full, and decoding those takes 72 MB."""

# OpenCV reads both once, when it is loaded. The first is a second fence behind the check of the header.
# Without the other, damaged images write to standard error: they are answered, and no client may fill a log.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import cv2  # noqa: E402  # after its settings

MAX_SCANS = 64
"""Most scans of a progressive JPEG: encoders write about ten, and each costs a pass over the whole image."""

MAX_DCT_SHRINK = 8
"""A JPEG's blocks are 8x8: an eighth of the size is their mean alone."""

SOF_HUFFMAN = {0xC0, 0xC1, 0xC2}
SOF_PROGRESSIVE = 0xC2
SOF_OTHER = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
SOS, EOI, APP1 = 0xDA, 0xD9, 0xE1
STANDALONE = {0x01, 0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7}
AFTER_SCAN = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
"""The marker of the segment after a scan, in whose data 0xFF precedes a zero or is one that stands alone."""

LIBJPEG_NO_MEMORY = "Insufficient memory"
"""How libjpeg's message begins where it had no room (jerror.h): simplejpeg has one exception for all of them."""

EXIF_ORIENTATION = 0x0112
TRANSPOSED = 5
"""Orientations from this one on swap width and height."""
FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""Orientation to the axis that `cv2.flip` takes, after transposing where the orientation asks for it."""


@dataclass(frozen=True, slots=True)
class Header:
    """What an image says of itself: its size in pixels as stored, and a JPEG's components and orientation."""

    width: int
    height: int
    components: int = 3
    orientation: int = 1


def decode(payload: bytes | memoryview, long_side: int | None) -> Image:
    """Decode a JPEG, PNG or WebP, told apart by their first bytes.

    A frame whose longer side exceeds ``long_side`` is scaled down to it; none is ever enlarged. Every kind
    of colour becomes BGR of 8 bits: alpha is dropped, 16 bits lose the lower 8, and of an animation the
    first picture is taken. EXIF orientation is applied. Bytes after the image's end are ignored.

    Args:
        payload: the encoded image, as sent.
        long_side: the working size in pixels; None decodes at full size.

    Raises:
        ItemError: ``empty``; ``unsupported_image`` (another format, or a kind of JPEG that neither cameras
            nor browsers write); ``too_large`` (more than `MAX_PIXELS` or `MAX_SCANS`); ``bad_image``
            (damaged or cut short: no part of it is handed on).
        MemoryError: there is no room for its pixels. What a WebP needs besides them, OpenCV does not tell from
            damage.
    """
    data = bytes(payload)
    if not data:
        raise ItemError("empty", "the message is empty: send the bytes of a JPEG, PNG or WebP")
    header = read_header(data)
    if header.width * header.height > MAX_PIXELS:
        raise ItemError(
            "too_large",
            f"the image has {header.width}x{header.height} pixels: send at most {MAX_PIXELS:,}",
        )
    if data.startswith(b"\xff\xd8"):
        return _decode_jpeg(data, header, long_side)
    pixels = _decode_opencv(data)
    height, width = pixels.shape[:2]
    return Image(_shrink(pixels, width, height, long_side), width, height)


def read_header(data: bytes) -> Header:
    """Read the size of an image without decoding it.

    Raises:
        ItemError: ``unsupported_image``, ``bad_image``, or ``too_large`` for a JPEG of too many scans.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg_header(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png_header(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_header(data)
    except (IndexError, struct.error) as exc:
        raise _bad("it is cut short") from exc
    raise ItemError("unsupported_image", "this is no JPEG, PNG or WebP: send one of these")


def _bad(reason: str) -> ItemError:
    return ItemError("bad_image", f"the image cannot be decoded: {reason}")


def _jpeg_header(data: bytes) -> Header:
    """Read the segments up to the frame header (ITU-T T.81, annex B)."""
    orientation = 1
    for marker, at, size in _segments(data):
        if marker == APP1 and data.startswith(b"Exif\0\0", at + 2):
            orientation = _orientation(data[at + 8 : at + size])
        elif marker in SOF_OTHER:
            raise ItemError(
                "unsupported_image", "lossless and arithmetic JPEGs are not read: send a baseline JPEG"
            )
        elif marker in SOF_HUFFMAN:
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 2)
            if precision != 8:
                raise ItemError("unsupported_image", f"the JPEG has {precision} bits a sample: send 8")
            if marker == SOF_PROGRESSIVE:
                _count_scans(data, at + size)
            return Header(width, height, components, orientation)
    raise _bad("the JPEG has no frame header")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, offset and size of a JPEG's segments before its first scan.

    It must read them as libjpeg does: were that to find another frame header, the cap would be passed by.
    """
    at = 2
    while True:
        if data[at] != 0xFF:
            raise _bad("a JPEG segment has a wrong length")
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker == SOS:
            return
        if marker not in STANDALONE:
            size = _u16(data, at)
            yield marker, at, size
            at += size


def _count_scans(data: bytes, at: int) -> None:
    """Follow a progressive JPEG's segments from its frame header to its end."""
    scans = 0
    while (found := AFTER_SCAN.search(data, at)) and data[found.end() - 1] != EOI:
        at = found.end() + _u16(data, found.end())
        scans += data[found.end() - 1] == SOS
        if scans > MAX_SCANS:
            raise ItemError("too_large", f"the JPEG has over {MAX_SCANS} scans: send a baseline JPEG")


def _orientation(tiff: bytes) -> int:
    """Read the orientation from EXIF's first directory (CIPA DC-008, 4.6.4); damaged data says nothing."""
    order = ">" if tiff.startswith(b"MM") else "<"
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == EXIF_ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _png_header(data: bytes) -> Header:
    """Read the first chunk (PNG specification, 11.2.2)."""
    size, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if (size, kind) != (13, b"IHDR"):
        raise _bad("the PNG does not begin with its header")
    return Header(width, height)


def _webp_header(data: bytes) -> Header:
    """Read the first chunk (RFC 9649, 2.5 to 2.7): lossy, lossless or extended."""
    kind = data[12:16]
    if kind == b"VP8X":
        return Header(_u24(data, 24) + 1, _u24(data, 27) + 1)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header(width & 0x3FFF, height & 0x3FFF)
    raise _bad("the WebP does not begin with an image")


def _u16(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _u24(data: bytes, at: int) -> int:
    return data[at] | data[at + 1] << 8 | data[at + 2] << 16


def _decode_jpeg(data: bytes, header: Header, long_side: int | None) -> Image:
    """Decode with libjpeg-turbo, shrinking while still in the frequency domain.

    Only by 2, 4 and 8, for which it has vector code: 1920x1080 to 640x360 takes 4.2 ms of CPU by a half and
    a resize, 5.4 ms by three eighths, which is the nearest scale above.
    """
    width, height = header.width, header.height
    shrink = 1
    if long_side is not None:
        while shrink < MAX_DCT_SHRINK and max(width, height) >= 2 * shrink * long_side:
            shrink *= 2
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            "CMYK" if header.components == 4 else "BGR",
            min_width=width // shrink,
            min_height=height // shrink,
        )
    except ValueError as exc:
        if str(exc).startswith(LIBJPEG_NO_MEMORY):
            raise MemoryError(str(exc)) from exc
        raise _bad(str(exc)) from exc
    if header.components == 4:
        pixels = _from_cmyk(pixels)
    return _upright(_shrink(pixels, width, height, long_side), header)


def _from_cmyk(cmyk: Pixels) -> Pixels:
    """Convert inverted CMYK, as every program writes it since Adobe did, to BGR."""
    black = cmyk[..., 3:].astype(np.uint16)
    return (cmyk[..., 2::-1] * black // 255).astype(np.uint8)


def _upright(pixels: Pixels, header: Header) -> Image:
    """Turn the pixels as the EXIF orientation says (1 to 8: row 0 and column 0 are at which edges)."""
    width, height = header.width, header.height
    if header.orientation >= TRANSPOSED:
        pixels = _opencv(cv2.transpose, pixels)
        width, height = height, width
    if header.orientation in FLIPS:
        pixels = _opencv(cv2.flip, pixels, FLIPS[header.orientation])
    return Image(pixels, width, height)


def _decode_opencv(data: bytes) -> Pixels:
    pixels: Pixels | None = _opencv(cv2.imdecode, np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise _bad("it is damaged")
    return pixels


def _opencv(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of OpenCV's, and say its errors in our words."""
    try:
        return function(*args, **options)
    except cv2.error as exc:
        if exc.code == cv2.Error.StsNoMem:
            raise MemoryError(exc.err) from exc
        raise _bad(exc.err) from exc


def _shrink(pixels: Pixels, width: int, height: int, long_side: int | None) -> Pixels:
    """Scale pixels of a frame of this size down to the working size."""
    longest = max(pixels.shape[:2])
    if long_side is None or longest <= long_side:
        return pixels
    factor = long_side / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # Averaging costs 2 ms more, and only beyond a half does bilinear skip pixels.
    interpolation = cv2.INTER_LINEAR if longest <= 2 * long_side else cv2.INTER_AREA
    shrunk: Pixels = _opencv(cv2.resize, pixels, size, interpolation=interpolation)
    return shrunk
