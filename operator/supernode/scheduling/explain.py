"""One English sentence for a decision: what was asked, what is free where, what is missing, who holds it.

Flows in: a result of `place`, the snapshot it was made on, the demand. Flows out: text, for conditions, events and
`supernode place`. It is the only module of `scheduling` that writes English; numbers come from the counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from supernode.scheduling import discretion
from supernode.scheduling.alternatives import Alternative
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.placement import Placement, RunnerUp
from supernode.scheduling.promise import PER_TFLOPS
from supernode.scheduling.search import anchor_level
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.topology import NODE_LEVEL
from supernode.scheduling.unplaceable import MixRefusal, PoolRefusal, Reason, Unplaceable
from supernode.scheduling.work import open_rows

_LISTED: Final = 6  # domains or holders that a sentence names
_GIB: Final = 2**30


def explain(result: Placement | Unplaceable, snapshot: Snapshot, demand: GangDemand) -> str:
    """The sentence. For a gang that asked for several pools, the nearest in full and the others by their reason."""
    if isinstance(result, Placement):
        return _placed(result, demand)
    # A queue often holds many gangs that ask the same and are refused alike.
    asked = ("sentence", result, demand.question, demand.pools, demand.namespace)
    if asked not in snapshot.memo:
        snapshot.memo[asked] = _refused(result, snapshot, demand)
    return str(snapshot.memo[asked])


def _refused(result: Unplaceable, snapshot: Snapshot, demand: GangDemand) -> str:
    nearest = result.nearest
    alone = any(refusal.code is result.code for refusal in result.pools)
    whole = result.mix is None or (alone and (bool(result.mix.detail) or result.code is Reason.WAITING_FOR_QUOTA))
    sentence = _WRITERS[result.code](nearest, snapshot, demand) if whole else ""
    if result.mix is not None and not whole:
        sentence = _mixed(result.mix, snapshot, demand)
    if result.reserved_for:
        pool = snapshot.pool(nearest.pool)
        mask = demand.eligible.get(nearest.pool)
        usable = None if pool is None else open_rows(snapshot, pool, demand, mask)
        free = 0 if usable is None else int(np.bitwise_count(snapshot.device_free[usable]).sum())
        sentence = (
            f"{_asked(demand, snapshot)}; pool {nearest.pool} has {free} devices free, but they are kept for "
            f"{discretion.named(demand.namespace, result.reserved_for)}, which comes first and waits for more to end"
        )
    others = [refusal for refusal in result.pools if refusal is not nearest or not whole]
    if others:
        sentence += "; " + ", ".join(f"pool {refusal.pool}: {_brief(refusal, demand)}" for refusal in others)
    return sentence


def explain_alternatives(found: Sequence[Alternative]) -> str:
    """What would help, in one sentence: `fits now with 48 workers; or at level spine, predicted 1.31x slower`."""
    parts: list[str] = []
    for item in found:
        if item.workers:
            parts.append(f"fits now with {_count(item.workers, 'worker')}")
        elif item.level:
            where = "without a required level" if item.level == "any" else f"at level {item.level}"
            parts.append(f"fits {where}" + ("" if item.slower is None else f", predicted {_times(item.slower)}"))
        elif item.seconds is not None:
            parts.append(f"free in about {_span(item.seconds)} when {item.after} ends")
        elif item.preemption is not None:
            plan = item.preemption
            names = [*plan.gangs, *(f"{_count(n, 'worker')} of {key}" for key, n in plan.shrunk)]
            lost = f", doing {_span(plan.lost_seconds)} of work again" if plan.lost_seconds else ""
            parts.append(f"fits if {' and '.join(names)} gave way{lost}")
        elif item.moves is not None:
            shift = item.moves
            moves = [f"{move.key} to {'/'.join(move.domain) or ', '.join(move.nodes)}" for move in shift.moves]
            cost = (
                f"{shift.cost:.0f} device-seconds stand still, {_count(shift.devices, 'device')} gain {shift.gain:.0f}"
            )
            parts.append(f"fits after moving {' and '.join(moves)} ({cost})")
    return "; ".join(parts)


def _times(ratio: float) -> str:
    if ratio > 1.005:
        return f"{ratio:.2f}x slower"
    return "as fast" if ratio > 0.995 else f"{1 / ratio:.2f}x faster"


def _span(seconds: float) -> str:
    """`40 min`, in the largest unit that gives two digits."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _placed(placement: Placement, demand: GangDemand) -> str:
    workers = len(placement.node_of)
    count = _count(workers, "worker") if workers == demand.workers else f"{workers} of {demand.workers} workers"
    where = f", {placement.level} {'/'.join(placement.domain)}" if placement.level else ""
    text = f"{count} on {_count(len(placement.nodes), 'node')} of {_pools(placement)}{where}"
    if placement.predicted is not None:
        step = placement.predicted
        text += f"; predicted {_seconds(step.seconds)} a step at {step.mfu:.1%} MFU"
        text += "" if step.calibrated else " (with default constants)"
    elif placement.note:
        text += f"; step time not predicted: {placement.note}"
    rivals = [_rival(rival, placement.pool) for rival in placement.runners_up[:2]]
    return f"{text}; next best: {', '.join(rivals)}" if rivals else text


