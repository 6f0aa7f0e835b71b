"""The null model: answers an item's size, so that what is measured is the server alone."""

from __future__ import annotations

from collections.abc import Sequence

from inference.model import InputKind, Policy


class Echo:
    """Answers how many bytes an item has."""

    input: InputKind = "bytes"
    policy: Policy = "queue"
    max_batch = 32

    def load(self) -> None:
        """Nothing to load."""

    def predict(self, items: Sequence[bytes], /) -> list[dict[str, int]]:
        """Answer each item's size: ``{"bytes": n}``."""
        return [{"bytes": len(item)} for item in items]
