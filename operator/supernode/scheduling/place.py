"""Place one gang: the best of all the places where it fits, or why there is none.

Flows in: a `Snapshot` and a `GangDemand`. Flows out: a `Placement` or an `Unplaceable`; nothing is changed. The same
input gives the same output. Not here: the order of several gangs (`cycle`), and words (`explain`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Final, TypeVar

import numpy as np

from supernode.errors import ChipError, ModelError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.devices import link_group, pick_devices, pick_with_masks
from supernode.scheduling.fit import NodeFit, node_fit, roll_up
from supernode.scheduling.linked import untorn
from supernode.scheduling.mix import Mix, Mixer
from supernode.scheduling.placement import Placement, RunnerUp, StageShare
from supernode.scheduling.promise import promised
from supernode.scheduling.quota_room import affordable, affords, refused, workers_left
from supernode.scheduling.rank import rank_options
from supernode.scheduling.score import EQUAL, Option
from supernode.scheduling.search import Search, anchor_level
from supernode.scheduling.snapshot import PoolInfo, Snapshot, emptied
from supernode.scheduling.stores import resolved
from supernode.scheduling.topology import NODE_LEVEL
from supernode.scheduling.unplaceable import MixRefusal, PoolRefusal, Reason, Unplaceable
from supernode.scheduling.work import Room, Work
from supernode.steptime.memory import memory_bytes
from supernode.steptime.model import Parallelism, check

T = TypeVar("T")
#: Runner-up places that a placement names.
RUNNERS_UP: Final = 5

# Nearest to starting first: the code of a gang is that of its nearest pool.
_NEAREST: Final = (
    Reason.WAITING_FOR_QUOTA,
    Reason.TOPOLOGY_PLACEMENT_FAILED,
    Reason.INSUFFICIENT_NODE_RESOURCES,
    Reason.INSUFFICIENT_ACCELERATORS,
    Reason.EXCEEDS_MAX_QUOTA,
    Reason.OUT_OF_DEVICE_MEMORY,
    Reason.MISCONFIGURED,
    Reason.NO_MATCHING_POOL,
)
_WAITING: Final = frozenset(_NEAREST[:4])


def place(snapshot: Snapshot, demand: GangDemand) -> Placement | Unplaceable:
    """Where the gang goes, or why it can't go anywhere now.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """
    return place_in(Work(snapshot), demand, closed=False)


def place_in(work: Work, demand: GangDemand, *, closed: bool) -> Placement | Unplaceable:
    """The same on a cycle's working copy; `closed`: on no node that is kept for another gang.

    Raises:
        InputError: a node mask that does not belong to this cluster.
    """
    demand = with_stores(work, demand)
    if demand.mixable:
        return _place_mixable(work, demand, closed=closed)
    ranked, refusals = _in_one_pool(work, demand, closed=closed)
    return _placement(work.live, demand, ranked) if ranked else _unplaceable(demand, refusals)


def with_stores(work: Work, demand: GangDemand) -> GangDemand:
    """The demand with the figures of the storage that it uses, as many gangs share it now."""
    if demand.storage is None or not demand.storage.names:
        return demand
    return demand.with_storage(resolved(demand.storage, work.live.stores, work.live.holders, demand.key))


def _in_one_pool(work: Work, demand: GangDemand, *, closed: bool) -> tuple[list[Option], list[PoolRefusal]]:
    """Ways to place the gang in one of its pools, best first, and why others can't take it."""
    options: list[Option] = []
    refusals: list[PoolRefusal] = []
    for order, name in enumerate(demand.pools):
        found = _in_pool(work, name, order, demand, closed=closed)
        if isinstance(found, PoolRefusal):
            refusals.append(found)
        else:
            options.extend(found)
    if options and demand.fewest < demand.workers:
        # With several sizes on offer, more workers win; a pool that has room for all is not held back.
        most = max(option.workers for option in options)
        options = [option for option in options if option.workers == most]
    return rank_options(options, demand.model is not None) if options else [], refusals


