"""The bare loop, of which a real one runs; and what ends one without a figure."""

from __future__ import annotations

import pytest

from benchmarks.failures import RunFailed
from benchmarks.scenarios import bare


def test_a_paced_loop_counts_every_call() -> None:
    found = bare.bare("faces-ours", 0.4, pace=10.0)
    assert found.items == len(found.times_ms) > 0
    assert found.cpu_ms > 0


def test_a_loop_that_fails_says_its_last_word_and_no_list() -> None:
    with pytest.raises(RunFailed, match=r"^the bare loop of nothing failed: \S.* invalid choice: 'nothing'"):
        bare.bare("nothing", 0.1)


def test_a_loop_that_does_not_end_is_a_failure_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bare, "GRACE_S", 0.01)
    with pytest.raises(RunFailed, match="the bare loop of faces-ours has not ended"):
        bare.bare("faces-ours", 0.0)
