"""What a gang is told that waits because nodes are kept for others: how many devices, for whom, and why. Pure.

Flows in: nominations, a snapshot, the demand on all nodes that the job's template allows. Flows out: a sentence. That
the nodes are shut to this gang alone is not what its template, cordons or taints decide, so it must not sound like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.handlers.nomination import Nomination
from supernode.scheduling import discretion
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.explain import explain
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.work import Work

# Gangs that a sentence names.
LISTED: Final = 3


def kept_sentence(snapshot: Snapshot, demand: GangDemand, keepers: Sequence[Nomination]) -> str:
    """Why a gang waits, where nodes are kept for others.

    Args:
        snapshot: the cluster.
        demand: of the gang, on all nodes that it may use otherwise; its masks belong to the snapshot.
        keepers: the nominations that keep nodes from it.
    """
    kept = _kept(snapshot, demand, keepers)
    found = place_in(Work(snapshot), demand, closed=False)
    if not isinstance(found, Placement):
        return f"{explain(found, snapshot, demand)}; {kept}"
    workers = f"{demand.fewest} worker{'' if demand.fewest == 1 else 's'}"
    return f"needs {workers} x {demand.devices} devices ({demand.fewest * demand.devices}) and would fit, but {kept}"


def _kept(snapshot: Snapshot, demand: GangDemand, keepers: Sequence[Nomination]) -> str:
    names = frozenset().union(*(each.nodes for each in keepers))
    inside = np.zeros(len(snapshot.node_names), dtype=np.bool_)
    for name in demand.pools:
        pool = snapshot.pool(name)
        if pool is not None:
            inside[pool.rows] = True
    rows = [row for row in np.flatnonzero(inside).tolist() if snapshot.node_names[row] in names]
    devices = int(np.bitwise_count(snapshot.device_all[rows]).sum())
    whom = discretion.listed(demand.namespace, [each.key for each in keepers], LISTED)
    gave_way = any(victim[0] == demand.key for each in keepers for victim in each.victims)
    return (
        f"{devices} device{'' if devices == 1 else 's'} on {len(rows)} node{'' if len(rows) == 1 else 's'} "
        f"{'is' if devices == 1 else 'are'} kept for {whom}{', which it gave way to' if gave_way else ''}"
    )
