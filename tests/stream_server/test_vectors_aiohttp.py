"""The conversations that every client is tested on, held with a client that is not ours: aiohttp's."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from yarl import URL

from stream_server.protocol.server_side import SUBPROTOCOL
from tests.conftest import WAIT, RunningServer, vectors


async def step(ws: aiohttp.ClientWebSocketResponse, todo: dict[str, Any]) -> None:
    """Do or expect what one step of a conversation says."""
    match todo:
        case {"send": text}:
            await ws.send_str(text)
        case {"send_base64": text}:
            await ws.send_bytes(base64.b64decode(text))
        case {"expect": expected}:
            message = json.loads(await ws.receive_str())
            assert message == message | expected
            assert not set(todo.get("absent", ())) & set(message)
        case {"expect_close": code}:
            message = await ws.receive()
            assert message.type is aiohttp.WSMsgType.CLOSE
            assert message.data == code
        case _:
            pytest.fail(f"no step: {todo}")


CONVERSATIONS = vectors("conversations")


async def converse(case: dict[str, Any], server: RunningServer, subprotocol: bool = True) -> None:
    protocols = [SUBPROTOCOL] if subprotocol else []
    async with (
        asyncio.timeout(WAIT),
        aiohttp.ClientSession() as http,
        http.ws_connect(URL(server.url + case["path"], encoded=True), protocols=protocols) as ws,
    ):
        assert ws.protocol == (SUBPROTOCOL if subprotocol else None)
        for todo in case["steps"]:
            await step(ws, todo)


@pytest.mark.parametrize("subprotocol", [True, False], ids=["with subprotocol", "without"])
@pytest.mark.parametrize(
    "case", [case for case in CONVERSATIONS if "needs" not in case], ids=lambda case: case["name"]
)
async def test_conversations(case: dict[str, Any], subprotocol: bool, server: RunningServer) -> None:
    await converse(case, server, subprotocol)


@pytest.mark.parametrize(
    "case", [case for case in CONVERSATIONS if "needs" in case], ids=lambda case: case["name"]
)
async def test_conversations_with_models_of_their_own(
    case: dict[str, Any], start_server: Callable[..., RunningServer]
) -> None:
    models = [f"--model={name}={reference}" for name, reference in case["needs"].items()]
    await converse(case, start_server("--workers=1", *models))
