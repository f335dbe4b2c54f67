"""Which of the fitting places is best: predicted step time, then what it leaves for others, then the name.

Flows in: fitted trees of one pool and a demand. Flows out: `Option` values, and their order. Not here: whether
anything fits at all (`fit`), devices and the final placement (`place`).

Every place is scored as it would really be used: workers are spread over its nodes, the links between them are read
from the tree, and the step is predicted on those links. Equal shapes give equal seconds at the price of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np

from supernode.errors import ChipError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.fit import Tree
from supernode.scheduling.placement import RunnerUp
from supernode.scheduling.snapshot import Int64, PoolInfo
from supernode.scheduling.spread import Spread, spread_domain
from supernode.scheduling.stores import NO_STORAGE, far_from, near_domains, storage_at, storage_near
from supernode.scheduling.topology import NODE_LEVEL, Int32, Level
from supernode.steptime.calibration import ASSUMED_NETWORK_BANDWIDTH, ASSUMED_NETWORK_LATENCY
from supernode.steptime.collectives import LinkLevel, collective_seconds, levels_for
from supernode.steptime.model import Parallelism
from supernode.steptime.predict import StepTime, predict
from supernode.steptime.storage import Storage
from supernode.steptime.wiring import runs, wiring_of

#: Domains that are scored on the innermost level where the gang fits, and on the next one outwards; the rest are worse
#: by room in their children, or equal but for the name.
PER_LEVEL: Final = (6, 2)
#: Predicted times that differ by less than this share count as equal.
EQUAL: Final = 1e-3
#: Without a model, places are compared by an all-reduce of this many bytes over the whole gang.
PROXY_BYTES: Final = float(2**30)


@dataclass(frozen=True, eq=False, slots=True)
class Template:
    """One way to use a domain of some shape; it holds for every domain of that shape.

    Attributes:
        index: int64 (k,) its nodes in rank order, counted from the domain's first (after ordering, see `Option`).
        takes: int64 (k,) workers on each.
        workers: on all of them.
        seconds: predicted step time, or the stand-in without a prediction.
        predicted: the prediction, if there is one.
        note: why there is none although the model is known.
        missed: preferred levels whose one domain does not hold it, and stores that it is not close to.
        whole: innermost level of which one domain holds all; -1 = none.
        tidy: every node takes the same, as many as the fullest can, and so does every domain that is used.
        inside: per level further in than the domain, out of the domains used: the most room any had, how many had as
            much, the most room that any is left with.
        spare: workers' room left in those domains.
    """

    index: Int64
    takes: Int64
    workers: int
    seconds: float
    predicted: StepTime | None
    note: str
    missed: int
    whole: int
    tidy: bool
    inside: tuple[tuple[int, int, int], ...]
    spare: int


@dataclass(frozen=True, eq=False, slots=True)
class Option:
    """One way to place the gang.

    Attributes:
        pool: of its nodes.
        order: position of the pool in the demand.
        tree: the group's tree; None = nodes of several groups, or of none, which the template's index names by row.
        template: how the domain is used.
        level: of the domain; -1 = no domain, the template's index counts from the tree's first node.
        domain: index on that level.
        start: first node of the domain in wiring order.
        ordering: int64, the domain's nodes by room; None = the template counts in wiring order.
        rival: what it looks like as a runner-up, once that has been asked.
    """

    pool: PoolInfo
    order: int
    tree: Tree | None
    template: Template
    level: int = -1
    domain: int = 0
    start: int = 0
    ordering: Int64 | None = None
    rival: list[RunnerUp] = field(default_factory=list, repr=False)

    @property
    def predicted_seconds(self) -> float | None:
        """Predicted step time; None if the model is not known."""
        step = self.template.predicted
        return None if step is None else step.seconds

    @property
    def seconds(self) -> float:
        """Predicted step time, or the stand-in without a prediction."""
        return self.template.seconds

    @property
    def workers(self) -> int:
        """How many it places."""
        return self.template.workers

    def positions(self) -> Int64:
        """int64 (k,) its nodes in the tree's wiring order, in rank order; rows without a tree."""
        index = self.template.index
        return self.start + (index if self.ordering is None else self.ordering[index])

    def rows(self) -> Int64:
        """int64 (k,) rows of its nodes in the snapshot, in rank order."""
        positions = self.positions()
        return positions if self.tree is None else self.tree.topology.node_rows[positions].astype(np.int64)

    def place(self) -> tuple[str, str, tuple[str, ...], int]:
        """Group, name of the innermost level that holds all, path of that domain (without the node), the one node's
        position or -1."""
        if self.tree is None:
            index = self.template.index
            return ("", NODE_LEVEL, (), int(index[0])) if index.size == 1 else ("", "", (), -1)
        topology, whole = self.tree.topology, self.template.whole
        if whole < 0:
            return topology.name, "", (), -1
        if whole == self.level < self.tree.depth:
            return topology.name, topology.levels[whole].name, topology.path(whole, self.domain), -1
        inner = int(self.template.index[0])
        first: int = self.start + (inner if self.ordering is None else int(self.ordering[inner]))
        level = min(whole, self.tree.depth - 1)
        path = topology.path(level, int(topology.node_domain[first, level]))
        if whole == self.tree.depth:
            return topology.name, NODE_LEVEL, path, first
        return topology.name, topology.levels[whole].name, path, -1


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
    memo: dict[object, tuple[Template, ...]] = tree.memo.setdefault((demand.question, workers), {})
    asked = (id(memo), order)
    for level in range(tree.depth, max(anchor, 0) - 1, -1):
        if tree.most(level) < workers:
            continue
        promising = most_promising(tree, level, workers, PER_LEVEL[found])
        if demand.storage is not None:  # those close to its storage, however full
            near = near_domains(demand.storage, tree.topology, level)
            promising += [d for d in near if d not in promising and tree.caps[level][d] >= workers][: PER_LEVEL[0]]
        for domain in promising:
            known = tree.options.setdefault((level, domain), {})
            here: list[Option] | None = known.get(asked)
            if here is None:
                start, ordering, shape = _shape(tree, level, domain)
                alike = (level, shape) if demand.storage is None else (level, shape, domain)
                templates = memo.get(alike)
                if templates is None:
                    templates = _templates(tree, pool, demand, (level, domain, workers), start, ordering)
                    memo[alike] = templates
                here = [Option(pool, order, tree, t, level, domain, start, ordering) for t in templates]
                known[asked] = here
            options += here
        found += 1
        if found == len(PER_LEVEL) or min(options, key=_by_seconds).template.tidy:
            break
    return options


