"""What quotas leave of a pool for one gang: how many workers, and which of the places that it could have.

Flows in: a cycle's working copy and a demand. Flows out: numbers of workers, places that may be taken, refusals. A gang
that runs already, and is placed anew with no more devices than it had, may take a place that promises more than its
quota in compute allows: a repair or a move must not stop it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.promise import promised
from supernode.scheduling.quota import Quota
from supernode.scheduling.score import Option
from supernode.scheduling.snapshot import PoolInfo
from supernode.scheduling.unplaceable import PoolRefusal, Reason
from supernode.scheduling.work import Work


def workers_left(work: Work, pool: PoolInfo, demand: GangDemand) -> int:
    """Workers that the namespace's quota in a pool still allows, as far as that is known before there is a place."""
    left = demand.workers
    quota = pool.quota_of(demand.namespace)
    if quota is None:
        return left
    if quota.limit is not None:
        left = min(left, max(0, quota.limit - work.held(pool.name, demand.namespace)) // demand.devices)
    room = _peak_room(work, pool, demand)
    return left if room is None else min(left, room)


def refused(work: Work, pool: PoolInfo, demand: GangDemand) -> tuple[PoolRefusal | None, int]:
    """A refusal, or how many workers the namespace's quota still allows."""
    quota = pool.quota_of(demand.namespace)
    if quota is None:
        return None, demand.workers
    left = workers_left(work, pool, demand)
    if left >= demand.fewest:
        return None, left
    needed, used = demand.fewest * demand.devices, work.amount(pool.name, demand.namespace)
    if quota.limit is not None and used.devices + needed > quota.limit:
        return _refusal(work, pool, demand, quota.limit, used.devices, over=needed > quota.limit), 0
    return _compute_refusal(work, pool, demand, needed * pool.peak), 0


def affords(work: Work, demand: GangDemand, seconds: float | None, devices: Iterable[tuple[PoolInfo, int]]) -> bool:
    """Whether the namespace's quotas in compute leave room for a place with this step time."""
    taken = list(devices)
    if not any(work.compute_left(pool, demand.namespace) is not None for pool, _ in taken):
        return True
    if sum(count for _, count in taken) <= work.ran(demand.key):
        return True
    wanted = dict(promised(demand, seconds, taken)) or {pool.name: count * pool.peak for pool, count in taken}
    left = {pool.name: work.compute_left(pool, demand.namespace) for pool, _ in taken}
    return all(room is None or wanted[name] <= room for name, room in left.items())


def affordable(work: Work, pool: PoolInfo, demand: GangDemand, options: list[Option]) -> list[Option] | PoolRefusal:
    """Those of a gang's places in one pool that the namespace's quota leaves room for; a refusal if that is none."""
    if work.compute_left(pool, demand.namespace) is None or not options:
        return options
    kept = [one for one in options if affords(work, demand, one.predicted_seconds, [(pool, _devices(one, demand))])]
    if kept:
        return kept
    asked = []
    for one in options:
        count = _devices(one, demand)
        asked += [compute for _, compute in promised(demand, one.predicted_seconds, [(pool, count)])] or [
            count * pool.peak
        ]
    return _compute_refusal(work, pool, demand, min(asked))


def _devices(option: Option, demand: GangDemand) -> int:
    return option.workers * demand.devices


def _peak_room(work: Work, pool: PoolInfo, demand: GangDemand) -> int | None:
    """Workers that the quota in compute allows, of a gang that counts with its devices' peak; None = any number."""
    left = work.compute_left(pool, demand.namespace)
    if left is None or demand.model is not None or not pool.peak:
        return None
    room = left // (pool.peak * demand.devices)
    return max(room, work.ran(demand.key) // demand.devices)


def _compute_refusal(work: Work, pool: PoolInfo, demand: GangDemand, asked: int) -> PoolRefusal:
    quota = pool.quota_of(demand.namespace) or Quota(demand.namespace)
    limit = quota.limit_compute or 0
    used = work.amount(pool.name, demand.namespace).compute
    return _refusal(work, pool, demand, limit, used, over=asked > limit, compute=asked)


def _refusal(
    work: Work, pool: PoolInfo, demand: GangDemand, limit: int, used: int, *, over: bool, compute: int = 0
) -> PoolRefusal:
    snapshot = work.live
    total = int(np.bitwise_count(snapshot.device_all[pool.rows]).sum())
    fits = total if compute else min(limit, total)
    return PoolRefusal(
        pool=pool.name,
        code=Reason.EXCEEDS_MAX_QUOTA if over else Reason.WAITING_FOR_QUOTA,
        nodes=int(pool.rows.size),
        devices=total,
        free=int(np.bitwise_count(snapshot.device_free[pool.rows]).sum()),
        fits_empty=fits // demand.devices,
        limit=limit,
        used=used,
        compute=compute,
    )
