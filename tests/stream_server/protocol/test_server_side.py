"""The server's end of the wire protocol: on the vectors, on any text at all, and read back by the client's end."""

from __future__ import annotations

import json
from typing import Any, get_args
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import items
from inference.intake import DEFAULT_WINDOW
from inference.model import InputKind, ModelCard
from stream_server.errors import (
    STREAM_ERRORS,
    BadOption,
    Broken,
    Malformed,
    StreamServerError,
    WrongKind,
    error_info,
)
from stream_server.protocol import client_side as answers
from stream_server.protocol import server_side as protocol
from stream_server.protocol.server_side import EndOfItems, Meta, StreamOptions, TextItem
from tests.conftest import vectors

KINDS = get_args(InputKind)

CARD = ModelCard("faces", "2023mar", "image", "latest", 1, 10_000, "")

text = st.text(st.characters(), max_size=40)
numbers = st.integers(1, 2**53 - 1)
milliseconds = st.floats(0, 1e9, allow_nan=False)
ids = st.none() | st.text(st.characters(), min_size=1, max_size=protocol.MAX_ID)
anything_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


def item(seq: int) -> items.Item:
    return items.Item(1, seq, b"", 0.0)


def read(message: protocol.ClientMessage) -> Any:
    """A message as the vectors write it."""
    match message:
        case TextItem(payload, meta):
            return {"item": payload.decode(), "id": meta.id, "max_age_ms": meta.max_age_ms}
        case Meta(id_, max_age_ms):
            return {"id": id_, "max_age_ms": max_age_ms}
        case EndOfItems():
            return "end"


@pytest.mark.parametrize("case", vectors("client_messages"), ids=lambda case: case["name"])
def test_client_messages(case: dict[str, Any]) -> None:
    if "fails" in case:
        with pytest.raises((Malformed, WrongKind)) as caught:
            protocol.read_client_message(case["text"], case["input"])
        assert error_info(caught.value).code == case["fails"]
    else:
        assert read(protocol.read_client_message(case["text"], case["input"])) == case["reads"]


@pytest.mark.parametrize("case", vectors("options"), ids=lambda case: case["query"] or "none")
def test_options(case: dict[str, Any]) -> None:
    query = parse_qsl(case["query"], keep_blank_values=True)
    if "fails" in case:
        with pytest.raises(BadOption) as caught:
            protocol.read_options(query)
        assert error_info(caught.value).code == case["fails"]
    else:
        assert protocol.read_options(query) == StreamOptions(**case["reads"])


OPTIONS = st.sampled_from(["policy", "window", "max_age_ms", "weight"])


@given(query=st.lists(st.tuples(OPTIONS | text, text | st.from_regex(r"\A\d+(\.\d+)?\Z")), max_size=3))
def test_no_query_raises_anything_but_bad_option(query: list[tuple[str, str]]) -> None:
    try:
        options = protocol.read_options(query)
    except BadOption:
        return
    assert options.window is None or 1 <= options.window <= protocol.MAX_WINDOW
    assert options.max_age_ms is None or 1 <= options.max_age_ms <= protocol.MAX_AGE_MS
    assert options.weight is None or protocol.MIN_WEIGHT <= options.weight <= 1


@pytest.mark.parametrize(
    ("most", "good", "bad"),
    [
        (1.0, ["1", "1.0", "01", "0.010"], ["1.1", "10"]),
        (10, ["10", "9.99"], ["10.000001"]),
        (0.5, ["0.5"], ["1"]),
    ],
)
def test_a_weight_is_at_most_what_the_operator_allows(most: float, good: list[str], bad: list[str]) -> None:
    for value in good:
        assert protocol.read_options([("weight", value)], most).weight == float(value)
    for value in bad:
        with pytest.raises(BadOption, match=f"weight must be a number from 0.01 to {most:g}, not '{value}'"):
            protocol.read_options([("weight", value)], most)


@given(weight=st.floats(protocol.MIN_WEIGHT, 1))
def test_the_weight_that_a_client_asks_for_is_the_one_that_the_server_reads(weight: float) -> None:
    address = answers.stream_address("http://h", "m", None, StreamOptions(weight=weight))
    read = protocol.read_options(parse_qsl(address.partition("?")[2])).weight
    assert read == pytest.approx(weight, abs=1e-6)


