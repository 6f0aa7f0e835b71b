"""A model in one's own process: as the worker answers, without a worker."""

from __future__ import annotations

from importlib import resources

import pytest

from inference import ItemError, LocalModel, ModelError, load_model

SAMPLES = "tests.inference.sample_models"
SAMPLE = (resources.files("web_client") / "sample.jpg").read_bytes()


def test_a_shipped_model_answers_as_a_client_gets_it() -> None:
    model = load_model("faces", long_side=320)
    assert isinstance(model, LocalModel)
    assert (model.card.name, model.card.input) == ("faces", "image")
    answer = model(SAMPLE)
    assert len(answer["faces"]) == 1
    assert (answer["width"], answer["height"]) == (640, 480)


def test_a_bad_item_raises_or_is_returned_in_its_place() -> None:
    model = load_model("faces", long_side=160)
    with pytest.raises(ItemError) as caught:
        model.predict([SAMPLE, SAMPLE[:9000]])
    assert caught.value.code == "bad_image"
    good, bad, again = model.predict([SAMPLE, b"text", SAMPLE], return_errors=True)
    assert good == again
    assert isinstance(bad, ItemError)
    assert bad.code == "unsupported_image"


def test_items_are_what_the_model_takes() -> None:
    text = load_model("spam")
    assert text("Lunch at noon?")["label"] in ("ham", "spam")
    with pytest.raises(TypeError, match="model spam takes a str, not bytes"):
        text(b"Lunch")
    assert load_model("echo").predict([b"abc", bytearray(b"d"), memoryview(b"")]) == [
        {"bytes": 3},
        {"bytes": 1},
        {"bytes": 0},
    ]
    with pytest.raises(TypeError, match="model echo takes bytes, not str"):
        load_model("echo")("abc")
    data = load_model(f"data={SAMPLES}:Data")
    assert data({"x": [1]}) == {"x": [1]}
    with pytest.raises(ValueError, match="JSON"):
        data(float("nan"))


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("nothing", {}, "or name one that ships: faces, spam, echo"),
        ("no_such_module:Model", {}, "no module named 'no_such_module'"),
        (f"{SAMPLES}:Nothing", {}, "has no Nothing"),
        ("faces", {"long_sied": 1}, "faces has no option 'long_sied'"),
        ("inference:Model", {}, "the name 'inference' is taken by a package of this program"),
        ("m=stream_server.mine:Model", {}, "rename stream_server"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_said_with_its_reason(
    model: str, options: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        load_model(model, **options)


def test_a_stateful_model_takes_its_items_as_those_of_one_stream() -> None:
    model = load_model("counts=tests.inference.sample_models:Counts")
    assert [answer["n"] for answer in model.predict(["count", "count", "count"])] == [1, 2, 3]
    with pytest.raises(ItemError):
        model("fail")
    assert model("count")["n"] == 4, "what failed left the state alone"
    model.reset()
    assert model("count")["n"] == 1
