"""Models that are hard on the page: slow, with odd outputs, with markup in them, and one that fails to load."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

MARKUP = '<img src="/nothing" onerror="document.title = 1"><script>document.title = 2</script>'


class Slow:
    """Takes 0.3 s per frame, longer than a busy browser takes to encode one, and finds no face."""

    input = "image"

    def load(self) -> None:
        pass

    def predict(self, items: Sequence[Any], /) -> list[dict[str, Any]]:
        time.sleep(0.3)
        return [{"faces": [], "width": 640, "height": 480} for _ in items]


class Odd:
    """Outputs what looks like faces at first sight, another shape for each item."""

    input = "image"

    def __init__(self) -> None:
        face = {"box": [100, 100, 50, 50], "score": 0.9, "landmarks": [[110, 110]]}
        size = {"width": 640, "height": 480}
        self._outputs = [
            {"faces": [{**face, "landmarks": [None, [110, 110]]}], **size},
            {"faces": [{**face, "landmarks": None}], **size},
            {"faces": [{**face, "score": None}], **size},
            {"faces": [{"score": 0.9}], **size},
            {"faces": [None], **size},
            {"faces": [face]},
            {"faces": "two"},
            [],
            None,
        ]
        self._next = 0

    def load(self) -> None:
        pass

    def predict(self, items: Sequence[Any], /) -> list[Any]:
        answers = []
        for _ in items:
            answers.append(self._outputs[self._next % len(self._outputs)])
            self._next += 1
        return answers


class Markup:
    __doc__ = MARKUP

    input = "text"

    def load(self) -> None:
        pass

    def predict(self, items: Sequence[str], /) -> list[dict[str, Any]]:
        return [{"label": MARKUP, "scores": {MARKUP: 1.0}} for _ in items]


class Broken:
    """Fails to load."""

    input = "image"

    def load(self) -> None:
        raise OSError("the weights are not there")

    def predict(self, items: Sequence[Any], /) -> list[Any]:
        return [None for _ in items]
