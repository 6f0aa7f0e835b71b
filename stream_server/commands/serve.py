"""Run the server: models in worker processes, streams over websockets, a demo page at /."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from inference.model import NAME
from inference.naming import SHIPPED
from stream_server.commands.flags import assign
from stream_server.errors import ConfigError
from stream_server.server.addresses import UNIX
from stream_server.server.config import Settings
from stream_server.server.config_file import read_settings
from stream_server.server.log_writer import FLUSH_S, logging_to, write
from stream_server.server.server import Server, serve

log = logging.getLogger(__name__)

EPILOG = """\
examples:
  stream-server serve
  stream-server serve --host 0.0.0.0 --port 80 --workers 8
  stream-server serve --model faces --model mypackage.mymodule:MyModel
  stream-server serve --group rare=spam,echo:1       # they share one worker, faces has the others
  stream-server serve --set models.faces.options.long_side=320 --set limits.max_streams=50

A settings file has the tables [server], [limits], [timeouts], [models.NAME] and [groups.NAME]; flags win over it.
SIGTERM or Ctrl-C answers what was accepted and stops; a second one stops at once. SIGHUP replaces the workers one
after the other: it reloads models from disk without interrupting any stream.
"""


FLAGS = ("host", "port", "workers", "models", "allow_origin", "allow_host", "trusted_proxies", "sandbox")
"""Flags that are keys of [server]."""

STDOUT, STDERR = 1, 2
"""Written by their numbers: see `stream_server.server.log_writer`."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add(
        "--host",
        help="address to listen on (default 127.0.0.1; '*' for every interface, IPv4 and IPv6; unix:PATH for a "
        "unix socket)",
    )
    add("--port", type=int, help="port to listen on (default 8080; 0 takes a free one)")
    add("--workers", type=int, metavar="N", help="worker processes (default: one per core)")
    add(
        "--group",
        action="append",
        default=[],
        metavar="NAME=MODELS[:N]",
        help="let these models, with commas between them, share N workers of their own (default 1) and leave "
        "--workers to the others; may be repeated",
    )
    add(
        "--model",
        action="append",
        metavar="M",
        dest="models",
        help="what to serve: a shipped model or [name=]package.module:Class; may be repeated "
        f"(default: {' '.join(SHIPPED)})",
    )
    add("--config", type=Path, metavar="FILE", help="settings in TOML")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of the settings file, e.g. models.faces.options.long_side=320; may be repeated",
    )
    add("--allow-origin", action="append", metavar="URL", help="let pages of this origin use the server")
    add("--allow-host", action="append", metavar="NAME", help="answer to this host name too")
    add(
        "--trusted-proxy",
        action="append",
        metavar="NET",
        dest="trusted_proxies",
        help="believe the X-Forwarded-... and Forwarded headers of proxies at this address or network, or unix: "
        "for those that connect to a unix socket; may be repeated",
    )
    add(
        "--sandbox",
        choices=("auto", "require", "off"),
        help="take from workers, once they have loaded, files, network and processes: what this machine can "
        "(auto, the default), or refuse to start where that is not everything (require)",
    )
    add("--self-check", action="store_true", help="stream a sample portrait through it once it is ready")
    add("-v", "--verbose", action="store_true", help="log a line per stream")
    parser.epilog = EPILOG


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    settings = read_settings(document(args))
    announcing: list[threading.Thread] = []

    def on_ready(server: Server) -> None:
        text = announcement(server, settings, time.monotonic() - args.started)
        url = server.url if args.self_check else None
        thread = threading.Thread(target=announce, args=(text, url), daemon=True)
        try:
            thread.start()
        except (
            RuntimeError
        ) as exc:  # the workers have taken the last processes; the server serves all the same
            log.warning("standard output is not written: %s", exc)
        else:
            announcing.append(thread)

    level = logging.INFO if args.verbose else logging.WARNING
    with (
        logging_to(STDERR, level) as handler,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        runner.run(serve(settings, on_ready, handler.dropped))
    for thread in announcing:
        thread.join(FLUSH_S)
    return 0


def announce(text: str, check_url: str | None) -> None:
    """Print what runs, then start the self-check if it has a URL; in a thread, as standard output may block."""
    with suppress(OSError):  # it is closed, or its disk is full: the server serves all the same
        write(STDOUT, text)
    if check_url:
        check(check_url)


def check(url: str) -> None:
    """Run the self-check in a process of its own: the server's has no client in it, and must not wait for one."""
    if url.startswith(UNIX):
        log.warning("the self-check is skipped: it needs a TCP address")
        return
    # -P and PYTHONPATH: a folder `inference` where the server was started must not be taken for ours
    root = str(Path(__file__).parents[2])
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "stream_server.commands.self_check", url]
    subprocess.Popen(command, env={**os.environ, "PYTHONPATH": search})  # noqa: S603  # our own module


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make uvloop's loop, which takes a sixth less CPU per frame; asyncio's own if uvloop is not installed."""
    try:
        from uvloop import new_event_loop as make  # noqa: PLC0415  # there is none for Windows
    except ImportError:
        return asyncio.new_event_loop()
    return make()


def announcement(server: Server, settings: Settings, seconds: float) -> str:
    """Say what runs and where."""
    groups = settings.all_groups
    workers, spares = sum(group.workers for group in groups), settings.spares * len(groups)
    processes = ", ".join(
        f"{count} {word}{'s' * (count > 1)}"
        for count, word in ((workers, "worker"), (spares, "spare"))
        if count
    )
    statuses = server.models()
    lacking = [status.name for status in statuses if status.state != "ready"]
    state = "partly ready" if len(lacking) < len(statuses) else "not ready"
    lines = [
        f"stream-server is {state if lacking else 'ready'} at {server.url} after {seconds:.1f} s, {processes}"
        + (f"; unavailable: {', '.join(lacking)}" if lacking else "")
    ]
    for status in statuses:
        version = f"@{status.card.version}" if status.card else ""
        reason = f": {status.reason}; it is tried again" if status.reason else ""
        lines.append(f"  {status.name}{version}: {status.state}{reason}")
    return "".join(f"{line}\n" for line in lines)


def document(args: argparse.Namespace) -> dict[str, Any]:
    """Put the settings file and the flags together.

    Raises:
        ConfigError: the file cannot be read, or a flag is invalid.
    """
    values: dict[str, Any] = {}
    if args.config:
        try:
            values = tomllib.loads(args.config.read_text("utf-8"))
        except OSError as exc:
            raise ConfigError(f"cannot read {args.config}: {exc.strerror}") from exc
        except (ValueError, RecursionError) as exc:  # TOMLDecodeError, UnicodeDecodeError, a number too long
            raise ConfigError(f"cannot read {args.config}: {exc}") from exc
    for assignment in args.set:
        assign(values, assignment)
    groups = values.setdefault("groups", {})
    if not isinstance(groups, dict):
        raise ConfigError("groups must be a table: [groups.NAME]")
    groups |= read_groups(args.group)
    server = values.setdefault("server", {})
    if not isinstance(server, dict):
        raise ConfigError("server must be a table: [server]")
    for key in FLAGS:
        if getattr(args, key) is not None:
            server[key] = getattr(args, key)
    return values


def read_groups(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read what ``--group`` was given, as the settings file has it.

    Raises:
        ConfigError: one is not of its form, or is given twice.
    """
    groups: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, models, workers = read_group(text)
        if name in groups:
            raise ConfigError(f"--group {name} is given twice; name all of its models in one")
        groups[name] = {"models": models, "workers": workers}
    return groups


def read_group(text: str) -> tuple[str, list[str], int]:
    """Read ``NAME=MODEL,MODEL[:N]``: a group's name, its models' names and how many workers it has.

    Raises:
        ConfigError: it is not of that form.
    """
    name, _, rest = text.partition("=")
    models, colon, workers = rest.partition(":")
    names = models.split(",")
    if not all(map(NAME.fullmatch, [name, *names])) or not (workers.isdecimal() or not colon):
        raise ConfigError(f"--group {text}: write it as NAME=MODEL,MODEL:N, e.g. rare=spam,echo:1")
    return name, names, int(workers) if colon else 1
