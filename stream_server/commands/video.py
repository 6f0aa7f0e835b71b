"""Reads videos and cameras with OpenCV, frame by frame, as JPEGs.

It is imported when a video is opened, so that a command for texts does not import OpenCV.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from stream_server.commands.source_items import SourceItem, Unreadable
from stream_server.errors import ConfigError

# we report what cannot be opened; OpenCV and FFmpeg would log it as well
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET, read when the first video is opened

JPEG_QUALITY = 90
"""Of re-encoded video frames: hardly a detector's score changes, and a frame of 640x480 takes about 60 KB."""

COUNTING_SUFFIXES = frozenset({".3gp", ".avi", ".m4v", ".mov", ".mp4"})
"""Videos whose header counts the frames; of others OpenCV guesses the number from the duration and the rate."""

GUESS_S = 1.0
"""By how much the last frame of those others may come before the duration ends."""

MOST_FAILED = 100
"""Reads in a row that fail before a video is taken to have ended: three seconds of damage, and 2 ms at its end."""


def open_camera(number: int) -> Iterator[SourceItem | Unreadable]:
    """Open a camera of this machine.

    Raises:
        ConfigError: it cannot be used.
    """
    camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        raise ConfigError(f"no camera {number}; is it plugged in, and does no other program use it?")
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a frame that waited in the driver is an old one
    return _camera_frames(camera, number)


def open_video(path: Path) -> tuple[Iterator[SourceItem | Unreadable], int | None]:
    """Open a video: its frames, and how many its header says there are.

    Raises:
        ConfigError: it cannot be read as a video.
    """
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise ConfigError(f"{path} cannot be read as a video; is it complete?")
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    return _video_frames(video, path), count if count > 0 else None


def _video_frames(video: cv2.VideoCapture, path: Path) -> Iterator[SourceItem | Unreadable]:
    """Encode a video's frames as JPEG until it ends; go on after frames that cannot be decoded."""
    number = failed = 0
    seconds = 0.0
    try:
        while failed < MOST_FAILED:
            there, pixels = video.read()
            if not there:
                failed += 1
                continue
            if failed:
                yield _undecoded(number + 1, failed)
            number += failed + 1
            failed = 0
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            yield _encoded(number, pixels)
        if (missing := _missing(video, path, number, seconds)) > 0:
            yield _undecoded(number + 1, missing)
    finally:
        video.release()


def _missing(video: cv2.VideoCapture, path: Path, number: int, seconds: float) -> int:
    """Count the frames that should have come after the last one that did."""
    promised = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    if path.suffix.lower() in COUNTING_SUFFIXES:
        return promised - number
    rate = video.get(cv2.CAP_PROP_FPS)
    left_s = promised / rate - seconds if rate > 0 else 0.0
    return int(left_s * rate) if left_s > GUESS_S else 0


def _undecoded(first: int, count: int) -> Unreadable:
    last = first + count - 1
    name = str(first) if count == 1 else f"{first}-{last}"
    return Unreadable(name, "bad_image", f"{count:,} frames of the video could not be decoded", count)


def _camera_frames(camera: cv2.VideoCapture, number: int) -> Iterator[SourceItem | Unreadable]:
    count = 0
    try:
        while True:
            there, pixels = camera.read()
            count += 1
            if not there:
                yield Unreadable(str(count), "unreadable", f"camera {number} gives no more pictures")
                return
            yield _encoded(count, pixels)
    finally:
        camera.release()


def _encoded(number: int, pixels: Any) -> SourceItem:
    _, jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return SourceItem(str(number), jpeg.tobytes())
