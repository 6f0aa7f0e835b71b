"""The life of a server process: start, drain, stop, by signals and under load; and what its process holds."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest

from stream_server import End, Result, connect
from stream_server.server.config_file import read_settings
from stream_server.server.http_api import CONNECTIONS
from stream_server.server.server import FULL_COLLECTION, Server, tune_gc
from tests.conftest import WAIT, RunningServer
from tests.stream_server.wire import BINARY, CLOSE, Wire, dial, frame

PATIENT = "--model=patient=tests.inference.sample_models:Patient"
"""A model that sleeps and answers as it is told, one item at a time."""

PATH = "/v2/models/patient/stream"


DRAIN_S = 8
"""What a drain with a client that does not read takes; and how long all others may stand still meanwhile."""

Start = Callable[..., RunningServer]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with asyncio.timeout(3 * WAIT), aiohttp.ClientSession() as session:
        yield session


def pid(server: RunningServer) -> int:
    assert server.process
    return server.process.pid


def workers(server: RunningServer) -> list[psutil.Process]:
    return psutil.Process(pid(server)).children()


async def exit_status(server: RunningServer) -> int:
    assert server.process
    return await asyncio.to_thread(server.process.wait, WAIT)


def assert_nothing_is_left(server: RunningServer, processes: list[psutil.Process]) -> None:
    """No worker lives, and the port can be bound again at once."""
    gone, alive = psutil.wait_procs(processes, timeout=WAIT)
    assert len(gone) == len(processes)
    assert not alive
    host = urlsplit(server.url)
    with socket.create_server((host.hostname or "", host.port or 0)):
        pass


class Client:
    """One that counts what it gets."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.messages: list[dict[str, Any]] = []
        self.close_code = 0

    async def read(self, pause: float = 0.0) -> None:
        """Read until the close, and check the laws that the client can see."""
        while not self.messages or self.messages[-1]["type"] != "end":
            self.messages.append(await self.wire.message())
            await asyncio.sleep(pause)
        self.close_code = await self.wire.close_code()
        await self.wire.send(frame(CLOSE, self.close_code.to_bytes(2, "big")))
        answers = [message for message in self.messages if "seq" in message]
        assert [message["seq"] for message in answers] == list(range(1, len(answers) + 1))
        count = {kind: sum(m["type"] == kind for m in answers) for kind in ("result", "dropped", "error")}
        assert self.messages[-1] == {
            "type": "end",
            "received": len(answers),
            "results": count["result"],
            "dropped": count["dropped"],
            "errors": count["error"],
        }

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]


