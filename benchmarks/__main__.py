"""The engine's figures, each with its target and verdict, measured one after the other in under five minutes."""

from __future__ import annotations

if __name__ == "__main__":
    from benchmarks.failures import check_installed

    check_installed()

import argparse
import sys
from pathlib import Path

from benchmarks.engine.suites import SUITES
from benchmarks.report.terminal import run


def main() -> int:
    """Measure what the command line names; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(SUITES)}; default: all")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON, too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write them as a page, too")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed, too")
    args = parser.parse_args()
    if unknown := set(args.only) - set(SUITES):
        parser.error(f"no benchmark {min(unknown)!r}; there are {', '.join(SUITES)}")
    chosen = {name: SUITES[name] for name in args.only or SUITES}
    told = {"command": " ".join(["python -m benchmarks", *args.only])}
    return run(chosen, output=args.output, html=args.html, check=args.check, told=told)


if __name__ == "__main__":
    sys.exit(main())
