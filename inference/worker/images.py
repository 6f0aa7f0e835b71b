"""Decodes a frame inside a worker, JPEG, PNG or WebP to pixels at a model's working size; it knows no model.

The rule: a file that Chromium displays in full is taken, with the size and the orientation that Chromium shows; one
with missing pixels is refused. Colours are those that are stored: profiles are not applied.

Decoders allocate what a file claims, and do all the work that it asks for. So each format has a reader that checks
the structure against the bytes that are there, bounds what decoding costs, and writes anew what the decoder gets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg

from inference.image import Image, Pixels
from inference.model import ItemError
from inference.worker import image_formats, jpeg, png, webp
from inference.worker.exif import UPRIGHT
from inference.worker.image_limits import bad

MAX_DCT_SHRINK = 8
"""A JPEG's blocks are 8x8: an eighth of the size is their mean alone."""

STRIPE = 64
"""Rows of CMYK that are converted at once: the whole would take four times the memory of its pixels."""

LIBJPEG_NO_MEMORY = "Insufficient memory"
"""How libjpeg's message begins where it had no room (jerror.h): simplejpeg has one exception for all of them."""

LIBJPEG_EXTRA_BYTES = "extraneous bytes before marker"
LIBJPEG_EXTRA_BYTES_AT_END = f"{LIBJPEG_EXTRA_BYTES} 0x{jpeg.EOI:02x}"
"""Parts of libjpeg's warning of bytes that no pixels need."""

TRANSPOSED = 5
"""Orientations from this one on swap width and height."""
FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
"""Orientation to the axis that `cv2.flip` takes, after transposing where the orientation asks for it."""


def decode(payload: bytes | memoryview, long_side: int | None) -> Image:
    """Decode a JPEG, PNG or WebP, told apart by their first bytes.

    A frame whose longer side exceeds ``long_side`` is scaled down to it; none is ever enlarged. Every kind of
    colour becomes BGR of 8 bits: alpha is dropped, 16 bits lose the lower 8, and of an animation the first picture
    is taken.
    EXIF orientation is applied to JPEG and PNG, and not to WebP, as in Chromium and Firefox. What no pixel needs is
    ignored: damaged metadata, bytes between a JPEG's segments or before its markers, bytes after the image's end.

    Args:
        payload: the encoded image, as sent.
        long_side: the working size in pixels; None decodes at full size.

    Raises:
        ItemError: ``empty``; ``unsupported_image`` (another format, which the message names, or a kind of JPEG that
            neither cameras nor browsers write); ``too_large`` (more than the limits in `image_limits`, or parts
            without end); ``bad_image`` (damaged or cut short: no part of it is handed on).
        MemoryError: there is no room for its pixels. What a WebP needs besides them, OpenCV does not tell from
            damage.
    """
    data = bytes(payload)
    if not data:
        raise ItemError("empty", "the message is empty: send the bytes of a JPEG, PNG or WebP")
    found = image_formats.format_of(data)
    if found == image_formats.JPEG:
        return _decode_jpeg(data, long_side)
    if found == image_formats.PNG:
        return _decode_png(data, long_side)
    if found == image_formats.WEBP:
        return _decode_webp(data, long_side)
    what = (
        f"{found} is not read here: convert it"
        if found
        else "the format of the image is not known: convert or encode it"
    )
    raise ItemError("unsupported_image", f"{what} to JPEG, PNG or WebP")


