"""Faces drawn on the picture they were found in."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from inference.model import ItemError
from stream_server.commands.annotate import BOX, LANDMARK, draw, looks_like_faces


def picture(width: int = 320, height: int = 240) -> bytes:
    return cv2.imencode(".png", np.full((height, width, 3), 255, np.uint8))[1].tobytes()


def pixels(jpeg: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int)


def near(pixel: Any, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel - np.array(colour)).max() < 60)  # JPEG smears thin lines of colour


FACE = {"box": [100.4, 80.0, 90.0, 100.0], "score": 0.91, "landmarks": [[130.0, 120.0], [160.0, 120.0]]}


def test_box_and_landmarks_are_where_they_were_found() -> None:
    drawn = pixels(draw(picture(), {"faces": [FACE]}))
    assert drawn.shape == (240, 320, 3)
    for x, y in ((100, 130), (190, 130), (145, 80), (145, 180)):
        assert near(drawn[y - 1 : y + 2, x - 1 : x + 2].min(axis=(0, 1)), BOX), (x, y)
    for x, y in ((130, 120), (160, 120)):
        assert near(drawn[y, x], LANDMARK)
    assert drawn[130, 110:180].min() > 200, "the face itself stays free"
    assert drawn[60:78, 100:140].min() < 150, "its score stands above the box"


def test_a_large_picture_gets_thicker_lines() -> None:
    drawn = pixels(draw(picture(3200, 2400), {"faces": [{"box": [1000, 800, 900, 1000]}]}))
    assert near(drawn[1300, 1000], BOX)
    assert near(drawn[1300, 1003], BOX)


def test_a_face_at_the_border_is_drawn_as_far_as_it_shows() -> None:
    drawn = pixels(
        draw(picture(), {"faces": [{"box": [-20, -20, 60, 60], "score": 1.0, "landmarks": [[-5, 1000]]}]})
    )
    assert near(drawn[20, 40], BOX)


def test_no_face_leaves_the_picture_as_it_was() -> None:
    assert pixels(draw(picture(), {"faces": []})).min() > 250


def test_the_picture_is_drawn_upright_as_the_boxes_are() -> None:
    jpeg = cv2.imencode(".jpg", np.full((240, 320, 3), 255, np.uint8))[1].tobytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    app1 = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + (len(app1) + 2).to_bytes(2, "big") + app1 + jpeg[2:]
    assert pixels(draw(turned, {"faces": []})).shape == (320, 240, 3)


def test_damaged_picture_cannot_be_drawn_on() -> None:
    with pytest.raises(ItemError):
        draw(b"no picture", {"faces": []})


@pytest.mark.parametrize(
    ("outputs", "drawable"),
    [
        ({"faces": []}, True),
        ({"faces": [FACE], "width": 320}, True),
        ({"faces": [{"box": [1, 2, 3]}]}, False),
        ({"faces": [{"box": ["1", 2, 3, 4]}]}, False),
        ({"faces": ["box"]}, False),
        ({"faces": [{"box": [1, 2, 3, float("nan")]}]}, False),
        ({"faces": [{"box": [1, 2, 3, 1e300]}]}, False),
        ({"faces": 3}, False),
        ({"label": "spam"}, False),
        ([], False),
        (None, False),
    ],
)
def test_only_faces_can_be_drawn(outputs: Any, drawable: bool) -> None:
    assert looks_like_faces(outputs) is drawable


@pytest.mark.parametrize("landmarks", [None, 5, "five", {"x": 1}, [None], [[1]], [[1, None]], [["1", "2"]]])
@pytest.mark.parametrize("score", [None, "0.9", [0.9]])
def test_what_is_not_a_score_or_a_point_is_left_out(landmarks: Any, score: Any) -> None:
    box = {"faces": [{"box": FACE["box"]}]}
    face = {**FACE, "landmarks": landmarks, "score": score}
    assert draw(picture(), {"faces": [face]}) == draw(picture(), box)
