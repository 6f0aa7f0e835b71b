"""Send a video, a folder, a webcam or standard input to a running server; answers come as JSON lines."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from stream_server.answers import Answer, Dropped, Error, Result
from stream_server.errors import ConfigError, ConnectionLost, TooLarge
from stream_server.feeding import each

if TYPE_CHECKING:
    from stream_server.client import Stream
    from stream_server.sources import Named

EPILOG = """\
SOURCE is one of
  a folder          its pictures (.jpg .jpeg .png .webp), or its .txt or .json files for a text or data model
  a file            a video, a picture, a text
  webcam, webcam:1  a camera of this machine
  sample            the portrait that comes with the package
  -                 standard input: JPEGs one after the other (MJPEG), lines of text, or lines of JSON

examples:
  stream-server stream faces sample
  stream-server stream faces holiday.mp4 --draw boxes > answers.jsonl
  stream-server stream faces holiday.mp4 --fps 30 --policy latest
  stream-server stream faces webcam --url http://server:8080 --quiet | jq .outputs
  stream-server stream spam - < mails.txt

Files go as fast as they are answered and nothing is dropped; a webcam, or a latest stream with --fps, keeps its
own time, and the server drops what it cannot do. Ctrl-C ends the stream and waits for the answers it is owed; a
second one does not. Exit status 0 means that every item has its one answer and that the server counts the same.
"""

MOST_TIMES = 100_000
"""How many answers' times the percentiles are made of, the last ones: an hour of a camera, 3 MB."""

Number = TypeVar("Number", int, float)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model's name; `stream-server models` lists them")
    add("source", metavar="SOURCE", help="what to send, see below")
    add("--url", default="http://127.0.0.1:8080", help="the server (default %(default)s)")
    add("--policy", choices=["latest", "queue"], help="default: latest for a webcam, else queue")
    add("--window", type=int, metavar="N", help="most unanswered items, 1 to 64 (default: the server's)")
    add("--max-age-ms", type=int, metavar="N", help="drop items that waited longer")
    add(
        "--weight",
        type=_above_zero(float),
        metavar="W",
        help="share of the workers relative to other streams (default 1)",
    )
    add("--fps", type=_above_zero(float), metavar="F", help="send so many items a second")
    add("--limit", type=_above_zero(int), metavar="N", help="stop after so many items")
    add("--draw", type=Path, metavar="DIR", help="write pictures with the faces found in them")
    add("--output", type=Path, metavar="FILE", help="write the answers there instead of standard output")
    add("--quiet", action="store_true", help="no progress and no summary")
    parser.epilog = EPILOG


def _above_zero(convert: Callable[[str], Number]) -> Callable[[str], Number]:
    def number(text: str) -> Number:
        value = convert(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    number.__name__ = "number above 0"  # argparse says "invalid number above 0 value"
    return number


def run(args: argparse.Namespace) -> int:
    """Stream until the source ends; see the module's epilog for the exit status."""
    try:
        with contextlib.ExitStack() as stack:
            output: IO[str] = sys.stdout
            if args.output:
                output = stack.enter_context(args.output.open("w", encoding="utf-8"))
            if args.draw:
                args.draw.mkdir(parents=True, exist_ok=True)
            report = Report(output, args.draw, Console(stderr=True, quiet=args.quiet))
            return asyncio.run(_stream(args, report))
    except BrokenPipeError:
        # whoever read the answers has seen enough; Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        raise ConfigError(f"cannot write the answers: {exc}") from exc


async def _stream(args: argparse.Namespace, report: Report) -> int:
    # imported here, since the command line that holds this command also starts the server, which needs neither
    from stream_server.client import connect  # noqa: PLC0415
    from stream_server.sources import is_live, open_source  # noqa: PLC0415

    live = is_live(args.source)
    policy = args.policy or ("latest" if live else "queue")
    options = {
        "policy": policy,
        "window": args.window,
        "max_age_ms": args.max_age_ms,
        "weight": args.weight,
    }
    async with connect(args.url, args.model, **options) as stream:
        ready = stream.ready
        source = await asyncio.to_thread(open_source, args.source, ready.input, ready.max_item_bytes)
        keeps_time = policy == "latest" and (live or args.fps is not None)
        feeding = asyncio.create_task(_feed(stream, source.items, args, report, keeps_time=keeps_time))
        total = min(filter(None, (source.total, args.limit)), default=None)
        try:
            with report.progress(args.model, total):
                await _converse(stream, feeding, report)
        finally:
            report.summarise(stream)
    return 0 if report.unsent == 0 and _agree(stream) else 1


async def _converse(stream: Stream, feeding: asyncio.Task[None], report: Report) -> None:
    """Show answers while items go out; end politely when there are no more, or after Ctrl-C."""
    showing = asyncio.create_task(report.show(stream))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, feeding.cancel)
    try:
        await asyncio.wait({feeding, showing}, return_when=asyncio.FIRST_COMPLETED)
        loop.remove_signal_handler(signal.SIGINT)
        if showing.done():
            await showing
            raise ConnectionLost("the server ended the stream before everything was sent; is it stopping?")
        await stream.end()
        await showing
        if not feeding.cancelled():
            await feeding
    finally:
        feeding.cancel()
        showing.cancel()
        await asyncio.gather(feeding, showing, return_exceptions=True)


