"""`stream-server serve`: flags and the settings file put together, and what it prints."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference.model import ModelSource
from inference.pool.groups import Group
from stream_server.cli import main, make_parser
from stream_server.commands.flags import assign
from stream_server.commands.serve import document, read_group
from stream_server.errors import ConfigError
from stream_server.server.config import Settings
from stream_server.server.config_file import read_settings
from tests.conftest import START_TIMEOUT, RunningServer

SAMPLES = "tests.inference.sample_models"


def settings(*argv: str) -> Settings:
    return read_settings(document(make_parser("serve").parse_args(["serve", *argv])))


def test_without_flags_the_defaults_hold() -> None:
    assert settings() == Settings()


def test_every_flag_is_a_setting() -> None:
    made = settings(
        *("--host", "0.0.0.0", "--port", "80", "--workers", "8"),
        *("--model", "faces", "--model", "mine=my.module:Mine", "--model", "spam"),
        *("--allow-origin", "https://a.example", "--allow-origin", "https://b.example"),
        *("--allow-host", "a.example", "--sandbox", "off"),
        *("--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "::1"),
        *("--group", "rare=faces:2", "--group", "own=mine"),
        *(
            "--set",
            "models.faces.options.long_side=320",
            "--set",
            "models.mine.options.name=a b",
            "--set",
            "limits.max_streams=5",
        ),
    )
    assert (made.host, made.port, made.workers) == ("0.0.0.0", 80, 8)
    assert made.sandbox == "off"
    assert made.allow_origin == ("https://a.example", "https://b.example")
    assert made.allow_host == ("a.example",)
    assert made.trusted_proxies == ("10.0.0.0/8", "::1")
    assert made.models == (
        ModelSource("faces", "inference.models.faces:Faces", {"long_side": 320}),
        ModelSource("mine", "my.module:Mine", {"name": "a b"}),
        ModelSource("spam", "inference.models.spam:Spam"),
    )
    assert made.limits.max_streams == 5
    assert made.groups == (Group("rare", ("faces",), 2), Group("own", ("mine",), 1))


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        '[server]\nport = 81\nworkers = 3\nmodels = ["echo", "spam", "faces"]\n'
        "[limits]\nmax_streams = 7\nmax_text_bytes = 9\n"
        '[groups.rare]\nmodels = ["echo"]\nworkers = 4\n'
    )
    flags = ("--port", "82", "--set", "limits.max_streams=8", "--group", "rare=echo,spam")
    made = settings("--config", str(file), *flags)
    assert (made.port, made.workers) == (82, 3)
    assert [model.name for model in made.models] == ["echo", "spam", "faces"]
    assert made.groups == (Group("rare", ("echo", "spam"), 1),)
    assert (made.limits.max_streams, made.limits.max_text_bytes) == (8, 9)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("rare=spam", ("rare", ["spam"], 1)),
        ("rare=spam,echo:3", ("rare", ["spam", "echo"], 3)),
        ("r.1_a-b=a.b_c-d:0", ("r.1_a-b", ["a.b_c-d"], 0)),  # how many may be is a setting's business
        ("default=spam:2", ("default", ["spam"], 2)),
    ],
)
def test_a_group_is_a_name_models_and_a_number(text: str, group: tuple[str, list[str], int]) -> None:
    assert read_group(text) == group


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rare",
        "rare=",
        "=spam",
        "rare=:1",
        "rare=spam:",
        "rare=spam:x",
        "rare=spam:-1",
        "rare=spam:1.5",
        "rare=spam: 1",
        "rare=spam:1:2",
        "rare=spam,:1",
        "rare=spam, echo:1",
        "rare=spam echo:1",
        "rare=Spam:1",
        "Rare=spam:1",
        "rare=mine=my.module:Mine",
        "-rare=spam",
        "rare=../x",
    ],
)
def test_invalid_group_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write it as NAME=MODEL,MODEL:N, e\.g\. rare=spam,echo:1"):
        read_group(text)


def test_a_group_may_have_a_dot_in_its_name() -> None:
    assert settings("--group", "a.b=spam").groups == (Group("a.b", ("spam",), 1),)


@pytest.mark.parametrize(
    ("assignment", "values"),
    [
        ("a=1", {"a": 1}),
        ("a.b.c=0.5", {"a": {"b": {"c": 0.5}}}),
        ("a=true", {"a": True}),
        ('a="1"', {"a": "1"}),
        ("a=word", {"a": "word"}),
        ("a=two words", {"a": "two words"}),
        ("a=https://x.example/?b=c", {"a": "https://x.example/?b=c"}),
        ('a=["x", "y"]', {"a": ["x", "y"]}),
        ("a=" + "9" * 5000, {"a": "9" * 5000}),
        ("a=" + "[" * 5000, {"a": "[" * 5000}),
        ("a=", {"a": ""}),
    ],
)
def test_an_assignment_is_toml_or_a_word(assignment: str, values: dict[str, Any]) -> None:
    made: dict[str, Any] = {}
    assign(made, assignment)
    assert made == values


def test_assignments_go_side_by_side() -> None:
    made: dict[str, Any] = {"a": {"x": 1}}
    for assignment in ("a.y=2", "a.x=3"):
        assign(made, assignment)
    assert made == {"a": {"x": 3, "y": 2}}


@pytest.mark.parametrize("assignment", ["", "a", "=1", ".a=1", "a.=1", "a..b=1"])
def test_invalid_assignment_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="write it as KEY=VALUE"):
        assign({}, assignment)


def test_assignment_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="a is not a table"):
        assign({"a": 1}, "a.b=1")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--model", "nothing"], "or name one that ships: faces, spam, echo"),
        (["--model", "echo", "--model", "echo"], "two models have the same name"),
        (["--port", "70000"], "must be a whole number from 0 to 65,535 (0 takes a free one), not 70000"),
        (["--workers", "0"], "must be a whole number from 1 to 1,024 (one per core is best), not 0"),
        (
            ["--group", "rare=spam:0"],
            "workers in [groups.rare] must be a whole number from 1 to 1,024, not 0",
        ),
        (["--group", "rare=ham"], "group rare has no model 'ham' to hold"),
        (["--group", "rare=spam", "--group", "own=spam"], "model spam is in two groups"),
        (["--group", "rare=spam:"], "write it as NAME=MODEL,MODEL:N"),
        (["--set", "groups=5", "--group", "rare=spam"], "groups "),
        (["--set", "server.spares=-1"], "spares in [server] must be a whole number from 0 to 16"),
        (["--set", "limits.max_stream=1"], "unknown key 'max_stream' in [limits]"),
        (["--set", "limit.max_streams=1"], "unknown table [limit]"),
        (["--set", "limits.max_streams"], "write it as KEY=VALUE"),
        (["--set", "server=5"], "server must be a table"),
        (["--set", "server=5", "--port", "0"], "server must be a table"),
        (["--set", "server.port=0x"], "port in [server] must be a whole number"),
        (["--config", "no/such/file.toml"], "cannot read no/such/file.toml: No such file or directory"),
        (
            ["--workers", "4", "--model", "spam", "--group", "own=spam"],
            "every model is in one: give the groups theirs",
        ),
        (
            ["--group", "g=echo", "--group", "g=spam"],
            "--group g is given twice; name all of its models in one",
        ),
        (["--config", "."], "cannot read ."),
        (["--trusted-proxy", "proxy"], "trusted_proxies has 'proxy', which is not a network"),
        (["--set", "models.faces.long_side=320"], "belongs in [models.faces.options]"),
        (["--set", "models.faces.options.since=2026-01-02"], "which JSON cannot hold"),
        (["--model", "m=inference:Model"], "inference:Model: the name 'inference' is taken by a package"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
    ],
)
def test_a_wrong_setting_gets_a_sentence(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("stream-server: ")
    assert sentence in captured.err


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"[server]\n[server]\n"])
def test_a_broken_file_gets_a_sentence(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(content)
    assert main(["serve", "--config", str(file)]) == 2
    assert f"stream-server: cannot read {file}: " in capsys.readouterr().err


def run(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stream_server", "serve", "--port=0", "--workers=1", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a server that ends by itself has written."""
    try:
        return process.communicate(timeout=START_TIMEOUT)
    finally:
        process.kill()


