"""Names, references and cards of models, and the sentences that say what is wrong with them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.model import ModelCard, ModelError, ModelSource, describe

SAMPLES = "tests.inference.sample_models"
CARD = ModelCard("m", "1", "bytes", "queue", 1, 1000, "")


@pytest.mark.parametrize(
    ("text", "name", "reference"),
    [
        ("package.module:MyModel", "mymodel", "package.module:MyModel"),
        ("module:Model", "model", "module:Model"),
        ("my.model-2=package.module:MyModel", "my.model-2", "package.module:MyModel"),
        ("0=m:M", "0", "m:M"),
        (f"{'a' * 64}=m:M", "a" * 64, "m:M"),
    ],
)
def test_a_source_is_read(text: str, name: str, reference: str) -> None:
    assert ModelSource.parse(text) == ModelSource(name, reference)


@pytest.mark.parametrize(
    "text",
    [
        "", "=", "module", "module:", ":Model", "module:Model:More", "package..module:Model", ".module:Model",
        "module.:Model", "module:Outer.Inner", "path/module.py:Model", "package-x.module:Model", "module :Model",
        "module:Model\n", "module:2nd", "../x:Model", "name=", "name=module",
    ],
)  # fmt: skip
def test_an_invalid_reference_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"not a reference to a model: write it as|is not a valid name"):
        ModelSource.parse(text)


@pytest.mark.parametrize(
    "name",
    ["", "Upper", "-dash", ".dot", "_under", "a/b", "..", "a b", "ä", "a\n", "a" * 65, "a=b", "a%2fb", "a\0"],
)
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="is not a valid name for a model: use up to 64 of"):
        ModelSource(name, "module:Model")


@given(st.text(max_size=70))
def test_any_text_is_a_source_or_a_model_error(text: str) -> None:
    try:
        source = ModelSource.parse(text)
    except ModelError:
        return
    assert source.name.isascii()
    assert "/" not in source.name


def build(cls: str, **options: Any) -> Any:
    return ModelSource("m", f"{SAMPLES}:{cls}", options).build()


def test_a_model_is_built_with_its_options() -> None:
    assert describe("m", build("Options", factor=3)).version == "3"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            ModelSource("m", "no_such_package.module:M"),
            "cannot import no_such_package.module: no module named",
        ),
        (ModelSource("m", f"{SAMPLES}:Absent"), f"module {SAMPLES} has no Absent"),
        (ModelSource("m", f"{SAMPLES}:NOT_A_CLASS"), "NOT_A_CLASS is not a class: its type is int"),
        (ModelSource("m", f"{SAMPLES}:Options"), "'factor'; check its options"),
        (
            ModelSource("m", f"{SAMPLES}:Options", {"factor": 1, "size": 2}),
            "m has no option 'size'; there are factor",
        ),
        (ModelSource("m", f"{SAMPLES}:Length", {"size": 2}), "m has no option 'size'; it has none"),
    ],
)
def test_what_cannot_be_built_says_what_to_change(source: ModelSource, sentence: str) -> None:
    with pytest.raises(ModelError) as caught:
        source.build()
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "import no_such_dependency",
            "no module named 'no_such_dependency'; broken_model imports it (broken_model.py, line 1); install it",
        ),
        (
            "None.attribute",
            "AttributeError: 'NoneType' object has no attribute 'attribute' (broken_model.py, line 1)",
        ),
        ("\n1 / 0", "ZeroDivisionError (broken_model.py, line 2)"),
        ("class", "SyntaxError: invalid syntax (broken_model.py, line 1)"),
    ],
)
def test_an_error_inside_the_module_is_not_taken_for_another(
    code: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_model.py").write_text(code + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError) as caught:
        ModelSource("m", "broken_model:Model").build()
    assert str(caught.value) == f"cannot import broken_model: {error}"
    assert "broken_model" not in sys.modules


def test_a_card_has_the_defaults() -> None:
    assert describe("n", build("Text")) == ModelCard(
        "n", "1", "text", "queue", 8, 10_000, "Answers the text itself."
    )


def test_an_image_model_is_latest_by_default() -> None:
    model = build("Length")
    model.input = "image"
    assert describe("m", model).policy == "latest"
    model.policy = "queue"
    assert describe("m", model).policy == "queue"


def test_a_description_is_the_docstrings_first_line() -> None:
    assert describe("m", build("Length")).description == "Answers how long an item is."
    bare = type("Bare", (type(build("Length")),), {})
    assert describe("m", bare()).description == ""


@pytest.mark.parametrize(
    ("attribute", "value", "sentence"),
    [
        ("input", None, "`input` is None; set it to one of image, bytes, text, data"),
        ("input", "video", "`input` is 'video'"),
        ("policy", "newest", "`policy` is 'newest'; set it to latest or queue"),
        ("version", "v 1", "'v 1' is not a valid version"),
        ("version", "", "'' is not a valid version"),
        ("version", "../1", "is not a valid version"),
        ("max_batch", 0, "`max_batch` must be 1 to 256"),
        ("max_batch", 257, "`max_batch` must be 1 to 256"),
        ("max_batch", True, "`max_batch` must be"),
        ("max_batch", 2.0, "`max_batch` must be"),
        ("timeout_ms", 0, "`timeout_ms` must be 1 to 3,600,000"),
        ("timeout_ms", 3_600_001, "`timeout_ms` must be"),
        ("timeout_ms", "100", "`timeout_ms` must be"),
        ("latency_target_ms", 0, "`latency_target_ms` must be 1 to its `timeout_ms`"),
        ("latency_target_ms", 10_001, "`latency_target_ms` must be 1 to its `timeout_ms`"),
        ("latency_target_ms", 1.5, "`latency_target_ms` must be"),
        ("predict", None, "has no method `predict`"),
        ("load", 5, "has no method `load`"),
    ],
)
def test_a_wrong_attribute_is_named(attribute: str, value: Any, sentence: str) -> None:
    model = build("Length")
    setattr(model, attribute, value)
    with pytest.raises(ModelError) as caught:
        describe("m", model)
    assert sentence in str(caught.value)
    assert "model m" in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "value"), [("max_batch", 256), ("timeout_ms", 3_600_000), ("version", "2023mar")]
)
def test_the_limits_themselves_are_allowed(attribute: str, value: Any) -> None:
    assert getattr(replace(CARD, **{attribute: value}), attribute) == value


def test_an_option_that_the_class_refuses_is_said_in_its_words() -> None:
    with pytest.raises(ModelError, match=r"RefusesOption: factor must be odd, not 2; check its options"):
        build("RefusesOption", factor=2)


def test_a_module_that_hides_behind_an_installed_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("class Model: ...\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match="module queue has no Model: 'queue' is also the name of an installed"
    ):
        ModelSource("m", "queue:Model").build()
