"""The budget of bytes: what is granted, and who goes on when something is given back."""

from __future__ import annotations

from inference.intake import ByteBudget


class Reader:
    """Takes its message in pieces, as far as the budget grants them."""

    def __init__(self, budget: ByteBudget, message: int, piece: int = 10) -> None:
        self.budget, self.message, self.piece, self.read = budget, message, piece, 0

    def resume(self) -> None:
        while self.read < self.message:
            size = min(self.piece, self.message - self.read)
            self.read += size
            self.budget.unfinished(self, size, done=False)
            if not self.budget.grant(self):
                return

    def take(self) -> None:
        """The message becomes an item."""
        size, self.read, self.message = self.read, 0, 0
        self.budget.used += size
        self.budget.unfinished(self, -size, done=True)


def test_within_the_limit_everything_is_granted() -> None:
    budget = ByteBudget(100)
    reader = Reader(budget, 100)
    reader.resume()
    assert reader.read == budget.used == 100


def test_unfinished_messages_are_finished_one_at_a_time() -> None:
    """All of them together hold the whole budget: without a turn for one of them none would ever be finished."""
    budget = ByteBudget(100)
    readers = [Reader(budget, 80) for _ in range(10)]
    for reader in readers:
        reader.resume()
    assert budget.used < 100 + 80 + 10 * len(readers)
    finished = 0
    while waiting := [reader for reader in readers if reader.read]:
        (whole, *_) = (reader for reader in waiting if reader.read == reader.message)
        whole.take()
        assert budget.used < 100 + 80 + 10 * len(readers)
        budget.release(80)  # the item has run
        finished += 1
    assert (finished, budget.used) == (10, 0)


def test_messages_wait_for_items_and_answers() -> None:
    budget = ByteBudget(100, used=101)
    reader = Reader(budget, 80)
    reader.resume()
    assert reader.read == 10
    budget.release(101)
    assert reader.read == 80


def test_who_has_gone_keeps_nobody_waiting() -> None:
    budget = ByteBudget(100)
    stuck, other = Reader(budget, 10_000, piece=110), Reader(budget, 80)
    stuck.message = 110
    stuck.resume()
    budget.grant(stuck)
    other.resume()
    assert other.read == 10
    stuck.read = 0
    budget.unfinished(stuck, -110, done=True)
    assert (other.read, budget.used) == (80, 80)
