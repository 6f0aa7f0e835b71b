"""The numbers of the summary; what is shown of a stream is tested with the commands that stream."""

from __future__ import annotations

from collections import deque

import pytest

from stream_server.commands.console import percentile


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles_are_by_nearest_rank(share: float, value: int) -> None:
    assert percentile(deque(map(float, range(100, 0, -1))), share) == value
