"""Which proxy leads to an address: the environment's, but never one to this machine. It opens nothing."""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import urlsplit

SCHEMES = {"wss": ("wss", "socks", "https"), "ws": ("ws", "socks", "https", "http")}
"""Which of the environment's proxies a websocket takes, best first: one that tunnels (RFC 6455, section 4.1)."""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: a proxy elsewhere cannot reach it, and another one would be asked instead."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def find_proxy(address: str) -> str | None:
    """Find a websocket's proxy: ``https_proxy`` or the like, unless ``no_proxy`` names the host."""
    proxies = _proxies(address)
    for scheme in SCHEMES[urlsplit(address).scheme]:
        if proxy := proxies.get(scheme):
            # systems whose settings name a SOCKS proxy write it so
            return f"socks5h://{proxy[7:]}" if scheme == "socks" and proxy.startswith("http://") else proxy
    return None


def http_proxy(address: str) -> str | None:
    """Find the proxy of an http:// or https:// address."""
    return _proxies(address).get(urlsplit(address).scheme)


def _proxies(address: str) -> dict[str, str]:
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    if is_loopback(host) or urllib.request.proxy_bypass(f"{host}:{port}"):
        return {}
    return urllib.request.getproxies()


def shown(url: str) -> str:
    """Write an address for people: without the password, the path and the options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
