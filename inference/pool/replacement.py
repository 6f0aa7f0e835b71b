"""Which slot serves, which is a spare, and which worker may be replaced now. It starts and ends none.

Workers are compared by the names of their models: another version of a model replaces the one before.
"""

from __future__ import annotations

from collections.abc import Sequence

from inference.pool.slot import Slot


def dispensable(slots: Sequence[Slot], slot: Slot, *, spares: bool) -> bool:
    """Whether a worker may be replaced now; if it serves and a spare can, that one serves from now on.

    Without spares it is one at a time, while all the others can work and hold what it holds. Where each has a
    model that others lack, it is the youngest one: what it has loaded last will most likely load again.
    """
    if not slot.serving or relieve(slots, slot):
        return True
    others = [other for other in slots if other is not slot]
    if not all(other.ready for other in others):
        return False
    if all(other.holds(slot) for other in others):
        return not spares  # else one of them will be here as soon as it is renewed itself
    fewest = not any(slot.holds(other) and not other.holds(slot) for other in others)
    return fewest and all(slot.since > other.since for other in others)


def balance(slots: Sequence[Slot], workers: int) -> None:
    """Let warm spares serve in the place of workers that cannot, and beside them what only a spare holds.

    A model that only spares hold would be ready and never answer. With the spare there is a worker more than
    there should be, until others hold all that one of them has: that one is a spare then.
    """
    for slot in slots:
        if slot.serving and not slot.ready and not relieve(slots, slot, stale=True):
            break
    for slot in slots:
        if slot.ready and not slot.serving and not held_elsewhere(slots, slot, serving=True):
            slot.serving = True
    for slot in slots:
        if sum(other.serving for other in slots) <= workers:
            break
        if slot.serving and (not slot.ready or held_elsewhere(slots, slot, serving=True)):
            slot.serving = False


def held_elsewhere(slots: Sequence[Slot], slot: Slot, *, serving: bool = False) -> bool:
    """Whether other workers, or those that serve, together hold every model that a slot's worker has."""
    others = (o for o in slots if o is not slot and o.ready and (o.serving or not serving))
    return slot.names <= {name for other in others for name in other.names}


def relieve(slots: Sequence[Slot], slot: Slot, *, stale: bool = False) -> bool:
    """Let a spare serve in a slot's place; whether there is one."""
    for spare in slots:
        if spare.ready and not spare.serving and (stale or (not spare.stale and spare.holds(slot))):
            spare.serving, slot.serving = True, False
            return True
    return False
