"""Which gangs must give way so that another can start: the smallest set, planned on a copy, never in vain.

Flows in: a snapshot, the gang that waits, and what giving way costs each running gang. Flows out: a `Preemption` with
the placement that it makes possible, or None. Nothing is changed. Not here: stopping anybody, and knowing priorities.

Surplus workers of elastic gangs (above their minCount) go first, no more of them than needed, then as few whole gangs
as will do. Among sets of one size: the lower priorities (the highest of the set first), then the least work lost since
checkpoints, then the names.

Who may be asked: a gang of lower priority; and, as reclaim, a gang of a namespace that holds more than it is
guaranteed, by a gang that stays within what its own namespace is guaranteed, whatever the priorities. No more gangs of
a namespace are reclaimed than it takes to end its borrowing: before each of them it still holds more than guaranteed.
A gang that would borrow itself can't have what another namespace is guaranteed, whatever the priorities: it would be
taken back at once, and the two would stop each other for ever. For the same reason it stops nobody in whose stead a
gang of that namespace, one that waits or the same one with fewer workers, would be within the guarantee. Guarantees
count in the unit that they are stated in, devices or effective compute; of two units the one that is exceeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.entitlement import within
from supernode.scheduling.placement import Placement
from supernode.scheduling.quota import NO_QUOTA, Amount, Quota
from supernode.scheduling.smallest import Candidate, Smallest
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.trial import Share, Trial, share_of, without
from supernode.scheduling.unplaceable import PoolRefusal, Reason, Unplaceable
from supernode.scheduling.work import Work


@dataclass(frozen=True, slots=True)
class Victim:
    """A running gang that could give way.

    Attributes:
        key: ``namespace/name``; it holds something in the snapshot.
        priority: lower gives way first.
        lost_seconds: work since its last checkpoint, which would be done again.
        surplus: workers above its minCount, which can go without stopping it; 0 where only the whole gang may be
            stopped.
        quantum: its surplus goes in multiples of this many workers (whole slices).
    """

    key: str
    priority: int = 0
    lost_seconds: float = 0.0
    surplus: int = 0
    quantum: int = 1


@dataclass(frozen=True, eq=False, slots=True)
class Preemption:
    """Who gives way, and what that makes possible.

    Attributes:
        gangs: keys of whole gangs that stop, the cheapest first.
        shrunk: (key, workers) of gangs that give up their last ranks.
        lost_seconds: work that the stopped gangs do again, summed.
        placement: of the waiting gang afterwards.
        reclaimed: those of all these keys that go because they live on borrowed devices, not for their priority.
    """

    gangs: tuple[str, ...]
    shrunk: tuple[tuple[str, int], ...]
    lost_seconds: float
    placement: Placement
    reclaimed: tuple[str, ...] = ()


def plan_preemption(
    snapshot: Snapshot,
    demand: GangDemand,
    victims: Iterable[Victim],
    waiting: Mapping[str, Sequence[GangDemand]] | None = None,
) -> Preemption | None:
    """The smallest set of gangs that have to give way for this one; None if no set that may would help.

    A gang that fits as things are gets a plan in which nobody gives way.

    Args:
        snapshot: the cluster; node masks of all demands belong to it.
        demand: the gang.
        victims: who could be asked.
        waiting: other gangs that can't be placed and may ask, by namespace.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """
    trial = Trial(snapshot, demand)
    if trial.placed is not None:
        return Preemption((), (), 0.0, trial.placed)
    plan = _Plan(snapshot, demand, victims, waiting or {})
    stopped: tuple[str, ...] = ()
    shrunk = plan.shrink(trial, ())
    if shrunk is None:
        found = plan.stop(trial)
        if found is None:
            return None
        stopped, shrunk = found
    trial = Trial(snapshot, demand)
    for key in stopped:
        trial.take(share_of(snapshot, key))
    for key, workers in shrunk:
        trial.take(share_of(snapshot, key, workers))
    placement = trial.placement()
    if placement is None:
        return None
    gone = [*stopped, *(key for key, _ in shrunk)]
    return Preemption(
        stopped,
        shrunk,
        sum(plan.able[key].lost_seconds for key in stopped),
        placement,
        tuple(key for key in gone if plan.able[key].priority >= demand.priority),
    )


