"""Send a video, a folder, a webcam or standard input to a running server; answers come as JSON lines."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path
from typing import IO

from rich.console import Console

from stream_server.commands.console import Report
from stream_server.commands.flags import SOURCES, configure_sending
from stream_server.commands.streaming import stream_source
from stream_server.errors import ConfigError

EPILOG = f"""\
{SOURCES}
examples:
  stream-server stream faces sample
  stream-server stream faces holiday.mp4 --draw boxes > answers.jsonl
  stream-server stream faces holiday.mp4 --fps 30 --policy latest
  stream-server stream faces@2023mar photos/                  # that version alone
  stream-server stream faces webcam --url http://server:8080 --quiet | jq .outputs
  stream-server stream spam - < mails.txt

Files go as fast as they are answered and nothing is dropped; a webcam, or a latest stream with --fps, keeps its
own time, and the server drops what it cannot do. Ctrl-C ends the stream and waits for its outstanding answers; a
second one does not wait.

What cannot be read, such as a damaged frame, costs itself alone: it gets a line among the answers, and the rest is
sent. Exit status 0 means that everything was read and sent, that every item has a result or was dropped, and that
the counts agree; 1 that something failed.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    configure_sending(parser)
    add = parser.add_argument
    add("--draw", type=Path, metavar="DIR", help="write pictures with the faces found in them")
    add("--output", type=Path, metavar="FILE", help="write the answers there instead of standard output")
    parser.epilog = EPILOG


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
            return asyncio.run(stream_source(args, report))
    except BrokenPipeError:  # whoever read the answers has exited: the command line ends quietly
        raise
    except OSError as exc:
        raise ConfigError(f"cannot write the answers: {exc}") from exc
