"""Draws faces on the picture they were found in, for the `stream` command; it finds nothing itself.

OpenCV is imported here, so nothing that the server's process imports may import this.
"""

from __future__ import annotations

from typing import Any

import cv2

from inference.worker.images import decode

JPEG_QUALITY = 90
"""Good enough to look at."""

BOX = (64, 220, 64)
LANDMARK = (40, 90, 255)
"""Blue, green, red: apart from skin and, in lightness, from each other."""


def looks_like_faces(outputs: Any) -> bool:
    """Whether `draw` can draw a model's outputs: ``{"faces": [{"box": [x, y, w, h]}, ...]}``."""
    match outputs:
        case {"faces": [*faces]}:
            return all(isinstance(face, dict) and _numbers(face.get("box"), 4) for face in faces)
        case _:
            return False


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(v, (int, float)) for v in value)


def draw(picture: bytes, outputs: dict[str, Any]) -> bytes:
    """Draw boxes, scores and landmarks.

    Args:
        picture: JPEG, PNG or WebP.
        outputs: what `looks_like_faces`, in pixels of the picture as a viewer shows it.

    Returns:
        A JPEG of the same size, upright.

    Raises:
        inference.model.ItemError: the picture cannot be decoded.
    """
    pixels = decode(picture, None).pixels.copy()
    thick = max(2, round(max(pixels.shape[:2]) / 400))  # a line that shows, whatever the size
    for face in outputs["faces"]:
        x, y, width, height = (round(value) for value in face["box"])
        cv2.rectangle(pixels, (x, y), (x + width, y + height), BOX, thick, cv2.LINE_AA)
        for point in face.get("landmarks", ()):
            cv2.circle(pixels, (round(point[0]), round(point[1])), thick, LANDMARK, cv2.FILLED, cv2.LINE_AA)
        if "score" in face:
            size = 0.4 * thick + 0.2
            above = max(y - 2 * thick, round(22 * size))  # inside the picture
            cv2.putText(
                pixels,
                f"{face['score']:.2f}",
                (x, above),
                cv2.FONT_HERSHEY_SIMPLEX,
                size,
                BOX,
                thick,
                cv2.LINE_AA,
            )
    return cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()