def _rival(rival: RunnerUp, pool: str) -> str:
    """`supernode spine-0/sn-1 (12.3 ms)`, with the pool where it is another one."""
    where = f"{rival.level} {'/'.join(rival.domain)}".strip()
    if rival.pool != pool or not where:
        where = f"pool {rival.pool.replace(',', ' and ')} {where}".strip()
    return where if rival.seconds is None else f"{where} ({_seconds(rival.seconds)})"


def _pools(placement: Placement) -> str:
    """`pool dcu`, or `pools dcu (2 stages, 30 layers) and npu (2 stages, 66 layers)`."""
    if len(placement.pools) == 1:
        return f"pool {placement.pool}"
    parts: list[str] = []
    for name in placement.pools:
        mine = [stage.layers for stage in placement.stages if stage.pool == name]
        parts.append(f"{name} ({_count(len(mine), 'stage')}, {_count(sum(mine), 'layer')})" if mine else name)
    return f"pools {' and '.join(parts)}"


def _mixed(mix: MixRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    """Why its stages can't be spread over the pools: how many each takes, and how many are missing."""
    text = f"{_asked(demand, snapshot)} as {_count(mix.stages, 'pipeline stage')}"
    taken = sum(count for _, count in mix.fits)
    each = ", ".join(f"{name} {count}" for name, count in mix.fits)
    if mix.detail:
        return f"{text}; {mix.detail}"
    if mix.code is Reason.OUT_OF_DEVICE_MEMORY:
        return (
            f"{text}; the devices of the stages hold {mix.held} of {_count(mix.layers, 'layer')}; more tensor or "
            "pipeline parallelism, recompute or a smaller micro batch helps"
        )
    where = f"at most {taken} fit in one {mix.level}" if mix.level else f"{taken} fit over its pools now"
    text += f"; {where}{f' ({each})' if each else ''}"
    if taken < mix.stages:
        missing = mix.stages - taken
        text += f", {missing} more {'is' if missing == 1 else 'are'} missing"
    if mix.empty < mix.stages:
        text += f"; waiting won't help: even empty pools would take only {_count(mix.empty, 'stage')}"
    return text


def _asked(demand: GangDemand, snapshot: Snapshot) -> str:
    """`needs 4 workers x 2 hygon.com/hcu in one spine (8 devices)`."""
    resource = _resource(demand, snapshot)
    count = f"{demand.fewest} to {demand.workers} workers" if demand.fewest < demand.workers else ""
    text = f"needs {count or _count(demand.workers, 'worker')} x {demand.devices} {resource}"
    required = [c.level for c in demand.constraints if c.required]
    if required:
        text += f" in one {required[-1]}"
    for item in demand.slices:
        text += f", each {item.size} ranks in one {item.level}"
    return f"{text} ({_count(demand.fewest * demand.devices, 'device')})"


def _resource(demand: GangDemand, snapshot: Snapshot) -> str:
    """What the devices of the first known pool are called, such as `hygon.com/hcu`."""
    pool = next((p for name in demand.pools if (p := snapshot.pool(name)) is not None), None)
    return "accelerators" if pool is None else snapshot.resources[pool.resource]


def _accelerators(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    text = f"{_asked(demand, snapshot)}; {_pool_numbers(refusal, snapshot)}{_where(refusal, snapshot, demand)}"
    if not refusal.nodes:
        return f"{_asked(demand, snapshot)}; {_pool_numbers(refusal, snapshot)}"
    missing = demand.fewest * demand.devices - refusal.free
    if missing > 0:
        text += f"; {missing} more {'is' if missing == 1 else 'are'} missing"
    else:
        text += f"; in pieces too small: {refusal.fits} of {demand.workers} workers find {demand.devices} on one node"
    return text + _never(refusal, demand) + _who(refusal, snapshot, demand)


def _node_resources(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    amount = demand.request.get(refusal.resource, 0)
    unit = {"cpu": f"{amount / 1000:g} CPU"}.get(refusal.resource, f"{_amount(refusal.resource, amount)}")
    return (
        f"{_asked(demand, snapshot)} and {unit} a worker; {_pool_numbers(refusal, snapshot)}, but {refusal.resource} "
        f"is short there: only {refusal.fits} of {demand.workers} workers fit"
        + _never(refusal, demand)
        + _who(refusal, snapshot, demand)
    )


def _topology(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    text = f"{_asked(demand, snapshot)}; {_pool_numbers(refusal, snapshot)}{_where(refusal, snapshot, demand)}"
    if refusal.detail:
        return f"{text}; {refusal.detail} among the nodes of this pool"
    place = f"one {refusal.level}" if refusal.level else "whole slices"
    text += f", but at most {refusal.fits} of {demand.workers} workers fit in {place}"
    return text + _never(refusal, demand) + _who(refusal, snapshot, demand)


def _quota(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    needed, who = demand.fewest * demand.devices, _who(refusal, snapshot, demand, own=True)
    if refusal.compute:
        return f"{_asked(demand, snapshot)}; {_promise(refusal, demand)}{who}"
    return (
        f"{_asked(demand, snapshot)}; namespace {demand.namespace} holds {refusal.used} of its limit of "
        f"{_count(refusal.limit, 'device')} in pool {refusal.pool}, so {refusal.used + needed - refusal.limit} must be "
        f"freed first{who}"
    )


def _promise(refusal: PoolRefusal, demand: GangDemand) -> str:
    asked, used, limit = (f"{mega / PER_TFLOPS:.4g}" for mega in (refusal.compute, refusal.used, refusal.limit))
    uses = f"namespace {demand.namespace} uses {used} of at most {limit} there"
    return f"its place in pool {refusal.pool} promises {asked} TFLOPS, {uses}"


def _over_quota(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    text, mine = _asked(demand, snapshot), f"namespace {demand.namespace} has in pool {refusal.pool}"
    if refusal.compute:
        return f"{text}; {_promise(refusal, demand)}; ask for less, or have limitTFLOPS of the quota raised"
    return f"{text}, more than the limit of {refusal.limit} that {mine}; ask for fewer, or have the pool's quota raised"


def _memory(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    pool = snapshot.pool(refusal.pool)
    chip = "its chip" if pool is None else pool.chip.name
    return (
        f"needs {refusal.used / _GIB:.1f} GiB on each device, but {chip} of pool {refusal.pool} has "
        f"{refusal.limit / _GIB:.1f} GiB; more tensor or pipeline parallelism, recompute or a smaller micro batch helps"
    )


def _no_pool(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    names = ", ".join(pool.name for pool in snapshot.pools[:_LISTED]) or "none"
    if refusal.detail:
        return f"{_asked(demand, snapshot)}; pool {refusal.pool} has no nodes: its nodeSelector matches none"
    return f"{_asked(demand, snapshot)}; there is no pool {refusal.pool}; the pools are: {names}"


def _misconfigured(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    return f"can't be cut as asked: {refusal.detail}"


def _repair(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    if not refusal.wanted:
        return f"{_asked(demand, snapshot)}; {_pool_numbers(refusal, snapshot)}; waits until a part of it is repaired"
    where = f"in {refusal.level} {'/'.join(refusal.domain)}" if refusal.domain else f"in pool {refusal.pool}"
    if refusal.level and not refusal.domain:
        where = f"in any one {refusal.level} of pool {refusal.pool}"
    return (
        f"lost {refusal.detail}; {_count(refusal.wanted, 'worker')} x {demand.devices} "
        f"{_resource(demand, snapshot)} must be replaced {where}, where {refusal.fits} of {refusal.wanted} fit; "
        f"{_pool_numbers(refusal, snapshot)}; the gang goes on when these nodes are back or others there are free"
    )


def _preemption(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    text = f"{_asked(demand, snapshot)}; {_pool_numbers(refusal, snapshot)}"
    if not refusal.detail:
        return f"{text}; waits for gangs of lower priority to give way"
    lost = f", doing {_span(refusal.used)} of work again" if refusal.used else ""
    return f"{text}; starts when {refusal.detail} has given way{lost}"


def _suspended(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    return (
        f"{_asked(demand, snapshot)}, but is suspended and holds nothing; {_pool_numbers(refusal, snapshot)}; "
        "it queues again when spec.runPolicy.suspend is false"
    )


_WRITERS: Final = {
    Reason.INSUFFICIENT_ACCELERATORS: _accelerators,
    Reason.INSUFFICIENT_NODE_RESOURCES: _node_resources,
    Reason.TOPOLOGY_PLACEMENT_FAILED: _topology,
    Reason.WAITING_FOR_QUOTA: _quota,
    Reason.EXCEEDS_MAX_QUOTA: _over_quota,
    Reason.OUT_OF_DEVICE_MEMORY: _memory,
    Reason.NO_MATCHING_POOL: _no_pool,
    Reason.MISCONFIGURED: _misconfigured,
    Reason.WAITING_FOR_PREEMPTION: _preemption,
    Reason.WAITING_FOR_REPAIR: _repair,
    Reason.SUSPENDED: _suspended,
}


def _brief(refusal: PoolRefusal, demand: GangDemand) -> str:
    """A few words about a pool that is not the nearest."""
    if refusal.compute:
        return f"quota {refusal.used / PER_TFLOPS:.4g} of {refusal.limit / PER_TFLOPS:.4g} TFLOPS used"
    words: Mapping[Reason, str] = {
        Reason.NO_MATCHING_POOL: refusal.detail or "does not exist",
        Reason.OUT_OF_DEVICE_MEMORY: f"{refusal.used / _GIB:.1f} of {refusal.limit / _GIB:.1f} GiB a device needed",
        Reason.WAITING_FOR_QUOTA: f"quota {refusal.used} of {refusal.limit} used",
        Reason.EXCEEDS_MAX_QUOTA: f"quota limit {refusal.limit}",
        Reason.MISCONFIGURED: refusal.detail,
    }
    return words.get(
        refusal.code,
        f"{refusal.free} of {refusal.devices} devices free, {refusal.fits} of {demand.workers} workers fit",
    )


def _pool_numbers(refusal: PoolRefusal, snapshot: Snapshot) -> str:
    if refusal.excluded and not refusal.nodes:
        those = "the one node" if refusal.excluded == 1 else f"none of the {refusal.excluded} nodes"
        verb = "is not" if refusal.excluded == 1 else "is"
        return (
            f"{those} of pool {refusal.pool} {verb} ready and open to this job (cordons, taints, its node selector and "
            "affinity decide that)"
        )
    text = f"pool {refusal.pool} has {_count(refusal.devices, 'device')} on {_count(refusal.nodes, 'node')}"
    if refusal.excluded:
        text += f" ({refusal.excluded} more not ready or closed to this job)"
    sick = _unhealthy(refusal.pool, snapshot)
    return f"{text}, {refusal.free} free" + (f", {sick} unhealthy" if sick else "")


def _unhealthy(name: str, snapshot: Snapshot) -> int:
    """Devices of a pool that exist and must not be used."""
    pool = snapshot.pool(name)
    if pool is None:
        return 0
    there, sound = snapshot.capacity[pool.rows, pool.resource], np.bitwise_count(snapshot.device_all[pool.rows])
    return int(there.sum()) - int(sound.sum())


def _where(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    """`: sn-0 0, sn-1 4`, free devices by domain of the innermost level that names few enough; empty if none does."""
    mask = demand.eligible.get(refusal.pool)
    asked = ("where", refusal.pool, demand.constraints, demand.slices, id(mask))
    if asked not in snapshot.memo:
        snapshot.memo[asked] = _free_by_domain(refusal, snapshot, demand), mask  # kept: its id must stay its own
    return str(snapshot.memo[asked][0])


def _free_by_domain(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand) -> str:
    pool = snapshot.pool(refusal.pool)
    if pool is None:
        return ""
    free = np.zeros(len(snapshot.node_names), dtype=np.int64)
    inside = open_rows(snapshot, pool, demand, demand.eligible.get(pool.name))
    free[inside] = np.bitwise_count(snapshot.device_free[inside])
    pieces: list[str] = []
    left_out = 0
    for topology in snapshot.topologies:
        members = inside[topology.node_rows]
        if not members.any() or anchor_level(topology, demand) is None:
            continue
        inside[topology.node_rows] = False  # a node that several groups hold is told of once
        for level in range(len(topology.levels) - 1, -1, -1):
            where = topology.node_domain[members, level]
            domains = np.unique(where)
            if domains.size <= _LISTED or level == 0:
                break
        sums = np.bincount(where, weights=free[topology.node_rows[members]])
        listed = domains[:_LISTED].tolist()
        pieces += [f"{topology.domain_names[level][d]} {int(sums[d])}" for d in listed]
        left_out += domains.size - len(listed)
    if not pieces:
        return ""
    if left_out:
        pieces.append(f"and {left_out} more domains")
    return ": " + ", ".join(pieces)


def _who(refusal: PoolRefusal, snapshot: Snapshot, demand: GangDemand, *, own: bool = False) -> str:
    """`; default/gpt holds 4, 2 gangs of other namespaces hold 12`; `own`: of the gang's own namespace alone."""
    asked = ("who", refusal.pool, demand.namespace, own)
    if asked not in snapshot.memo:
        text = discretion.holders(demand.namespace, snapshot.holders_in(refusal.pool), _LISTED, own=own)
        snapshot.memo[asked] = f"; {text}" if text else ""
    return str(snapshot.memo[asked])


def _never(refusal: PoolRefusal, demand: GangDemand) -> str:
    if refusal.fits_empty >= demand.fewest:
        return ""
    where = f"an empty {refusal.level}" if refusal.level and refusal.level != NODE_LEVEL else "empty nodes"
    text = f"; waiting won't help: even {where} would take only {_count(refusal.fits_empty, 'worker')}"
    closed = refusal.excluded
    return text + (f" as long as {_count(closed, 'node')} {'is' if closed == 1 else 'are'} closed" if closed else "")


def _amount(resource: str, amount: int) -> str:
    return f"{amount / _GIB:.1f} GiB {resource}" if amount >= _GIB else f"{amount} {resource}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
