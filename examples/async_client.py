"""Stream pictures to a running server and print what comes back.

stream-server serve
python examples/async_client.py http://127.0.0.1:8080 photo.jpg ...
"""

import asyncio
import sys
from pathlib import Path

from stream_server import Dropped, Error, Result, StreamServerError, connect


async def main(url: str, files: list[str]) -> None:
    frames = (Path(file).read_bytes() for file in files)  # a camera is any iterator of encoded pictures
    async with connect(url, model="faces", policy="queue") as stream:
        async for answer in stream.process(frames):  # one answer for each frame, in order
            match answer:
                case Result():
                    print(
                        f"{answer.seq}: faces: {len(answer.outputs['faces'])}, after {answer.age_ms:.0f} ms"
                    )
                case Dropped():
                    print(f"{answer.seq}: dropped, {answer.reason}")
                case Error():
                    print(f"{answer.seq}: {answer.code}, {answer.message}")
        print(await stream.end())  # the server's own count


try:
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
except StreamServerError as exc:  # no server there, refused, connection lost
    sys.exit(str(exc))
