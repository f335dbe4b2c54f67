"""Which gangs to move so that a named gang can start, when enough is free but in the wrong places.

Flows in: a snapshot, the gang that waits, and the gangs that can move (checkpoint, move, resume) with what that costs.
Flows out: a `Defragmentation` with a new place for each that moves, or None. Nothing is changed. Not here: moving.

A plan is never worse than waiting: it has a bounded number of moves, every moved gang keeps its workers and its wishes
and is not slower in its new place, and the device-seconds that stand still for the moves are fewer than those that the
waiting gang gains. All that move stop first, then all start again, so places may be swapped.

A gang whose disruption wish is ``All`` stops and moves as a whole. Of one whose wish is ``Single`` one worker moves and
no other does, which needs to know where each worker is (`Movable.placement`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.quota import Amount
from supernode.scheduling.repair import moved_ranks, replace_ranks
from supernode.scheduling.rescore import step_on
from supernode.scheduling.score import EQUAL
from supernode.scheduling.smallest import Candidate, Smallest
from supernode.scheduling.snapshot import Snapshot, resource_vector
from supernode.scheduling.trial import Share, Trial, share_of
from supernode.scheduling.work import Work

#: Places for the waiting gang that are tried with one set of moves, beside the fastest.
_MOST_PLACES: Final = 8
#: Gangs that are placed at most while one plan is looked for, and how many of them with the search's full care; beyond,
#: a plan is not found that a longer search might have found.
_MOST_PLACED: Final = 600
_MOST_THOROUGH: Final = 12


@dataclass(frozen=True, eq=False, slots=True)
class Movable:
    """A running gang that can be moved.

    Attributes:
        demand: what it asks for (its own wishes hold in the new place too).
        seconds: that its devices stand still for: checkpoint, restart, work since the last checkpoint.
        placement: where its workers are; None = not known, then only the whole gang can be moved.
    """

    demand: GangDemand
    seconds: float
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan may do.

    Attributes:
        moves: gangs that are moved at most.
        wait: seconds that the gang would wait without the moves, as far as is known; its gain is counted over these.
    """

    moves: int = 4
    wait: float = 3600.0


@dataclass(frozen=True, eq=False, slots=True)
class Defragmentation:
    """Moves, and what they make possible.

    Attributes:
        moves: new places of the moved gangs, whole (all ranks), the largest gang first.
        placement: of the waiting gang, once all have moved.
        cost: device-seconds that stand still for the moves.
        gain: device-seconds that the waiting gang computes sooner.
        devices: of the waiting gang.
    """

    moves: tuple[Placement, ...]
    placement: Placement
    cost: float
    gain: float
    devices: int


def plan_moves(
    snapshot: Snapshot, demand: GangDemand, movable: Iterable[Movable], limits: Limits | None = None
) -> Defragmentation | None:
    """The fewest moves (then the cheapest) that make room for a gang; None if moving does not help, or not enough.

    Raises:
        InputError: a node mask that does not belong to this snapshot.
    """
    bounds = limits or Limits()
    trial = Trial(snapshot, demand)
    if trial.placed is not None or not _enough(snapshot, demand):
        return None
    search = _Search(snapshot, demand, trial, movable)
    gain = demand.fewest * demand.devices * bounds.wait

    def accept(units: Sequence[str]) -> Defragmentation | None:
        return search.plan(units, bounds.wait) if search.cost(units) < gain else None

    found = Smallest(trial, search.candidates, search.shares, search.legal, accept, largest=bounds.moves).find()
    return None if found is None else found[1]


def _enough(snapshot: Snapshot, demand: GangDemand) -> bool:
    """Whether there are as many free devices as the gang needs, wherever: moving gangs makes no more of them."""
    free = snapshot.device_free[snapshot.usable]
    return int(np.bitwise_count(free).sum()) >= demand.fewest * demand.devices


