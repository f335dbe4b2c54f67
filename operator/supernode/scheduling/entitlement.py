"""Whether a gang that waits stays within what its namespace is guaranteed of a pool.

Flows in: a snapshot and a demand. Flows out: what the gang would add to what its namespace holds. In effective compute,
where the quota is stated in that, it counts with the best place that the pool could give it if nothing ran there: what
it will get promises hardly more, and does not depend on who gives way for it. Not here: who does (`preempt`).
"""

from __future__ import annotations

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.quota import NO_QUOTA, Amount
from supernode.scheduling.snapshot import PoolInfo, Snapshot, emptied
from supernode.scheduling.work import Work

# More than any quota.
_ENDLESS = 2**62


def needs(snapshot: Snapshot, demand: GangDemand, pool: PoolInfo, memo: dict[object, object]) -> Amount:
    """What the gang would hold of a pool; its compute only where the namespace is guaranteed some, else 0.

    Args:
        snapshot: the cluster; node masks of the demand belong to it.
        demand: the gang.
        pool: one of its pools.
        memo: remembers answers for as long as nodes and pools stay.
    """
    devices = demand.fewest * demand.devices
    quota = pool.quota_of(demand.namespace)
    if quota is None or not (quota.guaranteed_compute or quota.limit_compute is not None):
        return Amount(devices)
    if demand.model is None:
        return Amount(devices, devices * pool.peak)
    asked = ("needs", pool.name, demand.question, tuple(id(demand.eligible.get(name)) for name in demand.pools))
    known = memo.get(asked)
    if not isinstance(known, Amount):
        known = memo[asked] = Amount(devices, _best(snapshot, demand, pool))
    return known


def _best(snapshot: Snapshot, demand: GangDemand, pool: PoolInfo) -> int:
    """MFLOP/s of the gang's best place if nothing ran."""
    work = Work(emptied(snapshot))
    work.unlimited = True
    alone = demand.with_eligible(demand.eligible, pools=(pool.name,))
    for each in (alone, demand) if demand.mixable else (alone,):
        found = place_in(work, each, closed=False)
        if isinstance(found, Placement):
            if not found.promised:
                return int(found.devices.size) * pool.peak
            return dict(found.promised).get(pool.name, 0)
    return _ENDLESS


def stays_within(work: Work, demand: GangDemand) -> bool:
    """Whether the gang's namespace would hold no more than it is guaranteed, in one of the gang's pools."""
    for name in demand.pools:
        pool = work.live.pool(name)
        if pool is not None and within(work.amount(name, demand.namespace), work.live, demand, pool, work.facts):
            return True
    return False


def within(held: Amount, snapshot: Snapshot, demand: GangDemand, pool: PoolInfo, memo: dict[object, object]) -> bool:
    """The same in one pool; `held`: what the namespace holds there already."""
    quota = pool.quota_of(demand.namespace) or NO_QUOTA
    return quota.guarantees and quota.within(held + needs(snapshot, demand, pool, memo))
