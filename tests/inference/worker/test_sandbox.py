"""The sandbox around real workers: what a hostile model tries is denied, and what an honest one needs is not.

Each attack also runs without the sandbox, where it succeeds. On a machine that lacks what would deny it, a
test is skipped with the kernel's reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from inference.engine import Engine
from inference.items import Failed, Outcome, Result
from inference.model import ModelSource
from inference.naming import SHIPPED
from inference.pool.pool import WorkerOptions
from inference.wire.features import ON, missing
from inference.worker import landlock, sandbox, seccomp
from inference.worker.system_calls import call
from tests.conftest import RunningServer

ROOT = Path(__file__).parents[3]
HOSTILE = "tests.inference.hostile_models"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of Linux")

Start = Callable[..., Awaitable[Engine]]

LANDLOCK, SECCOMP, NETWORK = "landlock", "seccomp", "network"

ATTACKS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "read a file": (["read", "{secret}"], (LANDLOCK,)),
    "read the parent's environment": (["read_parents_environment"], (LANDLOCK,)),
    "write a file": (["write", "{folder}/new"], (LANDLOCK,)),
    "overwrite a file": (["write", "{secret}"], (LANDLOCK,)),
    "cut a file": (["cut", "{secret}"], (SECCOMP,)),
    "change a file's mode": (["change_mode", "{secret}"], (SECCOMP,)),
    "remove a file": (["remove", "{secret}"], (LANDLOCK,)),
    "list a folder": (["list_folder", "{folder}"], (LANDLOCK,)),
    "start a program": (["spawn"], (SECCOMP,)),
    "become a program": (["become"], (SECCOMP, LANDLOCK)),
    "fork": (["fork"], (SECCOMP,)),
    "connect by TCP": (["tcp", "{tcp}"], (SECCOMP, NETWORK)),
    "send by UDP": (["udp", "{udp}"], (SECCOMP, NETWORK)),
    "connect to a daemon's socket": (["unix", "{folder}/stream"], (SECCOMP,)),
    "send to a daemon's socket": (["unix_datagram", "{folder}/datagram"], (SECCOMP,)),
    "signal the parent": (["signal_parent"], (SECCOMP,)),
    "signal the parent by input": (["signal_parent_by_input"], (SECCOMP,)),
    "trace the parent": (["trace_parent"], (SECCOMP, LANDLOCK)),
    "read the parent's memory": (["read_parents_memory"], (SECCOMP, LANDLOCK)),
    "limit the parent": (["limit_parent"], (SECCOMP,)),
    "make a namespace": (["own_namespace"], (SECCOMP,)),
    "make an io_uring": (["ring"], (SECCOMP,)),
    "share memory": (["shared_memory"], (SECCOMP,)),
    "share semaphores": (["semaphores"], (SECCOMP,)),
    "queue messages": (["messages"], (SECCOMP,)),
    "queue messages by a name": (["queue"], (SECCOMP,)),
    "outlive the parent": (["outlive_the_parent"], (SECCOMP,)),
}
"""An item to the hostile model, and the features of which each denies it."""

NAMED = {
    "read a file": "opening {secret}; read it in `load`",
    "write a file": "writing {folder}/new: a worker writes no files",
    "cut a file": "",
    "list a folder": "opening {folder}; read it in `load`",
    "start a program": "starting a process",
    "connect by TCP": "opening a socket",
    "send by UDP": "opening a socket",
    "connect to a daemon's socket": "opening a socket",
}
"""What an item's error says was denied, where an author is likely to try it."""


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What attacks aim at: a file with a secret, its folder, and sockets that take what comes."""
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        for name, kind in (("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)):
            daemon = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            daemon.bind(str(tmp_path / name))
            if kind is socket.SOCK_STREAM:
                daemon.listen()
        yield {
            "secret": str(secret),
            "folder": str(tmp_path),
            "tcp": str(tcp.getsockname()[1]),
            "udp": str(udp.getsockname()[1]),
        }


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    engines = []

    async def start(cls: str = "Hostile", options: dict[str, Any] | None = None, **settings: Any) -> Engine:
        source = ModelSource("hostile", f"{HOSTILE}:{cls}", options or {})
        engine = Engine([source], 1, WorkerOptions(**settings))
        engines.append(engine)
        engine.start()
        async with asyncio.timeout(30):
            await engine.warm()
        return engine

    yield start
    for engine in engines:
        await engine.stop()


def aimed(item: list[str], victims: dict[str, str]) -> list[Any]:
    texts = [word.format(**victims) for word in item]
    return [int(text) if text.isdigit() else text for text in texts]


async def attack(engine: Engine, *item: Any) -> Outcome:
    async with asyncio.timeout(20):
        return await engine.infer("hostile", json.dumps(item).encode())


async def succeed(engine: Engine, *item: Any) -> Any:
    outcome = await attack(engine, *item)
    assert isinstance(outcome, Result), outcome
    return json.loads(outcome.outputs)


def need(engine: Engine, *features: str) -> None:
    """Skip where the machine has none of these."""
    states = {name: engine.workers().sandbox[name] for name in features}
    if ON not in states.values():
        pytest.skip(missing(states))


class TestAttacks:
    @pytest.mark.parametrize("name", ATTACKS)
    async def test_it_is_denied_costs_that_item_and_no_worker(
        self, start: Start, victims: dict[str, str], name: str
    ) -> None:
        item, features = ATTACKS[name]
        engine = await start()
        need(engine, *features)
        outcome = await attack(engine, *aimed(item, victims))
        assert isinstance(outcome, Failed), outcome
        assert outcome.code == "model_error"
        assert outcome.message.startswith(f"the sandbox denied {NAMED.get(name, '').format(**victims)}")
        assert await succeed(engine, "nothing") == "harmless"
        assert engine.workers().deaths == 0
        assert Path(victims["secret"]).read_text() == "the secret"
        assert len(list(Path(victims["folder"]).iterdir())) == 3

    @pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"make an io_uring"}))
    async def test_it_succeeds_without_the_sandbox(
        self, start: Start, victims: dict[str, str], name: str
    ) -> None:
        item, _ = ATTACKS[name]
        engine = await start(sandbox="off")
        outcome = await attack(engine, *aimed(item, victims))
        if name in ("trace the parent", "read the parent's memory") and isinstance(outcome, Failed):
            pytest.skip("this kernel lets no child trace its parent")
        if name == "become a program":
            assert isinstance(outcome, Failed)
            assert outcome.code == "worker_lost"
        else:
            assert isinstance(outcome, Result), outcome
        assert engine.workers().sandbox == {}

    async def test_memory_ends_at_the_cap(self, start: Start) -> None:
        engine = await start(memory_mb=2000)
        outcome = await attack(engine, "memory", 3)
        assert isinstance(outcome, Failed)
        assert outcome.code == "out_of_memory"
        assert await succeed(engine, "memory", 1) == 1 << 30
        assert engine.workers().deaths == 0

    def test_a_lower_limit_of_the_operators_stays(self) -> None:
        script = (
            "import resource; from inference.worker import sandbox; limit = resource.RLIMIT_AS\n"
            "resource.setrlimit(limit, (1 << 30, 1 << 30)); sandbox.limit_memory(2000)\n"
            "assert resource.getrlimit(limit) == (1 << 30, 1 << 30)\n"
        )
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)

    async def test_memory_without_a_cap(self, start: Start) -> None:
        assert await succeed(await start(), "memory", 3) == 3 << 30

    async def test_a_thread_bomb_ends_where_threads_can_be_counted(self, start: Start) -> None:
        engine = await start()
        need(engine, "threads")
        outcome = await attack(engine, "many_threads", sandbox.MAX_THREADS)
        assert isinstance(outcome, Failed)
        assert await succeed(engine, "many_threads", 20) == 20

    @pytest.mark.parametrize(
        "name", ["memfd_secret 447", "modify_ldt 154", "bpf 321", "keyctl 250", "userfaultfd 323"]
    )
    async def test_calls_that_no_model_needs(self, start: Start, name: str) -> None:
        if os.uname().machine != "x86_64":
            pytest.skip("the numbers are those of x86_64")
        engine = await start()
        need(engine, SECCOMP)
        outcome = await attack(engine, "call", int(name.split()[1]), 0)
        assert isinstance(outcome, Failed)
        assert outcome.message.startswith("the sandbox denied a system call in hostile_models.py, line ")

    async def test_a_worker_that_kills_itself_is_not_taken_for_one_that_was_killed(
        self, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = await start()
        need(engine, SECCOMP)
        outcome = await attack(engine, "kill_itself")
        assert isinstance(outcome, Failed)
        assert (outcome.code, outcome.retryable) == ("worker_lost", False)
        assert caplog.text.count(f"(by itself, exit status {-signal.SIGSYS})") == 2

    async def test_calls_by_their_other_numbers(self, start: Start) -> None:
        if os.uname().machine != "x86_64":
            pytest.skip("only x86_64 has them")
        engine = await start()
        need(engine, SECCOMP)
        outcome = await attack(engine, "other_numbers")
        assert isinstance(outcome, Failed)
        assert outcome.message.startswith("the sandbox denied a system call in hostile_models.py, line ")

    @pytest.mark.parametrize(
        ("call", "words"),
        [("fork", "the sandbox denied a system call"), ("clone3", "the model failed with OSError")],
    )
    async def test_processes_by_other_calls(self, start: Start, call: str, words: str) -> None:
        if os.uname().machine != "x86_64" and call == "fork":
            pytest.skip("only x86_64 has it")
        engine = await start()
        need(engine, SECCOMP)
        outcome = await attack(engine, "fork_by_number", call)
        assert isinstance(outcome, Failed)
        assert outcome.message.startswith(words)
        free = await start(sandbox="off")
        assert await succeed(free, "fork_by_number", call) == 0

    async def test_the_network_has_nothing_but_a_loopback_that_is_down(self, start: Start) -> None:
        engine = await start()
        need(engine, NETWORK)
        assert await succeed(engine, "interfaces") == ["lo"]

    async def test_a_crash_leaves_no_core(self, start: Start) -> None:
        assert await succeed(await start(), "core_limit") == [0, 0]

    async def test_no_capability_is_left(self, start: Start) -> None:
        engine = await start()
        need(engine, "capabilities")
        assert await succeed(engine, "capabilities") == 0


class TestParts:
    """One part alone denies what it is there for: no other one covers for it."""

    AIMS: ClassVar = {
        "tcp": ["tcp", "{tcp}"],
        "udp": ["udp", "{udp}"],
        "read": ["read", "{secret}"],
        "cut": ["cut", "{secret}"],
    }

    CASES = (
        ("_filter_calls", "tcp", "EPERM"),
        ("_filter_calls", "signal_parent", "EPERM"),
        ("_filter_calls", "fork", "EPERM"),
        ("_filter_calls", "cut", "EPERM"),
        ("_filter_calls", "become", "EPERM"),
        ("_filter_calls", "trace_parent", "EPERM"),
        ("_filter_calls", "read_parents_memory", "EPERM"),
        ("_leave_network", "tcp", "ENETUNREACH"),
        ("_leave_network", "udp", "ENETUNREACH"),
        ("_restrict_files", "read", "EACCES"),
        ("_restrict_files", "become", "EACCES"),
        ("_restrict_files", "tcp", "EACCES"),
        ("_restrict_files", "signal_parent", "EPERM"),
        ("_restrict_files", "read_parents_memory", "EPERM"),
    )

    @pytest.mark.parametrize(("part", "name", "error"), CASES)
    def test_alone(self, victims: dict[str, str], part: str, name: str, error: str) -> None:
        if part == "_restrict_files":
            abi = call(landlock.LANDLOCK_CREATE_RULESET, None, 0, landlock.LANDLOCK_VERSION)
            if abi < {"tcp": landlock.TCP_ABI, "signal_parent": landlock.SCOPE_ABI}.get(name, 1):
                pytest.skip(f"Landlock here has ABI {abi}")
        item = self.AIMS.get(name, [name])
        assert alone(part, aimed(item, victims)) == error

    @pytest.mark.parametrize("name", ["tcp", "udp", "read", "cut", "fork", "signal_parent"])
    def test_none(self, victims: dict[str, str], name: str) -> None:
        item = self.AIMS.get(name, [name])
        assert alone("separate", aimed(item, victims)) == "succeeded"


def alone(part: str, item: list[Any]) -> str:
    """Close one part of the sandbox around a process that then attacks; what came of it."""
    script = f"""
