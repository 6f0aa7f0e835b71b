"""Counts found faces and false boxes of the `faces` model in a folder of labelled photos."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from inference.models.faces import Faces
from inference.worker.images import decode

MATCH_IOU = 0.5
"""Overlap from which a face counts as found, as in PASCAL VOC and WIDER FACE."""

Box = Sequence[float]


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes ``[x, y, width, height]``."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def matches(found: Sequence[Box], labelled: Sequence[Box]) -> int:
    """Count the labelled boxes that are found; each found box, in order, matches the one it overlaps most."""
    free = list(labelled)
    for box in found:
        best = max(free, key=lambda label: iou(box, label), default=None)
        if best is not None and iou(box, best) >= MATCH_IOU:
            free.remove(best)
    return len(labelled) - len(free)


def evaluate(folder: Path, model: Faces) -> tuple[int, int, int]:
    """Run a loaded model on every photo in ``boxes.json``, with a printed line for each.

    Returns:
        The numbers of found faces, labelled faces and false boxes.
    """
    found = total = surplus = 0
    for name, labelled in sorted(json.loads((folder / "boxes.json").read_text()).items()):
        image = decode((folder / name).read_bytes(), model.long_side)
        (answer,) = model.predict([image])
        boxes = [face["box"] for face in answer["faces"]]
        hits = matches(boxes, labelled)
        print(f"{name}: {hits} of {len(labelled)} found, {len(boxes) - hits} false")
        found, total, surplus = found + hits, total + len(labelled), surplus + len(boxes) - hits
    return found, total, surplus


def main() -> None:
    """Evaluate, and print the sums."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios.accuracy", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="photos, and boxes.json: name -> [[x, y, width, height], ...]"
    )
    parser.add_argument("--long-side", type=int, default=640, help="working size in pixels (%(default)s)")
    parser.add_argument("--min-score", type=float, default=0.6, help="least score of a face (%(default)s)")
    args = parser.parse_args()
    model = Faces(long_side=args.long_side, min_score=args.min_score)
    model.load()
    found, total, surplus = evaluate(args.folder, model)
    print(f"{found}/{total} faces found at IoU >= {MATCH_IOU}, {surplus} false boxes")


if __name__ == "__main__":
    main()
