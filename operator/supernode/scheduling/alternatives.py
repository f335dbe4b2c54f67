"""What would be possible instead, for a gang that can't be placed: as values; `explain` has the words.

Flows in: a snapshot and a refused demand, and what is known about running gangs. Flows out: `Alternative`s. Each one
has been planned on a copy, so each would really work. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from supernode.errors import InputError
from supernode.scheduling.defragment import Defragmentation, Limits, Movable, plan_moves
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place, place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.preempt import Preemption, Victim, plan_preemption
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.work import Work


@dataclass(frozen=True, eq=False, slots=True)
class Alternative:
    """One thing that would help: only the fields of one kind are set.

    Attributes:
        workers: so many fit now, 0 = not this one.
        level: it fits if this level is required instead of the ones asked for; ``any`` = if none is.
        seconds: until enough is free, if every gang ends when it says.
        after: key of the last gang that has to end for it.
        preemption: who could give way.
        moves: what could move.
        slower: step time there over that on an empty cluster as asked; None = not known.
    """

    workers: int = 0
    level: str = ""
    seconds: float | None = None
    after: str = ""
    preemption: Preemption | None = None
    moves: Defragmentation | None = None
    slower: float | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Running:
    """What is known about gangs that hold devices.

    Attributes:
        ends: key -> seconds from now at which it ends at the latest.
        victims: gangs that may be asked to give way.
        movable: gangs that may be moved.
    """

    ends: Mapping[str, float]
    victims: tuple[Victim, ...] = ()
    movable: tuple[Movable, ...] = ()


def alternatives(snapshot: Snapshot, demand: GangDemand, running: Running) -> tuple[Alternative, ...]:
    """What would be possible instead of what was asked, the nearest to it first.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """
    later = _later(snapshot, demand, running)
    found = [
        _moved(snapshot, demand, running, None if later is None else later.seconds),
        _elsewhere(snapshot, demand),
        _fewer(snapshot, demand),
        later,
        _instead(snapshot, demand, running),
    ]
    return tuple(alternative for alternative in found if alternative is not None)


def changed(demand: GangDemand, **fields: object) -> GangDemand:
    """The same demand but for some fields.

    Raises:
        InputError: the fields don't fit each other.
    """
    return replace(demand, **fields)  # type: ignore[arg-type]


def _fewer(snapshot: Snapshot, demand: GangDemand) -> Alternative | None:
    """The most workers that fit now; with a parallelism, the data-parallel part shrinks."""
    low, high, best = 1, demand.fewest - 1, None
    step = demand.slices[0].size if demand.slices else 1
    cut = demand.parallelism
    if cut is not None:
        ranks = cut.tensor * cut.pipeline * cut.context
        while (step * demand.devices) % ranks:
            step += demand.slices[0].size if demand.slices else 1
            if step >= demand.workers:
                return None
    low, high = 1, high // step
    while low <= high:
        middle = (low + high) // 2
        workers = middle * step
        try:
            parts = (
                None if cut is None else replace(cut, data=workers * demand.devices // ranks, global_batch_size=None)
            )
            smaller = changed(demand, workers=workers, min_count=None, parallelism=parts)
        except InputError:
            return best
        result = place(snapshot, smaller)
        if isinstance(result, Placement):
            best, low = Alternative(workers=workers), middle + 1
        else:
            high = middle - 1
    return best


def _elsewhere(snapshot: Snapshot, demand: GangDemand) -> Alternative | None:
    """The innermost level further out at which it fits, and how much slower that is than where it asked to be."""
    required = [c.level for c in demand.constraints if c.required]
    if not required:
        return None
    depths = [
        max(topology.level_index(name) for name in required)
        for topology in snapshot.topologies
        if all(topology.level_index(name) >= 0 for name in required)
    ]
    wishes = tuple(c for c in demand.constraints if not c.required)
    levels = [level.name for t in snapshot.topologies for level in reversed(t.levels[: max(depths, default=0)])]
    for name in [*dict.fromkeys(levels), ""]:
        constraint = next(c for c in demand.constraints if c.required)
        kept = (*wishes, replace(constraint, level=name)) if name else wishes
        result = place(snapshot, changed(demand, constraints=kept))
        if isinstance(result, Placement):
            return Alternative(level=name or "any", slower=_slower(snapshot, demand, result))
    return None


def _slower(snapshot: Snapshot, demand: GangDemand, result: Placement) -> float | None:
    work = Work(snapshot)
    for key in snapshot.holders:
        work.release(key)
    wanted = place_in(work, demand, closed=False)
    if not isinstance(wanted, Placement) or wanted.predicted is None or result.predicted is None:
        return None
    return result.predicted.seconds / wanted.predicted.seconds


def _later(snapshot: Snapshot, demand: GangDemand, running: Running) -> Alternative | None:
    """When enough is free: running gangs are taken away in the order of their ends, until it fits."""
    order = sorted((seconds, key) for key, seconds in running.ends.items() if key in snapshot.holders)

    def fits(count: int) -> bool:
        work = Work(snapshot)
        for _, key in order[:count]:
            work.release(key)
        return isinstance(place_in(work, demand, closed=False), Placement)

    if not order or not fits(len(order)):
        return None
    low, high = 1, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return Alternative(seconds=order[low - 1][0], after=order[low - 1][1])


def _instead(snapshot: Snapshot, demand: GangDemand, running: Running) -> Alternative | None:
    plan = plan_preemption(snapshot, demand, running.victims)
    # Nobody need give way where nothing but what is kept for another gang is in the way.
    return None if plan is None or not (plan.gangs or plan.shrunk) else Alternative(preemption=plan)


def _moved(snapshot: Snapshot, demand: GangDemand, running: Running, wait: float | None) -> Alternative | None:
    limits = Limits() if wait is None else Limits(wait=wait)
    plan = plan_moves(snapshot, demand, running.movable, limits)
    return None if plan is None else Alternative(moves=plan)
