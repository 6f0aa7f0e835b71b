"""Turns what a program holds a picture in, or a file's path, into the bytes that a model takes.

It imports OpenCV for an array only, and Pillow never: an image of Pillow's saves itself.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from inference.model import InputKind

JPEG_QUALITY = 95
"""Of 100: what OpenCV writes by default, and twice the bytes of a camera's frame."""

LONGEST_JPEG = 65535
"""Pixels on a side that a JPEG can have (ITU-T T.81, B.2.2)."""


def is_bytes(item: Any) -> bool:
    """Whether an item is encoded already."""
    return isinstance(item, bytes | bytearray | memoryview)


def to_bytes(item: Any, kind: InputKind, model: str, most: int = -1) -> bytes:
    """Give the bytes of an item for an image or bytes model; it may read a file, and takes milliseconds.

    Args:
        item: bytes as they are; a `pathlib.Path`, whose file is read; for an image model also a numpy array, uint8,
            height x width x 3 in the order blue green red as OpenCV has it, or height x width for grey; or an image
            of Pillow's, with its pixels as they are and without its EXIF orientation. Both are encoded as JPEG of
            quality 95; to keep every pixel, send a PNG's bytes.
        model: its name, for errors.
        most: read no more than one byte more than this; -1 for all.

    Raises:
        TypeError: it is none of these.
        ValueError: an array has another shape or type, or more than 65,535 pixels on a side.
        OSError: the file cannot be read.
        ImportError: it is an array, and OpenCV is not installed.
    """
    if is_bytes(item):
        return bytes(item)
    if isinstance(item, os.PathLike):
        with open(item, "rb") as file:  # noqa: PTH123  # any PathLike
            return file.read(most + 1 if most >= 0 else -1)
    if kind == "image":
        if _is_pillow(item):
            return _save(item)
        numpy = sys.modules.get("numpy")  # who has an array has imported it
        if numpy is not None and isinstance(item, numpy.ndarray):
            return _encode(item)
    wanted, also = "bytes", "a Path"
    if kind == "image":
        wanted, also = "an encoded image, such as a JPEG file's bytes", "a Path, a numpy array or a PIL image"
    raise TypeError(f"model {model} takes {wanted}, not {type(item).__name__}; {also} will do too")


def _is_pillow(item: Any) -> bool:
    return any((cls.__module__, cls.__name__) == ("PIL.Image", "Image") for cls in type(item).__mro__)


def _save(image: Any) -> bytes:
    _check_size(*image.size)
    buffer = io.BytesIO()
    (image if image.mode in ("RGB", "L") else image.convert("RGB")).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _encode(array: Any) -> bytes:
    shape = array.shape
    if array.dtype.name != "uint8" or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
        raise ValueError(
            f"an array for an image is uint8, height x width x 3 (blue green red) or height x width (grey), "
            f"not {array.dtype.name} of shape {shape}"
        )
    _check_size(shape[1], shape[0])
    try:
        import cv2  # noqa: PLC0415  # other items do without
    except ImportError as exc:
        raise ImportError("to send arrays, install opencv-python-headless; or send a JPEG's bytes") from exc
    # a view of other strides, as of `[..., ::-1]`, is copied: OpenCV refuses it
    contiguous = sys.modules["numpy"].ascontiguousarray(array)
    _, encoded = cv2.imencode(".jpg", contiguous, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded.tobytes()


def _check_size(width: int, height: int) -> None:
    if not (1 <= width <= LONGEST_JPEG and 1 <= height <= LONGEST_JPEG):
        raise ValueError(f"an image has 1 to {LONGEST_JPEG:,} pixels on a side, not {width} x {height}")
