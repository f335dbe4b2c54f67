"""New nodes for the workers of lost ones; the ranks of all others stay where they are.

Flows in: a snapshot in which the gang still holds its place, and the names of its lost nodes (several at once). Flows
out: the whole gang's new `Placement`, or None if there is no room where the workers may go. Nothing is changed.

A lost node's workers stay together on one new node where one has the room, as near as can be to where they were: in
the same domain of the innermost level possible, never outside that of the required levels and of the slices.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from supernode.errors import InputError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import link_group, pick_devices
from supernode.scheduling.placement import Placement, WorkerPlacement
from supernode.scheduling.score import innermost
from supernode.scheduling.search import anchor_level
from supernode.scheduling.snapshot import Int64, Snapshot
from supernode.scheduling.topology import NODE_LEVEL
from supernode.scheduling.work import Work, positions_of


def plan_replacement(
    snapshot: Snapshot, demand: GangDemand, placement: Placement, lost: Collection[str]
) -> Placement | None:
    """The gang's place with other nodes instead of the lost ones.

    Args:
        snapshot: the gang holds `placement` in it.
        demand: what each worker asks for; its node masks belong to the snapshot.
        placement: where the gang is.
        lost: names of nodes; those that the gang is not on do not matter.

    Raises:
        InputError: the gang's pool is gone, or a node mask that does not belong to this snapshot.
    """
    gone = set(lost)
    pool = snapshot.pool(placement.pool)
    if pool is None:
        raise InputError(
            f"pool {placement.pool} is gone", field="status.placement.pool", obj=f"TrainingJob {demand.key}"
        )
    work = Work(snapshot)
    room = work.room(pool, demand, closed=False).per_row.copy()
    names = snapshot.node_names
    room[[row for row, name in enumerate(names) if name in gone]] = 0
    ranks: dict[str, list[int]] = {}
    for rank, node in enumerate(placement.node_of.tolist()):
        if placement.nodes[node] in gone:
            ranks.setdefault(placement.nodes[node], []).append(rank)
    workers = list(placement.workers)
    taken = np.zeros(len(names), dtype=np.int64)
    free = snapshot.device_free.copy()
    # The largest losses first: they find a node that takes them whole least often.
    for node in sorted(ranks, key=lambda node: (-len(ranks[node]), node)):
        left = list(ranks[node])
        home = node if node in names else _mate(demand, placement, gone & set(placement.nodes), ranks[node])
        for row in _nearest(snapshot, demand, home, room - taken, len(left)):
            fits = min(int(room[row] - taken[row]), len(left))
            if not fits:
                continue
            picked = pick_devices(
                free[row : row + 1], np.asarray([fits], dtype=np.int64), demand.devices, link_group(pool)
            )
            free[row] &= ~np.bitwise_or.reduce(np.uint64(1) << picked.astype(np.uint64), axis=None)
            taken[row] += fits
            for rank, devices in zip(left[:fits], picked.tolist(), strict=True):
                workers[rank] = WorkerPlacement(rank, names[row], placement.pool, tuple(devices))
            left = left[fits:]
            if not left:
                break
        if left:
            return None
    level, domain = _common(snapshot, placement.group, {worker.node for worker in workers})
    return Placement.of(demand.key, workers, group=placement.group, level=level, domain=domain)


def _mate(demand: GangDemand, placement: Placement, gone: Collection[str], ranks: list[int]) -> str:
    """A healthy node that tells where workers of a node belong which has left the cluster; empty if there is none:
    one of the same slice, without slices that of the nearest rank.
    """
    size = demand.slices[-1].size if demand.slices else len(placement.node_of)
    best: tuple[int, str] | None = None
    for rank, node in enumerate(placement.node_of.tolist()):
        name = placement.nodes[node]
        if name not in gone and rank // size == ranks[0] // size:
            distance = abs(rank - ranks[0])
            if best is None or distance < best[0]:
                best = (distance, name)
    return "" if best is None else best[1]


def _common(snapshot: Snapshot, group: str, nodes: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Innermost level of the group of which one domain holds all these nodes, and its path."""
    rows = [row for row, name in enumerate(snapshot.node_names) if name in nodes]
    for topology in snapshot.topologies:
        positions = positions_of(topology, len(snapshot.node_names))[rows]
        if (group and topology.name != group) or (positions < 0).any():
            continue
        level = innermost(topology.node_domain[positions].T)
        if level >= 0:
            path = topology.path(level, int(topology.node_domain[positions[0], level]))
            if len(rows) == 1:
                return NODE_LEVEL, (*path, snapshot.node_names[rows[0]])
            return topology.levels[level].name, path
    return "", ()


def _nearest(snapshot: Snapshot, demand: GangDemand, node: str, room: Int64, workers: int) -> list[int]:
    """Rows with room where workers that were on (or belong near) a node may go: one that takes all before several,
    near before far, those that are filled best first, then by name.
    """
    rows = np.flatnonzero(room > 0)
    home_row = snapshot.node_names.index(node) if node in snapshot.node_names else -1
    near = np.zeros(rows.size, dtype=np.int64)
    allowed = np.ones(rows.size, dtype=np.bool_)
    bound = any(c.required for c in demand.constraints) or bool(demand.slices)
    found = False
    for topology in snapshot.topologies:
        anchor = anchor_level(topology, demand)
        where = positions_of(topology, len(snapshot.node_names))
        home = int(where[home_row]) if home_row >= 0 else -1
        if anchor is None or home < 0:
            continue
        found = True
        inner = max([anchor, *(topology.level_index(item.level) for item in demand.slices)])
        depth = len(topology.levels)
        positions = where[rows]
        inside = positions >= 0
        for level in range(depth):
            column = topology.node_domain[:, level]
            shared = inside & (column[np.maximum(positions, 0)] == column[home])
            near += shared
            if level <= inner:
                allowed &= shared
        if inner == depth:
            allowed[:] = False  # one node is required: another one would have to take the whole gang
    if bound and not found:
        return []
    whole = room[rows] >= workers
    order = np.lexsort((rows, np.where(whole, room[rows], -room[rows]), -near, ~whole))
    return [int(row) for row in rows[order][allowed[order]]]
