"""How many workers fit where: per node by integer division, per domain by rolling up.

Flows in: a snapshot, a pool, a demand. Flows out: counts as arrays. Not here: which of the fitting places is best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.snapshot import Bool, Int64, PoolInfo, Snapshot, resource_vector
from supernode.scheduling.topology import Int32, Topology

# Changed nodes up to which rooms are counted one by one instead of all again, and up to which sums are.
_COUNTED = 64
_ADDED = 16


@dataclass(frozen=True, eq=False, slots=True)
class NodeFit:
    """Workers that each node of a pool can take, for the words of a refusal. All arrays run along `PoolInfo.rows`.

    Attributes:
        now: int64 (n,) all things considered.
        by_devices: int64 (n,) if accelerators were all that counted, on open nodes.
        empty: int64 (n,) if nothing ran.
        short: name of the resource other than accelerators that costs the most workers; empty = none does.
    """

    now: Int64
    by_devices: Int64
    empty: Int64
    short: str


def fits_on(snapshot: Snapshot, rows: Int64, devices: int, columns: Iterable[tuple[int, int]]) -> Int64:
    """int64 (k,): workers that fit on some nodes now.

    Args:
        snapshot: the cluster.
        rows: int64 (k,) of nodes that are open to the gang.
        devices: per worker.
        columns: resource column and amount per worker, amounts above 0.
    """
    now = (np.bitwise_count(snapshot.device_free[rows]) // np.uint8(devices)).astype(np.int64)
    free = snapshot.free[rows]
    most = int(now.max(initial=0))
    for column, amount in columns:
        have = free[:, column]
        if int(have.min(initial=0)) < most * amount:  # else it limits nobody; division is the dear part
            np.minimum(now, np.maximum(have, 0) // amount, out=now)
    return now


def node_fit(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand, open_rows: Bool) -> NodeFit:
    """Workers per node of one pool; `open_rows`: bool (N,) nodes that it may use."""
    rows = pool.rows
    usable = open_rows[rows]
    free = np.bitwise_count(snapshot.device_free[rows]).astype(np.int64) // demand.devices
    whole = np.bitwise_count(snapshot.device_all[rows]).astype(np.int64) // demand.devices
    by_devices = np.where(usable, free, 0)
    now = by_devices.copy()
    empty = np.where(usable, whole, 0)
    vector, missing = resource_vector(snapshot.resources, demand.request)
    short, cost = "", 0
    if missing:
        return NodeFit(np.zeros_like(now), by_devices, np.zeros_like(now), missing[0])
    for column in np.flatnonzero(vector).tolist():
        amount = int(vector[column])
        fits = np.maximum(snapshot.free[rows, column], 0) // amount
        lost = int(np.maximum(by_devices - fits, 0).sum())
        if lost > cost:
            short, cost = snapshot.resources[column], lost
        np.minimum(now, fits, out=now)
        np.minimum(empty, snapshot.capacity[rows, column] // amount, out=empty)
    return NodeFit(now, by_devices, empty, short)


@dataclass(frozen=True, eq=False, slots=True)
class Tree:
    """One group's tree with the workers that fit, for one pool.

    Attributes:
        topology: the wiring; L levels.
        caps: per level 0 .. L, workers that fit into each of its domains; the last entry is per node, in wiring order.
        children: per level 0 .. L-1, int64 (domains + 1,) run of each domain's children on the next level.
        units: per level 0 .. L, a domain's share of the gang must be a multiple of this.
        quanta: level -> a domain of it takes a multiple of this many workers.
        tops: what `top` has worked out since the last `refresh`.
        options: per level and domain, what the search made of it (`score`) since a node in it last changed.
        largest: level -> int64 (domains,) the most room that any child of each domain has, once asked for.
        depth: index of the node level.
        additive: no level further out than the node rounds its room down, so that changes add up.
        tally: room of a node -> nodes with it; empty = not counted.
        memo: per gang, what domains of a shape give (`score`); stays true whatever the room.
    """

    topology: Topology
    caps: tuple[Int64, ...]
    children: tuple[Int64, ...]
    units: tuple[int, ...]
    quanta: Mapping[int, int]
    tops: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    tally: dict[int, int] = field(default_factory=dict)
    memo: dict[object, Any] = field(default_factory=dict)
    options: dict[tuple[int, int], dict[object, Any]] = field(default_factory=dict)
    largest: dict[int, Int64] = field(default_factory=dict)
    depth: int = field(init=False)
    additive: bool = field(init=False)

    def __post_init__(self) -> None:
        depth = len(self.topology.levels)
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "additive", all(q == 1 or level == depth for level, q in self.quanta.items()))

    def level_name(self, level: int) -> str:
        """Name of a level, ``node`` for the innermost."""
        return self.topology.levels[level].name if level < self.depth else "node"

    def parent(self, level: int, domain: int) -> int:
        """The domain around a domain (or, on the node level, around a node) one level further out; -1 on level 0."""
        if level == self.depth:
            return int(self.topology.node_domain[domain, level - 1])
        return int(self.topology.parents[level][domain])

    def memo_for(self, quanta: Mapping[int, int]) -> dict[object, Any]:
        """The memo that trees of the same wiring share if they have these quanta."""
        memo: dict[object, Any] = self.memo.setdefault(("quanta", tuple(sorted(quanta.items()))), {})
        return memo

    def top(self, level: int) -> tuple[int, int, int]:
        """Of a level: the most workers that one domain takes, how many domains take that many, and the next most."""
        known = self.tops.get(level)
        if known is None:
            if level == self.depth:
                if not self.tally:
                    rooms, counts = np.unique(self.caps[level], return_counts=True)
                    self.tally.update(zip(rooms.tolist(), counts.tolist(), strict=True))
                largest = sorted(self.tally, reverse=True)[:2]
                known = (
                    (largest[0], self.tally[largest[0]], largest[1] if len(largest) > 1 else 0)
                    if largest
                    else (0, 0, 0)
                )
            else:
                values = sorted(self.caps[level].tolist(), reverse=True)
                count = values.count(values[0]) if values else 0
                known = (values[0] if values else 0, count, values[count] if count < len(values) else 0)
            self.tops[level] = known
        return known

    def most(self, level: int) -> int:
        """Most workers that one domain of a level takes."""
        return self.top(level)[0]

    def refresh(self, positions: Int64, workers: Int64) -> None:
        """Take over new room on some nodes; only the owner of the tree may call it.

        Args:
            positions: int64 (k,) nodes in wiring order.
            workers: int64 (k,) that fit there now.
        """
        depth = self.depth
        leaves, new = self.caps[depth], _whole(workers, self.quanta.get(depth, 1))
        few = positions.size <= _ADDED and self.additive
        before, after = leaves[positions].tolist(), new.tolist()
        if positions.size > _COUNTED:
            self.tally.clear()
        elif self.tally:
            for old, now in zip(before, after, strict=True):
                self.tally[now] = self.tally.get(now, 0) + 1
                self.tally[old] -= 1
                if not self.tally[old]:
                    del self.tally[old]
        leaves[positions] = new
        self.tops.clear()
        if not few:
            self.largest.clear()
            for level in range(depth - 1, -1, -1):
                caps = np.add.reduceat(self.caps[level + 1], self.children[level][:-1])
                self.caps[level][:] = _whole(caps, self.quanta.get(level, 1))
            for level in range(depth) if self.options else ():
                for domain in set(self.topology.node_domain[positions, level].tolist()):
                    self.options.pop((level, domain), None)
        else:
            self._add(self.topology.node_domain[positions].tolist(), before, after)
        for node in positions.tolist() if self.options else ():
            self.options.pop((depth, node), None)

    def largest_child(self, level: int) -> Int64:
        """int64 (domains,): the most room that any child of each domain of a level has; not to be changed."""
        known = self.largest.get(level)
        if known is None:
            known = self.largest[level] = np.maximum.reduceat(self.caps[level + 1], self.children[level][:-1])
        return known

    def _add(self, homes: list[list[int]], before: list[int], after: list[int]) -> None:
        """Carry the changes of a few nodes (`homes`: their domains, outermost first) further out."""
        for level in range(self.depth - 1, -1, -1):
            changes: dict[int, int] = {}
            for home, old, now in zip(homes, before, after, strict=True):
                changes[home[level]] = changes.get(home[level], 0) + now - old
            caps, largest = self.caps[level], self.largest.get(level)
            for domain, change in changes.items():
                caps[domain] += change
                self.options.pop((level, domain), None)
                if largest is not None:
                    runs = self.children[level]
                    largest[domain] = self.caps[level + 1][runs[domain] : runs[domain + 1]].max()


@lru_cache(maxsize=64)
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


def roll_up(
    topology: Topology, per_row: Int64, quanta: Mapping[int, int], memo: dict[object, Any] | None = None
) -> Tree:
    """Workers per domain of every level.

    Args:
        topology: the wiring.
        per_row: int64 (N,) workers per node of the snapshot, 0 outside the pool.
        quanta: level -> a domain of it takes a multiple of this many workers (slices); level L is the node. Of any
            two, one divides the other.
        memo: of a tree of the same wiring and quanta; None = a new one.
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
    return Tree(topology, tuple(reversed(result)), runs, units, quanta, {}, {}, {} if memo is None else memo)


