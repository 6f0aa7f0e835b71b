"""Show which models a running server serves, their versions and states."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from stream_server.client.network_errors import network_failure
from stream_server.client.proxies import http_proxy
from stream_server.commands.flags import add_url
from stream_server.errors import ConnectFailed
from stream_server.protocol.client_side import server_address

EPILOG = """\
examples:
  stream-server models
  stream-server models --url http://server:8080 --json | jq -r '.[].name'

Exit status 0 means that every model is ready.
"""

TIMEOUT_S = 10.0
"""Longest wait: a server that is up answers this within milliseconds."""

MAX_BYTES = 1 << 20
"""Largest answer: a thousand models; a longer one is not a stream server's."""

FIELDS = {"name", "version", "state", "reason", "input", "policy", "window", "description"}
"""What the table needs of every model."""


class _Listing(msgspec.Struct):
    models: list[dict[str, Any]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_url(parser)
    parser.add_argument("--json", action="store_true", help="print the server's JSON, for programs")
    parser.epilog = EPILOG


def run(args: argparse.Namespace) -> int:
    """Print the models; this command's answer is the table, so it goes to standard output."""
    models = fetch(args.url)
    if args.json:
        json.dump(models, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        Console().print(make_table(models))
    return 0 if all(model["state"] == "ready" for model in models) else 1


def fetch(url: str) -> list[dict[str, Any]]:
    """Ask a server for its models.

    Raises:
        ConfigError: `url` is not an address.
        ConnectFailed: no server there, or another kind of server.
    """
    address = server_address(url) + "/v2/models"
    proxy = http_proxy(address)
    proxies = urllib.request.ProxyHandler({urlsplit(address).scheme: proxy} if proxy else {})
    opener = urllib.request.build_opener(proxies)
    try:
        with opener.open(address, timeout=TIMEOUT_S) as response:
            models = msgspec.json.decode(response.read(MAX_BYTES), type=_Listing).models
            if all(model.keys() >= FIELDS for model in models):
                return models
    except urllib.error.HTTPError as exc:
        raise ConnectFailed(f"{address} is not a stream server's: HTTP status {exc.code}") from None
    except OSError as exc:
        reason = getattr(exc, "reason", exc)  # of a URLError; a socket's own error has none
        raise network_failure(reason if isinstance(reason, OSError) else exc, address, proxy) from None
    except (HTTPException, ValueError, RecursionError):
        raise ConnectFailed(f"{address} is not a stream server's: it lists no models") from None
    raise ConnectFailed(f"{address} is not a stream server's: it lists no models")


def make_table(models: list[dict[str, Any]]) -> Table:
    """Make a table of the models, in 80 columns, with the reason of each that is not ready."""
    table = Table("model", "version", "state", "takes", "policy", "window", "description", box=SIMPLE_HEAD)
    for model in models:
        cells = [model[key] for key in ("name", "version", "state", "input", "policy", "window")]
        cells.append(model["reason"] or model["description"])
        style = None if model["state"] == "ready" else "red"
        table.add_row(*("" if cell is None else str(cell) for cell in cells), style=style)
    return table
