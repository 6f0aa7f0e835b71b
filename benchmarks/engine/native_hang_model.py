"""A model that hangs in native code, for the chaos benchmark."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from inference.model import InputKind

HANG_S = 600


class Hanging:
    """Sleeps in C without releasing the interpreter's lock, for every item except that of the warm-up."""

    input: InputKind = "bytes"
    timeout_ms = HANG_S * 1000

    def load(self) -> None:
        """Nothing to load."""

    def predict(self, items: Sequence[bytes], /) -> list[int]:
        """Hang with the interpreter's lock held, as a broken extension does."""
        for item in items:
            if item != b"\0":
                ctypes.PyDLL(None).sleep(HANG_S)
        return [len(item) for item in items]
