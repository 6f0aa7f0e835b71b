"""When memory is given back to the system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from stream_server.server import free_memory
from stream_server.server.free_memory import EXCESS_BYTES, FreeMemory
from tests.conftest import WAIT


class Process:
    """What is resident and what is held, in bytes; trimming takes away what is not."""

    def __init__(self) -> None:
        self.base, self.held, self.freed = 50 << 20, 0, 0
        self.trimmed = asyncio.Event()
        self.looked = 0

    def resident(self) -> int:
        self.looked += 1
        return self.base + self.held + self.freed

    def trim(self, keep: int) -> int:
        self.freed = 0
        self.trimmed.set()
        return 1


@pytest.fixture
async def process(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Process]:
    process = Process()
    monkeypatch.setattr(free_memory, "INTERVAL_S", 0.001)
    monkeypatch.setattr(free_memory, "resident_bytes", process.resident)
    monkeypatch.setattr(free_memory, "find_trim", lambda: process.trim)
    watch = FreeMemory(lambda: process.held)
    watch.start()
    yield process
    watch.stop()


async def looks(process: Process, times: int = 5) -> None:
    async with asyncio.timeout(WAIT):
        until = process.looked + times
        while process.looked < until:
            await asyncio.sleep(0)


async def test_what_was_freed_is_given_back(process: Process) -> None:
    process.held = 10 * EXCESS_BYTES
    await looks(process)
    assert not process.trimmed.is_set(), "all of it is in use"
    process.held, process.freed = 0, 10 * EXCESS_BYTES
    async with asyncio.timeout(WAIT):
        await process.trimmed.wait()


async def test_a_little_may_stay(process: Process) -> None:
    process.freed = EXCESS_BYTES
    await looks(process)
    assert not process.trimmed.is_set()


async def test_what_cannot_be_given_back_is_not_tried_again_and_again(process: Process) -> None:
    process.base += 2 * EXCESS_BYTES
    async with asyncio.timeout(WAIT):
        await process.trimmed.wait()
    process.trimmed.clear()
    await looks(process)
    assert not process.trimmed.is_set()
