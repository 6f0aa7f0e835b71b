"""A client's own account of a stream, settled after it: what was sent, what came back, what is missing. No I/O."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Account:
    """What became of one stream's items, as its client saw it.

    Attributes:
        sent, results, dropped: items.
        errors: items by their error's code.
        lost: items without an answer.
        duplicated: answers to an item that had one.
        disordered: answers that came after the answer to a later item.
        wrong: results that do not fit their item.
        strays: messages that answer no item that was sent.
        miscounted: by how many items the server's `end` differs from this account; all of them without an `end`.
        answers: per result seconds since the start of the run, its `age_ms` and milliseconds since the item was
            due to be sent, which also stand for the age where the server tells none.
        failures: per error seconds since the start of the run, and milliseconds since the item was due.
        missing: when items were due that got no answer, in seconds since the start of the run: the lost ones, and
            those that never got out because the server did not read.
    """

    sent: int
    results: int = 0
    dropped: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    duplicated: int = 0
    disordered: int = 0
    wrong: int = 0
    strays: int = 0
    miscounted: int = 0
    answers: list[tuple[float, float, float]] = field(default_factory=list)
    failures: list[tuple[float, float]] = field(default_factory=list)
    missing: list[float] = field(default_factory=list)

    @property
    def unsent(self) -> int:
        """Items that were due and never got out."""
        return len(self.missing) - self.lost

    @property
    def unaccounted(self) -> int:
        """Items that the two sides' books do not explain."""
        return self.lost + self.duplicated + self.strays + self.miscounted

    def waits(self, ended: float, until: float = math.inf) -> list[tuple[float, float]]:
        """Give how long every item waited, be it for a result, for an error or in vain.

        One that the server dropped is left out: a newer one has taken its place.

        Args:
            ended: when the run ended, and with it what waited in vain, in seconds since its start.
            until: when an item had to be due to be counted, likewise.

        Returns:
            Seconds from the start of the run to the end of each wait, and its milliseconds since the item was due.
        """
        waits = [
            *((at, waited_ms) for at, _, waited_ms in self.answers),
            *self.failures,
            *((ended, (ended - due) * 1e3) for due in self.missing),
        ]
        return [(at, waited_ms) for at, waited_ms in waits if at - waited_ms / 1e3 < until]


def settle(
    due: Sequence[float],
    messages: Sequence[tuple[float, str]],
    expected: Sequence[Mapping[str, Any]] = (),
    unsent: Sequence[float] = (),
) -> Account:
    """Go through a stream's messages after `ready`, in the order they came.

    Args:
        due: when each item that was sent was to be sent, in seconds since the start of the run.
        messages: when each came, on the same clock, and its text.
        expected: the outputs that the items' results must have, over and over; none to let any pass.
        unsent: when items were due that did not get out.
    """
    account = Account(len(due))
    end: dict[str, Any] = {}
    seen: set[int] = set()
    latest = 0
    errors: Counter[str] = Counter()
    for at, text in messages:
        message = json.loads(text)
        seq = message.get("seq", 0)
        if message["type"] == "end":
            end = message
            continue
        if not 1 <= seq <= len(due):
            account.strays += 1
            continue
        account.duplicated += seq in seen
        account.disordered += seq < latest
        seen.add(seq)
        latest = max(latest, seq)
        waited_ms = (at - due[seq - 1]) * 1e3
        match message["type"]:
            case "result":
                account.results += 1
                account.answers.append((at, message["age_ms"], waited_ms))
                if expected and message["outputs"] != expected[(seq - 1) % len(expected)]:
                    account.wrong += 1
            case "dropped":
                account.dropped += 1
            case _:
                errors[message["code"]] += 1
                account.failures.append((at, waited_ms))
    account.errors = dict(errors)
    _miss(account, due, seen, unsent)
    counted = {
        "received": account.sent,
        "results": account.results,
        "dropped": account.dropped,
        "errors": errors.total(),
    }
    account.miscounted = max(abs(end[name] - count) for name, count in counted.items()) if end else len(due)
    return account


def settle_plain(
    due: Sequence[float], answers: Iterable[tuple[int, float, str]], unsent: Sequence[float] = ()
) -> Account:
    """Settle what was sent to a server that does not speak this project's protocol, and counts nothing itself.

    Args:
        due, unsent: as for `settle`.
        answers: the number of the item that each answers, from 1, when it came, and its error's code, if it is one.
    """
    account = Account(len(due))
    errors: Counter[str] = Counter()
    seen: set[int] = set()
    for number, at, code in answers:
        if not 1 <= number <= len(due):
            account.strays += 1
            continue
        seen.add(number)
        waited_ms = (at - due[number - 1]) * 1e3
        if code:
            errors[code] += 1
            account.failures.append((at, waited_ms))
        else:
            account.results += 1
            account.answers.append((at, waited_ms, waited_ms))
    account.errors = dict(errors)
    _miss(account, due, seen, unsent)
    return account


def _miss(account: Account, due: Sequence[float], seen: set[int], unsent: Sequence[float]) -> None:
    account.missing = [at for seq, at in enumerate(due, 1) if seq not in seen]
    account.lost = len(account.missing)
    account.missing += unsent
