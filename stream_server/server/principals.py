"""On whose behalf a request comes: the client's address, behind trusted proxies the one that they tell. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_HOPS = 16
"""Addresses of an X-Forwarded-For header that are looked at, from its end: no chain of proxies is longer."""


def principal_of(peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """The nearest address that is not a trusted proxy's, in canonical form; of an IPv6 address its /64 network.

    Every proxy appends the address that it was reached from, so only what trusted ones appended can be believed:
    the header is read from its end (RFC 7239 section 8.1 says the same of its successor).

    Args:
        peer: the address at the other end of the socket; None if it is not known any more.
        forwarded_for: the values of all X-Forwarded-For headers, in order.
        trusted: networks of proxies.
    """
    address = _canonical(peer or "")
    hops = [hop.strip() for hop in ",".join(forwarded_for).split(",")]
    for hop in [hop for hop in hops if hop][: -MAX_HOPS - 1 : -1]:
        if not _is_in(address, trusted):
            break
        told = _canonical(hop)
        if not told:
            break
        address = told
    return _network_of(address)


def _canonical(text: str) -> str:
    """An address as one text, however it is written; empty if it is not an address.

    Some proxies append the port: ``198.51.100.7:1234``, ``[2001:db8::1]:80``.
    """
    host = text.partition("]")[0].removeprefix("[") if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)  # a socket for both families tells IPv4 clients so
    return str(mapped or address)


def _network_of(address: str) -> str:
    """An IPv4 address, or the IPv6 /64 that one subscriber has all addresses of (RFC 6177 section 2)."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False))


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    return bool(address) and any(ipaddress.ip_address(address) in network for network in networks)
