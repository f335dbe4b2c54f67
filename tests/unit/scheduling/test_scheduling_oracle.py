"""Against an exhaustive search on small random clusters: feasible whenever a placement exists, and as fast.

The oracle tries every way to put the workers on the nodes and every order of those nodes that keeps domains together;
it shares the step-time model with `place`, and nothing else.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from tests.unit.scheduling.clusters import a_random_gang, a_random_state

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import Snapshot
from supernode.steptime.collectives import collective_seconds, levels_for
from supernode.steptime.model import Parallelism
from supernode.steptime.predict import predict
from supernode.steptime.wiring import wiring_of

SEEDS = 1000
# Within 2 % of the best in this share of the cases, and never worse than this ratio.
SHARE = 0.99
WORST = 1.1


def rooms(snapshot: Snapshot, demand: GangDemand) -> dict[int, int]:
    """Workers that fit on each node, in plain Python."""
    (pool,) = snapshot.pools
    result = {}
    for row in pool.rows.tolist():
        free = bin(int(snapshot.device_free[row])).count("1") // demand.devices
        for name, amount in demand.request.items():
            if amount:
                free = min(free, max(int(snapshot.free[row, snapshot.resources.index(name)]), 0) // amount)
        if snapshot.usable[row] and free:
            result[row] = free
    return result


def path_of(snapshot: Snapshot, row: int) -> tuple[int, ...] | None:
    """Domains of a node, outermost first, then the node; None outside the group."""
    (topology,) = snapshot.topologies
    rows = topology.node_rows.tolist()
    if row not in rows:
        return None
    return (*topology.node_domain[rows.index(row)].tolist(), row)


def level_of(snapshot: Snapshot, name: str) -> int:
    (topology,) = snapshot.topologies
    return len(topology.levels) if name == "node" else [level.name for level in topology.levels].index(name)


def allowed(snapshot: Snapshot, demand: GangDemand, takes: dict[int, int]) -> bool:
    """Whether required levels and slices hold."""
    paths = {row: path_of(snapshot, row) for row in takes}
    for constraint in demand.constraints:
        if constraint.required:
            level = level_of(snapshot, constraint.level)
            if constraint.level == "node":
                if len(takes) > 1:
                    return False
            elif len({path[level] if path else None for path in paths.values()}) != 1 or None in paths.values():
                return False
    for item in demand.slices:
        level = level_of(snapshot, item.level)
        sums: dict[object, int] = {}
        for row, take in takes.items():
            path = paths[row]
            if path is None and item.level != "node":
                return False
            domain = path[level] if path is not None else row
            sums[domain] = sums.get(domain, 0) + take
        if any(total % item.size for total in sums.values()):
            return False
    return True


def every_way(room: dict[int, int], workers: int) -> Iterator[dict[int, int]]:
    """All takes per node that sum to `workers`."""
    rows = sorted(room)
    for counts in itertools.product(*(range(min(room[row], workers) + 1) for row in rows)):
        if sum(counts) == workers:
            yield {row: count for row, count in zip(rows, counts, strict=True) if count}


def orders(snapshot: Snapshot, takes: dict[int, int]) -> Iterator[tuple[int, ...]]:
    """Orders of the nodes in which every domain's nodes are neighbours."""
    paths = {row: path_of(snapshot, row) for row in takes}
    for order in itertools.permutations(sorted(takes)):
        if None in paths.values():
            yield order
            continue
        good = True
        for level in range(len(snapshot.topologies[0].levels)):
            seen = [paths[row][: level + 1] for row in order]  # type: ignore[index]
            good &= len(list(itertools.groupby(seen))) == len(set(seen))
        if good:
            yield order


def seconds(snapshot: Snapshot, demand: GangDemand, order: tuple[int, ...], takes: dict[int, int]) -> float:
    """Step time, or that of a 1 GiB all-reduce without a model."""
    (pool,) = snapshot.pools
    (topology,) = snapshot.topologies
    paths = [path_of(snapshot, row) for row in order]
    node = (pool.link.name, pool.link.bandwidth, pool.link.latency)
    if None in paths:
        figures = [("network", pool.chip.scale_out_bandwidth or 0.0, 10e-6), node]
        domains = np.asarray([[0] * len(order), list(order)])
    else:
        figures = [*((level.name, level.bandwidth, level.latency) for level in topology.levels), node]
        domains = np.asarray(paths).T
    levels = levels_for(pool.chip, figures)
    workers = np.repeat(domains, [takes[row] for row in order], axis=1)
    cut = demand.parallelism or Parallelism(data=workers.shape[1] * demand.devices)
    wiring = wiring_of(levels, workers, cut, demand.devices)
    if demand.model is None:
        return collective_seconds("all_reduce", 2.0**30, wiring.data)
    return predict(pool.chip, demand.model, cut, wiring).seconds


def best(snapshot: Snapshot, demand: GangDemand) -> tuple[int, float] | None:
    """(workers, seconds) of the best placement; None if there is none."""
    room = rooms(snapshot, demand)
    step = demand.slices[0].size if demand.slices else 1
    for workers in range(demand.workers, demand.fewest - 1, -step):
        ways = [takes for takes in every_way(room, workers) if allowed(snapshot, demand, takes)]
        if ways:
            least = min(seconds(snapshot, demand, order, takes) for takes in ways for order in orders(snapshot, takes))
            return workers, least
    return None


def test_as_good_as_an_exhaustive_search() -> None:
    ratios: list[float] = []
    placed = 0
    for seed in range(SEEDS):
        dice = random.Random(seed)
        snapshot = a_random_state(dice).snapshot()
        demand = a_random_gang(dice, snapshot.topologies[0].levels)
        wanted = best(snapshot, demand)
        result = place(snapshot, demand)
        if wanted is None:
            assert not isinstance(result, Placement), f"seed {seed}: placed what can't be"
            continue
        assert isinstance(result, Placement), f"seed {seed}: {result}, but {wanted} exists"
        placed += 1
        assert len(result.node_of) == wanted[0], f"seed {seed}"
        order = tuple(snapshot.node_names.index(name) for name in result.nodes)
        takes = dict(zip(order, np.bincount(result.node_of).tolist(), strict=True))
        assert allowed(snapshot, demand, takes), f"seed {seed}: {takes}"
        mine = seconds(snapshot, demand, order, takes)
        if result.predicted is not None:
            assert result.predicted.seconds == pytest.approx(mine), f"seed {seed}"
        ratios.append(mine / wanted[1] if wanted[1] else 1.0)  # a single device sends nothing
        assert ratios[-1] <= WORST, f"seed {seed}: {mine} s, the best is {wanted[1]} s"
    assert placed > SEEDS / 4
    assert sum(ratio <= 1.02 for ratio in ratios) / len(ratios) >= SHARE, sorted(ratios)[-20:]
