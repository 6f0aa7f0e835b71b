"""The tree in the docstring is the tree of classes, and the table names every error that a peer can meet."""

from __future__ import annotations

import re

import pytest

from stream_server import errors
from stream_server.errors import (
    MEANINGS,
    ClientError,
    ClientFault,
    ConfigError,
    ServerFault,
    StreamServerError,
)


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


def test_every_fault_has_a_meaning_and_nothing_else_has() -> None:
    assert set(MEANINGS) == leaves(ClientFault) | leaves(ServerFault)


def test_codes_are_unique_words() -> None:
    codes = [means.code for means in MEANINGS.values()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_close_codes_are_those_of_the_protocol() -> None:
    """RFC 6455 section 7.4 names the first ones; 4000 to 4999 are for applications."""
    closes = {means.close for means in MEANINGS.values()}
    assert closes == {None, 1001, 1003, 1009, 1011, 1013, 4400, 4403, 4404, 4408, 4429}


@pytest.mark.parametrize(("cls", "means"), MEANINGS.items())
def test_blame_shows_in_the_status(cls: type[StreamServerError], means: errors.Meaning) -> None:
    assert means.status // 100 == (4 if issubclass(cls, ClientFault) else 5)


def test_who_may_come_back_is_told_when_only_if_coming_back_can_help() -> None:
    told = {cls: means for cls, means in MEANINGS.items() if means.retry_after_ms is not None}
    assert set(told) == {errors.Overloaded}
    assert all(means.retryable and means.retry_after_ms == errors.RETRY_AFTER_MS for means in told.values())


def test_what_ended_three_workers_is_not_to_be_sent_again() -> None:
    poison = errors.meaning(errors.Poison("why"))
    assert (poison.code, poison.close, poison.retryable) == ("poison", 1011, False)


def test_an_heir_means_what_its_ancestor_means() -> None:
    class Obscene(errors.Malformed):
        pass

    assert errors.meaning(Obscene()) is MEANINGS[errors.Malformed]


@pytest.mark.parametrize("stranger", [ValueError(), ConfigError(), ClientError(), KeyboardInterrupt()])
def test_a_stranger_is_a_defect_of_ours(stranger: BaseException) -> None:
    assert errors.meaning(stranger) is MEANINGS[errors.Broken]


def test_what_clients_raise_says_what_it_knows() -> None:
    refused = errors.Refused("draining", "come back", retryable=True)
    assert (str(refused), refused.code, refused.retryable) == ("draining: come back", "draining", True)
    assert errors.ConnectionLost("gone", unanswered=3).unanswered == 3