class TestDrain:
    @pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
    async def test_what_was_accepted_is_answered(self, signal_number: int, start_server: Start) -> None:
        """One client reads, one reads slowly, one sends on, one is idle, and one does not read at all."""
        settings = f"--set=timeouts.drain_s={DRAIN_S}", "--set=timeouts.write_s=600"
        server = start_server("--workers=2", PATIENT, *settings)
        processes = workers(server)
        async with asyncio.timeout(2 * WAIT), AsyncExitStack() as stack:

            async def client(**options: Any) -> Client:
                return Client(await stack.enter_async_context(dial(server.url, PATH, **options)))

            keen, slow, sending, idle = [await client() for _ in range(4)]
            deaf = await client(receive_buffer=1 << 12, limit=1 << 11)
            for one in (keen, slow):
                await one.wire.send(*[frame(BINARY, b"sleep 0.05")] * 8)
            # long enough that what is sent on meets a stream that is still open
            await sending.wire.send(frame(BINARY, b"sleep 3"), *[frame(BINARY, b"sleep 0.05")] * 7)
            await deaf.wire.send(*[frame(BINARY, b"answer " + b"x" * 500_000)] * 8)
            while sum(v for k, v in server.metrics().items() if k.startswith("stream_items_received")) < 32:
                await asyncio.sleep(0.02)
            os.kill(pid(server), signal_number)

            async def send_on() -> None:
                while not sending.of("goaway"):
                    await asyncio.sleep(0)
                for _ in range(3):
                    await sending.wire.item(b"sleep 0")

            await asyncio.gather(keen.read(), slow.read(0.1), sending.read(), idle.read(), send_on())
            # the deaf one is not waited for, though it might read for ten minutes yet
            assert await exit_status(server) == 0
        for one in (keen, slow, sending, idle):
            assert one.close_code == 1001
            (goaway,) = one.of("goaway")
            assert goaway["grace_ms"] == 1000 * DRAIN_S
            assert goaway["retry_after_ms"] > 0
        assert len(keen.of("result")) == len(slow.of("result")) == len(sending.of("result")) == 8
        assert {message["reason"] for message in sending.of("dropped")} <= {"draining"}
        assert [message["type"] for message in idle.messages] == ["goaway", "end"]
        assert_nothing_is_left(server, processes)

    async def test_without_streams_it_takes_no_time(self, start_server: Start) -> None:
        server = start_server("--workers=1", "--model=echo", "--set=timeouts.drain_s=600")
        processes = workers(server)
        os.kill(pid(server), signal.SIGTERM)
        assert await exit_status(server) == 0
        assert_nothing_is_left(server, processes)

    async def test_what_takes_too_long_gets_its_answer_too(self, start_server: Start) -> None:
        """When the time is over, what runs ends with its worker, and what waits is dropped."""
        server = start_server("--workers=1", PATIENT, "--set=timeouts.drain_s=0.5")
        processes = workers(server)
        async with asyncio.timeout(WAIT), dial(server.url, PATH) as wire:
            client = Client(wire)
            await wire.send(frame(BINARY, b"sleep 50"), frame(BINARY, b"sleep 50"))  # longer than we wait
            while server.metrics()['stream_items_running{model="patient"}'] == 0:
                await asyncio.sleep(0.02)
            os.kill(pid(server), signal.SIGTERM)
            await client.read()
            assert await exit_status(server) == 0
        assert [m["type"] for m in client.messages] == ["goaway", "error", "dropped", "end"]
        assert client.of("error")[0]["code"] == "worker_lost"
        assert client.of("dropped")[0]["reason"] == "draining"
        assert client.close_code == 1001
        assert_nothing_is_left(server, processes)

    async def test_a_second_signal_ends_it_at_once(self, start_server: Start) -> None:
        server = start_server("--workers=1", PATIENT, "--set=timeouts.drain_s=60")
        processes = workers(server)
        async with asyncio.timeout(WAIT), dial(server.url, PATH) as wire:
            client = Client(wire)
            await wire.item(b"sleep 50")  # longer than we wait, as is the drain
            while server.metrics()['stream_items_running{model="patient"}'] == 0:
                await asyncio.sleep(0.02)
            os.kill(pid(server), signal.SIGTERM)
            assert (await wire.message())["type"] == "goaway"
            os.kill(pid(server), signal.SIGTERM)
            await client.read()
            assert await exit_status(server) == 0
        assert client.close_code == 1001
        assert_nothing_is_left(server, processes)

    async def test_it_is_not_ready_and_takes_no_new_connection(
        self, start_server: Start, http: aiohttp.ClientSession
    ) -> None:
        server = start_server("--workers=1", PATIENT, "--set=timeouts.drain_s=60")
        async with dial(server.url, PATH) as wire:
            client = Client(wire)
            async with http.get(server.url + "/v2/health/ready") as response:
                assert response.status == 200  # and the connection is kept for the next request
            await wire.item(b"stop")
            worker = server.stopped_worker()
            os.kill(pid(server), signal.SIGTERM)
            assert (await wire.message())["type"] == "goaway"
            async with http.get(server.url + "/v2/health/ready") as response:
                assert (response.status, (await response.json())["draining"]) == (503, True)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(urlsplit(server.url).hostname, urlsplit(server.url).port)
            worker.resume()  # not before: the drain lasts as long as we look
            await client.read()
            assert len(client.of("result")) == 1
        assert await exit_status(server) == 0


