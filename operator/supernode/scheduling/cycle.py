"""One scheduling cycle: all waiting gangs in order, each answered on what the ones before it leave.

Flows in: a snapshot and the waiting demands. Flows out: a decision for each, in queue order; nothing is changed, the
caller claims what it carries out. Not here: preemption, and words.

Order: priority, then quota share (where a pool has guarantees), then age, then key (`shares`). Who can't be placed is
passed over, with one rule so that small gangs can't starve a large one: a waiting gang that would fit if its place were
empty gets that place reserved, and no gang after it in the order may use those nodes, unless that can't delay the
waiting one (backfill; running gangs have told how long they run at most): it is sure to be over before, or the waiting
gang still finds its place at the same time beside it. The place is the domain of its required level (the whole pool if
it requires none, all its pools if it fits over several alone) in which it can start first or, where that is not known,
in which most of it would fit now; so once chosen its free room only grows as gangs there end, until it is enough. Quota
waits reserve nothing: they end when the same namespace frees devices.

Shares could starve a gang too: others whose share is smaller come before it again and again. So the oldest gang of the
highest priority gets its place kept before anybody is asked, unless it would live on borrowed devices while another one
waits for what it is guaranteed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.entitlement import stays_within
from supernode.scheduling.fit import node_fit, roll_up
from supernode.scheduling.place import if_empty, place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.shares import oldest, queue_order, shares_matter
from supernode.scheduling.snapshot import Int64, Snapshot
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.scheduling.work import Room, Work

# Places that are compared for a gang that waits, where it is known when others end.
_MOST_PLACES: Final = 8


@dataclass(frozen=True, eq=False, slots=True)
class Decision:
    """What is decided about one gang, and the snapshot that `explain` needs: for a refusal the one it was decided on,
    for a placement that of the cycle's start.
    """

    demand: GangDemand
    result: Placement | Unplaceable
    snapshot: Snapshot


@dataclass(frozen=True, eq=False, slots=True)
class _Head:
    """A gang that nodes are kept for.

    Attributes:
        demand: the gang, bound to these nodes.
        start: seconds until it can start there at the latest; 0 = not known, or now.
        ended: keys of the gangs that will have ended by then.
    """

    demand: GangDemand
    start: float
    ended: tuple[str, ...]


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
        self._heads: dict[str, list[_Head]] = {}  # pool -> gangs that it keeps nodes for, first come first
        self._first = ""  # the gang whose place was kept before anybody was asked
        self._first_rows: Int64 | None = None  # the nodes that it would have got right then

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
        closed = any(name in self._heads for name in demand.pools) and demand.key != self._first
        if demand.key == self._first and self._first_rows is not None:
            self._let_go()
        result = place_in(work, demand, closed=closed)
        if closed and isinstance(result, Unplaceable):
            result = self._backfilled(demand) or result
        if isinstance(result, Placement):
            if demand.seconds is not None:
                self._ends[demand.key] = demand.seconds
            return result
        if closed:
            result = self._blame(demand, result)
        if demand.key == self._first or self._reserve(demand, result):
            return result  # the next to ask the same is told of this one, or waits as well
        work.memo[asked] = result
        return result

    def keep(self, demand: GangDemand) -> None:
        """Keep a gang's place, the one it would get now or the one to wait for, before anybody is asked.

        Raises:
            InputError: a node mask that does not belong to the snapshot.
        """
        result = place_in(self._work, demand, closed=False)
        if isinstance(result, Unplaceable):
            kept = self._reserve(demand, result)
        else:
            row = {name: index for index, name in enumerate(self._work.live.node_names)}
            self._first_rows = np.asarray([row[name] for name in result.nodes], dtype=np.int64)
            self._work.close(self._first_rows)
            for name in result.pools:
                self._starts[name] = 0.0
                self._heads.setdefault(name, []).append(_Head(demand, 0.0, ()))
            kept = True
        if kept:
            self._first = demand.key

    def _let_go(self) -> None:
        """The gang that came first is asked now: what was kept for it is its own, and nobody's after it."""
        if self._first_rows is not None:
            self._work.reopen(self._first_rows)
        self._first_rows = None
        for name in list(self._heads):
            self._heads[name] = [head for head in self._heads[name] if head.demand.key != self._first]
            if not self._heads[name]:
                del self._heads[name], self._starts[name]

    def _reserve(self, demand: GangDemand, result: Unplaceable) -> bool:
        """Keep nodes for a gang that waits; False if there are none that would help it."""
        if not result.possible or result.reserved_for or result.code is Reason.WAITING_FOR_QUOTA:
            return False
        places = _places_to_keep(self._work, demand, result)
        if not places:
            return False
        pools, rows = places[0]
        head = self._start(demand, pools, rows)
        for other, others in places[1:] if self._ends else ():
            rival = self._start(demand, other, others)
            if 0 < rival.start < (head.start or math.inf):  # it is known when it can start there, and that is sooner
                pools, rows, head = other, others, rival
        self._work.close(rows)
        for name in pools:
            self._starts[name] = min(self._starts.get(name, math.inf), head.start)
            self._heads.setdefault(name, []).append(head)
        return True

    def _backfilled(self, demand: GangDemand) -> Placement | None:
        """A place on nodes that are kept for others, if it delays none of them."""
        in_time = self._in_time(demand)
        heads = [head for name in demand.pools for head in self._heads.get(name, ())]
        if not in_time and not all(head.start for head in heads):
            return None
        result = place_in(self._work, demand, closed=False)
        if isinstance(result, Unplaceable):
            return None
        return result if in_time or all(self._beside(head, demand, result) for head in heads) else None

    def _beside(self, head: _Head, demand: GangDemand, placement: Placement) -> bool:
        """Whether a gang that waits finds its place at the same time if this one runs for good."""
        work = Work(self._work.frozen())
        work.claim(placement, demand)
        for key in head.ended:
            if key in work.live.holders:
                work.release(key)
        return isinstance(place_in(work, head.demand, closed=False), Placement)

    def _in_time(self, demand: GangDemand) -> bool:
        """Whether the gang is over before any for which nodes are kept could start, so that it delays none."""
        starts = [self._starts[name] for name in demand.pools if name in self._starts]
        return demand.seconds is not None and demand.seconds <= min(starts, default=-1.0)

    def _start(self, demand: GangDemand, pools: tuple[str, ...], rows: Int64) -> _Head:
        """When the gang can start on the nodes that are kept for it, if all gangs end at their latest; 0 if that is not
        known: then nobody may use them meanwhile.
        """
        snapshot = self._work.frozen()
        only = np.zeros(len(snapshot.node_names), dtype=np.bool_)
        only[rows] = True
        masks = {name: demand.eligible.get(name) for name in pools}
        bound = {name: only if mask is None else only & mask for name, mask in masks.items()}
        here = demand.with_eligible(bound, pools=pools)
        order = sorted((seconds, key) for key, seconds in self._ends.items() if key in snapshot.holders)
        names = {snapshot.node_names[row] for row in rows.tolist()}
        order = [(seconds, key) for seconds, key in order if names.intersection(snapshot.holders[key].nodes)]

        def fits(count: int) -> bool:
            work = Work(snapshot)
            for _, key in order[:count]:
                work.release(key)
            return isinstance(place_in(work, here, closed=False), Placement)

        if not order or not fits(len(order)):
            return _Head(here, 0.0, ())
        low, high = 1, len(order)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle + 1, high)
        start = order[low - 1][0]
        return _Head(here, start, tuple(key for seconds, key in order if seconds <= start))

    def _blame(self, demand: GangDemand, result: Unplaceable) -> Unplaceable:
        """Tell whether the gang waits because nodes are kept for others, or would wait anyway.

        If it would wait anyway, the numbers without the reservations are those that a person can check.
        """
        freely = place_in(self._work, demand, closed=False)
        if isinstance(freely, Unplaceable):
            return freely
        heads = self._heads.get(freely.pool) or next(self._heads[n] for n in demand.pools if n in self._heads)
        return replace(result, possible=True, reserved_for=heads[0].demand.key)


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
    waiting = list(demands)
    if waiting and shares_matter(work):
        first = oldest(waiting)
        equals = [demand for demand in waiting if demand.priority == first.priority and demand is not first]
        if stays_within(work, first) or not any(stays_within(work, demand) for demand in equals):
            reservations.keep(first)
    for demand in queue_order(waiting, work):
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


