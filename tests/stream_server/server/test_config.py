"""What an operator may set, and what is said of a mistake."""

from __future__ import annotations

import datetime
import ipaddress
import math
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields

from inference.machine import cores
from inference.model import ModelSource, ServingSettings
from inference.naming import SHIPPED
from inference.pool.groups import Group
from stream_server.errors import ConfigError
from stream_server.server.callers import TrustedProxies
from stream_server.server.config import (
    Limits,
    Settings,
    Timeouts,
    named_model,
)
from stream_server.server.config_file import read_settings

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
            "fair_by": "principal",
            "trusted_proxies": ["10.0.0.0/8", "::1"],
        },
        "limits": {field.name: 7 for field in fields(Limits)},
        "timeouts": {field.name: 7 for field in fields(Timeouts)},
        "models": {
            "mine": {
                "policy": "latest",
                "max_batch": 4,
                "latency_target_ms": 50,
                "timeout_ms": 500,
                "load_timeout_s": 90,
                "min_rate": 2.5,
                "options": {"threshold": 0.5, "names": ["a"], "deep": {"er": [True, {}]}},
            }
        },
        "groups": {"rare": {"models": ["mine"], "workers": 2}},
    }
    assert read_settings(document) == Settings(
        host="::",
        port=0,
        workers=3,
        models=(
            ModelSource("echo", SHIPPED["echo"]),
            ModelSource(
                "mine",
                "my.module:Model",
                {"threshold": 0.5, "names": ["a"], "deep": {"er": [True, {}]}},
                ServingSettings("latest", 4, 50, 500, 90, 2.5),
            ),
        ),
        allow_host=("cameras.example.org",),
        allow_origin=("https://example.org",),
        sandbox="require",
        worker_memory_mb=4000,
        spares=2,
        recycle_mb=100,
        recycle_batches=1000,
        fair_by="principal",
        trusted_proxies=("10.0.0.0/8", "::1"),
        groups=(Group("rare", ("mine",), 2),),
        limits=Limits(*(7 for _ in fields(Limits))),
        timeouts=Timeouts(*(7 for _ in fields(Timeouts))),
    )


