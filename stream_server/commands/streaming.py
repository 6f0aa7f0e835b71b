"""How the commands stream: items go out, on a schedule or as they are answered, while answers come in."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stream_server.client.iteration import each
from stream_server.errors import ConnectionLost, TooLarge

if TYPE_CHECKING:
    from stream_server.client.stream import Stream
    from stream_server.commands.console import Report
    from stream_server.commands.sources import Named


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


async def converse(stream: Stream, items: Iterator[Named], pace: Pace, report: Report) -> None:
    """Send items and show their answers; end politely when there are no more, or after Ctrl-C.

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


async def _feed(stream: Stream, items: Iterator[Named], pace: Pace, report: Report) -> None:
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
            report.sending(item)
            try:
                await stream.send(item.payload)
            except TooLarge as exc:
                report.not_sent(str(exc))
