"""The step time of a gang on given nodes, whichever way it came there: after a repair, before and after a move.

Flows in: a snapshot, a demand, the row of every worker in rank order. Flows out: the prediction, or None where there
can be none. Not here: the search for places, which scores its own (`score`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from supernode.errors import ChipError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.score import innermost, link_levels
from supernode.scheduling.snapshot import PoolInfo, Snapshot
from supernode.scheduling.stores import NO_STORAGE, resolved, storage_at
from supernode.scheduling.topology import NODE_LEVEL, Level, Topology
from supernode.scheduling.work import positions_of
from supernode.steptime.calibration import ASSUMED_NETWORK_BANDWIDTH, ASSUMED_NETWORK_LATENCY
from supernode.steptime.model import Parallelism
from supernode.steptime.predict import StepTime, predict
from supernode.steptime.wiring import runs, wiring_of


def step_on(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand, rows: Sequence[int]) -> StepTime | None:
    """The predicted step of a gang whose rank r runs on node `rows[r]`; None = model or chip are not known well enough.

    Nodes that no group holds together are joined by the pool's scale-out network, as in the search.
    """
    if demand.model is None:
        return None
    where = np.asarray(rows, dtype=np.int64)
    topology = common_topology(snapshot, rows)
    if topology is None:
        bandwidth = pool.chip.scale_out_bandwidth or ASSUMED_NETWORK_BANDWIDTH
        levels: tuple[Level, ...] = (Level("network", bandwidth, ASSUMED_NETWORK_LATENCY),)
        domains = np.stack((np.zeros_like(where), where))
    else:
        levels = topology.levels
        positions = positions_of(topology, len(snapshot.node_names))[where]
        domains = np.vstack((topology.node_domain[positions].T.astype(np.int64), positions))
    cut = demand.parallelism or Parallelism(data=where.size * demand.devices)
    if cut.devices != where.size * demand.devices:
        return None  # fewer workers than the cut is for
    storage = NO_STORAGE
    if demand.storage is not None:
        use = resolved(demand.storage, snapshot.stores, snapshot.holders, demand.key)
        storage = storage_at(use, topology, domains, pool.chip.scale_out_bandwidth)
    try:
        wiring = wiring_of(link_levels(pool, levels), runs(domains), cut, demand.devices)
        return predict(pool.chip, demand.model, cut, wiring, storage)
    except ChipError:
        return None


def common_topology(snapshot: Snapshot, rows: Sequence[int]) -> Topology | None:
    """The first group that has all these nodes in its tree."""
    where = np.asarray(rows, dtype=np.int64)
    for topology in snapshot.topologies:
        if topology.node_rows.size and (positions_of(topology, len(snapshot.node_names))[where] >= 0).all():
            return topology
    return None


def common_domain(snapshot: Snapshot, group: str, rows: Collection[int]) -> tuple[str, tuple[str, ...]]:
    """Innermost level of the group of which one domain holds all these nodes, and its path; empty if there is none.

    Args:
        snapshot: of the nodes.
        group: whose tree; empty = that of the first group that holds them.
        rows: of the nodes.
    """
    where = sorted(set(rows))
    for topology in snapshot.topologies:
        positions = positions_of(topology, len(snapshot.node_names))[where]
        if (group and topology.name != group) or (positions < 0).any():
            continue
        level = innermost(topology.node_domain[positions].T)
        if level >= 0:
            path = topology.path(level, int(topology.node_domain[positions[0], level]))
            if len(where) == 1:
                return NODE_LEVEL, (*path, snapshot.node_names[where[0]])
            return topology.levels[level].name, path
    return "", ()
