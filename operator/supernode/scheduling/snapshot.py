"""The cluster at one moment, as columns: what `place` decides on.

Flows in: from `State` alone, which owns the mutable arrays. Flows out: a frozen value whose arrays are read-only
copies; it never changes, however the cluster does. Not here: changing it, and reading Kubernetes objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from supernode.chips import Chip
from supernode.scheduling.quota import Amount, Quota
from supernode.scheduling.topology import Int32, Level, Topology

#: Columns that every snapshot has, in this order; the others follow by name.
CPU: Final = "cpu"  # milli-CPU
MEMORY: Final = "memory"  # bytes
EPHEMERAL: Final = "ephemeral-storage"  # bytes
PODS: Final = "pods"  # pods
FIXED_RESOURCES: Final = (CPU, MEMORY, EPHEMERAL, PODS)

Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Store:
    """Storage that is close to one domain of a group.

    Attributes:
        name: by which jobs ask for it.
        group: SuperNodeGroup that describes it.
        level: of the domain.
        domain: label value of the domain.
        read: bytes/s that the domain can read from it.
        write: bytes/s that the domain can write to it.
    """

    name: str
    group: str
    level: str
    domain: str
    read: float
    write: float


@dataclass(frozen=True, eq=False, slots=True)
class PoolInfo:
    """One AcceleratorPool.

    Attributes:
        name: of the pool.
        chip: data sheet of its devices.
        resource: column of its devices in `Snapshot.resources`.
        emulated: devices come from the sidecar.
        devices_per_node: of an emulated pool; 0 = whatever each node reports.
        link: level ``node``: the links between the cards of one node.
        rows: int32 (n,) rows of its nodes, ascending. A node is in one pool at most.
        quotas: per namespace.
        peak: MFLOP/s with which a device counts whose gang's step can't be predicted.
    """

    name: str
    chip: Chip
    resource: int
    emulated: bool
    devices_per_node: int
    link: Level
    rows: Int32
    quotas: tuple[Quota, ...] = ()
    peak: int = 0

    def quota_of(self, namespace: str) -> Quota | None:
        """The namespace's quota, or None."""
        return next((quota for quota in self.quotas if quota.namespace == namespace), None)


