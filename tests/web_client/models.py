"""Models that are hard on the page: a slow one, one that outputs markup, one that fails to load."""

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
