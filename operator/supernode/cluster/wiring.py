"""How the workers of a placed gang are wired to each other, as its pods are told. Pure.

Flows in: a placement and the snapshot that it lies in. Flows out: the JSON of SUPERNODE_TOPOLOGY. It is made for every
gang that starts, so its cost must not grow with the cluster beyond a look at an array.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.cluster.kinds import Json
from supernode.errors import InputError
from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.topology import NODE_LEVEL, Level, Topology

# Network between nodes that no group describes, where the catalogue says no more: 200 Gbit/s per accelerator.
DEFAULT_NETWORK_BANDWIDTH: Final = 25e9
DEFAULT_NETWORK_LATENCY: Final = 10e-6


def wiring(placement: Placement, snapshot: Snapshot) -> Json:
    """The value of SUPERNODE_TOPOLOGY: link levels from the outside in, and each worker's domain per level.

    Nodes that no group describes, and gangs spread over several groups, are joined by a plain network. Of several
    pools, the slowest links count.

    Raises:
        InputError: none of the placement's pools is in the snapshot.
    """
    pools = [pool for name in placement.pools if (pool := snapshot.pool(name)) is not None]
    if not pools:
        raise InputError(f"pool {placement.pool} is gone", field="status.placement", obj=f"TrainingJob {placement.key}")
    wanted = [_row(snapshot.node_names, name) for name in placement.nodes]
    levels, domains = list[Json](), list[list[int]]()
    common = _common_topology(snapshot, wanted)
    if common is None:
        bandwidth = min(pool.chip.scale_out_bandwidth or DEFAULT_NETWORK_BANDWIDTH for pool in pools)
        levels.append(_level(Level("network", bandwidth, DEFAULT_NETWORK_LATENCY)))
        domains.append([0] * len(placement.nodes))
    else:
        topology, place = common
        for depth, level in enumerate(topology.levels):
            levels.append(_level(level))
            domains.append([int(topology.node_domain[place[row], depth]) for row in wanted])
    inside = min(pool.link.bandwidth for pool in pools), max(pool.link.latency for pool in pools)
    levels.append(_level(Level(NODE_LEVEL, *inside)))
    domains.append(list(range(len(placement.nodes))))
    node_of = placement.node_of.tolist()
    return {"levels": levels, "domains": [[column[node] for node in node_of] for column in domains]}


def _common_topology(snapshot: Snapshot, wanted: Sequence[int]) -> tuple[Topology, dict[int, int]] | None:
    """The wiring that all these rows are in, and where each of them is in it; never a loop over a cluster's nodes."""
    for topology in snapshot.topologies:
        at = np.flatnonzero(np.isin(topology.node_rows, wanted)).tolist()
        place = {int(topology.node_rows[index]): index for index in at}
        if place.keys() >= set(wanted):
            return topology, place
    return None


def _row(names: Sequence[str], name: str) -> int:
    """Where a name is among sorted ones; -1 if it is not."""
    row = bisect_left(names, name)
    return row if row < len(names) and names[row] == name else -1


def _level(level: Level) -> Json:
    figures = {"bandwidthGBps": level.bandwidth / 1e9, "latencyMicroseconds": level.latency * 1e6}
    return {"name": level.name, **figures}
