"""Makes a virtual environment for each peer, once, in the checkout.

The frameworks need conflicting versions, and none belongs in the project's own environment. `inference` and
`benchmarks` are linked into each from the checkout; they need what the models need (`catalogue.DETECTOR`).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.failures import CHECKOUT, RunFailed
from benchmarks.peers.catalogue import Peer
from benchmarks.report.results import Say

CACHE = CHECKOUT / ".venv-peers"
LINKED = "benchmarks", "inference"

AT_ONCE = 2
"""Simultaneous installations; more would wait for the same disk and network."""

INSTALL_S = 300.0
"""Time limit of an installation; the largest, Ray's, takes under a minute."""

PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet")
WHEELS = ("--only-binary", ":all:", "--retries", "2", "--timeout", "60")
"""No compiler is needed: a peer without a wheel for this Python is left out, with the reason."""

DONE = "complete"
"""Marker file of a finished environment."""


def fingerprint(requirements: Iterable[str], python: str) -> str:
    """Give the name of an environment: the same for the same text of requirements and version of Python."""
    return hashlib.sha256("\0".join([python, *requirements]).encode()).hexdigest()[:12]


def folder(peer: Peer) -> Path:
    """Tell where a peer's environment belongs."""
    texts = [file.read_text("utf-8") for file in peer.requirements]
    return CACHE / f"{peer.module}-{fingerprint(texts, platform.python_version())}"


def prepare(peers: Sequence[Peer], say: Say) -> dict[Peer, str | RunFailed]:
    """Make the environments that are missing, two at a time.

    Returns:
        For each peer the path of its interpreter, or why it has none.
    """

    def one(peer: Peer) -> str | RunFailed:
        try:
            return str(_made(peer, say))
        except RunFailed as exc:
            say(f"{peer.name} is left out: {exc}")
            return exc

    if not (CHECKOUT / "pyproject.toml").is_file():
        raise RunFailed("environments of peers need a checkout of the project: clone it")
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", "utf-8")
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return dict(zip(peers, threads.map(one, peers), strict=True))


def _made(peer: Peer, say: Say) -> Path:
    """Make a peer's environment unless it is there, and give its interpreter."""
    place = folder(peer)
    python = place / "bin" / "python"
    if (place / DONE).exists():
        return python
    say(f"installing {peer.name}, once")
    begun = time.monotonic()
    for older in CACHE.glob(f"{peer.module}-*"):
        shutil.rmtree(older)
    _run(sys.executable, "-m", "venv", str(place))
    files = [part for file in peer.requirements for part in ("--requirement", str(file))]
    _run(str(python), *PIP, *WHEELS, *files)
    there = Path(sysconfig.get_path("purelib", "venv", {"base": str(place)}))
    for package in LINKED:
        (there / package).symlink_to(os.path.relpath(CHECKOUT / package, there), target_is_directory=True)
    (place / DONE).touch()
    megabytes = sum(file.lstat().st_size for file in place.rglob("*")) / 1e6
    say(f"installed {peer.name} in {time.monotonic() - begun:.0f} s: {megabytes:.0f} MB")
    return python


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise RunFailed(f"its installation was stopped after {INSTALL_S:.0f} s") from exc
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RunFailed(f"its installation failed: {said[-1] if said else 'pip gave no reason'}")
