"""What workers print: cut into lines and held to a rate without I/O, and read from real pipes to their end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from inference.pool.worker_log import BURST, LINES_PER_S, LONGEST, READ_SIZE, Lines, Output
from tests.conftest import WAIT

PID = 4711


def fed(lines: Lines, data: bytes, now: float = 0.0) -> list[str]:
    return list(lines.feed(data, now))


class TestLines:
    def test_a_line_comes_when_it_has_ended(self) -> None:
        lines = Lines(0.0)
        assert fed(lines, b"one\ntw") == ["one"]
        assert fed(lines, b"o") == []
        assert fed(lines, b"\n\nthree\n") == ["two", "", "three"]
        assert list(lines.end()) == []

    def test_at_the_end_comes_what_has_no_end(self) -> None:
        lines = Lines(0.0)
        assert fed(lines, b"Segmentation fa") == []
        assert list(lines.end()) == ["Segmentation fa"]

    def test_nothing_is_no_line(self) -> None:
        lines = Lines(0.0)
        assert fed(lines, b"") == []
        assert list(lines.end()) == []

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_how_the_bytes_are_cut_makes_no_difference(self, size: int) -> None:
        text = "Grüße\nfrom\n\n日本\n".encode()
        lines = Lines(0.0)
        said = [line for at in range(0, len(text), size) for line in fed(lines, text[at : at + size])]
        assert said == ["Grüße", "from", "", "日本"]

    def test_a_flood_ends_at_the_burst(self) -> None:
        lines = Lines(0.0)
        assert fed(lines, b"x\n" * (BURST + 50)) == ["x"] * BURST
        assert fed(lines, b"x\n" * 50) == []

    def test_what_was_left_out_is_counted_before_the_next_line(self) -> None:
        lines = Lines(0.0)
        fed(lines, b"x\n" * (BURST + 1200))
        assert fed(lines, b"y\n", 1 / LINES_PER_S) == ["(1,200 lines left out)", "y"]
        assert fed(lines, b"z\n", 2 / LINES_PER_S) == ["z"], "and told once"

    def test_what_was_left_out_is_told_at_the_end_too(self) -> None:
        lines = Lines(0.0)
        fed(lines, b"x\n" * (BURST + 3) + b"last words")
        assert list(lines.end()) == ["(3 lines left out)", "last words"]

    def test_a_flood_of_line_ends_takes_up_no_more_than_itself(self) -> None:
        lines, flood = Lines(0.0), b"\n" * (4 << 20)
        fed(lines, b"x\n" * BURST)
        tracemalloc.start()
        try:
            assert fed(lines, flood) == []
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 3 * len(flood), "an object for each line has eight times as much"
        assert list(lines.end()) == [f"({len(flood):,} lines left out)"]

    def test_what_follows_a_flood_is_put_together(self) -> None:
        lines = Lines(0.0)
        assert fed(lines, b"x\n" * (BURST + 7) + b"last") == ["x"] * BURST
        assert fed(lines, b" words\n", 1.0) == ["(7 lines left out)", "last words"]

    def test_a_steady_rate_gets_through(self) -> None:
        lines = Lines(0.0)
        fed(lines, b"x\n" * BURST)
        said = [fed(lines, b"x\n", n / 16) for n in range(1, 101)]
        assert LINES_PER_S >= 16
        assert said == [["x"]] * 100

    def test_a_flood_that_lasts_is_held_to_the_rate(self) -> None:
        lines = Lines(0.0)
        said = [line for tenth in range(1, 601) for line in fed(lines, b"x\n" * 100, tenth / 10)]
        assert said.count("x") == pytest.approx(BURST + 60 * LINES_PER_S, abs=2)
        notes = len(said) - said.count("x")
        assert notes <= 600, "one for each gap at most"

    def test_silence_saves_up_a_burst_and_no_more(self) -> None:
        lines = Lines(0.0)
        fed(lines, b"x\n" * BURST)
        assert len(fed(lines, b"x\n" * (2 * BURST), 1e6)) == BURST

    def test_a_long_line_is_cut(self) -> None:
        assert fed(Lines(0.0), b"x" * (LONGEST + 500) + b"\nshort\n") == ["x" * LONGEST, "short"]

    def test_a_line_of_just_that_length_is_whole(self) -> None:
        assert fed(Lines(0.0), b"x" * LONGEST + b"\n") == ["x" * LONGEST]

    def test_a_line_without_end_does_not_pile_up(self) -> None:
        lines = Lines(0.0)
        said: list[str] = []
        for _ in range(1000):
            said += fed(lines, b"x" * READ_SIZE)
            assert len(lines._rest) <= LONGEST
        assert said == ["x" * LONGEST] * BURST
        assert list(lines.end()) == [f"({1000 - BURST} lines left out)"]

    @pytest.mark.parametrize(
        ("raw", "readable"),
        [
            (b"\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
            (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            (b"over\rwritten", "over\\rwritten"),
            (b"a\tb", "a\\tb"),
            (b"\x9b31m", "\\x9b31m"),
            ("\u009b31m".encode(), "\\x9b31m"),  # the same as one character
            ("\u202egnp.exe".encode(), "\\u202egnp.exe"),  # turns the direction of writing
            (b"nul\0", "nul\\x00"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("Grüße, 日本 🙂".encode(), "Grüße, 日本 🙂"),
        ],
    )
    def test_nothing_in_a_line_acts_on_a_terminal(self, raw: bytes, readable: str) -> None:
        assert fed(Lines(0.0), raw + b"\n") == [readable]

    def test_a_character_that_the_cut_halves_is_told_as_bytes(self) -> None:
        (line,) = fed(Lines(0.0), b"x" * (LONGEST - 1) + "ü".encode() + b"\n")
        assert line == "x" * (LONGEST - 1) + "\\xc3"


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    me = psutil.Process()
    fds = me.num_fds()
    yield
    assert me.num_fds() <= fds, "fewer may be: an earlier test's garbage may go meanwhile"


class Logged(logging.Handler):
    """What is logged of what a worker prints."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.changed = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        assert record.levelno == logging.WARNING
        self.lines.append(record.getMessage().removeprefix(f"{PID}: "))
        self.changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def logged() -> Any:
    handler = Logged()
    logger = logging.getLogger("inference.worker.main")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
