"""What people write today, to compare with: an aiohttp websocket and the standard library's pool of processes.

Each message goes to `ProcessPoolExecutor` by itself and is answered as it comes back, in the messages of this
project's protocol. It has no windows, no batches, no limits and no answer to a worker's death.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from aiohttp import WSMsgType, web

POOL = web.AppKey("pool", ProcessPoolExecutor)
MODEL = web.AppKey("model", str)

_pipeline: Any = None


def load(model: str) -> None:
    """Prepare a worker process for a model: for `spam` the scikit-learn pipeline of the weights that ship."""
    global _pipeline  # noqa: PLW0603  # an initializer has no other way to leave anything to the calls
    if model == "spam":
        from inference.models.spam import WEIGHTS, Weights  # noqa: PLC0415  # only its workers import it
        from inference.training.spam import pipeline_of  # noqa: PLC0415

        _pipeline = pipeline_of(Weights.read(WEIGHTS.read_bytes()))


def echo(payload: bytes) -> dict[str, Any]:
    """Answer an item's size."""
    return {"bytes": len(payload)}


def spam(text: str) -> dict[str, Any]:
    """Answer as the `spam` model does, by one `predict_proba` for one text."""
    from inference.models.spam import normalise  # noqa: PLC0415  # as above

    score = round(float(_pipeline.predict_proba([normalise(text)])[0, 1]), 4)
    return {
        "label": "spam" if score > 0.5 else "ham",
        "scores": {"spam": score, "ham": round(1 - score, 4)},
    }


PREDICT: dict[str, Callable[[Any], dict[str, Any]]] = {"echo": echo, "spam": spam}
WARM: dict[str, Any] = {"echo": b"\0", "spam": "warm up"}


async def stream(request: web.Request) -> web.WebSocketResponse:
    """Serve one websocket."""
    pool, predict = request.app[POOL], PREDICT[request.app[MODEL]]
    loop = asyncio.get_running_loop()
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    await ws.send_json({"type": "ready"})
    received = 0
    async for message in ws:
        arrived = loop.time()
        if message.type is WSMsgType.BINARY:
            item = message.data
        else:
            body = json.loads(message.data)
            if body["type"] == "end":
                break
            item = body["text"]
        received += 1
        outputs = await loop.run_in_executor(pool, predict, item)
        age_ms = (loop.time() - arrived) * 1e3
        await ws.send_json({"type": "result", "seq": received, "outputs": outputs, "age_ms": age_ms})
    await ws.send_json({"type": "end", "received": received, "results": received, "dropped": 0, "errors": 0})
    await ws.close()
    return ws


async def workers(app: web.Application) -> AsyncIterator[None]:
    """Hold a pool of two workers, each loaded and warm, while the application runs."""
    model = app[MODEL]
    with ProcessPoolExecutor(2, initializer=load, initargs=(model,)) as pool:
        app[POOL] = pool
        loop = asyncio.get_running_loop()
        predict, item = PREDICT[model], WARM[model]
        await asyncio.gather(*(loop.run_in_executor(pool, predict, item) for _ in range(16)))
        yield


def main() -> None:
    """Serve a model on a free port of this machine until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baseline", description=__doc__)
    parser.add_argument("model", choices=sorted(PREDICT))
    app = web.Application()
    app[MODEL] = parser.parse_args().model
    app.cleanup_ctx.append(workers)
    app.router.add_get("/v2/models/{model}/stream", stream)
    listening = socket.create_server(("127.0.0.1", 0))

    async def announce(_: web.Application) -> None:
        print(f"ready at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)

    app.on_startup.append(announce)
    web.run_app(app, sock=listening, print=None, access_log=None)


if __name__ == "__main__":
    main()
