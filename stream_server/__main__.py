"""``python -m stream_server`` is ``stream-server``."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])

# `-m` puts the current folder first, where a folder `inference` or `benchmarks` of the user's would hide ours
if not sys.flags.safe_path and sys.path[0] != ROOT:
    if ROOT in sys.path[1:]:
        del sys.path[0]
    else:
        sys.path[0] = ROOT

from stream_server.cli import main  # noqa: E402

sys.exit(main())