def _unplaceable(demand: GangDemand, refusals: list[PoolRefusal], mix: MixRefusal | None = None) -> Unplaceable:
    """The refusals of all pools, under the code of the nearest."""
    codes = [refusal.code for refusal in refusals] + ([] if mix is None else [mix.code])
    possible = any(r.code in _WAITING and r.fits_empty >= demand.fewest for r in refusals)
    if mix is not None:
        possible = possible or (mix.code in _WAITING and mix.empty >= mix.stages)
    return Unplaceable(min(codes, key=_NEAREST.index), tuple(refusals), possible, mix=mix)


def _place_mixable(work: Work, demand: GangDemand, *, closed: bool) -> Placement | Unplaceable:
    """In one of its pools or over several of them, whichever has the shorter step; in one, if that is as fast."""
    ranked, refusals = _in_one_pool(work, demand, closed=closed)
    best = ranked[0].template if ranked else None
    limit = math.inf if best is None or best.predicted is None else best.seconds
    allowed = {p.name: workers_left(work, p, demand) for name in demand.pools if (p := work.live.pool(name))}
    found = _affordable_mixes(work, demand, Mixer(work, demand, closed, allowed).find(limit * (1 - EQUAL)))
    if isinstance(found, MixRefusal):
        return _placement(work.live, demand, ranked) if ranked else _unplaceable(demand, refusals, found)
    if found[0].predicted.seconds < limit * (1 - EQUAL) or not ranked:
        return _mixed_placement(work.live, demand, found, ranked)
    return _placement(work.live, demand, ranked)


def _affordable_mixes(work: Work, demand: GangDemand, found: list[Mix] | MixRefusal) -> list[Mix] | MixRefusal:
    """Those whose promises the namespace's quotas leave room for; a refusal if that is none."""
    if isinstance(found, MixRefusal):
        return found
    kept = [mix for mix in found if affords(work, demand, *_priced(mix, demand))]
    if kept:
        return kept
    never = not any(affords(Work(emptied(work.live)), demand, *_priced(mix, demand)) for mix in found)
    code = Reason.EXCEEDS_MAX_QUOTA if never else Reason.WAITING_FOR_QUOTA
    stages = 1 if demand.parallelism is None else demand.parallelism.pipeline
    return MixRefusal(code, stages, empty=stages, detail="together they promise more TFLOPS than a quota leaves")


def _priced(mix: Mix, demand: GangDemand) -> tuple[float, list[tuple[PoolInfo, int]]]:
    return mix.predicted.seconds, _devices_of(mix, demand)


def _devices_of(mix: Mix, demand: GangDemand) -> list[tuple[PoolInfo, int]]:
    return [(run.pool, int(run.takes.sum()) * demand.devices) for run in mix.runs]


def _mixed_placement(snapshot: Snapshot, demand: GangDemand, found: list[Mix], ranked: list[Option]) -> Placement:
    """The best mix with device indices; the next mixes and the best single places as runners-up."""
    best = found[0]
    runs = best.runs
    rows = np.concatenate([run.rows for run in runs])
    takes = np.concatenate([run.takes for run in runs])
    node_of = np.repeat(np.arange(rows.size, dtype=np.int32), takes)
    devices = np.concatenate(
        [pick_devices(snapshot.device_free[run.rows], run.takes, demand.devices, link_group(run.pool)) for run in runs]
    )
    node_of.setflags(write=False)
    devices.setflags(write=False)
    names = snapshot.node_names
    rivals = [RunnerUp(mix.pools, *mix.place[1:], mix.predicted.seconds) for mix in found[1:]]
    for option in ranked:
        step = option.template.predicted
        rivals.append(
            RunnerUp(option.pool.name, *domain_of(snapshot, option)[1:], None if step is None else step.seconds)
        )
    mine = (best.pools, best.place[1], best.place[2])
    others: dict[object, RunnerUp] = {}
    for rival in sorted(rivals, key=lambda rival: math.inf if rival.seconds is None else rival.seconds):
        where = (rival.pool, rival.level, rival.domain)
        if where != mine:
            others.setdefault(where, rival)
    pools = [run.pool.name for run in runs for _ in range(run.stages)]
    return Placement(
        key=demand.key,
        pool=",".join(run.pool.name for run in runs),
        group=best.place[0],
        level=best.place[1],
        domain=best.place[2],
        nodes=tuple(names[row] for row in rows.tolist()),
        node_of=node_of,
        devices=devices,
        predicted=best.predicted,
        runners_up=tuple(others.values())[:RUNNERS_UP],
        rows=rows,
        names=names,
        node_pools=tuple(run.pool.name for run in runs for _ in range(run.rows.size)) if len(runs) > 1 else (),
        stages=tuple(StageShare(pool, stage.chunks) for pool, stage in zip(pools, best.predicted.stages, strict=True)),
        promised=promised(demand, best.predicted.seconds, _devices_of(best, demand)),
    )


