"""The tree in the docstring is the tree of classes, and the table names every error that a peer can meet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inference.items import RESERVED
from stream_server import errors
from stream_server.errors import (
    STREAM_ERRORS,
    TABLE,
    ClientError,
    ClientFault,
    ConfigError,
    ServerFault,
    StreamServerError,
)

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"


def drawn() -> dict[str, str | None]:
    """Each class in the docstring's drawing with its parent's name."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"( {4}[ │├└─]*)([A-Z]\w+)", line)
        if found is None:
            continue
        depth, name = len(found[1]), found[2]
        while above and above[-1][0] >= depth:
            above.pop()
        parents[name] = above[-1][1] if above else None
        above.append((depth, name))
    return parents


def classes(cls: type[StreamServerError] = StreamServerError) -> dict[str, str | None]:
    """Each class with its parent's name."""
    found: dict[str, str | None] = {cls.__name__: None if cls is StreamServerError else cls.__base__.__name__}
    for child in cls.__subclasses__():
        found |= classes(child)
    return found


def leaves(cls: type[StreamServerError]) -> set[type[StreamServerError]]:
    return {cls}.union(*map(leaves, cls.__subclasses__())) - {cls} if cls.__subclasses__() else {cls}


def test_the_drawing_is_the_tree() -> None:
    assert drawn() == classes()


def test_every_fault_is_in_the_table_and_nothing_else_is() -> None:
    assert set(STREAM_ERRORS) == leaves(ClientFault) | leaves(ServerFault)


def test_codes_are_unique_words() -> None:
    codes = [info.code for info in STREAM_ERRORS.values()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_close_codes_are_those_of_the_protocol() -> None:
    """RFC 6455 section 7.4 names the first ones; 4000 to 4999 are for applications."""
    closes = {info.close for info in STREAM_ERRORS.values()}
    assert closes == {None, 1001, 1003, 1008, 1009, 1011, 1013, 4400, 4403, 4404, 4408, 4429}


@pytest.mark.parametrize(("cls", "info"), STREAM_ERRORS.items())
def test_blame_shows_in_the_status(cls: type[StreamServerError], info: errors.ErrorInfo) -> None:
    assert info.status // 100 == (4 if issubclass(cls, ClientFault) else 5)


def test_only_a_retryable_error_says_when_to_retry() -> None:
    told = {cls: info for cls, info in STREAM_ERRORS.items() if info.retry_after_ms is not None}
    assert set(told) == {errors.Overloaded}
    assert all(info.retryable and info.retry_after_ms == errors.RETRY_AFTER_MS for info in told.values())


def test_poison_closes_the_stream_and_is_not_retryable() -> None:
    poison = errors.error_info(errors.Poison("why"))
    assert (poison.code, poison.close, poison.retryable) == ("poison", 1011, False)


def test_a_subclass_is_looked_up_by_its_ancestor() -> None:
    class Obscene(errors.Malformed):
        pass

    assert errors.error_info(Obscene()) is STREAM_ERRORS[errors.Malformed]


@pytest.mark.parametrize("foreign", [ValueError(), ConfigError(), ClientError(), KeyboardInterrupt()])
def test_a_foreign_exception_is_internal(foreign: BaseException) -> None:
    assert errors.error_info(foreign) is STREAM_ERRORS[errors.Broken]


def test_client_errors_carry_their_attributes() -> None:
    refused = errors.Refused("draining", "come back", retryable=True)
    assert (str(refused), refused.code, refused.retryable) == ("draining: come back", "draining", True)
    assert errors.ConnectionLost("gone", unanswered=3).unanswered == 3


def documented() -> list[tuple[str, str, int | None, bool]]:
    """Code, scope, close code and retryable of each row of the protocol's table; a row may name several codes."""
    section = PROTOCOL.read_text("utf-8").partition("## Errors")[2].partition("\n## ")[0]
    rows = []
    for line in section.splitlines():
        if line.startswith("| `"):
            codes, where, close, retryable = (cell.strip() for cell in line.strip("|").split("|"))
            scope = "item" if where.startswith("an item") else "stream"
            number = int(close) if close.isdecimal() else None
            rows += [
                (code, scope, number, {"yes": True, "no": False}[retryable])
                for code in re.findall(r"`(\w+)`", codes)
            ]
    return rows


def test_the_protocols_table_is_this_one() -> None:
    assert sorted(documented(), key=str) == sorted(
        ((info.code, info.scope, info.close, info.retryable) for info in TABLE), key=str
    )


def test_each_meaning_is_a_sentence() -> None:
    assert all(re.fullmatch(r"[A-Z].*\.", info.meaning) for info in TABLE)


def test_every_code_that_only_the_engine_gives_is_in_the_table() -> None:
    assert {info.code for info in TABLE if info.scope == "item"} >= RESERVED
