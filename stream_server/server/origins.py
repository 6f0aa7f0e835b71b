"""Which pages may use the server: checks of the Host and Origin headers. Pure; aiohttp checks neither.

A websocket is not covered by the browser's same-origin policy, so any page a user visits could open one to a
server on the user's own machine (cross-site websocket hijacking), and a name that resolves to 127.0.0.1
would make that page same-origin (DNS rebinding). Rebinding needs a name, so addresses need no list.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence

from stream_server.errors import Forbidden
from stream_server.server.callers import Caller

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
"""A Host header as browsers write it (RFC 9110 section 7.2). A URL's parser would take much more for one."""

AUTHORITY = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?([^/?#]*)", re.ASCII | re.IGNORECASE)
"""The authority in a request target in absolute form, or in that of CONNECT (RFC 9112 section 3.2)."""


def only(name: str, values: Sequence[str]) -> str | None:
    """Give a header's one value; None without one.

    Raises:
        Forbidden: there are several, of which each reader could take another one.
    """
    if len(values) > 1:
        raise Forbidden(f"a request has at most one {name} header")
    return values[0] if values else None


def check_target(target: str, host: str, allowed: Collection[str]) -> str:
    """Check whom a request is for; the request's target, if it names a host, counts as much as its Host header.

    Returns:
        The host by which the client knows the server: the target's, else the header's (RFC 9112 section 3.2.2).

    Raises:
        Forbidden: one of them is not this server.
    """
    check_host(host, allowed)
    if target.startswith("/") or target == "*":
        return host
    found = AUTHORITY.match(target)
    named = found[1] if found else ""
    check_host(named, allowed)
    return named


def check_host(host: str, allowed: Collection[str]) -> None:
    """Check that a host is an address, localhost or an allowed name, with any port.

    Raises:
        Forbidden: it is something else, or empty.
    """
    found = HOST.fullmatch(host)
    name = found[1].strip("[]").lower() if found else ""
    if not (name == "localhost" or _is_address(name) or name in map(str.lower, allowed)):
        raise Forbidden(
            f"this server does not answer to the Host header {host[:64]!r}; allow the name with --allow-host "
            "(allow_host in [server])"
        )


def check_origin(origin: str | None, caller: Caller, allowed: Collection[str]) -> None:
    """Accept non-browsers, the server's own pages and allowed origins, compared exactly.

    Args:
        origin: the Origin header (RFC 6454), None without one: browsers always send it with a websocket.
        caller: the host that was asked for, checked, and the scheme if a trusted proxy told it.

    Raises:
        Forbidden: it is another site's page, or one that hides its origin ("null").
    """
    if origin is None or origin in allowed:
        return
    # a proxy may speak https for us: unless it is trusted to say so, the scheme is not known
    schemes = (caller.scheme,) if caller.scheme else ("http", "https")
    if origin.lower() not in [f"{scheme}://{caller.host}".lower() for scheme in schemes]:
        raise Forbidden(
            f"pages of {origin[:64]!r} may not use this server, which was asked for as {caller.host[:64]!r}; allow "
            "them with --allow-origin. A proxy must pass the Host header on, or send X-Forwarded-Host and "
            "be named with --trusted-proxy"
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
