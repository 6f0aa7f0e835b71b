"""WebPs whose canvas, frames and chunks claim more than there is, and what reaches libwebp of them."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from inference.model import ItemError
from inference.worker import webp
from inference.worker.images import decode
from tests.inference.worker.image_files import (
    LOSSLESS,
    PICTURE,
    WEBP,
    encode,
    extended_webp,
    tiff,
    webp_chunk,
)

ANIMATED = 2


def code_of(data: bytes) -> str:
    with pytest.raises(ItemError) as caught:
        decode(data, None)
    return caught.value.code


def frame(picture: bytes, left: int, top: int, width: int = 64, height: int = 48) -> bytes:
    numbers = (left // 2, top // 2, width - 1, height - 1, 100)
    return webp_chunk(b"ANMF", b"".join(n.to_bytes(3, "little") for n in numbers) + b"\0" + picture)


def animation(width: int, height: int, *frames: bytes) -> bytes:
    return extended_webp(width, height, ANIMATED, webp_chunk(b"ANIM", bytes(6)), *frames)


class TestAnimation:
    def test_gives_its_first_picture(self):
        black = encode("webp", np.zeros_like(PICTURE), cv2.IMWRITE_WEBP_QUALITY, 90)
        data = animation(64, 48, frame(WEBP[12:], 0, 0), frame(black[12:], 0, 0))
        assert np.array_equal(decode(data, None).pixels, decode(WEBP, None).pixels)

    def test_places_a_small_one_on_the_canvas(self):
        image = decode(animation(80, 60, frame(WEBP[12:], 16, 12)), None)
        assert (image.width, image.height) == (80, 60)
        assert np.array_equal(image.pixels[12:, 16:], decode(WEBP, None).pixels)
        assert not image.pixels[:12].any()
        assert not image.pixels[:, :16].any()

    def test_needs_nothing_after_its_first_picture(self):
        data = animation(64, 48, frame(WEBP[12:], 0, 0), frame(WEBP[12:], 0, 0))
        assert decode(data[:-50], None).width == 64

    def test_of_a_frame_that_does_not_fit_is_refused(self):
        assert code_of(animation(64, 48, frame(WEBP[12:], 2, 0))) == "bad_image"
        assert code_of(animation(640, 480, frame(WEBP[12:], 0, 0, width=66))) == "bad_image"

    def test_of_a_frame_without_a_picture_is_refused(self):
        assert code_of(animation(64, 48, frame(b"", 0, 0))) == "bad_image"
        assert code_of(animation(64, 48, webp_chunk(b"ANMF", bytes(10)))) == "bad_image"

    def test_of_a_canvas_over_the_limit_is_refused(self):
        assert code_of(animation(5000, 5001, frame(WEBP[12:], 0, 0))) == "too_large"
        assert code_of(animation(1 << 24, 1 << 24, frame(WEBP[12:], 0, 0))) == "too_large"


class TestChunks:
    @pytest.mark.parametrize("kind", [b"VP8 ", b"VP8L", b"VP8X", b"ICCP", b"ANMF", b"ABCD"])
    @pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFF0, 1 << 20])
    def test_that_claim_more_than_there_is_are_refused(self, kind, size):
        data = b"RIFF\0\0\0\0WEBP" + kind + struct.pack("<I", size) + WEBP[20:]
        assert code_of(data) == "bad_image"

    def test_that_no_pixel_needs_are_passed_by(self):
        data = extended_webp(
            64,
            48,
            0x2C,
            webp_chunk(b"ICCP", b"abc"),
            webp_chunk(b"ABCD", b"x"),
            WEBP[12:],
            webp_chunk(b"EXIF", tiff(6)),
        )
        for each in (data, data[:-5]):
            image = decode(each, None)
            assert np.array_equal(image.pixels, decode(WEBP, None).pixels)

    def test_in_great_number_are_refused(self):
        assert code_of(extended_webp(64, 48, 0, webp_chunk(b"ABCD", b"") * 2000, WEBP[12:])) == "too_large"

    def test_of_alpha_do_not_matter(self):
        seen = np.dstack([PICTURE, np.full((48, 64), 100, np.uint8)])
        for options in ((), (cv2.IMWRITE_WEBP_QUALITY, 90)):
            data = encode("webp", seen, *options)
            plain = encode("webp", PICTURE, *options)
            assert np.abs(decode(data, None).pixels.astype(int) - decode(plain, None).pixels).max() <= 30

    def test_of_a_still_picture_fit_the_canvas(self):
        assert code_of(extended_webp(640, 480, 0, WEBP[12:])) == "bad_image"
        assert decode(extended_webp(64, 48, 0, LOSSLESS[12:]), None).width == 64


class TestCost:
    @pytest.mark.parametrize(
        ("kind", "pixels"), [(b"VP8 ", 24_000_000), (b"VP8L", 20_500_000)], ids=["lossy", "lossless"]
    )
    def test_is_counted_by_pixels_and_bytes(self, kind, pixels):
        limit = 300_000_000
        most = (limit - webp.NS_PIXEL[kind] * 4_000_000) // webp.NS_BYTE[kind]
        for size, side, code in ((most + 100, 2000, "too_large"), (most - 100, 2000, "bad_image")):
            assert code_of(picture(kind, side, side, size)) == code
        side = int(pixels**0.5)
        assert code_of(picture(kind, side, side, 3_000_000)) == "too_large"


def picture(kind: bytes, width: int, height: int, size: int) -> bytes:
    """A WebP with a header of this size, and nothing after it that decodes."""
    if kind == b"VP8 ":
        head = b"\xff\xff\xff" + webp.START_CODE + struct.pack("<HH", width, height)
    else:
        head = b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14 | 7 << 29)
    return b"RIFF\0\0\0\0WEBP" + webp_chunk(kind, head + bytes(size - len(head)))