def test_options_of_a_shipped_model_need_no_list_of_models() -> None:
    (faces, spam, _) = read_settings({"models": {"faces": {"options": {"long_side": 320}}}}).models
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
        (
            {"server": {"port": "80"}},
            "port in [server] must be a whole number from 0 to 65,535 (0 takes a free one), not '80'",
        ),
        (
            {"server": {"port": 80.0}},
            "port in [server] must be a whole number from 0 to 65,535 (0 takes a free one), not 80.0",
        ),
        (
            {"server": {"port": True}},
            "port in [server] must be a whole number from 0 to 65,535 (0 takes a free one), not True",
        ),
        (
            {"server": {"port": -1}},
            "port in [server] must be a whole number from 0 to 65,535 (0 takes a free one), not -1",
        ),
        (
            {"server": {"workers": 0}},
            "workers in [server] must be a whole number from 1 to 1,024 (one per core is best), not 0",
        ),
        (
            {"server": {"spares": 1.0}},
            "spares in [server] must be a whole number from 0 to 16 (one is enough, ",
        ),
        (
            {"server": {"recycle_mb": True}},
            "recycle_mb in [server] must be a whole number from 0 to 1,073,741,824 (MiB, 0 is never), not True",
        ),
        ({"server": {"recycle_batches": "9"}}, "(0 is never), not '9'"),
        ({"server": {"sandbox": "on"}}, "sandbox in [server] must be auto, off or require, not 'on'"),
        ({"server": {"host": 5}}, "host in [server] must be a string, not 5"),
        ({"server": {"host": ""}}, "host is empty; use 127.0.0.1"),
        (
            {"server": {"allow_origin": ["https://Example.org"]}},
            "'https://Example.org' is not an origin; write it as browsers do: https://example.org",
        ),
        ({"server": {"allow_origin": ["https://example.org/"]}}, "'https://example.org/' is not an origin"),
        ({"server": {"allow_origin": ["null"]}}, "'null' is not an origin"),
        ({"server": {"allow_host": "name"}}, "allow_host in [server] must be a list of strings, not 'name'"),
        ({"server": {"allow_origin": [1]}}, "allow_origin in [server] must be a list of strings, not [1]"),
        ({"server": {"models": "echo"}}, "models in [server] must be a list of strings, not 'echo'"),
        ({"server": {"models": ["echo", "echo"]}}, "two models have the same name: echo, echo"),
        ({"server": {"models": ["nothing"]}}, "or name one that ships: faces, spam, echo"),
        ({"server": {"models": ["Bad Name=a:B"]}}, "'Bad Name' is not a valid name for a model"),
        ({"server": {"models": ["../x=a:B"]}}, "'../x' is not a valid name for a model"),
        (
            {"limits": {"max_streams": 0}},
            "max_streams in [limits] must be a whole number of at least 1, not 0",
        ),
        (
            {"limits": {"max_item_bytes": -5}},
            "max_item_bytes in [limits] must be a whole number of at least 1, not -5",
        ),
        (
            {"limits": {"max_weight": 0}},
            "max_weight in [limits] must be a number from 0.01 to 999,999, not 0",
        ),
        (
            {"limits": {"max_weight": math.inf}},
            "max_weight in [limits] must be a number from 0.01 to 999,999, not inf",
        ),
        (
            {"limits": {"max_weight": 0.001}},
            "max_weight in [limits] must be a number from 0.01 to 999,999, not 0.001",
        ),
        (
            {"server": {"models": ["spam"], "workers": 4}, "groups": {"own": {"models": ["spam"]}}},
            "`workers` is for the models that are in no group, and every model is in one",
        ),
        (
            {"limits": {"max_weight": "1"}},
            "max_weight in [limits] must be a number from 0.01 to 999,999, not '1'",
        ),
        ({"groups": ["faces"]}, "groups must be a table"),
        ({"groups": {"rare": ["spam"]}}, "rare must be a table"),
        ({"groups": {"rare": {"workers": 1}}}, "[groups.rare] needs 'models'"),
        (
            {"groups": {"rare": {"models": "spam"}}},
            "models in [groups.rare] must be a list of strings, not 'spam'",
        ),
        ({"groups": {"rare": {"models": ["spam"], "worker": 1}}}, "unknown key 'worker' in [groups.rare]"),
        (
            {"groups": {"rare": {"models": ["spam"], "workers": "1"}}},
            "workers in [groups.rare] must be a whole number from 1 to 1,024, not '1'",
        ),
        (
            {"groups": {"rare": {"models": ["spam"], "workers": 0}}},
            "workers in [groups.rare] must be a whole number from 1 to 1,024, not 0",
        ),
        (
            {"groups": {"rare": {"models": ["ham"]}}},
            "group rare has no model 'ham' to hold; there are ['faces'",
        ),
        ({"groups": {"rare": {"models": ["spam", "spam"]}}}, "model spam is in two groups; each has one"),
        (
            {"groups": {"a": {"models": ["spam"]}, "b": {"models": ["spam"]}}},
            "model spam is in two groups; each has one",
        ),
        (
            {"limits": {"max_streams": True}},
            "max_streams in [limits] must be a whole number of at least 1, not True",
        ),
        (
            {"timeouts": {"drain_s": 0}},
            "drain_s in [timeouts] must be a number above 0, at most 86,400 (seconds), not 0",
        ),
        (
            {"timeouts": {"write_s": False}},
            "write_s in [timeouts] must be a number above 0, at most 86,400 (seconds), not False",
        ),
        (
            {"timeouts": {"close_s": "1"}},
            "close_s in [timeouts] must be a number above 0, at most 86,400 (seconds), not '1'",
        ),
        ({"timeouts": {"heartbeat_s": math.nan}}, "(seconds), not nan"),
        (
            {"models": {"faces": {"long_side": 1280}}},
            "unknown key 'long_side' in [models.faces]; there are latency_target_ms, load_timeout_s, max_batch, "
            "min_rate, policy, timeout_ms; an argument of the model's class belongs in [models.faces.options]",
        ),
        (
            {"models": {"faces": {"max_batch": 0}}},
            "max_batch in [models.faces] must be a whole number from 1 to",
        ),
        ({"models": {"faces": {"policy": "newest"}}}, "policy in [models.faces] must be latest or queue"),
        (
            {"models": {"faces": {"timeout_ms": 1.5}}},
            "timeout_ms in [models.faces] must be a whole number from 1",
        ),
        ({"models": {"faces": {"min_rate": math.nan}}}, "(items per second), not nan"),
        ({"models": {"faces": {"min_rate": 1001}}}, "must be a number from 0 to 1,000 (items per second)"),
        ({"models": {"faces": {"load_timeout_s": 3601}}}, "must be a whole number from 1 to 3,600, not 3601"),
        (
            {"models": {"faces": {"latency_target_ms": 20, "timeout_ms": 10}}},
            "latency_target_ms in [models.faces] is 20; use at most its timeout_ms, 10",
        ),
        ({"models": {"faces": {"options": 1}}}, "options must be a table: [models.faces.options]"),
        (
            {"models": {"faces": {"options": {"a": math.inf}}}},
            "a in [models.faces.options] is inf, which JSON cannot hold",
        ),
        ({"models": {"faces": {"options": {"a": [math.nan]}}}}, "a in [models.faces.options] is nan"),
        (
            {"models": {"faces": {"options": {"a": {"b": datetime.date(2026, 1, 2)}}}}},
            "b, of a in [models.faces.options], is a date, which JSON cannot hold; write it as a string: "
            '"2026-01-02"',
        ),
        ({"server": {"fair_by": "peer"}}, "fair_by in [server] must be principal or stream, not 'peer'"),
        ({"server": {"trusted_proxies": "::1"}}, "trusted_proxies in [server] must be a list of strings"),
        (
            {"server": {"trusted_proxies": ["proxy"]}},
            "'proxy', which is not a network; write addresses, networks",
        ),
        ({"server": {"trusted_proxies": ["10.0.0.1/8"]}}, "not a network; write 10.0.0.0/8"),
        ({"server": {"models": ["inference:Model"]}}, "the name 'inference' is taken by a package"),
        ({"server": {"models": ["m=benchmarks.mine:M"]}}, "the name 'benchmarks' is taken by a package"),
        ({"server": {"models": ["web_client:M"]}}, "cannot be imported; rename web_client"),
        ({"server": {"models": ["stream_server.model:M"]}}, "cannot be imported; rename stream_server"),
        ({"timeouts": {"drain_s": math.inf}}, "(seconds), not inf"),
    ],
)
def test_a_mistake_gets_a_sentence(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        read_settings(document)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("port", 0, 65535),
        ("workers", 1, 1024),
        ("spares", 0, 16),
        ("worker_memory_mb", 0, 1 << 30),
        ("recycle_mb", 0, 1 << 30),
        ("recycle_batches", 0, 1 << 60),
    ],
)
def test_a_whole_number_has_a_least_and_a_most_and_a_reason(name: str, least: int, most: int) -> None:
    for value in (least, most):
        assert getattr(read_settings({"server": {name: value}}), name) == value
    for value in (least - 1, most + 1):
        start = re.escape(f"{name} in [server] must be a whole number from {least} to {most:,} (")
        with pytest.raises(ConfigError, match=rf"^{start}.+\), not {value}$"):
            read_settings({"server": {name: value}})


