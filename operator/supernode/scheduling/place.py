"""Place one gang: the best of all the places where it fits, or why there is none.

Flows in: a `Snapshot` and a `GangDemand`. Flows out: a `Placement` or an `Unplaceable`; nothing is changed. The same
input gives the same output. Not here: the order of several gangs (`cycle`), and words (`explain`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from supernode.errors import ChipError, ModelError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.fit import NodeFit, Tree, node_fit, outside, roll_up
from supernode.scheduling.placement import Placement, RunnerUp
from supernode.scheduling.score import Option, innermost, loose_option, rank_options, tree_option, tree_options
from supernode.scheduling.snapshot import Int64, PoolInfo, Snapshot, UInt64
from supernode.scheduling.spread import allot, spread_below
from supernode.scheduling.topology import NODE_LEVEL, Int32, Topology
from supernode.scheduling.unplaceable import PoolRefusal, Reason, Unplaceable
from supernode.steptime.memory import memory_bytes
from supernode.steptime.model import Parallelism, check

#: Runner-up places that a placement names.
RUNNERS_UP: Final = 5

# Nearest to starting first: the code of a gang is that of its nearest pool.
_NEAREST: Final = (
    Reason.WAITING_FOR_QUOTA,
    Reason.TOPOLOGY_PLACEMENT_FAILED,
    Reason.INSUFFICIENT_NODE_RESOURCES,
    Reason.INSUFFICIENT_ACCELERATORS,
    Reason.EXCEEDS_MAX_QUOTA,
    Reason.OUT_OF_DEVICE_MEMORY,
    Reason.MISCONFIGURED,
    Reason.NO_MATCHING_POOL,
)
_WAITING: Final = frozenset(_NEAREST[:4])


def place(snapshot: Snapshot, demand: GangDemand) -> Placement | Unplaceable:
    """Where the gang goes, or why it can't go anywhere now.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """
    options: list[Option] = []
    refusals: list[PoolRefusal] = []
    for order, name in enumerate(demand.pools):
        found = _in_pool(snapshot, name, order, demand)
        if isinstance(found, PoolRefusal):
            refusals.append(found)
        else:
            options.extend(found)
    if not options:
        code = min((refusal.code for refusal in refusals), key=_NEAREST.index)
        possible = any(r.code in _WAITING and r.fits_empty >= demand.fewest for r in refusals)
        return Unplaceable(code, tuple(refusals), possible)
    # With several sizes on offer (minCount), more workers win; a pool that has room for all is not held back.
    most = max(int(option.takes.sum()) for option in options)
    ranked = rank_options([o for o in options if int(o.takes.sum()) == most], demand.model is not None)
    return _placement(snapshot, demand, ranked)


def anchor_level(topology: Topology, demand: GangDemand) -> int | None:
    """Innermost required level of a demand in this group, -1 if it requires none; None = the group can't serve it."""
    anchor = -1
    for constraint in demand.constraints:
        if constraint.required:
            index = topology.level_index(constraint.level)
            if index < 0:
                return None
            anchor = max(anchor, index)
    if any(topology.level_index(item.level) < 0 for item in demand.slices):
        return None
    return anchor


def room(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand, per_row: Int64) -> tuple[list[Tree], Int32, int]:
    """Where workers fit together: the trees that can serve the demand, nodes outside all groups, and the most workers
    that one place takes (one domain of the required level, or the whole pool).

    Args:
        snapshot: the cluster.
        pool: one pool of it.
        demand: the gang.
        per_row: int64 (N,) workers per node of the snapshot, 0 outside the pool.
    """
    trees: list[Tree] = []
    anchored = any(c.required and c.level != NODE_LEVEL for c in demand.constraints)
    one_node = any(c.required and c.level == NODE_LEVEL for c in demand.constraints)
    together = 0
    most = 0
    for topology in snapshot.topologies:
        anchor = anchor_level(topology, demand)
        if anchor is None or not topology.node_rows.size:
            continue
        quanta = {topology.level_index(item.level): item.size for item in demand.slices}
        tree = roll_up(topology, per_row, quanta)
        if not tree.caps[0].any():
            continue
        trees.append(tree)
        together += int(tree.caps[0].sum())
        if anchor >= 0:
            most = max(most, int(tree.caps[anchor].max()))
    bound = anchored or any(item.level != NODE_LEVEL for item in demand.slices)
    loose = pool.rows[:0] if bound else outside(pool.rows, snapshot.topologies, len(snapshot.node_names))
    if loose.size:
        caps = _loose_caps(per_row, loose, demand)
        together += int(caps.sum())
        if one_node:
            most = max(most, int(caps.max()))
    return trees, loose, most if anchored or one_node else together


