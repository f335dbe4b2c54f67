"""Gangs over several pools against an exhaustive search on small random clusters: feasible, and as fast.

The oracle tries every run of stages on every pool, every way to put its workers on the pool's nodes and every order of
those nodes that keeps domains together; it shares the formulas of a step with `place`, and nothing else.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from tests.unit.scheduling.clusters import a_random_mix, plain_rooms

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import PoolInfo, Snapshot
from supernode.steptime.collectives import Links, levels_for, links_of, transfer_seconds
from supernode.steptime.mixed import MixedStepTime, Stage, predict_mixed
from supernode.steptime.model import Parallelism
from supernode.steptime.predict import predict
from supernode.steptime.wiring import Wiring, wiring_of

SEEDS = 150
SHARE = 0.99
WORST = 1.1

# (pool, ((row, workers), ...) in rank order), first to last along the pipeline
Runs = tuple[tuple[PoolInfo, tuple[tuple[int, int], ...]], ...]


def path_of(snapshot: Snapshot, row: int) -> tuple[int, ...] | None:
    """Domains of a node, outermost first, then the node; None outside the group."""
    (topology,) = snapshot.topologies
    rows = topology.node_rows.tolist()
    return (*topology.node_domain[rows.index(row)].tolist(), row) if row in rows else None


def same_domain(snapshot: Snapshot, rows: list[int], level: str) -> bool:
    """Whether all rows are in one domain of a level."""
    if level == "node":
        return len(set(rows)) == 1
    index = [one.name for one in snapshot.topologies[0].levels].index(level)
    paths = [path_of(snapshot, row) for row in rows]
    return None not in paths and len({path[: index + 1] for path in paths if path}) == 1


def fills(room: dict[int, int], workers: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Every way to put workers on nodes."""
    rows = sorted(room)
    for counts in itertools.product(*(range(min(room[row], workers) + 1) for row in rows)):
        if sum(counts) == workers:
            yield tuple((row, count) for row, count in zip(rows, counts, strict=True) if count)


