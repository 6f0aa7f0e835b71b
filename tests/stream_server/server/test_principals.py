"""On whose behalf a request comes, by its socket and its headers."""

from __future__ import annotations

import ipaddress

import pytest

from stream_server.server.principals import MAX_HOPS, principal_of

PROXIES = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1")]


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
        (None, [], ""),
        ("", ["198.51.100.7"], ""),
    ],
)
def test_the_principal_is_the_nearest_address_that_no_trusted_proxy_has(
    peer: str | None, forwarded: list[str], principal: str
) -> None:
    assert principal_of(peer, forwarded, PROXIES) == principal


def test_no_more_hops_are_read_than_there_can_be_proxies() -> None:
    hops = ["198.51.100.7"] + ["10.0.0.1"] * (MAX_HOPS - 1)
    assert principal_of("10.0.0.1", [",".join(hops)], PROXIES) == "198.51.100.7"
    assert principal_of("10.0.0.1", [",".join([*hops, "10.0.0.1"])], PROXIES) == "10.0.0.1"
