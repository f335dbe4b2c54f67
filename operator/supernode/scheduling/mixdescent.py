"""Make a mix on few nodes faster, by moving workers one by one, changing nodes and turning ranks round.

Flows in: mixes that the search found, and the room on each node. Flows out: faster ones, if there are any. Only for
gangs on few nodes, as in `improve`. Not here: which pool takes how many stages (`mix`).

It is a plain descent: the first step that is faster is taken, each arrangement is timed once, and the number of timings
is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from supernode.scheduling.mixclock import Clock, Run
from supernode.scheduling.snapshot import Int64
from supernode.scheduling.topology import NODE_LEVEL

if TYPE_CHECKING:
    from supernode.scheduling.mix import Mix

#: Gangs on more nodes than this are left as they are.
MOST_NODES: Final = 16
#: Unused nodes per pool that workers may move to.
MOST_OTHERS: Final = 8
#: Arrangements that are timed at most.
MOST_TIMED: Final = 240
#: A step must be faster by this share to be taken.
FASTER: Final = 1e-6

# One run: (row, workers) in rank order.
Takes = tuple[tuple[int, int], ...]


def descend(
    clock: Clock,
    starts: Sequence[Mix],
    per_row: Mapping[str, Int64],
    make: Callable[[Clock, tuple[Run, ...]], Mix | None],
) -> list[Mix]:
    """A faster mix for each start that has one.

    Args:
        clock: times runs.
        starts: where to begin, the best first.
        per_row: pool -> int64 (N,) workers that fit on each node.
        make: times runs as a mix; None = their memory does not hold the layers.
    """
    timed: set[tuple[Takes, ...]] = set()
    found: list[Mix] = []
    for start in starts:
        if sum(run.rows.size for run in start.runs) > MOST_NODES:
            continue
        best, improved = start, True
        while improved:
            improved = False
            for runs in _steps(clock, best.runs, per_row):
                key = tuple(_takes(run) for run in runs)
                if key in timed:
                    continue
                if len(timed) >= MOST_TIMED:
                    break
                timed.add(key)
                mix = make(clock, runs)
                if mix is not None and mix.predicted.seconds < best.predicted.seconds * (1 - FASTER):
                    best, improved = mix, True
                    break
        if best is not start:
            found.append(best)
    return found


def _takes(run: Run) -> Takes:
    return tuple(zip(run.rows.tolist(), run.takes.tolist(), strict=True))


def _steps(clock: Clock, runs: tuple[Run, ...], per_row: Mapping[str, Int64]) -> Iterator[tuple[Run, ...]]:
    """Runs of which one is changed by one step, as far as the wishes allow."""
    sizes = sorted({1, *(item.size for item in clock.demand.slices)})
    for index, run in enumerate(runs):
        room = per_row[run.pool.name]
        for takes in _changed(_takes(run), room, sizes):
            rows = np.asarray([row for row, _ in takes], dtype=np.int64)
            counts = np.asarray([take for _, take in takes], dtype=np.int64)
            order = clock.grouped(rows)
            step = Run(run.pool, run.stages, rows[order], counts[order])
            changed = (*runs[:index], step, *runs[index + 1 :])
            if allowed(clock, changed):
                yield changed


def _changed(here: Takes, room: Int64, sizes: Sequence[int]) -> Iterator[Takes]:
    """One run's nodes with some workers elsewhere, another node instead of one, or two nodes' ranks swapped."""
    used = dict(here)
    others: list[int] = []
    seen: dict[int, int] = {}
    for row in np.flatnonzero(room).tolist():
        if row not in used and seen.get(int(room[row]), 0) < MOST_OTHERS // 2:
            seen[int(room[row])] = seen.get(int(room[row]), 0) + 1
            others.append(row)
    for size in sizes:
        for row, take in here:
            for other in [*used, *others[:MOST_OTHERS]]:
                if other != row and take >= size and used.get(other, 0) + size <= int(room[other]):
                    moved = {**used, row: take - size, other: used.get(other, 0) + size}
                    yield tuple((r, t) for r, t in moved.items() if t)
    for index, (_, take) in enumerate(here):
        for other in others[:MOST_OTHERS]:
            if int(room[other]) >= take:
                yield (*here[:index], (other, take), *here[index + 1 :])
    for one in range(len(here)):
        for two in range(one + 1, len(here)):
            swapped = list(here)
            swapped[one], swapped[two] = swapped[two], swapped[one]
            yield tuple(swapped)


def allowed(clock: Clock, runs: Sequence[Run]) -> bool:
    """Whether all workers are in one domain of each required level, and every slice in one of its own level."""
    demand = clock.demand
    rows = np.concatenate([np.repeat(run.rows, run.takes) for run in runs])
    required = [c.level for c in demand.constraints if c.required]
    if required:
        _, whole, _, topology = clock.common(rows)
        if topology is None or not all(0 <= topology.level_index(level) <= whole for level in required):
            return False
    for item in demand.slices:
        groups = rows.reshape(-1, item.size)
        if item.level == NODE_LEVEL:
            if (groups != groups[:, :1]).any():
                return False
            continue
        for group in groups:
            _, whole, _, topology = clock.common(group)
            if topology is None or not 0 <= topology.level_index(item.level) <= whole:
                return False
    return True
