"""What image decoding accepts and refuses: real files of every kind, then damaged, lying and mutated ones."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from inference.model import ItemError
from inference.pool.process import ENVIRONMENT
from inference.worker.image_limits import MAX_PIXELS
from inference.worker.images import Image, decode
from tests.inference.worker.image_files import (
    CMYK,
    EVERY_KIND,
    JPEG,
    PICTURE,
    PNG,
    RNG,
    WEBP,
    chunk,
    encode,
    extended_webp,
    png,
    tiff,
    webp_chunk,
    with_exif,
    with_frame_size,
)

SAMPLE = Path(__file__).parents[3] / "web_client" / "sample.jpg"


def opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def code_of(data: bytes, long_side: int | None = None) -> str:
    with pytest.raises(ItemError) as caught:
        decode(data, long_side)
    return caught.value.code


def cost(call: Callable[[], object]) -> float:
    """Seconds of processor time of a call, the least of three: a virtual machine's clock counts its pauses."""

    def once() -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    return min(once() for _ in range(3))


every_kind = pytest.mark.parametrize("data", EVERY_KIND.values(), ids=EVERY_KIND)


class TestPixels:
    @every_kind
    def test_are_those_that_opencv_decodes(self, data):
        image = decode(data, None)
        assert (image.width, image.height, image.scale) == (64, 48, (1.0, 1.0))
        assert image.pixels.dtype == np.uint8
        # Rounding of CMYK differs by one or two; for every other kind the decoders are the same.
        assert np.abs(image.pixels.astype(int) - opencv(data)).max() <= (2 if data is CMYK else 0)

    @pytest.mark.parametrize("name", ["411", "420", "422", "440", "444"])
    def test_come_from_every_subsampling_of_colour(self, name):
        data = encode(
            "jpg",
            PICTURE,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}"),
        )
        assert np.array_equal(decode(data, None).pixels, opencv(data))

    def test_come_from_a_memoryview_too(self):
        frame = memoryview(b"header" + JPEG)[6:]
        assert np.array_equal(decode(frame, None).pixels, decode(JPEG, None).pixels)

    def test_of_a_wide_range_of_colours_and_depths_become_bgr_of_8_bits(self):
        deep = encode("png", PICTURE.astype(np.uint16) * 257)
        alpha = encode("png", np.dstack([PICTURE, PICTURE[..., 0]]))
        for data in (deep, alpha):
            assert np.array_equal(decode(data, None).pixels, PICTURE)
        gray = decode(encode("png", PICTURE[..., 0]), None).pixels
        assert np.array_equal(gray, np.repeat(PICTURE[..., :1], 3, axis=2))

    def test_of_a_palette_are_looked_up(self):
        palette, transparency = chunk(b"PLTE", bytes((255, 0, 0, 0, 0, 255))), chunk(b"tRNS", b"\x00\xff")
        data = png(2, 1, 8, 3, b"\x00\x00\x01", palette, transparency)
        assert decode(data, None).pixels.tolist() == [[[0, 0, 255], [255, 0, 0]]]

    def test_of_an_extended_webp_are_those_inside(self):
        data = extended_webp(64, 48, 0, WEBP[12:])
        assert np.array_equal(decode(data, None).pixels, opencv(WEBP))


