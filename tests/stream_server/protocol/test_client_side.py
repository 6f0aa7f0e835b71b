"""The client's end of the wire: on the shared vectors, read back by the server's end, and its count of a stream."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.errors import ConfigError, ConnectFailed, TooLarge
from stream_server.protocol import client_side as answers
from stream_server.protocol import server_side as protocol
from stream_server.protocol.client_side import Dropped, Error, PendingItems, Ready, Result, Statistics
from stream_server.protocol.server_side import Meta, StreamOptions
from tests.conftest import vectors


@pytest.mark.parametrize("case", vectors("server_messages"), ids=lambda case: case["name"])
def test_server_messages_read_as_the_vectors_say(case: dict[str, Any]) -> None:
    if case.get("fails"):
        with pytest.raises(ConnectFailed):
            answers.read_server_message(case["text"])
        return
    read = answers.read_server_message(case["text"])
    if case["reads"] is None:
        assert read is None
    else:
        assert read is not None
        assert {"type": type(read).__name__.lower(), **msgspec.structs.asdict(read)} == case["reads"]


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "dropped", "seq": "1", "reason": "expired"}',
        '{"type": "dropped", "seq": true, "reason": "expired"}',
        '{"type": "error", "code": "x", "message": "y", "retryable": 1}',
        '{"type": "error", "seq": [], "code": "x", "message": "y", "retryable": true}',
        '{"type": "error", "code": "x", "message": "y", "retryable": true, "retry_after_ms": 0.5}',
        '{"type": "end", "received": 1.5, "results": 0, "dropped": 0, "errors": 0}',
        '{"type": ["ready"]}',
        '{"type": "result"}',
        '{"type": "result", "seq": 1, "outputs": NaN, "model": "m", "version": "1", "age_ms": 1, "queue_ms": 1,'
        ' "infer_ms": 1, "batch": 1}',
        '{"type": "goaway", "grace_ms": Infinity, "retry_after_ms": 1}',
        '{"type": "goaway", "grace_ms": 1e999, "retry_after_ms": 1}',
        '{"type": "goaway", "grace_ms": ' + "9" * 5000 + ', "retry_after_ms": 1}',
        '{"type": "dropped", "seq": 1, "reason": "\ud800"}',
        '{"type": "hint", "x": NaN}',
        "{}",
        "[" * 100_000,
        '{"type": "hint", "x": ' + "[" * 100_000,
    ],
)
def test_message_with_a_wrong_type_is_refused(text: str) -> None:
    with pytest.raises(ConnectFailed, match=r"stream-inference\.v1"):
        answers.read_server_message(text)


def test_a_result_may_hold_whatever_json_can() -> None:
    outputs = '{"half": "\\ud800", "twice": 1, "twice": 2, "huge": ' + "9" * 400 + "}"
    read = answers.read_server_message(
        f'{{"type": "result", "seq": 1, "outputs": {outputs}, "model": "m", "version": "1", "age_ms": 1,'
        ' "queue_ms": 1, "infer_ms": 1, "batch": 1}'
    )
    assert isinstance(read, Result)
    assert read.outputs == {"half": "\ud800", "twice": 2, "huge": int("9" * 400)}


def test_a_reason_of_a_later_version_is_read() -> None:
    assert answers.read_server_message('{"type": "dropped", "seq": 1, "reason": "new"}') == Dropped(1, "new")


READS = [case for case in vectors("client_messages") if isinstance(case.get("reads"), dict)]


@pytest.mark.parametrize("case", READS, ids=lambda case: case["name"])
def test_what_the_client_writes_is_what_the_server_reads(case: dict[str, Any]) -> None:
    message = json.loads(case["text"])
    meta = Meta(message.get("id"), message.get("max_age_ms"))
    kind = case["input"]
    text = answers.write_item(message[kind], kind, meta) if kind in message else answers.write_meta(meta)
    assert protocol.read_client_message(text, kind) == protocol.read_client_message(case["text"], kind)


def test_server_reads_the_clients_end() -> None:
    assert isinstance(protocol.read_client_message(answers.END, "image"), protocol.EndOfItems)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("ws://host:1/", "http://host:1"),
        ("https://host", "https://host"),
        ("wss://host/models/here/", "https://host/models/here"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_an_address_may_have_any_of_four_schemes(url: str, address: str) -> None:
    assert answers.server_address(url) == address


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8080", "ftp://host", "http://", "http://host:99999", "http://[::1", "http://h/?a=1"],
)
def test_invalid_address_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match="write it as http://HOST:PORT"):
        answers.server_address(url)


def test_a_streams_address_names_model_version_and_what_was_asked_for() -> None:
    def address(model: str, version: str | None, **options: Any) -> str:
        return answers.stream_address("https://host/base", model, version, StreamOptions(**options))

    assert address("faces", None) == "wss://host/base/v2/models/faces/stream"
    assert address("../x", "1") == "wss://host/base/v2/models/..%2Fx/versions/1/stream"
    query = "policy=queue&window=4&max_age_ms=250&weight=0.5"
    assert address("faces", None, policy="queue", window=4, max_age_ms=250, weight=0.5).endswith(f"?{query}")
    weighs = [address("m", None, weight=weight).partition("=")[2] for weight in (1, 0.25, 1 / 3, 0.0)]
    assert weighs == ["1", "0.25", "0.333333", "0.0"], "no more digits than the server reads"


def ready(kind: str, limit: int = 100) -> Ready:
    return Ready("s1", "m", "1", "queue", 4, limit, kind)  # type: ignore[arg-type]


def test_bytes_travel_as_they_are() -> None:
    assert answers.encode_item(bytearray(b"\x00\x01"), ready("image"), None) == b"\x00\x01"
    assert answers.encode_item(memoryview(b"\x00\x01"), ready("bytes"), 5) == b"\x00\x01"


@pytest.mark.parametrize(
    ("kind", "item", "words"),
    [
        ("image", "photo.jpg", "takes an encoded image, such as a JPEG file's bytes, not str"),
        ("bytes", [1, 2], "takes bytes, not list"),
        ("text", b"hello", "takes a str, not bytes"),
        ("data", {1, 2}, "set is not JSON serializable"),
    ],
)
def test_item_of_a_wrong_kind_is_a_type_error(kind: str, item: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        answers.encode_item(item, ready(kind), None)


def test_item_that_the_server_would_refuse_is_not_sent() -> None:
    assert len(answers.encode_item(bytes(100), ready("image"), None)) == 100
    with pytest.raises(TooLarge, match="101 bytes is over this server's limit of 100"):
        answers.encode_item(bytes(101), ready("image"), None)
    with pytest.raises(TooLarge):
        answers.encode_item("ä" * 50, ready("text"), None)  # larger on the wire than in memory
    with pytest.raises(ValueError, match="JSON"):
        answers.encode_item(float("nan"), ready("data"), None)
    for age in (0, -1, protocol.MAX_AGE_MS + 1):
        with pytest.raises(ValueError, match="max_age_ms"):
            answers.encode_item(b"", ready("image"), age)


def result(seq: int) -> Result:
    return Result(seq, None, "m", "1", 1.0, 0.5, 0.5, 1)


def test_an_answer_gets_the_clients_own_id_and_number() -> None:
    pending = PendingItems()
    assert [pending.send("a"), pending.send(None)] == [1, 2]
    assert pending.settle(result(1)) == msgspec.structs.replace(result(1), id="a")
    lost = pending.lose("the cable")
    assert lost == [Error("connection_lost", "the cable", retryable=True, seq=2)]
    assert pending.send("b") == 3
    # a new connection counts from 1 again
    assert pending.settle(Dropped(1, "expired")) == Dropped(3, "expired", "b")
    assert pending.statistics == Statistics(sent=3, results=1, dropped=1, errors=1, unanswered=0)


@pytest.mark.parametrize("seq", [0, 2, 3])
def test_answer_out_of_order_is_refused(seq: int) -> None:
    pending = PendingItems()
    pending.send(None)
    pending.send(None)
    with pytest.raises(ConnectFailed, match=f"answered item {seq} where 1 was next"):
        pending.settle(result(seq))


def test_an_answer_to_nothing_is_refused() -> None:
    with pytest.raises(ConnectFailed):
        PendingItems().settle(result(1))


@given(st.lists(st.sampled_from(["send", "result", "dropped", "error", "lose"])))
def test_whatever_happens_every_item_has_one_answer_in_order(steps: list[str]) -> None:
    pending = PendingItems()
    given_out: list[int | None] = []
    on_connection = 0
    for step in steps:
        if step == "send":
            pending.send(None)
        elif step == "lose":
            given_out += [answer.seq for answer in pending.lose("")]
            on_connection = 0
        elif pending.unanswered:
            on_connection += 1
            answer: answers.Answer = result(on_connection)
            if step == "dropped":
                answer = Dropped(on_connection, "superseded")
            elif step == "error":
                answer = Error("bad_image", "", retryable=False, seq=on_connection)
            given_out.append(pending.settle(answer).seq)
        now = pending.statistics
        assert now.sent == now.results + now.dropped + now.errors + now.unanswered
        assert now.unanswered == pending.unanswered
    assert given_out == list(range(1, len(given_out) + 1))
    assert len(given_out) + pending.unanswered == pending.sent


@pytest.mark.parametrize("value", [33.3, 33.0, True, "33", float("nan"), b"1"])
def test_an_age_that_is_not_a_whole_number_is_a_type_error(value: Any) -> None:
    for kind, item in (("image", b"x"), ("text", "x"), ("data", 1)):
        with pytest.raises(TypeError, match="max_age_ms must be a whole number from 1 to 3,600,000, not"):
            answers.encode_item(item, ready(kind), value)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"max_age_ms": 33.3}, TypeError, "max_age_ms must be a whole number from 1 to 3,600,000, not 33.3"),
        ({"max_age_ms": True}, TypeError, "max_age_ms must be a whole number"),
        ({"max_age_ms": "33"}, TypeError, "max_age_ms must be a whole number from 1 to 3,600,000, not '33'"),
        ({"max_age_ms": float("nan")}, TypeError, "max_age_ms must be a whole number"),
        ({"max_age_ms": 0}, ValueError, "max_age_ms must be a whole number from 1 to 3,600,000, not 0"),
        ({"max_age_ms": 3_600_001}, ValueError, "max_age_ms must be a whole number"),
        ({"window": True}, TypeError, "window must be a whole number of at least 1, not True"),
        ({"window": "4"}, TypeError, "window must be a whole number"),
        ({"window": 4.0}, TypeError, "window must be a whole number"),
        ({"window": 0}, ValueError, "window must be a whole number of at least 1, not 0"),
        ({"weight": True}, TypeError, "weight must be a number, not True"),
        ({"weight": "1"}, TypeError, "weight must be a number, not '1'"),
        ({"weight": float("nan")}, ValueError, "weight must be a number of at least 0.01, not nan"),
        ({"weight": float("inf")}, ValueError, "weight must be a number of at least 0.01, not inf"),
        ({"weight": 0.001}, ValueError, "weight must be a number of at least 0.01, not 0.001"),
        ({"policy": "newest"}, ValueError, "policy must be latest or queue, not 'newest'"),
        ({"policy": ["latest"]}, ValueError, "policy must be latest or queue"),
    ],
)
def test_invalid_option_raises_before_anything_is_sent(
    options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        answers.check_options(StreamOptions(**options))


def test_upper_limits_are_left_to_the_server() -> None:
    answers.check_options(StreamOptions("latest", 65, 1, 100))
    answers.check_options(StreamOptions())


@pytest.mark.parametrize(("text", "each"), [("\u043f", 2), ("\u65e5", 3), ("\U0001f600", 4)])
def test_a_text_takes_no_more_than_its_utf8(text: str, each: int) -> None:
    around = len(answers.write_item("", "text", Meta()))
    assert len(str(answers.encode_item(text * 100, ready("text", around + 100 * each), None)).encode()) > 100
    with pytest.raises(TooLarge, match=f"an item of {around + 100 * each:,} bytes"):
        answers.encode_item(text * 100, ready("text", around + 100 * each - 1), None)


def test_half_a_surrogate_pair_makes_no_other_character_longer() -> None:
    text = answers.write_item("\u0436" * 1000 + "\ud83d", "text", Meta())
    assert len(text.encode()) < 2100
    assert json.loads(text)["text"] == "\u0436" * 1000 + "\ud83d"
