"""Flags that several commands share, their types, and what ``--set`` takes. It runs nothing."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable
from typing import Any, TypeVar

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

Number = TypeVar("Number", int, float)


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add ``--url``."""
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the server (default %(default)s)")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``MODEL``."""
    listed = "`stream-server models` lists them"
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=model_id,
        help=f"NAME, or NAME@VERSION for that version alone; {listed}",
    )


def model_id(text: str) -> tuple[str, str | None]:
    """Read ``NAME`` or ``NAME@VERSION``; without a version the server's current one answers."""
    name, at, version = text.partition("@")
    if not name or (at and not version):
        raise ValueError
    return name, version or None


model_id.__name__ = "NAME or NAME@VERSION"  # argparse says "invalid NAME or NAME@VERSION value"


def configure_sending(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is sent, where, and how."""
    add = parser.add_argument
    add_model(parser)
    add("source", metavar="SOURCE", help="what to send, see below")
    add_url(parser)
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


def assign(values: dict[str, Any], assignment: str) -> None:
    """Put one ``KEY=VALUE`` where its dotted key says; the value is TOML, and a bare word is a string.

    Raises:
        ConfigError: it is not an assignment, or the key is below a value.
    """
    dotted, equals, text = assignment.partition("=")
    *tables, key = dotted.split(".")
    if not equals or not key or not all(tables):
        raise ConfigError(f"--set {assignment}: write it as KEY=VALUE, e.g. limits.max_streams=50")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # TOMLDecodeError, and a number that is too long, are ValueErrors
        value = text
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {assignment}: {table} is not a table")
    values[key] = value
