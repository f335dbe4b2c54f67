"""The one owner of what the scheduler knows: applies changes one by one, hands out read-only snapshots.

Flows in: nodes, pools and groups as `cluster` has read them, gangs that were placed, pods of others. Flows out:
`Snapshot`. Only this class changes the arrays; it is not for several threads. Whatever the order of the changes, the
same records give the same snapshot, and taking a change back gives the snapshot before it, generation apart.

Not here: deciding, and knowing which pods are whose: pods of a gang that has a claim must not be given as foreign.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from supernode.errors import InputError
from supernode.scheduling.demand import MOST_DEVICES
from supernode.scheduling.devices import highest
from supernode.scheduling.placement import Placement
from supernode.scheduling.promise import peak_of
from supernode.scheduling.records import GroupSpec, NodeInfo, PoolSpec, booked, check_devices, check_node, check_pool
from supernode.scheduling.snapshot import (
    FIXED_RESOURCES,
    Bool,
    Holding,
    Int64,
    PoolInfo,
    Snapshot,
    UInt64,
    resource_vector,
)
from supernode.scheduling.stores import check_stores
from supernode.scheduling.topology import NODE_LEVEL, Level, Topology, build_topology, check_levels

__all__ = ["GroupSpec", "NodeInfo", "PoolSpec", "State"]


class State:
    """Nodes, pools, groups, gangs and other pods, kept up to date change by change."""

    def __init__(self) -> None:
        self._pools: dict[str, PoolSpec] = {}
        self._groups: dict[str, GroupSpec] = {}
        self._nodes: dict[str, NodeInfo] = {}
        self._holdings: dict[str, Holding] = {}
        self._foreign: dict[str, tuple[str, Mapping[str, int]]] = {}
        self._generation = 0
        self._stale = True  # the arrays below no longer have the right rows or columns
        self._snapshot: Snapshot | None = None
        # Arrays, rebuilt from the records when stale. N nodes by name, R resources.
        self._names: tuple[str, ...] = ()
        self._row: dict[str, int] = {}
        self._resources: tuple[str, ...] = FIXED_RESOURCES
        self._capacity: Int64 = np.zeros((0, len(FIXED_RESOURCES)), dtype=np.int64)
        self._used = self._capacity.copy()
        self._column: dict[str, int] = {}
        self._pending = array("q")  # row, column, amount, row, column, ... to add to `_used`
        self._usable = np.zeros(0, dtype=np.bool_)
        self._device_resource: list[str] = []  # per row, what its pool's devices are called; empty = in no pool
        self._shared: tuple[Int64, Bool, UInt64] | None = None  # capacity, usable, device_all as handed out
        self._device_all: UInt64 = np.zeros(0, dtype=np.uint64)
        self._device_gang: UInt64 = np.zeros(0, dtype=np.uint64)  # held by gangs
        self._device_other = np.zeros(0, dtype=np.int64)  # how many are held by foreign pods
        self._pool_infos: tuple[PoolInfo, ...] = ()
        self._topologies: tuple[Topology, ...] = ()

    @property
    def generation(self) -> int:
        """Number of changes so far."""
        return self._generation

    # --- pools, groups, nodes ------------------------------------------------------------------------------------
    def set_pool(self, spec: PoolSpec) -> None:
        """Add or replace a pool. Apply its nodes again if its selector changed.

        Raises:
            InputError: figures that no pool can have; names pool and field.
        """
        check_pool(spec)
        self._pools[spec.name] = spec
        self._changed(rows=True)

    def remove_pool(self, name: str) -> None:
        """Forget a pool; its nodes stay, in no pool."""
        if self._pools.pop(name, None) is not None:
            self._changed(rows=True)

    def set_group(self, spec: GroupSpec) -> None:
        """Add or replace a group. Apply its nodes again if its selector or labels changed.

        Raises:
            InputError: levels or storage that can't be.
        """
        check_levels(spec.name, spec.levels)
        check_stores(spec.stores, spec.levels)
        if self._groups.get(spec.name) != spec:
            self._groups[spec.name] = spec
            self._changed(rows=True)

    def remove_group(self, name: str) -> None:
        """Forget a group."""
        if self._groups.pop(name, None) is not None:
            self._changed(rows=True)

    def apply_node(self, node: NodeInfo) -> bool:
        """Add a node or take over its changes; False if nothing that matters here has changed.

        Raises:
            InputError: amounts below 0 or too large, or more than 64 devices; the node is left as it was.
        """
        old = self._nodes.get(node.name)
        if old == node:
            return False
        check_node(node)
        spec = self._pools.get(node.pool)
        if spec is not None:
            check_devices(self._devices(node), f"Node {node.name}", f"status.allocatable.{spec.resource}")
        same_place = old is not None and old.pool == node.pool and old.groups == node.groups
        self._nodes[node.name] = node
        if self._stale or not same_place or not set(node.capacity) <= set(self._resources):
            self._changed(rows=True)
        else:
            self._fill(self._row[node.name], node)
            self._changed()
        return True

    def remove_node(self, name: str) -> None:
        """Forget a node. What gangs and pods hold on it is remembered for the case that it comes back."""
        if self._nodes.pop(name, None) is not None:
            self._changed(rows=True)

    # --- gangs -----------------------------------------------------------------------------------------------------
    def claim(self, key: str, placement: Placement, request: Mapping[str, int], stores: tuple[str, ...] = ()) -> None:
        """A gang holds its placement from now on.

        Args:
            key: ``namespace/name`` of the job.
            placement: where its workers are.
            request: per worker, as in `GangDemand.request`.
            stores: names of the storage that it uses.

        Raises:
            InputError: an amount below 0, the key holds something already, or another gang holds one of the devices;
                nothing is changed.
        """
        if key in self._holdings:
            raise InputError(
                f"holds {self._holdings[key].devices} devices already; release them first", obj=f"TrainingJob {key}"
            )
        amounts = booked(request, f"TrainingJob {key}")
        workers = np.bincount(placement.node_of, minlength=len(placement.nodes)).astype(np.int32)
        holding = Holding.of(key, placement.pool, placement.nodes, placement.masks(), workers, amounts)
        if placement.node_pools or stores or placement.promised:
            promised = placement.promised
            holding = replace(holding, node_pools=placement.node_pools, stores=stores, promised=promised)
        if not self._stale:
            rows, at = self._rows_of(holding)
            taken = self._device_gang[rows] & holding.masks[at]
            if taken.any():
                self._raise_taken(key, holding)
            self._holdings[key] = holding
            self._take(holding, 1)
        else:
            for other in self._holdings.values():
                if _overlap(holding, other):
                    self._raise_taken(key, holding)
            self._holdings[key] = holding
        self._changed()

    def release(self, key: str) -> bool:
        """A gang holds nothing from now on; False if it held nothing."""
        holding = self._holdings.get(key)
        if holding is None:
            return False
        if not self._stale:
            self._take(holding, -1)
        del self._holdings[key]
        self._changed()
        return True

    def holding(self, key: str) -> Holding | None:
        """What a gang holds."""
        return self._holdings.get(key)

    # --- pods of others ----------------------------------------------------------------------------------------------
    def add_foreign(self, key: str, node: str, request: Mapping[str, int]) -> None:
        """A pod that no gang's claim covers uses a node: any scheduler's, ended pods excepted.

        Which devices it has is not known; the highest free indices of the node are taken to be its.

        Args:
            key: unique, such as the pod's UID; the same key again replaces.
            node: name; it need not be known (yet).
            request: the pod's requests in canonical units, accelerators included; ``pods`` defaults to 1.

        Raises:
            InputError: an amount below 0.
        """
        entry = (node, booked(request, f"Pod {key}"))
        old = self._foreign.get(key)
        if old is not None:
            if old == entry:
                return
            self.remove_foreign(key)
        self._foreign[key] = entry
        if not self._stale:
            self._use(entry, 1)
        self._generation += 1

    def remove_foreign(self, key: str) -> None:
        """That pod is gone, or has ended."""
        entry = self._foreign.pop(key, None)
        if entry is not None:
            if not self._stale:
                self._use(entry, -1)
            self._generation += 1

    # --- reading -----------------------------------------------------------------------------------------------------
    def snapshot(self) -> Snapshot:
        """The cluster now. The same object is returned until something changes."""
        if self._snapshot is not None and self._snapshot.generation == self._generation:
            return self._snapshot
        if self._stale:
            self._rebuild()
        self._settle()
        free = self._capacity - self._used
        device_free = self._device_all & ~self._device_gang
        for row in np.flatnonzero(self._device_other).tolist():
            device_free[row] &= ~np.uint64(highest(int(device_free[row]), int(self._device_other[row])))
        if self._shared is None:
            self._shared = (self._capacity.copy(), self._usable.copy(), self._device_all.copy())
        capacity, usable, device_all = self._shared
        for shared in (capacity, free, usable, device_free, device_all):
            shared.setflags(write=False)
        self._snapshot = Snapshot(
            node_names=self._names,
            resources=self._resources,
            capacity=capacity,
            free=free,
            usable=usable,
            device_free=device_free,
            device_all=device_all,
            pools=self._pool_infos,
            topologies=self._topologies,
            holders=MappingProxyType(dict(self._holdings)),
            generation=self._generation,
            stores=tuple(store for name in sorted(self._groups) for store in self._groups[name].stores),
        )
        return self._snapshot

    # --- inside ------------------------------------------------------------------------------------------------------
    def _changed(self, *, rows: bool = False) -> None:
        self._generation += 1
        self._stale = self._stale or rows

    def _devices(self, node: NodeInfo) -> int:
        """Number of devices of a node's pool on it."""
        spec = self._pools.get(node.pool)
        if spec is None:
            return 0
        return spec.devices_per_node if spec.emulated else node.capacity.get(spec.resource, 0)

    def _fill(self, row: int, node: NodeInfo) -> None:
        """Write what a node offers into its row."""
        self._shared = None
        self._capacity[row], _ = resource_vector(self._resources, node.capacity)
        spec = self._pools.get(node.pool)
        count = self._devices(node)
        sound = count <= MOST_DEVICES  # a node that was applied before its pool may have more: nothing is placed there
        count = count if sound else 0
        if spec is not None:
            self._capacity[row, self._resources.index(spec.resource)] = count
        self._usable[row] = node.usable and sound
        self._device_all[row] = ((1 << count) - 1) & ~node.unhealthy

    def _rebuild(self) -> None:
        """All arrays from the records."""
        names = {name for node in self._nodes.values() for name in node.capacity}
        names |= {spec.resource for spec in self._pools.values()}
        names |= {name for _, request in self._foreign.values() for name in request}
        names |= {name for holding in self._holdings.values() for name in holding.request}
        self._resources = (*FIXED_RESOURCES, *sorted(names - set(FIXED_RESOURCES)))
        self._names = tuple(sorted(self._nodes))
        self._row = {name: row for row, name in enumerate(self._names)}
        count = len(self._names)
        self._capacity = np.zeros((count, len(self._resources)), dtype=np.int64)
        self._used = np.zeros_like(self._capacity)
        self._column = {name: column for column, name in enumerate(self._resources)}
        specs = [self._pools.get(self._nodes[name].pool) for name in self._names]
        self._device_resource = ["" if spec is None else spec.resource for spec in specs]
        self._shared = None
        self._pending = array("q")
        self._usable = np.zeros(count, dtype=np.bool_)
        self._device_all = np.zeros(count, dtype=np.uint64)
        self._device_gang = np.zeros(count, dtype=np.uint64)
        self._device_other = np.zeros(count, dtype=np.int64)
        members: dict[str, list[int]] = {name: [] for name in self._pools}
        labels: dict[str, dict[int, tuple[str | None, ...]]] = {name: {} for name in self._groups}
        for row, name in enumerate(self._names):
            node = self._nodes[name]
            self._fill(row, node)
            if node.pool in members:
                members[node.pool].append(row)
            for group, values in node.groups.items():
                spec = self._groups.get(group)
                if spec is not None:
                    # A node that was read under the group's former levels is out until it is applied again.
                    fits = len(values) == len(spec.levels)
                    labels[group][row] = values if fits else (None,) * len(spec.levels)
        self._pool_infos = tuple(self._pool_info(self._pools[name], members[name]) for name in sorted(self._pools))
        self._topologies = tuple(
            build_topology(name, self._groups[name].levels, labels[name], self._generation)
            for name in sorted(self._groups)
        )
        self._stale = False
        for holding in self._holdings.values():
            self._take(holding, 1)
        for entry in self._foreign.values():
            self._use(entry, 1)

    def _pool_info(self, spec: PoolSpec, rows: list[int]) -> PoolInfo:
        array = np.asarray(rows, dtype=np.int32)
        array.setflags(write=False)
        return PoolInfo(
            name=spec.name,
            chip=spec.chip,
            resource=self._resources.index(spec.resource),
            emulated=spec.emulated,
            devices_per_node=spec.devices_per_node,
            link=Level(NODE_LEVEL, spec.bandwidth, spec.latency),
            rows=array,
            quotas=spec.quotas,
            peak=peak_of(spec.chip),
        )

    def _rows_of(self, holding: Holding) -> tuple[Int64, Int64]:
        """Rows of the holding's nodes that are in the cluster, and their places in the holding."""
        pairs = [(self._row[name], at) for at, name in enumerate(holding.nodes) if name in self._row]
        table = np.asarray(pairs, dtype=np.int64).reshape(len(pairs), 2)
        return table[:, 0], table[:, 1]

    def _take(self, holding: Holding, sign: int) -> None:
        """Book a holding (sign 1) or take it back (-1)."""
        vector, missing = resource_vector(self._resources, holding.request)
        if missing:
            self._stale = True  # a resource that has no column yet: the next snapshot makes one
            return
        rows, at = self._rows_of(holding)
        masks = holding.masks[at]
        self._used[rows] += sign * holding.workers[at, None].astype(np.int64) * vector
        for name in holding.pools:
            spec = self._pools.get(name)
            if spec is not None:
                here = holding.among(name, at)
                column = self._resources.index(spec.resource)
                self._used[rows[here], column] += sign * np.bitwise_count(masks[here]).astype(np.int64)
        if sign > 0:
            self._device_gang[rows] |= masks
        else:
            self._device_gang[rows] &= ~masks

    def _use(self, entry: tuple[str, Mapping[str, int]], sign: int) -> None:
        """Book a foreign pod (sign 1) or take it back (-1)."""
        node, request = entry
        row = self._row.get(node)
        if row is None:
            return
        columns, pending = self._column, self._pending
        for name, amount in request.items():
            column = columns.get(name)
            if column is None:
                self._stale = True  # no column yet: the next snapshot makes one
            else:
                pending.extend((row, column, sign * amount))
        resource = self._device_resource[row]
        if resource in request:
            self._device_other[row] += sign * request[resource]

    def _settle(self) -> None:
        """Book what foreign pods have changed since the last snapshot: many at once is far cheaper than each alone."""
        if self._pending:
            rows, columns, amounts = np.asarray(self._pending, dtype=np.int64).reshape(-1, 3).T
            np.add.at(self._used, (rows, columns), amounts)
            self._pending = array("q")

    def _raise_taken(self, key: str, holding: Holding) -> None:
        for other in self._holdings.values():
            common = _overlap(holding, other)
            if common:
                raise InputError(f"devices on node {common} are held by {other.key} already", obj=f"TrainingJob {key}")


def _overlap(one: Holding, two: Holding) -> str:
    """Name of a node on which both hold the same device; empty if there is none."""
    masks = dict(zip(two.nodes, two.masks.tolist(), strict=True))
    return next((n for n, m in zip(one.nodes, one.masks.tolist(), strict=True) if m & masks.get(n, 0)), "")
