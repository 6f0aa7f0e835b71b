"""Classify texts on a running server, without async.

stream-server serve
python examples/sync_client.py http://127.0.0.1:8080 "Lunch at noon?" "You have won $1,000,000, click here"
"""

import sys

from stream_server import Result, StreamServerError, connect_sync

url, *texts = sys.argv[1:]
try:
    with connect_sync(url, model="spam") as stream:
        for text, answer in zip(texts, stream.process(texts), strict=True):
            said = answer.outputs["label"] if isinstance(answer, Result) else answer
            print(f"{said}: {text}")
except StreamServerError as exc:
    sys.exit(str(exc))
