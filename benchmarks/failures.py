"""What ends a benchmark without a figure."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
"""Where this package lies."""


def unplaced(text: str) -> str:
    """Leave out of a message where the interpreter and the checkout are: results are shown to others."""
    return text.replace(sys.executable, "python").replace(f"{CHECKOUT}{os.sep}", "")


class RunFailed(RuntimeError):
    """A load or a server came to no end or to no start, so that the run says nothing.

    Args:
        reason: a sentence for everybody to read; the machine's own places are taken out of it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(unplaced(reason))


class Refused(RunFailed):
    """The server refused a stream, which is an answer where it is asked how many it takes.

    Attributes:
        code: the server's, such as `too_many_streams`.
        reason: the server's message.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"the server refused a stream: {reason}")
        self.code = code
        self.reason = reason
