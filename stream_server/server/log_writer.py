"""Writes the log without ever holding up the event loop: a bounded queue, a thread, a rate for each logger.

A pipe that nobody reads blocks whoever writes to it. Here that is a thread; what it cannot write in time is dropped
and counted. It writes to the file descriptor itself: a thread that is blocked inside ``sys.stderr``, or with a
handler's lock held, would hold up the interpreter's exit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import time
from collections import Counter
from collections.abc import Iterator
from logging import LogRecord
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from threading import Thread

from aiohttp.http_exceptions import HttpProcessingError

from inference.pool import worker_log
from inference.token_bucket import TokenBucket
from stream_server.errors import ConfigError

log = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

BURST, RECORDS_PER_S = 100, 10.0
"""Records of one logger that are logged at once, and steadily: clients cause most of them, and a flood of bad
requests must not fill a disk. At 200 bytes each, 10 a second are 170 MB a day."""

REPORT_S = 1.0
"""Seconds between lines that say how many records were dropped."""

MAX_CHARS = 8000
"""Longest record in characters: a deep traceback fits. Longer ones are cut in the middle."""

MAX_WAITING = 1000
"""Records that wait to be written, 8 MB at most: above what all loggers log in a second."""

FLUSH_S = 1.0
"""Seconds that the end of the server waits for the log to be written."""


class LogHandler(QueueHandler):
    """Queues records for `LogWriter`, as many as the rate and the queue permit, and counts the others.

    Attributes:
        dropped: records that are not in the log, by reason: ``rate`` if their logger logs too much, ``full`` if
            the log is not read, ``failed`` if they could not be written.
    """

    def __init__(self) -> None:
        self.waiting: SimpleQueue[LogRecord] = SimpleQueue()
        super().__init__(self.waiting)
        self.setFormatter(logging.Formatter(FORMAT))
        # with every key from the start: the writer's thread counts too, and must not change the size
        self.dropped: Counter[str] = Counter(rate=0, full=0, failed=0)
        self._buckets: dict[str, TokenBucket] = {}
        self._reported, self._next_report = 0, 0.0

    def emit(self, record: LogRecord) -> None:
        """Queue a record, after a line that says how many were dropped before it."""
        now = time.monotonic()
        if not self._within_rate(record.name, now):
            self.dropped["rate"] += 1
        elif self.waiting.qsize() >= MAX_WAITING:
            self.dropped["full"] += 1
        else:
            if now >= self._next_report:
                self.report()
            super().emit(_without_clients_traceback(record))

    def report(self) -> None:
        """Log how many records were dropped since the last report, if any."""
        dropped = self.dropped.total()
        if dropped > self._reported:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.dropped.items())
            text = f"{dropped - self._reported:,} records left out; since the start: {reasons}"
            self._reported = dropped
            self._next_report = time.monotonic() + REPORT_S
            super().emit(LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None))

    def format(self, record: LogRecord) -> str:
        """Give the record's text, of bounded length."""
        text = super().format(record)
        if len(text) <= MAX_CHARS:
            return text
        half = MAX_CHARS // 2
        return f"{text[:half]}\n({len(text) - 2 * half:,} characters left out)\n{text[-half:]}"

    def handleError(self, record: LogRecord) -> None:  # noqa: N802  # logging's name
        """Count a record that cannot be formatted: to print why would block."""
        self.dropped["failed"] += 1

    def _within_rate(self, name: str, now: float) -> bool:
        if name == worker_log.log.name:  # it has a rate of its own for each worker, by lines
            return True
        bucket = self._buckets.get(name)
        if bucket is None:  # loggers are named by modules, never by clients
            bucket = self._buckets[name] = TokenBucket(RECORDS_PER_S, BURST, now)
        if bucket.available(now) < 1:
            return False
        bucket.spend(1, now)
        return True


def _without_clients_traceback(record: LogRecord) -> LogRecord:
    """Log a malformed request in one line: the traceback shows only aiohttp's parser."""
    error = record.exc_info and record.exc_info[1]
    if isinstance(error, HttpProcessingError) and error.code < 500:
        reason = " ".join(str(error).split())
        record.msg, record.args = f"{record.getMessage()}: {reason}", ()
        record.exc_info = record.exc_text = None
    return record


class LogWriter(logging.Handler):
    """Writes records that are formatted already to a file descriptor; called by one thread only.

    Args:
        dropped: where a record that cannot be written is counted, e.g. because its reader has exited.
    """

    def __init__(self, fd: int, dropped: Counter[str]) -> None:
        super().__init__()
        self._fd = fd
        self._dropped = dropped

    def createLock(self) -> None:  # noqa: N802  # logging's name
        """Have no lock: `logging.shutdown` would wait for it while a write is blocked."""
        self.lock = None

    def emit(self, record: LogRecord) -> None:
        """Write a record, for as long as that takes."""
        try:
            write(self._fd, record.getMessage() + "\n")
        except OSError:
            if record.name != __name__:  # reports of drops would cause further reports
                self._dropped["failed"] += 1


def write(fd: int, text: str) -> None:
    """Write all of a text; it may take for ever.

    Raises:
        OSError: it cannot be written.
    """
    rest = memoryview(text.encode("utf-8", "backslashreplace"))
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # whoever shares the file has made it non-blocking
            select.select([], [fd], [])


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    # the exception alone: to keep the object, or to call its repr, may bring it back to life
    log.error("exception ignored: %r", args.exc_value, exc_info=args.exc_value)


@contextlib.contextmanager
def logging_to(fd: int, level: int) -> Iterator[LogHandler]:
    """Log to a file descriptor from a thread; at the end wait up to `FLUSH_S` for it.

    Python's warnings, and exceptions that cannot be raised, are logged too: else they go to standard error.

    Raises:
        ConfigError: no thread can be started.
    """
    handler, root = LogHandler(), logging.getLogger()
    listener = QueueListener(handler.waiting, LogWriter(fd, handler.dropped))
    try:
        listener.start()
    except RuntimeError as exc:
        raise ConfigError(
            f"{exc}: the limit of processes (ulimit -u, pids.max) is reached, or seccomp forbids clone3"
        ) from exc
    before, hook = root.level, sys.unraisablehook
    sys.unraisablehook = _log_unraisable
    root.setLevel(level)
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
    try:
        yield handler
    finally:
        logging.captureWarnings(capture=False)
        sys.unraisablehook = hook
        root.removeHandler(handler)
        root.setLevel(before)
        handler.report()
        # stop() waits for the queue without a limit
        stopping = Thread(target=listener.stop, daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread can be started any more: what waits is lost
            stopping.start()
            stopping.join(FLUSH_S)