async def _feed(
    stream: Stream, items: Iterator[Named], args: argparse.Namespace, report: Report, *, keeps_time: bool
) -> None:
    """Send every item: when there is room, or on an absolute schedule that no late item shifts."""
    now = asyncio.get_running_loop().time
    began = now()
    async with aclosing(each(items)) as source:
        count = 0
        while args.limit is None or count < args.limit:
            if not keeps_time:
                await stream.room()
            if args.fps:
                await asyncio.sleep(began + count / args.fps - now())
            item = await anext(source, None)
            if item is None:
                return
            count += 1
            report.sending(item)
            try:
                await stream.send(item.payload)
            except TooLarge as exc:
                report.not_sent(str(exc))


class Report:
    """Writes the answers, and keeps the numbers for the progress bar and the summary.

    Args:
        output: where answers go as JSON lines.
        folder: where pictures with faces drawn on them go, if anywhere.
        console: where everything for people goes.
    """

    def __init__(self, output: IO[str], folder: Path | None, console: Console) -> None:
        self._output = output
        self._folder = folder
        self._console = console
        self._pending: deque[tuple[Named, float]] = deque()
        self._ages: deque[float] = deque(maxlen=MOST_TIMES)
        self._trips: deque[float] = deque(maxlen=MOST_TIMES)
        self._reasons: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._drawn = 0
        self._began = time.perf_counter()
        self._bar: Callable[[], None] = lambda: None
        self.unsent = 0

    def sending(self, item: Named) -> None:
        """Remember an item that is about to be sent: answers come in the same order."""
        self._pending.append((item, time.perf_counter()))

    def not_sent(self, why: str) -> None:
        """Write that the last item was not sent after all."""
        item, _ = self._pending.pop()
        self.unsent += 1
        self._write({"seq": None, "item": item.name, "type": "error", "code": "too_large", "message": why})

    async def show(self, stream: Stream) -> None:
        """Write every answer until the stream ends."""
        async for answer in stream:
            item, sent = self._pending.popleft()
            trip_ms = (time.perf_counter() - sent) * 1e3
            self._trips.append(trip_ms)
            self._count(answer)
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
        self._output.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._output.flush()

    def _draw(self, folder: Path, answer: Result, item: Named) -> None:
        from stream_server.drawing import draw, looks_like_faces  # noqa: PLC0415  # OpenCV, as above

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
            # on the same terminal answers go above the bar; anywhere else they are no business of rich's
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
        table.add_row("errors", _with_kinds(counts.errors, self._codes))
        for name, times in (("age", self._ages), ("round trip", self._trips)):
            if times:
                table.add_row(
                    name, f"p50 {percentile(times, 0.5):.1f} ms, p99 {percentile(times, 0.99):.1f} ms"
                )
        self._console.print(table)
        if self.unsent:
            self._console.print(f"{self.unsent} items were too large to send", style="red")
        if self._folder and not self._drawn:
            self._console.print("nothing drawn: no answer holds faces")
        if _agree(stream):
            self._console.print("every item has its one answer, and the server's counts agree", style="green")
        else:
            theirs = asdict(stream.ended) if stream.ended else "none, the stream did not end"
            self._console.print(
                f"not every item is accounted for; here {asdict(counts)}, server {theirs}", style="red"
            )


def _agree(stream: Stream) -> bool:
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
    fields = asdict(answer)
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
