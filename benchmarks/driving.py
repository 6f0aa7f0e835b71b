"""Drives loads against a server, and reads what both sides say of the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from benchmarks.generator import Generator, Load
from benchmarks.ledger import Account
from benchmarks.programs import Program, cpu, machine_cpu


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of loads showed.

    Attributes:
        accounts: of each load's streams.
        seconds: from the first item to the last answer.
        cpu: CPU seconds of the server's tree in that time.
        foreign: cores that programs other than the server and the loads used meanwhile.
    """

    accounts: list[list[Account]]
    seconds: float
    cpu: float
    foreign: float

    @property
    def streams(self) -> list[Account]:
        """Every stream of every load."""
        return [account for accounts in self.accounts for account in accounts]

    @property
    def results(self) -> int:
        """Results in total."""
        return sum(account.results for account in self.streams)

    @property
    def rate(self) -> float:
        """Results per second."""
        return self.results / self.seconds

    @property
    def per_cpu(self) -> float:
        """Results per CPU second of the server's tree."""
        return self.results / self.cpu

    @property
    def unaccounted(self) -> int:
        """Items that the two sides' books do not explain."""
        return sum(account.unaccounted for account in self.streams)


def drive(program: Program, loads: Sequence[Load]) -> Run:
    """Run loads against a server at once, each from its own process; handshakes are not measured."""
    with ExitStack() as stack:
        generators = [stack.enter_context(Generator(load)) for load in loads]
        for generator in generators:
            generator.connect()
        senders = [psutil.Process(generator.pid) for generator in generators]

        def used() -> tuple[float, float]:
            tree = program.cpu()
            return tree, machine_cpu() - tree - sum(map(cpu, senders))

        before, begun = used(), time.perf_counter()
        for generator in generators:
            generator.go()
        for generator in generators:
            generator.finish()
        seconds = time.perf_counter() - begun
        tree, others = (now - then for now, then in zip(used(), before, strict=True))
        accounts = [generator.accounts() for generator in generators]
        return Run(accounts, seconds, tree, max(0.0, others) / seconds)
