"""What the commands that stream show: answers as JSON lines, a progress bar, a summary. It sends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import IO, Any, Protocol

from msgspec import structs
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from stream_server.client.stream import Stream
from stream_server.commands.annotate import draw, looks_like_faces
from stream_server.commands.source_items import SourceItem, Unreadable
from stream_server.protocol.client_side import Answer, Dropped, Error, Ready, Result

MOST_TIMES = 100_000
"""How many answers' times the percentiles are made of, the last ones: an hour of a camera, 3 MB."""


SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair: JSON may hold one, and UTF-8 may not (RFC 8259 section 8.2)."""


class StreamObserver(Protocol):
    """Is told of every item of a stream, by its number from 1."""

    def begins(self, ready: Ready) -> None:
        """The stream is open."""

    def sending(self, number: int, item: SourceItem) -> None:
        """An item is about to be sent."""

    def answered(self, number: int, answer: Answer) -> None:
        """An item has its answer; the error `too_large` if it could not be sent."""


class Report:
    """Writes the answers, and keeps the numbers for the progress bar and the summary.

    Args:
        output: where answers go as JSON lines, if anywhere.
        folder: where pictures with faces drawn on them go, if anywhere.
        console: where everything for people goes.
        observer: told of every item and its answer.
    """

    def __init__(
        self,
        output: IO[str] | None,
        folder: Path | None,
        console: Console,
        observer: StreamObserver | None = None,
    ) -> None:
        self._output = output
        self._folder = folder
        self._console = console
        self._observer = observer
        self._number = 0
        self._pending: deque[tuple[int, SourceItem, float]] = deque()
        self._ages: deque[float] = deque(maxlen=MOST_TIMES)
        self._trips: deque[float] = deque(maxlen=MOST_TIMES)
        self._reasons: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._drawn = 0
        self._began = 0.0
        self._bar: Callable[[], None] = lambda: None
        self._unsent = 0
        self._first_unsent = ""

    def begin(self, ready: Ready) -> None:
        """Start the clock of an open stream."""
        self._began = time.perf_counter()
        if self._observer:
            self._observer.begins(ready)

    def sending(self, item: SourceItem) -> None:
        """Remember an item that is about to be sent: answers come in the same order."""
        self._number += 1
        if self._observer:
            self._observer.sending(self._number, item)
        self._pending.append((self._number, item, time.perf_counter()))

    def too_large(self, why: str) -> None:
        """Take back the last item, which is too large to send."""
        number, item, _ = self._pending.pop()
        answer = Error("too_large", why, retryable=False)
        if self._observer:
            self._observer.answered(number, answer)
        self.unreadable(Unreadable(item.name, answer.code, why))

    def unreadable(self, item: Unreadable) -> None:
        """Write down what cannot be sent."""
        self._unsent += item.count
        self._first_unsent = self._first_unsent or f"{item.name}: {item.message}"
        self._write(
            {"seq": None, "item": item.name, "type": "error", "code": item.code, "message": item.message}
        )

    async def show(self, stream: Stream) -> None:
        """Write every answer until the stream ends."""
        async for answer in stream:
            number, item, sent = self._pending.popleft()
            trip_ms = (time.perf_counter() - sent) * 1e3
            self._trips.append(trip_ms)
            self._count(answer)
            if self._observer:
                self._observer.answered(number, answer)
            self._write(_line(answer, item.name, trip_ms))
            if self._folder and isinstance(answer, Result) and isinstance(item.payload, bytes):
                await asyncio.to_thread(self._draw, self._folder, answer, item)
            self._bar()

    def _count(self, answer: Answer) -> None:
        match answer:
            case Result():
                self._ages.append(answer.age_ms)
            case Dropped():
                self._reasons[answer.reason] += 1
            case Error():
                self._codes[answer.code] += 1

    def _write(self, line: dict[str, Any]) -> None:
        if self._output:
            text = json.dumps(line, ensure_ascii=False)
            if not text.isascii() and SURROGATE.search(text):  # it stands in no file, but may be escaped
                text = json.dumps(line)
            self._output.write(text + "\n")
            self._output.flush()

    def _draw(self, folder: Path, answer: Result, item: SourceItem) -> None:
        if looks_like_faces(answer.outputs):
            stem = Path(item.name).stem
            name = f"{answer.seq:06}.jpg" if stem.isdecimal() else f"{answer.seq:06}-{stem}.jpg"
            (folder / name).write_bytes(draw(item.payload, answer.outputs))
            self._drawn += 1

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[None]:
        """Show a bar with the rate, the drops and the age of the last answer."""
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
        progress = Progress(
            *columns,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
            # on the same terminal answers go above the bar; elsewhere rich must not touch them
            redirect_stdout=sys.stdout.isatty(),
        )
        with progress:
            task = progress.add_task(title, total=total, now="")

            def advance() -> None:
                speed = progress.tasks[0].speed or 0
                age = f", age {self._ages[-1]:.0f} ms" if self._ages else ""
                dropped = sum(self._reasons.values())
                progress.update(task, advance=1, now=f"{speed:.1f}/s, {dropped} dropped{age}")

            self._bar = advance
            yield

    def is_well(self, stream: Stream) -> bool:
        """Whether everything was read and sent, nothing failed and the counts agree. A drop is no failure."""
        return not self._unsent and not stream.statistics.errors and agree(stream)

    def summarise(self, stream: Stream) -> None:
        """Print what was counted, here and by the server."""
        counts = stream.statistics
        seconds = time.perf_counter() - self._began
        rate = (counts.sent - counts.unanswered) / seconds
        table = Table(
            show_header=False, title=f"{stream.ready.model}@{stream.ready.version}", title_justify="left"
        )
        table.add_row("sent", f"{counts.sent} in {seconds:.1f} s, {rate:.1f} answered a second")
        table.add_row("results", str(counts.results))
        table.add_row("dropped", _with_kinds(counts.dropped, self._reasons))
        errors = _with_kinds(counts.errors, self._codes)
        table.add_row("errors", errors, style="red" if counts.errors else None)
        for name, times in (("age", self._ages), ("round trip", self._trips)):
            if times:
                table.add_row(
                    name, f"p50 {percentile(times, 0.5):.1f} ms, p99 {percentile(times, 0.99):.1f} ms"
                )
        self._console.print(table)
        if self._unsent:
            first = escape(self._first_unsent)
            self._console.print(f"{self._unsent:,} items were not sent; the first, {first}", style="red")
        if self._folder and not self._drawn:
            self._console.print("nothing drawn: no answer holds faces")
        if agree(stream):
            style = "green" if self.is_well(stream) else None
            self._console.print("every item has its one answer, and the server's counts agree", style=style)
        else:
            theirs = structs.asdict(stream.ended) if stream.ended else "none, the stream did not end"
            self._console.print(
                f"not every item is accounted for; here {asdict(counts)}, server {theirs}", style="red"
            )


def agree(stream: Stream) -> bool:
    """Whether every item has its one answer, by the client's count and by the server's."""
    ours, theirs = stream.statistics, stream.ended
    return theirs is not None and (ours.sent, ours.results, ours.dropped, ours.errors, ours.unanswered) == (
        theirs.received,
        theirs.results,
        theirs.dropped,
        theirs.errors,
        0,
    )


def _line(answer: Answer, name: str, trip_ms: float) -> dict[str, Any]:
    line = {"seq": answer.seq, "item": name, "type": type(answer).__name__.lower()}
    fields = structs.asdict(answer)
    for known in ("seq", "id", "model", "version", "retry_after_ms"):
        fields.pop(known, None)
    return line | fields | {"round_trip_ms": round(trip_ms, 3)}


def _with_kinds(total: int, kinds: Counter[str]) -> str:
    if not kinds:
        return str(total)
    return f"{total} ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common())})"


def percentile(values: deque[float], share: float) -> float:
    """Choose the nearest-rank percentile of at least one value, share from 0 to 1."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]
