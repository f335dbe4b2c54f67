"""Every kind of place that could have held a gang, with its step time: so that packing never slows a job down silently.

Flows in: a snapshot, a demand and its placement. Flows out: the placement with fuller runners-up. The search (`place`)
stops at the level where nothing further out can be faster, and names only what it has timed; this looks at every level
that the wishes allow in every pool, and is for people, who can wait a few milliseconds. Not here: words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.fit import Tree
from supernode.scheduling.place import RUNNERS_UP, domain_of, with_stores
from supernode.scheduling.placement import Placement, RunnerUp
from supernode.scheduling.quota_room import affords, workers_left
from supernode.scheduling.score import Option, most_promising, tree_template
from supernode.scheduling.snapshot import PoolInfo, Snapshot
from supernode.scheduling.spread import Spread, allot, spread_below, spread_domain
from supernode.scheduling.work import Work

#: Domains per level that are timed.
PER_LEVEL = 3


def survey(snapshot: Snapshot, demand: GangDemand, placement: Placement) -> Placement:
    """The placement with the next best place of every level and pool that could hold the gang, at most `RUNNERS_UP`.

    Where there are more, the best of each level and pool come first; all are in the order of their step times.

    Args:
        snapshot: that it was placed on.
        demand: of the gang; its node masks belong to the snapshot.
        placement: where it goes.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """
    work = Work(snapshot)
    demand = with_stores(work, demand)
    workers = int(placement.node_of.size)
    mine = (placement.pool, placement.level, placement.domain)
    timed: dict[tuple[str, str, tuple[str, ...]], tuple[float, RunnerUp]] = {}
    for rival in placement.runners_up:
        timed[rival.pool, rival.level, rival.domain] = math.inf if rival.seconds is None else rival.seconds, rival
    for order, name in enumerate(demand.pools):
        pool = snapshot.pool(name)
        if pool is None or not pool.rows.size or workers_left(work, pool, demand) < workers:
            continue
        room = work.room(pool, demand, closed=False)
        for tree, anchor in room.trees:
            for option in _options(tree, pool, order, demand, workers, anchor):
                if not affords(work, demand, option.predicted_seconds, [(pool, workers * demand.devices)]):
                    continue
                where = (pool.name, *domain_of(snapshot, option)[1:])
                step = option.template.predicted
                rival = RunnerUp(*where, None if step is None else step.seconds)
                if where != mine and (where not in timed or option.seconds < timed[where][0]):
                    timed[where] = option.seconds, rival
    ranked = sorted(timed.values(), key=lambda item: (item[0], item[1].pool, item[1].level, item[1].domain))
    first: dict[tuple[str, str], RunnerUp] = {}
    for _, rival in ranked:
        first.setdefault((rival.pool, rival.level), rival)
    kept = [*first.values(), *(rival for _, rival in ranked if rival not in first.values())][:RUNNERS_UP]
    return replace(placement, runners_up=tuple(rival for _, rival in ranked if rival in kept))


def _options(tree: Tree, pool: PoolInfo, order: int, demand: GangDemand, workers: int, anchor: int) -> Iterator[Option]:
    """A few ways to use one domain of every level that holds the gang, from the inside out."""
    for level in range(tree.depth, max(anchor, 0) - 1, -1):
        if tree.most(level) < workers:
            continue
        for domain in most_promising(tree, level, workers, PER_LEVEL):
            spreads = [spread_domain(tree, level, domain, workers, even=even) for even in (False, True)]
            across = _across(tree, level, domain, workers)
            for spread in spreads if across is None else [*spreads, across]:
                yield Option(pool, order, tree, tree_template(tree, pool, demand, spread))


def _across(tree: Tree, level: int, domain: int, workers: int) -> Spread | None:
    """Half of the gang in each of the two emptiest parts of a domain; None if they don't have the room."""
    if level == tree.depth or workers < 2:
        return None
    first, last = tree.children[level][domain : domain + 2].tolist()
    caps = tree.caps[level + 1][first:last]
    if caps.size < 2:
        return None
    unit = tree.units[level + 1]
    chosen = np.sort(np.lexsort((np.arange(caps.size), -caps))[:2])
    half = -(-workers // (2 * unit)) * unit
    room = np.minimum(caps[chosen], half)
    if int(room.sum()) < workers or workers % unit:
        return None
    shares = allot(np.zeros(2, dtype=np.int64), room, np.asarray([workers], dtype=np.int64), unit, even=True)
    if not shares.all():
        return None
    return spread_below(tree, level + 1, first + chosen.astype(np.int64), shares, even=False)
