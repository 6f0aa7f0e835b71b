"""Which pages may use the server: tables of hosts and origins."""

from __future__ import annotations

import pytest

from stream_server.errors import Forbidden
from stream_server.server.callers import Caller
from stream_server.server.origins import check_host, check_origin, check_target, only

ALLOWED_HOSTS = ("cameras.example.org", "Lab.Example.org")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8080",
        "192.168.1.20:80",
        "localhost",
        "localhost:8080",
        "LOCALHOST:8080",
        "[::1]",
        "[::1]:8080",
        "[fe80::1]:8080",
        "cameras.example.org",
        "cameras.example.org:443",
        "CAMERAS.example.org",
        "lab.example.org",
    ],
)
def test_addresses_localhost_and_allowed_names_pass(host: str) -> None:
    check_host(host, ALLOWED_HOSTS)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8080",
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.example:8080",
        "cameras.example.org.evil.example",
        "evil.cameras.example.org",
        "xcameras.example.org",
        "example.org",
        "localhost@evil.example",
        "evil.example@localhost",
        "evil:evil@127.0.0.1:8080",
        "evil.example/@localhost",
        "localhost/evil.example",
        "localhost?evil.example",
        "localhost#evil.example",
        "localhost\\evil.example",
        "localhost evil.example",
        "localhost,evil.example",
        "localhost:evil",
        "localhost:8080:80",
        "[::1",
        "::1",
        "[::1].evil.example",
        "[evil.example]",
        "2130706433",
        "0x7f.1",
        "127.1",
        "l\u00f6calhost",
        "localhos\u212a",
        "\udcff",
    ],
)
def test_other_hosts_do_not(host: str) -> None:
    with pytest.raises(Forbidden) as caught:
        check_host(host, ALLOWED_HOSTS)
    assert len(str(caught.value)) < 400


def test_without_a_list_only_addresses_and_localhost_pass() -> None:
    check_host("localhost:8080", ())
    with pytest.raises(Forbidden):
        check_host("cameras.example.org", ())


HOST = "127.0.0.1:8080"
ALLOWED_ORIGINS = ("https://good.example", "http://good.example:81")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, HOST),
        ("http://127.0.0.1:8080", HOST),
        ("https://127.0.0.1:8080", HOST),
        ("http://localhost:8080", "localhost:8080"),
        ("http://LOCALHOST:8080", "localhost:8080"),
        ("http://localhost:8080", "LocalHost:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://cameras.example.org", "cameras.example.org"),
        ("https://good.example", HOST),
        ("http://good.example:81", HOST),
    ],
)
def test_own_pages_allowed_ones_and_no_browser_pass(origin: str | None, host: str) -> None:
    check_origin(origin, Caller("", host), ALLOWED_ORIGINS)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://evil.example",
        "https://evil.example:8080",
        "http://127.0.0.1",
        "http://127.0.0.1:80",
        "http://127.0.0.1:8081",
        "http://127.0.0.1:80800",
        "http://localhost:8080",
        "http://127.0.0.1:8080.evil.example",
        "http://127.0.0.1:8080@evil.example",
        "http://evil@127.0.0.1:8080",
        "http://evil.example#127.0.0.1:8080",
        "http://evil.example?127.0.0.1:8080",
        "http://evil.example/127.0.0.1:8080",
        "http://evil.example\\@127.0.0.1:8080",
        "127.0.0.1:8080",
        "//127.0.0.1:8080",
        "file://127.0.0.1:8080",
        "file://",
        "ftp://127.0.0.1:8080",
        "ws://127.0.0.1:8080",
        "chrome-extension://127.0.0.1:8080",
        "https://good.example.evil.example",
        "https://good.evil",
        "https://good.example:443",
        "https://evil.good.example",
        "https://evilgood.example",
        "http://good.example",
        "https://GOOD.example",
        "https://good.example/",
        "https://good.example:81",
        "http://[::1]:8080",
        "http://[::1",
        "http://127.0.0.1:8080]",
        "http://\u2100.example",
        "http://\udcff",
    ],
)
def test_other_pages_do_not(origin: str) -> None:
    with pytest.raises(Forbidden) as caught:
        check_origin(origin, Caller("", HOST), ALLOWED_ORIGINS)
    assert len(str(caught.value)) < 400


def test_a_scheme_that_a_trusted_proxy_tells_is_compared() -> None:
    check_origin("https://cameras.example.org", Caller("", "cameras.example.org", "https"), ())
    with pytest.raises(Forbidden, match="--trusted-proxy"):
        check_origin("http://cameras.example.org", Caller("", "cameras.example.org", "https"), ())


def test_a_target_may_name_this_server() -> None:
    assert check_target("/", "localhost:1", ()) == "localhost:1"
    assert check_target("//evil.example/", "localhost", ()) == "localhost", "a path, whatever it looks like"
    assert check_target("*", "localhost", ()) == "localhost"
    assert check_target("http://127.0.0.1:1/a", "localhost", ()) == "127.0.0.1:1"
    assert check_target("HTTP://allowed.example?a", "localhost", ["allowed.example"]) == "allowed.example"


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://evil.example/", "localhost"),
        ("http://evil.example#localhost", "localhost"),
        ("http://localhost@evil.example/", "localhost"),
        ("evil.example:443", "localhost"),
        ("http:///", "localhost"),
        ("http:evil.example", "localhost"),
        ("", "localhost"),
        ("http://localhost/", "evil.example"),
        ("/", "evil.example"),
    ],
)
def test_a_target_may_not_name_another(target: str, host: str) -> None:
    with pytest.raises(Forbidden):
        check_target(target, host, ())


def test_a_header_with_two_values_is_refused() -> None:
    assert only("Host", []) is None
    assert only("Host", ["a"]) == "a"
    with pytest.raises(Forbidden, match="one Host header"):
        only("Host", ["a", "a"])