class TestTerminal:
    """Started as a shell starts it, with a process group of its own."""

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "stream_server", "serve", "--port=0", "--workers=2", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    async def test_ctrl_c_reaches_the_workers_too_and_costs_nothing(self) -> None:
        process = self.start(PATIENT)
        assert process.stdout
        found = re.search(r"ready at (\S+)", await asyncio.to_thread(process.stdout.readline))
        assert found
        server = RunningServer((), url=found[1], process=process)
        processes = workers(server)
        async with asyncio.timeout(WAIT), dial(server.url, PATH) as wire:
            client = Client(wire)
            await wire.send(*[frame(BINARY, b"sleep 0.2")] * 6)
            while server.metrics()['stream_items_received_total{model="patient"}'] < 6:
                await asyncio.sleep(0.02)
            os.killpg(process.pid, signal.SIGINT)
            await client.read()
        assert len(client.of("result")) == 6
        _, errors = process.communicate(timeout=WAIT)
        assert (process.returncode, errors) == (0, "")
        assert_nothing_is_left(server, processes)

    @pytest.mark.parametrize("seconds", [0.15, 0.25, 0.4, 0.6])
    def test_a_signal_during_the_start_ends_it(self, seconds: float) -> None:
        """Before Python has come to our code it ends by the signal itself; afterwards in order."""
        process = self.start()
        time.sleep(seconds)  # the moment is what is tested
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=WAIT)
        assert process.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in errors
        _, alive = psutil.wait_procs(children, timeout=WAIT)
        assert not alive

    def test_a_signal_while_models_load_ends_it_in_order(self) -> None:
        process = self.start(PATIENT, "--model=slow=tests.stream_server.server.test_server:SlowToLoad")
        while not psutil.Process(process.pid).children():
            time.sleep(0.01)
        children = psutil.Process(process.pid).children()
        time.sleep(0.5)  # the model takes longer
        os.kill(process.pid, signal.SIGTERM)
        out, errors = process.communicate(timeout=WAIT)
        assert (process.returncode, out, errors) == (0, "", "")
        _, alive = psutil.wait_procs(children, timeout=WAIT)
        assert not alive


class SlowToLoad:
    """A model that takes its time."""

    input = "bytes"

    def load(self) -> None:
        time.sleep(30)

    def predict(self, items: list[bytes], /) -> list[bytes]:
        return items


def test_a_port_in_use_is_said(server: RunningServer) -> None:
    port = str(urlsplit(server.url).port)
    done = subprocess.run(
        [sys.executable, "-m", "stream_server", "serve", "--port", port],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"stream-server: cannot listen on 127\.0\.0\.1 port {port}: .+; choose another with --host and --port\n",
        done.stderr,
    )


async def test_an_item_that_ends_two_workers_costs_itself_and_they_are_replaced(start_server: Start) -> None:
    server = start_server("--workers=2", PATIENT)
    async with asyncio.timeout(WAIT), dial(server.url, PATH) as other, dial(server.url, PATH) as wire:
        await wire.item(b"exit 1")
        error = await wire.message()
        assert (error["seq"], error["code"], error["retryable"]) == (1, "worker_lost", False)
        assert server.metrics()["stream_worker_deaths_total"] == 2
        for seq in range(1, 5):
            await other.item(b"answer yes")
            assert (await other.message())["seq"] == seq
        await wire.item(b"answer yes")
        assert (await wire.message())["type"] == "result"
        while (now := server.metrics())["stream_workers_ready"] < 2 or now["stream_workers_spare"] < 1:
            await asyncio.sleep(0.02)


async def spares_are_warm(server: RunningServer, count: int = 1) -> None:
    async with asyncio.timeout(WAIT):
        while server.metrics()["stream_workers_spare"] < count:
            await asyncio.sleep(0.02)


class TestLoss:
    """A worker ends through no fault of its item, as when the machine runs out of memory."""

    async def test_a_spare_takes_its_place_and_the_stream_does_not_notice(self, start_server: Start) -> None:
        server = start_server("--workers=1", PATIENT)
        await spares_are_warm(server)
        async with asyncio.timeout(WAIT), dial(server.url, PATH) as wire:
            await wire.item(b"answer yes")
            serving = (await wire.message())["outputs"]["pid"]
            (spare,) = {worker.pid for worker in workers(server)} - {serving}
            await wire.send(frame(BINARY, b"stop"), *[frame(BINARY, b"sleep 0.2")] * 7)
            # only what it has read is lost with it, and it might be done with that before it is ended
            assert server.stopped_worker().pid == serving
            os.kill(serving, signal.SIGKILL)
            (again,) = [worker for worker in workers(server) if worker.pid == spare]
            while again.status() != psutil.STATUS_STOPPED:
                await asyncio.sleep(0.01)
            again.resume()
            answers = [await wire.message() for _ in range(8)]
        assert [(answer["type"], answer["seq"]) for answer in answers] == [
            ("result", n) for n in range(2, 10)
        ]
        assert {answer["outputs"]["pid"] for answer in answers[1:]} == {spare}
        metrics = server.metrics()
        assert metrics["stream_worker_deaths_total"] == 1
        assert metrics['stream_items_retried_total{model="patient"}'] == 1
        await spares_are_warm(server)

    async def test_a_cameras_frame_runs_once_more_though_a_newer_one_waits(self, start_server: Start) -> None:
        server = start_server("--workers=1", PATIENT)
        await spares_are_warm(server)
        async with asyncio.timeout(WAIT), dial(server.url, PATH + "?policy=latest") as wire:
            await wire.item(b"answer yes")
            serving = (await wire.message())["outputs"]["pid"]
            await wire.item(b"stop")
            assert server.stopped_worker().pid == serving
            await wire.item(b"answer yes")
            while server.metrics()['stream_items_waiting{model="patient"}'] == 0:
                await asyncio.sleep(0.01)
            os.kill(serving, signal.SIGKILL)
            while (worker := await asyncio.to_thread(server.stopped_worker)).pid == serving:
                await asyncio.sleep(0.01)
            worker.resume()
            answers = [await wire.message() for _ in range(2)]
        assert [(answer["seq"], answer["type"]) for answer in answers] == [(2, "result"), (3, "result")]
        assert server.metrics()['stream_items_retried_total{model="patient"}'] == 1


