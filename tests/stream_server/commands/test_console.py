"""The numbers of the summary; what is shown of a stream is tested with the commands that stream."""

from __future__ import annotations

import io
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from stream_server.client.stream import Stream
from stream_server.commands import console
from stream_server.commands.console import Report, percentile
from stream_server.protocol.client_side import End, Ready, Statistics


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_percentiles_are_by_nearest_rank(share: float, value: int) -> None:
    assert percentile(deque(map(float, range(100, 0, -1))), share) == value


def test_the_rate_does_not_count_the_time_of_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(console.time, "perf_counter", lambda: clock.now)
    shown = io.StringIO()
    report = Report(None, None, Console(file=shown, width=100))
    clock.now = 9.0  # the server took its time to say `ready`
    ready = Ready("s1", "echo", "1", "queue", 16, 1 << 20, "bytes")
    report.begin(ready)
    clock.now = 11.0
    stream: Any = SimpleNamespace(ready=ready, statistics=Statistics(8, 8, 0, 0, 0), ended=End(8, 8, 0, 0))
    report.summarise(cast(Stream, stream))
    assert "8 in 2.0 s, 4.0 answered a second" in shown.getvalue()
