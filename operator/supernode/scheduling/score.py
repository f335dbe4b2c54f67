"""Which of the fitting places is best: predicted step time, then what it leaves for others, then the name.

Flows in: fitted trees of one pool and a demand. Flows out: `Option` values, and their order. Not here: whether
anything fits at all (`fit`), devices and the final placement (`place`).

Every place is scored as it would really be used: workers are spread over its nodes, the links between them are read
from the tree, and the step is predicted on those links. Equal shapes give equal seconds at the price of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from supernode.errors import ChipError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.fit import Tree
from supernode.scheduling.snapshot import Int64, PoolInfo
from supernode.scheduling.spread import Spread, spread_domain
from supernode.scheduling.topology import NODE_LEVEL, Int32, Level
from supernode.steptime.calibration import ASSUMED_NETWORK_BANDWIDTH, ASSUMED_NETWORK_LATENCY
from supernode.steptime.collectives import LinkLevel, collective_seconds, levels_for
from supernode.steptime.model import Parallelism
from supernode.steptime.predict import StepTime, predict
from supernode.steptime.wiring import runs, wiring_of

#: Domains that are scored on the innermost level where the gang fits, and on the next one outwards; the rest are worse
#: by room in their children, or equal but for the name.
PER_LEVEL: Final = (6, 2)
#: Predicted times that differ by less than this share count as equal.
EQUAL: Final = 1e-3
#: Without a model, places are compared by an all-reduce of this many bytes over the whole gang.
PROXY_BYTES: Final = float(2**30)


@dataclass(frozen=True, eq=False, slots=True)
class Option:
    """One way to place the gang.

    Attributes:
        pool: of its nodes.
        order: position of the pool in the demand.
        tree: the group's tree; None = nodes of several groups, or of none.
        rows: int64 (k,) rows of its nodes in the snapshot, in rank order.
        positions: int64 (k,) the same nodes in the tree's wiring order; rows again without a tree.
        takes: int64 (k,) workers on each.
        seconds: predicted step time, or the stand-in without a prediction.
        predicted: the prediction, if there is one.
        note: why there is none although the model is known.
        missed: preferred levels whose one domain does not hold it.
        path: names that order equals: group, then domains.
    """

    pool: PoolInfo
    order: int
    tree: Tree | None
    rows: Int64
    positions: Int64
    takes: Int64
    seconds: float
    predicted: StepTime | None
    note: str
    missed: int
    path: tuple[str, ...]


def tree_options(tree: Tree, pool: PoolInfo, order: int, demand: GangDemand, workers: int, anchor: int) -> list[Option]:
    """The best ways to place the gang inside one domain of a tree.

    Args:
        tree: with the workers that fit.
        pool: of the tree's nodes.
        order: position of the pool in the demand.
        demand: the gang.
        workers: how many of it.
        anchor: innermost required level, -1 if none: no domain further out will do.
    """
    options: list[Option] = []
    found = 0
    for level in range(tree.depth, max(anchor, 0) - 1, -1):
        caps = tree.caps[level]
        fitting = np.flatnonzero(caps >= workers)
        if not fitting.size:
            continue
        most = PER_LEVEL[found]
        if fitting.size > most:
            fitting = _most_promising(tree, level, fitting, workers, most)
        shapes: dict[bytes, tuple[int, list[Option]]] = {}
        for domain in fitting.tolist():
            start, shape = _shape(tree, level, domain)
            known = shapes.get(shape)
            if known is None:
                scored = _domain_options(tree, pool, order, demand, (level, domain, workers))
                shapes[shape] = (start, scored)
                options += scored
            else:
                options += [_moved(option, tree, start - known[0]) for option in known[1]]
        found += 1
        if found == len(PER_LEVEL):
            break
    return options


def _domain_options(
    tree: Tree, pool: PoolInfo, order: int, demand: GangDemand, where: tuple[int, int, int]
) -> list[Option]:
    """Ways to spread the gang over one domain; `where`: level, domain, workers."""
    filled = spread_domain(tree, *where, even=False)
    options = [tree_option(tree, pool, order, demand, filled)]
    if filled.nodes.size > 1:
        evenly = spread_domain(tree, *where, even=True)
        if not (_same(evenly.nodes, filled.nodes) and _same(evenly.takes, filled.takes)):
            options.append(tree_option(tree, pool, order, demand, evenly))
    return options


def _shape(tree: Tree, level: int, domain: int) -> tuple[int, bytes]:
    """First node of a domain, and its wiring and room as bytes: equal bytes, equal options but for their place."""
    if level == tree.depth:
        return domain, int(tree.caps[level][domain]).to_bytes(8, "little")
    start, end = tree.topology.starts[level][domain : domain + 2].tolist()
    inside = tree.topology.node_domain[start:end, level + 1 :]
    return start, tree.caps[-1][start:end].tobytes() + (inside - inside[:1]).tobytes()


def _moved(option: Option, tree: Tree, shift: int) -> Option:
    """The same option in a domain of the same shape, `shift` nodes further on in wiring order."""
    positions = option.positions + shift
    rows = tree.topology.node_rows[positions].astype(np.int64)
    return replace(option, positions=positions, rows=rows, path=_path(tree, positions)[1])


def _path(tree: Tree, positions: Int64) -> tuple[int, tuple[str, ...]]:
    """Innermost level that holds these nodes (-1: none), and the names that order equal options."""
    topology = tree.topology
    whole = tree.depth if positions.size == 1 else innermost(topology.node_domain[positions].T)
    level = min(whole, tree.depth - 1)
    path = topology.path(level, int(topology.node_domain[positions[0], level])) if level >= 0 else ()
    return whole, (topology.name, *path)


def tree_option(tree: Tree, pool: PoolInfo, order: int, demand: GangDemand, spread: Spread) -> Option:
    """Score one spread inside a tree."""
    topology = tree.topology
    domains = np.empty((tree.depth + 1, spread.nodes.size), dtype=np.int64)
    domains[:-1] = topology.node_domain[spread.nodes].T
    domains[-1] = spread.nodes
    seconds, predicted, note = _seconds(pool, topology.levels, domains, spread.takes, demand)
    whole, path = _path(tree, spread.nodes)
    missed = sum(1 for c in demand.constraints if not c.required and topology.level_index(c.level) > whole)
    return Option(
        pool=pool,
        order=order,
        tree=tree,
        rows=topology.node_rows[spread.nodes].astype(np.int64),
        positions=spread.nodes,
        takes=spread.takes,
        seconds=seconds,
        predicted=predicted,
        note=note,
        missed=missed,
        path=path,
    )


def loose_option(pool: PoolInfo, order: int, demand: GangDemand, rows: Int64, takes: Int64) -> Option:
    """Score nodes of several groups, or of none: all they are known to share is the network between nodes."""
    domains = np.stack((np.zeros_like(rows), rows))
    bandwidth = pool.chip.scale_out_bandwidth or ASSUMED_NETWORK_BANDWIDTH
    network = Level("network", bandwidth, ASSUMED_NETWORK_LATENCY)
    seconds, predicted, note = _seconds(pool, (network,), domains, takes, demand)
    one_node = rows.size == 1
    missed = sum(1 for c in demand.constraints if not c.required and not (one_node and c.level == NODE_LEVEL))
    return Option(pool, order, None, rows, rows, takes, seconds, predicted, note, missed, ())


def innermost(domains: Int64 | Int32) -> int:
    """Innermost level (row of `domains`) on which all columns are in one domain; -1 if there is none."""
    whole = -1
    for level in range(domains.shape[0]):
        if (domains[level] != domains[level, 0]).any():
            break
        whole = level
    return whole


def rank_options(options: Sequence[Option], with_model: bool) -> list[Option]:
    """Best first. The order of keys: no prediction last; (without a model: the user's order of pools); step time;
    preferred levels missed; largest gang lost per level, from the outside in; room left beside it; pool; name.
    """
    best = min(option.seconds for option in options)
    names = {path: float(place) for place, path in enumerate(sorted({option.path for option in options}))}
    columns: list[list[float]] = [
        [names[option.path] for option in options],
        [option.order for option in options],
    ]
    near = [option.seconds <= best * (1 + EQUAL) for option in options]  # only ties need the columns below
    losses = [_losses(option) if close else () for option, close in zip(options, near, strict=True)]
    for level in range(max(map(len, losses)) - 1, -1, -1):
        columns.append([loss[level] if level < len(loss) else 0.0 for loss in losses])
    columns.append([option.missed for option in options])
    columns.append([math.floor(math.log(max(option.seconds, 1e-12) / max(best, 1e-12)) / EQUAL) for option in options])
    if with_model:
        columns.append([0 if option.predicted is not None else 1 + option.order for option in options])
    else:
        columns.append([option.order for option in options])
    return [options[index] for index in np.lexsort(columns).tolist()]


def _losses(option: Option) -> tuple[float, ...]:
    """Per level from the outside in: by how much the largest gang that still fits shrinks; then the room left."""
    tree = option.tree
    if tree is None:
        return ()
    losses: list[float] = []
    spare = 0.0
    for level in range(tree.depth + 1):
        caps = tree.caps[level]
        if level == tree.depth:
            used = np.zeros_like(caps)
            used[option.positions] = option.takes
        else:
            where = tree.topology.node_domain[option.positions, level]
            used = np.bincount(where, weights=option.takes, minlength=caps.size).astype(np.int64)
        losses.append(float(caps.max() - (caps - used).max()))
        spare += float((caps - used)[used > 0].sum())
    return (*losses, spare)


def _most_promising(tree: Tree, level: int, fitting: Int64, workers: int, most: int) -> Int64:
    """The domains that need the fewest children, then those that are filled best, then by name."""
    caps = tree.caps[level][fitting]
    if level == tree.depth:
        order = np.lexsort((fitting, caps))
    else:
        largest = np.maximum.reduceat(tree.caps[level + 1], tree.children[level][:-1])[fitting]
        order = np.lexsort((fitting, caps, -np.minimum(largest, workers)))
    return fitting[order[:most]]


def _seconds(
    pool: PoolInfo, levels: Sequence[Level], domains: Int64, takes: Int64, demand: GangDemand
) -> tuple[float, StepTime | None, str]:
    """Predicted step time of workers on these domains (levels + 1, nodes), or the stand-in and why."""
    wired = link_levels(pool, levels)
    per_worker = np.repeat(runs(domains), takes, axis=1)
    workers = int(takes.sum())
    plain = Parallelism(data=workers * demand.devices)
    note = ""
    if demand.model is not None:
        cut = demand.parallelism or plain
        try:
            step = predict(pool.chip, demand.model, cut, wiring_of(wired, per_worker, cut, demand.devices))
            return step.seconds, step, ""
        except ChipError as exc:
            note = str(exc)
    wiring = wiring_of(wired, per_worker, plain, demand.devices)
    return collective_seconds("all_reduce", PROXY_BYTES, wiring.data), None, note


def link_levels(pool: PoolInfo, levels: Sequence[Level]) -> tuple[LinkLevel, ...]:
    """Links of a group's levels and, last, of the pool's nodes."""
    figures = [(level.name, level.bandwidth, level.latency) for level in (*levels, pool.link)]
    return levels_for(pool.chip, figures)


def _same(one: Int64, two: Int64) -> bool:
    return one.size == two.size and bool((one == two).all())