HOSTILE = {
    "lists, 100,000 deep": "[" * 100_000,
    "objects, 100,000 deep": '{"type":' * 100_000,
    "an item, 100,000 deep": '{"type": "item", "data": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "an integer of 5,000 digits": '{"type": "item", "data": ' + "9" * 5000 + "}",
    "an age of 5,000 digits": '{"type": "meta", "max_age_ms": ' + "9" * 5000 + "}",
    "a type of 4,000 digits": '{"type": ' + "9" * 4000 + "}",
    "half a surrogate pair as the type": '{"type": "\\ud800"}',
    "half a surrogate pair as a field": '{"type": "end", "\\udfff": 1}',
    "a NUL": "\0",
    "a byte order mark": '\ufeff{"type": "end"}',
    "NaN as an age": '{"type": "meta", "max_age_ms": NaN}',
    "Infinity deep in data": '{"type": "item", "data": [[{"x": -Infinity}]]}',
    "a number beyond a double deep in data": '{"type": "item", "data": [[{"x": -1E+0309}]]}',
    "a number of 250 digits with an exponent": '{"type": "item", "data": ' + "9" * 250 + "e99}",
    "NaN beside half a surrogate pair": '{"type": "item", "data": ["\\ud800", NaN]}',
    "1e999 beside half a surrogate pair": '{"type": "item", "data": ["\\ud800", 1e999]}',
    "a surrogate that came unescaped": '{"type": "item", "text": "\ud800"}',
    "a control character in a string": '{"type": "item", "data": "\x01"}',
    "a comma too many": '{"type": "item", "data": [1,]}',
    "a number with a leading zero": '{"type": "item", "data": 01}',
    "two messages": '{"type": "end"} {"type": "end"}',
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_messages_are_malformed(message: str, kind: InputKind) -> None:
    with pytest.raises((Malformed, WrongKind)) as caught:
        protocol.read_client_message(message, kind)
    # what is said of it can be sent, and is no echo of megabytes
    assert len(protocol.write_error(caught.value)) < 400


@pytest.mark.parametrize(
    ("message", "kind", "sentence"),
    [
        (
            '{"type": "meta", "max_age_ms": 0}',
            "image",
            "`max_age_ms` must be a whole number from 1 to 3,600,000",
        ),
        (
            '{"type": "meta", "max_age_ms": 1.0}',
            "image",
            "`max_age_ms` must be a whole number from 1 to 3,600,000",
        ),
        ('{"type": "item", "text": "", "id": 1}', "text", "`id` must be a string of 1 to 128 characters"),
        ('{"type": "item", "text": 5}', "text", "`text` must be a string"),
        ('{"type": "item", "text": "", "x": 1}', "text", "unknown field 'x'"),
        ('{"type": "end", "x": 1}', "bytes", "unknown field 'x'"),
        ('{"type": "item"}', "data", "an item for this model needs `data`"),
        ('{"type": "stop"}', "data", "`type` must be item, meta or end"),
        ('{"type": 4}', "data", "`type` must be item, meta or end"),
        ("{}", "text", "`type` must be item, meta or end"),
        ("[]", "text", "a message must be a JSON object with a `type`"),
        ('{"type": "item", "data": 1e999}', "data", "`data` holds a number that is too large"),
        ("[" * 100_000, "data", "a message must be a JSON object with a `type`"),
        ('{"type": "item", "data": ' + "[" * 100_000, "data", "the message is nested too deeply"),
        ("hello", "text", "invalid JSON: "),
    ],
)
def test_malformed_message_names_what_is_allowed(message: str, kind: InputKind, sentence: str) -> None:
    with pytest.raises(Malformed) as caught:
        protocol.read_client_message(message, kind)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    "data",
    [
        "1e308",
        "1e0308",
        "-1.5E+300",
        "9" * 300,
        "0." + "1" * 400,
        "1e-999",
        '"deadbeef0e999"',
        '"' + "7" * 250 + '"',
    ],
)
def test_data_with_numbers_that_fit_is_forwarded_as_it_is(data: str) -> None:
    read_item = protocol.read_client_message(f'{{"type": "item", "data":  {data} }}', "data")
    assert isinstance(read_item, TextItem)
    assert read_item.payload == data.encode()


@pytest.mark.parametrize("kind", ["text", "data"])
def test_of_a_key_that_is_given_twice_the_last_one_counts(kind: InputKind) -> None:
    message = f'{{"type": "item", "{kind}": "first", "id": "a", "{kind}": "last", "id": "b"}}'
    parsed = protocol.read_client_message(message, kind)
    assert isinstance(parsed, TextItem)
    assert (parsed.payload.decode().strip('"'), parsed.meta.id) == ("last", "b")


def test_half_a_surrogate_pair_beside_a_whole_one() -> None:
    parsed = protocol.read_client_message('{"type": "item", "text": "\\ud83d\\ude00\\uD83D"}', "text")
    assert parsed == TextItem("\U0001f600?".encode(), Meta())
    message = '{"type": "item", "data": {"\\udfff": "\\\\ud800"}, "id": "i"}'
    parsed = protocol.read_client_message(message, "data")
    assert isinstance(parsed, TextItem)
    assert (json.loads(parsed.payload), parsed.meta.id) == ({"\udfff": "\\ud800"}, "i")


def test_nesting_ends_in_an_item_or_in_malformed_at_every_depth() -> None:
    """The decoder's and the encoder's limits lie close together, so that the border is where one could escape."""
    outcomes = set()
    for depth in range(1, 1100):
        try:
            message = protocol.read_client_message(
                '{"type": "item", "data": ' + "[" * depth + "]" * depth + "}", "data"
            )
            assert isinstance(message, TextItem)
            outcomes.add("item")
        except Malformed:
            outcomes.add("malformed")
    assert "item" in outcomes


messages = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["item", "meta", "end"]) | anything_json,
        "text": anything_json,
        "data": anything_json,
        "id": ids | anything_json,
        "max_age_ms": st.integers() | anything_json,
        "more": anything_json,
    },
).map(json.dumps)


