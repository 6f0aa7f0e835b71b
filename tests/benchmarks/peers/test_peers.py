"""The peers: requirements, environments, starting, and the aiohttp peer under load."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.failures import RunFailed
from benchmarks.load.generator import Load
from benchmarks.load.payloads import FRAME_BYTES, portrait, texts
from benchmarks.load.run import drive
from benchmarks.load.servers import Program
from benchmarks.peers import environments, launcher
from benchmarks.peers.catalogue import AIOHTTP, DETECTOR, HERE, PEERS, Peer
from benchmarks.peers.launcher import SAMPLE_FACE, NotYet, ask, free_port, serving_peer, wrong
from benchmarks.peers.work import MODELS

PIN = re.compile(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[0-9][0-9A-Za-z.]*")


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.module)
def test_a_peer_has_a_module_and_pinned_requirements(peer: Peer) -> None:
    assert importlib.util.find_spec(f"benchmarks.peers.{peer.module}")
    assert peer.pins()
    assert [pin for pin in peer.pins() if not PIN.fullmatch(pin)] == []


def test_model_requirements_match_constraints() -> None:
    pins = [line for line in DETECTOR.read_text("utf-8").splitlines() if not line.startswith("#")]
    tested = (Path(__file__).parents[3] / "constraints.txt").read_text("utf-8").splitlines()
    assert pins
    assert set(pins) <= set(tested)


def test_every_file_of_requirements_belongs_to_a_peer() -> None:
    assert {file.stem for file in HERE.glob("*.txt")} == {peer.module for peer in PEERS} | {"detector"}


def test_no_module_shadows_its_package() -> None:
    packages = {re.split(r"[=\[]", pin)[0] for peer in PEERS for pin in peer.pins()}
    assert not {file.stem for file in HERE.glob("*.py")} & packages


def test_fingerprint_depends_on_requirements_and_python() -> None:
    names = [
        environments.fingerprint(["a==1", "b==2"], "3.11.7"),
        environments.fingerprint(["a==1", "b==3"], "3.11.7"),
        environments.fingerprint(["a==1", "b==2"], "3.12.0"),
        environments.fingerprint(["a==1b==2"], "3.11.7"),
    ]
    assert len(set(names)) == 4
    assert names[0] == environments.fingerprint(["a==1", "b==2"], "3.11.7")


def test_environments_are_in_the_checkout() -> None:
    places = [environments.folder(peer) for peer in PEERS]
    assert len(set(places)) == len(PEERS)
    assert {place.parent for place in places} == {Path(__file__).parents[3] / ".venv-peers"}


def test_failed_installation_leaves_peer_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "CACHE", tmp_path / "peers")
    monkeypatch.setattr(environments, "INSTALL_S", 0.0)
    said: list[str] = []
    found = environments.prepare([AIOHTTP], said.append)
    assert isinstance(found[AIOHTTP], RunFailed)
    assert "stopped after" in said[-1]


def test_complete_environment_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "CACHE", tmp_path)
    monkeypatch.setattr(environments, "_run", lambda *command: pytest.fail("it was rebuilt"))
    place = environments.folder(AIOHTTP)
    place.mkdir()
    (place / environments.DONE).touch()
    assert environments.prepare([AIOHTTP], lambda _: None) == {AIOHTTP: str(place / "bin" / "python")}


@pytest.mark.parametrize("model", ["faces-natural", "faces-ours"])
def test_both_detectors_find_sample_face(model: str) -> None:
    assert wrong(model, MODELS[model]()(portrait()[0])) == ""


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        ("echo", {"bytes": FRAME_BYTES - 1}),
        ("faces-ours", {"faces": []}),
        ("faces-ours", {"faces": [{"box": SAMPLE_FACE}] * 2}),
        ("faces-ours", {"faces": [{"box": (0.0, *SAMPLE_FACE[1:])}]}),
        ("faces-ours", {"detail": "Internal Server Error"}),
        ("faces-ours", {"faces": [{"box": (1.0, 2.0)}]}),
        ("faces-ours", {"faces": [{}]}),
        ("faces-ours", {"faces": 1}),
        ("faces-ours", None),
        ("spam", {"label": "spam"}),
        ("spam", {"detail": "Internal Server Error"}),
        ("spam", [1]),
        ("spam", None),
    ],
)
def test_wrong_answer_is_detected(model: str, answer: object) -> None:
    assert wrong(model, answer)


@pytest.fixture(autouse=True)
def long_answer_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # a busy machine may take longer than a benchmark waits
    monkeypatch.setattr(launcher, "ANSWER_S", 60.0)


@pytest.fixture(scope="module")
def aiohttp() -> Program:
    with serving_peer(AIOHTTP, "echo") as program:
        yield program


def test_aiohttp_peer_answers_every_message(aiohttp: Program) -> None:
    # enough items to use several ticks of CPU time
    run = drive(aiohttp, [Load(aiohttp.url, "", "frame", 3, 60.0, count=500, transport=aiohttp.transport)])
    assert (run.results, run.errors, run.unaccounted) == (1500, 0, 0)
    assert run.cpu > 0
    assert ask(AIOHTTP, aiohttp.url, "echo") == {"bytes": FRAME_BYTES}


def test_paused_server_is_stopped_until_resumed(aiohttp: Program) -> None:
    aiohttp.pause()
    states = {process.status() for process in (aiohttp.process, *aiohttp.workers)}
    aiohttp.resume()
    assert states == {psutil.STATUS_STOPPED}
    assert ask(AIOHTTP, aiohttp.url, "echo") == {"bytes": FRAME_BYTES}


def test_killed_peer_leaves_no_process() -> None:
    with serving_peer(AIOHTTP, "echo") as program:
        workers = program.workers
        assert len(workers) == 2
        program.process.suspend()  # so that it cannot end its workers
        program.process.send_signal(signal.SIGTERM)
        program.process.kill()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert (len(gone), alive) == (2, [])


def test_texts_reach_spam_model() -> None:
    with serving_peer(AIOHTTP, "spam") as program:
        load = Load(program.url, "", "texts", 1, 30.0, count=len(texts()), transport=program.transport)
        assert drive(program, [load]).results == len(texts())


@dataclass(frozen=True, slots=True)
class Broken(Peer):
    """A peer whose process ends at once."""

    def command(self, python: str, port: int, model: str) -> tuple[str, ...]:
        return python, "-c", "raise SystemExit('no such framework\\n')"


def test_ended_peer_reports_last_log_line() -> None:
    with (
        pytest.raises(RunFailed, match="broken ended: no such framework"),
        serving_peer(Broken("broken", "aiohttp_pool", websocket=True), "echo"),
    ):
        pass


@pytest.mark.parametrize("websocket", [True, False])
def test_ask_fails_on_unused_port(websocket: bool) -> None:
    peer = Peer("stopped", "aiohttp_pool", websocket)
    with pytest.raises(NotYet):
        ask(peer, peer.url(free_port()), "echo")


def test_peers_refuse_unknown_model() -> None:
    done = subprocess.run(
        AIOHTTP.command(sys.executable, 1, "no-such-model"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "faces-natural" in done.stderr
