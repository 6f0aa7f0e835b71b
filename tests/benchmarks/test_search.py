"""The bisection, and what counts as carried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.camera import Freshness
from benchmarks.driving import Run
from benchmarks.ledger import Account
from benchmarks.options import Options
from benchmarks.search import LONGEST_S, RESOLUTION, SHORTEST_S, fails, largest, length

MOST = 2000


def searched(limit: int, first: int) -> tuple[int, list[int]]:
    tried: list[int] = []

    def holds(streams: int) -> bool:
        tried.append(streams)
        return streams <= limit

    return largest(holds, first, MOST), tried


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 19, 20, 24, 88, 500, 1999, 2000, 5000])
@pytest.mark.parametrize("first", [0, 1, 6, 24, 300, 2000, 9999])
def test_the_largest_number_is_found_from_any_guess(limit: int, first: int) -> None:
    found, tried = searched(limit, first)
    assert found <= limit
    assert min(limit, MOST) - found <= max(0, found * RESOLUTION)
    assert len(tried) == len(set(tried)) <= 18
    assert all(1 <= streams <= MOST for streams in tried)
    assert found in {0, *tried}


def test_a_good_guess_is_quick() -> None:
    assert len(searched(limit=13, first=12)[1]) <= 6


def test_a_step_is_as_long_as_its_answers_take() -> None:
    # 20 cameras offer 300 a second, of which a server that can do 150 answers 100: a thousand take ten seconds
    assert length(20, 15, 150, quick=False) == 10
    assert length(5, 15, 1000, quick=False) == 14
    assert length(1, 15, 100, quick=False) == LONGEST_S
    assert length(2000, 15, 5000, quick=False) == SHORTEST_S
    assert length(20, 15, 150, quick=True) < 10


GOOD = Freshness(100.0, 100.0, (20.0, 50.0, 90.0, 120.0), 0.5, 0.99, 6.0)
CLEAN = Account(100, 50, 50)


def verdict(found: Freshness = GOOD, account: Account = CLEAN, void: str = "") -> str:
    return fails(Run([[account]], 10.0, 1.0, 0.0, void=void), found, Options())


def test_fresh_answers_to_everybody_are_carried() -> None:
    assert verdict() == ""


@pytest.mark.parametrize(
    ("found", "account", "said"),
    [
        (replace(GOOD, ages=(20.0, 50.0, 200.1, 300.0)), CLEAN, "stale"),
        (replace(GOOD, ages=(float("nan"),) * 4), CLEAN, "stale"),
        (replace(GOOD, least=4.9), CLEAN, "a stream with 4.9 fresh answers/s"),
        (GOOD, Account(100, 49, 50, {"worker_lost": 1}), "1 errors"),
        (GOOD, Account(100, 49, 50, lost=1, missing=[3.0]), "1 frames unaccounted for"),
        (GOOD, Account(100, 50, 50, missing=[9.0, 9.5]), "2 frames kept back"),
    ],
)
def test_whatever_is_wrong_is_not_carried_and_is_named(found: Freshness, account: Account, said: str) -> None:
    assert verdict(found, account) == said


def test_a_run_that_is_void_carries_nothing() -> None:
    assert verdict(void="the generator did not keep its schedule") == "void"
