"""Formats told apart by their first bytes, and named in the refusal."""

from __future__ import annotations

import struct

import pytest

from inference.model import ItemError
from inference.worker.image_formats import ACCEPTED, SIGNATURES, format_of
from inference.worker.images import decode
from tests.inference.worker.image_files import JPEG, PNG, WEBP, encode


def iso(brand: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", len(body) + 4) + body + bytes(100)


FILES = {
    "GIF": [encode("gif"), b"GIF87a" + bytes(20)],
    "BMP": [encode("bmp")],
    "TIFF": [encode("tiff"), b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0"],
    "JPEG XL": [b"\xff\x0a\xfa\x1f", b"\0\0\0\x0cJXL \r\n\x87\n"],
    "JPEG 2000": [encode("jp2"), b"\xff\x4f\xff\x51"],
    "AVIF": [encode("avif"), iso(b"mif1", b"miaf", b"avif"), iso(b"avis")],
    "HEIC": [iso(b"heic", b"mif1", b"heic"), iso(b"mif1", b"heix"), iso(b"msf1", b"hevc")],
    "MP4 or QuickTime": [iso(b"isom", b"mp41"), iso(b"qt  ")],
    "ICO": [b"\0\0\x01\0\x01\0"],
    "PDF": [b"%PDF-1.7\n"],
    "SVG": [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- made by hand -->\n<svg/>",
        b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN'>\n<svg/>",
    ],
}


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, files in FILES.items() for data in files])
def test_a_known_format_is_named_with_what_to_send(name, data):
    assert format_of(data) == name
    with pytest.raises(
        ItemError, match=rf"^{name} is not read here: convert it to JPEG, PNG or WebP$"
    ) as caught:
        decode(data, None)
    assert caught.value.code == "unsupported_image"


def test_every_signature_has_a_file_here():
    assert {name for name, _ in SIGNATURES} == {*FILES, *ACCEPTED}


def test_the_accepted_ones_are_told_apart():
    assert tuple(map(format_of, (JPEG, PNG, WEBP))) == ACCEPTED


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"\xff\xd8",
        b"\xff\xd8\0\xff\xe0",
        bytes(1000),
        b"RIFF\0\0\0\0WAVE",
        b"<?xml ?><html/>",
        b"BMX" * 9,
    ],
)
def test_of_anything_else_the_format_is_unknown(data):
    assert format_of(data) is None
    with pytest.raises(ItemError, match="is not known"):
        decode(data, None)
