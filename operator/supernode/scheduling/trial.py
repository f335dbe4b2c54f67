"""How many workers would fit if some gangs gave up what they hold: one copy, changed and changed back.

Flows in: a snapshot, the gang that wants a place, and what others could give up. Flows out: whether it would fit now,
and upper bounds on what each could add. Not here: which gangs to ask (`smallest`), and the placement itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.entitlement import needs
from supernode.scheduling.fit import fits_on, roll_up
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.quota import Amount
from supernode.scheduling.search import anchor_level, loose_rows
from supernode.scheduling.snapshot import Holding, Int64, Snapshot, UInt64, resource_vector
from supernode.scheduling.topology import NODE_LEVEL
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.scheduling.work import Room, Work, open_rows, positions_of

# A pool that says this takes the gang whoever gives way.
_NEVER = frozenset(
    {Reason.EXCEEDS_MAX_QUOTA, Reason.OUT_OF_DEVICE_MEMORY, Reason.MISCONFIGURED, Reason.NO_MATCHING_POOL}
)


@dataclass(frozen=True, eq=False, slots=True)
class Share:
    """What a gang could give up: all that it holds, or its last ranks.

    Attributes:
        key: of the gang.
        rows: int64 (k,) nodes.
        free: int64 (k, R) resources.
        masks: uint64 (k,) devices.
        pools: pool -> what of it is given up, on all nodes: devices, and the compute that they count with.
    """

    key: str
    rows: Int64
    free: Int64
    masks: UInt64
    pools: Mapping[str, Amount]

    @property
    def devices(self) -> int:
        """That are given up, of all pools."""
        return sum(amount.devices for amount in self.pools.values())


def share_of(snapshot: Snapshot, key: str, workers: int | None = None, work: Work | None = None) -> Share:
    """What a gang gives up when it stops, or gives up the last `workers` of its ranks.

    Args:
        snapshot: in which it holds something.
        key: of the gang.
        workers: None = all.
        work: a working copy of that snapshot in which the gang still holds all, to be used up; None = a new one. One
            copy does for many gangs.

    Raises:
        InputError: it holds nothing, or fewer workers than that.
    """
    whole = _whole(snapshot, snapshot.holders[key])
    if workers is None:
        return whole
    copy = Work(snapshot) if work is None else work
    copy.release(key, workers)
    left = copy.live.holders.get(key)
    return whole if left is None else without(whole, _whole(snapshot, left))


def without(whole: Share, part: Share) -> Share:
    """What is left of a share when a part of it is given up already."""
    free, masks = whole.free.copy(), whole.masks.copy()
    at = {row: index for index, row in enumerate(whole.rows.tolist())}
    where = [at[row] for row in part.rows.tolist()]
    free[where] -= part.free
    masks[where] &= ~part.masks
    return replace(
        whole,
        free=free,
        masks=masks,
        pools={name: amount - part.pools.get(name, Amount()) for name, amount in whole.pools.items()},
    )


def _whole(snapshot: Snapshot, holding: Holding) -> Share:
    index = snapshot.memo.get("rows of names")
    if index is None:
        index = {name: row for row, name in enumerate(snapshot.node_names)}
        snapshot.memo["rows of names"] = index
    at = [i for i, name in enumerate(holding.nodes) if name in index]
    rows = np.asarray([index[holding.nodes[i]] for i in at], dtype=np.int64)
    masks = holding.masks[at]
    vector, _ = resource_vector(snapshot.resources, holding.request)
    free = holding.workers[at, None].astype(np.int64) * vector
    for name in holding.pools:
        pool = snapshot.pool(name)
        if pool is not None:
            here = holding.among(name, np.asarray(at, dtype=np.int64))
            free[here, pool.resource] += np.bitwise_count(masks[here])
    amounts = {name: holding.amount_in(pool) for name in holding.pools if (pool := snapshot.pool(name)) is not None}
    return Share(holding.key, rows, free, masks & snapshot.device_all[rows], amounts)


def _rest(holding: Holding, shares: Sequence[Share], names: tuple[str, ...]) -> Holding:
    """What a gang still holds."""
    masks = holding.masks.copy()
    at = {name: index for index, name in enumerate(holding.nodes)}
    for share in shares:
        where = [at[names[row]] for row in share.rows.tolist()]
        masks[where] &= ~share.masks
    return replace(holding, masks=masks, devices=int(np.bitwise_count(masks).sum())).scaled(holding)


class Trial:
    """Counts room for one gang while shares are taken and given back.

    Args:
        snapshot: the cluster; it is not changed.
        demand: the gang that wants a place.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """

    def __init__(self, snapshot: Snapshot, demand: GangDemand) -> None:
        self.snapshot, self.demand = snapshot, demand
        free, devices = snapshot.free.copy(), snapshot.device_free.copy()
        self._live = replace(snapshot, free=free, device_free=devices, memo={})
        self._taken: dict[str, list[Share]] = {}
        first = place_in(Work(snapshot), demand, closed=False)
        #: Where it would go as things are; None = nowhere.
        self.placed = first if isinstance(first, Placement) else None
        closed = {r.pool for r in first.pools if r.code in _NEVER} if isinstance(first, Unplaceable) else set()
        # A gang over several pools is asked about whole.
        self._mixed = demand.mixable
        self._rooms = [self._room(name) for name in demand.pools if name not in closed and snapshot.pool(name)]
        self._used = {room.pool.name: snapshot.amount(room.pool.name, demand.namespace) for room in self._rooms}
        self._needs = {room.pool.name: needs(snapshot, demand, room.pool, snapshot.memo) for room in self._rooms}

    def _room(self, name: str) -> Room:
        live, demand = self._live, self.demand
        pool = live.pool(name)
        assert pool is not None  # noqa: S101 - asked by the caller
        mask = demand.eligible.get(name)
        usable = open_rows(live, pool, demand, mask)
        vector, missing = resource_vector(live.resources, demand.request)
        columns = None if missing else tuple((c, int(vector[c])) for c in np.flatnonzero(vector).tolist())
        per_row = np.zeros(len(live.node_names), dtype=np.int64)
        if columns is not None:
            rows = np.flatnonzero(usable)
            per_row[rows] = fits_on(live, rows, demand.devices, columns)
        trees = []
        for topology in live.topologies:
            anchor = anchor_level(topology, demand)
            if anchor is not None and topology.node_rows.size:
                quanta = {topology.level_index(item.level): item.size for item in demand.slices}
                trees.append((roll_up(topology, per_row, quanta), anchor))
        return Room(pool, usable, per_row, trees, loose_rows(live, pool, demand), mask, 0, columns)

    # --- changing ------------------------------------------------------------------------------------------------
    def take(self, share: Share) -> None:
        """The gang has given this up."""
        self._taken.setdefault(share.key, []).append(share)
        self._live.free[share.rows] += share.free
        self._live.device_free[share.rows] |= share.masks
        self._recount(share, 1)

    def give_back(self, share: Share) -> None:
        """It holds this again; the last one taken first."""
        mine = self._taken[share.key]
        mine.remove(share)
        if not mine:
            del self._taken[share.key]
        self._live.free[share.rows] -= share.free
        self._live.device_free[share.rows] &= ~share.masks
        self._recount(share, -1)

    def _recount(self, share: Share, sign: int) -> None:
        own = self._own(share)
        for room in self._rooms:
            if own:
                mine = share.pools.get(room.pool.name, Amount())
                self._used[room.pool.name] = (
                    self._used[room.pool.name] - mine if sign > 0 else self._used[room.pool.name] + mine
                )
            rows = share.rows[room.open[share.rows]]
            if room.columns is None or not rows.size:
                continue
            workers = fits_on(self._live, rows, self.demand.devices, room.columns)
            room.per_row[rows] = workers
            for tree, _ in room.trees:
                where = positions_of(tree.topology, len(self._live.node_names))[rows]
                if (where >= 0).any():
                    tree.refresh(where[where >= 0], workers[where >= 0])

    # --- asking ----------------------------------------------------------------------------------------------------
    def fits(self) -> bool:
        """Whether the gang would find a place now."""
        demand = self.demand
        if self._mixed:
            return self.placement() is not None
        unsure = False
        for room in self._rooms:
            workers = min(demand.workers, room.most(demand), self._allowed(room))
            if demand.slices:
                workers -= workers % demand.slices[0].size
            if workers >= demand.fewest:
                if self._room_in_quota(room):
                    return True
                unsure = True
        return unsure and self.placement() is not None

    def placement(self) -> Placement | None:
        """Where the gang would go now: the answer of `place` on this copy."""
        result = place_in(Work(self.freed()), self.demand, closed=False)
        return result if isinstance(result, Placement) else None

    def freed(self, whole: Sequence[str] = ()) -> Snapshot:
        """The cluster now, as a value; `whole`: gangs that hold nothing any more."""
        free, devices = self._live.free.copy(), self._live.device_free.copy()
        holders = {key: h for key, h in self._live.holders.items() if key not in self._taken}
        for key, shares in self._taken.items():
            if key not in whole:
                holders[key] = _rest(self._live.holders[key], shares, self._live.node_names)
        return replace(self._live, free=free, device_free=devices, holders=holders, memo={})

    def places(self) -> list[tuple[str, Int64]]:
        """Pool and rows of each place that could take the gang now."""
        found: list[tuple[str, Int64]] = []
        for room in self._rooms:
            homes, count = self._homes(room)
            have = np.bincount(homes[homes >= 0], weights=room.per_row[homes >= 0], minlength=count)
            for domain in np.flatnonzero(have >= self.demand.fewest).tolist():
                found.append((room.pool.name, np.flatnonzero(homes == domain)))
        return found

    def _allowed(self, room: Room) -> int:
        demand, quota = self.demand, room.pool.quota_of(self.demand.namespace)
        left = demand.workers
        if quota is not None and quota.limit is not None:
            left = min(left, max(0, quota.limit - self._used[room.pool.name].devices) // demand.devices)
        if quota is not None and quota.limit_compute is not None and demand.model is None and room.pool.peak:
            free = max(0, quota.limit_compute - self._used[room.pool.name].compute)
            left = min(left, free // (room.pool.peak * demand.devices))
        return left

    def _room_in_quota(self, room: Room) -> bool:
        """Whether the quota in compute has room for whatever place the pool gives the gang."""
        quota = room.pool.quota_of(self.demand.namespace)
        if quota is None or quota.limit_compute is None or self.demand.model is None:
            return True
        name = room.pool.name
        return self._used[name].compute + self._needs[name].compute <= quota.limit_compute

    # --- bounds ----------------------------------------------------------------------------------------------------
    def bounds(self, shares: Mapping[str, Share]) -> list[Domain]:
        """Per place that could take the gang, what it still lacks and the most that each share could add there."""
        if self._mixed:
            return [Domain(dict.fromkeys(shares, 1), 0, 0, {})]
        now = [room.per_row.copy() for room in self._rooms]
        for share in shares.values():
            self.take(share)
        domains: list[Domain] = []
        for room, before in zip(self._rooms, now, strict=True):
            homes, count = self._homes(room)
            gain = room.per_row - before
            have = np.bincount(homes[homes >= 0], weights=before[homes >= 0], minlength=count).astype(np.int64)
            most = np.bincount(homes[homes >= 0], weights=room.per_row[homes >= 0], minlength=count)
            short = self.demand.fewest * self.demand.devices
            quota = room.pool.quota_of(self.demand.namespace)
            own = {key: s.pools[room.pool.name].devices for key, s in shares.items() if self._own(s, room)}
            lacks, scarce = 0, False
            if quota is not None and quota.limit is not None:
                lacks = max(0, self._used[room.pool.name].devices + sum(own.values()) + short - quota.limit)
            if quota is not None and quota.limit_compute is not None:
                all_own = sum(shares[key].pools[room.pool.name].compute for key in own)
                room_left = quota.limit_compute - self._used[room.pool.name].compute - all_own
                scarce = room_left < self._needs[room.pool.name].compute
            mine = {key: count for key, count in own.items() if (lacks or scarce) and count}
            adds: dict[int, dict[str, int]] = {d: {} for d in np.flatnonzero(most >= self.demand.fewest).tolist()}
            for key, share in shares.items():
                where = homes[share.rows]
                sums = np.bincount(where[where >= 0], weights=gain[share.rows][where >= 0]).astype(np.int64)
                for domain in np.flatnonzero(sums).tolist():
                    if domain in adds:
                        adds[domain][key] = int(sums[domain])
            for domain, gains in adds.items():
                gains = {**dict.fromkeys(mine, 0), **gains}
                lack = max(0, self.demand.fewest - int(have[domain]))
                domains.append(Domain(gains, lack, lacks, mine))
        for share in shares.values():
            self.give_back(share)
        return domains

    def _own(self, share: Share, room: Room | None = None) -> bool:
        return share.key.startswith(f"{self.demand.namespace}/") and (room is None or room.pool.name in share.pools)

    def _homes(self, room: Room) -> tuple[Int64, int]:
        """int64 (N,): the place that each node belongs to, -1 = none; and the number of places."""
        homes = np.full(len(self._live.node_names), -1, dtype=np.int64)
        required = [c.level for c in self.demand.constraints if c.required]
        if not required:
            for tree, _ in room.trees:
                homes[tree.topology.node_rows] = 0
            homes[room.loose] = 0
            return homes, 1
        count = 0
        for tree, anchor in room.trees:
            topology = tree.topology
            if anchor == tree.depth:
                homes[topology.node_rows] = count + np.arange(topology.node_rows.size)
                count += topology.node_rows.size
            else:
                homes[topology.node_rows] = count + topology.node_domain[:, anchor]
                count += len(topology.domain_names[anchor])
        if set(required) == {NODE_LEVEL}:
            homes[room.loose] = count + np.arange(room.loose.size)
            count += room.loose.size
        return homes, count


@dataclass(frozen=True, eq=False, slots=True)
class Domain:
    """One place that could take the gang if enough gave way.

    Attributes:
        gains: key -> workers that it could add here at most; only keys that matter here.
        lack: workers that are missing here.
        quota_lack: devices that the gang's namespace holds too many of in this pool.
        quota_gains: key -> devices by which it would hold fewer.
    """

    gains: dict[str, int]
    lack: int
    quota_lack: int
    quota_gains: dict[str, int]