def test_proxies_are_trusted_by_address_or_network() -> None:
    settings = read_settings({"server": {"trusted_proxies": ["10.0.0.0/8", "::1"]}})
    assert settings.trusted() == TrustedProxies(
        (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    )
    assert read_settings({"server": {"trusted_proxies": ["unix:"]}}).trusted() == TrustedProxies(unix=True)


def test_a_module_that_ships_may_be_named_in_full() -> None:
    (model,) = read_settings({"server": {"models": ["inference.models.echo:Echo"]}}).models
    assert model.name == "echo"


def test_a_group_has_one_worker_where_it_does_not_say() -> None:
    assert read_settings({"groups": {"rare": {"models": ["spam", "echo"]}}}).groups == (
        Group("rare", ("spam", "echo"), 1),
    )


def test_a_fraction_of_a_second_is_fine() -> None:
    assert read_settings({"timeouts": {"drain_s": 0.25}}).timeouts.drain_s == 0.25


def test_documented_settings_exist_with_their_defaults() -> None:
    told = re.findall(
        r"`(server|limits|timeouts)\.(\w+)`(?: \((\d+)\b)?", OPERATIONS.read_text("utf-8").replace(",", "")
    )
    tables = {"server": Settings(), "limits": Limits(), "timeouts": Timeouts()}
    for table, key, default in told:
        value = getattr(tables[table], key)
        assert not default or float(default) == value, key
    assert sum(bool(default) for *_, default in told) >= 4


@pytest.mark.parametrize(
    ("document", "available", "cap"),
    [
        ({"workers": 2, "spares": 1}, 24 << 30, 6553),  # 80 % of 24 GiB for three processes
        ({"workers": 64, "spares": 1}, 32 << 30, 1024),
        ({"workers": 2}, None, 0),
        ({"workers": 2, "worker_memory_mb": 0}, 24 << 30, 0),
        ({"workers": 2, "worker_memory_mb": 300}, 24 << 30, 300),
    ],
)
def test_workers_share_the_memory_by_default(
    document: dict[str, Any], available: int | None, cap: int
) -> None:
    assert read_settings({"server": document}).worker_memory(available) == cap


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
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
def test_invalid_model_reference_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="or name one that ships"):
        named_model(text)
