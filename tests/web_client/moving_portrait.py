"""Video for a fake webcam: a portrait's head moves on an ellipse, and each frame encodes its number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

Box: TypeAlias = tuple[float, float, float, float]

SAMPLE = Path(__file__).parents[2] / "web_client" / "sample.jpg"
HEAD = (180, 10, 210, 225)  # x, y, w, h in the sample, with hair and collar
FACE = (227, 88, 112, 135)  # measured by hand: hairline to chin, cheek to cheek

WIDTH, HEIGHT = 640, 480
FRAMES = 128  # at Chromium's 30 frames per second: one round in 4.3 s, up to 6 pixels per frame
BITS = 7
BLOCK = 24  # pixels per bit: large enough to survive JPEG and scaling


def head_at(number: int) -> tuple[int, int]:
    """Top left corner of the head in frame `number`."""
    angle = 2 * math.pi * number / FRAMES
    return round(215 + 130 * math.cos(angle)), round(140 + 100 * math.sin(angle))


def face_at(number: int) -> Box:
    """Box of the face in frame `number`: x, y, w, h in pixels."""
    x, y = head_at(number)
    return x + FACE[0] - HEAD[0], y + FACE[1] - HEAD[1], FACE[2], FACE[3]


def frames() -> Iterator[np.ndarray]:
    """Generate all frames."""
    sample = cv2.imread(str(SAMPLE))
    x, y, w, h = HEAD
    head = sample[y : y + h, x : x + w]
    background = cv2.GaussianBlur(cv2.resize(sample[:60, :150], (WIDTH, HEIGHT)), (0, 0), 25)
    # blend the edge of the patch: a hard one would be the strongest feature of the picture
    mask = np.zeros((h, w, 1), np.float32)
    mask[12:-12, 12:-12] = 1
    mask = cv2.GaussianBlur(mask, (0, 0), 6)[..., None]
    for number in range(FRAMES):
        frame = background.copy()
        left, top = head_at(number)
        patch = frame[top : top + h, left : left + w]
        patch[:] = mask * head + (1 - mask) * patch
        for bit in range(BITS):
            frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
        yield frame


def write_mjpeg(path: Path) -> None:
    """Write all frames as Motion JPEG, the format of Chromium's fake camera."""
    with path.open("wb") as file:
        for frame in frames():
            file.write(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


def write_webm(path: Path) -> None:
    """Write half a second as WebM, which every browser plays."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 30, (WIDTH, HEIGHT))
    assert video.isOpened()
    for frame in islice(frames(), 15):
        video.write(frame)
    video.release()


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x, y, w, h."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    intersection = max(0.0, width) * max(0.0, height)
    return intersection / (a[2] * a[3] + b[2] * b[3] - intersection)