def test_it_says_what_runs_and_where_and_how_it_is() -> None:
    with run("--self-check") as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(6)]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=START_TIMEOUT)
    assert re.fullmatch(
        r"stream-server is ready at http://127\.0\.0\.1:\d+ after \d+\.\d s, 1 worker, 1 spare\n", lines[0]
    )
    assert lines[1:4] == ["  faces@2023mar: ready\n", "  spam@1: ready\n", "  echo@1: ready\n"]
    assert re.match(
        r"self-check: 1 face in the sample portrait \(score 0\.\d\d\), answered in \d+\.\d ms", lines[4]
    )
    assert re.match(r"open http://127\.0\.0\.1:\d+ in a browser; Ctrl-C stops the server\n", lines[5])
    assert (process.returncode, errors) == (0, "")


def test_model_that_does_not_load_is_reported_with_its_reason() -> None:
    with run("--model=echo", f"--model=broken={SAMPLES}:LoadRaises") as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=START_TIMEOUT)
    assert lines[0].startswith("stream-server is partly ready at http://127.0.0.1:")
    assert lines[0].endswith("; unavailable: broken\n")
    assert lines[1] == "  echo@1: ready\n"
    assert lines[2].startswith("  broken: unavailable: loading it failed with OSError")
    assert lines[2].endswith("; it is tried again\n")
    assert "no weights in /home/someone/secret" in errors, "the log has what clients are not told"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--model=m=no_such:Model"], "cannot import no_such: no module named 'no_such'"),
        ([f"--model=m={SAMPLES}:NoSuchClass"], f"module {SAMPLES} has no NoSuchClass"),
        ([f"--model=m={SAMPLES}:NOT_A_CLASS"], "is not a class"),
        ([f"--model=m={SAMPLES}:Length", "--set=models.m.options.x=1"], "m has no option 'x'; it has none"),
        ([f"--model=m={SAMPLES}:Options"], "missing 1 required keyword-only argument: 'factor'"),
        (
            [f"--model=m={SAMPLES}:RefusesOption", "--set=models.m.options.factor=2"],
            "RefusesOption: factor must be odd, not 2; check its options",
        ),
        (
            [f"--model=m={SAMPLES}:LoadRaises", "--model=other=no_such:Model"],
            "model other cannot be served: cannot import no_such",
        ),
        ([f"--model=m={SAMPLES}:NoPredict"], "model m has no method `predict`"),
        ([f"--model=m={SAMPLES}:AsyncPredict"], "`predict` is `async def`; write `def`"),
        ([f"--model=m={SAMPLES}:WholeBatch"], "`predict` returned 1 answer to 2 items"),
        (
            [f"--model=m={SAMPLES}:Misspelt"],
            "NameError: name 'length' is not defined (sample_models.py, line ",
        ),
        (
            [f"--model=m={SAMPLES}:NeedsLibrary"],
            "ModuleNotFoundError: No module named 'no_such_library' (sample_models.py, line ",
        ),
    ],
)
def test_a_model_that_would_not_load_at_another_try_is_a_wrong_setting(
    argv: list[str], sentence: str
) -> None:
    with run("--model=echo", *argv) as process:
        out, errors = ended(process)
    assert (process.returncode, out) == (2, "")
    last = errors.splitlines()[-1]
    assert last.startswith("stream-server: model ")
    assert sentence in last


