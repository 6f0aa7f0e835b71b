"""Stream the sample portrait through a server and report the result.

``python -m stream_server.commands.self_check URL``
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from importlib import resources
from pathlib import Path

from stream_server.client.stream import connect
from stream_server.commands.standard_streams import discard
from stream_server.errors import ClientError
from stream_server.protocol import client_side as answers


async def check(url: str) -> str:
    """Send the sample, wait for the faces in it.

    Returns:
        What was found and how long it took.

    Raises:
        ClientError: there was no result.
    """
    portrait = (resources.files("web_client") / "sample.jpg").read_bytes()
    async with connect(url, model="faces") as stream:
        started = time.perf_counter()
        async for answer in stream.process([portrait]):
            took_ms = (time.perf_counter() - started) * 1e3
            if isinstance(answer, answers.Result):
                faces = answer.outputs["faces"]
                scores = ", ".join(f"{face['score']:.2f}" for face in faces)
                return (
                    f"{len(faces)} face in the sample portrait (score {scores}), answered in "
                    f"{took_ms:.1f} ms, of which {answer.infer_ms:.1f} ms in the model"
                )
            raise ClientError(str(answer))
    raise ClientError("no answer")


def main() -> int:
    """Check the server at the address given, print the outcome and the page's address."""
    try:
        print(f"self-check: {asyncio.run(check(sys.argv[1]))}")
        status = 0
    except ClientError as exc:
        print(f"self-check failed: {exc}")
        status = 1
    print(f"open {sys.argv[1]} in a browser; Ctrl-C stops the server")
    if hint := entering():
        print(hint)
    return status


def entering() -> str | None:
    """Say how to enter this environment where a shell does not find its `stream-server`; None where it does."""
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("stream-server") or not activate.is_file():
        return None
    if (
        activate.is_relative_to(Path.cwd()) and activate.parent != Path.cwd()
    ):  # `. name` would search the PATH
        activate = activate.relative_to(Path.cwd())
    return f"for stream-server in another terminal: . {activate}"


if __name__ == "__main__":
    try:
        exit_status = main()
        sys.stdout.flush()
    except OSError:  # the server's standard output is not read, or full
        discard(sys.stdout)
        exit_status = 1
    sys.exit(exit_status)
