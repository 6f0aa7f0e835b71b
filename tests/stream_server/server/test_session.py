"""One stream's conversation, rule by rule and then at random, without a socket or a clock."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from inference.intake import ByteBudget, StreamRequest
from inference.items import POISON, Dropped, DropReason, Failed, Item, Outcome, Result
from inference.model import InputKind, ModelCard, Policy
from inference.scheduling.statistics import Tally
from inference.streams import Stream
from stream_server.errors import Broken, Idle, Malformed
from stream_server.server.allowance import FLOOD_S
from stream_server.server.config import Limits
from stream_server.server.session import MAX_META_BYTES, MAX_OUTGOING, MAX_UNANSWERED, PARSING_SHARE, Session

END = '{"type": "end"}'
LIMITS = Limits(max_item_bytes=1000, max_text_bytes=500, max_streams=1)


class Desk:
    """The least of an engine behind a stream: it counts, and hands out what the stream offers."""

    def __init__(self) -> None:
        self.budget = ByteBudget(1 << 60)
        self.counts = Tally()
        self.at = 0.0
        self.offered: Item | Dropped | Failed | None = None

    def now(self) -> float:
        return self.at

    def offer(self, stream: Stream, item: Item) -> None:
        stream.admit(item)
        self.counts.received += 1
        self.offered = item

    def refuse(self, stream: Stream, outcome: Dropped | Failed) -> None:
        stream.admit(outcome.item)
        self.counts.received += 1
        self.offered = outcome

    def tally(self, stream: int) -> Tally:
        return self.counts

    def hold_back(self, stream: Stream, held_back: bool) -> None:
        pass

    def close(self, stream: Stream) -> None:
        pass


class Driven(Session):
    """A session with a stream of its own and the least of an engine behind it.

    Attributes:
        received, results, dropped, errors: by the answers that have left; the law is in `sent`.
    """

    def __init__(self, card: ModelCard, limits: Limits, number: int = 7, **options: Any) -> None:
        self.desk = Desk()
        self.stream = Stream(self.desk, number, StreamRequest("m", **options), card)
        self.results = self.dropped = self.errors = 0
        super().__init__(self.stream, limits, 0.0)

    @property
    def received(self) -> int:
        return self.desk.counts.received

    def take(self, message: str | bytes, now: float) -> Item | Dropped | Failed | None:
        """Receive a message; the item to run, or the outcome of one that cannot."""
        new = self.receive(message, now)
        if new is None:
            return None
        self.desk.at = now
        self.stream.offer(new.payload, max_age_ms=new.max_age_ms, refusal=new.refusal)
        if new.refusal is not None:
            assert isinstance(self.desk.offered, Dropped | Failed)
            self.complete(self.desk.offered, now)
        return self.desk.offered

    def complete(self, outcome: Outcome, now: float) -> None:
        match outcome:
            case Result():
                self.desk.counts.results += 1
            case Dropped():
                self.desk.counts.drop(outcome.reason)
            case Failed():
                self.desk.counts.errors += 1
        super().complete(outcome, now)

    def _answer(self, outcome: Outcome, id_: str | None, now: float) -> None:
        super()._answer(outcome, id_, now)
        kind = {Result: "results", Dropped: "dropped", Failed: "errors"}[type(outcome)]
        setattr(self, kind, getattr(self, kind) + 1)


def make(kind: InputKind = "bytes", own: Policy = "queue", limits: Limits = LIMITS, **options: Any) -> Driven:
    """A session that has greeted its client."""
    session = Driven(ModelCard("m", "1", kind, own, 8, 1000, ""), limits, **options)
    assert [message["type"] for message in sent(session)] == ["ready"]
    return session


def sent(session: Driven) -> list[dict[str, Any]]:
    """What went out since the last call; the law holds whenever one looks."""
    assert session.received == session.results + session.dropped + session.errors + session.unanswered
    return [json.loads(text) for text in session.take_outgoing()]


def offer(session: Driven, payload: bytes = b"x", now: float = 0.0) -> Item:
    item = session.take(payload, now)
    assert isinstance(item, Item)
    return item


def result(item: Item) -> Result:
    return Result(item, '{"ok": true}', "1", 1.0, 2.0, 1)


def types(session: Driven) -> list[tuple[str, int | None]]:
    return [(message["type"], message.get("seq")) for message in sent(session)]


def test_ready_comes_first_and_says_what_was_agreed() -> None:
    card = ModelCard("faces", "2023mar", "image", "latest", 1, 1000, "")
    session = Driven(card, LIMITS, 12, window=3)
    assert session.has_outgoing
    assert sent(session) == [
        {
            "type": "ready",
            "stream": "s12",
            "model": "faces",
            "version": "2023mar",
            "policy": "latest",
            "window": 3,
            "max_item_bytes": 1000,
            "input": "image",
        }
    ]
    assert not session.has_outgoing


def test_the_largest_message_is_that_of_the_models_kind() -> None:
    assert make("image").max_message_bytes == LIMITS.max_item_bytes
    assert make("text").max_message_bytes == LIMITS.max_text_bytes


def test_items_are_numbered_from_one_in_order_of_arrival() -> None:
    session = make()
    items = [offer(session, payload, now=5.0) for payload in (b"a", b"b")]
    assert items == [Item(7, 1, b"a", 5.0), Item(7, 2, b"b", 5.0)]


def test_answers_leave_in_the_order_of_their_items() -> None:
    session = make()
    first, second, third = (offer(session) for _ in range(3))
    session.complete(result(third), 1.0)
    session.complete(Failed(second, "model_error", "no"), 1.0)
    assert sent(session) == []
    session.complete(Dropped(first, "superseded"), 1.0)
    assert types(session) == [("dropped", 1), ("error", 2), ("result", 3)]
    assert (session.received, session.results, session.dropped, session.errors) == (3, 1, 1, 1)


def test_the_age_is_that_of_the_moment_the_answer_leaves() -> None:
    session = make()
    first, second = offer(session, now=10.0), offer(session, now=10.5)
    session.complete(result(second), 11.0)
    session.complete(result(first), 12.0)
    assert [message["age_ms"] for message in sent(session)] == [2000.0, 1500.0]


def test_meta_describes_the_next_binary_message_only() -> None:
    session = make(max_age_ms=5000)
    session.take('{"type": "meta", "id": "a", "max_age_ms": 100}', 0.0)
    items = [offer(session), offer(session)]
    assert [item.deadline for item in items] == [0.1, 5.0]
    for item in items:
        session.complete(result(item), 0.0)
    assert [message.get("id") for message in sent(session)] == ["a", None]


def test_a_later_meta_replaces_an_earlier_one() -> None:
    session = make()
    session.take('{"type": "meta", "id": "a", "max_age_ms": 100}', 0.0)
    session.take('{"type": "meta", "id": "b"}', 0.0)
    item = offer(session)
    session.complete(Dropped(item, "expired"), 0.0)
    assert item.deadline is None
    assert sent(session)[0]["id"] == "b"


def test_a_text_item_brings_its_own_meta() -> None:
    session = make("text", max_age_ms=1000)
    item = session.take('{"type": "item", "text": "Hi", "id": "t", "max_age_ms": 50}', 2.0)
    assert item == Item(7, 1, b"Hi", 2.0, 2.05)
    other = session.take('{"type": "item", "text": "Hi"}', 2.0)
    assert other is not None
    assert other.deadline == 3.0


def test_without_a_max_age_nothing_expires() -> None:
    assert offer(make()).deadline is None


def test_an_empty_item_fails_in_its_turn() -> None:
    session = make()
    first = offer(session)
    assert isinstance(session.take(b"", 0.0), Failed), "it has its answer"
    assert sent(session) == []
    session.complete(result(first), 0.0)
    answers = sent(session)
    assert [(a["type"], a["seq"]) for a in answers] == [("result", 1), ("error", 2)]
    assert answers[1]["code"] == "empty"
    assert session.close_code is None


def test_an_empty_text_is_an_item_like_any_other() -> None:
    session = make("text")
    item = session.take('{"type": "item", "text": ""}', 0.0)
    assert item is not None
    assert item.payload == b""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("image", '{"type": "item", "text": "a"}'),
        ("bytes", '{"type": "item", "data": 1}'),
        ("text", b"\xff\xd8\xff"),
        ("text", '{"type": "item", "data": 1}'),
        ("data", b""),
        ("data", '{"type": "meta"}'),
    ],
)
def test_the_wrong_kind_of_message_closes_after_the_error(kind: InputKind, message: str | bytes) -> None:
    session = make(kind)
    assert session.take(message, 0.0) is None
    (error,) = sent(session)
    assert (error["type"], error["code"], error["retryable"]) == ("error", "wrong_kind", False)
    assert "seq" not in error
    assert session.close_code == 1003
    assert session.received == 0


@pytest.mark.parametrize("message", ["", "[" * 4000, '{"type": "what"}', '{"type": "meta", "x": 1}'])
def test_a_malformed_message_is_no_item_and_the_stream_lives_on(message: str) -> None:
    session = make()
    assert session.take(message, 0.0) is None
    (error,) = sent(session)
    assert (error["code"], "seq" in error, session.close_code) == ("malformed", False, None)
    assert offer(session).seq == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("image", b"x" * (LIMITS.max_item_bytes + 1)),
        ("text", json.dumps({"type": "item", "text": "x" * LIMITS.max_text_bytes})),
        ("text", '{"type": "item", "text": "' + "\u00fc" * (LIMITS.max_text_bytes // 2) + '"}'),
    ],
)
def test_a_message_over_the_limit_in_bytes_closes_after_the_error(
    kind: InputKind, message: str | bytes
) -> None:
    session = make(kind)
    assert session.take(message, 0.0) is None
    (error,) = sent(session)
    assert (error["code"], error["retryable"]) == ("too_large", False)
    assert session.close_code == 1009


@pytest.mark.parametrize(
    "message",
    [
        "data:image/jpeg;base64,/9j/4AAQ",
        "data:image/jpeg;base64," + "A" * MAX_META_BYTES,
        json.dumps({"type": "item", "image": "A" * MAX_META_BYTES}),
        json.dumps({"image": "A" * (16 * MAX_META_BYTES)}),
        json.dumps([[0] * 640] * 20),
        '{"type": "item", "text": "A"}',
        '{"type": "meta"' + " " * MAX_META_BYTES + "}",
    ],
)
def test_a_picture_as_text_is_told_how_to_send_it(message: str) -> None:
    session = make("image")
    assert session.take(message, 0.0) is None
    (error,) = sent(session)
    assert error["code"] == "wrong_kind"
    assert "this model takes binary messages" in error["message"]
    assert "toBlob()" in error["message"]
    assert session.close_code == 1003


def test_an_item_of_just_the_limit_does_not() -> None:
    assert offer(make(), b"x" * LIMITS.max_item_bytes).seq == 1


def test_a_meta_of_just_the_limit_does_not() -> None:
    session = make()
    message = '{"type": "meta", "id": "a"'
    session.take(message + " " * (MAX_META_BYTES - len(message) - 1) + "}", 0.0)
    assert sent(session) == []
    session.complete(result(offer(session)), 0.0)
    assert sent(session)[0]["id"] == "a"


def test_a_queue_reads_one_more_than_its_window() -> None:
    session = make(window=2)
    first, second = offer(session), offer(session)
    assert session.wants_input, "a client that keeps its window may still say `end`, or close"
    offer(session)
    assert not session.wants_input
    session.complete(result(second), 0.0)
    assert not session.wants_input, "the second's answer cannot leave before the first's"
    session.complete(result(first), 0.0)
    assert session.wants_input


def test_a_flood_of_latest_is_read_until_too_much_is_unanswered() -> None:
    session = make(policy="latest", limits=Limits())
    running, waiting = offer(session), offer(session)
    while session.unanswered < MAX_UNANSWERED:
        assert session.wants_input
        newest = offer(session)
        session.complete(Dropped(waiting, "superseded"), 0.0)
        waiting = newest
    assert not session.wants_input
    assert sent(session) == [], "all of them wait for the one that runs"
    session.complete(result(running), 0.0)
    assert session.unanswered == 1
    assert len(sent(session)) == MAX_UNANSWERED - 1
    assert session.wants_input


def test_a_stream_that_sends_only_to_have_it_superseded_is_read_more_slowly() -> None:
    session = make(policy="latest", limits=Limits(max_superseded_per_s=10))

    def drop(reason: DropReason, now: float) -> None:
        session.complete(Dropped(offer(session, now=now), reason), now)

    for _ in range(10):
        drop("superseded", 100.0)
    drop("expired", 100.0)
    session.complete(result(offer(session)), 100.0)
    assert session.pause(100.0) == 0
    drop("superseded", 100.0)
    assert [session.pause(100.0 + s) for s in (0, 0.04, 0.1, 5)] == pytest.approx([0.1, 0.06, 0, 0])
    drop("superseded", 100.05)
    assert session.pause(100.05) == pytest.approx(0.15), "what is owed adds up"
    for _ in range(10):
        drop("superseded", 300.0)
    assert session.pause(300.0) == 0, "and is forgiven in time, but nothing is saved up beyond a second"
    drop("superseded", 300.0)
    assert session.pause(300.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "waste", ["", '{"type": "meta"}', b""], ids=["malformed", "a meta that another one replaces", "no bytes"]
)
def test_a_stream_that_sends_what_is_no_item_is_read_more_slowly_and_closed(waste: str | bytes) -> None:
    session = make(limits=Limits(max_overhead_per_s=10), window=64)
    for _ in range(11):
        session.take(waste, 100.0)
    assert session.pause(100.0) == pytest.approx(0.1 if waste != '{"type": "meta"}' else 0.0)
    now = 100.0
    while now < 100.0 + FLOOD_S and session.close_code is None:
        session.take(waste, now)
        sent(session)
        now += 0.05
    session.take(waste, 100.0 + FLOOD_S)
    session.take(waste, 100.0 + FLOOD_S)
    assert session.close_code == 1008
    assert sent(session)[-1]["code"] == "flooding"


def test_items_and_their_metas_are_read_as_fast_as_they_come() -> None:
    session = make(limits=Limits(max_overhead_per_s=1))
    for _ in range(1000):
        session.take('{"type": "meta", "id": "a"}', 0.0)
        session.complete(result(offer(session)), 0.0)
        sent(session)
    assert session.pause(0.0) == 0


def test_a_stream_whose_messages_take_long_to_parse_is_read_more_slowly_and_not_closed() -> None:
    session = make()
    for n in range(100):
        session.spend_parsing(PARSING_SHARE, 100.0 + n)
        assert session.pause(100.0 + n) == 0
    session.spend_parsing(10 * PARSING_SHARE, 200.0)
    assert session.pause(200.0) == pytest.approx(9)
    assert session.close_code is None


def test_nothing_is_read_from_a_client_that_does_not_read() -> None:
    session = make()
    for _ in range(MAX_OUTGOING):
        assert session.wants_input
        session.take("", 0.0)
    assert not session.wants_input
    assert len(sent(session)) == MAX_OUTGOING
    assert session.wants_input


def test_end_waits_for_what_is_left_and_then_counts() -> None:
    session = make(policy="latest", window=2)
    items = [offer(session) for _ in range(3)]
    session.take(b"", 0.0)
    session.take(END, 0.0)
    assert sent(session) == []
    session.complete(Dropped(items[1], "superseded"), 0.0)
    session.complete(result(items[0]), 0.0)
    assert session.close_code is None
    session.complete(result(items[2]), 0.0)
    answers = sent(session)
    assert answers[-1] == {"type": "end", "received": 4, "results": 2, "dropped": 1, "errors": 1}
    assert [a["type"] for a in answers] == ["result", "dropped", "result", "error", "end"]
    assert session.close_code == 1000


def test_an_empty_stream_ends_at_once() -> None:
    session = make()
    session.take(END, 0.0)
    assert sent(session) == [{"type": "end", "received": 0, "results": 0, "dropped": 0, "errors": 0}]
    assert session.close_code == 1000
    assert not session.wants_input


@pytest.mark.parametrize("late", [b"x", END, '{"type": "meta"}'])
def test_nothing_may_follow_end(late: str | bytes) -> None:
    session = make()
    item = offer(session)
    session.take(END, 0.0)
    assert session.take(late, 0.0) is None
    assert sent(session)[0]["code"] == "malformed"
    session.complete(result(item), 0.0)
    assert types(session) == [("result", 1), ("end", None)]
    assert session.received == 1


@pytest.mark.parametrize("late", [b"x", "", END])
def test_nothing_is_said_after_the_last_word(late: str | bytes) -> None:
    session = make()
    session.take(END, 0.0)
    sent(session)
    assert session.take(late, 0.0) is None
    session.fail(Malformed("late"))
    session.drain(1, 1)
    assert sent(session) == []
    assert (session.close_code, session.received) == (1000, 0)


def test_a_drain_answers_what_was_accepted_and_drops_what_is_new() -> None:
    session = make()
    accepted = offer(session)
    session.drain(10_000, 1000)
    assert sent(session) == [{"type": "goaway", "grace_ms": 10_000, "retry_after_ms": 1000}]
    session.take('{"type": "meta", "id": "new"}', 0.0)
    assert session.take(b"x", 0.0) == Dropped(Item(7, 2, b"x", 0.0), "draining")
    assert sent(session) == []
    session.complete(result(accepted), 0.0)
    answers = sent(session)
    assert [a["type"] for a in answers] == ["result", "dropped", "end"]
    assert answers[1] == {"type": "dropped", "seq": 2, "id": "new", "reason": "draining"}
    assert answers[2] == {"type": "end", "received": 2, "results": 1, "dropped": 1, "errors": 0}
    assert session.close_code == 1001


def test_a_drain_ends_an_idle_stream_at_once() -> None:
    session = make()
    session.drain(10_000, 1000)
    assert types(session) == [("goaway", None), ("end", None)]
    assert session.close_code == 1001


def test_a_client_is_told_of_a_drain_once() -> None:
    session = make()
    offer(session)
    session.drain(10_000, 1000)
    session.drain(0, 1000)
    assert types(session) == [("goaway", None)]


def test_a_stream_that_ended_itself_closes_as_asked_though_the_server_drains() -> None:
    session = make()
    item = offer(session)
    session.take(END, 0.0)
    session.drain(10_000, 1000)
    session.complete(result(item), 0.0)
    assert types(session) == [("goaway", None), ("result", 1), ("end", None)]
    assert session.close_code == 1000


@pytest.mark.parametrize(("error", "code"), [(Idle("silent"), 4408), (Broken(), 1011)])
def test_an_error_of_the_conversation_ends_it(error: Idle | Broken, code: int) -> None:
    session = make()
    session.fail(error)
    assert types(session) == [("error", None)]
    assert session.close_code == code
    session.fail(Malformed("a second one"))
    assert sent(session) == []


def poisoned(item: Item) -> Failed:
    return Failed(item, POISON, "three workers ended", fatal=True)


def test_a_code_of_a_models_own_ends_no_stream_whatever_it_is_called() -> None:
    session = make()
    first, second = offer(session), offer(session)
    session.complete(Failed(first, POISON, "this mushroom is no champignon"), 0.0)
    session.complete(result(second), 0.0)
    assert types(session) == [("error", 1), ("result", 2)]
    assert session.close_code is None


def test_poison_ends_the_stream_after_the_answers_before_it_and_its_own() -> None:
    session = make()
    first, second, third = (offer(session) for _ in range(3))
    session.complete(poisoned(second), 0.0)
    assert (sent(session), session.close_code) == ([], None), "the first is owed its answer"
    session.complete(result(first), 0.0)
    answer, error, farewell = sent(session)
    assert (answer["type"], answer["seq"]) == ("result", 1)
    fault = {"code": "poison", "message": "three workers ended", "retryable": False}
    assert error == {"type": "error", "seq": 2, **fault}
    assert farewell == {"type": "error", **fault}
    assert session.close_code == 1011
    assert not session.wants_input
    assert (session.results, session.errors, session.unanswered) == (1, 1, 1)
    assert third.seq == 3


def test_nothing_is_said_after_the_error_that_ends_a_stream() -> None:
    """All that waits is poisoned with it, at once; a client takes the last error for the reason of the close."""
    session = make()
    items = [offer(session) for _ in range(4)]
    for item in items[:3]:
        session.complete(poisoned(item), 0.0)
    session.complete(result(items[3]), 0.0)
    session.drain(10, 10)
    assert types(session) == [("error", 1), ("error", None)]
    assert session.close_code == 1011


def test_poison_ends_a_stream_that_has_said_end_as_what_it_is() -> None:
    session = make()
    item = offer(session)
    session.take(END, 0.0)
    session.complete(poisoned(item), 0.0)
    assert types(session) == [("error", 1), ("error", None)]
    assert session.close_code == 1011


class Simulation:
    """A client, an engine and a session at random, with the laws checked after every call."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.policy: Policy = self.random.choice(["latest", "queue"])
        self.window = self.random.randint(1, 8)
        self.session = make(
            "bytes",
            limits=Limits(max_item_bytes=50),
            policy=self.policy,
            window=self.window,
            max_age_ms=self.random.choice([None, 5]),
        )
        self.now = 0.0
        self.engine: list[Item] = []
        self.ids: list[str | None] = []
        self.pending: str | None = None
        self.answered: list[tuple[int, str | None]] = []
        self.counts = dict.fromkeys(["result", "dropped", "error"], 0)
        self.end: dict[str, Any] | None = None

    def run(self) -> None:
        steps = [
            self.send_item,
            self.send_item,
            self.send_meta,
            self.send_nonsense,
            self.complete,
            self.complete,
        ]
        for _ in range(self.random.randint(5, 120)):
            self.now += self.random.expovariate(1000)
            self.random.choice(steps)()
            self.read()
        self.random.choice([self.say_end, self.drain])()
        self.send_item()
        while self.engine:
            self.complete()
            self.read()
        self.read()
        assert self.end == {
            "type": "end",
            "received": len(self.ids),
            "results": self.counts["result"],
            "dropped": self.counts["dropped"],
            "errors": self.counts["error"],
        }
        assert self.answered == list(enumerate(self.ids, 1)), "each item once, in order, by its own name"

    def send_item(self) -> None:
        session = self.session
        if not session.wants_input:
            return
        accepts = session.close_code is None and not session._ended
        item = session.take(self.random.randbytes(self.random.choice([0, 1, 50])), self.now)
        if accepts:
            self.ids.append(self.pending)
            self.pending = None
        if isinstance(item, Item):
            self.engine.append(item)
        if self.policy == "queue":
            assert session.unanswered <= session.stream.capacity == self.window + 1

    def send_meta(self) -> None:
        self.pending = self.random.choice([None, f"n{self.random.random()}"])
        self.session.take(
            json.dumps({"type": "meta"} | ({"id": self.pending} if self.pending else {})), self.now
        )

    def send_nonsense(self) -> None:
        self.session.take(self.random.choice(["", "{}", '{"type": "end", "x": 1}']), self.now)

    def complete(self) -> None:
        if self.engine:
            item = self.engine.pop(self.random.randrange(len(self.engine)))
            outcomes: list[Outcome] = [
                result(item),
                Dropped(item, "expired"),
                Failed(item, "model_error", "no"),
            ]
            self.session.complete(self.random.choice(outcomes), self.now)

    def say_end(self) -> None:
        self.session.take(END, self.now)

    def drain(self) -> None:
        self.session.drain(10, 10)

    def read(self) -> None:
        for message in sent(self.session):
            assert self.end is None, "nothing follows the end"
            if message["type"] == "end":
                self.end = message
            elif "seq" in message:
                self.answered.append((message["seq"], message.get("id")))
                self.counts[message["type"]] += 1


@pytest.mark.parametrize("block", range(10))
def test_the_laws_hold_in_whatever_order_things_happen(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        try:
            Simulation(seed).run()
        except AssertionError as exc:
            exc.add_note(f"seed {seed}")
            raise


def test_answers_that_have_not_left_are_counted_wherever_they_wait() -> None:
    session = make()
    first, second = offer(session), offer(session)
    empty = session.held
    session.complete(Result(second, '"' + "x" * 1000 + '"', "1", 1.0, 2.0, 1), 0.0)
    assert session.held >= 1000, "it waits for the first one's answer"
    session.complete(result(first), 0.0)
    assert session.held >= 1000, "it waits to be sent"
    assert [message["seq"] for message in sent(session)] == [1, 2]
    assert session.held == empty == 0
