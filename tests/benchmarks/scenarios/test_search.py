"""The bisection, and what counts as sustained."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.load.accounts import Account
from benchmarks.load.run import Run
from benchmarks.scenarios.camera import Freshness
from benchmarks.scenarios.catalogue import Options
from benchmarks.scenarios.search import (
    LONGEST_S,
    RESOLUTION,
    SHORTEST_S,
    Step,
    fails,
    largest,
    length,
    measure,
    section,
)
from benchmarks.scenarios.target import Target
from tests.conftest import RunningServer

MOST = 2000


def searched(limit: int, first: int) -> tuple[int, list[int]]:
    tried: list[int] = []

    def holds(streams: int) -> bool:
        tried.append(streams)
        return streams <= limit

    best, beyond = largest(holds, first, MOST)
    assert best < beyond <= MOST + 1
    return best, tried


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 19, 20, 24, 88, 500, 1999, 2000, 5000])
@pytest.mark.parametrize("first", [0, 1, 6, 24, 300, 2000, 9999])
def test_largest_is_found_from_any_guess(limit: int, first: int) -> None:
    found, tried = searched(limit, first)
    assert found <= limit
    assert min(limit, MOST) - found <= max(0, found * RESOLUTION)
    assert len(tried) == len(set(tried)) <= 18
    assert all(1 <= streams <= MOST for streams in tried)
    assert found in {0, *tried}


def test_good_guess_needs_few_steps() -> None:
    assert len(searched(limit=13, first=12)[1]) <= 6


def test_bounds_are_decided_by_two_of_three() -> None:
    tried: list[int] = []

    def noisy(streams: int) -> bool:
        tried.append(streams)
        return streams <= 30 and (streams, tried.count(streams)) != (24, 1)

    assert largest(noisy, 24, MOST, votes=1) == (23, 24)
    tried.clear()
    assert largest(noisy, 24, MOST, votes=2) == (30, 31)
    assert [tried.count(streams) for streams in (24, 30, 31)] == [3, 2, 2]


def test_search_of_random_answers_ends() -> None:
    chance = random.Random(1)
    for _ in range(200):
        best, beyond = largest(lambda _: chance.random() < 0.5, 24, MOST, votes=2)
        assert 0 <= best < beyond <= MOST + 1


def test_step_length_follows_capacity() -> None:
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


def test_fresh_answers_to_all_are_sustained() -> None:
    assert verdict() == ""


@pytest.mark.parametrize(
    ("found", "account", "said"),
    [
        (replace(GOOD, ages=(20.0, 50.0, 200.1, 300.0)), CLEAN, "stale"),
        (replace(GOOD, ages=(float("nan"),) * 4), CLEAN, "stale"),
        (replace(GOOD, least=4.9), CLEAN, "a stream with 4.9 fresh answers/s"),
        (GOOD, Account(100, 49, 50, {"worker_lost": 1}), "1 errors"),
        (GOOD, Account(100, 49, 50, lost=1, missing=[3.0]), "1 frames unaccounted for"),
        (GOOD, Account(100, 50, 50, missing=[9.0, 9.5]), "2 frames never sent"),
    ],
)
def test_faults_are_not_sustained(found: Freshness, account: Account, said: str) -> None:
    assert verdict(found, account) == said


def test_void_run_is_not_sustained() -> None:
    assert verdict(void="the generator did not keep its schedule") == "void"


HERE = Target(str, "http://127.0.0.1:1", "echo", "frame", None)


def shown(*steps: Step, bounds: tuple[int, int]) -> str:
    return section(HERE, list(steps), bounds, Options()).about


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ((30, 31), "About 30 cameras are sustained, and 31 are not: "),
        ((0, 1), "Not even one camera is sustained: "),
        ((31, 32), "At least 31 cameras are sustained: "),
    ],
)
def test_section_states_result(bounds: tuple[int, int], said: str) -> None:
    steps = [Step(streams, "stale", GOOD, 50) for streams in (1, 31)]
    assert shown(*steps, bounds=bounds).startswith(said)


def test_section_states_items() -> None:
    assert "send items of 42,000 bytes to echo" in shown(Step(1, "", GOOD, 50), bounds=(1, 2))


def test_void_upper_bound_makes_result_a_lower_bound() -> None:
    steps = [Step(30, "", GOOD, 50), Step(31, "void", GOOD, 50, "the generator was late")]
    found = section(HERE, steps, (30, 31), Options())
    assert found.void == "the generator was late; the largest number of cameras is at least 30"
    assert found.about.startswith("At least 30 cameras are sustained: ")


def test_repeated_steps_are_one_point_with_spread() -> None:
    ages = [replace(GOOD, ages=(20.0, 50.0, p99, 300.0)) for p99 in (90.0, 250.0, 110.0)]
    steps = [Step(30, "", found, 50) for found in ages] + [Step(60, "refused: too_many_streams")]
    found = section(HERE, steps, (30, 60), Options())
    p99 = found.plots[0].series[0]
    assert (p99.points, p99.spread) == (((30.0, 110.0),), ((90.0, 250.0),))
    assert found.grids[0].rows[-1] == ("60", *["none"] * 6, "refused: too_many_streams")


def test_search_continues_after_refused_cameras(
    start_server: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server("--model", "echo", "--workers", "1", "--set", "limits.max_streams_per_principal=5")
    monkeypatch.setattr("benchmarks.scenarios.search.CLOSED_S", 0.3)
    # only the server's limit decides here, not a busy machine
    monkeypatch.setattr("benchmarks.scenarios.search.fails", lambda *_: "")
    steps: list[str] = []
    (found,) = measure(steps.append, True, Options(url=server.url, model="echo", seconds=2, fresh_ms=5000))
    rows = {row[0]: row[-1] for row in found.grids[0].rows}
    assert rows["6"] == "refused: too_many_streams"
    assert steps[1].startswith("4 streams that wait")  # it refuses eight