class TestWorkingSize:
    @every_kind
    @pytest.mark.parametrize("long_side", [5, 32, 40, 63])
    def test_is_met_exactly_and_the_picture_is_the_same(self, data, long_side):
        image = decode(data, long_side)
        assert image.pixels.shape == (round(48 * long_side / 64), long_side, 3)
        assert (image.width, image.height) == (64, 48)
        assert image.scale[0] == pytest.approx(64 / long_side)
        expected = cv2.resize(
            decode(data, None).pixels, image.pixels.shape[1::-1], interpolation=cv2.INTER_AREA
        )
        assert np.abs(image.pixels.astype(int) - expected).mean() < 4

    @every_kind
    def test_is_never_larger_than_the_frame(self, data):
        assert decode(data, 640).pixels.shape == (48, 64, 3)

    @pytest.mark.parametrize(
        ("width", "height"), [(641, 480), (1279, 721), (1280, 720), (1920, 1080), (5119, 77)]
    )
    @pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
    def test_is_met_from_any_size(self, width, height, kind):
        image = decode(encode(kind, cv2.resize(PICTURE, (width, height))), 640)
        assert image.pixels.shape == (round(height * 640 / width), 640, 3)
        assert (image.width, image.height) == (width, height)

    @pytest.mark.parametrize("kind", ["png", "webp"])
    def test_far_below_the_sent_one_skips_no_pixels(self, kind):
        stripes = np.zeros((64, 640, 3), np.uint8)
        stripes[:, ::4] = 200
        assert decode(encode(kind, stripes), 160).pixels == pytest.approx(50, abs=1)

    @pytest.mark.parametrize("kind", ["jpg", "png"])
    @pytest.mark.parametrize(("width", "height"), [(65500, 1), (1, 65500)])
    def test_keeps_a_pixel_of_the_short_side(self, kind, width, height):
        image = decode(encode(kind, np.full((height, width, 3), 128, np.uint8)), 640)
        assert image.pixels.shape == ((1, 640, 3) if height == 1 else (640, 1, 3))
        assert (image.pixels == 128).all()

    @pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
    def test_of_one_pixel_is_one_pixel(self, kind):
        assert decode(encode(kind, PICTURE[:1, :1]), 640).pixels.shape == (1, 1, 3)


class TestOrientation:
    def tagged(self, kind: str, orientation: int, order: str = "<") -> bytes:
        exif = tiff(orientation, order)
        if kind == "jpg":
            return with_exif(JPEG, exif)
        if kind == "png":
            return PNG[:33] + chunk(b"eXIf", exif) + PNG[33:]
        return extended_webp(64, 48, 8, WEBP[12:], webp_chunk(b"EXIF", exif))

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
    @pytest.mark.parametrize("orientation", range(10))
    def test_is_applied_to_jpeg_and_png_and_not_to_webp(self, kind, orientation, order):
        plain = decode({"jpg": JPEG, "png": PNG, "webp": WEBP}[kind], None).pixels
        upright = {
            2: plain[:, ::-1],
            3: plain[::-1, ::-1],
            4: plain[::-1],
            5: plain.swapaxes(0, 1),
            6: np.rot90(plain, -1),
            7: plain[::-1, ::-1].swapaxes(0, 1),
            8: np.rot90(plain),
        }.get(1 if kind == "webp" else orientation, plain)
        image = decode(self.tagged(kind, orientation, order), None)
        assert np.array_equal(image.pixels, upright)
        assert (image.width, image.height) == (upright.shape[1], upright.shape[0])

    def test_goes_with_scaling(self):
        image = decode(self.tagged("jpg", 6), 32)
        assert image.pixels.shape == (32, 24, 3)
        assert (image.width, image.height, image.scale) == (48, 64, (2.0, 2.0))


