"""A cycle's own copy of the cluster: what is free after each claim, and how many workers fit where, kept up to date.

Flows in: a `Snapshot`, then claims one by one. Flows out: `Room`s for the search, and frozen snapshots on request. One
owner, one thread, one cycle; nothing here outlives it. Not here: choosing (`place`) and the order of gangs (`cycle`).

Gangs of one kind (same devices, requests, constraints and node mask) share a `Room`. It remembers how many claims it
has seen and catches up on the nodes that these touched, so that a claim costs nothing to kinds that are never asked
about again, and little to the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from supernode.errors import InputError
from supernode.scheduling.demand import MOST_DEVICES, GangDemand, Key, Mask
from supernode.scheduling.fit import Tree, disjoint, fits_on, roll_up
from supernode.scheduling.placement import Placement
from supernode.scheduling.quota import Amount
from supernode.scheduling.search import anchor_level, loose_caps, loose_rows
from supernode.scheduling.snapshot import Bool, Holding, Int64, PoolInfo, Snapshot, resource_vector
from supernode.scheduling.topology import NODE_LEVEL, Int32, Topology


@dataclass(eq=False, slots=True)
class Room:
    """How many workers of one kind fit where in one pool. Changed by `Work` alone.

    Attributes:
        pool: the pool.
        open: bool (N,) nodes of the pool that are ready and that the gang may use.
        per_row: int64 (N,) workers per node now, 0 outside the pool.
        trees: of the groups that can serve the kind and have any room, with their required level (-1: none).
        loose: rows of the pool outside all groups, if the kind can use them.
        mask: the node mask it was made for (kept so that its identity is not given to another).
        seen: claims that are counted in.
        columns: (column, amount) of each resource that a worker asks for; None = a resource that no node has.
        memo: what `place` has worked out for this state of the room.
    """

    pool: PoolInfo
    open: Bool
    per_row: Int64
    trees: list[tuple[Tree, int]]
    loose: Int32
    mask: Mask | None
    seen: int
    columns: tuple[tuple[int, int], ...] | None
    memo: dict[object, Any] = field(default_factory=dict)

    def most(self, demand: GangDemand) -> int:
        """Most workers that one place takes: one domain of the required level, or the whole pool."""
        anchored = any(c.required and c.level != NODE_LEVEL for c in demand.constraints)
        one_node = any(c.required and c.level == NODE_LEVEL for c in demand.constraints)
        loose = loose_caps(self.per_row, self.loose, demand) if self.loose.size else self.loose
        if anchored or one_node:
            most = max((tree.most(anchor) for tree, anchor in self.trees), default=0)
            return max(most, int(loose.max(initial=0))) if one_node else most
        trees = disjoint([tree for tree, _ in self.trees])
        return sum(int(tree.caps[0].sum()) for tree in trees) + int(loose.sum())


class Work:
    """The cluster as one cycle changes it. It starts as the given snapshot, which stays as it is."""

    def __init__(self, snapshot: Snapshot) -> None:
        #: The cluster now. Its arrays change with each claim; `frozen` gives a copy that does not.
        self.live = snapshot
        self._given = snapshot
        self._holders: dict[str, Holding] = {}
        self._frozen: Snapshot | None = snapshot
        self._own = False  # whether the arrays of `live` are this object's to change
        self._touched: list[tuple[Int64, Key, Int64]] = []  # per claim: rows, kind of the gang, workers on each
        self._rooms: dict[object, Room] = {}
        self._held: dict[tuple[str, str], Amount] = {}
        self._ran: dict[str, int] = {}  # gangs that were released -> devices that they held
        self._closed: Bool | None = None
        self._kept: list[Int64] = []
        self._closings = 0
        #: What callers have worked out and that a claim or a closing makes void.
        self.memo: dict[object, Any] = {}
        #: What callers have worked out and that stays true for the whole cycle.
        self.facts: dict[object, Any] = {}
        #: Whether gangs are placed without moving their workers one by one: where many plans are tried, most in vain.
        self.brief = False
        #: Whether quotas in compute are left out of account, to see what a place would promise.
        self.unlimited = False

    @property
    def closed(self) -> Bool | None:
        """bool (N,) nodes that are kept for gangs which came first; None = none are. Not to be changed."""
        return self._closed

    def close(self, rows: Int64) -> None:
        """Keep nodes for a gang that waits: rooms that are asked for with ``closed`` leave them out."""
        self._kept.append(rows)
        self._close()

    def reopen(self, rows: Int64) -> None:
        """Keep nodes no longer: the very array that `close` was called with."""
        self._kept = [kept for kept in self._kept if kept is not rows]
        self._close()

    def _close(self) -> None:
        closed = np.zeros(len(self.live.node_names), dtype=np.bool_)
        for rows in self._kept:
            closed[rows] = True
        self._closed = closed if self._kept else None
        self._closings += 1
        self.memo.clear()

    def frozen(self) -> Snapshot:
        """The cluster now, as a value. The same object until the next claim."""
        if self._frozen is None:
            free, device_free = self.live.free.copy(), self.live.device_free.copy()
            free.setflags(write=False)
            device_free.setflags(write=False)
            holders = MappingProxyType(dict(self._holders))
            self._frozen = replace(self.live, free=free, device_free=device_free, holders=holders, memo={})
        return self._frozen

    def held(self, pool: str, namespace: str) -> int:
        """Devices of a pool that a namespace's gangs hold."""
        return self.amount(pool, namespace).devices

    def amount(self, pool: str, namespace: str) -> Amount:
        """Devices of a pool that a namespace's gangs hold, and the effective compute that they count with."""
        known = self._held.get((pool, namespace))
        if known is None:
            known = self._held[pool, namespace] = self.live.amount(pool, namespace)
        return known

    def compute_left(self, pool: PoolInfo, namespace: str) -> int | None:
        """MFLOP/s that a namespace may still take of a pool; None = any."""
        quota = pool.quota_of(namespace)
        if self.unlimited or quota is None or quota.limit_compute is None:
            return None
        return max(0, quota.limit_compute - self.amount(pool.name, namespace).compute)

    def ran(self, key: str) -> int:
        """Devices that a gang held before it was released here, as one does that moves; 0 = it held nothing."""
        return self._ran.get(key, 0)

    def claim(self, placement: Placement, demand: GangDemand) -> None:
        """The gang holds its placement from now on; it must fit.

        Raises:
            InputError: a node that is not in the cluster; names it.
        """
        self._make_own()
        rows = self._rows(placement)
        workers, masks = placement.loads()
        live = self.live
        counts = workers.astype(np.int32)
        size = int(placement.devices.size)
        mixed = placement.node_pools
        stores = () if demand.storage is None else demand.storage.names
        holding = Holding(
            demand.key,
            placement.pool,
            placement.nodes,
            masks,
            counts,
            demand.request,
            size,
            mixed,
            stores,
            placement.promised,
        )
        if mixed:
            for pool in holding.pools:
                at = holding.at(pool)
                live.free[rows[at]] -= workers[at, None] * self._vector(demand, pool)
        else:
            live.free[rows] -= workers[:, None] * self._vector(demand, placement.pool)
        live.device_free[rows] &= ~masks
        self._holders[demand.key] = holding
        for pool in holding.pools if mixed else (placement.pool,):
            counted = (pool, demand.namespace)
            info = live.pool(pool)
            if counted in self._held and info is not None:
                self._held[counted] += holding.amount_in(info)
        self._touched.append((rows, demand.kind, workers))
        self._frozen = None
        self.memo.clear()
        live.memo.clear()

    def _vector(self, demand: GangDemand, pool: str) -> Int64:
        """int64 (R,): what one worker takes from a node of a pool, accelerators included; not to be changed."""
        vector: Int64 | None = self.facts.get(("vector", demand.kind, pool))
        if vector is None:
            vector, _ = resource_vector(self.live.resources, demand.request)
            info = self.live.pool(pool)
            if info is not None:
                vector[info.resource] += demand.devices
            self.facts["vector", demand.kind, pool] = vector
        return vector

    def release(self, key: str, workers: int | None = None) -> Holding:
        """A gang holds nothing from now on, or `workers` fewer: those of its last ranks.

        Returns:
            What it held.

        Raises:
            InputError: a gang that holds nothing, or not that many workers; names it.
        """
        self._make_own()
        holding = self._holders.get(key)
        if holding is None:
            raise InputError("holds nothing", obj=f"TrainingJob {key}")
        total = int(holding.workers.sum())
        dropped = total if workers is None else workers
        if not 0 < dropped <= total:
            raise InputError(f"has {total} workers, {dropped} can't be taken from it", obj=f"TrainingJob {key}")
        kept = np.minimum(
            holding.workers, np.maximum(total - dropped - (np.cumsum(holding.workers) - holding.workers), 0)
        )
        each = holding.devices // total
        pools = [pool for name in holding.pools if (pool := self.live.pool(name)) is not None]
        linked = min((pool.chip.link_domain or MOST_DEVICES for pool in pools), default=MOST_DEVICES)
        if dropped < total and linked < max(int(mask).bit_length() for mask in holding.masks.tolist()):
            # Devices were picked by their links, so which are a rank's is not known: a node is given up whole or not.
            partly = (kept > 0) & (kept < holding.workers)
            full_masks = np.where(partly, holding.masks, 0)
        else:
            full_masks = np.zeros_like(holding.masks)
        masks = [
            _lowest_bits(mask, count * each) for mask, count in zip(holding.masks.tolist(), kept.tolist(), strict=True)
        ]
        kept_masks = np.asarray(masks, dtype=np.uint64) | full_masks
        freed, gone = holding.masks & ~kept_masks, (holding.workers - kept).astype(np.int64)
        index = self._index()
        at = np.asarray([i for i, name in enumerate(holding.nodes) if name in index], dtype=np.int64)
        rows = np.asarray([index[holding.nodes[i]] for i in at.tolist()], dtype=np.int64)
        live = self.live
        vector, _ = resource_vector(live.resources, holding.request)
        live.free[rows] += gone[at, None] * vector
        for pool in pools:
            here = holding.among(pool.name, at)
            live.free[rows[here], pool.resource] += np.bitwise_count(freed[at[here]])
        live.device_free[rows] |= freed[at] & live.device_all[rows]
        if dropped == total:
            del self._holders[key]
            self._ran[key] = holding.devices
        else:
            still = np.flatnonzero(kept)
            names = tuple(holding.nodes[i] for i in still.tolist())
            counts = kept[still].astype(np.int32)
            rest = Holding.of(key, holding.pool, names, kept_masks[still], counts, holding.request)
            if holding.node_pools:
                rest = replace(rest, node_pools=tuple(holding.node_pools[i] for i in still.tolist()))
            self._holders[key] = replace(rest, stores=holding.stores).scaled(holding)
        self._held.clear()
        self._rooms.clear()  # trees without any room are left out of a room: they may have some again
        self._frozen = None
        self.memo.clear()
        live.memo.clear()
        return holding

    def _make_own(self) -> None:
        live = self.live
        if self._own:
            return
        self._holders = dict(live.holders)
        self.live = replace(
            live,
            free=live.free.copy(),
            device_free=live.device_free.copy(),
            holders=MappingProxyType(self._holders),
            memo={},
        )
        self._own = True

    def _index(self) -> dict[str, int]:
        """Row of each node."""
        index: dict[str, int] | None = self.facts.get("rows")
        if index is None:
            index = self.facts["rows"] = {name: row for row, name in enumerate(self.live.node_names)}
        return index

    def _rows(self, placement: Placement) -> Int64:
        if placement.rows is not None and placement.names is self.live.node_names:
            return placement.rows
        index = self._index()
        try:
            return np.asarray([index[name] for name in placement.nodes], dtype=np.int64)
        except KeyError as exc:
            raise InputError(f"node {exc.args[0]} is not in the cluster", obj=f"TrainingJob {placement.key}") from exc

    # --- rooms -----------------------------------------------------------------------------------------------------
    def room(self, pool: PoolInfo, demand: GangDemand, *, closed: bool) -> Room:
        """Where workers of the gang's kind fit in a pool now; `closed`: on nodes that are kept for nobody.

        Raises:
            InputError: a node mask that does not belong to this cluster.
        """
        mask = demand.eligible.get(pool.name)
        key = (pool.name, demand.kind, id(mask), self._closings if closed else 0)
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = self._make(pool, demand, mask, self._closed if closed else None)
        elif room.seen < len(self._touched):
            self._catch_up(room, demand)
        return room

    def _make(self, pool: PoolInfo, demand: GangDemand, mask: Mask | None, closed: Bool | None) -> Room:
        live = self.live
        nodes = len(live.node_names)
        usable = open_rows(live, pool, demand, mask)
        if closed is not None:
            usable = usable & ~closed
        vector, missing = resource_vector(live.resources, demand.request)
        columns = None if missing else tuple((c, int(vector[c])) for c in np.flatnonzero(vector).tolist())
        per_row = np.zeros(nodes, dtype=np.int64)
        if columns is not None:
            rows = np.flatnonzero(usable)
            per_row[rows] = fits_on(live, rows, demand.devices, columns)
        trees: list[tuple[Tree, int]] = []
        for topology in live.topologies:
            anchor = anchor_level(topology, demand)
            if anchor is None or not topology.node_rows.size:
                continue
            quanta = {topology.level_index(item.level): item.size for item in demand.slices}
            tree = roll_up(topology, per_row, quanta)
            if tree.caps[0].any():
                trees.append((tree, anchor))
        loose = loose_rows(live, pool, demand)
        return Room(pool, usable, per_row, trees, loose, mask, len(self._touched), columns)

    def _catch_up(self, room: Room, demand: GangDemand) -> None:
        pending = self._touched[room.seen :]
        room.seen = len(self._touched)
        room.memo.clear()
        if room.columns is None:
            return
        rows = pending[0][0] if len(pending) == 1 else np.unique(np.concatenate([claim[0] for claim in pending]))
        usable = room.open[rows]
        rows = rows[usable]
        if not rows.size:
            return
        workers = room.per_row[rows]
        if len(pending) == 1 and pending[0][1] == demand.kind:
            workers = workers - pending[0][2][usable]  # of its own kind: each one takes the room of one
        else:
            workers = fits_on(self.live, rows, demand.devices, room.columns)
        room.per_row[rows] = workers
        for tree, _ in room.trees:
            where = positions_of(tree.topology, len(self.live.node_names))[rows]
            inside = where >= 0
            if inside.all():
                tree.refresh(where, workers)
            elif inside.any():
                tree.refresh(where[inside], workers[inside])


