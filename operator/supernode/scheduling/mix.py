"""Ways to put one gang over several pools, each with a run of its pipeline stages (`mix: Stages`).

Flows in: a cycle's working copy and a demand that allows a mix. Flows out: `Mix` values, best first, or a `MixRefusal`.
Not here: the gang in a single pool (`search`), and device indices (`place`).

Ranks of a mix count through tensor, context, data and pipeline, so a stage's ranks are neighbours and each pool has one
run of ranks. A pool takes whole stages, in units that end where a worker and the outermost slice end. Which pool takes
how many stages, and in which order along the pipeline, is first timed as if each pool's nodes stood side by side; the
quickest of these are then spread over real nodes, inside one domain of the required level, and timed on their links.
All stages in one pool is such a way too: its layers are balanced likewise, which helps the stage with the output layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from supernode.errors import ChipError, ModelError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.fit import Tree, disjoint, roll_up
from supernode.scheduling.mixclock import Clock, Run
from supernode.scheduling.mixdescent import descend
from supernode.scheduling.score import EQUAL
from supernode.scheduling.search import Search, loose_caps
from supernode.scheduling.snapshot import Int64
from supernode.scheduling.topology import NODE_LEVEL
from supernode.scheduling.unplaceable import MixRefusal, Reason
from supernode.scheduling.work import Room, Work
from supernode.steptime.mixed import MixedStepTime, Shortage, check_stages

#: Pools of one mix at most, and pools that are looked at: those with the fastest stages.
MOST_POOLS: Final = 3
MOST_ASKED: Final = 5
#: Ways to share out the stages that are timed roughly per place, and of these spread over nodes.
MOST_SPLITS: Final = 96
MOST_SPREAD: Final = 8
#: Domains per level that are looked at, those that are filled best first.
MOST_DOMAINS: Final = 4
#: Ways to spread one pool's part over its nodes that are combined with the other pools'.
MOST_WAYS: Final = 3
#: Mixes that a descent starts from.
MOST_STARTS: Final = 3


@dataclass(frozen=True, eq=False, slots=True)
class Mix:
    """A gang by stages, over one pool or several.

    Attributes:
        runs: in the order of the pipeline.
        predicted: step time on these links.
        missed: preferred levels whose one domain does not hold it, and stores that it is not close to.
        place: group, name and path of the innermost level of which one domain holds all of it; empty = none.
    """

    runs: tuple[Run, ...]
    predicted: MixedStepTime
    missed: int
    place: tuple[str, str, tuple[str, ...]]

    @property
    def pools(self) -> str:
        """Names of its pools, joined by commas, in the order of the pipeline."""
        return ",".join(run.pool.name for run in self.runs)


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    """One pool as far as a place inside the cluster goes: its room there, in workers and in stages."""

    room: Room
    order: int
    per_row: Int64
    trees: list[Tree]
    loose: bool
    stages: int


@dataclass(eq=False, slots=True)
class Mixer:
    """Looks for mixes of one gang.

    Attributes:
        work: the cycle's working copy.
        demand: allows a mix: it has a model, a parallelism of at least 2 stages, and several pools.
        closed: on no node that is kept for another gang.
        allowed: pool -> workers that the namespace's quota still allows there.
    """

    work: Work
    demand: GangDemand
    closed: bool
    allowed: dict[str, int]
    _ways: dict[tuple[int, str, int], list[tuple[Int64, Int64]]] = field(default_factory=dict)

    def find(self, slower: float = math.inf) -> list[Mix] | MixRefusal:
        """Mixes that fit, the best first; or why there is none.

        Args:
            slower: a mix that takes longer than this is of no use.
        """
        demand = self.demand
        cut = demand.parallelism
        if cut is None or demand.model is None:
            return MixRefusal(Reason.MISCONFIGURED, 0)
        try:
            check_stages(demand.model, cut)
        except ModelError as exc:
            return MixRefusal(Reason.MISCONFIGURED, cut.pipeline, detail=str(exc))
        unit = stage_unit(demand)
        rooms = self._rooms()
        clock = Clock(self.work.live, demand)
        found: list[Mix] = []
        shortage: Shortage | None = None
        best_fit: list[tuple[str, int]] = []
        for number, scope in enumerate(self._scopes([room for room, _ in rooms], unit)):
            parts = self._parts(rooms, scope, unit)
            fits = [(part.room.pool.name, part.stages) for part in parts]
            if sum(count for _, count in fits) > sum(count for _, count in best_fit) or not best_fit:
                best_fit = fits
            splits, short = self._splits(clock, parts, unit, slower)
            shortage = shortage or short
            for split in splits[:MOST_SPREAD]:
                found += self._spread(clock, number, split)
        if not found:
            return self._refusal(rooms, unit, best_fit, shortage, fast=math.isfinite(slower))
        found = ranked(found, self.work)
        return ranked([*found, *descend(clock, found[:MOST_STARTS], self.per_row(rooms), self._mix)], self.work)

    # --- rooms and places -------------------------------------------------------------------------------------------
    def _rooms(self) -> list[tuple[Room, int]]:
        """Room of each pool, with its position in the demand."""
        rooms: list[tuple[Room, int]] = []
        for order, name in enumerate(self.demand.pools):
            pool = self.work.live.pool(name)
            if pool is not None and pool.rows.size:
                rooms.append((self.work.room(pool, self.demand, closed=self.closed), order))
        return rooms

    def per_row(self, rooms: Sequence[tuple[Room, int]]) -> dict[str, Int64]:
        """Pool -> int64 (N,) workers per node."""
        return {room.pool.name: room.per_row for room, _ in rooms}

    def _scopes(self, rooms: list[Room], unit: int) -> Iterator[Int64 | None]:
        """Rows of places that may hold the gang, the innermost first: the most promising domains of each level that the
        wishes allow, and the whole cluster (None) if no level is required.
        """
        demand, cut = self.demand, self.demand.parallelism
        bound = any(c.required for c in demand.constraints)
        for topology in self.work.live.topologies:
            anchors = [a for room in rooms for tree, a in room.trees if tree.topology is topology]
            if not anchors or cut is None:
                continue
            for level in range(len(topology.levels) - 1, max(*anchors, 0) - 1, -1):
                stages = np.zeros(len(topology.domain_names[level]), dtype=np.int64)
                for room in rooms:
                    for tree, _ in room.trees:
                        if tree.topology is topology:
                            stages += self._stages(tree.caps[level], unit)
                able = np.flatnonzero(stages >= cut.pipeline)
                exact = bound and level == max(anchors)
                for domain in able[np.lexsort((able, stages[able]))][: None if exact else MOST_DOMAINS].tolist():
                    start, end = topology.starts[level][domain : domain + 2].tolist()
                    yield topology.node_rows[start:end].astype(np.int64)
        if not bound:
            yield None

    def _stages(self, workers: Int64, unit: int) -> Int64:
        """Stages that so many workers hold, in whole units."""
        cut = self.demand.parallelism
        held = workers * self.demand.devices // stage_devices(self.demand)
        pipeline = 0 if cut is None else cut.pipeline
        return np.where(held >= pipeline, pipeline, held - held % unit)

    def _parts(self, rooms: list[tuple[Room, int]], scope: Int64 | None, unit: int) -> list[_Part]:
        """What each pool has in a place; only pools with room for a unit."""
        parts: list[_Part] = []
        for room, order in rooms:
            per_row, trees = room.per_row, [tree for tree, _ in room.trees]
            if scope is not None:
                per_row = np.zeros_like(per_row)
                per_row[scope] = room.per_row[scope]
                trees = [roll_up(tree.topology, per_row, tree.quanta) for tree in trees]
                trees = [tree for tree in trees if tree.caps[0].any()]
            most = sum(int(tree.caps[0].sum()) for tree in disjoint(trees))
            if scope is None and room.loose.size:
                most += int(loose_caps(per_row, room.loose, self.demand).sum())
            most = min(most, self.allowed.get(room.pool.name, most))
            stages = int(self._stages(np.asarray([most], dtype=np.int64), unit)[0])
            if stages:
                parts.append(_Part(room, order, per_row, trees, scope is None, stages))
        return parts

    # --- who takes how many stages ----------------------------------------------------------------------------------
    def _splits(
        self, clock: Clock, parts: list[_Part], unit: int, slower: float
    ) -> tuple[list[tuple[tuple[_Part, int], ...]], Shortage | None]:
        """Ways to share out the stages, the quickest first, and what their memory lacks if it is that."""
        pace: dict[str, float] = {}
        for part in parts:
            try:
                pace[part.room.pool.name] = clock.stage_pace(part.room.pool, int(part.per_row.max(initial=0)))
            except (ChipError, ModelError):
                continue
        able = [part for part in parts if part.room.pool.name in pace]
        able = sorted(able, key=lambda part: (pace[part.room.pool.name], part.order))[:MOST_ASKED]
        rough: list[tuple[float, int, tuple[tuple[_Part, int], ...]]] = []
        pipeline = clock.stages
        for count in range(1, min(MOST_POOLS, len(able)) + 1):
            for chosen in itertools.permutations(able, count):
                for sizes in _compositions(pipeline, unit, [part.stages for part in chosen]):
                    speed = sum(size / pace[p.room.pool.name] for p, size in zip(chosen, sizes, strict=True))
                    rough.append((-speed, count, tuple(zip(chosen, sizes, strict=True))))
        rough.sort(key=lambda item: (item[0], item[1], [(p.order, size) for p, size in item[2]]))
        timed: list[tuple[float, int, tuple[tuple[_Part, int], ...]]] = []
        shortage: Shortage | None = None
        for index, (_, count, split) in enumerate(rough):
            if len(timed) >= MOST_SPREAD and index >= MOST_SPLITS:
                break
            ideal = [(part.room.pool, size, int(part.per_row.max(initial=0))) for part, size in split]
            step = clock.side_by_side(ideal)
            if isinstance(step, Shortage):
                shortage = step if shortage is None or step.held > shortage.held else shortage
            elif step.seconds < slower:
                timed.append((step.seconds, count, split))
        timed.sort(key=lambda item: item[:2])
        return [split for _, _, split in timed], shortage

    # --- onto nodes -------------------------------------------------------------------------------------------------
    def _spread(self, clock: Clock, number: int, split: tuple[tuple[_Part, int], ...]) -> list[Mix]:
        """Ways to put these numbers of stages on real nodes; `number`: of the place."""
        per_part: list[list[Run]] = []
        first = 0
        for part, size in split:
            workers = clock.workers_of(first, size)
            first += size
            key = (number, part.room.pool.name, workers)
            if key not in self._ways:
                self._ways[key] = self._ways_of(part, workers)
            per_part.append([Run(part.room.pool, size, rows, takes) for rows, takes in self._ways[key]])
        found = [self._mix(clock, runs) for runs in itertools.product(*per_part)]
        return [mix for mix in found if mix is not None]

    def _ways_of(self, part: _Part, workers: int) -> list[tuple[Int64, Int64]]:
        """Rows and workers on each: a few ways to spread a run of ranks over one pool's nodes, compact ones first."""
        demand, pool = self.demand, part.room.pool
        run = replace(
            demand,
            pools=(pool.name,),
            workers=workers,
            min_count=None,
            constraints=(),
            model=None,
            parallelism=None,
            mix="None",
            eligible={},
        )
        loose = part.room.loose if part.loose else part.room.loose[:0]
        search = Search(pool, part.order, run, workers, part.per_row, part.trees, loose)
        options = search.ways(part.trees, part.per_row, 1)
        for size in group_sizes(demand, workers):
            aligned = [tree for tree in (search.aligned(tree, size) for tree in part.trees) if tree is not None]
            options += search.ways(aligned, part.per_row, size)
        ways: dict[tuple[bytes, bytes], tuple[Int64, Int64]] = {}
        for option in sorted(options, key=lambda option: option.seconds):
            rows, takes = option.rows(), option.template.takes
            ways.setdefault((rows.tobytes(), takes.tobytes()), (rows, takes))
        return list(ways.values())[:MOST_WAYS]

    def _mix(self, clock: Clock, runs: tuple[Run, ...]) -> Mix | None:
        """The runs with their step time; None if the stages' memory does not hold the layers."""
        step = clock.step(runs)
        if isinstance(step, Shortage):
            return None
        rows = np.concatenate([run.rows for run in runs])
        group, whole, path, topology = clock.common(rows)
        missed = clock.far(runs)
        for wish in self.demand.constraints:
            index = -1 if topology is None else topology.level_index(wish.level)
            missed += not wish.required and not 0 <= index <= whole
        name = "" if topology is None or whole < 0 else topology.levels[whole].name
        return Mix(runs, step, missed, (group, name, path))

    def _refusal(
        self,
        rooms: list[tuple[Room, int]],
        unit: int,
        fits: list[tuple[str, int]],
        shortage: Shortage | None,
        *,
        fast: bool,
    ) -> MixRefusal:
        """Why no mix is possible, or none that is fast enough."""
        cut = self.demand.parallelism
        pipeline = 0 if cut is None else cut.pipeline
        layers = 0 if self.demand.model is None else self.demand.model.layers
        required = [c.level for c in self.demand.constraints if c.required]
        level = required[-1] if required else ""
        empty = self._if_empty(rooms, unit)
        if level == NODE_LEVEL:
            return MixRefusal(Reason.TOPOLOGY_PLACEMENT_FAILED, pipeline, level=level)
        if shortage is not None and not fast:
            code = Reason.OUT_OF_DEVICE_MEMORY
            return MixRefusal(code, pipeline, tuple(fits), empty, level, held=shortage.held, layers=layers)
        everywhere = sum(
            int(self._stages(np.asarray([int(room.per_row.sum())], dtype=np.int64), unit)[0]) for room, _ in rooms
        )
        code = Reason.TOPOLOGY_PLACEMENT_FAILED if everywhere >= pipeline else Reason.INSUFFICIENT_ACCELERATORS
        return MixRefusal(code, pipeline, tuple(fits), empty, level)

    def _if_empty(self, rooms: list[tuple[Room, int]], unit: int) -> int:
        """Stages that the pools would take if nothing ran on their open nodes, wherever these are."""
        live, total = self.work.live, 0
        for room, _ in rooms:
            whole = np.bitwise_count(live.device_all[room.open]).astype(np.int64) // self.demand.devices
            total += int(self._stages(np.asarray([int(whole.sum())], dtype=np.int64), unit)[0])
        return total


