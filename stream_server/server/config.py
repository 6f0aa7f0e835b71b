"""What an operator may set: frozen values with units in their names, checked when they are read.

`config_file` reads them from a TOML document and the command line's flags.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from inference.machine import cores
from inference.model import ModelError, ModelSource
from inference.naming import SHIPPED, named_source
from inference.pool.groups import Group, resolve_groups
from stream_server.errors import ConfigError
from stream_server.protocol.server_side import MIN_WEIGHT
from stream_server.server.callers import UNIX, Network, TrustedProxies

ORIGIN = re.compile(r"https?://[a-z0-9.:\[\]_-]+")
"""An origin as browsers write it (RFC 6454 section 6.2): lower case, and nothing after the port."""

MEMORY_SHARE = 0.8
"""The part that all workers together may take of the machine's memory: the server and the system need the rest."""

MIN_WORKER_MB = 1024
"""Least default cap of a worker: the shipped models take 120 MiB, and importing a large framework some 500."""

MAX_WORKERS = 1024
"""Most workers of a group: far above the cores of any machine."""

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400, description="seconds")]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """How much anyone may send or hold.

    Attributes:
        max_item_bytes: largest binary message. A 24-megapixel photo as JPEG takes about this much.
        max_text_bytes: largest text message. It is parsed on the event loop: the worst JSON of this size
            takes it about 5 ms. A stream gets a twentieth of the loop's time for that.
        max_streams: most streams at once. Each takes a file descriptor, about 24 KiB, and the items that it has
            unanswered: up to two of the largest.
        max_unanswered_bytes: most bytes that all streams hold together: items, unfinished messages, and answers
            that have not been read; see `inference.intake.ByteBudget`. The default is 64 of the largest items or
            ten thousand frames of a camera, which no machine answers before they are old.
        max_streams_per_principal: most streams of one principal, so that one client cannot take them all. The
            principal is the client's address; behind a proxy that is not in `trusted_proxies`, the proxy's.
        max_weight: largest weight that a stream may ask for. With 1 nobody can take more than an equal share, and
            a client that needs less can ask for less.
        max_superseded_per_s: how many items of one stream are read only to be dropped for a newer one, before it
            is read more slowly. No camera has so many frames; to read more takes time from the other streams.
        max_overhead_per_s: how many pings, pongs, small fragments and messages that bring no item are read from one
            stream, before it is read more slowly. A stream that is over it for 10 s is closed.
    """

    max_item_bytes: Count = 8 << 20
    max_text_bytes: Count = 128 << 10
    max_streams: Count = 1000
    max_unanswered_bytes: Count = 512 << 20
    max_streams_per_principal: Count = 250
    max_weight: Annotated[float, Meta(ge=MIN_WEIGHT, le=999_999)] = 1.0
    max_superseded_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] = 100.0
    max_overhead_per_s: Annotated[float, Meta(ge=1, le=1_000_000)] = 200.0


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True):
    """How long anything may take.

    Attributes:
        hello_s: how long a connection may take to send its first request, so that half a request holds no socket.
        keepalive_s: how long it may take from an answer to the end of the next request's head.
        heartbeat_s: silence, in either direction, after which a client is pinged; one from which nothing comes
            for half as long again is disconnected. Bytes of a message count, see `progress.MIN_RATE`.
        write_s: how long a client may take nothing of what is sent to it, on a stream or as a response.
        close_s: how long a client may take to answer a close.
        drain_s: how long the server goes on answering accepted items when it shuts down.
    """

    hello_s: Seconds = 10.0
    keepalive_s: Seconds = 15.0
    heartbeat_s: Seconds = 20.0
    write_s: Seconds = 10.0
    close_s: Seconds = 1.0
    drain_s: Seconds = 10.0


