"""Answer files, videos or standard input without a server, in the same engine and workers; a JSON line per item."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from inference.engine import Engine
from inference.items import Failed, Outcome, Result
from inference.model import InputKind, ModelError, ModelSource
from inference.naming import SHIPPED
from stream_server.client.iteration import each
from stream_server.commands.flags import SOURCES, assign
from stream_server.commands.source_items import Unreadable
from stream_server.commands.sources import open_source
from stream_server.errors import ConfigError
from stream_server.server.config import Limits, named_model
from stream_server.server.config_file import read_settings
from stream_server.server.session import max_message_bytes

EPILOG = f"""\
{SOURCES}
examples:
  stream-server predict faces photos/*.jpg
  stream-server predict faces holiday.mp4
  stream-server predict spam mail.txt
  stream-server predict spam - < mails.txt
  stream-server predict faces --set long_side=1280 group.jpg
  stream-server predict mypackage.mymodule:MyModel picture.png

What cannot be read, such as a damaged frame, costs itself alone. Exit status 0 means that every item has a result.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"{', '.join(SHIPPED)}, or [name=]package.module:Class")
    add("sources", metavar="SOURCE", nargs="+", help="what to answer, see below")
    add("--workers", type=int, metavar="N", help="worker processes (default: one per core)")
    add("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of the model")
    parser.epilog = EPILOG


def run(args: argparse.Namespace) -> int:
    """Answer every file, in order."""
    server: dict[str, Any] = {"models": [args.model]}
    if args.workers is not None:
        server["workers"] = args.workers
    options: dict[str, Any] = {}
    for assignment in args.set:
        assign(options, assignment)
    models = {named_model(args.model).name: {"options": options}}
    settings = read_settings({"server": server, "models": models})
    (model,) = settings.models
    few = all(Path(source).is_file() for source in args.sources)
    workers = min(settings.workers, len(args.sources)) if few else settings.workers
    return asyncio.run(_predict(model, workers, args.sources, settings.limits))


async def _predict(model: ModelSource, workers: int, sources: list[str], limits: Limits) -> int:
    failures = count = 0
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    async with Engine([model], workers) as engine:
        (status,) = engine.models()
        if status.state != "ready" or status.card is None:
            raise ModelError(f"model {status.name} is {status.state}: {status.reason}")
        items = read(sources, status.card.input, max_message_bytes(status.card, limits))
        with Progress(*columns, console=console, transient=True, disable=len(sources) < 2) as progress:
            task = progress.add_task(model.name, total=None)
            async for name, outcome in answer(engine, model.name, items):
                line = name | _plain(outcome)
                number = outcome.count if isinstance(outcome, Unreadable) else 1
                count += number
                failures += number if "error" in line else 0
                print(json.dumps(line), file=sys.stdout, flush=True)
                progress.advance(task)
    if failures:
        console.print(f"{failures:,} of {count:,} items have no result", style="red")
    return 1 if failures else 0


Name: TypeAlias = dict[str, str]
"""What a line calls its item: the file, and the item's name if its source has several."""


def read(sources: list[str], kind: InputKind, max_bytes: int) -> Iterator[tuple[Name, bytes | Unreadable]]:
    """Read sources one after the other, as `stream` does; one that cannot be opened costs itself alone."""
    for source in sources:
        try:
            for item in open_source(source, kind, max_bytes).items:
                payload = item if isinstance(item, Unreadable) else _encode(item.payload, kind)
                yield _name(source, item.name), payload
        except ConfigError as exc:
            yield {"file": source}, Unreadable(source, "unreadable", str(exc))


def _name(source: str, item: str) -> Name:
    path = Path(source)
    if path.is_dir():
        return {"file": str(path / item)}
    return {"file": source} if item == path.name else {"file": source, "item": item}


def _encode(payload: Any, kind: InputKind) -> bytes:
    if kind == "text":
        return str(payload).encode()
    return json.dumps(payload).encode() if kind == "data" else bytes(payload)


async def answer(
    engine: Engine, model: str, items: Iterable[tuple[Name, bytes | Unreadable]]
) -> AsyncIterator[tuple[Name, Outcome | Unreadable]]:
    """Answer items in their order, as many at a time as keep the workers busy.

    Raises:
        ModelError: the model is not ready.
    """
    # two per worker: while one is answered the next waits, and no more is in memory
    ahead = 2 * engine.workers().slots
    tasks: list[tuple[Name, asyncio.Task[Outcome | Unreadable]]] = []
    try:
        async with aclosing(each(items)) as source:
            async for name, item in source:
                tasks.append((name, asyncio.create_task(_answer_one(engine, model, item))))
                if len(tasks) >= ahead:
                    yield tasks[0][0], await tasks[0][1]
                    del tasks[0]
        while tasks:
            yield tasks[0][0], await tasks[0][1]
            del tasks[0]
    finally:
        for _, task in tasks:
            task.cancel()


async def _answer_one(engine: Engine, model: str, payload: bytes | Unreadable) -> Outcome | Unreadable:
    return payload if isinstance(payload, Unreadable) else await engine.infer(model, payload)


def _plain(outcome: Outcome | Unreadable) -> dict[str, Any]:
    match outcome:
        case Result():
            return {"outputs": json.loads(outcome.outputs), "infer_ms": round(outcome.infer_ms, 3)}
        case Failed():
            return {"error": outcome.code, "message": outcome.message}
        case Unreadable():
            return {"error": outcome.code, "message": outcome.message}
        case _:
            raise ModelError("the engine stopped before every file was answered")