def _by_seconds(option: Option) -> float:
    return option.template.seconds


def _templates(
    tree: Tree, pool: PoolInfo, demand: GangDemand, where: tuple[int, int, int], start: int, ordering: Int64 | None
) -> tuple[Template, ...]:
    """Ways to spread the gang over one domain; `where`: level, domain, workers."""
    filled = spread_domain(tree, *where, even=False)
    spreads = [filled]
    if filled.nodes.size > 1:
        evenly = spread_domain(tree, *where, even=True)
        if not (_same(evenly.nodes, filled.nodes) and _same(evenly.takes, filled.takes)):
            spreads.append(evenly)
    return tuple(tree_template(tree, pool, demand, spread, where[0], start, ordering) for spread in spreads)


def _shape(tree: Tree, level: int, domain: int) -> tuple[int, Int64 | None, bytes]:
    """First node of a domain, its nodes by room, and its wiring and room as bytes: equal bytes, equal templates.

    Where nothing stands between a domain and its nodes, their order does not matter: they are sorted by room.
    """
    if level == tree.depth:
        return domain, None, int(tree.caps[level][domain]).to_bytes(8, "little")
    runs = tree.topology.starts[level]
    start, end = int(runs[domain]), int(runs[domain + 1])
    caps = tree.caps[-1][start:end]
    if level == tree.depth - 1:
        ordering = np.argsort(-caps, kind="stable")
        return start, ordering, caps[ordering].tobytes()
    inside = tree.topology.node_domain[start:end, level + 1 :]
    return start, None, caps.tobytes() + (inside - inside[:1]).tobytes()


