"""JPEGs with blemishes that browsers show whole, JPEGs with missing pixels, and JPEGs that cost too much."""

from __future__ import annotations

import re
import struct
from itertools import pairwise

import cv2
import numpy as np
import pytest

from inference.model import ItemError
from inference.worker import jpeg
from inference.worker.images import decode
from tests.inference.worker.image_files import (
    CMYK,
    JPEG,
    PICTURE,
    PROGRESSIVE,
    RESTARTS,
    encode,
    segment,
    tiff,
    with_frame_size,
)

DQT, SOF, SOS = (JPEG.index(bytes((0xFF, marker))) for marker in (0xDB, 0xC0, 0xDA))
MARKER = re.compile(rb"\xff[\xd0-\xd7]")


def code_of(data: bytes) -> str:
    with pytest.raises(ItemError) as caught:
        decode(data, None)
    return caught.value.code


def junk_before_restarts(data: bytes, junk: bytes) -> bytes:
    return MARKER.sub(lambda found: junk + found[0], data)


def without(data: bytes, marker: int) -> bytes:
    """Leave out all segments of a kind before the scan."""
    out, at = data[:2], 2
    while data[at + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", data, at + 2)
        if data[at + 1] != marker:
            out += data[at : at + 2 + size]
        at += 2 + size
    return out + data[at:]


INCOMPLETE_PROFILE = segment(0xE2, b"ICC_PROFILE\0\x01\x02" + bytes(10))
BLEMISHES = {
    "bytes before each restart marker": (junk_before_restarts(RESTARTS, bytes(6)), RESTARTS),
    "many bytes before each restart marker": (junk_before_restarts(RESTARTS, bytes(200)), RESTARTS),
    "fill bytes before each restart marker": (junk_before_restarts(RESTARTS, b"\xff\xff"), RESTARTS),
    "bytes before the end marker": (JPEG[:-2] + bytes(16) + JPEG[-2:], JPEG),
    "bytes before the end marker, progressive": (
        PROGRESSIVE[:-2] + bytes(16) + PROGRESSIVE[-2:],
        PROGRESSIVE,
    ),
    "JFIF version 0.02": (JPEG[:11] + b"\0\2" + JPEG[13:], JPEG),
    "JFIF version 2.01": (JPEG[:11] + b"\2\1" + JPEG[13:], JPEG),
    "bytes between segments": (JPEG[:DQT] + bytes(4) + JPEG[DQT:], JPEG),
    "stuffed bytes between segments": (JPEG[:SOF] + b"\xff\0\xff\0" + JPEG[SOF:], JPEG),
    "bytes before the scan": (JPEG[:SOS] + b"hello" + JPEG[SOS:], JPEG),
    "markers without a length between segments": (JPEG[:DQT] + b"\xff\x01\xff\xd3" + JPEG[DQT:], JPEG),
    "fill bytes": (JPEG[:20] + b"\xff" * 1000 + JPEG[20:], JPEG),
    "a segment of length zero": (JPEG[:2] + b"\xff\xe5\0\0" + JPEG[2:], JPEG),
    "an incomplete profile": (JPEG[:2] + INCOMPLETE_PROFILE + JPEG[2:], JPEG),
    "an unknown Adobe transform": (
        JPEG[:2] + segment(0xEE, b"Adobe\0" + bytes(5) + b"\x09") + JPEG[20:],
        JPEG,
    ),
    "a scan header that says Se = 0": (JPEG[: SOS + 12] + b"\0" + JPEG[SOS + 13 :], JPEG),
    "no JFIF": (without(JPEG, 0xE0), JPEG),
    "no Huffman tables, as in Motion JPEG": (without(JPEG, 0xC4), JPEG),
    "no end marker": (JPEG[:-2], JPEG),
    "no end marker, progressive": (PROGRESSIVE[:-2], PROGRESSIVE),
    "half an end marker": (JPEG[:-1], JPEG),
    "another JPEG after it": (JPEG + PROGRESSIVE, JPEG),
    "a number of lines after the scan": (JPEG[:-2] + b"\xff\xdc\0\4\0\x30" + JPEG[-2:], JPEG),
}


class TestBlemishes:
    @pytest.mark.parametrize("name", BLEMISHES)
    def test_change_no_pixel(self, name):
        data, clean = BLEMISHES[name]
        for long_side in (None, 32):
            image = decode(data, long_side)
            assert np.array_equal(image.pixels, decode(clean, long_side).pixels)

    @pytest.mark.parametrize("name", sorted(BLEMISHES.keys() - {"another JPEG after it"}))
    @pytest.mark.parametrize("end", [b"", b"\xff\xd9"], ids=["cut", "cut and ended"])
    def test_do_not_hide_missing_pixels(self, name, end):
        data = BLEMISHES[name][0]
        if end and "progressive" in name:  # ended between two scans, it is whole
            data = data[: data.index(b"\xff\xc4", data.index(b"\xff\xda"))]
        # behind the last pixel some have up to 18 bytes
        for n in range(data.index(b"\xff\xda") + 20, len(data) - 20):
            assert code_of(data[:n] + end) == "bad_image", n

    def test_may_be_in_a_jpeg_of_one_component_with_restarts(self):
        data = encode("jpg", PICTURE[..., 0], cv2.IMWRITE_JPEG_RST_INTERVAL, 3)
        junk = junk_before_restarts(data, bytes(20))
        assert np.array_equal(decode(junk, None).pixels, decode(data, None).pixels)

    def test_before_restart_markers_do_not_hide_a_missing_one(self):
        junk = junk_before_restarts(RESTARTS, bytes(20))
        assert code_of(junk.replace(b"\xff\xd2", b"", 1)) == "bad_image"

    def test_before_restart_markers_do_not_hide_a_damaged_interval(self):
        junk = junk_before_restarts(RESTARTS, bytes(20))
        ends = [found.start() for found in MARKER.finditer(junk)]
        for start, end in pairwise(ends):
            assert code_of(junk[: start + 2] + junk[end:]) == "bad_image"

    def test_before_restart_markers_cost_no_more_than_the_bytes_that_are_there(self):
        junk = junk_before_restarts(RESTARTS, bytes(20))
        many = junk[:2] + segment(0xC4, b"\0" + bytes(16)) * 300 + junk[2:]
        # repeated for each interval, 6 KB would become megabytes
        assert code_of(many) == "bad_image"


class TestMissingPixels:
    def test_of_a_frame_that_claims_more_rows(self):
        assert code_of(with_frame_size(JPEG, 64, 80)) == "bad_image"
        assert decode(with_frame_size(JPEG, 64, 32), None).height == 32

    def test_of_scans_that_were_cut_off_between_two(self):
        starts = [found.start() for found in re.finditer(rb"\xff\xda", PROGRESSIVE)]
        for start in starts[1:]:
            assert code_of(PROGRESSIVE[:start]) == "bad_image"

    def test_of_components_that_no_scan_holds(self):
        only = JPEG[:SOS] + segment(0xDA, b"\x01\x01\0\0\x3f\0") + JPEG[SOS + 14 :]
        assert code_of(only) == "bad_image"

    def test_a_scan_that_does_not_continue_those_before_it_is_refused(self):
        last = PROGRESSIVE.rindex(b"\xff\xda")
        # the last one refines the lowest bit, and nothing is left to refine
        assert code_of(PROGRESSIVE[:-2] + PROGRESSIVE[last:]) == "bad_image"


class TestOrientation:
    @pytest.mark.parametrize("order", [(6,), (6, 3), (6, 9)])
    def test_is_that_of_the_first_exif_data(self, order):
        exif = b"".join(segment(0xE1, b"Exif\0\0" + tiff(each)) for each in order)
        assert decode(JPEG[:2] + exif + JPEG[2:], None).width == 48
        nothing = segment(0xE1, b"Exif\0\0" + tiff(5, tag=0x010F))
        assert decode(JPEG[:2] + nothing + exif + JPEG[2:], None).width == 64

    @pytest.mark.parametrize("at", [2, 20, SOF, SOS])
    def test_is_found_wherever_the_segment_stands_before_the_scan(self, at):
        other = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>") + segment(0xFE, b"comment")
        exif = segment(0xE1, b"Exif\0\1" + tiff(6))
        assert decode(JPEG[:at] + other + exif + JPEG[at:], None).width == 48

    def test_after_the_scan_is_not_read(self):
        assert decode(JPEG[:-2] + segment(0xE1, b"Exif\0\0" + tiff(6)) + JPEG[-2:], None).width == 64


def scan(identifier: int) -> bytes:
    return segment(0xDA, bytes((1, identifier, 0 if identifier == 1 else 0x11, 0, 63, 0)))


class TestCost:
    def test_counts_scans_of_a_sequential_jpeg_too(self):
        # 10 bytes that make libjpeg go through the whole image again
        bomb = JPEG[:SOS] + scan(1) * 100_000 + JPEG[-2:]
        assert code_of(bomb) == "too_large"

    def test_counts_the_blocks_of_all_scans(self):
        frame = with_frame_size(JPEG, 5000, 4000)[:SOS]
        scans = (scan(1) + scan(2) + scan(3)) * 21
        assert code_of(frame + scans + JPEG[-2:]) == "too_large"

    def test_counts_scans_even_with_a_marker_without_length_between_them(self):
        bomb = JPEG[:SOS] + (scan(1) + b"\xff\x01") * (jpeg.MAX_SCANS + 1) + JPEG[-2:]
        assert code_of(bomb) == "too_large"

    def test_counts_what_waits_in_memory_between_scans(self):
        frame = with_frame_size(
            encode("jpg", PICTURE, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111), 4400, 4400
        )
        start = frame.index(b"\xff\xda")
        assert code_of(frame[:start] + scan(1) + scan(2) + scan(3) + JPEG[-2:]) == "too_large"

    def test_counts_the_fourth_component(self):
        assert code_of(with_frame_size(CMYK, 5000, 5000)) == "too_large"

    @pytest.mark.parametrize("spam", [b"\xff\xe0\0\2", b"\xff\xc4\0\2", b"\xff\x01"])
    def test_counts_segments(self, spam):
        assert code_of(JPEG[:2] + spam * 100_000 + JPEG[2:]) == "too_large"
        assert decode(JPEG[:2] + spam * 100 + JPEG[2:], None).width == 64

    def test_a_usual_progressive_jpeg_of_12_megapixels_passes(self):
        data = encode("jpg", cv2.resize(PICTURE, (4000, 3000)), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
        assert decode(data, 640).width == 4000


def test_the_decoder_gets_what_pixels_need_and_nothing_else():
    extra = segment(0xE1, b"Exif\0\0" + tiff(6)) + segment(0xFE, b"comment") + INCOMPLETE_PROFILE
    assert jpeg.read(JPEG[:2] + extra + b"junk" + JPEG[2:] + b"tail").data == jpeg.read(JPEG).data
    assert jpeg.read(JPEG).data == JPEG