def open_rows(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand, mask: Mask | None) -> Bool:
    """bool (N,): nodes of the pool that are ready and that the mask allows.

    Raises:
        InputError: a node mask that does not belong to this cluster.
    """
    result = np.zeros(len(snapshot.node_names), dtype=np.bool_)
    result[pool.rows] = snapshot.usable[pool.rows]
    if mask is not None:
        if mask.shape != snapshot.usable.shape or mask.dtype != np.bool_:
            raise InputError(
                f"eligible nodes of pool {pool.name} are {mask.dtype} {mask.shape}, the snapshot has "
                f"{snapshot.usable.shape[0]} nodes",
                obj=f"TrainingJob {demand.key}",
            )
        result &= mask
    return result


def _lowest_bits(mask: int, count: int) -> int:
    """The `count` lowest set bits of a mask: ranks take a node's devices from the lowest up."""
    kept = 0
    while mask and count > 0:
        bit = mask & -mask
        kept |= bit
        mask ^= bit
        count -= 1
    return kept


@lru_cache(maxsize=64)
def positions_of(topology: Topology, nodes: int) -> Int64:
    """int64 (nodes,): each row's position in the wiring order; -1 outside the group."""
    result = np.full(nodes, -1, dtype=np.int64)
    result[topology.node_rows] = np.arange(topology.node_rows.size)
    return result
