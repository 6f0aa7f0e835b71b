"""The rule of images against a real Chromium: what it displays in full is decoded to the same size and orientation.

Each file is a picture of 64x48 with a colour in each quarter, so that its corners tell how it is turned.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import simplejpeg
from playwright.sync_api import Page, sync_playwright

from inference.model import ItemError
from inference.worker.images import decode
from tests import browser
from tests.inference.worker.image_files import (
    chunk,
    encode,
    extended_webp,
    png,
    segment,
    tiff,
    webp_chunk,
    with_exif,
    with_frame_size,
)

# red, green / blue, white, in OpenCV's order of colours
QUARTERS = np.zeros((48, 64, 3), np.uint8)
QUARTERS[:24, :32, 2] = QUARTERS[:24, 32:, 1] = QUARTERS[24:, :32, 0] = QUARTERS[24:, 32:] = 255
ROWS = b"".join(b"\0" + row.tobytes() for row in QUARTERS[..., ::-1])
TALL = np.repeat(QUARTERS, 10, axis=0)

JPEG, PNG = encode("jpg", QUARTERS), encode("png", QUARTERS)
WEBP = encode("webp", QUARTERS, cv2.IMWRITE_WEBP_QUALITY, 90)
PROGRESSIVE = encode("jpg", QUARTERS, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTS = encode("jpg", TALL, cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
SOF, SOS = JPEG.index(b"\xff\xc0"), JPEG.index(b"\xff\xda")
HEAD, END = PNG[:33], PNG[-12:]
ALPHA = np.dstack([QUARTERS, np.full((48, 64), 255, np.uint8)])
CMYK = np.dstack([QUARTERS[..., ::-1], np.full((48, 64), 255, np.uint8)])
PALETTE = chunk(b"PLTE", bytes((255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255)))
INDEXED = b"".join(
    b"\0" + bytes((2 * (row >= 24),)) * 32 + bytes((2 * (row >= 24) + 1,)) * 32 for row in range(48)
)


def exif(*orientations: int) -> bytes:
    return b"".join(segment(0xE1, b"Exif\0\0" + tiff(each)) for each in orientations)


def inserted(data: bytes, at: int, what: bytes) -> bytes:
    return data[:at] + what + data[at:]


def interlaced(*before: bytes) -> bytes:
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in QUARTERS[y::dy, x::dx, ::-1])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 1))
    return HEAD[:8] + header + b"".join(before) + chunk(b"IDAT", zlib.compress(rows)) + END


def animated_png(*before: bytes) -> bytes:
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    frames = [chunk(b"fcTL", struct.pack(">IIIIIHHBB", n, 64, 48, 0, 0, 1, 1, 0, 0)) for n in (0, 1)]
    black = chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(bytes(len(ROWS))))
    return HEAD + control + b"".join(before) + frames[0] + PNG[33:-12] + frames[1] + black + END


def animated_webp(width: int, height: int, left: int, top: int, *after: bytes) -> bytes:
    numbers = (left // 2, top // 2, 63, 47, 1000)
    frame = webp_chunk(b"ANMF", b"".join(n.to_bytes(3, "little") for n in numbers) + b"\0" + WEBP[12:])
    return extended_webp(width, height, 2 | 8 * bool(after), webp_chunk(b"ANIM", bytes(6)), frame, *after)


SHOWN = {
    **{f"jpeg, orientation {n}": with_exif(JPEG, tiff(n, ">")) for n in range(10)},
    **{f"png, orientation {n}": inserted(PNG, 33, chunk(b"eXIf", tiff(n))) for n in range(10)},
    **{
        f"webp, orientation {n}": extended_webp(64, 48, 8, WEBP[12:], webp_chunk(b"EXIF", tiff(n)))
        for n in range(10)
    },
    "jpeg, orientations 6 and 3": inserted(JPEG, 2, exif(6, 3)),
    "jpeg, orientations 1 and 6": inserted(JPEG, 2, exif(1, 6)),
    "jpeg, EXIF without an orientation, then 6": inserted(
        JPEG, 2, segment(0xE1, b"Exif\0\0" + tiff(5, tag=0x010F)) + exif(6)
    ),
    "jpeg, invalid EXIF, then 6": inserted(JPEG, 2, segment(0xE1, b"Exif\0\0XX" + bytes(20)) + exif(6)),
    "jpeg, EXIF of another type": inserted(JPEG, 2, segment(0xE1, b"Exif\0\0" + tiff(6, kind=4))),
    "jpeg, EXIF of two values": inserted(JPEG, 2, segment(0xE1, b"Exif\0\0" + tiff(6, count=2))),
    "jpeg, EXIF after JFIF": inserted(JPEG, 20, exif(6)),
    "jpeg, EXIF after XMP": inserted(JPEG, 2, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0") + exif(6)),
    "jpeg, EXIF before the frame header": inserted(JPEG, SOF, exif(6)),
    "jpeg, EXIF after the frame header": inserted(JPEG, SOS, exif(6)),
    "jpeg, EXIF after the scan": inserted(JPEG, len(JPEG) - 2, exif(6)),
    "jpeg, fill bytes before EXIF": inserted(JPEG, 20, b"\xff\xff" + exif(6)),
    "jpeg, progressive": PROGRESSIVE,
    "jpeg, gray": encode("jpg", QUARTERS[..., 0]),
    "jpeg, CMYK": simplejpeg.encode_jpeg(np.ascontiguousarray(CMYK), colorspace="CMYK"),
    "jpeg, bytes between segments": inserted(JPEG, SOF, bytes(4)),
    "jpeg, bytes before the end": inserted(JPEG, len(JPEG) - 2, bytes(16)),
    "jpeg, bytes before restart markers": b"".join(
        bytes(20) + RESTARTS[n : n + 1]
        if RESTARTS[n] == 0xFF and 0xD0 <= RESTARTS[n + 1] <= 0xD7
        else bytes([each])
        for n, each in enumerate(RESTARTS[:-2])
    )
    + RESTARTS[-2:],
    "jpeg, JFIF version 2.01": JPEG[:11] + b"\2\1" + JPEG[13:],
    "jpeg, an incomplete profile": inserted(JPEG, 2, segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(10))),
    "jpeg, Adobe without a transform": inserted(JPEG, 2, segment(0xEE, b"Adobe" + bytes(7))),
    "jpeg, fewer rows than data": with_frame_size(JPEG, 64, 40),
    "png, 16 bits": encode("png", QUARTERS.astype(np.uint16) * 257),
    "png, alpha": encode("png", ALPHA),
    "png, gray": encode("png", QUARTERS[..., 0]),
    "png, palette": png(64, 48, 8, 3, INDEXED, PALETTE),
    "png, interlaced": interlaced(),
    "png, interlaced and turned": interlaced(chunk(b"eXIf", tiff(6))),
    "png, animated": animated_png(),
    "png, animated and turned": animated_png(chunk(b"eXIf", tiff(6))),
    "png, orientations 6 and 3": inserted(PNG, 33, chunk(b"eXIf", tiff(6)) + chunk(b"eXIf", tiff(3))),
    "png, EXIF after the pixels": inserted(PNG, len(PNG) - 12, chunk(b"eXIf", tiff(6))),
    "png, EXIF with a wrong checksum": inserted(PNG, 33, chunk(b"eXIf", tiff(6))[:-1] + b"x"),
    "png, a text with a wrong checksum": inserted(PNG, 33, chunk(b"tEXt", b"a\0b")[:-1] + b"x"),
    "png, more rows than its size": png(64, 48, 8, 2, ROWS + bytes(10_000)),
    "png, no end": PNG[:-12],
    "webp, lossless": encode("webp", QUARTERS),
    "webp, alpha": encode("webp", ALPHA, cv2.IMWRITE_WEBP_QUALITY, 90),
    "webp, animated": animated_webp(64, 48, 0, 0),
    "webp, animated with EXIF": animated_webp(64, 48, 0, 0, webp_chunk(b"EXIF", tiff(6))),
    "webp, animated, larger canvas": animated_webp(80, 60, 16, 12),
}
"""What Chromium displays in full."""

REFUSED = {
    "jpeg, cut": JPEG[: SOS + (len(JPEG) - SOS) // 2],
    "jpeg, cut and ended": JPEG[: SOS + (len(JPEG) - SOS) // 2] + b"\xff\xd9",
    "jpeg, more rows than data": with_frame_size(JPEG, 64, 80),
    "jpeg, another inside": inserted(JPEG, 2, JPEG),
    "jpeg, 12 bits": JPEG[: SOF + 4] + b"\x0c" + JPEG[SOF + 5 :],
    "png, cut": PNG[:-20],
    "png, a row missing": png(64, 48, 8, 2, ROWS[:-193]),
    "png, rows with a wrong checksum": PNG[:-13] + b"x" + END,
    "png, text first": PNG[:8] + chunk(b"tEXt", b"a\0b") + PNG[8:],
    "webp, cut": WEBP[: len(WEBP) // 2],
    "webp, another canvas": extended_webp(640, 480, 0, WEBP[12:]),
    "webp, a frame outside": animated_webp(64, 48, 16, 12),
}
"""What Chromium does not display, or not in full."""

DRAW = """
async ({ encoded, whole }) => {
  const image = new Image();
  image.src = encoded;
  try {
    await image.decode();
    // an image element shows what has come so far; this fails unless that is all
    if (whole) await createImageBitmap(await (await fetch(encoded)).blob());
  } catch {
    return null;
  }
  const { naturalWidth: width, naturalHeight: height } = image;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const corners = [[2, 2], [width - 3, 2], [2, height - 3], [width - 3, height - 3]];
  return { size: [width, height], corners: corners.map((at) => [...context.getImageData(...at, 1, 1).data]) };
}
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    path = browser.find()
    if path is None:
        pytest.fail(f"{browser.ADVICE}, or: make browser", pytrace=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path)
        yield chromium.new_page()
        chromium.close()


