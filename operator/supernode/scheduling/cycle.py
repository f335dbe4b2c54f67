"""One scheduling cycle: all waiting gangs in order, each answered on what the ones before it leave.

Flows in: a snapshot and the waiting demands. Flows out: a decision for each, in queue order; nothing is changed, the
caller claims what it carries out. Not here: preemption, and words.

Order: priority, then age, then key. Who can't be placed is passed over, with one rule so that small gangs can't starve
a large one: a waiting gang that would fit if its place were empty gets that place reserved, and no gang after it in
the order may use those nodes. The place is the domain of its required level (the whole pool if it requires none) in
which most of it would fit now, so once chosen its free room only grows as gangs there end, until it is enough. Quota
waits reserve nothing: they end when the same namespace frees devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.fit import node_fit, roll_up
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.search import anchor_level
from supernode.scheduling.snapshot import Bool, Holding, Int64, PoolInfo, Snapshot, resource_vector
from supernode.scheduling.unplaceable import Reason, Unplaceable


@dataclass(frozen=True, eq=False, slots=True)
class Decision:
    """What is decided about one gang, and the snapshot it was decided on (what `explain` needs)."""

    demand: GangDemand
    result: Placement | Unplaceable
    snapshot: Snapshot


def queue_order(demands: Iterable[GangDemand]) -> list[GangDemand]:
    """Who is asked first: higher priority, then older, then by key."""
    return sorted(demands, key=lambda demand: (-demand.priority, demand.created, demand.key))


class Reservations:
    """What one cycle keeps for gangs that wait; made anew for each cycle, asked once per gang in queue order.

    Between two questions the caller may claim placements: each question comes with a fresh snapshot. If nodes come or
    go within a cycle, what was reserved is forgotten.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._rows: Bool = np.zeros(0, dtype=np.bool_)
        self._heads: dict[str, list[str]] = {}  # pool -> gangs that it keeps nodes for, first come first

    def place(self, snapshot: Snapshot, demand: GangDemand) -> Placement | Unplaceable:
        """As `place.place`, but on no node that is kept for another; a gang that has to wait gets its place kept.

        Raises:
            InputError: a node mask that does not belong to the snapshot.
        """
        if snapshot.node_names is not self._names and snapshot.node_names != self._names:
            self._heads = {}
            self._rows = np.zeros(len(snapshot.node_names), dtype=np.bool_)
        self._names = snapshot.node_names
        closed = any(name in self._heads for name in demand.pools)
        result = place(snapshot, _without(demand, self._rows) if closed else demand)
        if isinstance(result, Placement):
            return result
        if closed:
            result = self._blame(snapshot, demand, result)
        if result.possible and not result.reserved_for and result.code is not Reason.WAITING_FOR_QUOTA:
            name, rows = _reservation(snapshot, demand, result, self._rows)
            if rows.size:
                self._rows[rows] = True
                self._heads.setdefault(name, []).append(demand.key)
        return result

    def _blame(self, snapshot: Snapshot, demand: GangDemand, result: Unplaceable) -> Unplaceable:
        """Tell whether the gang waits because nodes are kept for others, or would wait anyway.

        If it would wait anyway, the numbers without the reservations are those that a person can check.
        """
        freely = place(snapshot, demand)
        if isinstance(freely, Unplaceable):
            return freely
        heads = self._heads.get(freely.pool) or next(self._heads[n] for n in demand.pools if n in self._heads)
        return replace(result, possible=True, reserved_for=heads[0])


def plan_cycle(snapshot: Snapshot, demands: Iterable[GangDemand]) -> tuple[Decision, ...]:
    """Decide about every waiting gang, in queue order.

    Args:
        snapshot: the cluster; node masks of the demands belong to it.
        demands: gangs that hold nothing yet.

    Raises:
        InputError: a node mask that does not belong to the snapshot.
    """
    reservations = Reservations()
    decisions: list[Decision] = []
    for demand in queue_order(demands):
        result = reservations.place(snapshot, demand)
        decisions.append(Decision(demand, result, snapshot))
        if isinstance(result, Placement):
            snapshot = with_claim(snapshot, result, demand)
    return tuple(decisions)


