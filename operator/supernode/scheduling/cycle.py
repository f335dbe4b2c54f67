"""One scheduling cycle: all waiting gangs in order, each answered on what the ones before it leave.

Flows in: a snapshot and the waiting demands. Flows out: a decision for each, in queue order; nothing is changed, the
caller claims what it carries out. Not here: preemption, and words.

Order: priority, then quota share (where a pool has guarantees), then age, then key. Who can't be placed is passed over,
with one rule so that small gangs can't starve a large one: a waiting gang that would fit if its place were empty gets
that place reserved, and no gang after it in the order may use those nodes, unless it is sure to be over before the
waiting one can start (backfill: running gangs and the newcomer have told how long they run at most). The place is the
domain of its required level (the whole pool if it requires none) in which most of it would fit now, so once chosen its
free room only grows as gangs there end, until it is enough. Quota waits reserve nothing: they end when the same
namespace frees devices.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.fit import node_fit, roll_up
from supernode.scheduling.place import if_empty, place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import Int64, Snapshot
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.scheduling.work import Room, Work


@dataclass(frozen=True, eq=False, slots=True)
class Decision:
    """What is decided about one gang, and the snapshot that `explain` needs: for a refusal the one it was decided on,
    for a placement that of the cycle's start.
    """

    demand: GangDemand
    result: Placement | Unplaceable
    snapshot: Snapshot


def queue_order(demands: Iterable[GangDemand], work: Work | None = None) -> Iterator[GangDemand]:
    """Who is asked first: higher priority, then the namespace with the smaller share, then older, then by key.

    Args:
        demands: those that wait.
        work: the cluster that shares are taken from; the caller's claims count from the next gang on. None = all
            shares are equal.
    """
    by_age = sorted(demands, key=lambda demand: (-demand.priority, demand.created, demand.key))
    if work is None or not any(quota.guaranteed for pool in work.live.pools for quota in pool.quotas):
        yield from by_age
        return
    waiting: dict[tuple[int, str], deque[GangDemand]] = {}
    for demand in by_age:
        waiting.setdefault((-demand.priority, demand.namespace), deque()).append(demand)
    while waiting:
        highest = min(priority for priority, _ in waiting)

        def standing(group: tuple[int, str]) -> tuple[float, float, str]:
            first = waiting[group][0]
            return quota_share(work, group[1]), first.created, first.key

        chosen = min((group for group in waiting if group[0] == highest), key=standing)
        yield waiting[chosen].popleft()
        if not waiting[chosen]:
            del waiting[chosen]


def quota_share(work: Work, namespace: str) -> float:
    """What a namespace holds of its weight, in the pool where that is most (its dominant one).

    Its weight in a pool is what it is guaranteed; for a namespace without a guarantee, what nobody is guaranteed. Above
    1 it lives on borrowed devices.
    """
    share = 0.0
    for pool in work.live.pools:
        quota = pool.quota_of(namespace)
        weight = 0 if quota is None else quota.guaranteed
        if not weight:
            free = work.facts.get(("unguaranteed", pool.name))
            if free is None:
                total = int(np.bitwise_count(work.live.device_all[pool.rows]).sum())
                free = max(1, total - sum(quota.guaranteed for quota in pool.quotas))
                work.facts["unguaranteed", pool.name] = free
            weight = free
        share = max(share, work.held(pool.name, namespace) / weight)
    return share


class Reservations:
    """Answers one cycle's gangs in queue order, and keeps nodes for those that wait; made anew for each cycle.

    Args:
        work: the cycle's working copy; the caller claims on it what it carries out.
        ends: key -> seconds from now at which a gang that holds devices ends at the latest.
    """

    def __init__(self, work: Work, ends: Mapping[str, float] | None = None) -> None:
        self._work = work
        self._ends = dict(ends or {})
        self._starts: dict[str, float] = {}  # pool -> seconds until the first gang that it keeps nodes for can start
        self._heads: dict[str, list[str]] = {}  # pool -> gangs that it keeps nodes for, first come first

    def place(self, demand: GangDemand) -> Placement | Unplaceable:
        """As `place.place`, but on no node that is kept for another; a gang that has to wait gets its place kept.

        Raises:
            InputError: a node mask that does not belong to the snapshot.
        """
        work = self._work
        masks = tuple(id(demand.eligible.get(name)) for name in demand.pools)
        namespace = demand.namespace if any(pool.quotas for pool in work.live.pools) else ""
        asked = (demand.pools, masks, demand.question, namespace, demand.seconds)
        known: Unplaceable | None = work.memo.get(asked)
        if known is not None:
            return known
        closed = any(name in self._heads for name in demand.pools)
        result = place_in(work, demand, closed=closed)
        if closed and isinstance(result, Unplaceable) and self._in_time(demand):
            result = place_in(work, demand, closed=False)
        if isinstance(result, Placement):
            if demand.seconds is not None:
                self._ends[demand.key] = demand.seconds
            return result
        if closed:
            result = self._blame(demand, result)
        if result.possible and not result.reserved_for and result.code is not Reason.WAITING_FOR_QUOTA:
            name, rows = _reservation(work, demand, result)
            if rows.size:
                work.close(rows)
                start = self._start(demand, name, rows)
                self._starts[name] = min(self._starts.get(name, math.inf), start)
                self._heads.setdefault(name, []).append(demand.key)
                return result  # the next to ask the same is told of this one, or waits as well
        work.memo[asked] = result
        return result

    def _in_time(self, demand: GangDemand) -> bool:
        """Whether the gang is over before any for which nodes are kept could start, so that it delays none."""
        starts = [self._starts[name] for name in demand.pools if name in self._starts]
        return demand.seconds is not None and demand.seconds <= min(starts, default=-1.0)

    def _start(self, demand: GangDemand, pool: str, rows: Int64) -> float:
        """Seconds until the gang can start on the nodes that are kept for it, if all gangs end at their latest; 0 if
        that is not known: then nobody may use them meanwhile.
        """
        snapshot = self._work.frozen()
        only = np.zeros(len(snapshot.node_names), dtype=np.bool_)
        only[rows] = True
        mask = demand.eligible.get(pool)
        here = demand.with_eligible({pool: only if mask is None else only & mask}, pools=(pool,))
        order = sorted((seconds, key) for key, seconds in self._ends.items() if key in snapshot.holders)
        names = {snapshot.node_names[row] for row in rows.tolist()}
        order = [(seconds, key) for seconds, key in order if names.intersection(snapshot.holders[key].nodes)]

        def fits(count: int) -> bool:
            work = Work(snapshot)
            for _, key in order[:count]:
                work.release(key)
            return isinstance(place_in(work, here, closed=False), Placement)

        if not order or not fits(len(order)):
            return 0.0
        low, high = 1, len(order)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle + 1, high)
        return order[low - 1][0]

    def _blame(self, demand: GangDemand, result: Unplaceable) -> Unplaceable:
        """Tell whether the gang waits because nodes are kept for others, or would wait anyway.

        If it would wait anyway, the numbers without the reservations are those that a person can check.
        """
        freely = place_in(self._work, demand, closed=False)
        if isinstance(freely, Unplaceable):
            return freely
        heads = self._heads.get(freely.pool) or next(self._heads[n] for n in demand.pools if n in self._heads)
        return replace(result, possible=True, reserved_for=heads[0])


def plan_cycle(
    snapshot: Snapshot, demands: Iterable[GangDemand], ends: Mapping[str, float] | None = None
) -> tuple[Decision, ...]:
    """Decide about every waiting gang, in queue order.

    Args:
        snapshot: the cluster; node masks of the demands belong to it.
        demands: gangs that hold nothing yet.
        ends: key -> seconds from now at which a gang that holds devices ends at the latest, for backfilling.

    Raises:
        InputError: a node mask that does not belong to the snapshot.
    """
    work = Work(snapshot)
    reservations = Reservations(work, ends)
    decisions: list[Decision] = []
    for demand in queue_order(demands, work):
        result = reservations.place(demand)
        if isinstance(result, Placement):
            decisions.append(Decision(demand, result, snapshot))
            work.claim(result, demand)
        else:
            decisions.append(Decision(demand, result, work.frozen()))
    return tuple(decisions)


def with_claim(snapshot: Snapshot, placement: Placement, demand: GangDemand) -> Snapshot:
    """A snapshot in which the gang holds its placement; the given one stays as it is. Its generation is the same, so
    it must not outlive the cycle.

    Raises:
        InputError: a node that is not in the cluster; names it.
    """
    work = Work(snapshot)
    work.claim(placement, demand)
    return work.frozen()


def _reservation(work: Work, demand: GangDemand, result: Unplaceable) -> tuple[str, Int64]:
    """Pool and rows to keep for a waiting gang: where most of it fits now, among places that could hold it all."""
    snapshot = work.live
    best: tuple[tuple[int, int], str, Int64] | None = None
    for order, refusal in enumerate(result.pools):
        pool = snapshot.pool(refusal.pool)
        if pool is None or refusal.fits_empty < demand.fewest:
            continue
        room = work.room(pool, demand, closed=True)
        if not room.open.any():
            continue
        found = _place_to_keep(snapshot, room, demand)
        if found is not None and (best is None or (-found[0], order) < best[0]):
            best = ((-found[0], order), pool.name, found[1])
    if best is None:
        return "", np.zeros(0, dtype=np.int64)
    return best[1], best[2]


def _place_to_keep(snapshot: Snapshot, room: Room, demand: GangDemand) -> tuple[int, Int64] | None:
    """Workers that fit now, and rows, of the best place in one pool; None if no place could hold the gang."""
    pool = room.pool
    whole = if_empty(snapshot, room, demand, node_fit(snapshot, pool, demand, room.open))
    rows = pool.rows[room.open[pool.rows]].astype(np.int64)
    if not any(c.required for c in demand.constraints):
        return (int(room.per_row.sum()), rows) if int(whole.per_row.sum()) >= demand.fewest else None
    best: tuple[int, Int64] | None = None
    for tree, anchor in whole.trees:
        topology = tree.topology
        free = roll_up(topology, room.per_row, tree.quanta).caps[anchor]
        able = np.flatnonzero(tree.caps[anchor] >= demand.fewest)
        if not able.size:
            continue
        domain = int(able[np.lexsort((able, -free[able]))[0]])
        if best is None or int(free[domain]) > best[0]:
            where = np.arange(topology.node_rows.size)
            if anchor < len(topology.levels):
                where = np.flatnonzero(topology.node_domain[:, anchor] == domain)
            else:
                where = where[domain : domain + 1]
            inside = topology.node_rows[where].astype(np.int64)
            best = (int(free[domain]), inside[room.open[inside]])
    return best
