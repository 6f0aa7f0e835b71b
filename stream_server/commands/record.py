"""Stream to a running server as `stream` does, and keep every item, its time and its answer in one file."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from rich.console import Console

from stream_server.commands.console import Report
from stream_server.commands.flags import SOURCES, configure_sending
from stream_server.commands.source_items import SourceItem
from stream_server.commands.streaming import stream_source
from stream_server.errors import ConfigError
from stream_server.protocol.client_side import Answer, Ready
from stream_server.recording.writer import MAX_ITEMS, About, Writer

EPILOG = f"""\
{SOURCES}
examples:
  stream-server record faces webcam --fps 15 --output morning.zip     # Ctrl-C ends it
  stream-server record faces photos/ --output photos.zip
  stream-server record faces@2023mar photos/ --output photos.zip      # that version alone
  stream-server record spam - --output mails.zip < mails.txt
  stream-server replay photos.zip                                     # are the answers still the same?
  unzip -l photos.zip

The file is a plain zip: the items as they were sent, and recording.json with their times and answers. It holds
everything that the camera saw, so protect it accordingly. Ctrl-C ends the recording and keeps what there is. At
most {MAX_ITEMS:,} items and 1.75 GiB are recorded. Exit status as for `stream`.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    configure_sending(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", required=True, help="the recording to write")
    parser.epilog = EPILOG


def run(args: argparse.Namespace) -> int:
    """Record until the source ends, Ctrl-C, or the recording is full."""
    console = Console(stderr=True, quiet=args.quiet)
    try:
        with Writer(args.output) as writer:
            report = Report(None, None, console, Recorder(writer))
            status = asyncio.run(stream_source(args, report, room=lambda: not writer.full))
    except OSError as exc:
        raise ConfigError(f"cannot write {args.output}: {exc.strerror or exc}") from exc
    if writer.full:
        console.print("the recording is full; what came after was not sent", style="yellow")
    console.print(f"{writer.count} items are in {args.output}" if writer.count else "nothing to record")
    return status


class Recorder:
    """Keeps a stream in a recording, with the times at which items went out."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._first: float | None = None

    def begins(self, ready: Ready) -> None:
        """Note what is recorded."""
        self._writer.describe(About.stream(ready))

    def sending(self, number: int, item: SourceItem) -> None:
        """Keep an item."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        self._writer.add(item.name, (now - self._first) * 1e3, item.payload)

    def answered(self, number: int, answer: Answer) -> None:
        """Keep its answer."""
        self._writer.answer(number, answer)
