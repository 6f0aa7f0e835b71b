"""The command line: every mistake gets one line and an exit status, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

from inference.model import ModelError
from stream_server.cli import COMMANDS, main, make_parser
from stream_server.commands import serve
from stream_server.errors import ConfigError, ConnectFailed


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
        (["predict"], "the following arguments are required: MODEL, FILE"),
        (["predict", "faces"], "the following arguments are required: FILE"),
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
    parser = make_parser()
    assert callable(parser.parse_args(["serve"]).run)
