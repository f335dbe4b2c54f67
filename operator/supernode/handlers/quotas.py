"""What a gang that waits is told about quotas: who holds what, who borrows, and whose turn it is.

Flows in: a snapshot and the gangs that wait. Flows out: words, and a row per namespace for a pool's status and the
metrics. Not here: who may hold how much (`scheduling.quota`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from supernode.cluster.kinds import Json
from supernode.scheduling import discretion
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.entitlement import within
from supernode.scheduling.promise import PER_TFLOPS
from supernode.scheduling.quota import NO_QUOTA, Amount, Quota
from supernode.scheduling.snapshot import PoolInfo, Snapshot
from supernode.scheduling.unplaceable import Reason
from supernode.telemetry.metrics import OperatorMetrics

# Namespaces that a sentence names.
LISTED: Final = 3
# Stands for all namespaces without a quota together: who can read a pool need not learn their names.
OTHERS: Final = "*"


def quota_words(snapshot: Snapshot, demand: GangDemand, code: str, queue: Sequence[GangDemand]) -> str:
    """Whose turn it is and who borrows, as the end of a sentence; empty where quotas play no part.

    Args:
        snapshot: the cluster.
        demand: of the gang that waits; its node masks belong to the snapshot.
        code: why it waits.
        queue: all gangs that wait and could start one day, in their order.
    """
    parts = []
    for name in demand.pools:
        pool = snapshot.pool(name)
        if pool is None or not pool.quotas:
            continue
        held = snapshot.amount(name, demand.namespace)
        waits_for_own = within(held, snapshot, demand, pool, snapshot.memo)
        if code != Reason.WAITING_FOR_QUOTA and not waits_for_own:
            continue
        mine = pool.quota_of(demand.namespace) or NO_QUOTA
        guaranteed = []
        if mine.guaranteed:
            guaranteed.append(f"{held.devices} of {mine.guaranteed}")
        if mine.guaranteed_compute:
            guaranteed.append(f"{_tflops(held.compute)} of {_tflops(mine.guaranteed_compute)} TFLOPS")
        if guaranteed:
            parts.append(f"in pool {name} its namespace holds {' and '.join(guaranteed)} guaranteed")
        borrowed = _borrowers(snapshot, pool, demand.namespace if waits_for_own else "")
        if borrowed:
            parts.append(f"{borrowed} in pool {name}")
    if parts or code == Reason.WAITING_FOR_QUOTA:
        parts.append(_turn(demand, queue, own=code == Reason.WAITING_FOR_QUOTA))
    return f"; {', '.join(parts)}" if parts else ""


def held_by_namespace(snapshot: Snapshot, pool: PoolInfo) -> dict[str, Amount]:
    """What each namespace's gangs hold of a pool, by the namespace's name."""
    found: dict[str, Amount] = {}
    for key, holding in snapshot.holders.items():
        namespace = key.partition("/")[0]
        # A pod of ours that no job's place covers holds its devices under a name that no namespace can have.
        if pool.name in holding.pools and " " not in namespace:
            found[namespace] = found.get(namespace, Amount()) + holding.amount_in(pool)
    return dict(sorted(found.items()))


def quota_use(snapshot: Snapshot, pool: PoolInfo) -> dict[str, tuple[Quota, Amount, Amount]]:
    """Per namespace that has a quota: the quota, what it holds and what of that it borrows; the others as `OTHERS`."""
    held = held_by_namespace(snapshot, pool)
    found = {}
    for quota in sorted(pool.quotas, key=lambda quota: quota.namespace):
        amount = held.pop(quota.namespace, Amount())
        found[quota.namespace] = quota, amount, quota.borrowed(amount)
    rest = sum(held.values(), Amount())
    if rest != Amount():
        found[OTHERS] = NO_QUOTA, rest, NO_QUOTA.borrowed(rest)
    return found


def use_json(use: Mapping[str, tuple[Quota, Amount, Amount]]) -> list[Json]:
    """`status.quotas` of a pool."""
    rows = []
    for namespace, (quota, held, borrowed) in use.items():
        row: Json = {
            "namespace": namespace,
            "used": held.devices,
            "guaranteed": quota.guaranteed,
            "limit": quota.limit,
            "borrowed": borrowed.devices,
            "usedTFLOPS": held.compute / PER_TFLOPS,
            "guaranteedTFLOPS": quota.guaranteed_compute / PER_TFLOPS,
            "limitTFLOPS": None if quota.limit_compute is None else quota.limit_compute / PER_TFLOPS,
            "borrowedTFLOPS": borrowed.compute / PER_TFLOPS,
        }
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def measure_use(metrics: OperatorMetrics, pool: str, use: Mapping[str, tuple[Quota, Amount, Amount]]) -> None:
    """Tell the metrics; those of earlier namespaces are taken out by whoever calls."""
    for namespace, (quota, held, borrowed) in use.items():
        figures = {
            "used": (held.devices, held.compute),
            "guaranteed": (quota.guaranteed, quota.guaranteed_compute),
            "limit": (quota.limit, quota.limit_compute),
            "borrowed": (borrowed.devices, borrowed.compute),
        }
        for kind, (devices, compute) in figures.items():
            if devices is not None:
                metrics.gauge("supernode_quota_devices", devices, pool, namespace, kind)
            if compute is not None:
                metrics.gauge("supernode_quota_tflops", compute / PER_TFLOPS, pool, namespace, kind)


def overpromised(snapshot: Snapshot, pool: PoolInfo) -> str:
    """What the quotas guarantee beyond what the pool has, in words; empty if it has it all."""
    devices = int(np.bitwise_count(snapshot.device_all[pool.rows]).sum())
    whole = sum(quota.guaranteed for quota in pool.quotas)
    if whole > devices:
        return f"its quotas guarantee {whole} accelerators of {devices}"
    compute = sum(quota.guaranteed_compute for quota in pool.quotas)
    if pool.peak and compute > devices * pool.peak:
        return f"its quotas guarantee {_tflops(compute)} TFLOPS, more than the peak of {_tflops(devices * pool.peak)}"
    return ""


def _turn(demand: GangDemand, queue: Sequence[GangDemand], *, own: bool) -> str:
    """Whose turn it is among the gangs that wait for the same pools; `own`: of the same namespace alone."""
    alike = [each for each in queue if set(each.pools) & set(demand.pools)]
    alike = [each for each in alike if not own or each.namespace == demand.namespace]
    place = next((index for index, each in enumerate(alike) if each.key == demand.key), 0)
    whose = (
        "it is the next"
        if place == 0
        else f"before it it is the turn of {discretion.named(demand.namespace, alike[0].key)}"
    )
    return f"{whose}, place {place + 1} of {max(1, len(alike))} in the queue"


def _borrowers(snapshot: Snapshot, pool: PoolInfo, but: str) -> str:
    """Namespaces that hold more of a pool than they are guaranteed."""
    found = []
    for namespace, held in held_by_namespace(snapshot, pool).items():
        over = (pool.quota_of(namespace) or NO_QUOTA).borrowed(held)
        if over != Amount() and namespace != but:
            found.append((over.devices, over.compute, namespace))
    found.sort(key=lambda each: (-each[0], -each[1], each[2]))
    # Namespaces of which the pool itself speaks; of others it is not told that they are there.
    known = {quota.namespace for quota in pool.quotas}
    named = [
        f"{namespace if namespace in known else 'a namespace without quota'} borrows {_both(devices, compute)}"
        for devices, compute, namespace in found[:LISTED]
    ]
    more = f" and {len(found) - LISTED} more namespaces borrow" if len(found) > LISTED else ""
    return f"{', '.join(named)}{more}"


def _both(devices: int, compute: int) -> str:
    parts = [str(devices)] if devices else []
    return " and ".join([*parts, f"{_tflops(compute)} TFLOPS"] if compute else parts)


def _tflops(compute: int) -> str:
    return f"{compute / PER_TFLOPS:.4g}"
