"""The texts that arrive at random, once, against a real server."""

from __future__ import annotations

import pytest

from benchmarks import text
from benchmarks.failures import RunFailed
from benchmarks.options import Options
from tests.conftest import RunningServer


def test_each_share_of_the_capacity_is_offered_and_measured(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "SHARES", (0.1, 0.2))
    monkeypatch.setattr(text, "QUICK_SECONDS", 0.5)
    monkeypatch.setattr(text, "WARM_UP_S", 0.2)
    steps: list[str] = []
    (section,) = text.measure(steps.append, True, Options(url=server.url, streams=4))
    (grid,) = section.grids
    (plot,) = section.plots
    assert [row[0] for row in grid.rows] == pytest.approx([10, 20])
    assert "started by somebody else" in section.about
    assert "CPU" not in " ".join(grid.headings)  # of a server that is not ours
    offered = [float(row[1]) for row in grid.rows]
    assert offered[1] == pytest.approx(2 * offered[0])
    for series in plot.series:
        assert [x for x, _ in series.points] == offered
        assert all(y > 0 for _, y in series.points)
    assert [figure.measured for figure in section.figures] == [0, 0]
    assert len(steps) == 1 + text.QUICK_ROUNDS + 2


def test_a_server_that_is_not_there_is_said() -> None:
    with pytest.raises(RunFailed, match=r"no server at 127.0.0.1:1 .*is it running\?"):
        text.measure(str, True, Options(url="http://127.0.0.1:1"))