def write_mine(folder: Path, version: str) -> None:
    """Write the module of a model that answers with its version."""
    lines = (
        "class Mine:",
        '    input = "bytes"',
        f'    version = "{version}"',
        "    def load(self): pass",
        f'    def predict(self, items): return ["{version}"] * len(items)',
    )
    (folder / "mine.py").write_text("\n".join(lines))


class TestRenewal:
    async def test_a_rolling_restart_under_load_loses_nothing(self, start_server: Start) -> None:
        server = start_server("--workers=2", PATIENT)
        await spares_are_warm(server)
        before = {worker.pid for worker in workers(server)}
        assert len(before) == 3
        over = asyncio.Event()
        answered: set[int] = set()

        async def load() -> int:
            async def items() -> AsyncIterator[bytes]:
                while not over.is_set():
                    yield b"sleep 0.01"

            async with connect(server.url, "patient") as stream:
                count = 0
                async for answer in stream.process(items()):
                    count += 1
                    assert isinstance(answer, Result)
                    assert answer.seq == count
                    answered.add(answer.outputs["pid"])
                assert await stream.end() == End(count, count, 0, 0)
            return count

        async with asyncio.timeout(2 * WAIT), asyncio.TaskGroup() as group:
            loads = [group.create_task(load()) for _ in range(4)]
            while not answered:
                await asyncio.sleep(0.02)
            os.kill(pid(server), signal.SIGHUP)
            while server.metrics()["stream_worker_recycles_total"] < 3:
                assert server.metrics()["stream_workers_ready"] >= 2, "never fewer than there are places"
                await asyncio.sleep(0.02)
            await spares_are_warm(server)
            while len(answered - before) < 2:
                await asyncio.sleep(0.02)
            over.set()
        after = {worker.pid for worker in workers(server)}
        assert len(after) == 3
        assert not before & after
        assert all(task.result() > 0 for task in loads)
        metrics = server.metrics()
        assert metrics["stream_worker_deaths_total"] == 0
        assert metrics['stream_items_retried_total{model="patient"}'] == 0

    async def test_it_loads_what_has_changed(self, start_server: Start, tmp_path: Path) -> None:
        write_mine(tmp_path, "old")
        server = start_server("--workers=1", "--model=mine:Mine", cwd=tmp_path)
        await spares_are_warm(server)
        async with asyncio.timeout(WAIT), dial(server.url, "/v2/models/mine/stream") as wire:
            await wire.item(b"x")
            assert (await wire.message())["outputs"] == "old"
            write_mine(tmp_path, "newer")
            os.kill(pid(server), signal.SIGHUP)
            outputs = "old"
            while outputs == "old":
                await wire.item(b"x")
                message = await wire.message()
                outputs = message["outputs"]
            assert (outputs, message["version"]) == ("newer", "newer")
        assert json.loads(server.get("/v2/models/mine")[2])["version"] == "newer"

    async def test_a_pinned_stream_is_never_answered_by_another_version(
        self, start_server: Start, tmp_path: Path
    ) -> None:
        """Law 8, while workers of both versions live side by side and after the old one is gone."""
        write_mine(tmp_path, "old")
        server = start_server("--workers=2", "--model=mine:Mine", cwd=tmp_path)
        await spares_are_warm(server)
        pinned_to_old = "/v2/models/mine/versions/old/stream"
        async with (
            asyncio.timeout(WAIT),
            dial(server.url, pinned_to_old) as pinned,
            dial(server.url, "/v2/models/mine/stream") as free,
        ):
            write_mine(tmp_path, "newer")
            os.kill(pid(server), signal.SIGHUP)
            answers: dict[str, set[str]] = {"pinned": set(), "free": set()}
            while not ({"newer"} <= answers["free"] and "error" in answers["pinned"]):
                for name, wire in (("pinned", pinned), ("free", free)):
                    await wire.item(b"x")
                    message = await wire.message()
                    if message["type"] == "result":
                        assert message["outputs"] == message["version"]
                        answers[name].add(message["version"])
                    else:
                        assert (message["code"], message["retryable"]) == ("model_unavailable", False)
                        assert message["message"] == "version old of model mine is no longer served"
                        answers[name].add("error")
            assert answers == {"pinned": {"old", "error"}, "free": {"old", "newer"}}
        described = json.loads(server.get("/v2/models/mine")[2])
        assert (described["version"], described["versions"]) == ("newer", ["newer"])
        async with asyncio.timeout(WAIT), dial(server.url, "/v2/models/mine/versions/newer/stream") as wire:
            await wire.item(b"x")
            assert (await wire.message())["version"] == "newer"

    @pytest.mark.parametrize(("workers", "spares"), [(1, 1), (2, 0)])
    async def test_new_code_that_does_not_load_takes_nothing_away(
        self, workers: int, spares: int, start_server: Start, tmp_path: Path
    ) -> None:
        def write(line: str) -> None:
            lines = (
                line,
                "class Mine:",
                '    input = "bytes"',
                "    def load(self): pass",
                "    def predict(self, items): return [word] * len(items)",
            )
            (tmp_path / "mine.py").write_text("\n".join(lines))

        write('word = "old"')
        models = ("--model=mine:Mine", "--model=echo")
        server = start_server(f"--workers={workers}", f"--set=server.spares={spares}", *models, cwd=tmp_path)
        await spares_are_warm(server, spares)
        async with asyncio.timeout(3 * WAIT), dial(server.url, "/v2/models/mine/stream") as wire:

            async def answer() -> Any:
                await wire.item(b"x")
                return (await wire.message()).get("outputs")

            write('raise ValueError("broken")')
            os.kill(pid(server), signal.SIGHUP)
            while (now := server.metrics())["stream_worker_recycles_total"] < 1 or (
                now["stream_workers_ready"] < workers or now["stream_workers_spare"] < spares
            ):
                assert await answer() == "old"
            for _ in range(20):
                assert await answer() == "old"
            assert server.get("/v2/health/ready")[0] == 200
            write('word = "mended"')
            os.kill(pid(server), signal.SIGHUP)
            while await answer() != "mended":
                await asyncio.sleep(0.02)

    async def test_without_a_spare_a_lone_worker_makes_its_streams_wait(self, start_server: Start) -> None:
        server = start_server("--workers=1", "--set=server.spares=0", PATIENT)
        (before,) = workers(server)
        async with asyncio.timeout(WAIT), dial(server.url, PATH) as wire:
            await wire.send(frame(BINARY, b"stop"), *[frame(BINARY, b"sleep 0.1")] * 9)
            assert server.stopped_worker() == before
            os.kill(pid(server), signal.SIGHUP)
            before.resume()
            answers = [await wire.message() for _ in range(10)]
            while answers[-1]["outputs"]["pid"] == before.pid:  # the signal takes its time
                await wire.item(b"sleep 0.1")
                answers.append(await wire.message())
        assert [(answer["type"], answer["seq"]) for answer in answers] == [
            ("result", n) for n in range(1, len(answers) + 1)
        ]


