"""Which orientation EXIF data says, as Chromium reads it."""

from __future__ import annotations

import struct

import pytest

from inference.worker.exif import read_orientation
from tests.inference.worker.image_files import tiff


def directory(*entries: tuple[int, int, int, int]) -> bytes:
    """Little-endian EXIF data; a value of type 3 takes two bytes of four."""
    parts = [struct.pack("<HHII", *entry) for entry in entries]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(parts) + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(10))
def test_is_read_in_both_byte_orders(value, order):
    assert read_orientation(tiff(value, order)) == (value if 1 <= value <= 8 else 1)


@pytest.mark.parametrize("cut", range(26))
def test_is_upright_where_the_data_is_cut_before_the_end_of_its_entry(cut):
    assert read_orientation(tiff(6)[:cut]) == (6 if cut >= 22 else 1)


@pytest.mark.parametrize(
    "data",
    [
        tiff(6, kind=4),
        tiff(6, kind=1),
        tiff(6, count=2),
        tiff(6, tag=0x010F),
        b"XX" + tiff(6)[2:],
        tiff(6).replace(b"II*", b"II+"),
        tiff(6)[:4] + struct.pack("<I", 4) + tiff(6)[8:],
        tiff(6)[:4] + b"\xff\xff\xff\xff" + tiff(6)[8:],
    ],
)
def test_of_another_type_or_in_another_form_says_nothing(data):
    assert read_orientation(data) == 1


def test_is_the_first_valid_one():
    assert read_orientation(directory((0x0112, 3, 1, 9), (0x0112, 3, 1, 6), (0x0112, 3, 1, 3))) == 6


def test_may_stand_in_the_sub_directory():
    below = directory((0x0112, 3, 1, 6))[8:]
    data = directory((0x8769, 4, 1, 26)) + below
    assert read_orientation(data) == 6
    assert read_orientation(directory((0x0112, 3, 1, 3), (0x8769, 4, 1, 38)) + below) == 3


def test_of_sub_directories_only_one_is_followed():
    # each of 5,400 pointing at the whole again would be 29 million entries
    data = directory(*[(0x8769, 4, 1, 8)] * 2, (0x0112, 3, 1, 6))
    looked_at = 0

    class Counting(bytes):
        def __getitem__(self, key):
            nonlocal looked_at
            looked_at += 1
            return super().__getitem__(key)

    assert read_orientation(Counting(data)) == 6
    assert looked_at < 10
