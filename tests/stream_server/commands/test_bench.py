"""`stream-server bench`: a scenario from end to end, and what is said before anything is measured."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report.results import Say, Section, read_json
from benchmarks.scenarios.catalogue import SUITES, Options
from stream_server.cli import main


def test_cameras_on_a_server_of_their_own_are_counted_to_the_last_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, html = tmp_path / "results.json", tmp_path / "results.html"
    flags = [
        "--model",
        "echo",
        "--workers",
        "1",
        "--streams",
        "3",
        "--fps",
        "20",
        "--seconds",
        "2",
        "--quick",
    ]
    status = main(["bench", "camera", *flags, "--output", str(output), "--html", str(html)])
    results = read_json(output.read_text("utf-8"))
    assert results.facts["command"] == (
        "stream-server bench camera --workers 1 --model echo --streams 3 --fps 20.0 --seconds 2.0 --quick"
    )
    assert "fresh_ms 200" in str(results.facts["options"])
    (section,) = results.sections
    assert "sent items of 42,000 bytes to echo" in section.about
    assert status == bool(section.void)
    figures = {figure.name: figure for figure in section.figures}
    assert figures["camera: errors"].reached
    sent = int(figures["camera: errors"].note.split()[1])
    (unsent,) = figures["camera: frames unaccounted for or never sent"].rounds
    assert sent + unsent == 120, "where the server stood still, some may never have been sent"
    values = {row[0]: row[1] for row in section.grids[0].rows}
    assert values["frames offered"] == 60
    assert values["CPU of the server's tree per answer"] > 0  # type: ignore[operator]
    assert "Age of answers over time" in html.read_text("utf-8")
    assert "camera: age p99" in capsys.readouterr().out


@pytest.mark.parametrize("name", SUITES)
def test_every_scenario_is_there_and_takes_what_its_flags_say(name: str) -> None:
    entry = SUITES[name]
    parameters = list(inspect.signature(entry.load()).parameters)
    assert parameters == [
        "say",
        "quick",
        *(["options"] if entry.takes else []),
        *(["logs"] if entry.logs else []),
    ]
    assert set(entry.takes) <= set(Options.__dataclass_fields__)


@pytest.mark.parametrize("output", [None, "made/results.json"])
def test_logs_are_left_beside_the_results_and_nowhere_else(
    output: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []

    def measure(say: Say, quick: bool, logs: Path | None = None) -> list[Section]:
        asked.append(logs)
        return [Section("mlperf", "")]

    monkeypatch.setattr("benchmarks.scenarios.mlperf.measure", measure)
    flags = ["--output", str(tmp_path / output)] if output else []
    assert main(["bench", "mlperf", *flags]) == 0
    assert asked == [tmp_path / "made" / "results-logs" if output else None]


def test_help_lists_every_scenario_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    out = capsys.readouterr().out
    for name in (*SUITES, "all"):
        assert re.search(rf"^    {name} ", out, re.MULTILINE)
    assert "stream-server bench search" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["camera", "--streams", "0"], "--streams 0: use 1 or more"),
        (["search", "--fps", "3"], "--sustained-rate 5: of 3 frames a second no camera gets as many"),
        (["camera", "--seconds", "nan"], "--seconds nan: use 2 or more"),
        (["camera", "--output", "/dev/null/results.json"], "cannot write the results"),
    ],
)
def test_invalid_options_fail_before_the_run(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["search", "--window", "3"], ["peers", "--fps", "3"], ["nothing"]])
def test_flags_that_a_scenario_does_not_take_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *flags])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("package", "flags"),
    [("psutil", ["camera"]), ("hdrh", ["camera"]), ("matplotlib", ["camera", "--html", "page.html"])],
)
def test_a_missing_package_is_named_with_what_to_install(
    package: str, flags: list[str], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from stream_server.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", *flags],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"the package {package}" in done.stderr
    assert "in a checkout, run `make .venv/bench` or `pip install -e" in done.stderr
    assert done.stderr.count("\n") == 1
