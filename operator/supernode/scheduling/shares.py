"""Who is asked first: priority, then quota share, then age, then key.

Flows in: waiting demands and the cycle's working copy. Flows out: an order, in which each placement counts at once.
Not here: who gets a place (`cycle`).

The share is that of dominant-resource fairness, weighted: of each pool, what a namespace's gangs hold of whatever they
hold most of there (accelerators, CPU, memory, any other resource of its nodes), over its weight as a part of the pool.
The weight is what it is guaranteed; without a guarantee, what nobody is guaranteed. A guarantee in effective compute
weighs as many devices as it takes the namespace, at what its own gangs' places promise: so the share is the compute
that it holds over what it is guaranteed. Of two units the one with the larger share counts. Above 1 a namespace lives
on borrowed devices, or takes more CPU or memory than its accelerators would explain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.quota import Quota
from supernode.scheduling.snapshot import PODS, Holding, Int64, PoolInfo, resource_vector
from supernode.scheduling.work import Work


def shares_matter(work: Work) -> bool:
    """Whether any pool guarantees anybody anything."""
    return any(quota.guarantees for pool in work.live.pools for quota in pool.quotas)


def queue_order(demands: Iterable[GangDemand], work: Work | None = None) -> Iterator[GangDemand]:
    """Who is asked first: higher priority, then the namespace with the smaller share, then older, then by key.

    Args:
        demands: those that wait.
        work: the cluster that shares are taken from; what the caller claims for a gang counts from the next one on.
            None = all shares are equal.
    """
    by_age = sorted(demands, key=_by_age)
    if work is None or not shares_matter(work):
        yield from by_age
        return
    shares = Shares(work)
    waiting: dict[tuple[int, str], deque[GangDemand]] = {}
    for demand in by_age:
        waiting.setdefault((-demand.priority, demand.namespace), deque()).append(demand)
    while waiting:
        highest = min(priority for priority, _ in waiting)

        def standing(group: tuple[int, str]) -> tuple[float, float, str]:
            first = waiting[group][0]
            return shares.of(group[1]), first.created, first.key

        chosen = min((group for group in waiting if group[0] == highest), key=standing)
        demand = waiting[chosen].popleft()
        if not waiting[chosen]:
            del waiting[chosen]
        yield demand
        shares.settle(demand.key)


def oldest(demands: Sequence[GangDemand]) -> GangDemand:
    """The first by priority, age and key, whatever the shares."""
    return min(demands, key=_by_age)


def quota_share(work: Work, namespace: str) -> float:
    """What a namespace holds of its weight, of the resource and in the pool where that is most."""
    return Shares(work).of(namespace)


class Shares:
    """The shares of all namespaces, kept up to date claim by claim."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._pools: dict[str, tuple[PoolInfo, NDArray[np.float64], float]] = {}
        self._held: dict[tuple[str, str], Int64] = {}  # pool, namespace -> int64 (R,)
        self._known: dict[str, float] = {}
        live = work.live
        for pool in live.pools:
            whole = live.capacity[pool.rows].sum(axis=0).astype(np.float64)
            devices = int(np.bitwise_count(live.device_all[pool.rows]).sum())
            whole[pool.resource] = devices
            whole[live.resources.index(PODS)] = 0  # pods are no resource that runs out
            open_to_all = float(max(1.0, devices - sum(_in_devices(quota, pool) for quota in pool.quotas)))
            self._pools[pool.name] = (pool, whole, open_to_all)
        for holding in live.holders.values():
            self._add(holding)

    def settle(self, key: str) -> None:
        """A gang has been asked: what it holds now counts."""
        holding = self._work.live.holders.get(key)
        if holding is not None:
            self._add(holding)

    def of(self, namespace: str) -> float:
        """The share of a namespace."""
        known = self._known.get(namespace)
        if known is None:
            known = self._known[namespace] = max((self._in_pool(name, namespace) for name in self._pools), default=0.0)
        return known

    def _in_pool(self, name: str, namespace: str) -> float:
        held = self._held.get((name, namespace))
        if held is None:
            return 0.0
        pool, whole, open_to_all = self._pools[name]
        quota = pool.quota_of(namespace)
        weight = open_to_all
        if quota is not None and quota.guarantees:
            mine = self._work.amount(name, namespace)
            each = mine.compute / mine.devices if mine.devices else 0.0
            weight = _in_devices(quota, pool, each)
        there = whole > 0
        devices = whole[pool.resource] or 1.0
        return float((held[there] * (devices / whole[there])).max(initial=0.0)) / weight

    def _add(self, holding: Holding) -> None:
        live = self._work.live
        namespace = holding.key.split("/", 1)[0]
        vector, _ = resource_vector(live.resources, holding.request)
        for name in holding.pools:
            if name not in self._pools:
                continue
            held = int(holding.workers[holding.at(name)].sum()) * vector
            held[self._pools[name][0].resource] = holding.devices_in(name)
            known = self._held.get((name, namespace))
            self._held[name, namespace] = held if known is None else known + held
        self._known.pop(namespace, None)


def _by_age(demand: GangDemand) -> tuple[int, float, str]:
    return -demand.priority, demand.created, demand.key


def _in_devices(quota: Quota, pool: PoolInfo, each: float = 0.0) -> float:
    """What a quota guarantees, in devices; the less of both units if `each`, MFLOP/s of one device, is given."""
    if not quota.guaranteed_compute or not (each or pool.peak):
        return float(quota.guaranteed)
    worth = quota.guaranteed_compute / (each or pool.peak)
    if not quota.guaranteed:
        return worth
    return min(quota.guaranteed, worth) if each else max(quota.guaranteed, worth)
