"""How many workers fit where: per node by integer division, per domain by rolling up.

Flows in: a snapshot, a pool, a demand. Flows out: counts as arrays. Not here: which of the fitting places is best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from supernode.errors import InputError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.snapshot import Bool, Int64, PoolInfo, Snapshot, resource_vector
from supernode.scheduling.topology import Int32, Topology

#: More workers than any gang has; stands for "this resource sets no limit".
UNLIMITED = 2**40


@dataclass(frozen=True, eq=False, slots=True)
class NodeFit:
    """Workers that each node of a pool can take. All arrays run along `PoolInfo.rows`.

    Attributes:
        now: int64 (n,) all things considered.
        by_devices: int64 (n,) if accelerators were all that counted, on open nodes.
        empty: int64 (n,) if nothing ran.
        open: bool (n,) nodes that are ready and that the job may use.
        short: name of the resource other than accelerators that costs the most workers; empty = none does.
    """

    now: Int64
    by_devices: Int64
    empty: Int64
    open: Bool
    short: str


def node_fit(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand) -> NodeFit:
    """Workers per node of one pool.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """
    rows = pool.rows
    usable = snapshot.usable[rows]
    mask = demand.eligible.get(pool.name)
    if mask is not None:
        if mask.shape != snapshot.usable.shape or mask.dtype != np.bool_:
            raise InputError(
                f"eligible nodes of pool {pool.name} are {mask.dtype} {mask.shape}, the snapshot has "
                f"{snapshot.usable.shape[0]} nodes",
                obj=f"TrainingJob {demand.key}",
            )
        usable = usable & mask[rows]
    free = np.bitwise_count(snapshot.device_free[rows]).astype(np.int64) // demand.devices
    whole = np.bitwise_count(snapshot.device_all[rows]).astype(np.int64) // demand.devices
    by_devices = np.where(usable, free, 0)
    now = by_devices.copy()
    empty = np.where(usable, whole, 0)
    vector, missing = resource_vector(snapshot.resources, demand.request)
    short, cost = "", 0
    if missing:
        return NodeFit(np.zeros_like(now), by_devices, np.zeros_like(now), usable, missing[0])
    for column in np.flatnonzero(vector).tolist():
        amount = int(vector[column])
        fits = np.maximum(snapshot.free[rows, column], 0) // amount
        lost = int(np.maximum(by_devices - fits, 0).sum())
        if lost > cost:
            short, cost = snapshot.resources[column], lost
        np.minimum(now, fits, out=now)
        np.minimum(empty, snapshot.capacity[rows, column] // amount, out=empty)
    return NodeFit(now, by_devices, empty, usable, short)


@dataclass(frozen=True, eq=False, slots=True)
class Tree:
    """One group's tree with the workers that fit, for one pool.

    Attributes:
        topology: the wiring; L levels.
        caps: per level 0 .. L, workers that fit into each of its domains; the last entry is per node, in wiring order.
        children: per level 0 .. L-1, int64 (domains + 1,) run of each domain's children on the next level.
        units: per level 0 .. L, a domain's share of the gang must be a multiple of this.
    """

    topology: Topology
    caps: tuple[Int64, ...]
    children: tuple[Int64, ...]
    units: tuple[int, ...]

    @property
    def depth(self) -> int:
        """Index of the node level."""
        return len(self.topology.levels)

    def level_name(self, level: int) -> str:
        """Name of a level, ``node`` for the innermost."""
        return self.topology.levels[level].name if level < self.depth else "node"


def child_runs(topology: Topology) -> tuple[Int64, ...]:
    """Per level, where each domain's children begin on the next level; one entry more for the end."""
    runs: list[Int64] = []
    for level in range(len(topology.levels)):
        starts = topology.starts[level].astype(np.int64)
        if level + 1 == len(topology.levels):
            runs.append(starts)
        else:
            first = topology.node_domain[starts[:-1], level + 1].astype(np.int64)
            runs.append(np.append(first, len(topology.domain_names[level + 1])))
    return tuple(runs)


def roll_up(topology: Topology, per_row: Int64, quanta: Mapping[int, int]) -> Tree:
    """Workers per domain of every level.

    Args:
        topology: the wiring.
        per_row: int64 (N,) workers per node of the snapshot, 0 outside the pool.
        quanta: level -> a domain of it takes a multiple of this many workers (slices); level L is the node. Of any
            two, one divides the other.
    """
    depth = len(topology.levels)
    runs = child_runs(topology)
    caps = _whole(per_row[topology.node_rows], quanta.get(depth, 1))
    result = [caps]
    for level in range(depth - 1, -1, -1):
        if caps.size:
            caps = np.add.reduceat(caps, runs[level][:-1])
        caps = _whole(caps, quanta.get(level, 1))
        result.append(caps)
    units = tuple(max((q for at, q in quanta.items() if at >= level), default=1) for level in range(depth + 1))
    return Tree(topology, tuple(reversed(result)), runs, units)


def outside(rows: Int32, topologies: tuple[Topology, ...], nodes: int) -> Int32:
    """Those of `rows` that are in no domain of any group."""
    inside = np.zeros(nodes, dtype=np.bool_)
    for topology in topologies:
        inside[topology.node_rows] = True
    return rows[~inside[rows]]


def _whole(caps: Int64, quantum: int) -> Int64:
    return caps - caps % quantum if quantum > 1 else caps