@lru_cache(maxsize=64)
def _overlap(topologies: tuple[Topology, ...]) -> bool:
    """Whether any node is in several of these groups."""
    rows = np.concatenate([topology.node_rows for topology in topologies])
    return bool(np.unique(rows).size < rows.size)


def disjoint(trees: list[Tree]) -> list[Tree]:
    """The trees with each node counted once: where several groups hold it, in the first of them."""
    if len(trees) < 2 or not _overlap(tuple(tree.topology for tree in trees)):
        return trees
    seen = np.zeros(max(int(tree.topology.node_rows.max(initial=0)) for tree in trees) + 1, dtype=np.bool_)
    result: list[Tree] = []
    for tree in trees:
        rows = tree.topology.node_rows
        per_row = np.zeros(seen.size, dtype=np.int64)
        per_row[rows] = np.where(seen[rows], 0, tree.caps[tree.depth])
        seen[rows] = True
        result.append(roll_up(tree.topology, per_row, tree.quanta))
    return result


def outside(rows: Int32, topologies: tuple[Topology, ...], nodes: int) -> Int32:
    """Those of `rows` that are in no domain of any group."""
    inside = np.zeros(nodes, dtype=np.bool_)
    for topology in topologies:
        inside[topology.node_rows] = True
    return rows[~inside[rows]]


def _whole(caps: Int64, quantum: int) -> Int64:
    return caps - caps % quantum if quantum > 1 else caps
