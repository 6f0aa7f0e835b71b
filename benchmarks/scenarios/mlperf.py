"""MLPerf's four scenarios by its own LoadGen, with the `faces` model: the method, not an official result.

LoadGen makes the load, measures, and decides whether a run is VALID; this module starts it and reads its summary. A
submission would also need 600 seconds a scenario, MLPerf's models and data, and an accuracy run.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from msgspec.structs import replace

from benchmarks.failures import INSTALL, RunFailed
from benchmarks.load.servers import serving
from benchmarks.load.subprocesses import call
from benchmarks.report.results import Grid, Plot, Say, Section, Series, grid, none
from benchmarks.scenarios.mlperf_client import SAMPLES_PER_QUERY, SHIFTS, WINDOW, Counted, Scenario, Trial

SECONDS, QUICK_SECONDS = 10.0, 1.5
LONGEST_S = 120.0
"""MultiStream takes half a minute on two cores; machines of a quarter of that speed still finish."""

START_S = 60.0
"""Additional time for starting Python, connecting, and ending LoadGen."""

QUERIES: Mapping[Scenario, int] = {"SingleStream": 64, "MultiStream": 662, "Server": 662, "Offline": 1}
"""The fewest from which LoadGen's early stopping estimates a 90th and a 99th percentile."""

QUICK_QUERIES = 64
PROBE_S, PROBE_RATE = 1.0, 200.0
SPARE = 1.5
"""Offline's one query must last as long as requested, so it gets more samples than the probe's rate needs."""

PART, BOUND_MS = 0.6, 100.0
"""Server: share of Offline's rate, and the limit of feeling instantaneous (Nielsen, "Usability Engineering")."""

PERCENTILES = "50.00", "90.00", "95.00", "97.00", "99.00"

KEPT = "mlperf_log_summary.txt", "mlperf_log_detail.txt"


@dataclass(frozen=True, slots=True)
class Summary:
    """LoadGen's summary of a run.

    Attributes:
        verdict: `VALID` or `INVALID`.
        values: all its named values, in its units.
        reasons: why the run is invalid, and recommendations, in its words.
    """

    verdict: str
    values: Mapping[str, str]
    reasons: tuple[str, ...]

    def number(self, name: str) -> float:
        """Give one of the values.

        Raises:
            RunFailed: it does not exist.
        """
        if name not in self.values:
            raise RunFailed(f"LoadGen's summary has no {name!r}")
        return float(self.values[name])


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario's run, as LoadGen and as the client saw it."""

    scenario: Scenario
    summary: Summary
    counted: Counted


def parse(text: str) -> Summary:
    """Read LoadGen's `mlperf_log_summary.txt`.

    Raises:
        RunFailed: it has no verdict.
    """
    values = dict(re.findall(r"^[ *]*([^:\n]+?) *: *(\S[^\n]*?) *$", text, re.MULTILINE))
    verdict = values.get("Result is")
    if verdict not in ("VALID", "INVALID"):
        raise RunFailed("LoadGen's summary has no verdict")
    if verdict == "VALID":
        return Summary(verdict, values, ())
    judged = text.partition("Result is")[2].partition("=====")[0]
    unkept = re.findall(r"^ *(.+?) satisfied *: *NO", judged, re.MULTILINE)
    # a sentence may continue on indented lines without a star
    said = re.findall(r"^ \* (.+(?:\n (?! ?\*).+)*)", judged, re.MULTILINE)
    reasons = [f"{name} not satisfied." for name in unkept] + [" ".join(each.split()) for each in said]
    return Summary(verdict, values, tuple(reasons))


