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
from supernode.scheduling.fit import NodeFit, node_fit
from supernode.scheduling.placement import Placement, RunnerUp
from supernode.scheduling.score import Option, innermost, rank_options
from supernode.scheduling.search import Search, anchor_level, room
from supernode.scheduling.snapshot import Int64, PoolInfo, Snapshot, UInt64
from supernode.scheduling.topology import NODE_LEVEL
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
    per_row = _by_row(snapshot, pool, fit.now)
    trees, loose, most = room(snapshot, pool, demand, per_row)
    workers = min(demand.workers, most, allowed)
    if demand.slices:
        workers -= workers % demand.slices[0].size
    if workers < demand.fewest or workers < 1:
        return _refusal(snapshot, pool, demand, fit, most)
    return Search(pool, order, demand, workers, per_row, trees, loose).options()


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
