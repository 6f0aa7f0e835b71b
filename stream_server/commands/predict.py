"""Answer files without a server or a network, in the same engine and workers; one JSON line per file."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from inference.engine import Engine
from inference.items import Failed, Outcome, Result
from inference.model import ModelError, ModelSource
from inference.naming import SHIPPED
from stream_server.commands.flags import assign
from stream_server.server.config import named_model
from stream_server.server.config_file import read_settings

EPILOG = """\
examples:
  stream-server predict faces photos/*.jpg
  stream-server predict spam mail.txt
  stream-server predict faces --set long_side=1280 group.jpg
  stream-server predict mypackage.mymodule:MyModel picture.png

Exit status 0 means that every file has a result. Where a file of a data model holds JSON, it is its item.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"{', '.join(SHIPPED)}, or [name=]package.module:Class")
    add("files", metavar="FILE", type=Path, nargs="+", help="what to answer")
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
    (source,) = settings.models
    workers = min(settings.workers, len(args.files))
    return asyncio.run(_predict(source, workers, args.files))


async def _predict(source: ModelSource, workers: int, files: list[Path]) -> int:
    failures = 0
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    async with Engine([source], workers) as engine:
        (status,) = engine.models()
        if status.state != "ready":
            raise ModelError(f"model {status.name} is {status.state}: {status.reason}")
        with Progress(*columns, console=console, transient=True, disable=len(files) < 2) as progress:
            task = progress.add_task(f"{source.name}", total=len(files))
            async for file, outcome in answer(engine, source.name, files):
                line = {"file": str(file), **_plain(outcome)}
                failures += "error" in line
                print(json.dumps(line), file=sys.stdout, flush=True)
                progress.advance(task)
    if failures:
        console.print(f"{failures} of {len(files)} files have no result", style="red")
    return 1 if failures else 0


async def answer(
    engine: Engine, model: str, files: Iterable[Path]
) -> AsyncIterator[tuple[Path, Outcome | OSError]]:
    """Answer files in their order, as many at a time as keep the workers busy.

    Raises:
        ModelError: the model is not ready.
    """
    # two per worker: while one is answered the next waits, and no more is in memory
    ahead = 2 * engine.workers().slots
    tasks: list[tuple[Path, asyncio.Task[Outcome | OSError]]] = []
    try:
        for file in files:
            tasks.append((file, asyncio.create_task(_answer_one(engine, model, file))))
            if len(tasks) >= ahead:
                yield tasks[0][0], await tasks[0][1]
                del tasks[0]
        while tasks:
            yield tasks[0][0], await tasks[0][1]
            del tasks[0]
    finally:
        for _, task in tasks:
            task.cancel()


async def _answer_one(engine: Engine, model: str, file: Path) -> Outcome | OSError:
    try:
        payload = file.read_bytes()  # noqa: ASYNC240  # this loop has nothing else to do
    except OSError as exc:
        return exc
    return await engine.infer(model, payload)


def _plain(outcome: Outcome | OSError) -> dict[str, Any]:
    match outcome:
        case Result():
            return {"outputs": json.loads(outcome.outputs), "infer_ms": round(outcome.infer_ms, 3)}
        case Failed():
            return {"error": outcome.code, "message": outcome.message}
        case OSError():
            return {"error": "unreadable", "message": outcome.strerror}
        case _:
            raise ModelError("the engine stopped before every file was answered")
