"""Send a recording's items again at their recorded times, and compare every answer with the recorded one."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stream_server.client.stream import connect
from stream_server.commands.console import Report, agree
from stream_server.commands.flags import above_zero, add_url, model_id
from stream_server.commands.source_items import SourceItem
from stream_server.commands.streaming import Pace, converse
from stream_server.errors import ConfigError
from stream_server.protocol.client_side import Answer, Ready
from stream_server.recording.compare import difference
from stream_server.recording.reader import Recording, open_recording
from stream_server.recording.writer import kept

EPILOG = """\
examples:
  stream-server record faces photos/ --output photos.zip     # with a model that you trust
  stream-server replay photos.zip --fast                     # with the one that you have changed
  stream-server replay photos.zip --fast --tolerance 0.01
  stream-server replay photos.zip --fast --model faces@2    # with one version of it
  stream-server replay morning.zip --speed 4                 # the same camera, four times as fast

It is a regression test of models and servers, without a line of code: a recording is made once, and every later
version must answer as it did. With --fast nothing is dropped, so the comparison is complete; at the recorded times
the server may drop other items than it dropped then, and those are counted apart. Exit status 0 means that every
answer is as recorded; 1 that one is not, that there was none to compare, or that not every item was sent or
answered.
"""

MOST_SHOWN = 20
"""Differing items that are listed: a model that has changed differs in all of them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="what `stream-server record` has written")
    add(
        "--model",
        type=model_id,
        metavar="MODEL",
        help="NAME or NAME@VERSION of what answers now (default: the recorded NAME, in its current version)",
    )
    add_url(parser)
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--speed",
        type=above_zero(float),
        metavar="S",
        default=1.0,
        help="S times as fast (default %(default)s)",
    )
    pace.add_argument("--fast", action="store_true", help="as fast as they are answered")
    add("--policy", choices=["latest", "queue"], help="default: as recorded; queue with --fast")
    add(
        "--tolerance",
        type=above_zero(float),
        metavar="T",
        default=0.0,
        help="by how much numbers that are not whole may differ (default: not at all)",
    )
    add("--output", type=Path, metavar="FILE", help="write the answers there, as JSON lines")
    add("--quiet", action="store_true", help="no progress and no summary; the exit status tells")
    parser.epilog = EPILOG


def run(args: argparse.Namespace) -> int:
    """Replay a recording; see the module's epilog for the exit status."""
    console = Console(stderr=True, quiet=args.quiet)
    with contextlib.ExitStack() as stack:
        recording = stack.enter_context(open_recording(args.file))
        output: IO[str] | None = None
        if args.output:
            try:
                output = stack.enter_context(args.output.open("w", encoding="utf-8"))
            except OSError as exc:
                raise ConfigError(f"cannot write the answers: {exc}") from exc
        comparison = Comparison(recording, args.tolerance)
        agrees = asyncio.run(_replay(args, recording, Report(output, None, console, comparison)))
    comparison.show(console)
    return 0 if agrees and comparison.same else 1


async def _replay(args: argparse.Namespace, recording: Recording, report: Report) -> bool:
    """Send every item; whether the server's count of them is ours."""
    about, items = recording.about, recording.items
    policy = args.policy or ("queue" if args.fast else about.policy)
    window = about.window if policy == about.policy else None
    pace = Pace(
        due=None if args.fast else lambda count: items[count].at_ms / 1e3 / args.speed,
        waits=args.fast or policy == "queue",
        more=lambda count: count < len(items),
    )
    model, version = args.model or (about.model, None)
    async with connect(args.url, model, version=version, policy=policy, window=window) as stream:
        if stream.ready.input != about.input:
            raise ConfigError(f"{model} takes {stream.ready.input}, and the recording holds {about.input}")
        named = (SourceItem(item.name, recording.payload(item)) for item in items)
        try:
            with report.progress(model, len(items)):
                await converse(stream, named, pace, report)
        finally:
            report.summarise(stream)
    return agree(stream)


class Comparison:
    """Compares the answers of now with the recorded ones, as they come.

    Attributes:
        compared: how many items have an answer, other than a drop, in both runs.
        differing: of these, number, name and difference of each that is not as recorded.
        dropped: how many were dropped then, and now.
        unrecorded: how many have no answer in the recording.
    """

    def __init__(self, recording: Recording, tolerance: float) -> None:
        self._recording = recording
        self._tolerance = tolerance
        self._answered = 0
        self._version = recording.about.version
        self.compared = 0
        self.differing: list[tuple[int, str, str]] = []
        self.dropped = [0, 0]
        self.unrecorded = 0

    @property
    def same(self) -> bool:
        """Whether every item was answered, something could be compared, and nothing differs."""
        return bool(self.compared and not self.differing and self._answered == len(self._recording.items))

    def begins(self, ready: Ready) -> None:
        """Note which version answers."""
        self._version = ready.version

    def sending(self, number: int, item: SourceItem) -> None:
        """Wait for its answer."""

    def answered(self, number: int, answer: Answer) -> None:
        """Compare an answer."""
        self._answered += 1
        item, now = self._recording.items[number - 1], kept(answer)
        if item.answer is None:
            self.unrecorded += 1
            return
        drops = [one["type"] == "dropped" for one in (item.answer, now)]
        if any(drops):
            self.dropped = [count + drop for count, drop in zip(self.dropped, drops, strict=True)]
            return
        self.compared += 1
        if found := difference(item.answer, now, self._tolerance):
            self.differing.append((number, item.name, found))

    def show(self, console: Console) -> None:
        """Print what differs, and how much does not."""
        about = self._recording.about
        if self._version != about.version:
            console.print(
                f"recorded with version {_plain(about.version)}, answered by {_plain(self._version)}"
            )
        if self.differing:
            table = Table("item", "name", "difference", title="not as recorded", title_justify="left")
            for number, name, found in self.differing[:MOST_SHOWN]:
                table.add_row(str(number), _plain(name), _plain(found))
            console.print(table)
            if (more := len(self.differing) - MOST_SHOWN) > 0:
                console.print(f"and {more:,} more")
        then, now = self.dropped
        if then or now:
            console.print(f"{then:,} items were dropped when they were recorded, {now:,} now; not compared")
        if self.unrecorded:
            console.print(f"{self.unrecorded:,} items have no answer in the recording; not compared")
        if left := len(self._recording.items) - self._answered:
            console.print(f"{left:,} items have no answer now", style="red")
        if not self.compared:
            console.print("no item has an answer in both runs, so nothing was compared", style="red")
            return
        same = self.compared - len(self.differing)
        style = "green" if self.same else "red"
        console.print(f"{same:,} of {self.compared:,} answers are as recorded", style=style)


def _plain(text: str) -> str:
    """Escape text of a file, so that a terminal shows it as it is."""
    return escape(text if text.isprintable() else ascii(text))
