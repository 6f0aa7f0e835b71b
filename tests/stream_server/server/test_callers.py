"""Who asks, by the socket and the headers."""

from __future__ import annotations

import ipaddress

import pytest

from stream_server.server.callers import MAX_HOPS, Caller, TrustedProxies, identify

PROXIES = TrustedProxies((ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1")))


def caller(peer: str, trusted: TrustedProxies = PROXIES, **headers: str | list[str]) -> Caller:
    """Identify a caller by headers, written with underscores."""
    given = {name.replace("_", "-").lower(): value for name, value in headers.items()}

    def values(name: str) -> list[str]:
        value = given.get(name.lower(), [])
        return [value] if isinstance(value, str) else value

    return identify(peer, values, trusted)


@pytest.mark.parametrize(
    ("peer", "forwarded", "principal"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # no proxy of ours: anybody can write the header
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),  # the first is what the client claims
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7, 10.1.1.1"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("::1", ["2001:DB8::0:1"], "2001:db8::/64"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, "], "198.51.100.7"),
        ("10.0.0.1", ["\x00" * 100_000], "10.0.0.1"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("10.0.0.1", ["198.51.100.7:1234"], "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8:1:2:3::1]:80"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::/64"),
        ("10.0.0.1", ["198.51.100.7, 10.1.1.1:443"], "198.51.100.7"),
        ("2001:db8::1", [], "2001:db8::/64"),
        ("", ["198.51.100.7"], ""),
    ],
)
def test_the_principal_is_the_nearest_address_that_no_trusted_proxy_has(
    peer: str, forwarded: list[str], principal: str
) -> None:
    assert caller(peer, X_Forwarded_For=forwarded).principal == principal


def test_no_more_hops_are_read_than_there_can_be_proxies() -> None:
    hops = ["198.51.100.7"] + ["10.0.0.1"] * (MAX_HOPS - 1)
    assert caller("10.0.0.1", X_Forwarded_For=",".join(hops)).principal == "198.51.100.7"
    hops.append("10.0.0.1")
    assert caller("10.0.0.1", X_Forwarded_For=",".join(hops)).principal == "10.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "principal"),
    [
        ("for=198.51.100.7", "198.51.100.7"),
        ('for=203.0.113.9, For="198.51.100.7:1234";proto=https;by=10.0.0.1', "198.51.100.7"),
        ('for="[2001:db8:1:2:3::1]:80"', "2001:db8:1:2::/64"),
        ('for="198.51.100.7", for=10.1.1.1', "198.51.100.7"),
        ("for=unknown", "10.0.0.1"),
        ("for=_hidden", "10.0.0.1"),
        ('for="198.51.100.7', "10.0.0.1"),
        ("for", "10.0.0.1"),
        ("proto=https", "10.0.0.1"),
        ('for="1\\92.0.2.1"', "192.0.2.1"),
        ("x" * 100_000, "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_the_forwarded_header_is_read_as_rfc_7239_says(forwarded: str, principal: str) -> None:
    assert caller("10.0.0.1", Forwarded=forwarded).principal == principal
    assert caller("192.0.2.1", Forwarded=forwarded).principal == "192.0.2.1"


def test_headers_that_disagree_are_not_believed() -> None:
    """The proxy writes one of them; the client may have written the other."""
    assert (
        caller("10.0.0.1", X_Forwarded_For="198.51.100.7", Forwarded="for=192.0.2.1").principal == "10.0.0.1"
    )
    assert (
        caller("10.0.0.1", X_Forwarded_For="198.51.100.7", Forwarded="for=198.51.100.7").principal
        == "198.51.100.7"
    )


def test_a_trusted_proxy_tells_host_and_scheme() -> None:
    headers: dict[str, str | list[str]] = {
        "Host": "127.0.0.1:8080",
        "X_Forwarded_Host": "a.example, b.example",
    }
    told = caller("10.0.0.1", X_Forwarded_Proto="HTTPS", **headers)
    assert (told.host, told.scheme) == ("b.example", "https")
    assert caller("192.0.2.1", X_Forwarded_Proto="https", **headers) == Caller("192.0.2.1", "127.0.0.1:8080")
    standard = caller("10.0.0.1", Host="127.0.0.1", Forwarded='for=192.0.2.1;host="a.example:81";proto=http')
    assert standard == Caller("192.0.2.1", "a.example:81", "http")
    assert caller("10.0.0.1", Host="a.example", X_Forwarded_Proto="gopher").scheme is None


def test_clients_of_a_unix_socket_are_believed_if_it_is_trusted() -> None:
    assert caller("", X_Forwarded_For="192.0.2.1").principal == ""
    trusted = TrustedProxies(unix=True)
    assert caller("", trusted, X_Forwarded_For="192.0.2.1").principal == "192.0.2.1"
    assert caller("127.0.0.1", trusted, X_Forwarded_For="192.0.2.1").principal == "127.0.0.1"