def with_claim(snapshot: Snapshot, placement: Placement, demand: GangDemand) -> Snapshot:
    """A snapshot in which the gang holds its placement; the given one stays as it is. Its generation is the same, so
    it must not outlive the cycle.
    """
    pool = snapshot.pool(placement.pool)
    index = {name: row for row, name in enumerate(snapshot.node_names)} if len(placement.nodes) > 64 else None
    rows = np.asarray(
        [index[n] if index is not None else _row(snapshot.node_names, n) for n in placement.nodes], dtype=np.int64
    )
    masks = placement.masks()
    workers = np.bincount(placement.node_of, minlength=rows.size).astype(np.int32)
    vector, _ = resource_vector(snapshot.resources, demand.request)
    free, device_free = snapshot.free.copy(), snapshot.device_free.copy()
    free[rows] -= workers[:, None].astype(np.int64) * vector
    if pool is not None:
        free[rows, pool.resource] -= np.bitwise_count(masks).astype(np.int64)
    device_free[rows] &= ~masks
    free.setflags(write=False)
    device_free.setflags(write=False)
    holding = Holding.of(demand.key, placement.pool, placement.nodes, masks, workers, demand.request)
    holders = MappingProxyType({**snapshot.holders, demand.key: holding})
    return replace(snapshot, free=free, device_free=device_free, holders=holders)


def _row(names: tuple[str, ...], name: str) -> int:
    """Row of a node: names are sorted."""
    low, high = 0, len(names)
    while low < high:
        middle = (low + high) // 2
        if names[middle] < name:
            low = middle + 1
        else:
            high = middle
    return low


def _without(demand: GangDemand, reserved: Bool) -> GangDemand:
    """The demand, with reserved nodes closed to it."""
    masks: dict[str, Bool | None] = {}
    for name in demand.pools:
        mask = demand.eligible.get(name)
        if mask is not None and mask.shape != reserved.shape:
            return demand  # not of this snapshot: `place` refuses it with the right words
        masks[name] = ~reserved if mask is None else mask & ~reserved
    return demand.with_eligible(masks)


def _reservation(snapshot: Snapshot, demand: GangDemand, result: Unplaceable, reserved: Bool) -> tuple[str, Int64]:
    """Pool and rows to keep for a waiting gang: where most of it fits now, among places that could hold it all."""
    best: tuple[tuple[int, int], str, Int64] | None = None
    for order, refusal in enumerate(result.pools):
        pool = snapshot.pool(refusal.pool)
        if pool is None or refusal.fits_empty < demand.fewest:
            continue
        found = _place_to_keep(snapshot, pool, demand, reserved)
        if found is not None and (best is None or (-found[0], order) < best[0]):
            best = ((-found[0], order), pool.name, found[1])
    if best is None:
        return "", np.zeros(0, dtype=np.int64)
    return best[1], best[2]


def _place_to_keep(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand, reserved: Bool) -> tuple[int, Int64] | None:
    """Workers that fit now, and rows, of the best place in one pool; None if no place could hold the gang."""
    fit = node_fit(snapshot, pool, demand)
    keep = fit.open & ~reserved[pool.rows]
    now = np.zeros(len(snapshot.node_names), dtype=np.int64)
    empty = now.copy()
    now[pool.rows] = np.where(keep, fit.now, 0)
    empty[pool.rows] = np.where(keep, fit.empty, 0)
    if not any(c.required for c in demand.constraints):
        rows = pool.rows[keep].astype(np.int64)
        return (int(now.sum()), rows) if int(empty.sum()) >= demand.fewest else None
    best: tuple[int, Int64] | None = None
    for topology in snapshot.topologies:
        anchor = anchor_level(topology, demand)
        if anchor is None or not topology.node_rows.size:
            continue
        quanta = {topology.level_index(item.level): item.size for item in demand.slices}
        whole = roll_up(topology, empty, quanta).caps[anchor]
        free = roll_up(topology, now, quanta).caps[anchor]
        able = np.flatnonzero(whole >= demand.fewest)
        if not able.size:
            continue
        domain = int(able[np.lexsort((able, -free[able]))[0]])
        if best is None or int(free[domain]) > best[0]:
            where = np.arange(topology.node_rows.size)
            if anchor < len(topology.levels):
                where = np.flatnonzero(topology.node_domain[:, anchor] == domain)
            else:
                where = where[domain : domain + 1]
            rows = topology.node_rows[where].astype(np.int64)
            best = (int(free[domain]), rows[np.isin(rows, pool.rows[keep])])
    return best
