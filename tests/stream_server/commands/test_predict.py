"""`stream-server predict`: files answered by the same engine, without a server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from stream_server.cli import main

SAMPLES = "tests.inference.sample_models"

SAMPLE = (resources.files("web_client") / "sample.jpg").read_bytes()

Predict = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Run the command on files of a folder; its status, its lines and what it said besides."""
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, **files: bytes) -> tuple[int, list[dict[str, Any]], str]:
        for name, content in files.items():
            Path(name).write_bytes(content)
        status = main(["predict", *argv])
        captured = capsys.readouterr()
        return status, [json.loads(line) for line in captured.out.splitlines()], captured.err

    return run


def test_a_portrait_has_a_face(predict: Predict) -> None:
    status, (line,), errors = predict("faces", "portrait", "--workers=1", portrait=SAMPLE)
    assert (status, errors) == (0, "")
    assert line["file"] == "portrait"
    assert len(line["outputs"]["faces"]) == 1
    assert line["infer_ms"] > 0


def test_options_of_the_model_reach_it(predict: Predict) -> None:
    model = f"options={SAMPLES}:Options"
    status, (line,), _ = predict(model, "a", "--set", "factor=3", a=b"abc")
    assert (status, line["outputs"]["length"]) == (0, 3)


def test_answers_come_in_the_order_of_the_files(predict: Predict) -> None:
    files = {f"f{n}": b"x" * n for n in range(1, 40)}
    status, lines, _ = predict("echo", *files, "--workers=2", **files)
    assert status == 0
    assert [(line["file"], line["outputs"]["bytes"]) for line in lines] == [
        (f"f{n}", n) for n in range(1, 40)
    ]


def test_a_bad_file_costs_itself_alone(predict: Predict) -> None:
    status, lines, errors = predict(
        "faces",
        "good",
        "gone",
        "half",
        "text",
        ".",
        "good",
        good=SAMPLE,
        half=SAMPLE[:9000],
        text=b"no image",
    )
    assert status == 1
    assert [line.get("error", "") for line in lines] == [
        "",
        "unreadable",
        "bad_image",
        "unsupported_image",
        "unreadable",
        "",
    ]
    assert "4 of 6 items have no result" in errors


def test_texts_are_read(predict: Predict) -> None:
    status, (line,), _ = predict("spam", "mail", mail="Grüße, see you at noon".encode())
    assert status == 0
    assert line["outputs"]["label"] in ("spam", "ham")


def test_text_in_another_encoding_is_a_bad_item(predict: Predict) -> None:
    status, lines, _ = predict("spam", "mail", "good", mail="Grüße".encode("latin-1"), good=b"Hello there")
    assert status == 1
    assert lines[0]["error"] == "bad_item"
    assert "outputs" in lines[1]


def test_data_is_json(predict: Predict) -> None:
    model = f"data={SAMPLES}:Data"
    status, lines, _ = predict(model, "good", "bad", good=b'{"x": [1]}', bad=b"{")
    assert status == 1
    assert lines[0]["outputs"] == {"x": [1]}
    assert lines[1]["error"] == "bad_item"


def test_it_takes_what_stream_takes(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "mails").mkdir()
    for name, mail in (("10.txt", b"Hello"), ("9.txt", b"WIN"), ("11.txt", b"\xff")):
        (tmp_path / "mails" / name).write_bytes(mail)
    status, lines, errors = predict("spam", "mails", "one", one=b"Good morning")
    assert [line["file"] for line in lines] == ["mails/9.txt", "mails/10.txt", "mails/11.txt", "one"]
    assert [line.get("error") for line in lines] == [None, None, "bad_item", None]
    assert "1 of 4 items have no result" in errors
    assert status == 1


def test_a_damaged_frame_does_not_end_it(predict: Predict) -> None:
    film = SAMPLE + SAMPLE[:20] + bytes(4) + SAMPLE[20:] + SAMPLE
    status, lines, _ = predict("faces", "film.mjpeg", "sample", **{"film.mjpeg": film})
    assert [(line["file"], line["item"], line.get("error")) for line in lines] == [
        ("film.mjpeg", "1", None),
        ("film.mjpeg", "2", "bad_image"),
        ("film.mjpeg", "3", None),
        ("sample", "sample.jpg", None),
    ]
    assert status == 1


def test_text_of_json_reaches_a_data_model_as_json(predict: Predict) -> None:
    status, lines, _ = predict(f"data={SAMPLES}:Data", "a", a=b'"text"')
    assert (status, lines[0]["outputs"]) == (0, "text")


def test_an_unknown_model_gets_a_sentence(predict: Predict) -> None:
    status, lines, errors = predict("nothing", "a", a=b"x")
    assert (status, lines) == (2, [])
    assert "or name one that ships" in errors


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["gone=no_such:Model"], "no module named 'no_such'"),
        ([f"gone={SAMPLES}:NoSuchClass"], "has no NoSuchClass"),
        ([f"broken={SAMPLES}:LoadRaises"], "loading it failed with OSError"),
        (["faces", "--set", "long_sied=1"], "long_sied"),
        (["faces", "--set", "long_side"], "write it as KEY=VALUE"),
    ],
)
def test_unusable_model_is_reported_with_its_reason(argv: list[str], sentence: str, predict: Predict) -> None:
    status, lines, errors = predict(argv[0], "a", *argv[1:], "--workers=1", a=SAMPLE)
    assert status in (1, 2)
    assert lines == []
    assert sentence in errors.splitlines()[-1]
