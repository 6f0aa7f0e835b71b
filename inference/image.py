"""What an image model gets as an item: a decoded frame. A plain value; nothing here decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Image:
    """A decoded frame.

    Attributes:
        pixels: uint8, height x width x 3, blue green red, upright, at the working size.
        width, height: the frame as it was sent and as a viewer shows it, in pixels.
    """

    pixels: Pixels
    width: int
    height: int

    @property
    def scale(self) -> tuple[float, float]:
        """Sent pixels per working pixel, along x and along y."""
        height, width = self.pixels.shape[:2]
        return self.width / width, self.height / height