def _in_pool(work: Work, name: str, order: int, demand: GangDemand, *, closed: bool) -> list[Option] | PoolRefusal:
    """Ways to place the gang in one pool, or why there is none."""
    pool = work.live.pool(name)
    if pool is None or not pool.rows.size:
        return PoolRefusal(name, Reason.NO_MATCHING_POOL, detail="" if pool is None else "no nodes")
    allowed = demand.workers
    if pool.quotas:
        barrier, allowed = refused(work, pool, demand)
        if barrier is not None:
            return barrier
    barrier = _known(work.facts, ("model", name, demand.question), lambda: _model(pool, demand))
    if barrier is not None:
        return barrier
    room = work.room(pool, demand, closed=closed)
    most = _known(room.memo, "most", lambda: room.most(demand))
    workers = min(demand.workers, most, allowed)
    if demand.slices:
        workers -= workers % demand.slices[0].size
    if workers < demand.fewest or workers < 1:
        return _known(room.memo, ("refusal", demand.fewest), lambda: _refusal(work.live, room, demand, most))
    trees = [tree for tree, _ in room.trees]
    options = Search(pool, order, demand, workers, room.per_row, trees, room.loose, work.brief).options()
    if pool.chip.link_domain:
        options = untorn(work, room, demand, options, workers)
    return affordable(work, pool, demand, options) if pool.quotas else options


def _known(memo: dict[object, Any], key: object, work_out: Callable[[], T]) -> T:
    """What the memo says, or what it will say from now on."""
    if key not in memo:
        memo[key] = work_out()
    result: T = memo[key]
    return result


def _model(pool: PoolInfo, demand: GangDemand) -> PoolRefusal | None:
    """A refusal if the model can't be cut as asked, or needs more memory than the chip has."""
    if demand.model is None:
        return None
    cut = demand.parallelism or Parallelism(data=demand.workers * demand.devices)
    try:
        check(demand.model, cut)
    except ModelError as exc:
        return PoolRefusal(pool.name, Reason.MISCONFIGURED, nodes=int(pool.rows.size), detail=str(exc))
    limit = pool.chip.memory_bytes
    if limit is None:
        return None
    try:
        needed = memory_bytes(pool.chip, demand.model, cut)
    except ChipError:
        return None  # a figure is missing: nothing is known that would forbid it
    if needed <= limit:
        return None
    return PoolRefusal(pool.name, Reason.OUT_OF_DEVICE_MEMORY, nodes=int(pool.rows.size), limit=limit, used=needed)


def _refusal(snapshot: Snapshot, room: Room, demand: GangDemand, most: int) -> PoolRefusal:
    """Why the gang does not fit: accelerators, other resources of the nodes, or the wiring."""
    pool = room.pool
    counts = _known(room.memo, "counts", lambda: _counts(snapshot, room, demand))
    required = [c.level for c in demand.constraints if c.required]
    level = required[-1] if required else ""
    served = any(anchor_level(t, demand) is not None for t in snapshot.topologies)
    detail = ""
    resource = ""
    if counts.by_devices < demand.fewest:
        code = Reason.INSUFFICIENT_ACCELERATORS
    elif counts.now < demand.fewest:
        code = Reason.INSUFFICIENT_NODE_RESOURCES
        resource = counts.short
    else:
        code = Reason.TOPOLOGY_PLACEMENT_FAILED
        wanted = [*required, *(item.level for item in demand.slices)]
        if not served and any(name != NODE_LEVEL for name in wanted):
            detail = f"no group has the level {' and '.join(dict.fromkeys(n for n in wanted if n != NODE_LEVEL))}"
    return PoolRefusal(
        pool=pool.name,
        code=code,
        nodes=counts.nodes,
        excluded=int(pool.rows.size) - counts.nodes,
        devices=counts.devices,
        free=counts.free,
        fits=most,
        fits_empty=counts.empty,
        level=level,
        resource=resource,
        detail=detail,
    )