def _loose_caps(per_row: Int64, loose: Int32, demand: GangDemand) -> Int64:
    """Workers per node outside all groups; only slices within a node are possible there."""
    caps = per_row[loose]
    for item in demand.slices:
        caps = caps - caps % item.size
    return caps


def _in_pool(snapshot: Snapshot, name: str, order: int, demand: GangDemand) -> list[Option] | PoolRefusal:
    """Ways to place the gang in one pool, or why there is none."""
    pool = snapshot.pool(name)
    if pool is None or not pool.rows.size:
        return PoolRefusal(name, Reason.NO_MATCHING_POOL, detail="" if pool is None else "no nodes")
    barrier, allowed = _quota(snapshot, pool, demand)
    if barrier is None:
        barrier = _model(pool, demand)
    if barrier is not None:
        return barrier
    fit = node_fit(snapshot, pool, demand)
    trees, loose, most = room(snapshot, pool, demand, _by_row(snapshot, pool, fit.now))
    workers = min(demand.workers, most, allowed)
    if demand.slices:
        workers -= workers % demand.slices[0].size
    if workers < demand.fewest or workers < 1:
        return _refusal(snapshot, pool, demand, fit, most)
    per_row = _by_row(snapshot, pool, fit.now)
    options: list[Option] = []
    for tree in trees:
        anchor = anchor_level(tree.topology, demand)
        if anchor is None:
            continue
        for quantum in _quanta(demand, workers):
            aligned = tree if quantum == 1 else _align(tree, per_row, demand, quantum)
            if aligned is not None:
                options += tree_options(aligned, pool, order, demand, workers, anchor, quantum)
    if any(c.required for c in demand.constraints):
        options += _single_nodes(pool, order, demand, per_row, loose, workers)
    elif not options:
        options.append(_anywhere(pool, order, demand, per_row, trees, loose, workers))
    return options


def _by_row(snapshot: Snapshot, pool: PoolInfo, values: Int64) -> Int64:
    """int64 (N,): the values at the pool's rows, 0 elsewhere."""
    result = np.zeros(len(snapshot.node_names), dtype=np.int64)
    result[pool.rows] = values
    return result


def _quota(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand) -> tuple[PoolRefusal | None, int]:
    """A refusal, or how many workers the namespace's quota still allows."""
    quota = pool.quota_of(demand.namespace)
    if quota is None or quota.limit is None:
        return None, demand.workers
    needed = demand.fewest * demand.devices
    used = snapshot.held(pool.name, demand.namespace)
    total = int(np.bitwise_count(snapshot.device_all[pool.rows]).sum())
    code: Reason | None = None
    if needed > quota.limit:
        code = Reason.EXCEEDS_MAX_QUOTA
    elif used + needed > quota.limit:
        code = Reason.WAITING_FOR_QUOTA
    if code is None:
        return None, (quota.limit - used) // demand.devices
    refusal = PoolRefusal(
        pool=pool.name,
        code=code,
        nodes=int(pool.rows.size),
        devices=total,
        free=int(np.bitwise_count(snapshot.device_free[pool.rows]).sum()),
        fits_empty=min(quota.limit, total) // demand.devices,
        limit=quota.limit,
        used=used,
    )
    return refusal, 0


