"""Workers that are slower than their like. Pure.

Flows in: what each rank's devices did themselves in a step (without collectives, in which all wait for the slowest), as
its sidecar tells. Flows out: the ranks that stand out, and what they and the communication cost.

Only ranks with equal work are compared: of one pool and the same pipeline stages. One stands out if it is above
median + max(K x 1.4826 x MAD, 10 % of the median), MAD being the median distance from the median; 1.4826 makes it the
standard deviation of a normal distribution. With K = 5 one rank in three million would by chance. It is no straggler
any more below half of that distance. Fewer than three ranks can't tell who of them is slow.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Final

from supernode.api.job import TrainingJob
from supernode.cluster.assignment import workers_of
from supernode.cluster.kinds import Json
from supernode.handlers.goodput import Inside

K: Final = 5.0
LEAST: Final = 0.1
FEWEST: Final = 3
# Stragglers that a status names.
MOST_NAMED: Final = 16


NOTHING: Final = Inside()


@dataclass(frozen=True, slots=True)
class Straggler:
    """A slow rank: `seconds` of its own work in a step, `usual` those of its like."""

    rank: int
    node: str
    seconds: float
    usual: float


@dataclass(frozen=True, slots=True)
class Pace:
    """What the ranks' own times tell: who is slow (the slowest first), and what slows the steps down."""

    stragglers: tuple[Straggler, ...] = ()
    inside: Inside = NOTHING


def pace_of(
    own: Mapping[int, float],
    likes: Mapping[int, Hashable],
    nodes: Mapping[int, str],
    step: float | None,
    known: Collection[int] = (),
) -> Pace:
    """Compare the ranks.

    Args:
        own: rank -> seconds of its own work in a step, of those ranks that were asked.
        likes: rank -> the same value for ranks with equal work.
        nodes: rank -> node.
        step: seconds of a whole step; None = not known.
        known: ranks that were stragglers when last looked at.
    """
    groups: dict[Hashable, list[int]] = {}
    for rank in own:
        if rank in likes:
            groups.setdefault(likes[rank], []).append(rank)
    found: list[Straggler] = []
    for ranks in groups.values():
        if len(ranks) < FEWEST:
            continue
        middle = statistics.median(own[rank] for rank in ranks)
        spread = statistics.median(abs(own[rank] - middle) for rank in ranks)
        distance = max(K * 1.4826 * spread, LEAST * middle)
        for rank in ranks:
            if own[rank] > middle + (distance / 2 if rank in known else distance):
                found.append(Straggler(rank, nodes.get(rank, ""), own[rank], middle))
    found.sort(key=lambda each: (each.usual - each.seconds, each.rank))
    return Pace(tuple(found), _inside(own, found, step))


def likes_of(model: TrainingJob, placement: Json) -> dict[int, Hashable]:
    """Rank -> its pool and the pipeline stages of its devices."""
    cut, devices = model.spec.parallelism, model.spec.accelerators_per_worker
    fold = cut.tensor * cut.context
    workers = workers_of(placement)
    if placement.get("stages"):  # there ranks count through the data before the pipeline
        fold = max(1, len(workers) * devices // max(1, cut.pipeline))
    return {
        worker.rank: (
            worker.pool,
            frozenset((worker.rank * devices + i) // fold % cut.pipeline for i in range(devices)),
        )
        for worker in workers
    }


def stragglers_json(found: Pace, before: Json, stamp: str) -> list[Json]:
    """`status.stragglers`: one that was told of keeps its words, so that each episode is told once."""
    said = {entry.get("rank"): entry for entry in before.get("stragglers") or []}
    return [
        said.get(each.rank)
        or {
            "rank": each.rank,
            "node": each.node,
            "ownSeconds": float(f"{each.seconds:.3g}"),
            "usualSeconds": float(f"{each.usual:.3g}"),
            "since": stamp,
        }
        for each in sorted(found.stragglers[:MOST_NAMED], key=lambda each: each.rank)
    ]


def sentence_of(stragglers: Collection[Json]) -> str:
    """Who is slow, and by how much."""
    if not stragglers:
        return "no worker is slower than its like"
    named = [
        f"worker {entry.get('rank')} on node {entry.get('node')} ({_spell(entry.get('ownSeconds', 0))} of its own work "
        f"in a step, its like {_spell(entry.get('usualSeconds', 0))})"
        for entry in list(stragglers)[:3]
    ]
    more = f" and {len(stragglers) - 3} more" if len(stragglers) > 3 else ""
    return f"slower than its like: {', '.join(named)}{more}; all others wait in every step"


def _spell(seconds: float) -> str:
    """Seconds with three figures, in the unit that people would take."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def _inside(own: Mapping[int, float], found: Collection[Straggler], step: float | None) -> Inside:
    if not own or not step or step <= 0:
        return Inside()
    slowest = max(own.values())
    waited = max((each.seconds - each.usual for each in found), default=0.0)
    return Inside(min(1.0, waited / step), min(1.0, max(0.0, step - slowest) / step))
