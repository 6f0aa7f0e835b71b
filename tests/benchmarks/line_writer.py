"""A process for the tests of `load.subprocesses`: writes what it is told to; empty text ends it."""

from __future__ import annotations

import json
import os
import sys

sys.stdin.readline()  # its order, which is the same for all
for line in sys.stdin:
    text, times = json.loads(line)
    left = text.encode() * times
    if not left:
        break
    while left:
        left = left[os.write(1, left) :]
