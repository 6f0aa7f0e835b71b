"""A model of your own for JSON: how far two points are from each other.

cd examples
stream-server predict data_model:Distance points.json      # {"from": [0, 0], "to": [3, 4]}
"""

import math
from collections.abc import Sequence
from typing import Any

from inference import ItemError


class Distance:
    """Measures the distance between two points."""

    input = "data"

    def load(self) -> None:
        """Nothing to load."""

    def predict(self, items: Sequence[Any]) -> list[object]:
        """Answer each pair of points."""
        return [self._distance(item) for item in items]

    def _distance(self, item: Any) -> object:
        try:
            return {"distance": math.dist(item["from"], item["to"])}
        except (TypeError, KeyError, ValueError):
            return ItemError("bad_points", 'send {"from": [x, y], "to": [x, y]}')
