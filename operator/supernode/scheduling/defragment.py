"""Which gangs to move so that a named gang can start, when enough is free but in the wrong places.

Flows in: a snapshot, the gang that waits, and the gangs that can move (checkpoint, move, resume) with what that costs.
Flows out: a `Defragmentation` with a new place for each that moves, or None. Nothing is changed. Not here: moving.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.preempt import by_domain, smallest
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.work import Work


@dataclass(frozen=True, eq=False, slots=True)
class Movable:
    """A running gang that can be moved.

    Attributes:
        demand: what it asks for (its own wishes hold in the new place too).
        seconds: that its devices stand still for: checkpoint, restart, work since the last checkpoint.
    """

    demand: GangDemand
    seconds: float


@dataclass(frozen=True, eq=False, slots=True)
class Defragmentation:
    """Moves, and what they make possible.

    Attributes:
        moves: new places, in the order in which they were found.
        placement: of the waiting gang, once all have moved.
        cost: device-seconds that stand still for the moves.
        gain: devices that start to compute.
    """

    moves: tuple[Placement, ...]
    placement: Placement
    cost: float
    gain: int


def plan_moves(snapshot: Snapshot, demand: GangDemand, movable: Iterable[Movable]) -> Defragmentation | None:
    """The fewest moves (then the cheapest) that make room for a gang; None if moving does not help.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """
    able = {
        gang.demand.key: gang
        for gang in sorted(movable, key=lambda gang: (_cost(gang), gang.demand.key))
        if gang.demand.key in snapshot.holders and set(snapshot.holders[gang.demand.key].pools) & set(demand.pools)
    }

    def attempt(keys: Sequence[str]) -> tuple[Placement, tuple[Placement, ...]] | None:
        work = Work(snapshot)
        for key in keys:
            work.release(key)
        wanted = place_in(work, demand, closed=False)
        if not isinstance(wanted, Placement):
            return None
        work.claim(wanted, demand)
        moves: list[Placement] = []
        for key in sorted(keys, key=lambda key: (-snapshot.holders[key].devices, key)):
            moved = place_in(work, able[key].demand, closed=False)
            if not isinstance(moved, Placement) or moved.node_of.size < int(snapshot.holders[key].workers.sum()):
                return None
            work.claim(moved, able[key].demand)
            moves.append(moved)
        return wanted, tuple(moves)

    found = smallest(list(able), by_domain(snapshot, demand, list(able)), attempt)
    if found is None:
        return None
    keys, (wanted, moves) = found
    cost = sum(snapshot.holders[key].devices * able[key].seconds for key in keys)
    return Defragmentation(moves, wanted, cost, int(wanted.node_of.size) * demand.devices)


def _cost(gang: Movable) -> float:
    return gang.demand.workers * gang.demand.devices * gang.seconds
