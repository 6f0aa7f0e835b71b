"""Opens the sockets that the server listens on: TCP, both address families, a unix socket, or systemd's.

Sources: sd_listen_fds(3) and sd_notify(3) for what systemd hands over and is told; unix(7) for the socket's file.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stream_server.errors import ConfigError

BACKLOG = 1024
"""Connections the kernel holds until we accept them: a thousand clients may come back at once."""

EVERY = "*"
"""As a host: every interface, IPv4 and IPv6."""

UNIX = "unix:"
"""As the beginning of a host: the path of a unix socket follows."""

FIRST_FD = 3
"""The first descriptor that systemd hands over; the others follow it."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a server listens on.

    Attributes:
        sockets: one for each address.
        file: the unix socket that was made, and is to be removed.
    """

    sockets: Sequence[socket.socket]
    file: Path | None = None

    @property
    def url(self) -> str:
        """The URL under which this machine's clients reach the first; "unix:" and the path for a unix socket."""
        first = self.sockets[0]
        if first.family == socket.AF_UNIX:
            return UNIX + os.fsdecode(first.getsockname())
        host, port = first.getsockname()[:2]
        if host == "::" and not first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            host = "127.0.0.1"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Close the sockets, and remove the file."""
        for sock in self.sockets:
            sock.close()
        if self.file:
            with suppress(OSError):  # somebody else has removed it
                self.file.unlink()


def listen(host: str, port: int, environ: MutableMapping[str, str] = os.environ) -> Addresses:
    """Listen on an address.

    Sockets that systemd hands over take precedence over the host and port.

    Args:
        host: a name or address, "*" for every interface of both families, or "unix:" and a path.
        port: 0 takes a free one, the same for all addresses of the host.

    Raises:
        ConfigError: an address cannot be used.
    """
    if inherited := _inherited(environ):
        return Addresses(inherited)
    if host.startswith(UNIX):
        name = host.removeprefix(UNIX)
        return Addresses([_open_unix(name)], Path(name))
    try:
        if host == EVERY:
            dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual else socket.AF_INET
            sock = socket.create_server(("", port), family=family, backlog=BACKLOG, dualstack_ipv6=dual)
            return Addresses([sock])
        return Addresses(_open_tcp(host, port))
    except OSError as exc:
        why = exc.strerror if isinstance(exc, socket.gaierror) else os.strerror(exc.errno or 0)
        raise ConfigError(
            f"cannot listen on {host} port {port}: {why}; choose another with --host and --port"
        ) from exc


def notify(state: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Tell systemd a state such as ``READY=1``, if it has asked to be told; see sd_notify(3)."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.sendto(state.encode(), "\0" + path[1:] if path[0] == "@" else path)


def _open_tcp(host: str, port: int) -> list[socket.socket]:
    """Open a socket for each address of a host."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, address in dict.fromkeys((info[0], info[4]) for info in found):
            if sockets and not port:  # the free one that the first has taken
                address = (address[0], sockets[0].getsockname()[1], *address[2:])  # noqa: PLW2901
            try:
                sockets.append(socket.create_server(address, family=family, backlog=BACKLOG))
            except OSError as exc:  # "localhost" has an IPv6 address on machines that have none
                if exc.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                missing = exc
        if missing and not sockets:
            raise missing
    except OSError:
        Addresses(sockets).close()
        raise
    return sockets


def _open_unix(name: str) -> socket.socket:
    """Open a unix socket; the umask says who may connect.

    A file that an ended server has left behind is replaced; one that somebody listens on, or no socket, is not.
    """
    if not name or "\0" in name:
        raise ConfigError(
            f"cannot listen on {UNIX}{name}: write the path of a file, e.g. unix:/run/stream.sock"
        )
    path = Path(name)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(name):
            path.unlink()
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        why = exc.strerror or str(exc)  # Python's own: the path is too long
        if exc.errno == errno.EADDRINUSE:
            why = "a server listens on it" if _answers(name) else "there is a file of that name"
        raise ConfigError(f"cannot listen on {UNIX}{name}: {why}; choose another path") from exc
    return sock


def _answers(path: str) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError as exc:
            return exc.errno in (errno.EAGAIN, errno.EACCES, errno.EPERM)  # a full backlog; somebody else's
    return True


def _inherited(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Take the sockets that systemd hands over to this process, and those variables, out of the environment."""
    count, pid = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_PID", "")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    sockets = []
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        try:
            sock = socket.socket(fileno=fd)
        except OSError as exc:
            raise ConfigError(f"LISTEN_FDS is {count}, but descriptor {fd} is not a socket") from exc
        sock.set_inheritable(False)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(f"descriptor {fd}, handed over by systemd, does not listen; set Accept=no")
        sockets.append(sock)
    return sockets
