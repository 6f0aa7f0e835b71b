"""Reading any iterable on the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from stream_server.client import iteration as feeding
from stream_server.client.iteration import each


class Closed:
    """A generator that tells when it was closed, and by which thread it was read."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.threads: set[str] = set()
        self.read = 0

    def sync(self) -> Iterator[int]:
        try:
            while True:
                self.threads.add(threading.current_thread().name)
                self.read += 1
                yield self.read
        finally:
            self.closed.set()

    async def asynchronous(self) -> AsyncIterator[int]:
        try:
            while True:
                self.read += 1
                yield self.read
        finally:
            await asyncio.sleep(0)
            self.closed.set()


@pytest.mark.parametrize("items", [[1, 2, 3], (1, 2, 3), range(1, 4), iter([1, 2, 3]), {1: 0, 2: 0, 3: 0}])
async def test_any_iterable_is_read_in_order(items: object) -> None:
    assert [item async for item in each(items)] == [1, 2, 3]  # type: ignore[arg-type]


async def test_an_iterable_is_read_when_asked_and_no_further_and_then_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeding, "GRACE_S", 20.0)
    for kind in ("sync", "asynchronous"):
        source = Closed()
        async with aclosing(each(getattr(source, kind)())) as items:
            assert await anext(items) == 1
            assert await anext(items) == 2
        assert source.closed.is_set()
        assert source.read == 2


async def test_a_synchronous_iterable_is_read_in_one_thread_that_is_not_the_loops() -> None:
    source = Closed()
    async with aclosing(each(source.sync())) as items:
        for _ in range(5):
            await anext(items)
    assert source.threads == {"stream-items"}


async def test_a_list_is_read_in_place() -> None:
    before = threading.enumerate()  # the last test's may be about to end
    async with aclosing(each([1, 2])) as items:
        assert await anext(items) == 1
        assert set(threading.enumerate()) <= set(before)


async def test_the_loop_goes_on_while_an_iterator_waits() -> None:
    release = threading.Event()

    def waiting() -> Iterator[str]:
        assert release.wait(10), "the loop stood still"
        yield "came"

    asyncio.get_running_loop().call_soon(release.set)
    assert [item async for item in each(waiting())] == ["came"]


async def test_an_iterators_error_comes_out() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("the disk")

    items = each(broken())
    assert await anext(items) == 1
    with pytest.raises(LookupError, match="the disk"):
        await anext(items)


async def test_an_iterator_that_never_returns_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "GRACE_S", 0.01)
    entered, release, closed = threading.Event(), threading.Event(), threading.Event()

    def stuck() -> Iterator[int]:
        try:
            entered.set()
            release.wait()
            yield 1
        finally:
            closed.set()

    async def read() -> None:
        async with aclosing(each(stuck())) as items:
            await anext(items)

    task = asyncio.create_task(read())
    await asyncio.to_thread(entered.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not closed.is_set()
    release.set()
    assert await asyncio.to_thread(closed.wait, 10), "nobody closed it in the end"
