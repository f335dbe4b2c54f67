"""Make a placement that crosses borders unevenly faster, by moving workers one by one and turning ranks round.

Flows in: the best way that the search found, and the room on each node. Flows out: faster ways, if there are any. Only
for gangs on few nodes, where one worker more on this or that node decides; large gangs fill whole domains anyway.
Not here: feasibility (every step keeps slices whole and stays inside the required domain), and the final order of keys.

It is a plain descent: the first step that is faster is taken, each arrangement is timed once, and the number of
timings is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from supernode.scheduling.demand import GangDemand, Slice
from supernode.scheduling.fit import Tree
from supernode.scheduling.score import Option, loose_option, tree_template
from supernode.scheduling.snapshot import Int64, PoolInfo
from supernode.scheduling.spread import Spread

#: Gangs on more nodes than this are left as they are.
MOST_NODES: Final = 16
#: Nodes that workers may move to, beside those in use.
MOST_OTHERS: Final = 16
#: Arrangements that are timed at most, per start.
MOST_TIMED: Final = 100
#: Times that the quickest of all goes on.
MOST_ROUNDS: Final = 3
#: A step must be faster by this share to be taken.
FASTER: Final = 1e-6

# One arrangement: (row, workers) in rank order.
Arrangement = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False, slots=True)
class Descent:
    """What a descent needs to know.

    Attributes:
        pool: of the nodes.
        order: position of the pool in the demand.
        demand: the gang.
        per_row: int64 (N,) workers that fit on each node.
        trees: of the groups that can serve the demand, with their required level (-1: none).
        loose: rows outside all groups that the gang may use.
    """

    pool: PoolInfo
    order: int
    demand: GangDemand
    per_row: Int64
    trees: list[tuple[Tree, int]]
    loose: Int64

    def run(self, starts: list[Option]) -> list[Option]:
        """A faster option for each start that has one."""
        paths = self._paths()
        timed: dict[Arrangement, Option] = {}
        found: list[Option] = []
        begin: list[tuple[Arrangement, Option]] = []
        for scattered in self._scattered(paths, starts[0].workers):
            timed[scattered] = self._option(scattered, paths)
            found.append(timed[scattered])
            begin.append((scattered, timed[scattered]))
        for start in starts:
            rows = start.rows().tolist()
            if len(rows) <= MOST_NODES and all(row in paths for row in rows):
                begin.append((tuple(zip(rows, start.template.takes.tolist(), strict=True)), start))
        for here, start in sorted(begin, key=lambda item: item[1].seconds):
            best = self._descend(here, start, paths, timed)
            if best is not start:
                found.append(best)
        for _ in range(MOST_ROUNDS if found else 0):  # the quickest of them may not have come to its end
            start = min(found, key=lambda option: option.seconds)
            here = tuple(zip(start.rows().tolist(), start.template.takes.tolist(), strict=True))
            best = self._descend(here, start, paths, timed)
            if best is start:
                break
            found.append(best)
        return found

    def _descend(
        self,
        here: Arrangement,
        best: Option,
        paths: dict[int, tuple[int, ...]],
        timed: dict[Arrangement, Option],
    ) -> Option:
        """The best of all arrangements that faster and faster steps lead to."""
        improved = True
        most = len(timed) + MOST_TIMED
        while improved:
            improved = False
            for step in self._one_or_two(here, paths):
                if len(timed) >= most:
                    break
                if step in timed:
                    continue
                timed[step] = self._option(step, paths)
                if timed[step].seconds < best.seconds * (1 - FASTER):
                    here, best, improved = step, timed[step], True
                    break
        return best

    def _one_or_two(self, here: Arrangement, paths: dict[int, tuple[int, ...]]) -> Iterator[Arrangement]:
        """One step, and where none helps, two: one that costs a little may open the way."""
        yield from self._steps(here, paths)
        for step in self._steps(here, paths):
            yield from self._steps(step, paths)

    def _scattered(self, paths: dict[int, tuple[int, ...]], workers: int) -> Iterator[Arrangement]:
        """The emptiest nodes wherever they are, filled; and the same with equal shares."""
        rows = sorted(paths, key=lambda row: (-int(self.per_row[row]), row))
        filled: list[tuple[int, int]] = []
        left = workers
        for row in rows[:MOST_NODES]:
            take = min(left, int(self.per_row[row]))
            left -= take
            if take:
                filled.append((row, take))
        if left:
            return
        even = [(row, (workers + index) // len(filled)) for index, (row, _) in enumerate(reversed(filled))]
        for takes in (filled, even[::-1]):
            if all(0 < take <= int(self.per_row[row]) for row, take in takes) and self._allowed(takes, paths):
                yield self._grouped(takes, paths)

    def _paths(self) -> dict[int, tuple[int, ...]]:
        """Row -> (tree, domains from the outside in, position) of every node with room; (-1, row) outside groups."""
        paths: dict[int, tuple[int, ...]] = {}
        for index, (tree, _) in enumerate(self.trees):
            rows = tree.topology.node_rows
            for position in np.flatnonzero(self.per_row[rows]).tolist():
                paths[int(rows[position])] = (index, *tree.topology.node_domain[position].tolist(), position)
        for row in self.loose.tolist():
            if self.per_row[row]:
                paths[row] = (-1, row)
        return paths

    def _steps(self, here: Arrangement, paths: dict[int, tuple[int, ...]]) -> Iterator[Arrangement]:
        """Arrangements one step away that are allowed."""
        takes = dict(here)
        others = self._others(takes, paths)
        sizes = sorted({1, *(item.size for item in self.demand.slices)})
        for size in sizes:
            for row, take in here:
                for other in [*takes, *others]:
                    if other == row or take < size or takes.get(other, 0) + size > int(self.per_row[other]):
                        continue
                    moved = {**takes, row: take - size, other: takes.get(other, 0) + size}
                    kept = [(r, t) for r, t in moved.items() if t]
                    if self._allowed(kept, paths):
                        yield self._grouped(kept, paths)
        for item in self.demand.slices:  # a whole slice moves to another domain, over as many nodes as it takes
            yield from self._slices_moved(takes, others, paths, item)
        for one in range(len(here)):
            for two in range(one + 1, len(here)):
                swapped = list(here)
                swapped[one], swapped[two] = swapped[two], swapped[one]
                yield self._grouped(swapped, paths)
        # Workers swap places: a node in use for an unused one with as much room.
        for index, (_, take) in enumerate(here):
            for other in others:
                if int(self.per_row[other]) >= take:
                    changed = [*here[:index], (other, take), *here[index + 1 :]]
                    if self._allowed(changed, paths):
                        yield self._grouped(changed, paths)

    def _slices_moved(
        self, takes: dict[int, int], others: list[int], paths: dict[int, tuple[int, ...]], item: Slice
    ) -> Iterator[Arrangement]:
        """Arrangements in which one slice has left its domain for another one."""
        domains: dict[tuple[int, ...], list[int]] = {}
        for row in [*takes, *others]:
            if paths[row][0] >= 0:
                level = self.trees[paths[row][0]][0].topology.level_index(item.level)
                domains.setdefault(paths[row][: level + 2], []).append(row)
        for source, target in ((s, t) for s in domains for t in domains if s != t):
            moved = dict(takes)
            left = _taken(moved, domains[source], item.size, dict.fromkeys(domains[source], 0), -1)
            room = {row: int(self.per_row[row]) for row in domains[target]}
            if left == 0 and _taken(moved, domains[target], item.size, room, 1) == 0:
                kept = [(row, take) for row, take in moved.items() if take]
                if self._allowed(kept, paths):
                    yield self._grouped(kept, paths)

    def _others(self, takes: dict[int, int], paths: dict[int, tuple[int, ...]]) -> list[int]:
        """Unused nodes, one or two for each kind of place and room."""
        kinds: dict[tuple[object, ...], int] = {}
        near = {path[:-1] for row, path in paths.items() if row in takes}
        chosen: list[int] = []
        for row, path in sorted(paths.items(), key=lambda item: (item[1][:-1] not in near, item[1])):
            kind = (path[:-1], int(self.per_row[row]))
            if row not in takes and kinds.get(kind, 0) < 2:
                kinds[kind] = kinds.get(kind, 0) + 1
                chosen.append(row)
        return chosen[:MOST_OTHERS]

    def _allowed(self, takes: list[tuple[int, int]], paths: dict[int, tuple[int, ...]]) -> bool:
        """Whether the required level and whole slices hold."""
        used = [paths[row] for row, _ in takes]
        trees = {path[0] for path in used}
        anchors = {self.trees[tree][1] if tree >= 0 else -1 for tree in trees}
        if any(c.required for c in self.demand.constraints):
            if len(trees) > 1 or (-1 in trees and len(used) > 1):
                return False
            anchor = next(iter(anchors))
            if len({path[: anchor + 2] for path in used}) > 1:
                return False
        for item in self.demand.slices:
            sums: dict[tuple[int, ...], int] = {}
            for (_, take), path in zip(takes, used, strict=True):
                level = self.trees[path[0]][0].topology.level_index(item.level) if path[0] >= 0 else 0
                domain = path[: level + 2]
                sums[domain] = sums.get(domain, 0) + take
            if any(total % item.size for total in sums.values()):
                return False
        return True

    def _grouped(self, takes: list[tuple[int, int]], paths: dict[int, tuple[int, ...]]) -> Arrangement:
        """The same workers with every domain's nodes side by side, domains in the order of their first node."""
        if len({paths[row][0] for row, _ in takes}) > 1:
            return tuple(takes)  # no domain holds more than a node's ranks together: any order will do
        first: dict[tuple[int, ...], int] = {}
        for index, (row, _) in enumerate(takes):
            for depth in range(1, len(paths[row]) + 1):
                first.setdefault(paths[row][:depth], index)
        keys = {row: tuple(first[paths[row][:d]] for d in range(1, len(paths[row]) + 1)) for row, _ in takes}
        return tuple(sorted(takes, key=lambda item: keys[item[0]]))

    def _option(self, here: Arrangement, paths: dict[int, tuple[int, ...]]) -> Option:
        takes = np.asarray([take for _, take in here], dtype=np.int64)
        trees = {paths[row][0] for row, _ in here}
        index = next(iter(trees))
        if len(trees) > 1 or index < 0:
            rows = np.asarray([row for row, _ in here], dtype=np.int64)
            return loose_option(self.pool, self.order, self.demand, rows, takes)
        tree = self.trees[index][0]
        positions = np.asarray([paths[row][-1] for row, _ in here], dtype=np.int64)
        return Option(
            self.pool, self.order, tree, tree_template(tree, self.pool, self.demand, Spread(positions, takes))
        )


def _taken(takes: dict[int, int], rows: list[int], count: int, bound: dict[int, int], sign: int) -> int:
    """Move `count` workers to (sign 1) or from (-1) these rows, the one with the most to give first, not beyond their
    bounds. Changes `takes`; returns how many were left over.
    """
    for row in sorted(rows, key=lambda row: (-abs(bound[row] - takes.get(row, 0)), row)):
        step = min(count, abs(bound[row] - takes.get(row, 0)))
        takes[row] = takes.get(row, 0) + sign * step
        count -= step
    return count