def shipped_models() -> tuple[ModelSource, ...]:
    """The models that come with the package."""
    return tuple(ModelSource(name, reference) for name, reference in SHIPPED.items())


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the server is started with.

    Attributes:
        host, port: where it listens; port 0 takes a free one. Host "*" is every interface of both families, and
            "unix:" with a path a unix socket. Sockets that systemd hands over take precedence.
        workers: how many worker processes; every one holds all models that are in no group. By default as many as
            there are cores, or as the quota of a container's cgroup allows.
        allow_host: host names, besides addresses and localhost, under which browsers may reach it.
        allow_origin: origins, besides its own, whose pages may use it: ``https://example.org``.
        models: what it serves.
        sandbox: what workers may do once they have loaded: "auto" takes from them what this machine can,
            "require" serves only if that is everything, "off" takes nothing.
        worker_memory_mb: cap on a worker's private memory, models included, in MiB; 0 is none. None, the default,
            is an equal share of `MEMORY_SHARE` of the machine's memory, at least `MIN_WORKER_MB`.
        spares: workers, of each group, that are kept ready and idle to take a lost one's place.
        recycle_mb: a worker is replaced when its memory has grown by so many MiB since it was ready; 0 is never.
            A model that keeps more than the default for good reason needs a larger one.
        recycle_batches: a worker is replaced after so many batches; 0 is never.
        groups: models that have workers of their own.
        fair_by: who gets equal shares: every "stream", or every "principal", however many streams it has.
        trusted_proxies: addresses or networks of proxies whose X-Forwarded-For, -Host and -Proto or Forwarded
            headers are believed; "unix:" stands for those that connect to a unix socket.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="0 takes a free one")] = 8080
    workers: Annotated[int, Meta(ge=1, le=MAX_WORKERS, description="one per core is best")] = msgspec.field(
        default_factory=cores
    )
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    models: tuple[ModelSource, ...] = msgspec.field(default_factory=shipped_models)
    sandbox: Literal["auto", "require", "off"] = "auto"
    worker_memory_mb: Annotated[int, Meta(ge=0, le=1 << 30, description="MiB, 0 is no cap")] | None = None
    spares: Annotated[
        int, Meta(ge=0, le=16, description="one is enough, unless workers are lost in series")
    ] = 1
    recycle_mb: Annotated[int, Meta(ge=0, le=1 << 30, description="MiB, 0 is never")] = 512
    recycle_batches: Annotated[int, Meta(ge=0, le=1 << 60, description="0 is never")] = 0
    groups: tuple[Group, ...] = ()
    fair_by: Literal["stream", "principal"] = "stream"
    trusted_proxies: tuple[str, ...] = ()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("host is empty; use 127.0.0.1, or * for every interface")
        for origin in self.allow_origin:
            if not ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"{origin!r} is not an origin; write it as browsers do: https://example.org"
                )
        self.trusted()
        try:
            resolve_groups(self.models, self.workers, self.groups)
        except ModelError as exc:
            raise ConfigError(str(exc)) from exc

    @property
    def all_groups(self) -> list[Group]:
        """The groups, and before them that of the models which are in none, if there are any."""
        return resolve_groups(self.models, self.workers, self.groups)

    def worker_memory(self, available: int | None) -> int:
        """Give the cap on a worker's memory, in MiB; 0 is none.

        Args:
            available: bytes of memory that may be used; None if that is not known.
        """
        if self.worker_memory_mb is not None:
            return self.worker_memory_mb
        if available is None:
            return 0
        processes = sum(group.workers + self.spares for group in self.all_groups)
        return max(MIN_WORKER_MB, int(MEMORY_SHARE * available / processes) >> 20)

    def trusted(self) -> TrustedProxies:
        """Read `trusted_proxies`; an address is a network of one.

        Raises:
            ConfigError: one is neither an address nor a network.
        """
        networks = tuple(_network(text) for text in self.trusted_proxies if text != UNIX)
        return TrustedProxies(networks, UNIX in self.trusted_proxies)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as exc:
        try:  # an address with a prefix, such as 10.0.0.1/8
            hint = f"write {ipaddress.ip_network(text, strict=False)}"
        except ValueError:
            hint = 'write addresses, networks or unix: "10.0.0.0/8", "::1", "unix:"'
        raise ConfigError(f"trusted_proxies has {text!r}, which is not a network; {hint}") from exc


def named_model(text: str) -> ModelSource:
    """Read what ``--model`` takes, see `named_source`.

    Raises:
        ConfigError: it is neither a shipped model nor a reference.
    """
    try:
        return named_source(text)
    except ModelError as exc:
        raise ConfigError(str(exc)) from exc