def _model(pool: PoolInfo, demand: GangDemand) -> PoolRefusal | None:
    """A refusal if the model can't be cut as asked, or needs more memory than the chip has."""
    if demand.model is None:
        return None
    cut = demand.parallelism or Parallelism(data=demand.workers * demand.devices)
    try:
        check(demand.model, cut)
    except ModelError as exc:
        return PoolRefusal(pool.name, Reason.MISCONFIGURED, nodes=int(pool.rows.size), detail=str(exc))
    limit = pool.chip.memory_bytes
    if limit is None:
        return None
    try:
        needed = memory_bytes(pool.chip, demand.model, cut)
    except ChipError:
        return None  # a figure is missing: nothing is known that would forbid it
    if needed <= limit:
        return None
    return PoolRefusal(pool.name, Reason.OUT_OF_DEVICE_MEMORY, nodes=int(pool.rows.size), limit=limit, used=needed)


def _refusal(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand, fit: NodeFit, most: int) -> PoolRefusal:
    """Why the gang does not fit: accelerators, other resources of the nodes, or the wiring."""
    open_rows = pool.rows[fit.open]
    _, _, empty = room(snapshot, pool, demand, _by_row(snapshot, pool, fit.empty))
    required = [c.level for c in demand.constraints if c.required]
    level = required[-1] if required else ""
    served = any(anchor_level(t, demand) is not None for t in snapshot.topologies)
    detail = ""
    resource = ""
    if int(fit.by_devices.sum()) < demand.fewest:
        code = Reason.INSUFFICIENT_ACCELERATORS
    elif int(fit.now.sum()) < demand.fewest:
        code = Reason.INSUFFICIENT_NODE_RESOURCES
        resource = fit.short
    else:
        code = Reason.TOPOLOGY_PLACEMENT_FAILED
        wanted = [*required, *(item.level for item in demand.slices)]
        if not served and any(name != NODE_LEVEL for name in wanted):
            detail = f"no group has the level {' and '.join(dict.fromkeys(n for n in wanted if n != NODE_LEVEL))}"
    return PoolRefusal(
        pool=pool.name,
        code=code,
        nodes=int(open_rows.size),
        excluded=int(pool.rows.size - open_rows.size),
        devices=int(np.bitwise_count(snapshot.device_all[open_rows]).sum()),
        free=int(np.bitwise_count(snapshot.device_free[open_rows]).sum()),
        fits=most,
        fits_empty=empty,
        level=level,
        resource=resource,
        detail=detail,
    )


def _quanta(demand: GangDemand, workers: int) -> list[int]:
    """Numbers of neighbouring workers that it may pay to keep together: any, a tensor group, a whole pipeline."""
    quanta = [1]
    if demand.parallelism is not None:
        group = demand.parallelism.tensor * demand.parallelism.context
        for ranks in (group, group * demand.parallelism.pipeline):
            size, rest = divmod(ranks, demand.devices)
            if not rest and 1 < size < workers and not workers % size and size not in quanta:
                quanta.append(size)
    return quanta


def _align(tree: Tree, per_row: Int64, demand: GangDemand, quantum: int) -> Tree | None:
    """The tree with room counted in whole groups of `quantum` workers, on the innermost level that can hold one."""
    topology = tree.topology
    quanta = {topology.level_index(item.level): item.size for item in demand.slices}
    for level in range(tree.depth, -1, -1):
        if tree.caps[level].max() >= quantum:
            size = quanta.get(level, 1)
            if size % quantum and quantum % size:
                return None
            return roll_up(topology, per_row, {**quanta, level: max(size, quantum)})
    return None


def _single_nodes(
    pool: PoolInfo, order: int, demand: GangDemand, per_row: Int64, loose: Int32, workers: int
) -> list[Option]:
    """Nodes outside all groups that hold the whole gang; only the level `node` can be required of them."""
    if any(c.required and c.level != NODE_LEVEL for c in demand.constraints) or not loose.size:
        return []
    caps = _loose_caps(per_row, loose, demand)
    fitting = np.flatnonzero(caps >= workers)
    if not fitting.size:
        return []
    row = int(loose[fitting[np.lexsort((fitting, caps[fitting]))[0]]])
    return [loose_option(pool, order, demand, np.asarray([row]), np.asarray([workers]))]


