"""Running suites, failures of suites, and the output on the terminal."""

from __future__ import annotations

import io
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.failures import RunFailed
from benchmarks.report.results import (
    Figure,
    Results,
    Say,
    Section,
    Series,
    count,
    figure_cells,
    none,
    read_json,
    written,
)
from benchmarks.report.terminal import NOT_MEASURED, figures_table, renderables, run, spark
from tests.benchmarks.results_sample import RESULTS

ROOT = Path(__file__).parents[3]


def shown(*figures: Figure) -> str:
    file = io.StringIO()
    Console(file=file, width=170).print(figures_table(figures))
    return file.getvalue()


def whole(results: Results) -> str:
    file = io.StringIO()
    Console(file=file, width=170).print(*renderables(results), sep="\n")
    return file.getvalue()


def good(say: Say, quick: bool) -> list[Section]:
    say("a [step]")
    return [Section("good", "quick" if quick else "whole", (none("lost", 0),))]


def failing(say: Say, quick: bool) -> list[Section]:
    raise RunFailed("the server did not [start]")


def faulty(say: Say, quick: bool) -> list[Section]:
    raise IndexError("no such thing")


def endless(say: Say, quick: bool) -> list[Section]:
    return [Section("endless", "", (Figure("x", (float("inf"),), "", "<=", 1.0),))]


def test_measured_value_is_median_of_rounds() -> None:
    figure = Figure("age", (9.0, 1.0, 3.0), "ms", "<=", 3.0)
    assert figure.measured == 3
    assert figure.reached
    assert figure_cells(figure)[2] == "1 to 9"


@pytest.mark.parametrize(
    ("sense", "measured", "verdict"),
    [
        ("<=", 2.0, "reached"),
        ("<=", 2.1, "missed"),
        ("<=", 1.9, "reached"),
        (">=", 2.0, "reached"),
        (">=", 1.9, "missed"),
        (">=", 2.1, "reached"),
    ],
)
def test_verdict_follows_sense(sense: str, measured: float, verdict: str) -> None:
    assert Figure("x", (measured,), "", sense, 2.0).verdict == verdict  # type: ignore[arg-type]


def test_one_round_has_no_spread() -> None:
    assert figure_cells(Figure("age", (9.0,), "ms", "<=", 3.0))[2] == ""


def test_none_figure_is_missed_by_one() -> None:
    assert none("lost", 0).reached
    assert not none("lost", 1).reached


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.2536, "0.254"), (12.34, "12.3"), (7.0, "7"), (123.4, "123"), (50000.0, "50,000")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert written(value) == text


def test_void_sections_do_not_count() -> None:
    assert count(RESULTS) == "2 of 3 targets reached; void: camera"
    assert count(Results()) == ""


def test_table_has_row_per_figure() -> None:
    text = shown(
        Figure("dispatch", (0.2, 0.3, 0.25), "ms", "<=", 0.3, "42,000 bytes"), none("frames lost", 2)
    )
    (dispatch,) = [line for line in text.splitlines() if "dispatch" in line]
    assert [cell.strip() for cell in dispatch.split("│")[1:-1]] == [
        "dispatch",
        "0.25 ms",
        "0.2 to 0.3",
        "<= 0.3",
        "reached",
        "42,000 bytes",
    ]
    (lost,) = [line for line in text.splitlines() if "frames lost" in line]
    assert "missed" in lost


def test_terminal_shows_all_results() -> None:
    text = whole(RESULTS)
    for said in (
        "Frames to the null model.",
        "void: the generator was late <b>",
        "12,345",
        "a <peer> & co",
        "2.25",
        "2 of 3 targets reached; void: camera",
        "cores 2",
        "seconds 812",
    ):
        assert said in text
    (ours,) = [line for line in text.splitlines() if "▁" in line and "stream-server" in line]
    assert [cell.strip() for cell in ours.split("│")[3:-1]] == ["70", "71", "72"]


