"""How workers are kept, and how they are. Plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from inference.wire.features import Mode, worst

ModelState: TypeAlias = Literal["loading", "ready", "unavailable"]


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How workers are kept.

    Attributes:
        sandbox: whether what a worker may do is restricted once it has loaded, and whether it must be.
        memory_mb: cap on a worker's private memory, models included, in MiB; 0 is none.
        spares: workers, of each group, that are ready and get no work, until one that has some is lost or they
            alone hold a model.
        recycle_mb: a worker is replaced, between batches, when its resident memory has grown by so many MiB
            since it was ready; 0 is never.
        recycle_batches: a worker is replaced after so many batches; 0 is never.
    """

    sandbox: Mode = "auto"
    memory_mb: int = 0
    spares: int = 0
    recycle_mb: int = 0
    recycle_batches: int = 0


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The workers now.

    Attributes:
        slots: places of workers that get work.
        ready: of these, those that can work.
        deaths, recycled: workers that ended unasked, and those that were replaced, since the start.
        pids: the processes on this machine, spares and those that load included.
        sandbox: its features, each with "on" or what is wrong with it in some group; empty when it is off or no
            worker has told.
        spares: workers that are ready to take a lost one's place.
        resident_mb: resident memory of all of them together, in MiB.
        serving: the processes on this machine of those that can work.
    """

    slots: int
    ready: int
    deaths: int
    pids: tuple[int, ...]
    sandbox: Mapping[str, str] = field(default_factory=dict)
    spares: int = 0
    recycled: int = 0
    resident_mb: int = 0
    serving: tuple[int, ...] = ()

    @classmethod
    def sum(cls, pools: Sequence[PoolStatus]) -> PoolStatus:
        """The workers of several pools together."""
        return cls(
            slots=sum(pool.slots for pool in pools),
            ready=sum(pool.ready for pool in pools),
            deaths=sum(pool.deaths for pool in pools),
            pids=tuple(pid for pool in pools for pid in pool.pids),
            sandbox=worst(pool.sandbox for pool in pools),
            spares=sum(pool.spares for pool in pools),
            recycled=sum(pool.recycled for pool in pools),
            resident_mb=sum(pool.resident_mb for pool in pools),
            serving=tuple(pid for pool in pools for pid in pool.serving),
        )