def _decode_jpeg(data: bytes, long_side: int | None) -> Image:
    """Decode with libjpeg-turbo, shrinking while still in the frequency domain.

    Only by 2, 4 and 8, for which it has vector code: 1920x1080 to 640x360 takes 4.2 ms of CPU by a half and
    a resize, 5.4 ms by three eighths, which is the nearest scale above.
    """
    source = jpeg.read(data)
    width, height = source.frame.width, source.frame.height
    shrink = 1
    if long_side is not None:
        while shrink < MAX_DCT_SHRINK and max(width, height) >= 2 * shrink * long_side:
            shrink *= 2
    pixels = _decompress(source, width // shrink, height // shrink)
    return _upright(_shrink(pixels, width, height, long_side), width, height, source.orientation)


def _decompress(source: jpeg.Jpeg, min_width: int, min_height: int) -> Pixels:
    """Decode a JPEG to a size not below this; bytes that are too many are fine, data that is missing is not.

    simplejpeg decodes into the buffer before it raises an error for libjpeg's first warning.
    """
    size = {"min_width": min_width, "min_height": min_height}
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(source.data, **size)
    except ValueError as exc:
        raise bad(_words(str(exc))) from exc
    except KeyError as exc:  # simplejpeg's name for this number of components
        raise ItemError("unsupported_image", "the JPEG's colours are of an unknown kind") from exc
    cmyk = colours in ("CMYK", "YCCK")
    pixels = np.empty((height, width, 4 if cmyk else 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(source.data, "CMYK" if cmyk else "BGR", buffer=pixels, **size)
    except ValueError as exc:
        message = str(exc)
        if message.startswith(LIBJPEG_NO_MEMORY):
            raise MemoryError(message) from exc
        if LIBJPEG_EXTRA_BYTES not in message:
            raise bad(_words(message)) from exc
        # without restarts nothing can be missing behind those before the end
        if source.restart_interval or not message.endswith(LIBJPEG_EXTRA_BYTES_AT_END):
            _check_intervals(source, message)
    return _from_cmyk(pixels) if cmyk else pixels


def _words(message: str) -> str:
    """Give a message of libjpeg's; simplejpeg cuts off the first letter of this one."""
    return re.sub("^C?orrupt", "corrupt", message)


def _check_intervals(source: jpeg.Jpeg, message: str) -> None:
    """Check that no restart interval misses data, where libjpeg told of bytes too many at the end of one."""
    images = jpeg.intervals(source)
    if images is None:
        raise bad(_words(message))
    for image in images:
        try:
            simplejpeg.decode_jpeg(image, "GRAY", min_width=1, min_height=1)
        except ValueError as exc:
            if not str(exc).endswith(LIBJPEG_EXTRA_BYTES_AT_END):
                raise bad(_words(str(exc))) from exc


def _from_cmyk(cmyk: Pixels) -> Pixels:
    """Convert inverted CMYK, as every program writes it since Adobe did, to BGR."""
    pixels = np.empty((*cmyk.shape[:2], 3), np.uint8)
    for top in range(0, len(cmyk), STRIPE):
        stripe = cmyk[top : top + STRIPE]
        pixels[top : top + STRIPE] = stripe[..., 2::-1] * stripe[..., 3:].astype(np.uint16) // 255
    return pixels


def _decode_png(data: bytes, long_side: int | None) -> Image:
    source = png.read(data)
    pixels = _decode_opencv(png.stored(source))
    return _upright(
        _shrink(pixels, source.width, source.height, long_side),
        source.width,
        source.height,
        source.orientation,
    )


def _decode_webp(data: bytes, long_side: int | None) -> Image:
    source = webp.read(data)
    pixels = _decode_opencv(source.picture)
    height, width = pixels.shape[:2]
    if (width, height) != (
        source.width,
        source.height,
    ):  # an animation's first picture leaves some of it free
        canvas = np.zeros((source.height, source.width, 3), np.uint8)
        canvas[source.top : source.top + height, source.left : source.left + width] = pixels
        pixels = canvas
    return _upright(
        _shrink(pixels, source.width, source.height, long_side), source.width, source.height, UPRIGHT
    )


def _decode_opencv(data: bytes | bytearray) -> Pixels:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels: Pixels | None = _opencv(cv2.imdecode, np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise bad("it is damaged")
    return pixels


def _opencv(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of OpenCV's, and say its errors in our words."""
    try:
        return function(*args, **options)
    except cv2.error as exc:
        if exc.code == cv2.Error.StsNoMem:
            raise MemoryError(exc.err) from exc
        raise bad(exc.err) from exc


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


def _upright(pixels: Pixels, width: int, height: int, orientation: int) -> Image:
    """Turn the pixels as the EXIF orientation says (1 to 8: row 0 and column 0 are at which edges)."""
    if orientation >= TRANSPOSED:
        pixels = _opencv(cv2.transpose, pixels)
        width, height = height, width
    if orientation in FLIPS:
        pixels = _opencv(cv2.flip, pixels, FLIPS[orientation])
    return Image(pixels, width, height)
