"""PNGs that claim more than they hold, that grow when inflated, and what reaches libpng of them."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from inference.model import ItemError
from inference.worker import png as reader
from inference.worker.images import decode
from tests.inference.worker.image_files import PICTURE, PNG, chunk, png, tiff

HEAD = PNG[:33]
END = chunk(b"IEND", b"")
ROWS = b"".join(b"\0" + row.tobytes() for row in PICTURE[..., ::-1])


def code_of(data: bytes) -> str:
    with pytest.raises(ItemError) as caught:
        decode(data, None)
    return caught.value.code


def bomb(size: int) -> bytes:
    """Deflate zeros: a thousandth of this many bytes."""
    deflater = zlib.compressobj(9)
    return b"".join(deflater.compress(bytes(1 << 20)) for _ in range(size >> 20)) + deflater.flush()


IN_LITTLE_MEMORY = """
import resource, sys
from inference.worker import images
from inference.model import ItemError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    image = images.decode(sys.stdin.buffer.read(), None)
    print(image.width, image.height)
except ItemError as refusal:
    print(refusal.code)
"""


def in_little_memory(data: bytes) -> str:
    """Decode in a process of its own that may take 64 MiB; what was printed on either stream."""
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY], input=data, capture_output=True, check=False
    )
    return (done.stdout + done.stderr).decode().strip()


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
class TestClaims:
    @pytest.mark.parametrize("kind", [b"IDAT", b"tEXt", b"zTXt", b"PLTE", b"fdAT", b"IEND", b"abcd", b"eXIf"])
    @pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 200 << 20])
    def test_of_a_chunk_of_gigabytes_in_41_bytes_cost_nothing(self, kind, size):
        assert in_little_memory(HEAD + struct.pack(">I", size) + kind) == "bad_image"

    @pytest.mark.parametrize(
        "before",
        [
            chunk(b"zTXt", b"a\0\0" + bomb(300 << 20)),
            chunk(b"iTXt", b"a\0\1\0\0\0" + bomb(300 << 20)),
            chunk(b"iCCP", b"a\0\0" + bomb(300 << 20)),
            chunk(b"acTL", struct.pack(">II", 0xFFFFFFFF, 0)),
        ],
        ids=["zTXt", "iTXt", "iCCP", "acTL"],
    )
    def test_of_chunks_that_no_pixel_needs_are_not_read(self, before):
        assert in_little_memory(HEAD + before + PNG[33:]) == "64 48"

    def test_of_rows_after_the_last_one_are_not_read(self):
        # 5 MB that libpng would inflate to 5 GB, for 5 s
        surplus = zlib.compressobj(9)
        data = surplus.compress(ROWS) + surplus.flush(zlib.Z_FULL_FLUSH)
        zeros = surplus.compress(bytes(1 << 24)) + surplus.flush(zlib.Z_FULL_FLUSH)
        assert in_little_memory(HEAD + chunk(b"IDAT", data + zeros * 300) + END) == "64 48"

    def test_of_more_chunks_than_encoders_write_are_refused(self):
        assert code_of(HEAD + chunk(b"tEXt", b"") * 20_000 + PNG[33:]) == "too_large"
        assert code_of(HEAD + chunk(b"IDAT", b"") * 20_000 + PNG[33:]) == "too_large"

    @pytest.mark.parametrize(
        "data",
        [
            # no palette, an invalid filter, two headers, a palette out of place
            png(64, 48, 8, 3, bytes(65 * 48)),
            png(64, 48, 8, 2, b"\x07" + ROWS[1:]),
            png(64, 48, 8, 2, ROWS[: 40 * 193] + b"\x05" + ROWS[40 * 193 + 1 :]),
            HEAD + HEAD[8:] + PNG[33:],
            png(64, 48, 8, 3, bytes(65 * 48), chunk(b"PLTE", bytes(4))),
            png(2_000_000, 1, 8, 0, bytes(2_000_001)),
            png(64, 48, 3, 2, ROWS),
            png(64, 48, 8, 5, ROWS),
        ],
    )
    def test_that_are_invalid_write_nothing_to_the_log(self, data):
        assert in_little_memory(data) in ("bad_image", "too_large")


def interlaced(pixels: np.ndarray, *before: bytes) -> bytes:
    rows = b"".join(
        b"\0" + row.tobytes()
        for column, line, across, down in reader.PASSES
        for row in pixels[line::down, column::across]
        if row.size
    )
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    parts = (chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows)), END)
    return PNG[:8] + b"".join(parts)


class TestRows:
    @pytest.mark.parametrize(("height", "width"), [(48, 64), (1, 1), (2, 3), (5, 2), (9, 33)])
    def test_of_an_interlaced_png_are_put_in_order(self, height, width):
        pixels = np.ascontiguousarray(PICTURE[:height, :width])
        image = decode(interlaced(pixels[..., ::-1]), None)
        assert np.array_equal(image.pixels, pixels)

    @pytest.mark.parametrize("depth", [1, 2, 4])
    def test_of_small_depths_end_in_a_part_of_a_byte(self, depth):
        row = b"\0" + bytes((63 * depth + 7) // 8)
        assert decode(png(63, 48, depth, 0, row * 48), None).pixels.shape == (48, 63, 3)
        assert code_of(png(63, 48, depth, 0, (row * 48)[:-1])) == "bad_image"

    def test_larger_than_a_stored_block_pass_unchanged(self):
        pixels = np.random.default_rng(2).integers(0, 256, (300, 400, 3), dtype=np.uint8)
        rows = b"".join(b"\0" + row.tobytes() for row in pixels[..., ::-1])
        assert np.array_equal(decode(png(400, 300, 8, 2, rows), None).pixels, pixels)

    def test_may_be_spread_over_chunks_of_any_size(self):
        data = zlib.compress(ROWS)
        parts = b"".join(chunk(b"IDAT", data[i : i + 7]) for i in range(0, len(data), 7))
        assert np.array_equal(decode(HEAD + chunk(b"IDAT", b"") + parts + END, None).pixels, PICTURE)

    def test_need_nothing_that_follows_them(self):
        whole = HEAD + chunk(b"IDAT", zlib.compress(ROWS))
        for end in (b"", END[:5], b"\xff\xff\xff\xfftEXt", chunk(b"tEXt", b"a\0b"), ROWS):
            assert np.array_equal(decode(whole + end, None).pixels, PICTURE)

    def test_after_another_chunk_are_missing(self):
        data = zlib.compress(ROWS)
        text = chunk(b"tEXt", b"a\0b")
        assert (
            code_of(HEAD + chunk(b"IDAT", data[:50]) + text + chunk(b"IDAT", data[50:]) + END) == "bad_image"
        )

    def test_are_those_of_the_default_image_of_an_animation(self):
        control = chunk(b"acTL", struct.pack(">II", 2, 0))
        frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 48, 0, 0, 1, 10, 0, 0))
        data = (
            HEAD + control + frame + PNG[33:-12] + chunk(b"fdAT", bytes(4) + zlib.compress(bytes(9264))) + END
        )
        assert np.array_equal(decode(data, None).pixels, PICTURE)


class TestOrientation:
    def test_is_that_of_the_first_exif_chunk_before_the_pixels(self):
        six, three = (chunk(b"eXIf", tiff(each)) for each in (6, 3))
        assert decode(HEAD + six + three + PNG[33:], None).width == 48
        assert decode(HEAD + three + six + PNG[33:], None).width == 64
        assert decode(PNG[:-12] + six + END, None).width == 64
        assert decode(interlaced(PICTURE, six), None).width == 48

    def test_is_not_read_from_a_text_or_a_damaged_chunk(self):
        profile = f"\nexif\n{len(tiff(6)) + 6:8}\n{(b'Exif' + bytes(2) + tiff(6)).hex()}\n".encode()
        text = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
        assert decode(HEAD + text + PNG[33:], None).width == 64
        assert decode(HEAD + chunk(b"eXIf", tiff(6))[:-1] + b"x" + PNG[33:], None).width == 64


class TestCost:
    @pytest.mark.parametrize(
        ("width", "height", "depth", "colour"),
        [(4000, 4000, 8, 2), (3600, 3600, 8, 6), (2800, 2800, 16, 6), (4800, 4800, 8, 0), (5000, 5000, 1, 0)],
    )
    def test_is_counted_by_bytes_of_rows_and_pixels(self, width, height, depth, colour):
        assert code_of(png(width, height, depth, colour, b"")) == "too_large"
        # two thirds of the size have no more than enough rows missing
        assert code_of(png(width * 2 // 3, height, depth, colour, b"")) == "bad_image"

    def test_is_counted_by_compressed_bytes(self):
        huge = HEAD + chunk(b"IDAT", bytes(13 << 20)) + END
        assert code_of(huge) == "too_large"
