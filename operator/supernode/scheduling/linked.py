"""Nodes whose free devices are linked as a worker needs them, where a chip's links join only some cards of a node.

Flows in: ways to place a gang in one pool. Flows out: others, if they are as fast and tear no worker's devices apart.
Not here: which devices of a node a worker gets (`devices`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.devices import link_group, untorn_workers
from supernode.scheduling.fit import roll_up
from supernode.scheduling.score import EQUAL, Option
from supernode.scheduling.search import Search
from supernode.scheduling.snapshot import PoolInfo
from supernode.scheduling.work import Room, Work


def untorn(work: Work, room: Room, demand: GangDemand, options: list[Option], workers: int) -> list[Option]:
    """The ways that leave every worker's devices inside one link group (pair, quad) of its node, if they are as fast.

    Args:
        work: the cluster.
        room: of the gang in one pool.
        demand: the gang.
        options: ways that the search found, whatever the links; returned where nothing is better.
        workers: that are placed.
    """
    linked = link_group(room.pool)
    if not 1 < demand.devices <= linked or linked >= _widest(work, room.pool):
        return options
    per_row = room.per_row.copy()
    rows = np.flatnonzero(per_row)
    per_row[rows] = np.minimum(per_row[rows], untorn_workers(work.live.device_free[rows], demand.devices, linked))
    trees = [(roll_up(tree.topology, per_row, tree.quanta), anchor) for tree, anchor in room.trees]
    whole = replace(room, per_row=per_row, trees=[pair for pair in trees if pair[0].caps[0].any()], memo={})
    if whole.most(demand) < workers:
        return options
    inside = [tree for tree, _ in whole.trees]
    found = Search(room.pool, options[0].order, demand, workers, per_row, inside, room.loose).options()
    fastest = min(option.seconds for option in options)
    return found if min(option.seconds for option in found) <= fastest * (1 + EQUAL) else options


def _widest(work: Work, pool: PoolInfo) -> int:
    """Most devices that a node of the pool has."""
    count = work.facts.get(("widest", pool.name))
    if count is None:
        count = int(np.bitwise_count(work.live.device_all[pool.rows]).max(initial=0))
        work.facts["widest", pool.name] = count
    return int(count)