from inference.worker import landlock, sandbox, seccomp
from tests.inference.hostile_models import after
item = {item!r}
sandbox.separate()
parts = {{"separate": [], "_restrict_files": [sandbox._renounce_privileges,
    lambda: landlock.restrict_files([*sandbox.installation(), "/proc/self", {str(ROOT)!r}])],
    "_filter_calls": [sandbox._renounce_privileges, seccomp.filter_calls]}}
after(parts.get({part!r}) or [getattr(sandbox, {part!r})], item)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestHonestModels:
    async def test_what_libraries_do_still_works(self, start: Start) -> None:
        assert await succeed(await start(), "compute") == [[0, 1, 4, 9], 3, True, True]

    async def test_late_imports_of_the_installation_and_of_its_own_package(self, start: Start) -> None:
        expected = ["wave", "tests.inference.sample_models"]
        assert await succeed(await start(), "import_late") == expected

    async def test_loading_reads_and_runs_what_it_likes(self, start: Start, victims: dict[str, str]) -> None:
        engine = await start("ReadsInLoad", {"path": victims["secret"]})
        assert await succeed(engine, "kept") == "the secret"

    async def test_a_denial_and_a_crash_are_told_in_the_log(
        self, start: Start, victims: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = await start()
        need(engine, LANDLOCK)
        assert isinstance(await attack(engine, "read", victims["secret"]), Failed)
        outcome = await attack(engine, "crash")
        assert isinstance(outcome, Failed)
        assert outcome.code == "worker_lost"
        printed = "\n".join(r.getMessage() for r in caplog.records if r.name == "inference.worker.main")
        assert "PermissionError: [Errno 13] Permission denied" in printed
        source = "return Path(path).read_text()"
        assert source in printed, "a traceback has the source of the model's own package"
        assert "Fatal Python error: Segmentation fault" in printed

    async def test_the_models_that_ship_have_the_whole_sandbox_that_this_machine_has(
        self, start: Start
    ) -> None:
        sources = [ModelSource(name, reference) for name, reference in SHIPPED.items()]
        portrait = (ROOT / "web_client" / "sample.jpg").read_bytes()
        async with Engine(sources, 1) as engine:
            alone = (await start()).workers().sandbox
            assert engine.workers().sandbox == alone, "they start no thread while they load"
            for model, payload in (("faces", portrait), ("spam", b"You have won"), ("echo", b"abc")):
                outcome = await engine.infer(model, payload)
                assert isinstance(outcome, Result), outcome


class TestThreads:
    async def test_a_thread_from_before_is_reported_and_has_the_filter(
        self, start: Start, victims: dict[str, str]
    ) -> None:
        engine = await start("HasAThread")
        states = engine.workers().sandbox
        need(engine, SECCOMP)
        for name in sandbox.PER_THREAD:
            assert (
                states[name] == "partial: not for the threads that loading started (1)"
                or "ed: " in states[name]
            )
        for item in (["tcp", int(victims["tcp"])], ["fork"], ["signal_parent"]):
            outcome = await attack(engine, *item)
            assert isinstance(outcome, Failed), item
            assert outcome.message.startswith("the sandbox denied ")

    async def test_it_is_not_served_where_the_whole_is_required(
        self, start: Start, victims: dict[str, str]
    ) -> None:
        engine = await start("HasAThread", sandbox="require")
        need(engine, LANDLOCK, "capabilities", SECCOMP)
        (status,) = engine.models()
        assert status.state == "unavailable"
        assert "its sandbox is not whole: " in (status.reason or "")


LACKING = """
import errno, os, sys
from inference.worker import sandbox, seccomp
column, architecture = seccomp.ARCHITECTURES[os.uname().machine]
sandbox._renounce_privileges()
seccomp._install(column, [
    (seccomp.LOAD, 0, 0, seccomp.NUMBER),
    (seccomp.EQUAL, 0, 1, 444),
    (seccomp.RETURN, 0, 0, seccomp.ERROR | errno.ENOSYS),
    (seccomp.RETURN, 0, 0, seccomp.ALLOW),
])
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Starts a program on a kernel without Landlock: its answer to the first call of it is what such a kernel says."""


@pytest.fixture
def without_landlock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the servers of this test started on such a kernel."""
    if os.uname().machine not in seccomp.ARCHITECTURES:
        pytest.skip("there is no filter to take Landlock away with")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{LACKING}' \"$@\"\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.usefixtures("without_landlock")
class TestLacking:
    def test_the_server_says_so_once_and_serves(
        self, start_server: Callable[..., RunningServer], capfd: pytest.CaptureFixture[str]
    ) -> None:
        server = start_server("--workers", "2", "--model", "echo")
        status, _, body = server.get("/v2/health/ready")
        assert status == 200
        assert json.loads(body)["sandbox"][LANDLOCK] == "unsupported: Function not implemented"
        server.stop()
        _, err = capfd.readouterr()
        assert err.count("the workers' sandbox is not whole: ") == 1
        assert "landlock (unsupported: Function not implemented)" in err

    def test_the_server_refuses_to_start_if_it_must_have_it(self) -> None:
        command = ["-m", "stream_server", "serve", "--port", "0", "--model", "echo", "--sandbox", "require"]
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode not in (0, -9)
        assert "ready at" not in done.stdout
        assert "the sandbox is not whole: " in done.stderr
        assert "landlock (unsupported: Function not implemented)" in done.stderr
        assert "--sandbox auto" in done.stderr
        assert "Traceback" not in done.stderr

    def test_it_serves_without_a_word_if_it_is_off(
        self, start_server: Callable[..., RunningServer], capfd: pytest.CaptureFixture[str]
    ) -> None:
        server = start_server("--workers", "1", "--model", "echo", "--sandbox", "off")
        assert json.loads(server.get("/v2/health/ready")[2])["sandbox"] == {}
        server.stop()
        assert capfd.readouterr().err == ""
