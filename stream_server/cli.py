"""The command line: reads the arguments, runs a command, and turns errors into one line and an exit status.

Only the command that runs is imported: the server's process has no client, drawing or benchmark in it.
"""

from __future__ import annotations

import argparse
import errno
import sys
import time
from collections.abc import Sequence
from importlib import import_module, metadata

from inference.model import ModelError
from stream_server.commands.init_process import split_if_first
from stream_server.commands.standard_streams import complain, discard, open_missing
from stream_server.errors import ConfigError, StreamServerError

COMMANDS = {
    "serve": "run the server",
    "models": "show what a running server serves",
    "predict": "answer files without a server",
    "stream": "send a video, folder, webcam or standard input to a running server",
    "record": "stream, and keep the items and answers in a file",
    "replay": "send a recording again, and compare the answers",
    "bench": "measure this server, or others, under load",
}


UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Why standard output cannot be written, besides that its reader has exited; these are not defects of a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 when all went well, 1 when something failed or nobody reads the output, 2 for a wrong flag or setting, 130
        after Ctrl-C.
    """
    started = time.monotonic()
    open_missing()
    split_if_first()
    try:
        try:
            return run(sys.argv[1:] if argv is None else argv, started)
        finally:
            sys.stdout.flush()  # Python does it at exit, and cannot be caught there
    except BrokenPipeError:
        discard(sys.stdout)
        return 1
    except OSError as exc:
        if exc.errno not in UNWRITABLE:
            raise
        discard(sys.stdout)
        complain(f"stream-server: cannot write: {exc.strerror}")
        return 1


def run(argv: Sequence[str], started: float) -> int:
    """Run one command, and say what it raises in one line; see `main`.

    Args:
        started: when the program started, on the monotonic clock.
    """
    # none of the flags before a command takes a value
    command = next((word for word in argv if not word.startswith("-")), None)
    args = make_parser(command).parse_args(argv, argparse.Namespace(started=started))
    try:
        return int(args.run(args))
    except ConfigError as exc:
        complain(f"stream-server: {exc}")
        return 2
    except (StreamServerError, ModelError) as exc:
        complain(f"stream-server: {exc}")
        return 1
    except KeyboardInterrupt:
        return 130


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Make the parser; only `command` is imported and has its own arguments, the others just have their line."""
    parser = argparse.ArgumentParser(
        prog="stream-server",
        description="Websocket streaming inference: camera frames and text in, answers out.",
        epilog="`stream-server COMMAND --help` has details and examples. Begin with `stream-server serve`.",
    )
    version = metadata.version("stream-inference-server")
    parser.add_argument("--version", action="version", version=f"stream-server {version}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        added = commands.add_parser(name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == command:
            module = import_module(f"stream_server.commands.{name}")
            added.description = module.__doc__
            module.configure(added)
            added.set_defaults(run=module.run)
    return parser
