"""Measure this server, or others beside it, under load."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.failures import missing
from benchmarks.scenarios.catalogue import DEFAULT, SUITES, Entry, Options
from stream_server.errors import ConfigError

EPILOG = """\
examples:
  stream-server bench camera                                  # 24 cameras at 15 fps, on a server of its own
  stream-server bench camera --streams 8 --fresh-ms 100
  stream-server bench search --workers 8 --html cameras.html  # how many cameras does this machine sustain?
  stream-server bench search --model mine=my_model:Model --fps 5 --sustained-rate 2
  stream-server bench text --url http://server:8080           # a server that runs, here or elsewhere
  stream-server bench all --output results.json --html results.html

Without --url a server is started on this machine and ended again; the load then takes its part of the same cores.
Latencies and ages come from open loops: items are sent on a schedule made beforehand, and the clock of each
starts when it was due, so that a server that stalls cannot keep the load from showing it. Capacity, and CPU per
item beside other servers, come from closed loops, which send the next item when one is answered, and say nothing
of latency. The generator runs in processes of its own and measures its own lag; a run whose schedule it did not
keep is marked void.

Exit status 0 means that everything was measured; 1 that something is void or failed, or, with --check, that a
target was missed.
"""

NUMBERS: Mapping[str, type] = {"workers": int, "streams": int}
"""Options that are whole numbers; the others are any."""

FLAGS: Mapping[str, tuple[str, str]] = {
    "url": ("URL", "a server that runs; default: one is started"),
    "workers": ("N", f"workers of the server that is started (default {DEFAULT.workers})"),
    "model": (
        "M",
        "a model as `serve` takes it, or its name on the server that runs (default: the scenario's)",
    ),
    "streams": (
        "N",
        "number of cameras or clients; for `search` the most that are tried (default: the scenario's)",
    ),
    "fps": ("F", f"frames a second of each camera (default {DEFAULT.fps:g})"),
    "seconds": ("S", "length of each run in seconds (default: what its percentiles need)"),
    "fresh_ms": ("MS", f"an answer older than this is stale (default {DEFAULT.fresh_ms:g})"),
    "sustained_rate": (
        "R",
        f"fresh answers a second that every camera must get (default {DEFAULT.sustained_rate:g})",
    ),
}
"""Each option's metavar and help text."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add a command for each scenario, with the flags that it takes."""
    parser.epilog = EPILOG
    scenarios = parser.add_subparsers(metavar="SCENARIO", dest="scenario", required=True)
    for name, entry in SUITES.items():
        _add(scenarios, name, entry)
    _add(scenarios, "all", EVERYTHING)


EVERYTHING = Entry("", "all of them but engine, one after the other")


def _add(scenarios: Any, name: str, entry: Entry) -> None:
    description = f"{entry.about[0].upper()}{entry.about[1:]}."
    parser = scenarios.add_parser(name, help=entry.about, description=description)
    for option in entry.takes:
        metavar, text = FLAGS[option]
        parser.add_argument(
            f"--{option.replace('_', '-')}",
            metavar=metavar,
            type=str if option in ("url", "model") else NUMBERS.get(option, float),
            help=text,
        )
    if not entry.apart:
        parser.add_argument("--quick", action="store_true", help="a fifth of the time, and rougher")
    else:
        parser.set_defaults(quick=False)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the results as JSON, and beside it what logs there are",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write them as a page with plots, too")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed, too")


def run(args: argparse.Namespace) -> int:
    """Measure; see the module's epilog for the exit status."""
    given = {
        field.name: value
        for field in fields(Options)
        if (value := getattr(args, field.name, None)) is not None
    }
    options = Options(**given)
    takes = SUITES[args.scenario].takes if args.scenario in SUITES else ()
    if "sustained_rate" in takes and options.sustained_rate >= options.fps:
        raise ConfigError(
            f"--sustained-rate {options.sustained_rate:g}: of {options.fps:g} frames a second no camera gets as "
            "many fresh answers; use less than --fps"
        )
    for file in filter(None, (args.output, args.html)):
        _can_write(file)
    try:
        suites = _suites(args.scenario, options, args.output)
        report = import_module("benchmarks.report.terminal")
        if args.html:
            import_module("benchmarks.report.page")  # fail early if plotting is not installed
    except ModuleNotFoundError as exc:
        raise ConfigError(missing(exc)) from exc
    told = _told(args, takes, given, options)
    return int(
        report.run(suites, quick=args.quick, output=args.output, html=args.html, check=args.check, told=told)
    )


def _told(
    args: argparse.Namespace, takes: Sequence[str], given: Mapping[str, object], options: Options
) -> dict[str, str]:
    """Write the command line, so that it can be repeated, without the address of a server that was given."""
    shown = {name: "URL" if name == "url" else str(value) for name, value in given.items()}
    flags = [part for name, value in shown.items() for part in (f"--{name.replace('_', '-')}", value)]
    command = ["stream-server bench", args.scenario, *flags, *(["--quick"] if args.quick else [])]
    effective = [
        f"{name} {shown.get(name, value)}" for name in takes if (value := getattr(options, name)) is not None
    ]
    return {"command": " ".join(command), **({"options": ", ".join(effective)} if effective else {})}


def _suites(scenario: str, options: Options, output: Path | None) -> dict[str, Any]:
    """Import what is asked for."""
    if scenario == "all":
        chosen = {name: entry for name, entry in SUITES.items() if not entry.apart}
    else:
        chosen = {scenario: SUITES[scenario]}
    return {name: _suite(entry, options, output) for name, entry in chosen.items()}


def _suite(entry: Entry, options: Options, output: Path | None) -> Any:
    """Import one, and tell it what it takes; its logs go beside the results."""
    told: dict[str, Any] = {"options": options} if entry.takes else {}
    if entry.logs and output:
        told["logs"] = output.with_name(f"{output.stem}-logs")
    return partial(entry.load(), **told)


def _can_write(file: Path) -> None:
    """Find out before the run whether its results can be kept, and make their folder.

    Raises:
        ConfigError: they cannot.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError as exc:
        raise ConfigError(f"cannot write the results: {exc}") from exc