class TestRefusal:
    def test_of_nothing(self):
        assert code_of(b"") == "empty"

    @pytest.mark.parametrize(
        "data",
        [
            b"hello",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"\xff\xd8",
            bytes(1000),
            b"RIFF\0\0\0\0WAVE",
        ],
    )
    def test_of_what_is_no_image(self, data):
        assert code_of(data) == "unsupported_image"

    @pytest.mark.parametrize("kind", ["bmp", "gif", "tiff", "ppm", "jp2"])
    def test_of_formats_that_opencv_would_read(self, kind):
        data = encode(kind)
        assert opencv(data) is not None
        assert code_of(data) == "unsupported_image"

    @every_kind
    def test_of_a_file_cut_at_any_byte_of_its_pixels(self, data):
        # after its pixels, a JPEG has an end marker, a PNG a chunk, and these WebPs at most a byte that pads them
        needed = len(data) - {b"\xff\xd8": 2, b"\x89P": 12, b"RI": len(data) & 1}[data[:2]]
        cut = {code_of(data[:n], long_side) for n in range(16, needed) for long_side in (None, 32)}
        assert cut == {"bad_image"}
        for n in range(needed, len(data)):
            assert np.array_equal(decode(data[:n], None).pixels, decode(data, None).pixels)

    @every_kind
    def test_but_not_of_bytes_after_the_end(self, data):
        polyglot = data + RNG.integers(0, 256, 7000, dtype=np.uint8).tobytes()
        assert np.array_equal(decode(polyglot, None).pixels, decode(data, None).pixels)

    def test_of_a_jpeg_cut_short_and_ended_properly(self):
        assert code_of(JPEG[: len(JPEG) // 2] + b"\xff\xd9") == "bad_image"

    def test_of_a_png_whose_chunks_are_whole_and_hold_too_few_pixels(self):
        rows = b"".join(b"\0" + row.tobytes() for row in PICTURE)
        assert decode(png(64, 48, 8, 2, rows), None).pixels.shape == (48, 64, 3)
        assert code_of(png(64, 48, 8, 2, rows[:-1])) == "bad_image"

    def test_of_a_png_with_a_flipped_bit_anywhere_in_its_pixels(self):
        for at in range(8, len(PNG) - 12):
            damaged = bytearray(PNG)
            damaged[at] ^= 1 << at % 8
            assert code_of(bytes(damaged)) in {"bad_image", "too_large"}

    @pytest.mark.parametrize("bits", [12, 16])
    def test_of_a_jpeg_of_more_than_8_bits(self, bits):
        at = JPEG.index(b"\xff\xc0") + 4
        assert code_of(JPEG[:at] + bytes((bits,)) + JPEG[at + 1 :]) == "unsupported_image"

    @pytest.mark.parametrize("frame", [0xC3, 0xC9, 0xCA])
    def test_of_a_lossless_or_arithmetic_jpeg(self, frame):
        assert code_of(JPEG.replace(b"\xff\xc0", bytes((0xFF, frame)))) == "unsupported_image"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (with_frame_size(JPEG, 0, 48), "JPEG"),
            (with_frame_size(JPEG, 64, 0), "JPEG"),
            (b"\xff\xd8\xff\xd9", "no frame header"),
            (b"\xff\xd8" + b"\xff" * 1000, "cut short"),
            (JPEG[:2] + JPEG, "another JPEG"),
            (JPEG[:2] + JPEG[JPEG.index(b"\xff\xda") :], "no frame header"),
            (PNG[:8] + PNG[33:], "does not begin with its header"),
            (png(0, 48, 8, 2, b""), "header is invalid"),
            (WEBP[:12] + b"XXXX" + WEBP[16:], "no picture"),
            (WEBP[:26] + bytes(4) + WEBP[30:], "size is invalid"),
        ],
    )
    def test_of_a_senseless_header_says_why(self, data, reason):
        with pytest.raises(ItemError, match=reason) as caught:
            decode(data, None)
        assert caught.value.code == "bad_image"


class TestCap:
    def test_refuses_a_48_kb_jpeg_of_900_megapixels_before_decoding(self):
        data = with_frame_size(SAMPLE.read_bytes(), 30000, 30000)
        # Decoding it takes a minute; reading the header, microseconds.
        assert cost(lambda: code_of(data, 640)) < 0.05
        assert code_of(data, 640) == "too_large"

    def test_is_not_passed_by_with_markers_that_libjpeg_skips(self):
        bomb = with_frame_size(JPEG, 30000, 30000)
        assert code_of(bomb[:20] + b"\xff" * 9 + bomb[20:]) == "too_large"
        decoy = bytes(0xFFE0 - 2) + JPEG[JPEG.index(b"\xff\xc0") :]
        for skipped in (0x01, 0xD0, 0xD7):
            marker = bytes((0xFF, skipped))
            assert decode(JPEG[:2] + marker + JPEG[2:], None).width == 64
            # Who takes what follows for a length jumps over the frame header to a small one.
            assert code_of(bomb[:2] + marker + bomb[2:] + decoy) == "too_large"

    def test_lets_25_megapixels_pass_to_the_decoder(self):
        assert code_of(with_frame_size(JPEG, 5000, 5000)) == "bad_image"

    @pytest.mark.parametrize(
        "data",
        [
            with_frame_size(JPEG, 5000, 5001),
            png(5000, 5001, 8, 2, b""),
            png(2**31 - 1, 2**31 - 1, 8, 2, b""),
            WEBP[:26] + struct.pack("<HH", 5000, 5001) + WEBP[30:],
            b"RIFF\x12\0\0\0WEBPVP8L\x05\0\0\0\x2f" + struct.pack("<I", 4999 | 5000 << 14) + b"\0",
        ],
    )
    def test_refuses_one_row_too_many_in_every_format(self, data):
        assert code_of(data) == "too_large"

    def test_lets_24_megapixels_pass_at_a_part_of_the_full_cost(self):
        data = encode("jpg", cv2.resize(PICTURE, (6000, 4000)))
        image = decode(data, 640)
        assert (image.width, image.height, image.pixels.shape) == (6000, 4000, (427, 640, 3))
        assert decode(data, None).pixels.shape == (4000, 6000, 3)
        # A fifth, measured: an eighth of the size leaves only a block's mean to compute.
        assert cost(lambda: decode(data, 640)) < cost(lambda: decode(data, None)) / 2


