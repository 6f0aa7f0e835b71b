"""A client's account of its stream: each fault of a server is counted, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.load.accounts import Account, settle, settle_plain

DUE = [0.0, 0.1, 0.2, 0.3]


def result(seq: int, **more: Any) -> dict[str, Any]:
    return {"type": "result", "seq": seq, "outputs": {"bytes": seq}, "age_ms": 5.0, **more}


def dropped(seq: int) -> dict[str, Any]:
    return {"type": "dropped", "seq": seq, "reason": "superseded"}


def error(seq: int) -> dict[str, Any]:
    return {"type": "error", "seq": seq, "code": "worker_lost", "message": "", "retryable": True}


def end(received: int, results: int, dropped: int, errors: int) -> dict[str, Any]:
    return {
        "type": "end",
        "received": received,
        "results": results,
        "dropped": dropped,
        "errors": errors,
    }


def settled(*messages: dict[str, Any], **more: Any) -> Account:
    return settle(DUE, [(1.0 + i, json.dumps(m)) for i, m in enumerate(messages)], **more)


def test_complete_stream_is_accounted_for() -> None:
    account = settled(result(1), dropped(2), error(3), result(4), end(4, 2, 1, 1))
    assert (account.sent, account.results, account.dropped, account.errors) == (4, 2, 1, {"worker_lost": 1})
    assert account.unaccounted == account.disordered == account.wrong == 0


def test_result_has_arrival_age_and_wait() -> None:
    account = settled(dropped(1), result(2), dropped(3), dropped(4), end(4, 1, 3, 0))
    assert account.answers == [(2.0, 5.0, pytest.approx(1900))]


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ([result(1), result(2), result(4), end(4, 3, 0, 0)], {"lost": 1, "miscounted": 0}),
        (
            [result(1), result(2), result(2), result(3), result(4), end(4, 5, 0, 0)],
            {"duplicated": 1, "miscounted": 0},
        ),
        ([result(1), result(3), result(2), result(4), end(4, 4, 0, 0)], {"disordered": 1, "miscounted": 0}),
        (
            [result(1), result(2), result(3), result(4), result(5), end(4, 4, 0, 0)],
            {"strays": 1, "miscounted": 0},
        ),
        ([result(1), result(2), result(3), result(4), end(4, 3, 0, 1)], {"miscounted": 1}),
        ([result(1), result(2), result(3), result(4), end(5, 5, 0, 0)], {"miscounted": 1}),
        ([result(1), result(2), result(3), result(4)], {"miscounted": 4}),
        (
            [{"type": "error", "code": "idle"}, result(1), result(2), result(3), result(4), end(4, 4, 0, 0)],
            {"strays": 1, "miscounted": 0},
        ),
    ],
)
def test_faults_are_counted(messages: list[dict[str, Any]], what: dict[str, int]) -> None:
    account = settled(*messages)
    found = {
        name: getattr(account, name) for name in ("lost", "duplicated", "disordered", "strays", "miscounted")
    }
    assert found == {**dict.fromkeys(found, 0), **what}
    assert account.unaccounted == sum(count for name, count in what.items() if name != "disordered")


def test_unexpected_output_is_wrong() -> None:
    expected = [{"bytes": 1}, {"bytes": 2}]
    account = settled(
        result(1),
        result(2),
        result(3, outputs={"bytes": 2}),
        result(4, outputs={"bytes": 2}),
        end(4, 4, 0, 0),
        expected=expected,
    )
    assert account.wrong == 1


def test_any_output_is_accepted_by_default() -> None:
    assert settled(*map(result, (1, 2, 3, 4)), end(4, 4, 0, 0)).wrong == 0


def test_lost_and_unsent_items_are_missing() -> None:
    account = settled(result(1), result(4), end(4, 2, 0, 0), unsent=[0.4, 0.5])
    assert account.missing == [0.1, 0.2, 0.4, 0.5]
    assert (account.lost, account.unsent) == (2, 2)


def test_all_but_dropped_items_have_waits() -> None:
    account = settled(result(1), error(2), dropped(3), end(4, 1, 1, 1), unsent=[0.4])
    assert account.waits(5.0) == [
        (1.0, pytest.approx(1000)),
        (2.0, pytest.approx(1900)),
        (5.0, pytest.approx(4700)),
        (5.0, pytest.approx(4600)),
    ]
    assert [at for at, _ in account.waits(5.0, until=0.25)] == [1.0, 2.0]


def test_plain_errors_have_waits() -> None:
    account = settle_plain(DUE, [(1, 1.0, "408"), (2, 1.5, ""), (3, 1.6, "")])
    assert [waited_ms for _, waited_ms in account.waits(3.0)] == pytest.approx([1400, 1400, 1000, 2700])


def test_plain_answers_count_by_code() -> None:
    account = settle_plain(DUE, [(2, 1.1, ""), (1, 1.2, "429"), (3, 1.3, "429")], unsent=[0.4])
    assert (account.sent, account.results, account.errors) == (4, 1, {"429": 2})
    assert account.answers == [(1.1, pytest.approx(1000), pytest.approx(1000))]
    assert (account.lost, account.unsent, account.missing) == (1, 1, [0.3, 0.4])


def test_surplus_plain_answer_is_stray() -> None:
    account = settle_plain(DUE, [(number, 1.0, "") for number in range(1, 6)])
    assert (account.results, account.strays, account.unaccounted) == (4, 1, 1)