@dataclass(frozen=True, slots=True)
class _Counts:
    """What a refusal says of a room, whatever the number of workers; workers but for `nodes`, `devices` and `free`."""

    nodes: int
    devices: int
    free: int
    now: int
    by_devices: int
    empty: int
    short: str


def _counts(snapshot: Snapshot, room: Room, demand: GangDemand) -> _Counts:
    fit = node_fit(snapshot, room.pool, demand, room.open)
    open_rows = room.pool.rows[room.open[room.pool.rows]]
    return _Counts(
        nodes=int(open_rows.size),
        devices=int(np.bitwise_count(snapshot.device_all[open_rows]).sum()),
        free=int(np.bitwise_count(snapshot.device_free[open_rows]).sum()),
        now=int(fit.now.sum()),
        by_devices=int(fit.by_devices.sum()),
        empty=if_empty(snapshot, room, demand, fit).most(demand),
        short=fit.short,
    )


def if_empty(snapshot: Snapshot, room: Room, demand: GangDemand, fit: NodeFit) -> Room:
    """The room if nothing ran on its nodes."""
    per_row = np.zeros(len(snapshot.node_names), dtype=np.int64)
    per_row[room.pool.rows] = fit.empty
    trees = []
    for topology in snapshot.topologies:
        anchor = anchor_level(topology, demand)
        if anchor is not None and topology.node_rows.size:
            quanta = {topology.level_index(item.level): item.size for item in demand.slices}
            trees.append((roll_up(topology, per_row, quanta), anchor))
    return replace(room, per_row=per_row, trees=trees, memo={})


def _placement(snapshot: Snapshot, demand: GangDemand, ranked: list[Option]) -> Placement:
    """The best option with device indices, and the runners-up."""
    best = ranked[0]
    group, level, path = domain_of(snapshot, best)
    others: dict[tuple[str, str, tuple[str, ...]], RunnerUp] = {}
    here = (best.pool.name, level, path)
    for option in ranked[1:]:
        rival = option.rival
        if not rival:  # options are kept as long as nothing changes in their domain
            step = option.template.predicted
            where = domain_of(snapshot, option)[1:]
            rival.append(RunnerUp(option.pool.name, *where, None if step is None else step.seconds))
        other = rival[0]
        place_of = (other.pool, other.level, other.domain)
        if place_of != here and place_of not in others:
            others[place_of] = other
            if len(others) == RUNNERS_UP:
                break
    template = best.template
    rows, takes = best.rows(), template.takes
    node_of = np.repeat(np.arange(rows.size, dtype=np.int32), takes)
    devices, masks = pick_with_masks(snapshot.device_free[rows], takes, demand.devices, link_group(best.pool))
    node_of.setflags(write=False)
    devices.setflags(write=False)
    names = snapshot.node_names
    nodes = itemgetter(*rows.tolist())(names) if rows.size > 1 else (names[int(rows[0])],)
    return Placement(
        key=demand.key,
        pool=best.pool.name,
        group=group,
        level=level,
        domain=path,
        nodes=nodes,
        node_of=node_of,
        devices=devices,
        predicted=template.predicted,
        runners_up=tuple(others.values()),
        note=template.note,
        rows=rows,
        names=names,
        promised=promised(demand, best.predicted_seconds, [(best.pool, int(takes.sum()) * demand.devices)]),
        taken=None if masks is None else (takes, masks),
    )


def domain_of(snapshot: Snapshot, option: Option) -> tuple[str, str, tuple[str, ...]]:
    """Group, level name and path of the innermost domain that holds an option."""
    group, level, path, node = option.place()
    if node < 0:
        return group, level, path
    row = node if option.tree is None else int(option.tree.topology.node_rows[node])
    return group, level, (*path, snapshot.node_names[row])
