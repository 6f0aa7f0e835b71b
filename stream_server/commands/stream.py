"""Send a video, a folder, a webcam or standard input to a running server; answers come as JSON lines."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from rich.console import Console

from stream_server.commands.console import Report, agree
from stream_server.commands.streaming import Pace, converse
from stream_server.errors import ConfigError
from stream_server.protocol.server_side import MAX_AGE_MS, MAX_WINDOW

SOURCES = """\
SOURCE is one of
  a folder          its pictures (.jpg .jpeg .png .webp), or its .txt or .json files for a text or data model
  a file            a video, a picture, a text
  webcam, webcam:1  a camera of this machine
  sample            the portrait that comes with the package
  -                 standard input: JPEGs one after the other (MJPEG), lines of text, or lines of JSON
"""

EPILOG = f"""\
{SOURCES}
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

Number = TypeVar("Number", int, float)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    configure_sending(parser)
    add = parser.add_argument
    add("--draw", type=Path, metavar="DIR", help="write pictures with the faces found in them")
    add("--output", type=Path, metavar="FILE", help="write the answers there instead of standard output")
    parser.epilog = EPILOG


def configure_sending(parser: argparse.ArgumentParser) -> None:
    """Add what says what is sent, where, and how."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model's name; `stream-server models` lists them")
    add("source", metavar="SOURCE", help="what to send, see below")
    add("--url", default="http://127.0.0.1:8080", help="the server (default %(default)s)")
    add("--policy", choices=["latest", "queue"], help="default: latest for a webcam, else queue")
    add(
        "--window",
        type=from_one_to(MAX_WINDOW),
        metavar="N",
        help=f"most unanswered items, 1 to {MAX_WINDOW} (default: the server's)",
    )
    add("--max-age-ms", type=from_one_to(MAX_AGE_MS), metavar="N", help="drop items that waited longer")
    add(
        "--weight",
        type=above_zero(float),
        metavar="W",
        help="share of the workers relative to other streams (default 1)",
    )
    add("--fps", type=above_zero(float), metavar="F", help="send so many items a second")
    add("--limit", type=above_zero(int), metavar="N", help="stop after so many items")
    add("--quiet", action="store_true", help="no progress and no summary")


def above_zero(convert: Callable[[str], Number]) -> Callable[[str], Number]:
    """Make a type for an argument that must be above zero, and finite."""

    def number(text: str) -> Number:
        value = convert(text)
        if not 0 < value < float("inf"):
            raise ValueError
        return value

    number.__name__ = "number above 0"  # argparse says "invalid number above 0 value"
    return number


def from_one_to(most: int) -> Callable[[str], int]:
    """Make a type for an argument that is a whole number from 1 to `most`."""

    def number(text: str) -> int:
        value = int(text)
        if not 1 <= value <= most:
            raise ValueError
        return value

    number.__name__ = f"number from 1 to {most:,}"  # argparse says "invalid number from 1 to 64 value"
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
            return asyncio.run(stream_source(args, report))
    except BrokenPipeError:
        # whoever read the answers has seen enough; Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        raise ConfigError(f"cannot write the answers: {exc}") from exc


async def stream_source(
    args: argparse.Namespace, report: Report, room: Callable[[], bool] = lambda: True
) -> int:
    """Stream what the arguments of `configure_sending` name; the exit status.

    Args:
        room: whether one more item may be sent.
    """
    # imported here, since the command line that holds this command also starts the server, which needs neither
    from stream_server.client.stream import connect  # noqa: PLC0415
    from stream_server.commands.sources import is_live, open_source  # noqa: PLC0415

    live = is_live(args.source)
    policy = args.policy or ("latest" if live else "queue")
    options = {
        "policy": policy,
        "window": args.window,
        "max_age_ms": args.max_age_ms,
        "weight": args.weight,
    }
    pace = Pace(
        due=(lambda count: count / args.fps) if args.fps else None,
        waits=not (policy == "latest" and (live or args.fps is not None)),
        more=lambda count: (args.limit is None or count < args.limit) and room(),
    )
    async with connect(args.url, args.model, **options) as stream:
        ready = stream.ready
        source = await asyncio.to_thread(open_source, args.source, ready.input, ready.max_item_bytes)
        total = min(filter(None, (source.total, args.limit)), default=None)
        try:
            with report.progress(args.model, total):
                await converse(stream, source.items, pace, report)
        finally:
            report.summarise(stream)
    return 0 if report.unsent == 0 and agree(stream) else 1