class _Search:
    """What could move: whole gangs by their key, single workers by ``key#rank``."""

    def __init__(self, snapshot: Snapshot, demand: GangDemand, trial: Trial, movable: Iterable[Movable]) -> None:
        self._snapshot, self._demand, self._trial = snapshot, demand, trial
        self._row = {name: row for row, name in enumerate(snapshot.node_names)}
        self._placed = 0
        self._units: dict[str, tuple[Movable, int]] = {}  # gang, rank (-1 = whole)
        self.shares: dict[str, Share] = {}
        self.candidates: list[Candidate] = []
        for gang in movable:
            holding = snapshot.holders.get(gang.demand.key)
            if holding is None or not set(holding.pools) & set(demand.pools) or gang.demand.key == demand.key:
                continue
            cost = holding.devices * gang.seconds
            if gang.demand.disruption == "All":
                self._add(gang.demand.key, gang, -1, share_of(snapshot, gang.demand.key), cost)
            elif gang.placement is not None:
                for rank in range(gang.placement.node_of.size):
                    share = self._worker(gang.placement, gang.demand, rank)
                    if share is not None:
                        self._add(f"{gang.demand.key}#{rank:06d}", gang, rank, share, cost)

    def _add(self, unit: str, gang: Movable, rank: int, share: Share, cost: float) -> None:
        self._units[unit] = (gang, rank)
        self.shares[unit] = share
        self.candidates.append(Candidate(unit, 0, cost))

    def _worker(self, placement: Placement, demand: GangDemand, rank: int) -> Share | None:
        """What one worker holds."""
        worker = placement.workers[rank]
        pool = self._snapshot.pool(worker.pool)
        if worker.node not in self._row or pool is None:
            return None
        row = np.asarray([self._row[worker.node]], dtype=np.int64)
        vector, _ = resource_vector(self._snapshot.resources, demand.request)
        vector[pool.resource] += len(worker.devices)
        mask = np.asarray([sum(1 << device for device in worker.devices)], dtype=np.uint64)
        mask &= self._snapshot.device_all[row]
        return Share(demand.key, row, vector[None, :], mask, {worker.pool: Amount(len(worker.devices))})

    def legal(self, units: Sequence[str]) -> bool:
        """One worker of a gang at most."""
        keys = [self._units[unit][0].demand.key for unit in units]
        return len(set(keys)) == len(keys)

    def cost(self, units: Sequence[str]) -> float:
        """Device-seconds that stand still."""
        gangs = [self._units[unit][0] for unit in units]
        return sum(self._snapshot.holders[gang.demand.key].devices * gang.seconds for gang in gangs)

    def plan(self, units: Sequence[str], wait: float) -> Defragmentation | None:
        """Places for all, with the gang in the fastest place if that works, else in another one."""
        for demand in self._variants():
            work = Work(self._trial.freed(whole=[unit for unit in units if self._units[unit][1] < 0]))
            wanted = self._place(work, demand)
            if wanted is None:
                continue
            work.claim(wanted, demand)
            moves = self._moves(work, units)
            if moves is not None:
                devices = int(wanted.node_of.size) * demand.devices
                return Defragmentation(moves, wanted, self.cost(units), devices * wait, devices)
        return None

    def _variants(self) -> Iterator[GangDemand]:
        """The gang, free to go anywhere; then bound to each of the places that have room now."""
        yield self._demand
        for pool, rows in self._trial.places()[:_MOST_PLACES]:
            only = np.zeros(len(self._snapshot.node_names), dtype=np.bool_)
            only[rows] = True
            mask = self._demand.eligible.get(pool)
            yield self._demand.with_eligible({pool: only if mask is None else only & mask}, pools=(pool,))

    def _moves(self, work: Work, units: Sequence[str]) -> tuple[Placement, ...] | None:
        """New places for all that move, the largest first; None if one of them finds none that is as good."""
        moves: list[Placement] = []
        holders = self._snapshot.holders
        for unit in sorted(units, key=lambda unit: (-self.shares[unit].devices, unit)):
            gang, rank = self._units[unit]
            moved = self._whole(work, gang) if rank < 0 else self._single(work, gang, rank)
            if moved is None or moved.node_of.size < int(holders[gang.demand.key].workers.sum()):
                return None
            if self._slower(gang, moved):
                return None
            moves.append(moved)
        return tuple(moves)

    def _whole(self, work: Work, gang: Movable) -> Placement | None:
        count = int(self._snapshot.holders[gang.demand.key].workers.sum())
        demand = gang.demand
        if demand.workers != count and demand.parallelism is None:
            demand = replace(demand, workers=count, min_count=None)
        moved = self._place(work, demand)
        if moved is not None:
            work.claim(moved, demand)
        return moved

    def _place(self, work: Work, demand: GangDemand) -> Placement | None:
        """Where a gang goes; None if nowhere, or if enough has been tried."""
        if self._placed >= _MOST_PLACED:
            return None
        self._placed += 1
        work.brief = self._placed > _MOST_THOROUGH
        result = place_in(work, demand, closed=False)
        return result if isinstance(result, Placement) else None

    def _single(self, work: Work, gang: Movable, rank: int) -> Placement | None:
        before = gang.placement
        if before is None:
            return None
        here = self._row[before.workers[rank].node]
        after = replace_ranks(work.frozen(), gang.demand, before, [rank], closed=[here])
        if after is None or moved_ranks(before, after) != (rank,):
            return None
        one = replace(after.workers[rank], rank=0)
        alone = replace(
            gang.demand, key=f"{gang.demand.key}#{rank}", workers=1, min_count=None, slices=(), parallelism=None
        )
        work.claim(Placement.of(alone.key, [one]), alone)
        return after

    def _slower(self, gang: Movable, moved: Placement) -> bool:
        """Whether the gang's step would be longer than where it is now."""
        holding = self._snapshot.holders[gang.demand.key]
        if gang.demand.mixable:
            before, after = self._best_here(gang), moved.predicted
            return before is not None and after is not None and after.seconds > before * (1 + EQUAL)
        old, new = self._snapshot.pool(holding.pool), self._snapshot.pool(moved.pool)
        if old is None or new is None or any(name not in self._row for name in holding.nodes):
            return False
        now: list[int] = np.repeat([self._row[name] for name in holding.nodes], holding.workers).tolist()
        if gang.placement is not None:
            now = [self._row[worker.node] for worker in gang.placement.workers]
        stays = step_on(self._snapshot, old, gang.demand, now)
        goes = step_on(self._snapshot, new, gang.demand, [self._row[worker.node] for worker in moved.workers])
        return stays is not None and goes is not None and goes.seconds > stays.seconds * (1 + EQUAL)

    def _best_here(self, gang: Movable) -> float | None:
        """Seconds of the best step of a gang that may be over several pools, on the nodes where it is now."""
        work = Work(self._snapshot)
        holding = self._snapshot.holders[gang.demand.key]
        work.release(gang.demand.key)
        here = np.zeros(len(self._snapshot.node_names), dtype=np.bool_)
        here[[self._row[name] for name in holding.nodes if name in self._row]] = True
        masks = {pool: gang.demand.eligible.get(pool) for pool in gang.demand.pools}
        bound = {pool: here if mask is None else here & mask for pool, mask in masks.items()}
        result = place_in(work, gang.demand.with_eligible(bound), closed=False)
        return result.predicted.seconds if isinstance(result, Placement) and result.predicted is not None else None