def resealed(data: bytes) -> bytes:
    """A PNG with its checksums put right: without that no mutant gets past them."""
    sealed, at = data[:8], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        sealed += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + size])
        at += size + 12
    return sealed


def mutate(data: bytes, donor: bytes, rng: random.Random) -> bytes:
    match rng.randrange(4):
        case 0:
            mutant = bytearray(data)
            for _ in range(rng.randint(1, 8)):
                mutant[rng.randrange(len(mutant))] ^= 1 << rng.randrange(8)
            return bytes(mutant)
        case 1:
            return data[: rng.randrange(len(data))]
        case 2:
            cut, take = rng.randrange(len(data)), rng.randrange(len(donor))
            return data[:cut] + donor[take : take + rng.randint(1, 200)] + data[cut + rng.randrange(200) :]
        case _:
            mutant = bytearray(data)
            at = rng.randrange(min(len(data), 700))
            mutant[at : at + 4] = rng.choice(
                (b"\xff\xff\xff\xff", bytes(4), rng.randbytes(4), b"\xff\xda\0\x08")
            )
            return bytes(mutant)


@every_kind
def test_no_mutant_gives_anything_but_an_image_or_an_item_error(data):
    rng = random.Random(zlib.crc32(data))
    donors = list(EVERY_KIND.values())
    outcomes = set()
    for _ in range(500):
        long_side = rng.choice((None, 32, 640))
        mutant = mutate(data, rng.choice(donors), rng)
        try:
            image = decode(resealed(mutant) if data is PNG else mutant, long_side)
        except ItemError as refusal:
            outcomes.add(refusal.code)
        else:
            outcomes.add("image")
            assert isinstance(image, Image)
            assert image.pixels.ndim == 3
            assert image.pixels.dtype == np.uint8
            assert 0 < image.pixels.size <= 3 * image.width * image.height <= 3 * MAX_PIXELS
            assert long_side is None or max(image.pixels.shape) <= long_side
    assert outcomes >= {"image", "bad_image"}


SHORT_OF_MEMORY = """
import os, resource, sys
from inference.worker import images
data = sys.stdin.buffer.read()
said = set()
for spare in range(0, 64 << 20, 4 << 20):
    read, write = os.pipe()
    if not os.fork():
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + spare, resource.RLIM_INFINITY))
        try:
            images.decode(data, 1200)
        except BaseException as exc:
            os.write(write, repr(exc.__class__.__mro__).encode())
        os._exit(0)
    os.close(write)
    words = os.read(read, 1000).decode() or "image"
    said.add("MemoryError" if "'MemoryError'" in words else words)
    os.wait()
print(*sorted(said))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("kind", ["png", "jpg", "progressive jpg", "turned jpg"])
def test_a_frame_without_room_is_a_memory_error_not_a_bad_image(kind):
    pixels = cv2.resize(PICTURE, (2000, 1500), interpolation=cv2.INTER_CUBIC)
    data = encode(kind[-3:], pixels, *([cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if "prog" in kind else []))
    if "turned" in kind:
        data = with_exif(data, tiff(6, ">"))
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], input=data, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"MemoryError", b"image"]


FENCE = """
import inference.models.faces, cv2, numpy as np
for height in (5000, 5001):
    data = cv2.imencode(".webp", np.zeros((height, 5000, 3), np.uint8))[1]
    cv2.imdecode(data[:30], cv2.IMREAD_COLOR)
    try:
        print(cv2.imdecode(data, cv2.IMREAD_COLOR) is not None)
    except cv2.error:
        print(False)
"""


def test_in_a_worker_opencv_has_the_same_cap_and_stays_silent_whoever_imports_it_first():
    environment = {**os.environ, **ENVIRONMENT}
    run = subprocess.run(
        [sys.executable, "-c", FENCE], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.split() == ["True", "False"]
    assert run.stderr == ""
    assert int(ENVIRONMENT["OPENCV_IO_MAX_IMAGE_PIXELS"]) == MAX_PIXELS == 5000 * 5000