def tree_template(
    tree: Tree,
    pool: PoolInfo,
    demand: GangDemand,
    spread: Spread,
    level: int = -1,
    start: int = 0,
    ordering: Int64 | None = None,
) -> Template:
    """Score one spread inside a tree, of a domain of that level that starts there."""
    topology = tree.topology
    domains = np.empty((tree.depth + 1, spread.nodes.size), dtype=np.int64)
    domains[:-1] = topology.node_domain[spread.nodes].T
    domains[-1] = spread.nodes
    storage = NO_STORAGE
    if demand.storage is not None:
        storage = storage_at(demand.storage, topology, domains, pool.chip.scale_out_bandwidth)
    seconds, predicted, note = _seconds(pool, topology.levels, domains, spread.takes, demand, storage)
    whole = innermost(domains)
    missed = sum(1 for c in demand.constraints if not c.required and topology.level_index(c.level) > whole)
    if demand.storage is not None:
        missed += far_from(demand.storage, topology, domains)
    inside: list[tuple[int, int, int]] = []
    spare = 0
    tidy = bool((spread.takes == spread.takes[0]).all())
    tidy = tidy and int(spread.takes[0]) == min(int(tree.caps[-1][spread.nodes].max()), int(spread.takes.sum()))
    for at in range(level + 1, tree.depth + 1):
        used = np.bincount(domains[at] - domains[at].min(), weights=spread.takes).astype(np.int64)
        touched = np.flatnonzero(used)
        used = used[touched]
        room = tree.caps[at][touched + int(domains[at].min())]
        most = int(room.max())
        inside.append((most, int(np.count_nonzero(room == most)), int((room - used).max())))
        spare += int((room - used).sum())
        tidy = tidy and bool((used == used[0]).all()) and _whole_groups(demand, int(used[0]))
    index = spread.nodes - start
    if ordering is not None:
        back = np.empty_like(ordering)
        back[ordering] = np.arange(ordering.size)
        index = back[index]
    workers = int(spread.takes.sum())
    return Template(index, spread.takes, workers, seconds, predicted, note, missed, whole, tidy, tuple(inside), spare)


