"""New nodes for lost workers of a gang over several pools: each pool's run of ranks is repaired in its own pool.

Flows in: as for `repair.plan_replacement`, which does the work pool by pool. Flows out: the whole gang's new place with
the stages that it had, or why there is none. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from supernode.scheduling.demand import GangDemand, Mask
from supernode.scheduling.mixclock import settled_step
from supernode.scheduling.placement import Placement
from supernode.scheduling.promise import promised_at
from supernode.scheduling.rescore import common_domain, common_topology
from supernode.scheduling.search import anchor_level
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Unplaceable
from supernode.scheduling.work import positions_of


def pool_by_pool(
    snapshot: Snapshot,
    demand: GangDemand,
    placement: Placement,
    gone: Collection[str],
    plan: Callable[[Snapshot, GangDemand, Placement, Collection[str]], Placement | Unplaceable],
) -> Placement | Unplaceable:
    """The gang's place with other nodes instead of the lost ones, inside the domain that a required level binds it to.

    Args:
        snapshot: the gang holds `placement` in it.
        demand: of the whole gang; its node masks belong to the snapshot.
        placement: over several pools.
        gone: names of lost nodes.
        plan: repairs a gang in one pool.

    Raises:
        InputError: one of the gang's pools is gone, or a node mask that does not belong to this snapshot.
    """
    workers = list(placement.workers)
    home = _home(snapshot, demand, [worker.node for worker in workers if worker.node not in gone])
    for name in placement.pools:
        mine = [worker for worker in workers if worker.pool == name]
        if not any(worker.node in gone for worker in mine):
            continue
        first = mine[0].rank
        renamed = [replace(worker, rank=worker.rank - first) for worker in mine]
        mask = demand.eligible.get(name)
        alone = replace(
            demand.with_eligible({name: home if mask is None else mask & home}, pools=(name,)),
            workers=len(mine),
            min_count=None,
            model=None,
            parallelism=None,
            mix="None",
        )
        found = plan(snapshot, alone, Placement.of(demand.key, renamed, group=placement.group), gone)
        if isinstance(found, Unplaceable):
            return found
        workers[first : first + len(mine)] = [replace(worker, rank=worker.rank + first) for worker in found.workers]
    row = {name: index for index, name in enumerate(snapshot.node_names)}
    rows = [row[worker.node] for worker in workers]
    topology = common_topology(snapshot, rows)
    level, domain = common_domain(snapshot, topology.name, rows) if topology is not None else ("", ())
    predicted = settled_step(snapshot, demand, workers, placement.stages)
    return Placement.of(
        demand.key,
        workers,
        group=topology.name if topology is not None and level else placement.group,
        level=level,
        domain=domain,
        predicted=predicted,
        stages=placement.stages,
        promised=promised_at(snapshot, demand, workers, predicted),
    )


def _home(snapshot: Snapshot, demand: GangDemand, healthy: Sequence[str]) -> Mask:
    """bool (N,): nodes in the domain of the required level that the healthy workers are in; all, if there is none."""
    row = {name: index for index, name in enumerate(snapshot.node_names)}
    rows = [row[name] for name in healthy if name in row]
    inside = np.ones(len(snapshot.node_names), dtype=np.bool_)
    topology = common_topology(snapshot, rows) if rows else None
    anchor = None if topology is None else anchor_level(topology, demand)
    if topology is not None and anchor is not None and 0 <= anchor < len(topology.levels):
        positions = positions_of(topology, len(snapshot.node_names))
        column = topology.node_domain[:, anchor]
        np.equal(column[np.maximum(positions, 0)], column[positions[rows[0]]], out=inside)
        inside &= positions >= 0
    return inside
