"""``python -m stream_server`` is ``stream-server``."""

import sys

from stream_server.cli import main

sys.exit(main())