def stage_devices(demand: GangDemand) -> int:
    """Devices of one pipeline stage."""
    cut = demand.parallelism
    return demand.devices if cut is None else cut.tensor * cut.context * cut.data


def stage_unit(demand: GangDemand) -> int:
    """Stages after which both a worker and a slice end; all of them, if no fewer do."""
    cut = demand.parallelism
    each = stage_devices(demand)
    whole = demand.devices * (demand.slices[0].size if demand.slices else 1)
    unit = whole // math.gcd(each, whole)
    return unit if cut is None else min(unit, cut.pipeline)


def group_sizes(demand: GangDemand, workers: int) -> list[int]:
    """Numbers of neighbouring workers of a run that it may pay to keep together: a tensor group, a stage."""
    cut = demand.parallelism
    sizes: list[int] = []
    if cut is not None:
        for ranks in (cut.tensor * cut.context, stage_devices(demand)):
            size, rest = divmod(ranks, demand.devices)
            if not rest and 1 < size < workers and not workers % size and size not in sizes:
                sizes.append(size)
    return sizes


def ranked(found: Sequence[Mix], work: Work) -> list[Mix]:
    """Best first: step time, preferred levels missed, fewer pools, room left beside it on its nodes, names."""
    best = max(min(mix.predicted.seconds for mix in found), 1e-12)
    names = work.live.node_names
    free = np.bitwise_count(work.live.device_free).astype(np.int64)

    def key(mix: Mix) -> tuple[object, ...]:
        slower = max(0, math.floor(math.log(max(mix.predicted.seconds, best) / best) / EQUAL))
        spare = sum(int(free[run.rows].sum()) for run in mix.runs)
        first = tuple(names[int(run.rows[0])] for run in mix.runs)
        taken = tuple((run.pool.name, run.stages, run.rows.tobytes(), run.takes.tobytes()) for run in mix.runs)
        return slower, mix.missed, len(mix.runs), spare, first, taken

    unique: dict[tuple[object, ...], Mix] = {}
    for mix in found:
        unique.setdefault(tuple((r.pool.name, r.rows.tobytes(), r.takes.tobytes()) for r in mix.runs), mix)
    return sorted(unique.values(), key=key)


def _compositions(total: int, unit: int, most: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Ways to share `total` out, at least one unit and at most `most` each; all but the last in whole units."""
    if len(most) == 1:
        if total <= most[0]:
            yield (total,)
        return
    for size in range(unit, min(most[0], total - 1) + 1, unit):
        for rest in _compositions(total - size, unit, most[1:]):
            yield (size, *rest)