def _places_to_keep(work: Work, demand: GangDemand, result: Unplaceable) -> list[tuple[tuple[str, ...], Int64]]:
    """Pools and rows that could be kept for a waiting gang: where most of it fits now first, among those that could
    hold it all.
    """
    snapshot = work.live
    found: list[tuple[tuple[int, int, int], str, Int64]] = []
    for order, refusal in enumerate(result.pools):
        pool = snapshot.pool(refusal.pool)
        if pool is None or refusal.fits_empty < demand.fewest:
            continue
        room = work.room(pool, demand, closed=True)
        if not room.open.any():
            continue
        inside = _places_in(snapshot, room, demand)
        found += [((-free, order, index), pool.name, rows) for index, (free, rows) in enumerate(inside)]
    found.sort(key=lambda place: place[0])
    places: list[tuple[tuple[str, ...], Int64]] = [((name,), where) for _, name, where in found[:_MOST_PLACES]]
    if places or result.mix is None:
        return places
    rooms = [work.room(pool, demand, closed=True) for name in demand.pools if (pool := snapshot.pool(name))]
    together = [room.pool.rows[room.open[room.pool.rows]].astype(np.int64) for room in rooms]
    rows = np.concatenate(together) if together else np.zeros(0, dtype=np.int64)
    return [(tuple(room.pool.name for room in rooms), rows)] if rows.size else []


def _places_in(snapshot: Snapshot, room: Room, demand: GangDemand) -> list[tuple[int, Int64]]:
    """Workers that fit now, and rows, of the best places in one pool that could hold the gang."""
    pool = room.pool
    whole = if_empty(snapshot, room, demand, node_fit(snapshot, pool, demand, room.open))
    rows = pool.rows[room.open[pool.rows]].astype(np.int64)
    if not any(c.required for c in demand.constraints):
        return [(int(room.per_row.sum()), rows)] if int(whole.per_row.sum()) >= demand.fewest else []
    best: list[tuple[int, Int64]] = []
    for tree, anchor in whole.trees:
        topology = tree.topology
        free = roll_up(topology, room.per_row, tree.quanta).caps[anchor]
        able = np.flatnonzero(tree.caps[anchor] >= demand.fewest)
        for domain in able[np.lexsort((able, -free[able]))][:_MOST_PLACES].tolist():
            where = np.arange(topology.node_rows.size)
            if anchor < len(topology.levels):
                where = np.flatnonzero(topology.node_domain[:, anchor] == domain)
            else:
                where = where[domain : domain + 1]
            inside = topology.node_rows[where].astype(np.int64)
            best.append((int(free[domain]), inside[room.open[inside]]))
    return best
