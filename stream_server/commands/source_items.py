"""What sources give: items, and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SourceItem:
    """An item and what to call it: a file's name, or its number in the source, from 1.

    Attributes:
        payload: what `client.Stream.send` takes.
    """

    name: str
    payload: Any


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An item, or several, that could not be read and cannot be sent.

    Attributes:
        name: what to call it, as `SourceItem` has it.
        code: why, as the server calls it: "bad_image", "bad_item", "too_large", or "unreadable".
        message: the same for people.
        count: how many.
    """

    name: str
    code: str
    message: str
    count: int = 1
