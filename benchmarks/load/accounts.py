"""A client's account of a stream: what was sent, what came back, what is missing. Made after the run. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True):
    """What an account reads of a server's message; `age_ms` is None if the server does not tell it."""

    type: str
    seq: int = 0
    age_ms: float | None = None
    outputs: Any = None
    code: str = ""
    received: int = 0
    results: int = 0
    dropped: int = 0
    errors: int = 0


MESSAGES = msgspec.json.Decoder(Message)


class Account(msgspec.Struct):
    """What became of one stream's items, as its client saw it; numbers of items unless it says otherwise."""

    sent: int
    results: int = 0
    dropped: int = 0
    errors: dict[str, int] = {}  # by error code
    lost: int = 0  # items without an answer
    duplicated: int = 0  # answers to an item that already had one
    disordered: int = 0  # answers that came after the answer to a later item
    wrong: int = 0  # results that do not fit their item
    strays: int = 0  # messages that answer no item that was sent
    miscounted: int = 0  # by which the server's `end` differs from this account; all without an `end`
    # of each result: seconds since the start of the run, `age_ms`, and milliseconds since the item was due, which
    # also replace an age that the server does not tell
    answers: list[tuple[float, float, float]] = []
    # of each error: seconds since the start of the run, and milliseconds since the item was due
    failures: list[tuple[float, float]] = []
    # when items without an answer were due, in seconds since the start of the run: the lost ones, and those never
    # sent because the server did not read
    missing: list[float] = []

    @property
    def unsent(self) -> int:
        """Items that were due and never sent."""
        return len(self.missing) - self.lost

    @property
    def unaccounted(self) -> int:
        """Items on which client and server disagree."""
        return self.lost + self.duplicated + self.strays + self.miscounted

    def waits(self, ended: float, until: float = math.inf) -> list[tuple[float, float]]:
        """Give how long each item waited for a result or an error, or without an answer; dropped ones are left out.

        Args:
            ended: the end of the run, which ends waits without an answer, in seconds since its start.
            until: only items that were due before this count.

        Returns:
            Seconds from the start of the run to the end of each wait, and milliseconds since the item was due.
        """
        waits = [
            *((at, waited_ms) for at, _, waited_ms in self.answers),
            *self.failures,
            *((ended, (ended - due) * 1e3) for due in self.missing),
        ]
        return due_before(waits, until)


def due_before(waits: Iterable[tuple[float, float]], until: float) -> list[tuple[float, float]]:
    """Select the waits, each its end in seconds and its milliseconds, of items that were due before `until`."""
    return [(at, waited_ms) for at, waited_ms in waits if at - waited_ms / 1e3 < until]


def settle(
    due: Sequence[float],
    messages: Iterable[tuple[float, str]],
    expected: Sequence[Mapping[str, Any]] = (),
    unsent: Sequence[float] = (),
) -> Account:
    """Make the account of a stream of this project's protocol.

    Args:
        due: when each sent item was due, in seconds since the start of the run.
        messages: arrival, on the same clock, and text of each message after `ready`.
        expected: the outputs that results must have, repeated; empty to accept any.
        unsent: when the items that were not sent were due.
    """
    decoded = [(at, MESSAGES.decode(text)) for at, text in messages]
    account = _settle(due, [one for one in decoded if one[1].type != "end"], expected, unsent)
    account.miscounted = len(due)
    for end in [message for _, message in decoded if message.type == "end"][-1:]:
        counts = account.sent, account.results, account.dropped, sum(account.errors.values())
        theirs = end.received, end.results, end.dropped, end.errors
        account.miscounted = max(abs(one - other) for one, other in zip(counts, theirs, strict=True))
    return account


def settle_plain(
    due: Sequence[float], answers: Iterable[tuple[int, float, str]], unsent: Sequence[float] = ()
) -> Account:
    """Make the account of a stream to a server with another protocol, which has no counts of its own.

    Args:
        due, unsent: as for `settle`.
        answers: number of the answered item, from 1, arrival, and error code or "".
    """
    # posts are answered in any order, and their answers have no order to violate
    messages = [
        (at, Message("error" if code else "result", number, code=code))
        for number, at, code in sorted(answers)
    ]
    return _settle(due, messages, (), unsent)


def _settle(
    due: Sequence[float],
    answers: Iterable[tuple[float, Message]],
    expected: Sequence[Mapping[str, Any]],
    unsent: Sequence[float],
) -> Account:
    account = Account(len(due))
    seen: set[int] = set()
    latest = 0
    errors: Counter[str] = Counter()
    for at, message in answers:
        seq = message.seq
        if not 1 <= seq <= len(due):
            account.strays += 1
            continue
        account.duplicated += seq in seen
        account.disordered += seq < latest
        seen.add(seq)
        latest = max(latest, seq)
        waited_ms = (at - due[seq - 1]) * 1e3
        match message.type:
            case "result":
                account.results += 1
                age_ms = waited_ms if message.age_ms is None else message.age_ms
                account.answers.append((at, age_ms, waited_ms))
                account.wrong += bool(expected) and message.outputs != expected[(seq - 1) % len(expected)]
            case "dropped":
                account.dropped += 1
            case _:
                errors[message.code] += 1
                account.failures.append((at, waited_ms))
    account.errors = dict(errors)
    lost = [at for seq, at in enumerate(due, 1) if seq not in seen]
    account.lost = len(lost)
    account.missing = [*lost, *unsent]
    return account
