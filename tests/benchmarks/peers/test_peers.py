"""The peers: what they are made of, how they are started, and one of them at its real work."""

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


def test_what_the_models_need_is_pinned_and_is_what_the_project_is_tested_with() -> None:
    pins = [line for line in DETECTOR.read_text("utf-8").splitlines() if not line.startswith("#")]
    tested = (Path(__file__).parents[3] / "constraints.txt").read_text("utf-8").splitlines()
    assert pins
    assert set(pins) <= set(tested)


def test_every_file_of_requirements_belongs_to_a_peer() -> None:
    assert {file.stem for file in HERE.glob("*.txt")} == {peer.module for peer in PEERS} | {"detector"}


def test_no_module_hides_the_package_that_it_serves_with() -> None:
    packages = {re.split(r"[=\[]", pin)[0] for peer in PEERS for pin in peer.pins()}
    assert not {file.stem for file in HERE.glob("*.py")} & packages


def test_an_environment_is_another_one_when_requirements_or_python_change() -> None:
    names = [
        environments.fingerprint(["a==1", "b==2"], "3.11.7"),
        environments.fingerprint(["a==1", "b==3"], "3.11.7"),
        environments.fingerprint(["a==1", "b==2"], "3.12.0"),
        environments.fingerprint(["a==1b==2"], "3.11.7"),
    ]
    assert len(set(names)) == 4
    assert names[0] == environments.fingerprint(["a==1", "b==2"], "3.11.7")


def test_environments_lie_in_the_checkout_each_under_its_peers_name() -> None:
    places = [environments.folder(peer) for peer in PEERS]
    assert len(set(places)) == len(PEERS)
    assert {place.parent for place in places} == {Path(__file__).parents[3] / ".venv-peers"}


def test_a_peer_whose_installation_fails_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "CACHE", tmp_path / "peers")
    monkeypatch.setattr(environments, "INSTALL_S", 0.0)
    said: list[str] = []
    found = environments.prepare([AIOHTTP], said.append)
    assert isinstance(found[AIOHTTP], RunFailed)
    assert "given up" in said[-1]


def test_a_finished_environment_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "CACHE", tmp_path)
    monkeypatch.setattr(environments, "_run", lambda *command: pytest.fail("it was made again"))
    place = environments.folder(AIOHTTP)
    place.mkdir()
    (place / environments.DONE).touch()
    assert environments.prepare([AIOHTTP], lambda _: None) == {AIOHTTP: str(place / "bin" / "python")}


@pytest.mark.parametrize("model", ["faces-natural", "faces-ours"])
def test_both_detectors_find_the_face_of_the_sample(model: str) -> None:
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
def test_a_wrong_answer_is_seen(model: str, answer: object) -> None:
    assert wrong(model, answer)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    # a machine that has something else to do may take longer than a benchmark would wait
    monkeypatch.setattr(launcher, "ANSWER_S", 60.0)


@pytest.fixture(scope="module")
def aiohttp() -> Program:
    with serving_peer(AIOHTTP, "echo") as program:
        yield program


def test_the_aiohttp_peer_answers_every_message_in_turn(aiohttp: Program) -> None:
    # so many that they take some of the kernel's ticks
    run = drive(aiohttp, [Load(aiohttp.url, "", "frame", 3, 60.0, count=500, transport=aiohttp.transport)])
    assert (run.results, run.errors, run.unaccounted) == (1500, 0, 0)
    assert run.cpu > 0
    assert ask(AIOHTTP, aiohttp.url, "echo") == {"bytes": FRAME_BYTES}


def test_a_paused_server_does_nothing_until_it_is_resumed(aiohttp: Program) -> None:
    aiohttp.pause()
    states = {process.status() for process in (aiohttp.process, *aiohttp.workers)}
    aiohttp.resume()
    assert states == {psutil.STATUS_STOPPED}
    assert ask(AIOHTTP, aiohttp.url, "echo") == {"bytes": FRAME_BYTES}


def test_a_peer_leaves_no_process_behind_even_if_it_is_killed() -> None:
    with serving_peer(AIOHTTP, "echo") as program:
        workers = program.workers
        assert len(workers) == 2
        program.process.suspend()  # so that its end cannot be an orderly one
        program.process.send_signal(signal.SIGTERM)
        program.process.kill()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert (len(gone), alive) == (2, [])


def test_a_text_goes_to_the_spam_model() -> None:
    with serving_peer(AIOHTTP, "spam") as program:
        load = Load(program.url, "", "texts", 1, 30.0, count=len(texts()), transport=program.transport)
        assert drive(program, [load]).results == len(texts())


@dataclass(frozen=True, slots=True)
class Broken(Peer):
    """A peer whose process ends at once."""

    def command(self, python: str, port: int, model: str) -> tuple[str, ...]:
        return python, "-c", "raise SystemExit('no such framework\\n')"


def test_a_peer_that_ends_says_why() -> None:
    with (
        pytest.raises(RunFailed, match="broken ended: no such framework"),
        serving_peer(Broken("broken", "aiohttp_pool", websocket=True), "echo"),
    ):
        pass


@pytest.mark.parametrize("websocket", [True, False])
def test_nobody_answers_where_nobody_listens(websocket: bool) -> None:
    peer = Peer("nobody", "aiohttp_pool", websocket)
    with pytest.raises(NotYet):
        ask(peer, peer.url(free_port()), "echo")


def test_peers_take_a_port_and_a_model_and_refuse_others() -> None:
    done = subprocess.run(
        AIOHTTP.command(sys.executable, 1, "no-such-model"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "faces-natural" in done.stderr
