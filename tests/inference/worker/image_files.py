"""Small images of every kind, and ways to write them with what encoders leave out."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import simplejpeg

RNG = np.random.default_rng(1)
PICTURE = cv2.GaussianBlur(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8), (0, 0), 3)


def encode(kind: str, pixels: np.ndarray = PICTURE, *options: int) -> bytes:
    ok, data = cv2.imencode(f".{kind}", pixels, options)
    assert ok
    return data.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *before: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_frame_size(jpeg: bytes, width: int, height: int) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def with_exif(jpeg: bytes, tiff: bytes) -> bytes:
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def extended_webp(width: int, height: int, flags: int, *chunks: bytes) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<II", 10, flags) + sizes + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def tiff(orientation: int, order: str = "<", kind: int = 3, count: int = 1, tag: int = 0x0112) -> bytes:
    """EXIF data with one entry."""
    mark, value = {"<": b"II", ">": b"MM"}[order], "HH" if kind == 3 else "I"
    values = (orientation, 0) if kind == 3 else (orientation,)
    return mark + struct.pack(order + "HIHHHI" + value + "I", 42, 8, 1, tag, kind, count, *values, 0)


def webp_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a WebP, padded to an even length."""
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)


JPEG, PNG = encode("jpg"), encode("png")
WEBP = encode("webp", PICTURE, cv2.IMWRITE_WEBP_QUALITY, 90)
PROGRESSIVE = encode("jpg", PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTS = encode("jpg", PICTURE, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)
GRAY = encode("jpg", PICTURE[..., 0])
CMYK = simplejpeg.encode_jpeg(np.ascontiguousarray(np.dstack([PICTURE, PICTURE[..., 0]])), colorspace="CMYK")
LOSSLESS = encode("webp")
EVERY_KIND = {
    "jpeg": JPEG,
    "progressive": PROGRESSIVE,
    "restarts": RESTARTS,
    "gray": GRAY,
    "cmyk": CMYK,
    "png": PNG,
    "webp": WEBP,
    "lossless webp": LOSSLESS,
}