def _anywhere(
    pool: PoolInfo, order: int, demand: GangDemand, per_row: Int64, trees: list[Tree], loose: Int32, workers: int
) -> Option:
    """The gang over several outermost domains, groups or loose nodes of a pool; the room for it is there."""
    parts = [tree.caps[0] for tree in trees]
    caps = np.concatenate([*parts, _loose_caps(per_row, loose, demand)])
    shares = allot(np.zeros(caps.size, dtype=np.int64), caps, np.asarray([workers]), 1, even=False)
    rows: list[Int64] = []
    takes: list[Int64] = []
    begin = 0
    used: list[Tree] = []
    for tree in trees:
        mine = shares[begin : begin + tree.caps[0].size]
        begin += mine.size
        domains = np.flatnonzero(mine)
        if not domains.size:
            continue
        domains = domains[np.lexsort((domains, -mine[domains]))]
        spread = spread_below(tree, 0, domains, mine[domains], 1, even=False)
        if int(mine.sum()) == workers:
            return tree_option(tree, pool, order, demand, spread)
        rows.append(tree.topology.node_rows[spread.nodes].astype(np.int64))
        takes.append(spread.takes)
        used.append(tree)
    mine = shares[begin:]
    chosen = np.flatnonzero(mine)
    rows.append(loose[chosen].astype(np.int64))
    takes.append(mine[chosen])
    return loose_option(pool, order, demand, np.concatenate(rows), np.concatenate(takes))


def _placement(snapshot: Snapshot, demand: GangDemand, ranked: list[Option]) -> Placement:
    """The best option with device indices, and the runners-up."""
    best = ranked[0]
    group, level, path = _domain(snapshot, best)
    others: dict[tuple[str, str, tuple[str, ...]], RunnerUp] = {}
    for option in ranked[1:]:
        _, other_level, other_path = _domain(snapshot, option)
        place_of = (option.pool.name, other_level, other_path)
        if place_of != (best.pool.name, level, path) and place_of not in others:
            seconds = None if option.predicted is None else option.predicted.seconds
            others[place_of] = RunnerUp(*place_of, seconds)
            if len(others) == RUNNERS_UP:
                break
    node_of = np.repeat(np.arange(best.rows.size, dtype=np.int32), best.takes)
    devices = pick_devices(snapshot.device_free[best.rows], best.takes, demand.devices)
    node_of.setflags(write=False)
    devices.setflags(write=False)
    return Placement(
        key=demand.key,
        pool=best.pool.name,
        group=group,
        level=level,
        domain=path,
        nodes=tuple(snapshot.node_names[row] for row in best.rows.tolist()),
        node_of=node_of,
        devices=devices,
        predicted=best.predicted,
        runners_up=tuple(others.values()),
        note=best.note,
    )


def _domain(snapshot: Snapshot, option: Option) -> tuple[str, str, tuple[str, ...]]:
    """Group, level name and path of the innermost domain that holds an option."""
    if option.tree is None:
        if option.rows.size == 1:
            return "", NODE_LEVEL, (snapshot.node_names[int(option.rows[0])],)
        return "", "", ()
    topology, depth = option.tree.topology, option.tree.depth
    domains: Int64 = np.vstack((topology.node_domain[option.positions].T.astype(np.int64), option.positions))
    level = innermost(domains)
    if level < 0:
        return topology.name, "", ()
    if level == depth:
        path = topology.path(depth - 1, int(domains[depth - 1, 0]))
        return topology.name, NODE_LEVEL, (*path, snapshot.node_names[int(option.rows[0])])
    return topology.name, topology.levels[level].name, topology.path(level, int(domains[level, 0]))


def pick_devices(free: UInt64, takes: Int64, devices: int) -> NDArray[np.uint8]:
    """The lowest free devices of each node.

    Args:
        free: uint64 (k,) free devices, at least takes x devices on each.
        takes: int64 (k,) workers on each.
        devices: per worker.

    Returns:
        uint8 (workers, devices) indices, ascending in each row, workers in rank order.
    """
    bits = (free[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1) != 0
    first = np.cumsum(bits, axis=1) <= (takes * devices)[:, None]
    return np.nonzero(bits & first)[1].astype(np.uint8).reshape(-1, devices)
