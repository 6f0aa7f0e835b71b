"""Tells formats of images apart by their first bytes, so that a refusal can name what was sent."""

from __future__ import annotations

import re

JPEG, PNG, WEBP = "JPEG", "PNG", "WebP"
ACCEPTED = (JPEG, PNG, WEBP)

SIGNATURES = (
    (JPEG, re.compile(rb"\xff\xd8\xff")),
    (PNG, re.compile(rb"\x89PNG\r\n\x1a\n")),
    (WEBP, re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("BMP", re.compile(rb"BM.{4}\0{4}", re.DOTALL)),
    ("TIFF", re.compile(rb"II[*+]\0|MM\0[*+]")),
    ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n")),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51")),
    ("AVIF", re.compile(rb".{4}ftyp(?:.{4}){0,15}?avi[fs]", re.DOTALL)),
    ("HEIC", re.compile(rb".{4}ftyp(?:.{4}){0,15}?(?:he[iv][cmsx]|mif1|msf1)", re.DOTALL)),
    ("MP4 or QuickTime", re.compile(rb".{4}ftyp", re.DOTALL)),
    ("ICO", re.compile(rb"\0\0\x01\0")),
    ("PDF", re.compile(rb"%PDF-")),
    ("SVG", re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml|<!--|<!DOCTYPE svg|<svg)[\s>].{0,999}", re.DOTALL)),
)
"""Names and how files of each begin; the first that matches counts. An ISO file lists its brands after ``ftyp``."""

HEAD = 1024
"""Bytes that are looked at."""


def format_of(data: bytes) -> str | None:
    """Name the format of an image by its first bytes; None if it is not known."""
    head = data[:HEAD]
    for name, signature in SIGNATURES:
        if signature.match(head) and (name != "SVG" or b"<svg" in head):
            return name
    return None