@dataclass(frozen=True, eq=False, slots=True)
class Holding:
    """What one gang holds.

    Attributes:
        key: ``namespace/name`` of the job.
        pool: name; of a gang over several pools, their names joined by commas.
        nodes: names, each once; a node may have left the cluster.
        masks: uint64 (nodes,) devices held on each, bit i = device i.
        workers: int32 (nodes,) pods on each.
        request: per worker, resource name -> amount, without the accelerators.
        devices: held on all nodes together.
        node_pools: pool of each of `nodes`; empty = all in `pool`.
        stores: names of the storage that it reads or writes.
        promised: (pool, MFLOP/s) that its place promised; empty = it counts with the peak of its devices.
    """

    key: str
    pool: str
    nodes: tuple[str, ...]
    masks: UInt64
    workers: Int32
    request: Mapping[str, int]
    devices: int
    node_pools: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    promised: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(
        cls, key: str, pool: str, nodes: tuple[str, ...], masks: UInt64, workers: Int32, request: Mapping[str, int]
    ) -> Holding:
        """A holding with its devices counted."""
        devices = int(np.bitwise_count(masks).sum())
        return cls(key, pool, nodes, masks, workers, MappingProxyType({"pods": 1, **request}), devices)

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of its pools, each once, in the order of its nodes."""
        return tuple(dict.fromkeys(self.node_pools)) or (self.pool,)

    def at(self, pool: str) -> Bool | slice:
        """Index of those of its nodes that are in a pool."""
        if not self.node_pools:
            return slice(None) if pool == self.pool else slice(0, 0)
        return np.asarray([name == pool for name in self.node_pools], dtype=np.bool_)

    def among(self, pool: str, nodes: Int64) -> Bool | slice:
        """Index of those of some of its nodes (given by their places in `nodes`) that are in a pool."""
        inside = self.at(pool)
        return inside if isinstance(inside, slice) else inside[nodes]

    def devices_in(self, pool: str) -> int:
        """Devices that it holds of a pool."""
        if not self.node_pools:
            return self.devices if pool == self.pool else 0
        return int(np.bitwise_count(self.masks[self.at(pool)]).sum())

    def amount_in(self, pool: PoolInfo) -> Amount:
        """Devices that it holds of a pool, and the effective compute that they count with."""
        devices = self.devices_in(pool.name)
        if not self.promised:
            return Amount(devices, devices * pool.peak)
        return Amount(devices, dict(self.promised).get(pool.name, 0))

    def scaled(self, before: Holding) -> Holding:
        """This holding, left over from a larger one, with its share of what that promised."""
        if not before.promised:
            return self
        shares = []
        for name, compute in before.promised:
            had = before.devices_in(name)
            shares.append((name, compute * self.devices_in(name) // had if had else 0))
        return replace(self, promised=tuple(shares))


@dataclass(frozen=True, eq=False, slots=True)
class Snapshot:
    """The cluster at one moment; N nodes, R resources. All arrays are read-only.

    Attributes:
        node_names: sorted; the row of a node is its index here.
        resources: names of the columns: `FIXED_RESOURCES`, then the others by name.
        capacity: int64 (N, R) what each node offers to pods (allocatable), in canonical units.
        free: int64 (N, R) capacity less what gangs and other pods hold; below 0 where a node is over-committed.
        usable: bool (N,) ready and schedulable.
        device_free: uint64 (N,) bit i = device i is healthy and free.
        device_all: uint64 (N,) bit i = device i exists and is healthy.
        pools: by name, ascending.
        topologies: by name of the group, ascending.
        holders: key of the gang -> what it holds.
        generation: counts the changes of the state; equal generations = equal snapshots.
        stores: storage of all groups.
        memo: what functions of this snapshot alone have worked out; never part of the value.
    """

    node_names: tuple[str, ...]
    resources: tuple[str, ...]
    capacity: Int64
    free: Int64
    usable: Bool
    device_free: UInt64
    device_all: UInt64
    pools: tuple[PoolInfo, ...]
    topologies: tuple[Topology, ...]
    holders: Mapping[str, Holding]
    generation: int
    stores: tuple[Store, ...] = ()
    memo: dict[object, Any] = field(default_factory=dict, repr=False)

    def pool(self, name: str) -> PoolInfo | None:
        """The pool of that name, or None."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def held(self, pool: str, namespace: str) -> int:
        """Devices of a pool that a namespace's gangs hold."""
        return self.amount(pool, namespace).devices

    def amount(self, pool: str, namespace: str) -> Amount:
        """Devices of a pool that a namespace's gangs hold, and the effective compute that they count with."""
        info = self.pool(pool)
        if info is None:
            return Amount()
        prefix = f"{namespace}/"
        total = Amount()
        for holding in self.holders.values():
            if holding.key.startswith(prefix) and pool in holding.pools:
                total += holding.amount_in(info)
        return total

    def holders_in(self, pool: str) -> dict[str, int]:
        """Gangs that hold devices of a pool -> how many; the largest first, then by key."""
        found = [(-h.devices_in(pool), key) for key, h in self.holders.items()]
        return {key: -count for count, key in sorted(found) if count}


def emptied(snapshot: Snapshot) -> Snapshot:
    """The cluster if nothing ran on it."""
    return replace(
        snapshot,
        free=snapshot.capacity,
        device_free=snapshot.device_all,
        holders=MappingProxyType(dict[str, Holding]()),
        memo={},
    )


def resource_vector(resources: tuple[str, ...], request: Mapping[str, int]) -> tuple[Int64, tuple[str, ...]]:
    """Amounts of a request by column, int64 (R,), and the names that no node has."""
    vector = np.zeros(len(resources), dtype=np.int64)
    missing: list[str] = []
    for name, amount in request.items():
        if name in resources:
            vector[resources.index(name)] = amount
        elif amount > 0:
            missing.append(name)
    return vector, tuple(sorted(missing))
