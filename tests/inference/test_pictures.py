"""What a program holds a picture in, as the bytes of an item."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from inference import load_model
from inference.pictures import to_bytes

COLOURS = np.zeros((24, 32, 3), np.uint8)
COLOURS[:, :16] = (250, 20, 10)
COLOURS[:, 16:] = (10, 20, 250)


def decoded(item: Any) -> Any:
    return cv2.imdecode(np.frombuffer(to_bytes(item, "image", "m"), np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize(
    "item",
    [
        COLOURS,
        COLOURS[..., ::-1][..., ::-1],
        np.asfortranarray(COLOURS),
        PIL.Image.fromarray(COLOURS[..., ::-1].copy()),
        PIL.Image.fromarray(COLOURS[..., ::-1].copy()).convert("RGBA"),
        PIL.Image.fromarray(COLOURS[..., ::-1].copy()).convert("P"),
    ],
    ids=["array", "view", "columns first", "pillow", "pillow with alpha", "pillow with a palette"],
)
def test_colours_arrive_as_they_are(item: Any) -> None:
    got = decoded(item)
    assert got.shape == COLOURS.shape
    for x in (4, 28):
        assert np.abs(got[12, x].astype(int) - COLOURS[12, x]).max() < 30


@pytest.mark.parametrize("item", [COLOURS[..., 0], PIL.Image.fromarray(COLOURS[..., 0].copy())])
def test_grey_is_grey(item: Any) -> None:
    got = decoded(item)
    assert got.shape == COLOURS.shape
    assert np.abs(got[12, 4].astype(int) - 250).max() < 4


def test_a_path_is_its_files_bytes(tmp_path: Path) -> None:
    file = tmp_path / "item.bin"
    file.write_bytes(b"any bytes")
    assert to_bytes(file, "image", "m") == to_bytes(file, "bytes", "m") == b"any bytes"
    assert to_bytes(file, "bytes", "m", most=3) == b"any ", "no more than tells that it is too large"
    with pytest.raises(FileNotFoundError):
        to_bytes(tmp_path / "absent", "image", "m")


@pytest.mark.parametrize("item", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_bytes_stay_as_they_are(item: Any) -> None:
    assert to_bytes(item, "image", "m") == b"x"


@pytest.mark.parametrize(
    "item",
    [
        COLOURS / 255,
        COLOURS.astype(np.int64),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.array([object()]),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((1, 65536), np.uint8),
        PIL.Image.new("L", (65536, 1)),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused(item: Any) -> None:
    with pytest.raises(ValueError, match=r"an array for an image is uint8|1 to 65,535 pixels on a side"):
        to_bytes(item, "image", "m")


@pytest.mark.parametrize(("item", "kind"), [("photo.jpg", "image"), (None, "image"), (COLOURS, "bytes")])
def test_anything_else_is_refused_and_what_will_do_is_named(item: Any, kind: Any) -> None:
    with pytest.raises(TypeError, match=r"model m takes .*, not \w+; a Path"):
        to_bytes(item, kind, "m")


def test_a_model_in_the_program_takes_them_too(tmp_path: Path) -> None:
    file = tmp_path / "frame.png"
    cv2.imwrite(str(file), COLOURS)
    model = load_model("faces", long_side=160)
    items = [file, COLOURS, COLOURS[..., 0], PIL.Image.fromarray(COLOURS)]
    assert [(answer["width"], answer["height"]) for answer in model.predict(items)] == [(32, 24)] * 4


def test_a_client_needs_no_opencv_and_no_pillow_until_there_is_such_an_item() -> None:
    script = (
        "import sys\nfor name in ('cv2', 'PIL', 'numpy'): sys.modules[name] = None\n"
        "import stream_server.client.stream\nfrom inference.pictures import to_bytes\n"
        "assert to_bytes(b'x', 'image', 'm') == b'x'\n"
        "try: to_bytes(object(), 'image', 'm')\nexcept TypeError: pass\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_array_without_opencv_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="install opencv-python-headless; or send a JPEG's bytes"):
        to_bytes(COLOURS, "image", "m")
