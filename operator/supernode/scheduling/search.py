"""Ways to put a gang into one pool: inside one domain of a group, on one node, or anywhere.

Flows in: the room on each node, the groups' trees, how many workers are to go. Flows out: scored `Option`s. Not here:
whether the gang may use the pool at all, and which option wins (`place`, `score`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.fit import Tree, disjoint, outside, roll_up
from supernode.scheduling.improve import MOST_NODES, Descent
from supernode.scheduling.score import (
    Option,
    ideal_seconds,
    loose_option,
    neighbour_groups,
    tree_options,
    tree_template,
)
from supernode.scheduling.snapshot import Int64, PoolInfo, Snapshot
from supernode.scheduling.spread import allot, spread_below
from supernode.scheduling.topology import NODE_LEVEL, Int32, Topology

#: Ways from which workers are moved one by one.
MOST_STARTS: Final = 6
#: A placement that is slower than the ideal by less than this share is not worth a closer look.
NEARLY: Final = 0.005


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


def loose_rows(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand) -> Int32:
    """Rows of the pool outside all groups, if the gang can be put there at all."""
    bound = any(c.required and c.level != NODE_LEVEL for c in demand.constraints)
    bound = bound or any(item.level != NODE_LEVEL for item in demand.slices)
    return pool.rows[:0] if bound else outside(pool.rows, snapshot.topologies, len(snapshot.node_names))


def loose_caps(per_row: Int64, loose: Int32, demand: GangDemand) -> Int64:
    """Workers per node outside all groups; only slices within a node are possible there."""
    caps = per_row[loose]
    for item in demand.slices:
        caps = caps - caps % item.size
    return caps


@dataclass(frozen=True, eq=False, slots=True)
class Search:
    """One pool, one gang, and room for it.

    Attributes:
        pool: where to look.
        order: position of the pool in the demand.
        demand: the gang.
        workers: how many of it; they fit.
        per_row: int64 (N,) workers per node of the snapshot, 0 outside the pool.
        trees: of the groups that can serve the demand.
        loose: rows of the pool outside all groups.
        brief: without the arrangements that are made worker by worker.
    """

    pool: PoolInfo
    order: int
    demand: GangDemand
    workers: int
    per_row: Int64
    trees: list[Tree]
    loose: Int32
    brief: bool = False

    def options(self) -> list[Option]:
        """All ways that are worth comparing; at least one."""
        options = self.ways(self.trees, self.per_row, 1)
        first = min(options, key=lambda option: option.seconds)
        inside = first.tree is not None and first.template.whole >= first.tree.depth - 1
        if first.template.tidy and (inside or first.template.takes.size > MOST_NODES):
            return options  # no border is crossed more often than it must be
        for quantum in neighbour_groups(self.demand, self.workers):
            options += self.ways(
                [t for tree in self.trees if (t := self.aligned(tree, quantum))], self.per_row, quantum
            )
        best = min(options, key=lambda option: option.seconds)
        # A ring is as slow as its narrowest border: the same number of workers on every node may be faster.
        for share in self._equal_shares(best.template.takes):
            capped = np.minimum(self.per_row, share)
            equal = [self._again(tree, capped, {**self._slices(tree), tree.depth: share}) for tree in self.trees]
            options += self.ways(equal, capped, share)
        best = min(options, key=lambda option: option.seconds)
        if not self.brief and best.template.takes.size <= MOST_NODES and not self._ideal(best.seconds):
            options += self._balanced() + self._capped() + self._aligned_further_out() + self._fullest()
            anchored = [(tree, anchor_level(tree.topology, self.demand)) for tree in self.trees]
            descent = Descent(
                self.pool,
                self.order,
                self.demand,
                self.per_row,
                [(tree, anchor) for tree, anchor in anchored if anchor is not None],
                self.loose.astype(np.int64),
            )
            starts: dict[tuple[tuple[int, int], ...], Option] = {}  # one for each choice of nodes, whatever their order
            for option in sorted(options, key=lambda option: option.seconds):
                takes = zip(option.rows().tolist(), option.template.takes.tolist(), strict=True)
                starts.setdefault(tuple(sorted(takes)), option)
            options += descent.run(list(starts.values())[:MOST_STARTS])
        return options

    def _ideal(self, seconds: float) -> bool:
        """Whether this is as fast as if nodes as empty as the emptiest stood side by side in one domain, as many as
        help most."""
        if not self.trees:
            return False
        most = min(self.workers, int(self.per_row.max()))
        if not most:
            return False  # the gangs before it in this cycle have filled the groups
        tree = max(self.trees, key=lambda tree: tree.most(tree.depth))
        key = ("ideal", self.demand.question, self.workers, most)
        if key not in tree.memo:
            few = self.workers <= MOST_NODES
            shares = [share for share in range(1, most + 1) if few or share == most or self.workers % share == 0]
            tree.memo[key] = min(
                ideal_seconds(self.pool, tree.topology.levels, self.demand, self.workers, share) for share in shares
            )
        return bool(seconds <= tree.memo[key] * (1 + NEARLY))

    def _balanced(self) -> list[Option]:
        """Ways in which every domain of a level that is used takes the same, for each level and each number."""
        options: list[Option] = []
        for tree in self.trees:
            slices = self._slices(tree)
            for level in range(tree.depth):
                for share in range(2, self.workers):
                    sizes = [self.workers, *slices.values()]
                    if any(size % share and share % size for size in sizes) or self.workers % share:
                        continue
                    if any(share % size for at, size in slices.items() if at >= level):
                        continue  # half a slice
                    if np.count_nonzero(tree.caps[level] >= share) * share < self.workers:
                        continue
                    quanta = {**slices, level: max(slices.get(level, 1), share)}
                    memo = tree.memo.setdefault(("balanced", level, share), {})
                    same = roll_up(tree.topology, self.per_row, quanta, memo)
                    np.minimum(same.caps[level], share, out=same.caps[level])
                    for outer in range(level - 1, -1, -1):
                        sums = np.add.reduceat(same.caps[outer + 1], same.children[outer][:-1])
                        same.caps[outer][:] = sums - sums % quanta.get(outer, 1)
                    options += self.ways([same], self.per_row, share)
        return options

    def _capped(self) -> list[Option]:
        """Ways with no more than so many workers on any node, for each number: over more nodes than it takes."""
        options: list[Option] = []
        for share in range(1, min(self.workers, int(self.per_row.max()))):
            capped = np.minimum(self.per_row, share)
            trees = []
            for tree in self.trees:
                slices = self._slices(tree)
                if not any(at == tree.depth and share % size for at, size in slices.items()):
                    memo = tree.memo.setdefault(("capped", share), {})
                    trees.append(roll_up(tree.topology, capped, slices, memo))
            options += self.ways(trees, capped, 1)
        return options

    def _fullest(self) -> list[Option]:
        """Ways on the domains of a level with the most room, as few as will do, wherever they are; for each level."""
        options: list[Option] = []
        for tree in self.trees:
            for level in range(1, tree.depth):
                caps = tree.caps[level]
                order = np.lexsort((np.arange(caps.size), -caps))
                enough = int(np.searchsorted(np.cumsum(caps[order]), self.workers)) + 1
                if enough > caps.size:
                    continue
                chosen = np.isin(tree.topology.node_domain[:, level], order[:enough])
                per_row = np.zeros_like(self.per_row)
                rows = tree.topology.node_rows[chosen]
                per_row[rows] = self.per_row[rows]
                slices = self._slices(tree)
                options += self.ways([roll_up(tree.topology, per_row, slices)], per_row, 1)
        return options

    def _aligned_further_out(self) -> list[Option]:
        """Ways in whole groups of neighbours per domain, whatever the nodes in it hold."""
        options: list[Option] = []
        for quantum in neighbour_groups(self.demand, self.workers):
            for tree in self.trees:
                slices = self._slices(tree)
                for level in range(tree.depth):
                    if not any(size % quantum and quantum % size for size in slices.values()):
                        quanta = {**slices, level: max(slices.get(level, 1), quantum)}
                        options += self.ways([self._again(tree, self.per_row, quanta)], self.per_row, quantum)
        return options

    def ways(self, trees: list[Tree], per_row: Int64, quantum: int) -> list[Option]:
        """Ways with this room on nodes and domains; none if it is too little."""
        options: list[Option] = []
        for tree in trees:
            asked = ("anchor", self.demand.kind)
            if asked not in tree.memo:
                tree.memo[asked] = anchor_level(tree.topology, self.demand)
            anchor = tree.memo[asked]
            if anchor is not None:
                options += tree_options(tree, self.pool, self.order, self.demand, self.workers, anchor)
        caps = loose_caps(per_row, self.loose, self.demand)
        caps = caps - caps % quantum
        options += self._one_loose_node(caps)
        if not options and not any(c.required for c in self.demand.constraints):
            options += self._anywhere(trees, caps, quantum)
        return options

    def _again(self, tree: Tree, per_row: Int64, quanta: dict[int, int]) -> Tree:
        """The tree with other room."""
        return roll_up(tree.topology, per_row, quanta, tree.memo_for(quanta))

    def _slices(self, tree: Tree) -> dict[int, int]:
        return {tree.topology.level_index(item.level): item.size for item in self.demand.slices}

    def aligned(self, tree: Tree, quantum: int) -> Tree | None:
        """The tree with room counted in whole groups of workers, on the innermost level that can hold one."""
        slices = self._slices(tree)
        for level in range(tree.depth, -1, -1):
            if tree.caps[level].max() >= quantum:
                if any(size % quantum and quantum % size for size in slices.values()):
                    return None
                return self._again(tree, self.per_row, {**slices, level: max(slices.get(level, 1), quantum)})
        return None

    def _equal_shares(self, takes: Int64) -> list[int]:
        """Workers a node if all nodes took the same: at most the least and at most the most that any takes now."""
        least, most = int(takes.min()), int(takes.max())
        if least == most or any(item.level == NODE_LEVEL for item in self.demand.slices):
            return []
        sizes = [self.workers, *(item.size for item in self.demand.slices)]
        shares = [share for share in range(most, 0, -1) if all(size % share == 0 for size in sizes)]
        return list(dict.fromkeys((shares[0], next(share for share in shares if share <= least))))

    def _one_loose_node(self, caps: Int64) -> list[Option]:
        """A node outside all groups that holds the whole gang; only the level `node` can be required of it."""
        if any(c.required and c.level != NODE_LEVEL for c in self.demand.constraints) or not self.loose.size:
            return []
        fitting = np.flatnonzero(caps >= self.workers)
        if not fitting.size:
            return []
        row = int(self.loose[fitting[np.lexsort((fitting, caps[fitting]))[0]]])
        one, all_of_it = np.asarray([row], dtype=np.int64), np.asarray([self.workers], dtype=np.int64)
        return [loose_option(self.pool, self.order, self.demand, one, all_of_it)]

    def _anywhere(self, trees: list[Tree], loose: Int64, quantum: int) -> list[Option]:
        """The gang over several outermost domains, groups or loose nodes of the pool."""
        trees = disjoint(trees)
        caps = np.concatenate([*(tree.caps[0] for tree in trees), loose])
        if int(caps.sum()) < self.workers:
            return []
        options: list[Option] = []
        if len(trees) > 1 or loose.any():  # one group alone is joined by more than a network
            for tree in trees:
                options += self._anywhere([tree], np.zeros_like(loose), quantum)
        unit = max([quantum, *(item.size for item in self.demand.slices)])
        whole = np.zeros(caps.size, dtype=np.int64)
        seen: set[bytes] = set()
        for even in (False, True):
            shares = allot(whole, caps, np.asarray([self.workers], dtype=np.int64), unit, even=even)
            if shares.tobytes() not in seen or even:
                options.append(self._spread_anywhere(trees, shares, even=even))
            seen.add(shares.tobytes())
        return options

    def _spread_anywhere(self, trees: list[Tree], shares: Int64, *, even: bool) -> Option:
        """One option from the share of each outermost domain (tree by tree) and each loose node."""
        rows: list[Int64] = []
        takes: list[Int64] = []
        begin = 0
        for tree in trees:
            mine = shares[begin : begin + tree.caps[0].size]
            begin += mine.size
            domains = np.flatnonzero(mine)
            if not domains.size:
                continue
            domains = domains[np.lexsort((domains, -mine[domains]))]
            spread = spread_below(tree, 0, domains, mine[domains], even=even)
            if int(mine.sum()) == self.workers:
                return Option(self.pool, self.order, tree, tree_template(tree, self.pool, self.demand, spread))
            rows.append(tree.topology.node_rows[spread.nodes].astype(np.int64))
            takes.append(spread.takes)
        mine = shares[begin:]
        chosen = np.flatnonzero(mine)
        chosen = chosen[np.lexsort((chosen, -mine[chosen]))]
        rows.append(self.loose[chosen].astype(np.int64))
        takes.append(mine[chosen])
        return loose_option(self.pool, self.order, self.demand, np.concatenate(rows), np.concatenate(takes))