async def pipe() -> tuple[Output, int]:
    """The reading end as the server has it, and the writing end, which the test closes."""
    readable, writable = os.pipe()
    return Output(readable, PID, asyncio.get_running_loop()), writable


Pipe = tuple[Output, int]


class TestOutput:
    async def test_what_is_printed_is_logged_with_the_workers_number(
        self, pipe: Pipe, logged: Logged, caplog: pytest.LogCaptureFixture
    ) -> None:
        output, writable = pipe
        os.write(writable, b"loading the weights\n")
        await logged.until(lambda: logged.lines)
        assert caplog.messages == [f"{PID}: loading the weights"]
        os.close(writable)
        output.close()

    async def test_a_percent_sign_is_no_format(self, pipe: Pipe, logged: Logged) -> None:
        output, writable = pipe
        os.write(writable, b"100% of %s and %d\n")
        os.close(writable)
        output.close()
        assert logged.lines == ["100% of %s and %d"]

    async def test_closing_logs_what_the_pipe_still_holds(self, pipe: Pipe, logged: Logged) -> None:
        output, writable = pipe
        os.write(writable, b"Fatal Python error\nand half a li")
        os.close(writable)
        output.close()  # before the loop has come to read any of it
        assert logged.lines == ["Fatal Python error", "and half a li"]

    async def test_a_full_pipe_is_read_to_its_end_by_closing(self, pipe: Pipe, logged: Logged) -> None:
        output, writable = pipe
        os.set_blocking(writable, False)
        written = os.write(writable, b"x" * 63 + b"\n" + b"y" * (1 << 20))
        os.close(writable)
        output.close()
        assert written <= READ_SIZE, "a pipe holds no more than one read takes"
        assert logged.lines == ["x" * 63, "y" * LONGEST]

    async def test_the_end_is_noticed_before_the_closing(self, pipe: Pipe, logged: Logged) -> None:
        output, writable = pipe
        os.write(writable, b"bye")
        os.close(writable)
        await logged.until(lambda: logged.lines)
        assert logged.lines == ["bye"]
        output.close()
        assert logged.lines == ["bye"], "once"

    async def test_at_the_end_the_loop_is_left_in_peace(self, pipe: Pipe, logged: Logged) -> None:
        output, writable = pipe
        reads: list[int | None] = []
        read = output._read

        def counted() -> int | None:
            reads.append(read())
            return reads[-1]

        output._read = counted  # type: ignore[method-assign]
        os.write(writable, b"bye")
        os.close(writable)
        await logged.until(lambda: logged.lines)
        for _ in range(20):
            await asyncio.sleep(0)
        assert reads == [3, 0]
        output.close()

    async def test_a_pipe_whose_writer_stays_open_can_be_closed(self, pipe: Pipe, logged: Logged) -> None:
        """A process that the worker has started may outlive it and hold the other end."""
        output, writable = pipe
        os.write(writable, b"from the worker\nfrom its ")
        output.close()
        assert logged.lines == ["from the worker", "from its "]
        with pytest.raises(BrokenPipeError):
            os.write(writable, b"child\n")
        os.close(writable)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(logged.lines) == 2

    async def test_an_empty_pipe_whose_writer_stays_open_can_be_closed(
        self, pipe: Pipe, logged: Logged
    ) -> None:
        output, writable = pipe
        output.close()
        os.close(writable)
        assert logged.lines == []

    async def test_a_pipe_that_cannot_be_watched_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "no more watches")

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "add_reader", full)
        readable, writable = os.pipe()
        with pytest.raises(OSError, match="no more watches"):
            Output(readable, PID, loop)
        os.close(writable)

    async def test_a_writer_never_waits_for_the_log(self, pipe: Pipe, logged: Logged) -> None:
        output, writable = pipe
        line = b"x" * 99 + b"\n"
        async with asyncio.timeout(30):
            for _ in range(50):
                await asyncio.to_thread(os.write, writable, line * 2000)  # three pipes full
        os.close(writable)
        await logged.until(lambda: sum(map(lines_in, logged.lines)) == 100_000)
        output.close()
        told = [text for text in logged.lines if "left out" not in text]
        assert set(told) == {"x" * 99}
        assert len(told) < 10_000


def lines_in(message: str) -> int:
    """How many lines of a worker a line of the log stands for."""
    left_out = re.fullmatch(r"\(([\d,]+) lines left out\)", message)
    return int(left_out[1].replace(",", "")) if left_out else 1
