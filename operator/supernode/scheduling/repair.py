"""New nodes for the workers of lost ones; the ranks of all others stay where they are.

Flows in: a snapshot in which the gang still holds its place, and the names of its lost nodes (several at once). Flows
out: the whole gang's new `Placement` with its step time, or an `Unplaceable` with `WAITING_FOR_REPAIR` and the numbers
of the part that found no place. Nothing is changed.

A lost node's workers stay together on one new node where one has the room, as near as can be to where they were: in
the same domain of the innermost level possible, never outside that of the required levels and of the slices. Where
nobody of the gang is left in that domain, near to the others of the gang is tried as well, and with several lost
nodes one domain for all; the shortest predicted step decides, without a model the innermost domain that holds the
gang. A slice that its domain can't complete moves whole, the innermost first; so its healthy workers get other nodes
too, but no worker outside it does. A gang without any healthy node is placed anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from enum import Enum, auto

import numpy as np

from supernode.errors import InputError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.devices import link_group, pick_devices
from supernode.scheduling.mixclock import settled_step
from supernode.scheduling.mixrepair import pool_by_pool
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement, WorkerPlacement
from supernode.scheduling.promise import promised_at
from supernode.scheduling.rescore import common_domain, common_topology, step_on
from supernode.scheduling.search import anchor_level
from supernode.scheduling.snapshot import Int64, PoolInfo, Snapshot
from supernode.scheduling.topology import NODE_LEVEL, Topology
from supernode.scheduling.unplaceable import PoolRefusal, Reason, Unplaceable
from supernode.scheduling.work import Work, positions_of
from supernode.steptime.predict import StepTime

_NAMED = 6  # lost nodes that a refusal names


class _Aim(Enum):
    """What the lost workers are to be near to."""

    OLD = auto()  # where they were
    OTHERS = auto()  # the healthy workers of the gang
    ONE_DOMAIN = auto()  # each other, and then the healthy ones


def plan_replacement(
    snapshot: Snapshot, demand: GangDemand, placement: Placement, lost: Collection[str]
) -> Placement | Unplaceable:
    """The gang's place with other nodes instead of the lost ones.

    Args:
        snapshot: the gang holds `placement` in it.
        demand: what each worker asks for; its node masks belong to the snapshot.
        placement: where the gang is.
        lost: names of nodes; those that the gang is not on do not matter.

    Raises:
        InputError: the gang's pool is gone, or a node mask that does not belong to this snapshot.
    """
    gone = {name for name in placement.nodes if name in set(lost)}
    if not gone:
        return placement
    if placement.node_pools:
        return pool_by_pool(snapshot, demand, placement, gone, plan_replacement)
    repair = _Repair(snapshot, demand, placement, gone)
    if len(gone) == len(placement.nodes):
        refusal = repair.anew()
        return refusal if refusal is not None else repair.result()
    aims = repair.other_aims()
    refusal = repair.patch()
    if refusal is not None:
        return refusal
    best = repair.result()
    for aim in aims:
        other = _Repair(snapshot, demand, placement, gone, aim=aim)
        if other.patch() is None:
            best = min(best, other.result(), key=_standing)
    return best


def _standing(found: Placement) -> tuple[float, int]:
    """Shortest step first; the deeper the domain that holds all, the better."""
    return (np.inf if found.predicted is None else found.predicted.seconds), -len(found.domain)


def replace_ranks(
    snapshot: Snapshot, demand: GangDemand, placement: Placement, ranks: Collection[int], closed: Collection[int]
) -> Placement | None:
    """The gang's place with other nodes for some ranks, none of them on a row of `closed`; all other ranks stay.

    Raises:
        InputError: the gang's pool is gone, or a node mask that does not belong to this snapshot.
    """
    if placement.node_pools:
        return None  # a gang over several pools moves whole, or not at all
    repair = _Repair(snapshot, demand, placement, (), closed=closed, ranks=ranks)
    return None if repair.stay() is not None else repair.result()


def moved_ranks(before: Placement, after: Placement) -> tuple[int, ...]:
    """Ranks whose node or devices differ: the pods to make anew."""
    return tuple(new.rank for old, new in zip(before.workers, after.workers, strict=True) if old != new)


class _Repair:
    """One repair under way: who is where, and what is free. Row -1 = no place yet."""

    def __init__(
        self,
        snapshot: Snapshot,
        demand: GangDemand,
        placement: Placement,
        gone: Collection[str],
        *,
        closed: Collection[int] = (),
        ranks: Collection[int] = (),
        aim: _Aim = _Aim.OLD,
    ) -> None:
        pool = snapshot.pool(placement.pool)
        if pool is None:
            raise InputError(
                f"pool {placement.pool} is gone", field="status.placement.pool", obj=f"TrainingJob {demand.key}"
            )
        self.pool: PoolInfo = pool
        self.snapshot, self.demand, self.placement, self.gone = snapshot, demand, placement, set(gone)
        self.aim = aim
        names = snapshot.node_names
        row = {name: index for index, name in enumerate(names)}
        self.room: Int64
        room = Work(snapshot).room(pool, demand, closed=False)
        self.room, self.open = room.per_row.copy(), room.open.copy()
        shut = [*(row[name] for name in gone if name in row), *closed]
        self.room[shut] = 0
        self.open[shut] = False
        self.free = snapshot.device_free.copy()
        self.workers = list(placement.workers)
        self.old = [row.get(worker.node, -1) for worker in self.workers]
        moving = {worker.rank for worker in self.workers if worker.node in self.gone} | set(ranks)
        self.rows = [-1 if rank in moving else at for rank, at in enumerate(self.old)]
        self.lost = sorted(moving)
        self._release(rank for rank in ranks if self.workers[rank].node not in self.gone)
        healthy = [at for at in self.rows if at >= 0]
        self.topology = self._wiring(healthy)
        self.paths = self._paths()
        #: Levels that decide, from the outside in: (level index, size); the required level has the whole gang's size.
        self.sizes = self._sizes()

    # --- what there is -------------------------------------------------------------------------------------------
    def _wiring(self, healthy: Sequence[int]) -> Topology | None:
        """The tree that the healthy workers are in, if it can serve the demand."""
        able = [t for t in self.snapshot.topologies if anchor_level(t, self.demand) is not None]
        named = [t for t in able if t.name == self.placement.group]
        topology = named[0] if named else common_topology(self.snapshot, healthy) if healthy else None
        return topology if topology in able else None

    def _paths(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """int64 (N, levels + 1): domain per level and the row itself; -1 on all levels outside the tree."""
        nodes = len(self.snapshot.node_names)
        if self.topology is None:
            return np.arange(nodes, dtype=np.int64).reshape(nodes, 1)
        where = positions_of(self.topology, nodes)
        inside = self.topology.node_domain[np.maximum(where, 0)].astype(np.int64)
        inside[where < 0] = -1
        return np.hstack((inside, np.arange(nodes, dtype=np.int64)[:, None]))

    def _sizes(self) -> list[tuple[int, int]]:
        depth = self.paths.shape[1] - 1
        sizes: list[tuple[int, int]] = []
        if self.topology is not None:
            anchor = anchor_level(self.topology, self.demand)
            sizes.append((-1 if anchor is None else anchor, len(self.workers)))
            # Who must share a domain further in shares it further out as well.
            for item in self.demand.slices:
                sizes.append((max(self.topology.level_index(item.level), sizes[-1][0]), item.size))
        else:
            one = any(c.required for c in self.demand.constraints)
            sizes.append((depth if one else -1, len(self.workers)))
            sizes += [(depth, item.size) for item in self.demand.slices]
        return sizes

    def _inside(self, level: int, domain: int) -> Int64:
        """Rows of a domain that have room; level -1 = everywhere."""
        rows = np.flatnonzero(self.room > 0)
        return rows if level < 0 else rows[self.paths[rows, level] == domain]

    def other_aims(self) -> list[_Aim]:
        """What else than near to the old places is worth a try, before anything is repaired."""
        levels = self.paths.shape[1] - 1
        if not levels:
            return []
        aims = []
        left = {self.paths[at, levels - 1] for at in self.rows if at >= 0}
        if any(self.old[rank] < 0 or self.paths[self.old[rank], levels - 1] not in left for rank in self.lost):
            aims.append(_Aim.OTHERS)
        if len(self.gone) > 1:
            aims.append(_Aim.ONE_DOMAIN)
        return aims

    # --- plans ---------------------------------------------------------------------------------------------------
    def anew(self) -> Unplaceable | None:
        """Nothing is left of the gang: place it as if it were new, without its lost nodes."""
        work = Work(self.snapshot)
        if self.demand.key in self.snapshot.holders:
            work.release(self.demand.key)
        mask = self.demand.eligible.get(self.pool.name)
        still = np.ones(len(self.snapshot.node_names), dtype=np.bool_) if mask is None else mask.copy()
        still[[row for row, name in enumerate(self.snapshot.node_names) if name in self.gone]] = False
        demand = self.demand.with_eligible({self.pool.name: still}, pools=(self.pool.name,))
        if demand.workers != len(self.workers):  # an elastic gang that runs with fewer than it asks for
            demand = replace(demand, workers=len(self.workers), min_count=None)
        found = place_in(work, demand, closed=False)
        if isinstance(found, Placement) and found.node_of.size == len(self.workers):
            self.workers = list(found.workers)
            row = {name: index for index, name in enumerate(self.snapshot.node_names)}
            self.rows = [row[worker.node] for worker in self.workers]
            return None
        fits = found.nearest.fits if isinstance(found, Unplaceable) else int(found.node_of.size)
        required = [c.level for c in self.demand.constraints if c.required]
        return self._waiting(len(self.workers), fits, required[-1] if required else "", ())

    def patch(self) -> Unplaceable | None:
        """New places for the lost ranks; slices that can't be completed where they are move whole."""
        return self.stay(whole_slices=True)

    def stay(self, *, whole_slices: bool = False) -> Unplaceable | None:
        """New places for the lost ranks where they are; `whole_slices`: a slice may move if that can't be."""
        level, size = self.sizes[-1]
        first: Unplaceable | None = None
        for start in sorted({rank // size * size for rank in self.lost}):
            ranks = range(start, start + size)
            mates = [self.rows[rank] for rank in ranks if self.rows[rank] >= 0]
            torn = [rank for rank in ranks if self.rows[rank] < 0]
            if mates and self._fill(torn, self._inside(level, int(self.paths[mates[0], level]) if level >= 0 else 0)):
                continue
            if mates or len(self.sizes) == 1:
                at = int(self.paths[mates[0], level]) if mates and level >= 0 else -1
                first = first or self._waiting(
                    len(torn), int(self.room[self._inside(level, at)].sum()), *self._at(mates)
                )
            if not whole_slices or not any(self._move(index, start) for index in range(len(self.sizes) - 1, 0, -1)):
                return first or self._waiting(len(torn), 0, self._level(level), ())
        return None

    def _move(self, index: int, rank: int) -> bool:
        """Give the whole slice of level `index` around a rank other nodes; False and nothing changed if it can't be."""
        size = self.sizes[index][1]
        ranks = range(rank // size * size, rank // size * size + size)
        outer_level, outer_size = self.sizes[index - 1]
        around = range(rank // outer_size * outer_size, rank // outer_size * outer_size + outer_size)
        mates = [self.rows[other] for other in around if other not in ranks and self.rows[other] >= 0]
        kept = (list(self.rows), list(self.workers), self.room.copy(), self.free.copy())
        self._release(other for other in ranks if self.rows[other] >= 0)
        for other in ranks:
            self.rows[other] = -1
        if (
            self.sizes[0][0] >= 0 and not mates
        ):  # nobody of the slice around it is left: the gang tells where it belongs
            mates = [at for at in self.rows if at >= 0]
            outer_level = self.sizes[0][0]
        rows = self._inside(outer_level if mates else -1, int(self.paths[mates[0], outer_level]) if mates else 0)
        if self._block(index, ranks, rows):
            return True
        self.rows, self.workers, self.room, self.free = kept
        return False

    def _block(self, index: int, ranks: range, rows: Int64) -> bool:
        """A whole slice into one domain among `rows`: the nearest to where it was, then the one it fills best."""
        level, size = self.sizes[index]
        rows = rows[self.room[rows] > 0]
        domains = [d for d in np.unique(self.paths[rows, level]).tolist() if d >= 0]
        home = [self.old[rank] for rank in ranks if self.old[rank] >= 0]

        def standing(domain: int) -> tuple[int, int, int]:
            inside = rows[self.paths[rows, level] == domain]
            near = int((self.paths[inside[0]] == self.paths[home[0]]).sum()) if home else 0
            return -near, self._capacity(index + 1, inside), domain

        for domain in sorted(domains, key=standing):
            inside = rows[self.paths[rows, level] == domain]
            if self._capacity(index + 1, inside) >= size:
                if index + 1 == len(self.sizes):
                    return self._fill(list(ranks), inside)
                step = self.sizes[index + 1][1]
                parts = [range(first, first + step) for first in range(ranks.start, ranks.stop, step)]
                return all(self._block(index + 1, part, inside) for part in parts)
        return False

    def _capacity(self, index: int, rows: Int64) -> int:
        """Workers that fit on some rows in whole slices of level `index` and further in."""
        if index >= len(self.sizes):
            return int(self.room[rows].sum())
        level, size = self.sizes[index]
        where = self.paths[rows, level]
        return sum(
            self._capacity(index + 1, rows[where == d]) // size * size for d in np.unique(where).tolist() if d >= 0
        )

    def _fill(self, ranks: list[int], rows: Int64) -> bool:
        """Places for some ranks on some rows; False and nothing changed if they have too little room."""
        if int(self.room[rows].sum()) < len(ranks):
            return False
        if self.aim is _Aim.ONE_DOMAIN and ranks:
            rows = self._one_domain(rows, ranks)
        together: dict[str, list[int]] = {}
        for rank in ranks:
            together.setdefault(self.placement.workers[rank].node, []).append(rank)
        # The largest losses first: they find a node that takes them whole least often.
        for node in sorted(together, key=lambda node: (-len(together[node]), node)):
            left = together[node]
            old = self.old[left[0]]
            home = old if old >= 0 and self.aim is _Aim.OLD else self._mate(left[0])
            while left:
                open_rows = rows[self.room[rows] > 0]
                near = (
                    np.zeros(open_rows.size, dtype=np.int64)
                    if home < 0
                    else (self.paths[open_rows, :-1] == self.paths[home, :-1]).sum(axis=1)
                )
                room = self.room[open_rows]
                whole = room >= len(left)
                order = np.lexsort((open_rows, np.where(whole, room, -room), -near, ~whole))
                row = int(open_rows[order[0]])
                fits = min(int(self.room[row]), len(left))
                self._settle(left[:fits], row)
                left = left[fits:]
        return True

    def _one_domain(self, rows: Int64, ranks: Sequence[int]) -> Int64:
        """Those of `rows` in one domain with room for all ranks, as far in as can be: the nearest, then the fullest."""
        mate = self._mate(ranks[0])
        for level in range(self.paths.shape[1] - 2, -1, -1):
            where = self.paths[rows, level]
            able = []
            for domain in np.unique(where[where >= 0]).tolist():
                inside = rows[where == domain]
                room = int(self.room[inside].sum())
                if room >= len(ranks):
                    shared = self.paths[inside[0], : level + 1] == self.paths[mate, : level + 1]
                    able.append((0 if mate < 0 else -int(shared.sum()), room, domain))
            if able:
                chosen: Int64 = rows[where == min(able)[2]]
                return chosen
        return rows

    def _settle(self, ranks: list[int], row: int) -> None:
        count = np.asarray([len(ranks)], dtype=np.int64)
        picked = pick_devices(self.free[row : row + 1], count, self.demand.devices, link_group(self.pool))
        self.free[row] &= ~np.bitwise_or.reduce(np.uint64(1) << picked.astype(np.uint64), axis=None)
        self.room[row] -= len(ranks)
        name = self.snapshot.node_names[row]
        for rank, devices in zip(ranks, picked.tolist(), strict=True):
            self.rows[rank] = row
            self.workers[rank] = WorkerPlacement(rank, name, self.pool.name, tuple(devices))

    def _release(self, ranks: Iterable[int]) -> None:
        """Healthy workers leave their nodes: one more of their kind fits there, if anybody may still go there."""
        for rank in ranks:
            row = self.old[rank] if self.rows[rank] < 0 else self.rows[rank]
            mask = np.uint64(sum(1 << device for device in self.workers[rank].devices))
            sound = row >= 0 and self.open[row] and mask & self.snapshot.device_all[row] == mask
            if sound and (self.snapshot.free[row] >= 0).all():
                self.room[row] += 1
                self.free[row] |= mask

    def _mate(self, rank: int) -> int:
        """Row of the healthy worker that is nearest to where this one was, then by rank; -1 if there is none."""
        old, rows = self.old[rank], np.asarray(self.rows, dtype=np.int64)
        healthy = np.flatnonzero(rows >= 0)
        if not healthy.size:
            return -1
        there = rows[healthy]
        shared = np.zeros_like(there) if old < 0 else (self.paths[there, :-1] == self.paths[old, :-1]).sum(axis=1)
        return int(there[np.lexsort((there, np.abs(healthy - rank), -shared))[0]])

    # --- answers ---------------------------------------------------------------------------------------------------
    def result(self) -> Placement:
        """The whole gang's place, with its step time."""
        level, domain = common_domain(self.snapshot, self.placement.group, set(self.rows))
        group = self.topology.name if self.topology is not None and level else self.placement.group
        stages = self.placement.stages
        predicted: StepTime | None = settled_step(self.snapshot, self.demand, self.workers, stages) if stages else None
        if not stages:
            predicted = step_on(self.snapshot, self.pool, self.demand, self.rows)
        return Placement.of(
            self.demand.key,
            self.workers,
            group=group,
            level=level,
            domain=domain,
            predicted=predicted,
            stages=stages,
            promised=promised_at(self.snapshot, self.demand, self.workers, predicted),
        )

    def _level(self, level: int) -> str:
        if level < 0 or self.topology is None:
            return ""
        return self.topology.levels[level].name if level < len(self.topology.levels) else NODE_LEVEL

    def _at(self, mates: Sequence[int]) -> tuple[str, tuple[str, ...]]:
        """Name and path of the domain that lost workers would have to stay in."""
        level = self.sizes[-1][0]
        if not mates or level < 0:
            return self._level(level), ()
        if self.topology is None or level == len(self.topology.levels):
            return NODE_LEVEL, (self.snapshot.node_names[mates[0]],)
        return self._level(level), self.topology.path(level, int(self.paths[mates[0], level]))

    def _waiting(self, wanted: int, fits: int, level: str, domain: tuple[str, ...]) -> Unplaceable:
        snapshot, pool = self.snapshot, self.pool
        rows = pool.rows[self.open[pool.rows]]
        names = sorted(self.gone)
        named = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        refusal = PoolRefusal(
            pool=pool.name,
            code=Reason.WAITING_FOR_REPAIR,
            nodes=int(rows.size),
            excluded=int(pool.rows.size - rows.size),
            devices=int(np.bitwise_count(snapshot.device_all[rows]).sum()),
            free=int(np.bitwise_count(snapshot.device_free[rows]).sum()),
            fits=fits,
            fits_empty=wanted,
            level=level,
            detail=named,
            wanted=wanted,
            domain=domain,
        )
        return Unplaceable(Reason.WAITING_FOR_REPAIR, (refusal,), possible=True)
