"""What an operator may set, and what is said of a mistake."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from inference.model import ModelSource
from inference.pool.groups import Group
from stream_server.errors import ConfigError
from stream_server.server.config import (
    RANGES,
    SHIPPED,
    Limits,
    Settings,
    Timeouts,
    cores,
    named_model,
    read_settings,
)

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


def test_an_empty_document_gives_the_defaults() -> None:
    settings = read_settings({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8080, cores())
    assert [model.name for model in settings.models] == ["faces", "spam", "echo"]
    assert settings.allow_host == settings.allow_origin == settings.groups == ()
    assert (settings.spares, settings.limits.max_weight) == (1, 1.0)


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
            "spares": 2,
            "recycle_mb": 100,
            "recycle_batches": 1000,
        },
        "limits": {field.name: 7 for field in fields(Limits)},
        "timeouts": {field.name: 7 for field in fields(Timeouts)},
        "models": {"mine": {"threshold": 0.5, "names": ["a"]}},
        "groups": {"rare": {"models": ["mine"], "workers": 2}},
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
        spares=2,
        recycle_mb=100,
        recycle_batches=1000,
        groups=(Group("rare", ("mine",), 2),),
        limits=Limits(*(7 for _ in fields(Limits))),
        timeouts=Timeouts(7, 7, 7, 7, 7),
    )


def test_options_of_a_shipped_model_need_no_list_of_models() -> None:
    (faces, spam, _) = read_settings({"models": {"faces": {"long_side": 320}}}).models
    assert faces.options == {"long_side": 320}
    assert spam.options == {}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"sever": {}}, "unknown table [sever]; there are server, limits, timeouts, models, groups"),
        ({"server": {"prot": 1}}, "unknown key 'prot' in [server]; there are allow_host, "),
        ({"limits": {"max_stream": 1}}, "unknown key 'max_stream' in [limits]"),
        ({"timeouts": {"drain_ms": 1}}, "unknown key 'drain_ms' in [timeouts]"),
        ({"server": {"limits": {"max_streams": 1}}}, "unknown key 'limits' in [server]"),
        ({"server": {"timeouts": {}}}, "unknown key 'timeouts' in [server]"),
        ({"server": {"groups": []}}, "unknown key 'groups' in [server]; it is a table of its own: [groups]"),
        ({"server": 5}, "server must be a table: [server]"),
        ({"limits": [1]}, "limits must be a table"),
        ({"models": {"faces": 1}}, "faces must be a table"),
        ({"models": {"face": {}}}, "[models.face] is not served; there are faces, spam, echo"),
        ({"server": {"port": "80"}}, "port in [server] must be int, not '80'"),
        ({"server": {"port": 80.0}}, "port in [server] must be int, not 80.0"),
        ({"server": {"port": True}}, "port in [server] must be int, not True"),
        ({"server": {"port": -1}}, "port = -1; use 0 to 65,535: 0 takes a free one"),
        ({"server": {"workers": 0}}, "workers = 0; use 1 to 1,024: one per core is best"),
        ({"server": {"spares": 1.0}}, "spares in [server] must be int, not 1.0"),
        ({"server": {"recycle_mb": True}}, "recycle_mb in [server] must be int, not True"),
        ({"server": {"recycle_batches": "9"}}, "recycle_batches in [server] must be int, not '9'"),
        ({"server": {"sandbox": "on"}}, "sandbox in [server] must be one of auto, require, off, not 'on'"),
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
        ({"limits": {"max_weight": 0}}, "max_weight must be above 0"),
        ({"limits": {"max_weight": math.inf}}, "max_weight must be above 0, and finite"),
        ({"limits": {"max_weight": 0.001}}, "max_weight = 0.001; use 0.01, the least weight, or more"),
        (
            {"server": {"models": ["spam"], "workers": 4}, "groups": {"own": {"models": ["spam"]}}},
            "`workers` is for the models that are in no group, and here is none",
        ),
        ({"limits": {"max_weight": "1"}}, "max_weight in [limits] must be float, not '1'"),
        ({"groups": ["faces"]}, "groups must be a table"),
        ({"groups": {"rare": ["spam"]}}, "rare must be a table"),
        ({"groups": {"rare": {"workers": 1}}}, "[groups.rare] needs 'models'"),
        ({"groups": {"rare": {"models": "spam"}}}, "models in [groups.rare] must be a list of str"),
        ({"groups": {"rare": {"models": ["spam"], "worker": 1}}}, "unknown key 'worker' in [groups.rare]"),
        ({"groups": {"rare": {"models": ["spam"], "workers": "1"}}}, "workers in [groups.rare] must be int"),
        ({"groups": {"rare": {"models": ["spam"], "workers": 0}}}, "workers in [groups.rare] = 0; use 1 to"),
        (
            {"groups": {"rare": {"models": ["ham"]}}},
            "group rare has no model 'ham' to hold; there are ['faces'",
        ),
        ({"groups": {"rare": {"models": ["spam", "spam"]}}}, "model spam is in two groups; each has one"),
        (
            {"groups": {"a": {"models": ["spam"]}, "b": {"models": ["spam"]}}},
            "model spam is in two groups; each has one",
        ),
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


@pytest.mark.parametrize("name", RANGES)
def test_a_whole_number_has_a_least_and_a_most_and_a_reason(name: str) -> None:
    least, most, hint = RANGES[name]
    for value in (least, most):
        assert getattr(read_settings({"server": {name: value}}), name) == value
    for value in (least - 1, most + 1):
        sentence = re.escape(f"{name} = {value}; use {least} to {most:,}: {hint}")
        with pytest.raises(ConfigError, match=f"^{sentence}$"):
            read_settings({"server": {name: value}})


def test_a_group_has_one_worker_where_it_does_not_say() -> None:
    assert read_settings({"groups": {"rare": {"models": ["spam", "echo"]}}}).groups == (
        Group("rare", ("spam", "echo"), 1),
    )


def test_a_fraction_of_a_second_is_fine() -> None:
    assert read_settings({"timeouts": {"drain_s": 0.25}}).timeouts.drain_s == 0.25


def test_operators_are_told_of_settings_that_are_there_and_of_their_defaults() -> None:
    told = re.findall(
        r"`(server|limits|timeouts)\.(\w+)`(?: \((\d+)\b)?", OPERATIONS.read_text("utf-8").replace(",", "")
    )
    tables = {"server": Settings(), "limits": Limits(), "timeouts": Timeouts()}
    for table, key, default in told:
        value = getattr(tables[table], key)
        assert not default or float(default) == value, key
    assert sum(bool(default) for *_, default in told) >= 4


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