def test_it_ends_without_waiting_for_models_that_still_load() -> None:
    with run("--model=gone=no_such:Model", f"--model=slow={SAMPLES}:LoadHangs") as process:
        ended(process)
    assert process.returncode == 2


def test_workers_and_spares_of_all_groups_are_announced() -> None:
    with run("--model=echo", f"--model=length={SAMPLES}:Length", "--group=apart=length:2") as process:
        assert process.stdout
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=START_TIMEOUT)
    assert line.endswith(" s, 3 workers, 2 spares\n")


def test_an_address_of_version_6_is_written_as_one(start_server: Callable[..., RunningServer]) -> None:
    server = start_server("--host=::1", "--workers=1", "--model=echo")
    assert re.fullmatch(r"http://\[::1\]:\d+", server.url)
    assert server.get("/v2/health/ready")[0] == 200


def test_at_most_a_line_per_stream_is_logged_and_never_an_item(server: RunningServer) -> None:
    with run("--model=echo", "-v") as process:
        assert process.stdout
        found = re.search(r"ready at http://(\S+)", process.stdout.readline())
        assert found
        code = (
            "import asyncio; from stream_server import connect\n"
            "async def main():\n"
            f"    async with connect('http://{found[1]}', model='echo') as stream:\n"
            "        async for _ in stream.process([b'SECRET'] * 20): pass\n"
            "asyncio.run(main())\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=START_TIMEOUT)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=START_TIMEOUT)
    assert "SECRET" not in errors
    assert (
        len(
            re.findall(
                r"INFO stream_server.server.connection: stream s1 to echo@1: 20 items, 20 results", errors
            )
        )
        == 1
    )
    assert len(re.findall(r"s1\b", errors)) == 1


def test_a_settings_file_that_cannot_be_parsed_gets_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("port = " + "9" * 5000, "x = " + "[" * 5000, "port = ", "\xff"):
        (tmp_path / "server.toml").write_bytes(text.encode("latin-1"))
        assert main(["serve", "--config", str(tmp_path / "server.toml")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"stream-server: cannot read {tmp_path / 'server.toml'}: ")
        assert error.count("\n") == 1


def test_serving_settings_of_any_model_reach_the_server(start_server: Callable[..., RunningServer]) -> None:
    settings = ("min_rate=2.5", "max_batch=3", "timeout_ms=700", "latency_target_ms=70", "policy=latest")
    server = start_server(
        "--workers=1", "--model=echo", *(f"--set=models.echo.{setting}" for setting in settings)
    )
    status, _, body = server.get("/v2/models/echo")
    assert status == 200
    served = json.loads(body)
    keys = ("min_rate", "max_batch", "timeout_ms", "latency_target_ms", "policy")
    assert [served[key] for key in keys] == [2.5, 3, 700, 70, "latest"]
