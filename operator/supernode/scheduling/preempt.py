"""Which gangs must give way so that another can start: the smallest set, planned on a copy, never in vain.

Flows in: a snapshot, the gang that waits, and what giving way costs each running gang. Flows out: a `Preemption` with
the placement that it makes possible, or None. Nothing is changed. Not here: stopping anybody, and knowing priorities.

Surplus workers of elastic gangs (above their minCount) go first, then whole gangs. A gang may be asked to give way if
its priority is lower, or if it lives on borrowed devices (its namespace holds more than its guarantee) and the waiting
gang stays within its own namespace's guarantee.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, TypeVar

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.search import anchor_level
from supernode.scheduling.snapshot import Holding, Snapshot
from supernode.scheduling.work import Work, positions_of

T = TypeVar("T")
#: Sets that are tried at most; beyond, the smallest found so far counts.
MOST_TRIES: Final = 400
#: Pairs are tried exhaustively among at most this many gangs.
MOST_PAIRED: Final = 24


@dataclass(frozen=True, slots=True)
class Victim:
    """A running gang that could give way.

    Attributes:
        key: ``namespace/name``; it holds something in the snapshot.
        priority: lower gives way first.
        lost_seconds: work since its last checkpoint, which would be done again.
        surplus: workers above its minCount, which can go without stopping it.
    """

    key: str
    priority: int = 0
    lost_seconds: float = 0.0
    surplus: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Preemption:
    """Who gives way, and what that makes possible.

    Attributes:
        gangs: keys of whole gangs that stop.
        shrunk: (key, workers) of gangs that give up their last ranks.
        lost_seconds: work that the stopped gangs do again, summed.
        placement: of the waiting gang afterwards.
    """

    gangs: tuple[str, ...]
    shrunk: tuple[tuple[str, int], ...]
    lost_seconds: float
    placement: Placement


def plan_preemption(snapshot: Snapshot, demand: GangDemand, victims: Iterable[Victim]) -> Preemption | None:
    """The smallest set of gangs that have to give way for this one; None if no set that may would help.

    Among sets of one size: lower priority first, then less lost work, then by name.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """
    able = {v.key: v for v in sorted(victims, key=_cheapest_first) if _may_go(snapshot, demand, v)}
    elastic = [v.key for v in able.values() if v.surplus > 0]

    def shrink(keys: Sequence[str]) -> Placement | None:
        work = Work(snapshot)
        for key in keys:
            work.release(key, min(able[key].surplus, int(snapshot.holders[key].workers.sum()) - 1))
        return _placed(work, demand)

    def stop(keys: Sequence[str]) -> Placement | None:
        work = Work(snapshot)
        for key in keys:
            work.release(key)
        return _placed(work, demand)

    elastic = [key for key in elastic if int(snapshot.holders[key].workers.sum()) > 1]
    found = smallest(elastic, by_domain(snapshot, demand, elastic), shrink)
    if found is not None:
        keys, placement = found
        counts = tuple((k, min(able[k].surplus, int(snapshot.holders[k].workers.sum()) - 1)) for k in keys)
        return Preemption((), counts, 0.0, placement)
    found = smallest(list(able), by_domain(snapshot, demand, list(able)), stop)
    if found is None:
        return None
    keys, placement = found
    return Preemption(keys, (), sum(able[key].lost_seconds for key in keys), placement)


def smallest(
    candidates: Sequence[str], groups: Sequence[Sequence[str]], attempt: Callable[[Sequence[str]], T | None]
) -> tuple[tuple[str, ...], T] | None:
    """The smallest set of candidates with which the attempt succeeds, and what it gave.

    Args:
        candidates: cheapest first.
        groups: candidates that stand in each other's place, each cheapest first: the larger sets come from one group.
        attempt: None = no success. More candidates never turn a success into a failure.
    """
    rank = {key: index for index, key in enumerate(candidates)}
    tries = 0

    def tried(keys: Sequence[str]) -> T | None:
        nonlocal tries
        tries += 1
        return attempt(keys) if tries <= MOST_TRIES else None

    if not candidates:
        return None
    for key in candidates[: MOST_TRIES // 4]:
        result = tried((key,))
        if result is not None:
            return (key,), result
    paired = sorted(combinations(candidates[:MOST_PAIRED], 2), key=lambda pair: sum(rank[key] for key in pair))
    for pair in paired[: MOST_TRIES // 4]:
        result = tried(pair)
        if result is not None:
            return pair, result
    best: tuple[tuple[int, int, tuple[str, ...]], T] | None = None
    for group in [*groups, candidates]:
        grown = _grown(list(group), tried)
        if grown is not None:
            keys, result = grown
            order = (len(keys), sum(rank[key] for key in keys), tuple(keys))
            if best is None or order < best[0]:
                best = (order, result)
    return None if best is None else (best[0][2], best[1])


def _grown(group: list[str], attempt: Callable[[Sequence[str]], T | None]) -> tuple[list[str], T] | None:
    """The shortest run from the front that succeeds (by halving), without those that it does not need."""
    result = attempt(group)
    if result is None:
        return None
    low, high = 1, len(group)
    while low < high:
        middle = (low + high) // 2
        found = attempt(group[:middle])
        if found is None:
            low = middle + 1
        else:
            high, result = middle, found
    keys = group[:high]
    for key in list(reversed(keys)):
        rest = [other for other in keys if other != key]
        found = attempt(rest) if rest else None
        if found is not None:
            keys, result = rest, found
    return keys, result


def by_domain(snapshot: Snapshot, demand: GangDemand, keys: Sequence[str]) -> list[list[str]]:
    """The gangs that hold devices in each domain of the required level (else of the outermost), in the given order."""
    groups: list[list[str]] = []
    row = {name: index for index, name in enumerate(snapshot.node_names)}
    for topology in snapshot.topologies:
        anchor = anchor_level(topology, demand)
        if anchor is None or not topology.node_rows.size:
            continue
        where = positions_of(topology, len(snapshot.node_names))
        members: dict[int, list[str]] = {}
        for key in keys:
            positions = where[[row[name] for name in snapshot.holders[key].nodes if name in row]]
            positions = positions[positions >= 0]
            if anchor < len(topology.levels):
                positions = topology.node_domain[positions, max(anchor, 0)]
            for domain in np.unique(positions).tolist():
                members.setdefault(domain, []).append(key)
        groups += [members[domain] for domain in sorted(members)]
    return groups


def _placed(work: Work, demand: GangDemand) -> Placement | None:
    result = place_in(work, demand, closed=False)
    return result if isinstance(result, Placement) else None


def _cheapest_first(victim: Victim) -> tuple[int, float, str]:
    return victim.priority, victim.lost_seconds, victim.key


def _may_go(snapshot: Snapshot, demand: GangDemand, victim: Victim) -> bool:
    """Whether this gang may be asked to give way to that one."""
    holding = snapshot.holders.get(victim.key)
    if holding is None or not set(holding.pools) & set(demand.pools) or victim.key == demand.key:
        return False
    return victim.priority < demand.priority or _borrows(snapshot, demand, holding)


def _borrows(snapshot: Snapshot, demand: GangDemand, holding: Holding) -> bool:
    """Whether a gang holds borrowed devices that the other's namespace has a guarantee for."""
    pool = snapshot.pool(holding.pool)
    namespace = holding.key.split("/", 1)[0]
    if pool is None or namespace == demand.namespace:
        return False
    mine, theirs = pool.quota_of(demand.namespace), pool.quota_of(namespace)
    guaranteed = 0 if mine is None else mine.guaranteed
    kept = 0 if theirs is None else theirs.guaranteed
    within = snapshot.held(pool.name, demand.namespace) + demand.fewest * demand.devices <= guaranteed
    return within and snapshot.held(pool.name, namespace) - holding.devices >= kept
