"""The command line: every mistake gets one line and an exit status, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest

from inference.model import ModelError
from stream_server.cli import COMMANDS, main, make_parser
from stream_server.commands import serve
from stream_server.errors import ConfigError, ConnectFailed
from tests.conftest import RunningServer

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"stream-server {metadata.version('stream-inference-server')}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for command, text in COMMANDS.items():
        assert command in out
        assert text in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"stream-server {command}" in out
    assert "examples:" in out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["sevre"], "invalid choice: 'sevre'"),
        (["serve", "--prot", "1"], "unrecognized arguments: --prot 1"),
        (["serve", "--port", "eighty"], "argument --port: invalid int value: 'eighty'"),
        (["predict"], "the following arguments are required: MODEL, SOURCE"),
        (["predict", "faces"], "the following arguments are required: SOURCE"),
    ],
)
def test_wrong_arguments_exit_with_2(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigError("write it so"), 2, "stream-server: write it so\n"),
        (ConnectFailed("no server there"), 1, "stream-server: no server there\n"),
        (ModelError("no method `load`"), 1, "stream-server: no method `load`\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_one_line_and_a_status(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(_: Any) -> int:
        raise error

    monkeypatch.setattr(serve, "run", run)
    assert main(["serve"]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", said)


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "run", lambda _: {}["nothing"])
    with pytest.raises(KeyError):
        main(["serve"])


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stream_server", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("stream-server ")


def test_the_installed_command_is_this_one() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="stream-server")
    assert script.load() is main


def test_every_command_has_a_run() -> None:
    for command in COMMANDS:
        assert callable(import_module(f"stream_server.commands.{command}").run)
    assert callable(make_parser("serve").parse_args(["serve"]).run)


LOADED = """
import sys
from stream_server.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(" ".join(sys.modules), file=sys.stderr)
"""

HEAVY = {"aiohttp", "benchmarks", "cv2", "matplotlib", "numpy", "onnxruntime", "rich", "websockets"}


@pytest.mark.parametrize(
    ("argv", "may"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["serve", "--help"], {"aiohttp"}),
        (["models", "--help"], {"rich"}),
        (["bench", "--help"], {"benchmarks"}),
        (["predict", "--help"], {"rich"}),
        (["stream", "--help"], {"cv2", "numpy", "rich", "websockets"}),
    ],
)
def test_only_the_command_that_runs_is_imported(argv: list[str], may: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *argv], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = done.stderr.split()
    assert {name for name in loaded if name in HEAVY} <= may
    commands = {name.rpartition(".")[2] for name in loaded if name.startswith("stream_server.commands.")}
    assert commands & set(COMMANDS) == set(argv) & set(COMMANDS)


@pytest.fixture(params=["module", "package"])
def folder_of_namesakes(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder whose own modules are named like our packages, and must not be imported."""
    for name in ("benchmarks", "inference", "web_client"):
        file = tmp_path / f"{name}.py"
        if request.param == "package":
            (tmp_path / name).mkdir()
            file = tmp_path / name / "__init__.py"
        file.write_text(f"raise SystemExit('the {name} of this folder was imported')\n")
    return tmp_path


SCRIPT = "import sys; from stream_server.cli import main; sys.exit(main())"
"""What pip installs as `stream-server`; a script's own folder is first on the path, not the current one."""


@pytest.mark.parametrize("start", ["script", "module"])
def test_no_command_imports_from_the_current_folder(start: str, folder_of_namesakes: Path) -> None:
    script = folder_of_namesakes / "bin" / "stream-server"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    program = [str(script)] if start == "script" else ["-m", "stream_server"]
    for argv in (["bench", "--help"], ["predict", "echo", "photo", "--workers=1"]):
        (folder_of_namesakes / "photo").write_bytes(b"abc")
        done = subprocess.run(
            [sys.executable, *program, *argv],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder_of_namesakes,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_server_starts_in_a_folder_of_namesakes(
    folder_of_namesakes: Path, start_server: Callable[..., RunningServer]
) -> None:
    server = start_server("--workers=1", "--model=echo", cwd=folder_of_namesakes, PYTHONPATH=str(ROOT))
    assert server.get("/")[0] == 200
    assert server.get("/v2/health/ready")[0] == 200
