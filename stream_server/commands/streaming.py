"""How the commands stream: items go out, on a schedule or as they are answered, while answers come in."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from stream_server.client.iteration import each
from stream_server.client.stream import Stream, connect
from stream_server.commands.console import Report
from stream_server.commands.source_items import SourceItem, Unreadable
from stream_server.commands.sources import is_live, open_source
from stream_server.errors import ConnectionLost, TooLarge


@dataclass(frozen=True, slots=True)
class Pace:
    """When items go out.

    Attributes:
        due: seconds from the first item to the item of a number, from 0; None for no schedule.
        waits: for room, so that no item is sent only to be dropped, or to wait.
        more: whether to go on after so many items.
    """

    due: Callable[[int], float] | None
    waits: bool
    more: Callable[[int], bool]


async def stream_source(
    args: argparse.Namespace, report: Report, room: Callable[[], bool] = lambda: True
) -> int:
    """Stream what the arguments of `configure_sending` name; the exit status.

    Args:
        room: whether one more item may be sent.
    """
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
    model, version = args.model
    async with connect(args.url, model, version=version, **options) as stream:
        ready = stream.ready
        source = await asyncio.to_thread(open_source, args.source, ready.input, ready.max_item_bytes)
        total = min(filter(None, (source.total, args.limit)), default=None)
        try:
            with report.progress(model, total):
                await converse(stream, source.items, pace, report)
        finally:
            report.summarise(stream)
    return 0 if report.is_well(stream) else 1


async def converse(
    stream: Stream, items: Iterator[SourceItem | Unreadable], pace: Pace, report: Report
) -> None:
    """Send items and show their answers; end the stream when there are no more, or after Ctrl-C.

    Raises:
        ConnectionLost: the server ended the stream before.
    """
    report.begin(stream.ready)
    feeding = asyncio.create_task(_feed(stream, items, pace, report))
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


async def _feed(stream: Stream, items: Iterator[SourceItem | Unreadable], pace: Pace, report: Report) -> None:
    """Send every item: when there is room, or on an absolute schedule that no late item shifts."""
    now = asyncio.get_running_loop().time
    began = now()
    async with aclosing(each(items)) as source:
        count = 0
        while pace.more(count):
            if pace.waits:
                await stream.room()
            if pace.due:
                await asyncio.sleep(began + pace.due(count) - now())
            item = await anext(source, None)
            if item is None:
                return
            count += 1
            if isinstance(item, Unreadable):
                report.unreadable(item)
                continue
            report.sending(item)
            try:
                await stream.send(item.payload)
            except TooLarge as exc:
                report.too_large(str(exc))