def test_sparks_share_a_scale() -> None:
    rising = Series("x", tuple((float(x), float(x)) for x in range(8)))
    assert spark(rising, 0.0, 7.0, log=False) == "▁▂▃▄▅▆▇█"
    assert spark(rising, 0.0, 70.0, log=False) == "▁▁▁▁▁▁▂▂"
    tens = Series("x", ((0.0, 1.0), (1.0, 10.0), (2.0, 100.0)))
    assert spark(tens, 1.0, 100.0, log=True) == "▁▅█"
    assert spark(Series("x", ((0.0, 5.0),)), 5.0, 5.0, log=True) == "▁"


def test_long_spark_keeps_peaks() -> None:
    ys = [1.0] * 1000
    ys[501] = 9.0
    curve = spark(Series("x", tuple(enumerate(ys))), 1.0, 9.0, log=False)
    assert len(curve) <= 32
    assert curve.count("█") == 1


def test_run_shows_and_writes_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, html = tmp_path / "r.json", tmp_path / "r.html"
    assert run({"good": good}, quick=True, output=output, html=html) == 0
    said = capsys.readouterr().out
    assert "good: a [step]" in said
    assert "1 of 1 targets reached" in said
    results = read_json(output.read_text("utf-8"))
    assert results.sections == tuple(good(print, True))
    assert html.read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("suite", "void"),
    [
        (failing, "the server did not [start]"),
        (faulty, "the benchmark itself failed: IndexError: no such thing"),
        (
            endless,
            "the benchmark itself failed: Unreadable: Expected `float`, got `null`",
        ),
    ],
)
def test_failed_suite_is_void_and_others_run(
    suite: object, void: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "r.json"
    assert run({"bad": suite, "good": good}, output=output) == 1  # type: ignore[dict-item]
    bad, fine = read_json(output.read_text("utf-8")).sections
    assert bad.name == "bad"
    assert bad.void.startswith(void)
    assert fine == Section("good", "whole", (none("lost", 0),))
    assert f"void: {void}" in capsys.readouterr().out


def test_results_are_written_after_each_suite(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    seen: list[Results] = []

    def look(say: Say, quick: bool) -> list[Section]:
        seen.append(read_json(output.read_text("utf-8")))
        return good(say, quick)

    assert run({"good": good, "look": look, "third": good}, output=output) == 0
    (meanwhile,) = seen
    assert meanwhile.sections[0] == Section("good", "whole", (none("lost", 0),))
    assert [(section.name, section.void) for section in meanwhile.sections[1:]] == [
        ("look", NOT_MEASURED),
        ("third", NOT_MEASURED),
    ]
    assert not any(section.void for section in read_json(output.read_text("utf-8")).sections)
    assert list(tmp_path.iterdir()) == [output]


TERMINATED = """
import os, signal, sys
from pathlib import Path
from benchmarks.report.terminal import run
from benchmarks.report.results import Section

def good(say, quick):
    return [Section("good", "")]

def ended(say, quick):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # a second one, while servers are ended
        print("cleaned up")

run({"good": good, "ended": ended}, output=Path(sys.argv[1]))
"""


def test_sigterm_cleans_up_and_keeps_results(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED, str(output)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert "cleaned up" in done.stdout
    kept, ended = read_json(output.read_text("utf-8")).sections
    assert (kept.void, ended.void) == ("", NOT_MEASURED)


def test_sigterm_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run({"good": good})
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("lost", "check", "status"), [(0, True, 0), (1, True, 1), (1, False, 0)])
def test_missed_target_fails_only_with_check(lost: int, check: bool, status: int) -> None:
    def suite(say: Say, quick: bool) -> list[Section]:
        return [Section("it", "", (none("lost", lost),))]

    assert run({"it": suite}, check=check) == status


def test_command_is_in_facts(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    run({"good": good}, quick=True, output=output, told={"command": "bench good"})
    facts = read_json(output.read_text("utf-8")).facts
    assert (facts["command"], facts["quick"]) == ("bench good", "yes")


def test_facts_describe_machine_without_names_and_paths(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    run({"good": good}, output=output)
    facts = read_json(output.read_text("utf-8")).facts
    assert {
        "date",
        "cores",
        "processor",
        "system",
        "python",
        "aiohttp",
        "seconds",
        "cores used by others",
    } <= set(facts)
    assert facts["cores"] == os.cpu_count()
    everything = json.dumps(facts)
    assert platform.node() not in everything
    assert str(Path.home()) not in everything
    assert str(Path.cwd()) not in everything