def address(data: bytes) -> str:
    kind = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp"}[data[:2]]
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def bright(colour: list[int]) -> tuple[bool, ...]:
    """Which of red, green and blue are there; of a transparent pixel none is."""
    return tuple(value > 127 for value in colour[:3])


@pytest.mark.parametrize("name", SHOWN)
def test_an_image_has_the_size_and_the_corners_that_chromium_shows(page: Page, name: str) -> None:
    shown = page.evaluate(DRAW, {"encoded": address(SHOWN[name]), "whole": False})
    assert shown is not None
    image = decode(SHOWN[name], None)
    height, width = image.pixels.shape[:2]
    assert [image.width, image.height] == [width, height] == shown["size"]
    corners = [image.pixels[y, x, ::-1] for y in (2, height - 3) for x in (2, width - 3)]
    assert [bright(list(corner)) for corner in corners] == [bright(corner) for corner in shown["corners"]]


@pytest.mark.parametrize("name", REFUSED)
def test_an_image_with_missing_pixels_is_refused(page: Page, name: str) -> None:
    shown = page.evaluate(DRAW, {"encoded": address(REFUSED[name]), "whole": True})
    with pytest.raises(ItemError):
        decode(REFUSED[name], None)
    # a JPEG that was ended too early Chromium displays, with gray where pixels are missing
    white = [255, 255, 255, 255]
    assert shown is None or shown["corners"][-1] != white
