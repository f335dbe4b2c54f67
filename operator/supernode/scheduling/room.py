"""How much room is left where: the largest gang that each level can still take, and how torn the free devices are.

Flows in: a snapshot. Flows out: counts of devices per pool and level. "Busy but can neither compute nor move" shows
here first: many devices are free, and no domain has enough of them. Not here: who could make room (`defragment`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.topology import Topology


@dataclass(frozen=True, slots=True)
class LevelRoom:
    """Free devices of one pool on one level.

    Attributes:
        group: name of the SuperNodeGroup.
        level: name of the level, or `node`.
        domain: path of the domain with most free devices, outermost first; empty where nothing is free.
        largest: free devices in it: the largest gang that fits into one domain.
        capacity: devices of the largest domain.
        fragmentation: share of the gang that could be there, were the free devices together, that cannot: 0 if a gang
            as large as the free devices (or a whole domain) fits into one domain, nearly 1 if it hardly has any.
    """

    group: str
    level: str
    domain: tuple[str, ...]
    largest: int
    capacity: int
    fragmentation: float


def rooms(snapshot: Snapshot, pool: str, topology: Topology) -> tuple[LevelRoom, ...]:
    """The room of a pool in one group, a level at a time from the outside in, the node level last.

    Nodes that take no worker now count as devices of their domain, not as free ones. Nothing if no node of the pool is
    in the group.
    """
    info = snapshot.pool(pool)
    if info is None:
        return ()
    free = np.zeros(len(snapshot.node_names), dtype=np.int64)
    there = np.zeros_like(free)
    usable = info.rows[snapshot.usable[info.rows]]
    free[usable] = np.bitwise_count(snapshot.device_free[usable])
    there[info.rows] = np.bitwise_count(snapshot.device_all[info.rows])
    free, there = free[topology.node_rows], there[topology.node_rows]
    if not there.any():
        return ()
    found = []
    for index, level in enumerate(topology.levels):
        column = topology.node_domain[:, index]
        names = topology.domain_names[index]
        per_free = np.bincount(column, free, len(names)).astype(np.int64)
        per_all = np.bincount(column, there, len(names)).astype(np.int64)
        best = int(per_free.argmax())
        path = topology.path(index, best)
        found.append(_room(topology.name, level.name, path, per_free, per_all))
    best = int(free.argmax())
    innermost = len(topology.levels) - 1
    around = topology.path(innermost, int(topology.node_domain[best, innermost])) if innermost >= 0 else ()
    name = snapshot.node_names[int(topology.node_rows[best])]
    found.append(_room(topology.name, "node", (*around, name), free, there))
    return tuple(found)


def _room(
    group: str, level: str, path: tuple[str, ...], free: NDArray[np.int64], there: NDArray[np.int64]
) -> LevelRoom:
    largest, capacity, total = int(free.max()), int(there.max()), int(free.sum())
    possible = min(total, capacity)
    return LevelRoom(
        group, level, path if largest else (), largest, capacity, 1.0 - largest / possible if possible else 0.0
    )
