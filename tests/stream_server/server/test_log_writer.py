"""The log: it holds up nothing, it is bounded, and it says what it leaves out."""

from __future__ import annotations

import logging
import os
import re
import select
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from inference.pool import worker_log
from stream_server.errors import ConfigError
from stream_server.server import log_writer
from stream_server.server.log_writer import BURST, MAX_CHARS, MAX_WAITING, LogHandler, logging_to, write
from tests.conftest import WAIT


def record(name: str = "some", text: str = "text", *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "file.py", 1, text, args, None)


def queued(handler: LogHandler) -> list[str]:
    return [handler.waiting.get().getMessage() for _ in range(handler.waiting.qsize())]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with suppress(OSError):
            os.close(fd)


def fill(fd: int) -> None:
    """Leave no room for a byte in a pipe."""
    os.set_blocking(fd, False)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(fd, b"x" * size)
    os.set_blocking(fd, True)


def test_logger_that_floods_is_limited_and_others_are_not() -> None:
    handler = LogHandler()
    for number in range(20 * BURST):
        handler.handle(record("aiohttp.server", "%d", number))
    handler.handle(record("inference.engine", "seen"))
    lines = queued(handler)
    assert handler.dropped["rate"] > 10 * BURST
    assert sum("aiohttp.server" in line for line in lines) + handler.dropped["rate"] == 20 * BURST
    assert lines[-1].endswith("WARNING inference.engine: seen")


def test_what_workers_print_has_a_limit_of_its_own() -> None:
    handler = LogHandler()
    for _ in range(2 * BURST):
        handler.handle(record(worker_log.log.name))
    assert len(queued(handler)) == 2 * BURST


def test_next_record_comes_after_a_line_with_the_number_left_out() -> None:
    handler = LogHandler()
    for _ in range(BURST):
        handler.handle(record("flood"))
    queued(handler)
    handler.dropped["rate"] += 1234
    handler.handle(record("other", "seen"))
    report, seen = queued(handler)
    assert report.endswith("1,234 records left out; since the start: rate 1,234, full 0, failed 0")
    assert seen.endswith("seen")
    handler.report()
    assert queued(handler) == [], "they are reported once"


def test_queue_is_bounded() -> None:
    handler = LogHandler()
    for number in range(MAX_WAITING + 5):
        handler.handle(record(f"logger{number}"))
    assert handler.waiting.qsize() == MAX_WAITING
    assert handler.dropped == {"rate": 0, "full": 5, "failed": 0}


def test_long_record_is_cut() -> None:
    handler = LogHandler()
    handler.handle(record("some", "begin" + "x" * 10 * MAX_CHARS + "end"))
    (line,) = queued(handler)
    assert len(line) < MAX_CHARS + 100
    assert "begin" in line
    assert re.search(r"\n\([\d,]+ characters left out\)\n", line)
    assert line.endswith("end")


def test_record_that_cannot_be_formatted_is_counted(capfd: pytest.CaptureFixture[str]) -> None:
    handler = LogHandler()
    handler.handle(record("some", "%d", "word"))
    assert (queued(handler), handler.dropped["failed"]) == ([], 1)
    assert capfd.readouterr() == ("", "")


def test_malformed_request_is_logged_in_one_line() -> None:
    handler = LogHandler()
    try:
        raise BadHttpMessage("Invalid header:\n\n  b'100 %d'\n    ^")
    except BadHttpMessage as exc:
        error = (type(exc), exc, exc.__traceback__)
    made = logging.LogRecord("aiohttp.server", logging.ERROR, "", 1, "request from %s", ("me",), error)
    handler.handle(made)
    (line,) = queued(handler)
    assert line.endswith("request from me: 400, message: Invalid header: b'100 %d' ^")


def test_defect_keeps_its_traceback() -> None:
    handler = LogHandler()
    try:
        raise ValueError("a defect")
    except ValueError as exc:
        error = (type(exc), exc, exc.__traceback__)
    handler.handle(logging.LogRecord("aiohttp.server", logging.ERROR, "", 1, "request", (), error))
    assert "Traceback" in queued(handler)[0]


class Unclean:
    def __del__(self) -> None:
        raise ValueError("in a finaliser")


def test_records_and_warnings_are_written_at_the_end_at_the_latest(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    root = logging.getLogger()
    before = list(root.handlers), root.level
    hook = sys.unraisablehook
    with logging_to(writer, logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("some").info("first")
        logging.getLogger("some").debug("not this")
        warnings.warn("second", stacklevel=1)
        Unclean()
    assert (list(root.handlers), root.level, sys.unraisablehook) == (*before, hook)
    text = os.read(reader, 65536).decode()
    assert re.search(r"INFO some: first\n(.|\n)*second", text)
    assert "ValueError('in a finaliser')" in text
    assert "not this" not in text


def test_log_that_nobody_reads_holds_up_neither_the_program_nor_its_end(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fill(writer)
    with logging_to(writer, logging.WARNING) as handler:
        for number in range(2 * MAX_WAITING):
            logging.getLogger(f"logger{number}").warning("text")
        assert handler.dropped["full"] > 0
    os.close(reader)  # which ends the thread


def test_log_is_written_on_when_it_is_read_again(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    fill(writer)
    monkeypatch.setattr(log_writer, "FLUSH_S", WAIT)
    chunks: list[bytes] = []

    def read() -> None:
        while select.select([reader], [], [], WAIT)[0] and (chunk := os.read(reader, 65536)):
            chunks.append(chunk)

    reading = threading.Thread(target=read)
    with logging_to(writer, logging.WARNING):
        logging.getLogger("some").warning("after the stall")
        reading.start()
    os.close(writer)
    reading.join()
    assert b"some: after the stall\n" in b"".join(chunks)


def test_log_whose_reader_has_exited_is_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    with logging_to(writer, logging.WARNING) as handler:
        for _ in range(3):
            logging.getLogger("some").warning("text")
    assert handler.dropped["failed"] == 3


def test_all_of_a_text_is_written_to_a_file_that_does_not_block(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)  # as another program that has the same pipe may make it
    writing = threading.Thread(target=write, args=(writer, "\x01" * 200_000))
    writing.start()
    size = 0
    while size < 200_000:
        # an earlier test's log may still be written to the same number of a descriptor
        size += os.read(reader, 65536).count(b"\x01")
    writing.join()
    assert size == 200_000


def test_program_that_may_start_no_thread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(log_writer.QueueListener, "start", start)
    before = list(logging.getLogger().handlers)
    refused = pytest.raises(ConfigError, match=r"can't start new thread: the limit of processes")
    with refused, logging_to(2, logging.WARNING):
        pytest.fail("it went on")
    assert logging.getLogger().handlers == before
