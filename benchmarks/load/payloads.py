"""The items that the benchmarks send, by name, and the expected answers where they are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, TypeAlias

Payloads: TypeAlias = Sequence[str] | Sequence[bytes]

FRAME_BYTES = 42_000
"""A 640x480 JPEG of a webcam."""

SIZES = 211
"""How many sizes `numbered` has: a prime, so that no window or batch size divides it."""

TEXTS = (
    "Are we still on for lunch tomorrow? I could do half past twelve, or any time after two.",
    "CONGRATULATIONS!!! You have been selected to receive a FREE holiday for two. Click now to claim it $$$",
    "The build fails since this morning: the linker cannot find libfoo, though I have installed it. Did anyone "
    "change the paths? I had to add the folder by hand to get on with it.",
    "Lower your monthly payments today! Our lenders compete for your business, and bad credit is no problem. "
    "Fill in the short form and save thousands. To be removed from this list reply with REMOVE in the subject.",
    "Thanks for the patch. I have read it and it looks right to me, apart from the second hunk: the lock is taken "
    "twice on the error path, so that the next caller would wait for ever. Could you send it again with that "
    "mended, and with a test that fails without it? Then it can still go into the next release.",
    "Make money from home. No experience needed, work as much or as little as you like, 100% guaranteed income. "
    "Order our starter kit for only $29.95 and begin to earn within 24 hours! This offer ends at midnight.",
    "Hi all, the minutes of Thursday are in the usual place. Three things are open: who books the room for the "
    "spring meeting, whether the old server is switched off in March or in April, and how many copies of the "
    "report we print. Please answer by the end of the week, because I am away from Monday on.",
    "ok, see you at 8",
)
"""Eight messages of 16 to 303 characters, ham and spam in turn: what people type into a box."""


def portrait() -> list[bytes]:
    """One JPEG of 640x480 with a face."""
    return [(resources.files("web_client") / "sample.jpg").read_bytes()]


def frame() -> list[bytes]:
    """One item of a frame's size for the null model, which does not read it."""
    return [bytes(FRAME_BYTES)]


def numbered() -> list[bytes]:
    """Items of `SIZES` sizes from a frame's on: the null model's answer tells which one it answers."""
    return [bytes(FRAME_BYTES + size) for size in range(SIZES)]


def texts() -> list[str]:
    """`TEXTS` as the messages that carry them."""
    return [json.dumps({"type": "item", "text": text}) for text in TEXTS]


PAYLOADS: dict[str, Callable[[], Payloads]] = {
    "portrait": portrait,
    "frame": frame,
    "numbered": numbered,
    "texts": texts,
}


def expected(name: str) -> list[dict[str, Any]]:
    """The outputs for the items of `PAYLOADS[name]`, in order; empty if they depend on the model."""
    if name not in {"frame", "numbered"}:
        return []
    return [{"bytes": len(item)} for item in PAYLOADS[name]()]
