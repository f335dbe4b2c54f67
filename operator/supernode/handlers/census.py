"""How many accelerators of a set of nodes are held, free and unhealthy. Data and counting only.

Flows in: snapshots, and nodes as they change. Flows out: `Counts`. A snapshot holds only devices that a worker could
have or has; those that a node's annotation or its device plug-in calls unhealthy are counted from the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernode.cluster import nodes
from supernode.cluster.kinds import Json
from supernode.errors import InputError
from supernode.quantity import parse_resource
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.state import PoolSpec


@dataclass(frozen=True, slots=True)
class Counts:
    """Accelerators of some nodes. capacity = allocated + free + unhealthy."""

    nodes: int
    capacity: int
    allocated: int
    free: int
    unhealthy: int


def census(snapshot: Snapshot, rows: NDArray[np.int32], sick: int = 0) -> Counts:
    """Accelerators of some rows of a snapshot, and `sick` ones that it does not hold."""
    there, open_ = snapshot.device_all[rows], snapshot.device_free[rows]
    usable = snapshot.usable[rows]
    devices = int(np.bitwise_count(there).sum())
    free = int(np.bitwise_count(open_[usable]).sum())
    closed = int(np.bitwise_count(open_[~usable]).sum())
    return Counts(len(rows), devices + sick, devices - free - closed, free, closed + sick)


def count(snapshot: Snapshot, name: str, sick: int = 0) -> Counts:
    """Accelerators of a pool."""
    pool = snapshot.pool(name)
    return Counts(0, 0, 0, 0, 0) if pool is None else census(snapshot, pool.rows, sick)


class Sick:
    """Nodes with unhealthy devices, noted as they change, so that nobody looks at all nodes to find them."""

    def __init__(self) -> None:
        self._nodes: dict[str, Json] = {}

    def note(self, node: Json | None, name: str) -> None:
        """A node is there now, or no more."""
        if node is not None and (nodes.unhealthy_devices(node) or _short(node)):
            self._nodes[name] = node
        else:
            self._nodes.pop(name, None)

    def devices(self, name: str, spec: PoolSpec | None) -> int:
        """Unhealthy devices of a node that is in the pool `spec`."""
        node = self._nodes.get(name)
        if node is None or spec is None:
            return 0
        status = node["status"]
        whole = _amount(status.get("capacity"), spec.resource)
        well = _amount(status.get("allocatable"), spec.resource)
        if spec.emulated:
            whole = well = spec.devices_per_node
        named = nodes.unhealthy_devices(node) & ((1 << well) - 1)
        return named.bit_count() + max(0, whole - well)

    def names(self) -> list[str]:
        """Nodes that have some."""
        return list(self._nodes)


def _short(node: Json) -> bool:
    """Whether a device plug-in has taken devices back: a node offers fewer than it has."""
    capacity, offered = node["status"].get("capacity") or {}, node["status"].get("allocatable") or {}
    return any("/" in name and offered.get(name) != amount for name, amount in capacity.items())


def _amount(amounts: Json | None, resource: str) -> int:
    try:
        return parse_resource(resource, (amounts or {}).get(resource, 0))
    except InputError:
        return 0
