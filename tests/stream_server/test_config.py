"""What an operator may set, and what is said of a mistake."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from inference.model import ModelSource
from stream_server.config import SHIPPED, Limits, Settings, Timeouts, cores, named_model, read_settings
from stream_server.errors import ConfigError


def test_an_empty_document_gives_the_defaults() -> None:
    settings = read_settings({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8080, cores())
    assert [model.name for model in settings.models] == ["faces", "spam", "echo"]
    assert settings.allow_host == settings.allow_origin == ()


def test_every_key_can_be_set() -> None:
    document: dict[str, Any] = {
        "server": {
            "host": "::",
            "port": 0,
            "workers": 3,
            "models": ["echo", "mine=my.module:Model"],
            "allow_host": ["cameras.example.org"],
            "allow_origin": ["https://example.org"],
            "sandbox": "require",
            "worker_memory_mb": 4000,
        },
        "limits": {field.name: 7 for field in fields(Limits)},
        "timeouts": {field.name: 7 for field in fields(Timeouts)},
        "models": {"mine": {"threshold": 0.5, "names": ["a"]}},
    }
    assert read_settings(document) == Settings(
        host="::",
        port=0,
        workers=3,
        models=(
            ModelSource("echo", SHIPPED["echo"]),
            ModelSource("mine", "my.module:Model", {"threshold": 0.5, "names": ["a"]}),
        ),
        allow_host=("cameras.example.org",),
        allow_origin=("https://example.org",),
        sandbox="require",
        worker_memory_mb=4000,
        limits=Limits(7, 7, 7, 7),
        timeouts=Timeouts(7, 7, 7, 7, 7),
    )


def test_options_of_a_shipped_model_need_no_list_of_models() -> None:
    (faces, spam, _) = read_settings({"models": {"faces": {"long_side": 320}}}).models
    assert faces.options == {"long_side": 320}
    assert spam.options == {}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"sever": {}}, "unknown table [sever]; there are server, limits, timeouts and models"),
        ({"server": {"prot": 1}}, "unknown key 'prot' in [server]; there are allow_host, "),
        ({"limits": {"max_stream": 1}}, "unknown key 'max_stream' in [limits]"),
        ({"timeouts": {"drain_ms": 1}}, "unknown key 'drain_ms' in [timeouts]"),
        ({"server": {"limits": {"max_streams": 1}}}, "unknown key 'limits' in [server]"),
        ({"server": {"timeouts": {}}}, "unknown key 'timeouts' in [server]"),
        ({"server": 5}, "server must be a table: [server]"),
        ({"limits": [1]}, "limits must be a table"),
        ({"models": {"faces": 1}}, "faces must be a table"),
        ({"models": {"face": {}}}, "[models.face] is not served; there are faces, spam, echo"),
        ({"server": {"port": "80"}}, "port in [server] must be int, not '80'"),
        ({"server": {"port": 80.0}}, "port in [server] must be int, not 80.0"),
        ({"server": {"port": True}}, "port in [server] must be int, not True"),
        ({"server": {"port": -1}}, "port -1 is none"),
        ({"server": {"port": 65536}}, "port 65536 is none"),
        ({"server": {"workers": 0}}, "workers = 0; use 1 to 1024"),
        ({"server": {"workers": 1025}}, "workers = 1025"),
        ({"server": {"sandbox": "on"}}, "sandbox in [server] must be one of auto, require, off, not 'on'"),
        ({"server": {"worker_memory_mb": -1}}, "worker_memory_mb = -1; use 0 for no cap, or MiB"),
        ({"server": {"host": 5}}, "host in [server] must be str"),
        ({"server": {"host": ""}}, "host is empty; use 127.0.0.1"),
        ({"server": {"allow_origin": ["https://Example.org"]}}, "'https://Example.org' is no origin"),
        ({"server": {"allow_origin": ["https://example.org/"]}}, "'https://example.org/' is no origin"),
        ({"server": {"allow_origin": ["null"]}}, "'null' is no origin"),
        ({"server": {"allow_host": "name"}}, "allow_host in [server] must be a list of str"),
        ({"server": {"allow_origin": [1]}}, "allow_origin in [server] must be a list of str"),
        ({"server": {"models": "echo"}}, "models in [server] must be a list of str"),
        ({"server": {"models": ["echo", "echo"]}}, "two models have the same name: echo, echo"),
        ({"server": {"models": ["nothing"]}}, "or name one that ships: faces, spam, echo"),
        ({"server": {"models": ["Bad Name=a:B"]}}, "'Bad Name' is no name for a model"),
        ({"server": {"models": ["../x=a:B"]}}, "'../x' is no name for a model"),
        ({"limits": {"max_streams": 0}}, "max_streams must be above 0"),
        ({"limits": {"max_item_bytes": -5}}, "max_item_bytes must be above 0"),
        ({"limits": {"max_streams": True}}, "max_streams in [limits] must be int, not True"),
        ({"timeouts": {"drain_s": 0}}, "drain_s must be above 0"),
        ({"timeouts": {"write_s": False}}, "write_s in [timeouts] must be float, not False"),
        ({"timeouts": {"close_s": "1"}}, "close_s in [timeouts] must be float, not '1'"),
        ({"timeouts": {"heartbeat_s": math.nan}}, "heartbeat_s must be above 0"),
        ({"timeouts": {"drain_s": math.inf}}, "drain_s must be above 0"),
    ],
)
def test_a_mistake_gets_a_sentence(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        read_settings(document)


def test_a_fraction_of_a_second_is_fine() -> None:
    assert read_settings({"timeouts": {"drain_s": 0.25}}).timeouts.drain_s == 0.25


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_named_by_its_name(name: str) -> None:
    assert named_model(name) == ModelSource(name, SHIPPED[name])


def test_a_users_model_is_named_by_its_class_or_as_asked() -> None:
    assert named_model("mypackage.mymodule:MyModel").name == "mymodel"
    assert named_model("mine=mypackage.mymodule:MyModel").name == "mine"


@pytest.mark.parametrize(
    "text", ["", "model", "a.b:", ":C", "a..b:C", "a.b:C.d", "a.b:c()", "os;x:C", "=a:B"]
)
def test_what_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="or name one that ships"):
        named_model(text)
