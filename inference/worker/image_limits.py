"""What decoding one image may cost, and the refusals that all readers of images share.

The bound on a worker's time and growth for one item is 0.3 s and 150 MB. Each reader estimates both from what the
file's structure says; the factors were measured on one core, and include scaling to a working size of 640.
"""

from __future__ import annotations

from inference.model import ItemError

MAX_PIXELS = 25_000_000
"""Largest frame: most cameras and phones take 24 megapixels in full; decoding those as JPEG takes 0.1 s, 72 MB."""

MAX_NANOSECONDS = 300_000_000
"""Longest decoding: a worker that decodes for one stream keeps others waiting."""

MAX_MEMORY = 150_000_000
"""Most bytes that decoding may take besides the item itself."""


def bad(reason: str) -> ItemError:
    """Say that an image is damaged."""
    return ItemError("bad_image", f"the image cannot be decoded: {reason}")


def cut_short() -> ItemError:
    """Say that an image ends too early."""
    return bad("it is cut short")


def too_large(message: str) -> ItemError:
    """Say that decoding an image would cost too much."""
    return ItemError("too_large", message)


def check_cost(width: int, height: int, nanoseconds: int, memory: int) -> None:
    """Refuse an image whose size or estimated cost is over the limits.

    Raises:
        ItemError: ``too_large``.
    """
    if width * height > MAX_PIXELS:
        raise too_large(f"the image has {width}x{height} pixels: send at most {MAX_PIXELS:,}")
    if nanoseconds > MAX_NANOSECONDS or memory > MAX_MEMORY:
        raise too_large(
            f"decoding the image of {width}x{height} pixels would take some {nanoseconds / 1e9:.2f} s and "
            f"{memory / 1e6:.0f} MB, more than {MAX_NANOSECONDS / 1e9} s or {MAX_MEMORY / 1e6:.0f} MB: "
            "send it as a baseline JPEG, or smaller"
        )