def run(trial: Trial, keep: Path | None = None) -> Outcome:
    """Run one trial in its own process; leave LoadGen's logs in the folder `keep`.

    Raises:
        RunFailed: it failed, did not end, or LoadGen gave no verdict.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            counted = call(
                "benchmarks.scenarios.mlperf_client",
                seconds=trial.longest_s + START_S,
                kind=Counted,
                order=replace(trial, folder=folder),
            )
        except RunFailed as exc:
            raise RunFailed(f"LoadGen's {trial.scenario}: {exc}") from exc
        summary = parse((Path(folder) / KEPT[0]).read_text("utf-8"))
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            for name in KEPT:
                shutil.copyfile(Path(folder) / name, keep / name)
    return Outcome(trial.scenario, summary, counted)


def measure(say: Say, quick: bool, logs: Path | None = None) -> list[Section]:
    """Run the four scenarios against a server with two workers; leave LoadGen's logs in `logs`, by scenario.

    Raises:
        RunFailed: LoadGen is not installed, or did not end.
    """
    if find_spec("mlperf_loadgen") is None:
        raise RunFailed(f"mlcommons-loadgen is not installed: {INSTALL}")
    seconds = QUICK_SECONDS if quick else SECONDS
    with serving("faces") as server:

        def trial(scenario: Scenario, rate: float) -> Outcome:
            queries = min(QUERIES[scenario], QUICK_QUERIES) if quick else QUERIES[scenario]
            say(f"{scenario}, at least {seconds:.0f} s and {queries} queries")
            order = Trial(server.url, scenario, seconds, LONGEST_S, queries, rate, BOUND_MS)
            return run(order, logs / scenario if logs else None)

        say("warming up, to find how many samples an Offline query needs")
        warm = Trial(server.url, "Offline", PROBE_S, LONGEST_S, 1, PROBE_RATE, BOUND_MS)
        expected = throughput(run(warm)) * SPARE
        outcomes = [
            trial("SingleStream", expected),
            trial("MultiStream", expected),
            trial("Offline", expected),
        ]
        outcomes.append(trial("Server", throughput(outcomes[-1]) * PART))
    return [section(outcomes, seconds)]


def throughput(offline: Outcome) -> float:
    """Give the samples per second of an Offline run."""
    return offline.summary.number("Samples per second")


def section(outcomes: Sequence[Outcome], seconds: float) -> Section:
    """Make the section of all outcomes."""
    total = sum(outcome.counted.issued for outcome in outcomes)
    return Section(
        "mlperf",
        _about(seconds),
        figures=(
            none(
                "mlperf: samples not answered exactly once",
                sum(outcome.counted.unaccounted for outcome in outcomes),
                f"of {total:,}",
            ),
            none("mlperf: answers without the face", sum(outcome.counted.faceless for outcome in outcomes)),
        ),
        grids=(
            grid("LoadGen's verdicts", outcomes, COLUMNS),
            *_reasons(outcomes),
        ),
        plots=(_latencies(outcomes),),
    )


def _about(seconds: float) -> str:
    return (
        f"MLPerf LoadGen scenarios; not an official MLPerf result. LoadGen, in a process of its own on the same "
        f"machine, is a client over one websocket with at most {WINDOW} samples in flight; a sample is one of "
        f"{len(SHIFTS)} JPEGs of 640x480, its answer the face in it. SingleStream sends the next sample when the "
        f"last one is answered, MultiStream {SAMPLES_PER_QUERY} at a time, Offline all at once, and Server at "
        f"random moments (Poisson) {PART:.0%} of what Offline reached, with a bound of {BOUND_MS:.0f} ms for 99 "
        f"of 100.\n\nThe clock starts when a sample was scheduled, and the verdicts are LoadGen's own. An "
        f"estimate of a percentile is early stopping's: the shorter the run, the nearer it is to the greatest "
        f"latency.\n\nA scenario ran for at least {seconds:.0f} s where MLPerf asks for 600, with a model and "
        f"data that are not MLPerf's, and without a run for accuracy: nothing here can be compared with "
        f"published results."
    )


def _reasons(outcomes: Sequence[Outcome]) -> list[Grid]:
    """Make the table of LoadGen's reasons, if a run is invalid."""
    rows = tuple((outcome.scenario, reason) for outcome in outcomes for reason in outcome.summary.reasons)
    return [Grid("What LoadGen says of what is INVALID", ("scenario", "reason"), rows)] if rows else []


def metric(outcome: Outcome) -> tuple[str, float, str]:
    """Give the name of the scenario's metric, its value and its unit.

    Latencies are early stopping's estimates, by MLPerf's rules; a run too short for one has only the percentile.
    """
    summary = outcome.summary
    if outcome.scenario == "Server":
        return "scheduled rate", summary.number("Scheduled samples per second"), "samples/s"
    if outcome.scenario == "Offline":
        return "throughput", throughput(outcome), "samples/s"
    percent = "90" if outcome.scenario == "SingleStream" else "99"
    estimate = f"Early stopping {percent}.0th percentile estimate"
    if estimate in summary.values:
        return f"query p{percent}, estimate", summary.number(estimate) / 1e6, "ms"
    return f"query p{percent}", summary.number(f"{percent}.0th percentile latency (ns)") / 1e6, "ms"


COLUMNS: Mapping[str, Callable[[Outcome], str | float]] = {
    "scenario": lambda outcome: outcome.scenario,
    "metric": lambda outcome: metric(outcome)[0],
    "": lambda outcome: metric(outcome)[1],
    "unit": lambda outcome: metric(outcome)[2],
    "verdict": lambda outcome: outcome.summary.verdict,
    "samples": lambda outcome: outcome.counted.issued,
}


def _latencies(outcomes: Sequence[Outcome]) -> Plot:
    """Plot the latencies of queries; Offline has a single query."""
    return Plot(
        "MLPerf LoadGen scenarios: latency of a query",
        "percentile",
        "ms, from scheduled to answered",
        tuple(
            Series(
                outcome.scenario,
                tuple(
                    (float(number), outcome.summary.number(f"{percentile} percentile latency (ns)") / 1e6)
                    for number, percentile in enumerate(PERCENTILES)
                ),
            )
            for outcome in outcomes
            if outcome.scenario != "Offline"
        ),
        "bar",
        tuple(f"p{percentile.partition('.')[0]}" for percentile in PERCENTILES),
    )
