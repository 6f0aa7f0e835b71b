"""Texts at random times, once, against a real server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.failures import RunFailed
from benchmarks.load.run import Run
from benchmarks.scenarios import text
from benchmarks.scenarios.catalogue import Options
from benchmarks.scenarios.target import Target
from tests.conftest import RunningServer


def test_each_share_of_capacity_is_measured(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "SHARES", (0.1, 0.2))
    monkeypatch.setattr(text, "QUICK_SECONDS", 0.5)
    monkeypatch.setattr(text, "WARM_UP_S", 0.2)
    closed = Target.closed

    def capable(*args: Any, **more: Any) -> Run:
        # a fixed capacity: a stalled server could otherwise be offered no texts at all
        run = closed(*args, **more)
        return replace(run, seconds=run.results / 400.0)

    monkeypatch.setattr(Target, "closed", capable)
    steps: list[str] = []
    (section,) = text.measure(steps.append, True, Options(url=server.url, streams=4))
    (grid,) = section.grids
    (plot,) = section.plots
    assert [row[0] for row in grid.rows] == pytest.approx([10, 20])
    assert "was not started by the benchmark" in section.about
    assert "CPU" not in " ".join(grid.headings)  # unknown for a server that was not started here
    offered = [float(row[1]) for row in grid.rows]
    assert offered[1] == pytest.approx(2 * offered[0])
    for series in plot.series:
        assert [x for x, _ in series.points] == offered
        assert all(y > 0 for _, y in series.points)
    assert [figure.measured for figure in section.figures] == [0, 0]
    # on a busy machine a void run is repeated
    assert len([step for step in steps if not step.startswith("void")]) == 1 + text.QUICK_ROUNDS + 2


def test_unreachable_server_is_reported() -> None:
    with pytest.raises(RunFailed, match=r"no server at 127.0.0.1:1 .*is it running\?"):
        text.measure(str, True, Options(url="http://127.0.0.1:1"))
