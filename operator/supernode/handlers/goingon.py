"""Where a gang goes on that has stopped and still holds its place. Pure.

Flows in: a snapshot in which the gang holds its place, that place, the nodes it lost, how many workers it should have.
Flows out: its new place, or why there is none. The ranks of workers whose nodes are well stay where they are as long
as the number of workers stays.

In order: as it was; other nodes for the lost ones, in the same domain (`scheduling.repair`); the whole gang
elsewhere; with fewer workers, as far as it may have fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from supernode.errors import InputError
from supernode.handlers.bounds import too_many_workers
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.repair import plan_replacement
from supernode.scheduling.rescore import common_domain, step_on
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Unplaceable
from supernode.scheduling.work import Work

# Gives the demand with exactly so many workers; its node masks belong to the snapshot.
DemandAt = Callable[[int], GangDemand]


def lost_nodes(snapshot: Snapshot, held: Placement, demand: GangDemand, blamed: Collection[str]) -> frozenset[str]:
    """Nodes of a place on which a worker can't be (any more).

    Gone, not ready, cordoned, closed to the job's pods, without one of the devices held there, or blamed.
    """
    rows = {name: row for row, name in enumerate(snapshot.node_names)}
    masks = held.masks().tolist()
    pools = {worker.node: worker.pool for worker in held.workers}
    lost = set()
    for name, mask in zip(held.nodes, masks, strict=True):
        row = rows.get(name)
        if row is None or name in blamed or not snapshot.usable[row]:
            lost.add(name)
            continue
        allowed = demand.eligible.get(pools[name])
        if (allowed is not None and not allowed[row]) or int(mask) & ~int(snapshot.device_all[row]):
            lost.add(name)
    return frozenset(lost)


def go_on(
    snapshot: Snapshot, held: Placement, lost: Collection[str], target: int, sizes: Sequence[int], demand_at: DemandAt
) -> Placement | Unplaceable | None:
    """The place where the gang goes on.

    Args:
        snapshot: the gang holds `held` in it.
        held: its place.
        lost: nodes that it must not be on.
        target: workers that it should have.
        sizes: numbers of workers that it may have, largest first.
        demand_at: the demand of a size.

    Returns:
        A place; why there is none; or None: it may not go on with the workers that it has, and there is no room for
        more.
    """
    count = len(held.node_of)
    if target > count:
        more = [size for size in sizes if count < size <= target]
        grown = largest(snapshot, held.key, more, lost, demand_at)
        if grown is not None:
            return grown
        if count not in sizes:
            return None
        target = count
    if target < count:
        if held.stages:
            # Its ranks count through the data first: the last ones are a stage, not replicas.
            return largest(snapshot, held.key, [target], lost, demand_at)
        held = first_workers(snapshot, demand_at(target), held)
    if not set(held.nodes) & set(lost):
        return held
    demand = demand_at(target)
    repaired = plan_replacement(snapshot, without(demand, snapshot, lost), held, set(lost))
    if isinstance(repaired, Placement):
        return repaired
    elsewhere = largest(snapshot, held.key, [size for size in sizes if size <= target], lost, demand_at)
    return repaired if elsewhere is None else elsewhere


def largest(
    snapshot: Snapshot, key: str, sizes: Sequence[int], lost: Collection[str], demand_at: DemandAt
) -> Placement | None:
    """A place for as many workers as fit on what the gang holds and what is free; None if not even the fewest do.

    Args:
        sizes: numbers of workers that are possible, largest first; what fits is taken to grow with fewer.
    """
    best: Placement | None = None
    low, high = 0, len(sizes) - 1
    while low <= high:
        # The largest first: most often all of it fits.
        middle = low if best is None and low == 0 and high == len(sizes) - 1 else (low + high) // 2
        work = Work(snapshot)
        if key in snapshot.holders:
            work.release(key)
        try:
            demand = demand_at(sizes[middle])
            result = place_in(work, without(demand, snapshot, lost), closed=False)
        except InputError:
            result = None
        else:
            if too_many_workers(demand.workers, demand.devices, demand.pools, snapshot.node_names):
                result = None  # a place that could never be written down
        if isinstance(result, Placement):
            best, high = result, middle - 1
        else:
            low = middle + 1
    return best


def first_workers(snapshot: Snapshot, demand: GangDemand, held: Placement) -> Placement:
    """The place of the first ranks alone, with its own innermost domain and step time.

    What it promises stays the share of these workers in the old promise: quotas are not asked about it.

    Args:
        snapshot: of the nodes.
        demand: with as many workers as stay.
        held: the place that the gang has.
    """
    left, before = held.workers[: demand.workers], held.workers
    row_of = {name: row for row, name in enumerate(snapshot.node_names)}
    rows = [row_of[worker.node] for worker in left if worker.node in row_of]
    where, level, domain, predicted = snapshot.pool(held.pool), held.level, held.domain, None
    if len(rows) == len(left):  # else a repair comes next, and tells these itself
        level, domain = common_domain(snapshot, held.group, rows)
        if where is not None and not held.node_pools:
            predicted = step_on(snapshot, where, demand, rows)
    shares = []
    for pool, compute in held.promised:
        had = sum(worker.pool == pool for worker in before)
        shares.append((pool, compute * sum(worker.pool == pool for worker in left) // max(1, had)))
    return Placement.of(
        held.key,
        left,
        group=held.group,
        level=level,
        domain=domain,
        predicted=predicted,
        stages=held.stages,
        promised=shares,
    )


def without(demand: GangDemand, snapshot: Snapshot, nodes: Collection[str]) -> GangDemand:
    """The demand, closed to some nodes."""
    if not nodes:
        return demand
    shut = np.asarray([name in nodes for name in snapshot.node_names], dtype=np.bool_)
    masks = {}
    for name in demand.pools:
        mask = demand.eligible.get(name)
        masks[name] = ~shut if mask is None else mask & ~shut
    return demand.with_eligible(masks)
