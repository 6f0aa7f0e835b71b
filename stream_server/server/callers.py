"""Who asks, and under which address: the socket's peer, or what trusted proxies say of their client. Pure.

Only a trusted proxy is believed. It appends the address that reached it, to X-Forwarded-For or to Forwarded
(RFC 7239), so the headers are read from their end. X-Forwarded-Host and X-Forwarded-Proto say which address a
browser shows. If both kinds of headers are there and name different clients, the client itself wrote one of them:
then it is unknown, and the proxy's address counts.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix:"
"""Names every client of a unix socket in `trusted_proxies`; who may connect is up to the socket's file."""

MAX_HOPS = 16
"""Hops of a header that are looked at, from its end: no chain of proxies is longer."""

MAX_HEADER = 4096
"""Most characters of these headers, from their end, that are looked at: `MAX_HOPS` hops are shorter."""

PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*))\s*')
"""A parameter of Forwarded (RFC 7239 section 4): ``for="[2001:db8::1]:80"``."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        principal: an IPv4 address, an IPv6 /64 network, or empty if the peer has no address.
        host: the host that the client asked for, as in a Host header; empty if it is not known.
        scheme: "http" or "https"; None if it is not known, because a proxy may speak https for the server.
    """

    principal: str
    host: str
    scheme: str | None = None


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Proxies whose headers are believed.

    Attributes:
        networks: by their addresses.
        unix: also those that connect to a unix socket.
    """

    networks: tuple[Network, ...] = ()
    unix: bool = False

    def __contains__(self, address: str) -> bool:
        if not address:
            return self.unix
        return any(ipaddress.ip_address(address) in network for network in self.networks)


def identify(peer: str, headers: Callable[[str], Sequence[str]], trusted: TrustedProxies) -> Caller:
    """Tell who asks.

    Args:
        peer: the address at the other end of the socket; empty for a unix socket.
        headers: gives all values of a header, in order.
        trusted: the proxies.
    """
    address = _canonical(peer)
    host = next(iter(headers("Host")), "")
    if address not in trusted:
        return Caller(_network_of(address), host)
    legacy, standard = _hops(headers("X-Forwarded-For")), _forwarded(headers("Forwarded"))
    clients = {
        _client(address, hops, trusted) for hops in (legacy, [hop.get("for", "") for hop in standard]) if hops
    }
    last = standard[-1] if standard else {}
    told_host = (_hops(headers("X-Forwarded-Host")) or [last.get("host", "")])[-1]
    scheme = (_hops(headers("X-Forwarded-Proto")) or [last.get("proto", "")])[-1].lower()
    return Caller(
        _network_of(clients.pop() if len(clients) == 1 else address),
        told_host or host,
        scheme if scheme in ("http", "https") else None,
    )


def _client(address: str, hops: Sequence[str], trusted: TrustedProxies) -> str:
    """The nearest address that is not a trusted proxy's."""
    for hop in reversed(hops):
        if address not in trusted:
            break
        told = _canonical(hop)
        if not told:
            break
        address = told
    return address


def _hops(values: Sequence[str]) -> list[str]:
    """The last elements of a header that is a list."""
    hops = [hop.strip() for hop in ",".join(values)[-MAX_HEADER:].split(",")]
    return [hop for hop in hops if hop][-MAX_HOPS:]


def _forwarded(values: Sequence[str]) -> list[dict[str, str]]:
    """The last elements of a Forwarded header; what does not follow its grammar says nothing."""
    hops: list[dict[str, str]] = [{}]
    text, at = ",".join(values)[-MAX_HEADER:], 0
    while at < len(text):
        found = PAIR.match(text, at)
        if found is None:
            return []
        name, quoted, token = found.groups()
        hops[-1][name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token
        at = found.end()
        if text[at : at + 1] == ",":
            hops.append({})
        elif text[at : at + 1] not in (";", ""):
            return []
        at += 1
    return [hop for hop in hops if hop][-MAX_HOPS:]


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