@given(message=text | anything_json.map(json.dumps) | messages, kind=st.sampled_from(KINDS))
def test_no_text_raises_anything_but_malformed_and_wrong_kind(message: str, kind: InputKind) -> None:
    try:
        parsed = protocol.read_client_message(message, kind)
    except (Malformed, WrongKind) as exc:
        said = json.loads(protocol.write_error(exc))["message"]
    else:
        # a worker gets no bytes that are not UTF-8
        said = parsed.payload.decode()[:0] if isinstance(parsed, TextItem) else ""
    assert len(said) < 300


@given(value=text, id_=ids, max_age_ms=st.none() | st.integers(1, protocol.MAX_AGE_MS))
def test_what_a_client_writes_reads_back(value: str, id_: str | None, max_age_ms: int | None) -> None:
    meta = Meta(id_, max_age_ms)
    clean = value.encode("utf-8", "replace")
    assert protocol.read_client_message(answers.write_item(value, "text", meta), "text") == TextItem(
        clean, meta
    )
    assert protocol.read_client_message(answers.write_meta(meta), "image") == meta


@given(value=anything_json, id_=ids)
def test_data_reaches_the_model_as_it_was(value: Any, id_: str | None) -> None:
    parsed = protocol.read_client_message(answers.write_item(value, "data", Meta(id_)), "data")
    assert isinstance(parsed, TextItem)
    assert json.loads(parsed.payload) == value


def test_a_clients_end_reads_back() -> None:
    assert protocol.read_client_message(answers.END, "image") == EndOfItems()


def test_ready_reads_back() -> None:
    written = protocol.write_ready("s1", CARD, "latest", 1, 8 << 20)
    expected = answers.Ready("s1", "faces", "2023mar", "latest", 1, 8 << 20, "image")
    assert answers.read_server_message(written) == expected


@given(seq=numbers, id_=ids, outputs=anything_json, age=milliseconds, queue=milliseconds, infer=milliseconds)
def test_a_result_reads_back(
    seq: int, id_: str | None, outputs: Any, age: float, queue: float, infer: float
) -> None:
    result = items.Result(item(seq), json.dumps(outputs), "v1.2-b", queue, infer, 3)
    message = answers.read_server_message(protocol.write_result(result, id_, "faces", age))
    assert isinstance(message, answers.Result)
    assert (message.seq, message.id, message.outputs) == (seq, id_, outputs)
    assert (message.model, message.version, message.batch) == ("faces", "v1.2-b", 3)
    assert (message.age_ms, message.queue_ms, message.infer_ms) == pytest.approx(
        (age, queue, infer), abs=0.001
    )