async def test_a_connection_that_asks_for_nothing_is_closed(start_server: Start) -> None:
    """Slowloris: each of them would hold a socket for ever."""
    # we must not stand still for so long when we ask for the stream
    server = start_server("--workers=1", "--model=echo", "--set=timeouts.hello_s=3")
    host = urlsplit(server.url)

    async def dawdle(beginning: bytes) -> None:
        reader, writer = await asyncio.open_connection(host.hostname, host.port)
        writer.write(beginning)
        with suppress(ConnectionError):  # what comes after the close is answered with a reset
            for _ in range(3):  # a byte now and then is no request either
                await asyncio.sleep(0.1)
                writer.write(b"x" if beginning else b"")
            assert await reader.read() == b""
        writer.close()

    async with asyncio.timeout(2 * WAIT), dial(server.url, "/v2/models/echo/stream") as wire:
        await asyncio.gather(*map(dawdle, (b"", b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")))
        await wire.item(b"x")
        assert (await wire.message())["type"] == "result", "a stream may be silent for longer"


class TestProcess:
    """The loop's process holds neither models nor what they are made with."""

    def test_no_library_of_models_is_loaded(self, server: RunningServer) -> None:
        maps = Path(f"/proc/{pid(server)}/maps").read_text()
        libraries = {line.split()[-1] for line in maps.splitlines() if ".so" in line}
        strangers = "cv2", "onnxruntime", "sklearn", "scipy", "simplejpeg", "numpy"
        assert not [path for path in libraries if any(f"/{name}" in path for name in strangers)]
        assert any("aiohttp" in path for path in libraries), "or this would prove nothing"

    def test_no_module_of_models_or_clients_is_imported(self) -> None:
        code = "import sys, stream_server.cli; stream_server.cli.make_parser('serve'); print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(done.stdout.split())
        assert "stream_server.commands.serve" in loaded
        strangers = {"cv2", "numpy", "onnxruntime", "simplejpeg", "sklearn", "websockets", "multiprocessing"}
        assert not loaded & strangers
        assert not loaded & {
            "inference.worker.main",
            "inference.worker.images",
            "inference.models",
            "stream_server.client.stream",
        }

    def test_it_is_small_and_soon_ready(
        self, start_server: Start, capsys: pytest.CaptureFixture[str]
    ) -> None:
        started = time.monotonic()
        server = start_server()
        took = time.monotonic() - started
        size = psutil.Process(pid(server)).memory_info().rss / 1e6
        with capsys.disabled():
            print(
                f"\n  ready after {took:.2f} s with all models; the server's own process has {size:.0f} MB",
                end="",
            )
        assert size < 100

    async def test_every_model_lives_in_every_worker_and_a_spare_waits(self, server: RunningServer) -> None:
        await spares_are_warm(server)
        assert len(workers(server)) == 3
        assert server.metrics()["stream_workers"] == 2
        assert server.metrics()["stream_workers_resident_bytes"] > 3 * 20e6
        status, _, body = server.get("/v2/health/ready")
        assert (status, json.loads(body)["ready"]) == (200, True)

    async def test_a_group_has_workers_of_its_own(self, start_server: Start) -> None:
        server = start_server("--workers=1", "--model=echo", PATIENT, "--group=slow=patient:2")
        await spares_are_warm(server, 2)  # one for each group
        assert server.metrics()["stream_workers"] == 3
        assert len(workers(server)) == 5
        async with (
            asyncio.timeout(WAIT),
            dial(server.url, PATH) as slow,
            dial(server.url, "/v2/models/echo/stream") as fast,
        ):
            await slow.send(*[frame(BINARY, b"sleep 50")] * 4)  # longer than we wait
            while server.metrics()['stream_items_running{model="patient"}'] < 2:
                await asyncio.sleep(0.01)
            await fast.item(b"abc")
            assert (await fast.message())["outputs"] == {"bytes": 3}
            assert server.metrics()['stream_items_results_total{model="patient"}'] == 0


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Whatever is garbage only to the collector stays, to be found."""
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.unfreeze()
    gc.set_threshold(700, 10, 10)
    gc.enable()


@pytest.mark.usefixtures("no_collections")
class TestGarbage:
    """Full collections are few, so that nothing may wait for one to be freed."""

    async def test_streams_that_end_leave_no_reference_cycles(self) -> None:
        server = Server(read_settings({"server": {"port": 0, "workers": 1, "spares": 0, "models": ["echo"]}}))
        await server.start()
        try:
            for way in ("politely", "abruptly", "badly") * 3:
                async with asyncio.timeout(WAIT), dial(server.url, "/v2/models/echo/stream") as wire:
                    await wire.item(b"x")
                    assert (await wire.message())["type"] == "result"
                    if way == "abruptly":
                        wire.reset()
                        continue
                    await wire.say(
                        '{"type": "end"}' if way == "politely" else '{"type": "item", "text": "x"}'
                    )
                    assert (await wire.message())["type"] == ("end" if way == "politely" else "error")
                    assert await wire.close_code() == (1000 if way == "politely" else 1003)
            connections = server._app[CONNECTIONS]
            async with asyncio.timeout(WAIT):
                while len(connections):
                    await asyncio.sleep(0.01)
        finally:
            await server.stop()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(type(one).__name__ for one in gc.garbage)
        assert not left.keys() & {
            "Connection",
            "Session",
            "WebSocketResponse",
            "Request",
            "RequestHandler",
        }, left

    def test_what_the_start_has_made_is_not_looked_at_again(self) -> None:
        tune_gc()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == (700, 10, FULL_COLLECTION)