def orders(snapshot: Snapshot, takes: tuple[tuple[int, int], ...]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Orders of the nodes in which every domain's nodes are neighbours."""
    for order in itertools.permutations(takes):
        paths = [path_of(snapshot, row) for row, _ in order]
        if None not in paths:
            depth = len(snapshot.topologies[0].levels)
            kept = [[path[:level] for path in paths if path] for level in range(1, depth + 1)]
            if any(len(list(itertools.groupby(seen))) != len(set(seen)) for seen in kept):
                continue
        yield order


def domains_of(
    snapshot: Snapshot, pools: list[PoolInfo], rows: list[int]
) -> tuple[list[tuple[str, float, float]], object]:
    """Figures of the levels without the node, and domains per level of these rows, the node last."""
    paths = [path_of(snapshot, row) for row in rows]
    if None in paths:
        rate = min(pool.chip.scale_out_bandwidth or 0.0 for pool in pools)
        return [("network", rate, 10e-6)], np.asarray([[0] * len(rows), rows])
    return [(one.name, one.bandwidth, one.latency) for one in snapshot.topologies[0].levels], np.asarray(paths).T


def figures_of(pool: PoolInfo, levels: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    return [*levels, (pool.link.name, pool.link.bandwidth, pool.link.latency)]


def step_of(snapshot: Snapshot, demand: GangDemand, runs: Runs) -> MixedStepTime | None:
    """The step of a mix; None if its memory does not hold the layers."""
    cut = demand.parallelism
    assert cut is not None
    assert demand.model is not None
    ranks = [row for _, run in runs for row, take in run for _ in range(take * demand.devices)]
    pool_of = {row: pool for pool, run in runs for row, _ in run}
    each = cut.tensor * cut.context * cut.data
    parts = [ranks[stage * each : (stage + 1) * each] for stage in range(cut.pipeline)]
    stages = []
    for part in parts:
        levels, domains = domains_of(snapshot, [pool_of[part[0]]], part)
        wired = levels_for(pool_of[part[0]].chip, figures_of(pool_of[part[0]], levels))
        alone = Parallelism(tensor=cut.tensor, data=cut.data, sequence_parallel=cut.sequence_parallel)
        stages.append(Stage(pool_of[part[0]].chip, wiring_of(wired, domains, alone)))
    nbytes = cut.micro_batch_size * demand.model.sequence_length * demand.model.hidden_size * 2 / cut.tensor
    slowest: tuple[float, Links] | None = None
    neighbours = list(itertools.pairwise(parts)) + ([(parts[-1], parts[0])] if cut.interleave > 1 else [])
    for one, two in neighbours:
        widest = 0.0
        for pool in (pool_of[one[0]], pool_of[two[0]]):
            levels, domains = domains_of(snapshot, [pool_of[one[0]], pool_of[two[0]]], [*one, *two])
            wired = levels_for(pool.chip, figures_of(pool, levels))
            for rank in range(each):
                links = links_of(wired, np.asarray(domains)[:, [rank, each + rank]])
                widest = transfer_seconds("send_recv", nbytes, links)
                if slowest is None or widest > slowest[0]:
                    slowest = (widest, links)
    assert slowest is not None
    result = predict_mixed(stages, demand.model, cut, slowest[1])
    return result if isinstance(result, MixedStepTime) else None


def allowed(snapshot: Snapshot, demand: GangDemand, runs: Runs) -> bool:
    """Whether required levels and slices hold."""
    rows = [row for _, run in runs for row, take in run for _ in range(take)]
    if any(c.required and not same_domain(snapshot, rows, c.level) for c in demand.constraints):
        return False
    return all(
        same_domain(snapshot, rows[first : first + item.size], item.level)
        for item in demand.slices
        for first in range(0, len(rows), item.size)
    )


def runs_of(snapshot: Snapshot, demand: GangDemand) -> Iterator[Runs]:
    """Every mix that fits."""
    cut = demand.parallelism
    assert cut is not None
    each = cut.tensor * cut.context * cut.data
    size = demand.slices[0].size if demand.slices else 1
    whole = demand.devices * size
    cuts = [stage for stage in range(1, cut.pipeline) if stage * each % whole == 0]
    pools = [pool for name in demand.pools if (pool := snapshot.pool(name)) is not None]
    for count in range(1, len(pools) + 1):
        for chosen in itertools.permutations(pools, count):
            for at in itertools.combinations(cuts, count - 1):
                borders = [0, *at, cut.pipeline]
                workers = [(end - start) * each // demand.devices for start, end in itertools.pairwise(borders)]
                ways = [
                    [
                        order
                        for fill in fills(plain_rooms(snapshot, pool, demand), number)
                        for order in orders(snapshot, fill)
                    ]
                    for pool, number in zip(chosen, workers, strict=True)
                ]
                for combination in itertools.product(*ways):
                    runs = tuple(zip(chosen, combination, strict=True))
                    if allowed(snapshot, demand, runs):
                        yield runs


def plain_of(snapshot: Snapshot, demand: GangDemand) -> Iterator[float]:
    """Every step time of the gang in one pool, with ranks in the usual order and equal stages."""
    assert demand.model is not None
    assert demand.parallelism is not None
    for name in demand.pools:
        pool = snapshot.pool(name)
        if pool is None:
            continue
        for fill in fills(plain_rooms(snapshot, pool, demand), demand.workers):
            for order in orders(snapshot, fill):
                if allowed(snapshot, demand, ((pool, order),)):
                    rows = [row for row, take in order for _ in range(take)]
                    levels, domains = domains_of(snapshot, [pool], rows)
                    wired = levels_for(pool.chip, figures_of(pool, levels))
                    wiring: Wiring = wiring_of(wired, domains, demand.parallelism, demand.devices)
                    step = predict(pool.chip, demand.model, demand.parallelism, wiring)
                    if step.fits:
                        yield step.seconds


def as_runs(snapshot: Snapshot, result: Placement) -> Runs:
    """A placement by stages as the oracle writes it."""
    runs: list[tuple[PoolInfo, tuple[tuple[int, int], ...]]] = []
    counts = np.bincount(result.node_of).tolist()
    pools = result.node_pools or (result.pool,) * len(result.nodes)
    nodes = list(zip(pools, result.nodes, counts, strict=True))
    for name, members in itertools.groupby(nodes, key=lambda node: node[0]):
        pool = snapshot.pool(name)
        assert pool is not None
        runs.append((pool, tuple((snapshot.node_names.index(node), count) for _, node, count in members)))
    return tuple(runs)


def test_mixes_are_as_good_as_an_exhaustive_search() -> None:
    ratios: list[float] = []
    several = 0
    for seed in range(SEEDS):
        state, demand = a_random_mix(random.Random(seed))
        snapshot = state.snapshot()
        found = [step.seconds for runs in runs_of(snapshot, demand) if (step := step_of(snapshot, demand, runs))]
        found += plain_of(snapshot, demand)
        result = place(snapshot, demand)
        if not found:
            assert not isinstance(result, Placement), f"seed {seed}: placed what can't be"
            continue
        assert isinstance(result, Placement), f"seed {seed}: {result}, but {min(found)} s exists"
        assert result.predicted is not None
        if result.stages:
            runs = as_runs(snapshot, result)
            assert allowed(snapshot, demand, runs), f"seed {seed}"
            mine = step_of(snapshot, demand, runs)
            assert mine is not None, f"seed {seed}"
            assert result.predicted.seconds == pytest.approx(mine.seconds), f"seed {seed}"
            several += len(runs) > 1
        ratios.append(result.predicted.seconds / min(found))
        assert ratios[-1] <= WORST, f"seed {seed}: {result.predicted.seconds} s, the best is {min(found)} s"
        assert ratios[-1] >= 1 - 1e-9, f"seed {seed}: faster than the best"
    assert several > SEEDS / 10
    assert sum(ratio <= 1.02 for ratio in ratios) / len(ratios) >= SHARE, sorted(ratios)[-20:]
