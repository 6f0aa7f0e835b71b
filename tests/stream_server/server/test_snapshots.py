"""Bodies that take time to make: fresh while they are cheap, copies in a flood of requests."""

from __future__ import annotations

from stream_server.server.snapshots import BURST_S, MAX_AGE_S, SHARE, Snapshots


class Machine:
    """A clock and a body that takes time."""

    def __init__(self, cost: float) -> None:
        self.now = self.used = 0.0
        self.cost = cost
        self.made = 0
        self.snapshots = Snapshots(lambda: self.now, lambda: self.used)

    def make(self) -> bytes:
        self.made += 1
        self.used += self.cost
        return b"%d" % self.made

    def get(self, name: str = "some") -> bytes:
        return self.snapshots.get(name, self.make)


def test_every_request_gets_a_new_one_at_a_usual_rate() -> None:
    machine = Machine(cost=0.001)
    for second in range(1, 100):
        machine.now = float(second)
        assert machine.get() == b"%d" % second


def test_flood_takes_a_small_share_of_the_time() -> None:
    machine = Machine(cost=0.001)
    for request in range(100_000):
        machine.now = request / 1000
        machine.get()
    assert BURST_S + 99 * SHARE <= machine.used <= BURST_S + 100 * SHARE + machine.cost


def test_dear_one_is_made_once_in_a_while_however_long_it_takes() -> None:
    machine = Machine(cost=10.0)
    for request in range(10_000):
        machine.now = request / 1000
        machine.get()
    assert machine.made == 10.0 / MAX_AGE_S


def test_copy_is_what_was_made_last() -> None:
    machine = Machine(cost=1.0)
    assert [machine.get(), machine.get()] == [b"1", b"1"]
    machine.now = MAX_AGE_S
    assert [machine.get(), machine.get()] == [b"2", b"2"]


def test_flood_of_one_leaves_the_others_fresh() -> None:
    machine = Machine(cost=1.0)
    assert [machine.get("flooded"), machine.get("flooded"), machine.get("other")] == [b"1", b"1", b"2"]
