"""What a worker reports of its sandbox: each feature's name, and "on" or what is wrong with it. Plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["auto", "require", "off"]
"""As far as the machine can, all of it or no work at all, none of it."""

ON = "on"


def missing(features: Mapping[str, str]) -> str:
    """Name the features that are not wholly on, each with its reason; empty when none is."""
    return ", ".join(f"{name} ({state})" for name, state in features.items() if state != ON)


def worst(groups: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Put the features of several groups of workers together: one is on where it is on in each that has told."""
    merged: dict[str, str] = {}
    for features in groups:
        merged.update((name, state) for name, state in features.items() if merged.get(name, ON) == ON)
    return merged
