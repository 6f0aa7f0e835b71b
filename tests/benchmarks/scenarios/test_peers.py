"""The comparison: its sections on made-up runs, and measuring two real servers."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import psutil
import pytest

from benchmarks.failures import RunFailed
from benchmarks.load.accounts import Account
from benchmarks.load.histograms import Moment
from benchmarks.load.run import Run
from benchmarks.load.servers import Program, running
from benchmarks.peers.catalogue import AIOHTTP, PEERS
from benchmarks.peers.runner import (
    CAMERAS,
    FPS,
    IN_BATCHES,
    OURS,
    SPECIFIED,
    Record,
    Server,
    Workload,
    cameras,
    measure_in_turn,
    of_peer,
    stream_server,
)
from benchmarks.peers.work import BATCHED, MAX_BATCH
from benchmarks.report.results import Results, as_json
from benchmarks.scenarios import peers as comparison
from benchmarks.scenarios.peers import (
    echo_section,
    faces_section,
    overload_row,
    overload_section,
    ratios,
    valid,
)


def closed(cost_ms: float, results: int = 100, seconds: float = 2.0) -> Run:
    """A run with this cost per result."""
    return Run([[Account(results, results)]], seconds, results * cost_ms / 1e3, 0.0)


def record(name: str, *costs_ms: float) -> Record:
    return Record(name, closed=[closed(cost) for cost in costs_ms])


RECORDS = [record(OURS, 0.1, 0.2, 0.3), record("mosec", 0.2, 0.2, 0.2), record("LitServe", 1.0, 4.0, 2.0)]


def test_costs_are_compared_within_each_round() -> None:
    mosec, litserve = ratios(RECORDS, 8)
    assert (mosec.name, mosec.target) == ("echo, 8 streams: CPU per frame of stream-server, to mosec", 1.0)
    assert mosec.rounds == pytest.approx((0.5, 1.0, 1.5))
    assert mosec.reached
    assert litserve.rounds == pytest.approx((0.1, 0.05, 0.15))
    assert litserve.reached


def test_servers_are_compared_in_cheaper_mode() -> None:
    batches = [record(OURS + IN_BATCHES, 0.1, 0.1, 0.1), record("LitServe" + IN_BATCHES, 5.0, 5.0, 5.0)]
    mosec, litserve = ratios([*RECORDS, *batches], 8)
    assert mosec.name == "echo, 8 streams: CPU per frame of stream-server in batches, to mosec"
    assert mosec.rounds == pytest.approx((0.5, 0.5, 0.5))
    assert litserve.name.endswith("to LitServe")
    assert litserve.rounds == pytest.approx((0.1, 0.025, 0.05))


def test_incomplete_peer_has_no_figure_or_bar() -> None:
    halfway = record("LitServe", 1.0)
    halfway.missing = "it ended"
    records = [*RECORDS[:2], halfway]
    assert [one.name for one in valid(records)] == [OURS, "mosec"]
    assert len(ratios(records, 8)) == 1
    section = echo_section(records)
    assert section.plots[0].categories == (OURS, "mosec")
    assert ("LitServe", "it ended") in section.grids[-1].rows
    assert not section.void


def test_bars_are_medians_with_their_spread() -> None:
    (series,) = echo_section(RECORDS).plots[0].series
    assert [at for at, _ in series.points] == [0, 1, 2]
    assert [value for _, value in series.points] == pytest.approx([0.2, 0.2, 2.0])
    assert series.spread[2] == pytest.approx((1.0, 4.0))


def test_bar_keeps_category_if_another_is_missing() -> None:
    faces = [record(OURS, 9.0), Record("mosec", "it ended"), record("LitServe", 11.0)]
    natural, ours_ = faces_section([record(one.name, 20.0) for one in RECORDS], faces).plots[0].series
    assert [at for at, _ in natural.points] == [0, 1, 2]
    assert dict(ours_.points) == pytest.approx({0.0: 9.0, 2.0: 11.0})


def overloaded(ages: list[tuple[float, float]], **account: object) -> Run:
    answers = [(at, age, age) for at, age in ages]
    streams = [Account(100, len(ages), answers=answers, **account)]  # type: ignore[arg-type]
    moments = tuple(Moment(at, 1, age, age, age) for at, age in ages)
    return Run([streams], 12.0, 1.0, 0.0, timeline=moments)


def test_overload_row_accounts_for_all_items() -> None:
    run = overloaded(
        [(1.0, 50.0), (9.0, 400.0), (9.5, 300.0), (11.0, 900.0)],
        dropped=10,
        errors={"408": 15, "503": 5},
        missing=[1.0] * 25,
    )
    name, rate, p50, p99, last, dropped, refused, unsent = overload_row("mosec", run, 10.0)
    assert name == "mosec"
    assert rate == pytest.approx(4 / 12)
    assert (p50, p99, last) == (300, 900, 400)
    assert (dropped, refused, unsent) == pytest.approx((8, 16, 20))


def test_overload_row_without_answers() -> None:
    assert overload_row("mosec", overloaded([(1.0, 50.0)]), 10.0)[4] == "no answer"
    assert overload_row("mosec", overloaded([]), 10.0)[2:5] == ("", "", "no answer")


def test_overload_plot_ends_with_load_and_omits_void_runs() -> None:
    late, void = record("LitServe", 1.0), record("mosec", 1.0)
    late.overload = overloaded([(1.0, 50.0), (11.0, 900.0)])
    void.overload = Run([[Account(1)]], 1.0, 1.0, 0.0, void="the generator was late")
    mine = record(OURS, 1.0)
    mine.overload = overloaded([(1.0, 40.0)])
    section = overload_section([mine, late, void], 10.0)
    assert {one.name: one.points for one in section.plots[0].series} == {
        OURS: ((1.0, 40.0),),
        "LitServe": ((1.0, 50.0),),
    }
    assert [row[0] for row in section.grids[0].rows] == [OURS, "LitServe"]
    assert section.grids[1].rows == (("mosec", "the generator was late"),)
    assert not section.void


@pytest.mark.parametrize("records", [[], [Record(OURS, "it ended")], [record("mosec", 1.0)]])
def test_comparison_without_our_server_is_void(records: list[Record]) -> None:
    assert echo_section(records).void


def made_void(run: Run) -> Run:
    return replace(run, void="the generator was late")


def all_valid(name: str) -> Record:
    """A record of valid runs only."""
    return Record(name, closed=[closed(1.0)] * 3, idle=closed(1.0), overload=overloaded([(1.0, 50.0)]))


VOID = {
    "closed": lambda one: one.closed.__setitem__(1, made_void(one.closed[1])),
    "idle": lambda one: setattr(one, "idle", made_void(one.idle)),
    "overload": lambda one: setattr(one, "overload", made_void(one.overload)),
}


@pytest.mark.parametrize(
    ("part", "sections"),
    [("closed", {"echo", "faces"}), ("idle", {"echo", "faces"}), ("overload", {"overload"})],
)
@pytest.mark.parametrize("name", [OURS, "mosec"])
def test_void_run_affects_only_sections_that_show_it(part: str, sections: set[str], name: str) -> None:
    records = [all_valid(one) for one in (OURS, "mosec")]
    VOID[part](next(one for one in records if one.name == name))
    made = [
        echo_section(records),
        faces_section(records, [all_valid(one) for one in (OURS, "mosec")]),
        overload_section(records, 10.0),
    ]
    why = dict.fromkeys(sections, "the generator was late")
    if "faces" in sections:
        why["faces"] = f"OpenCV's detector: {why['faces']}"
    left_out = {
        section.name: grid.rows for section in made for grid in section.grids if grid.title == "Left out"
    }
    assert left_out == {one: ((name, said),) for one, said in why.items()}
    assert {section.name: section.void for section in made if section.void} == (why if name == OURS else {})


def test_later_failure_keeps_earlier_sections() -> None:
    mine = all_valid(OURS)
    mine.overload, mine.missing = None, "it ended"
    assert not faces_section([mine], [all_valid(OURS)]).void
    assert overload_section([mine], 10.0).void == "it ended"


def test_cameras_exceed_fastest_server() -> None:
    slow, fast = (
        Record(name, closed=[closed(1.0, results, 1.0)]) for name, results in (("a", 60), ("b", 600))
    )
    assert cameras([slow]) == CAMERAS
    assert cameras([slow, fast]) == 60


def test_cameras_follow_median_round() -> None:
    lucky = all_valid("mosec")
    lucky.closed = [closed(1.0, results, 1.0) for results in (300, 900, 300)]
    assert cameras([lucky]) * FPS == 450
    about = overload_section([all_valid(OURS), lucky], 10.0).about
    assert "450 frames a second (1.5 times what the fastest server answers" in about


class Answering(BaseHTTPRequestHandler):
    """Answers every POST, and keeps the connection unless it is told not to."""

    protocol_version = "HTTP/1.1"
    # lists, since each connection has a thread, and `+=` of two of them may count one
    connections: ClassVar[list[None]] = []
    posts: ClassVar[list[None]] = []

    def setup(self) -> None:
        self.connections.append(None)
        super().setup()

    def do_POST(self) -> None:
        self.posts.append(None)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


@contextmanager
def answering() -> Iterator[str]:
    Answering.connections.clear()
    Answering.posts.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("kept", [True, False])
def test_posts_reuse_connections_only_if_kept(kept: bool) -> None:
    workload = Workload("faces-natural", "portrait", 3, rounds=1, closed_s=0.3, kept=kept)
    said: list[str] = []

    @contextmanager
    def start(_: str) -> Iterator[Program]:
        with answering() as url:
            yield Program(idle, url, 0.0, "http")

    idle = psutil.Popen([sys.executable, "-c", "input()"], stdin=-1)
    try:
        (one,) = measure_in_turn([Server("peer", start)], workload, said.append)
    finally:
        idle.communicate()
    assert one.missing == ""
    # the warm-up, the round, and the round again if it was void
    runs = 2 + sum("void" in step for step in said)
    connections, posts = len(Answering.connections), len(Answering.posts)
    assert posts > 3 * runs
    assert connections == (3 * runs if kept else posts)


@pytest.mark.parametrize("model", SPECIFIED)
def test_our_server_batches_as_specified_and_is_ready_once_answered(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[float] = []

    @contextmanager
    def noting(*command: str, quiet: bool) -> Iterator[Program]:
        with running(*command, quiet=quiet) as program:
            announced.append(program.ready_s)
            yield program

    monkeypatch.setattr("benchmarks.peers.runner.running", noting)
    with stream_server().start(model) as program:
        assert program.ready_s > announced[0]
        name = SPECIFIED[model].partition("=")[0]
        with urllib.request.urlopen(f"{program.url}/v2/models/{name}") as response:
            assert json.load(response)["max_batch"] == (MAX_BATCH if model.endswith(BATCHED) else 1)
        with urllib.request.urlopen(f"{program.url}/v2/models/{name}/stats") as response:
            assert json.load(response)["results"] == 1


def test_our_server_must_answer_correctly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.runner.wrong", lambda model, answer: "two faces in place of one")
    (one,) = measure_in_turn(
        [stream_server()], Workload("echo", "frame", 1, rounds=1, closed_s=0.1), lambda _: None
    )
    assert one.missing == "stream-server gives a wrong answer: two faces in place of one"


def test_uninstalled_peers_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        comparison, "prepare", lambda peers, say: dict.fromkeys(peers, RunFailed("there is no wheel"))
    )
    monkeypatch.setattr(
        comparison,
        "measure_in_turn",
        lambda servers, workload, say: [record(one.name, 1.0) for one in servers],
    )
    echo, many, *_ = comparison.measure(lambda _: None, quick=True)
    assert not echo.void
    assert many.name == "echo, 32 streams"
    assert many.grids[0] == echo.grids[0]
    assert [row[0] for row in echo.grids[0].rows] == [OURS, OURS + IN_BATCHES]
    assert [why for _, why in echo.grids[-1].rows] == ["there is no wheel"] * sum(
        peer.quick for peer in PEERS
    )


def test_void_closed_loop_is_repeated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter(
        [closed(1.0), made_void(closed(2.0)), closed(3.0), made_void(closed(4.0)), made_void(closed(5.0))]
    )
    for where in ("benchmarks.peers.runner", "benchmarks.load.run"):  # the warm-up, and the rounds
        monkeypatch.setattr(f"{where}.drive", lambda program, loads: next(runs))
    said: list[str] = []
    (one,) = measure_in_turn(
        [stream_server()], Workload("echo", "frame", 1, rounds=2, closed_s=0.1), said.append
    )
    assert [(run.cpu, run.void) for run in one.closed] == [(0.3, ""), (0.5, "the generator was late")]
    assert [step for step in said if "void" in step] == ["void, so once more: the generator was late"] * 2


def test_servers_take_turns_and_failed_one_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "benchmarks.peers.runner.OVERLOAD", 0.0
    )  # the null model could answer hundreds of cameras
    said: list[str] = []

    def broken(model: str) -> None:
        raise RunFailed("it has no model")

    def absent(model: str) -> None:
        raise FileNotFoundError("no such interpreter")

    broken_ones = [Server("broken", broken), Server("absent", absent)]  # type: ignore[arg-type]
    servers = [stream_server(), *broken_ones, of_peer(AIOHTTP, sys.executable)]
    workload = Workload("echo", "frame", 1, rounds=2, closed_s=0.2, idle_s=0.4, overload_s=0.4)
    records = measure_in_turn(servers, workload, said.append)
    assert [one.missing for one in records] == ["", "it has no model", "no such interpreter", ""]
    assert [len(one.closed) for one in records] == [2, 0, 0, 2]
    assert [step for step in said if "round" in step] == [
        f"echo: round {number} of 2, {name}" for number in (1, 2) for name in (OURS, AIOHTTP.name)
    ]
    for one in (records[0], records[-1]):
        assert one.idle
        assert one.idle.results
        assert one.overload
        assert len(one.overload.streams) == CAMERAS
        assert one.memory > 1e6
    assert as_json(Results({}, (echo_section(records), overload_section(records, 0.4))))