def ideal_seconds(pool: PoolInfo, levels: Sequence[Level], demand: GangDemand, workers: int, share: int) -> float:
    """Step time if nodes that take `share` workers each stood side by side in one domain of the innermost level."""
    nodes = -(-workers // share)
    domains = np.zeros((len(levels) + 1, nodes), dtype=np.int64)
    domains[-1] = np.arange(nodes)
    filled = np.full(nodes, share, dtype=np.int64)
    filled[-1] = workers - share * (nodes - 1)
    even = (workers + np.arange(nodes, dtype=np.int64)) // nodes
    ways = (filled, filled[::-1], even, even[::-1])
    storage = NO_STORAGE if demand.storage is None else storage_near(demand.storage)
    return min(_seconds(pool, levels, domains, takes, demand, storage)[0] for takes in ways)


def neighbour_groups(demand: GangDemand, workers: int) -> list[int]:
    """Numbers of neighbouring workers that it may pay to keep together: a tensor group, a whole pipeline."""
    cut = demand.parallelism
    sizes: list[int] = []
    if cut is None:
        return sizes
    for ranks in (cut.tensor * cut.context, cut.tensor * cut.context * cut.pipeline):
        size, rest = divmod(ranks, demand.devices)
        if not rest and 1 < size < workers and not workers % size and size not in sizes:
            sizes.append(size)
    return sizes


def _whole_groups(demand: GangDemand, share: int) -> bool:
    """Whether domains with this many workers each hold whole groups, or whole parts of groups."""
    return all(not share % size or not size % share for size in neighbour_groups(demand, demand.workers))


def loose_option(pool: PoolInfo, order: int, demand: GangDemand, rows: Int64, takes: Int64) -> Option:
    """Score nodes of several groups, or of none: all they are known to share is the network between nodes."""
    domains = np.stack((np.zeros_like(rows), rows))
    bandwidth = pool.chip.scale_out_bandwidth or ASSUMED_NETWORK_BANDWIDTH
    network = Level("network", bandwidth, ASSUMED_NETWORK_LATENCY)
    storage = NO_STORAGE
    if demand.storage is not None:
        storage = storage_at(demand.storage, None, domains, bandwidth)
    seconds, predicted, note = _seconds(pool, (network,), domains, takes, demand, storage)
    one_node = rows.size == 1
    missed = sum(1 for c in demand.constraints if not c.required and not (one_node and c.level == NODE_LEVEL))
    if demand.storage is not None:
        missed += far_from(demand.storage, None, domains)
    workers = int(takes.sum())
    template = Template(rows, takes, workers, seconds, predicted, note, missed, -1, False, (), 0)
    return Option(pool, order, None, template)


def innermost(domains: Int64 | Int32) -> int:
    """Innermost level (row of `domains`) on which all columns are in one domain; -1 if there is none."""
    whole = -1
    for level in range(domains.shape[0]):
        if (domains[level] != domains[level, 0]).any():
            break
        whole = level
    return whole


def most_promising(tree: Tree, level: int, workers: int, most: int) -> list[int]:
    """Domains with room: those that need the fewest children first, then those that are filled best, then by name."""
    caps = tree.caps[level]
    if level == tree.depth:
        chosen: list[int] = []
        above = workers
        while len(chosen) < most:  # the fullest nodes, without sorting thousands
            open_caps = np.where(caps >= above, caps, np.iinfo(np.int64).max)
            least = int(open_caps.min())
            if least > tree.most(level):
                break
            chosen += np.flatnonzero(caps == least)[: most - len(chosen)].tolist()
            above = least + 1
        return chosen
    fitting = np.flatnonzero(caps >= workers)
    if fitting.size > 1:
        largest = tree.largest_child(level)[fitting]
        fitting = fitting[np.lexsort((fitting, caps[fitting], -np.minimum(largest, workers)))]
    return [int(domain) for domain in fitting[:most]]


def _seconds(
    pool: PoolInfo, levels: Sequence[Level], domains: Int64, takes: Int64, demand: GangDemand, storage: Storage
) -> tuple[float, StepTime | None, str]:
    """Predicted step time of workers on these domains (levels + 1, nodes), or the stand-in and why."""
    wired = link_levels(pool, tuple(levels))
    per_worker = np.repeat(runs(domains), takes, axis=1)
    workers = int(takes.sum())
    plain = Parallelism(data=workers * demand.devices)
    note = ""
    if demand.model is not None:
        cut = demand.parallelism or plain
        try:
            step = predict(pool.chip, demand.model, cut, wiring_of(wired, per_worker, cut, demand.devices), storage)
            return step.seconds, step, ""
        except ChipError as exc:
            note = str(exc)
    wiring = wiring_of(wired, per_worker, plain, demand.devices)
    return collective_seconds("all_reduce", PROXY_BYTES, wiring.data), None, note


@lru_cache(maxsize=256)
def link_levels(pool: PoolInfo, levels: tuple[Level, ...]) -> tuple[LinkLevel, ...]:
    """Links of a group's levels and, last, of the pool's nodes."""
    figures = [(level.name, level.bandwidth, level.latency) for level in (*levels, pool.link)]
    return levels_for(pool.chip, figures)


def _same(one: Int64, two: Int64) -> bool:
    return one.size == two.size and bool((one == two).all())
