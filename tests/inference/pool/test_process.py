"""One worker process: it starts with its limits, ends in every way, is reaped and leaves no descriptor."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from inference.pool.process import ENVIRONMENT, WorkerProcess
from inference.wire import messages
from inference.wire.worker_channel import WorkerChannel
from tests.conftest import WAIT

NOBODYS = messages.BatchHeader("none", "1", [])
"""A batch of a model that no worker has: it ends with a KeyError."""

ENVIRON = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    me = psutil.Process()
    children, fds = set(me.children(recursive=True)), me.num_fds()
    yield
    # fewer there may be: what an earlier test left to the garbage collector may go meanwhile
    assert set(me.children(recursive=True)) <= children
    assert me.num_fds() <= fds


class Exit:
    """What a process's `on_exit` was called with."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.heard = asyncio.Event()

    def __call__(self, status: int) -> None:
        self.statuses.append(status)
        self.heard.set()

    async def status(self) -> int:
        async with asyncio.timeout(WAIT):
            await self.heard.wait()
        (status,) = self.statuses
        return status


Spawn = Callable[[], Awaitable[tuple[WorkerProcess, Exit]]]


@pytest.fixture
async def spawned() -> Spawn:
    async def spawn() -> tuple[WorkerProcess, Exit]:
        ended = Exit()
        return WorkerProcess(asyncio.get_running_loop(), ended), ended

    return spawn


async def loaded(process: WorkerProcess) -> None:
    """Talk to a worker without models until it waits for work."""
    channel = WorkerChannel(process.sock)
    channel.send(messages.encode(messages.Setup([], "off", 0)))
    said = [await asyncio.to_thread(channel.receive) for _ in range(2)]
    kinds = [type(messages.read_from_worker(message[0])) for message in said if message]
    assert kinds == [messages.Sealing, messages.Ready]


def link_of(fd: Path) -> str:
    return str(fd.readlink())


async def test_it_exits_when_its_socket_closes(spawned: Spawn) -> None:
    process, ended = await spawned()
    await loaded(process)
    process.sock.close()
    assert await ended.status() == 0


async def test_it_exits_when_its_socket_closes_before_it_is_told_what_to_load(spawned: Spawn) -> None:
    process, ended = await spawned()
    process.sock.close()
    assert await ended.status() == 0


@pytest.mark.parametrize("stopped", [False, True])
async def test_killing_ends_it_even_when_it_is_stopped(spawned: Spawn, stopped: bool) -> None:
    process, ended = await spawned()
    await loaded(process)
    if stopped:
        os.kill(process.pid, signal.SIGSTOP)
    process.kill()
    assert await ended.status() == -signal.SIGKILL
    process.kill()
    process.sock.close()
    assert not psutil.pid_exists(process.pid)


async def test_a_signal_for_the_terminals_group_does_not_end_it(spawned: Spawn) -> None:
    process, ended = await spawned()
    await loaded(process)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    channel = WorkerChannel(process.sock)
    channel.send(messages.encode(NOBODYS))  # it fails on that, as it could not had it ended
    assert await ended.status() == 1
    process.sock.close()


async def test_its_environment_has_the_caps_and_the_rest(
    spawned: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("OF_THE_USER", "kept")
    process, ended = await spawned()
    await loaded(process)
    environment = psutil.Process(process.pid).environ()
    process.sock.close()
    await ended.status()
    assert {name: environment[name] for name in ENVIRON} == ENVIRON
    assert environment["OF_THE_USER"] == "kept"


async def test_it_inherits_its_own_socket_and_no_other_descriptor(spawned: Spawn) -> None:
    ours, theirs = socket.socketpair()
    os.set_inheritable(ours.fileno(), True)
    first, first_ended = await spawned()
    second, second_ended = await spawned()
    await loaded(first)
    await loaded(second)
    links = [link_of(fd) for fd in Path(f"/proc/{second.pid}/fd").iterdir()]
    for process, ended in ((first, first_ended), (second, second_ended)):
        process.sock.close()
        assert await ended.status() == 0
    ours.close()
    theirs.close()
    assert len([link for link in links if link.startswith("socket:")]) == 1
    assert len({link for link in links if link.startswith("pipe:")}) == 1, "its own output"


async def test_both_its_outputs_are_one_pipe_and_its_input_is_empty(spawned: Spawn) -> None:
    process, ended = await spawned()
    await loaded(process)
    nothing, out, err = (link_of(Path(f"/proc/{process.pid}/fd/{n}")) for n in (0, 1, 2))
    process.sock.close()
    await ended.status()
    assert nothing == "/dev/null"
    assert out == err
    assert out.startswith("pipe:")


async def test_its_last_words_are_logged_before_its_end_is_told(
    spawned: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    process, ended = await spawned()
    await loaded(process)
    WorkerChannel(process.sock).send(messages.encode(NOBODYS))
    assert await ended.status() == 1
    process.sock.close()
    assert any(message.startswith(f"{process.pid}: KeyError: ") for message in caplog.messages)
    assert {record.name for record in caplog.records} == {"inference.worker.main"}


async def test_it_can_be_made_to_log_where_it_is_and_goes_on(
    spawned: Spawn, caplog: pytest.LogCaptureFixture
) -> None:
    process, ended = await spawned()
    await loaded(process)
    process.dump()
    async with asyncio.timeout(WAIT):
        while not any(message.endswith(" in main") for message in caplog.messages):
            await asyncio.sleep(0.01)
    assert f"{process.pid}: Current thread" in caplog.text
    process.sock.close()
    assert await ended.status() == 0


async def test_it_is_in_no_group_that_a_terminal_signals(spawned: Spawn) -> None:
    process, ended = await spawned()
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    process.sock.close()
    await ended.status()


async def test_what_cannot_be_started_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(FileNotFoundError):
        WorkerProcess(asyncio.get_running_loop(), Exit())


def no_pidfd(pid: int) -> int:
    raise OSError(errno.ENOSYS, f"no pidfd of {pid}")


async def test_it_is_reaped_where_the_kernel_has_no_pidfd(
    spawned: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pidfd_open", no_pidfd)
    process, ended = await spawned()
    process.kill()
    assert await ended.status() == -signal.SIGKILL
    process.sock.close()


async def test_what_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(os, "pidfd_open", no_pidfd)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RuntimeError, match="new thread"):
        WorkerProcess(asyncio.get_running_loop(), Exit())


async def test_thirty_of_them_leave_nothing(spawned: Spawn) -> None:
    for _ in range(6):
        batch = [await spawned() for _ in range(5)]
        for process, ended in batch:
            process.kill()
            assert await ended.status() == -signal.SIGKILL
            process.sock.close()


async def test_a_folder_of_our_name_beside_a_users_model_does_not_hide_us(
    spawned: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "__init__.py").write_text("raise SystemExit(3)")
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    input = 'text'\n    def load(self): ...\n    def predict(self, items): return items\n"
    )
    monkeypatch.chdir(tmp_path)
    process, ended = await spawned()
    channel = WorkerChannel(process.sock)
    mine = messages.ModelSetup("mine", "mine:Mine", msgspec.Raw(b"{}"))
    await asyncio.to_thread(channel.send, messages.encode(messages.Setup([mine], "off", 0)))
    said = [await asyncio.to_thread(channel.receive) for _ in range(5)]
    process.sock.close()
    kinds = [json.loads(message[0])["type"] for message in said if message]
    assert kinds == ["importing", "described", "sealing", "loaded", "ready"]
    assert await ended.status() == 0