def waits_for(snapshot: Snapshot, demand: GangDemand, plan: Preemption) -> Unplaceable:
    """What to say of a gang while others give way for it."""
    names = [*plan.gangs, *(f"{workers} of the workers of {key}" for key, workers in plan.shrunk)]
    rows = [row for name in plan.placement.pools if (pool := snapshot.pool(name)) for row in pool.rows.tolist()]
    refusal = PoolRefusal(
        pool=plan.placement.pool,
        code=Reason.WAITING_FOR_PREEMPTION,
        nodes=len(rows),
        devices=sum(int(snapshot.device_all[row]).bit_count() for row in rows),
        free=sum(int(snapshot.device_free[row]).bit_count() for row in rows),
        fits_empty=demand.workers,
        used=round(plan.lost_seconds),
        detail=" and ".join(names),
    )
    return Unplaceable(Reason.WAITING_FOR_PREEMPTION, (refusal,), possible=True)


class _Plan:
    """Who may be asked, and for what."""

    def __init__(
        self,
        snapshot: Snapshot,
        demand: GangDemand,
        victims: Iterable[Victim],
        waiting: Mapping[str, Sequence[GangDemand]],
    ) -> None:
        self._snapshot, self._demand, self._waiting = snapshot, demand, waiting
        self._counted: dict[tuple[str, str], Amount] = {}
        self.able = {v.key: v for v in victims if v.key in snapshot.holders and self._may_go(v)}
        self._reclaims = any(
            self._bounded(victim, pool) for victim in self.able.values() for pool in self._shared(victim)
        )
        self._surplus = {key: count for key in self.able if (count := self._most_surplus(key))}

    def stop(self, trial: Trial) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]] | None:
        """The fewest whole gangs if all others could give up their surplus as well, and who has to."""
        shares: dict[str, Share] = {key: share_of(self._snapshot, key) for key in self.able}
        work = Work(self._snapshot)
        for key, workers in self._surplus.items():
            part = share_of(self._snapshot, key, workers, work)
            trial.take(part)
            shares[key] = without(shares[key], part)
        return Smallest(trial, self._candidates(self.able), shares, self._legal, self._beside).find()

    def _beside(self, stopped: Sequence[str]) -> tuple[tuple[str, int], ...] | None:
        """Who has to give up surplus beside these gangs that stop; None = those that may are not enough."""
        trial = Trial(self._snapshot, self._demand)
        for key in stopped:
            trial.take(share_of(self._snapshot, key))
        return () if trial.fits() else self.shrink(trial, stopped)

    def shrink(self, trial: Trial, stopped: Sequence[str]) -> tuple[tuple[str, int], ...] | None:
        """The fewest gangs that give up surplus, and no more of it than needed; None = that is not enough."""
        counts = {key: count for key, count in self._surplus.items() if key not in stopped}
        work = Work(self._snapshot)
        shares = {key: share_of(self._snapshot, key, count, work) for key, count in counts.items()}

        def legal(keys: Sequence[str]) -> bool:
            return self._legal([*stopped, *keys], {key: shares[key] for key in keys})

        found = Smallest(trial, self._candidates(counts), shares, legal, lambda _: trial.placement()).find()
        if found is None:
            return None
        keys = found[0]
        for key in keys:
            trial.take(shares[key])
        for key in reversed(keys):  # the dearest first
            trial.give_back(shares[key])
            step = self.able[key].quantum
            low, high = 1, counts[key] // step
            while low < high:
                middle = (low + high) // 2
                part = share_of(self._snapshot, key, middle * step)
                trial.take(part)
                low, high = (low, middle) if trial.fits() else (middle + 1, high)
                trial.give_back(part)
            counts[key] = low * step
            trial.take(share_of(self._snapshot, key, counts[key]))
        return tuple((key, counts[key]) for key in keys)

    def _candidates(self, keys: Iterable[str]) -> list[Candidate]:
        return [Candidate(key, self.able[key].priority, self.able[key].lost_seconds) for key in keys]

    def _most_surplus(self, key: str) -> int:
        victim = self.able[key]
        most = min(victim.surplus, int(self._snapshot.holders[key].workers.sum()) - 1)
        return max(0, most - most % victim.quantum)

    def _may_go(self, victim: Victim) -> bool:
        """Whether this gang may be asked at all, as far as it alone goes."""
        namespace, lower = _namespace(victim.key), victim.priority < self._demand.priority
        if victim.key == self._demand.key:
            return False
        return any(
            (lower or self._within(pool))
            and (not self._bounded(victim, pool) or self._borrowed(pool, namespace) != Amount())
            for pool in self._shared(victim)
        )

    def _shared(self, victim: Victim) -> list[str]:
        """Pools that it holds something in and that the waiting gang may use."""
        return [name for name in self._snapshot.holders[victim.key].pools if name in self._demand.pools]

    def _bounded(self, victim: Victim, pool: str) -> bool:
        """Whether it goes only as long as its namespace holds more there than it is guaranteed."""
        if victim.priority >= self._demand.priority:
            return True
        namespace = _namespace(victim.key)
        return (
            namespace != self._demand.namespace and self._quota(pool, namespace).guarantees and not self._within(pool)
        )

    def _within(self, pool: str) -> bool:
        """Whether the waiting gang stays within what its namespace is guaranteed."""
        info, snapshot = self._snapshot.pool(pool), self._snapshot
        held = self._held(pool, self._demand.namespace)
        return info is not None and within(held, snapshot, self._demand, info, snapshot.memo)

    def _quota(self, pool: str, namespace: str) -> Quota:
        info = self._snapshot.pool(pool)
        return (None if info is None else info.quota_of(namespace)) or NO_QUOTA

    def _borrowed(self, pool: str, namespace: str) -> Amount:
        """What another namespace holds beyond its guarantee."""
        if namespace == self._demand.namespace:
            return Amount()
        return self._quota(pool, namespace).borrowed(self._held(pool, namespace))

    def _held(self, pool: str, namespace: str) -> Amount:
        """What a namespace holds; counted once, as every gang that could be asked leads to the question."""
        if (pool, namespace) not in self._counted:
            self._counted[pool, namespace] = self._snapshot.amount(pool, namespace)
        return self._counted[pool, namespace]

    def _legal(self, keys: Sequence[str], shares: Mapping[str, Share] | None = None) -> bool:
        """Whether no namespace gives back more gangs than end its borrowing, nor any that it would have back at once.

        `shares`: of those that only shrink.
        """
        if not self._reclaims:
            return True
        gone: dict[tuple[str, str], list[_Gone]] = {}
        for key in keys:
            holding, victim = self._snapshot.holders[key], self.able[key]
            part = shares.get(key) if shares else None
            for pool in holding.pools:
                info = self._snapshot.pool(pool)
                if info is None or pool not in self._demand.pools:
                    continue
                amount = holding.amount_in(info) if part is None else part.pools.get(pool, Amount())
                if amount.devices:
                    again = _least(amount, victim, int(holding.workers.sum())) if part is None else None
                    given = _Gone(amount, self._bounded(victim, pool), again)
                    gone.setdefault((pool, _namespace(key)), []).append(given)
        return all(
            _owed(self._borrowed(*where), given) and not self._taken_back(*where, given)
            for where, given in gone.items()
        )

    def _taken_back(self, pool: str, namespace: str, given: Sequence[_Gone]) -> bool:
        """Whether this gang would borrow, and one that stops or waits would then be within what is guaranteed to it."""
        info = self._snapshot.pool(pool)
        if info is None or not any(each.bounded for each in given) or self._within(pool):
            return False
        quota, left = self._quota(pool, namespace), self._held(pool, namespace)
        for each in given:
            left -= each.amount
        if any(each.again is not None and quota.within(left + each.again) for each in given):
            return True
        waiting = [demand for demand in self._waiting.get(namespace, ()) if pool in demand.pools]
        return any(within(left, self._snapshot, demand, info, self._snapshot.memo) for demand in waiting)


class _Gone(NamedTuple):
    """What a gang gives back of a pool.

    Attributes:
        amount: so much.
        bounded: it goes only as long as its namespace holds more than it is guaranteed.
        again: what it needs at least to start again; None: it does not stop.
    """

    amount: Amount
    bounded: bool
    again: Amount | None


def _least(held: Amount, victim: Victim, workers: int) -> Amount:
    """What a gang that holds so much with so many workers would hold with as few as it can start with."""
    fewest = max(1, workers - victim.surplus)
    return Amount(held.devices * fewest // workers, held.compute * fewest // workers)


def _owed(borrowed: Amount, given: Sequence[_Gone]) -> bool:
    """Whether a namespace still borrows, in one of the units, before the last of those gangs that may go only then."""
    bounded = [each.amount for each in given if each.bounded]
    if not bounded:
        return True
    devices = sum(each.amount.devices for each in given) - max(amount.devices for amount in bounded)
    compute = sum(each.amount.compute for each in given) - max(amount.compute for amount in bounded)
    return devices < borrowed.devices or compute < borrowed.compute


def _namespace(key: str) -> str:
    return key.split("/", 1)[0]
