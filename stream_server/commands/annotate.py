"""Draws faces on the picture they were found in, for the `stream` command; it finds nothing itself.

OpenCV is imported here, so nothing that the server's process imports may import this.
"""

from __future__ import annotations

from typing import Any

import cv2

from inference.worker.images import decode

JPEG_QUALITY = 90
"""Good enough to look at."""

LARGEST = 1e6
"""Coordinates from here on cannot be drawn; no picture is as large."""

BOX = (64, 220, 64)
LANDMARK = (40, 90, 255)
"""Blue, green, red: apart from skin and, in lightness, from each other."""


def looks_like_faces(outputs: Any) -> bool:
    """Whether `draw` can draw a model's outputs: ``{"faces": [{"box": [x, y, w, h]}, ...]}``.

    Scores that are not numbers, and landmarks that are not points, are left out.
    """
    match outputs:
        case {"faces": [*faces]}:
            return all(isinstance(face, dict) and _numbers(face.get("box"), 4) for face in faces)
        case _:
            return False


def _numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_number, value))


def _number(value: Any) -> bool:
    """Whether it is a number that OpenCV can take as a coordinate: it has 32 bits for one, and wraps around."""
    return isinstance(value, (int, float)) and abs(value) < LARGEST  # not NaN, which no comparison holds for


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
        landmarks = face.get("landmarks")
        for point in landmarks if isinstance(landmarks, list) else ():
            if not _numbers(point, 2):
                continue
            cv2.circle(pixels, (round(point[0]), round(point[1])), thick, LANDMARK, cv2.FILLED, cv2.LINE_AA)
        if _number(face.get("score")):
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