@given(seq=numbers, id_=ids, reason=st.sampled_from(["superseded", "expired", "draining"]))
def test_a_drop_reads_back(seq: int, id_: str | None, reason: Any) -> None:
    written = protocol.write_dropped(items.Dropped(item(seq), reason), id_)
    assert answers.read_server_message(written) == answers.Dropped(seq, reason, id_)


@given(seq=numbers, id_=ids, code=text, message=text, retryable=st.booleans())
def test_an_items_error_reads_back(
    seq: int, id_: str | None, code: str, message: str, retryable: bool
) -> None:
    written = protocol.write_failed(items.Failed(item(seq), code, message, retryable), id_)
    assert answers.read_server_message(written) == answers.Error(code, message, retryable, seq, id_)


@pytest.mark.parametrize("cls", [cls for cls in STREAM_ERRORS if cls is not Broken])
def test_an_error_of_the_stream_reads_back(cls: type[StreamServerError]) -> None:
    info = STREAM_ERRORS[cls]
    expected = answers.Error(info.code, 'say "why"\n', info.retryable, None, None, info.retry_after_ms)
    written = protocol.write_error(cls('say "why"\n'))
    assert answers.read_server_message(written) == expected
    assert ("retry_after_ms" in json.loads(written)) is (info.retry_after_ms is not None)


@pytest.mark.parametrize("error", [Broken("/etc/secret"), RuntimeError("/etc/secret")])
def test_a_defects_own_words_stay_here(error: Exception) -> None:
    written = protocol.write_error(error)
    assert "secret" not in written
    assert json.loads(written)["code"] == "internal"


@given(first=st.integers(0), second=st.integers(0))
def test_goaway_reads_back(first: int, second: int) -> None:
    assert answers.read_server_message(protocol.write_goaway(first, second)) == answers.Goaway(first, second)


@given(counts=st.tuples(*[st.integers(0)] * 4))
def test_end_reads_back(counts: tuple[int, int, int, int]) -> None:
    assert answers.read_server_message(protocol.write_end(*counts)) == answers.End(*counts)


def write(told: dict[str, Any]) -> str:
    """Let the server's own writers say what a vector tells."""
    match told:
        case {"type": "ready"}:
            return protocol.write_ready("s1", CARD, "latest", 1, 8 << 20)
        case {"type": "result", "seq": seq, "outputs": outputs, "queue_ms": queue_ms, "infer_ms": infer_ms}:
            result = items.Result(item(seq), json.dumps(outputs), "1", queue_ms, infer_ms, told["batch"])
            return protocol.write_result(result, told["id"], told["model"], told["age_ms"])
        case {"type": "dropped", "seq": seq, "reason": reason}:
            return protocol.write_dropped(items.Dropped(item(seq), reason), told["id"])
        case {"type": "error", "seq": int(seq)}:
            failed = items.Failed(item(seq), told["code"], told["message"], told["retryable"])
            return protocol.write_failed(failed, told["id"])
        case {"type": "error", "code": code, "message": message}:
            (cls,) = (cls for cls, info in STREAM_ERRORS.items() if info.code == code)
            return protocol.write_error(cls(message))
        case {"type": "goaway", "grace_ms": grace_ms, "retry_after_ms": retry_after_ms}:
            return protocol.write_goaway(grace_ms, retry_after_ms)
        case _:
            return protocol.write_end(told["received"], told["results"], told["dropped"], told["errors"])


@pytest.mark.parametrize(
    "case", [case for case in vectors("server_messages") if case.get("reads")], ids=lambda case: case["name"]
)
def test_the_server_writes_what_the_vectors_say(case: dict[str, Any]) -> None:
    """The vectors that clients are tested on are no fiction: the server's own writers make them."""
    vector = json.loads(case["text"])
    vector.pop("later", None)  # the field of a later version
    assert json.loads(write(case["reads"])) == vector


def test_a_window_of_the_default_is_one_a_client_may_ask_for() -> None:
    assert all(1 <= window <= protocol.MAX_WINDOW for window in DEFAULT_WINDOW.values())
