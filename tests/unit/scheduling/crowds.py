"""Small random clusters with gangs in them and one that wants in, and what may be asked of whom by trying all sets."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

from tests.unit.scheduling.clusters import BW1000, MODEL, a_gang, a_node, a_pool, a_state

from supernode.scheduling.demand import GangDemand, LevelConstraint
from supernode.scheduling.place import place, place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.preempt import Preemption, Victim, plan_preemption
from supernode.scheduling.quota import Quota
from supernode.scheduling.snapshot import Holding, Snapshot
from supernode.scheduling.work import Work
from supernode.steptime.model import flops_per_step

PAIR = (0, 1)
#: Devices and MFLOP/s that a gang gives up.
Given = tuple[int, int]
Scene = tuple[Snapshot, GangDemand, list[Victim], dict[str, GangDemand], dict[str, Placement]]


#: MFLOP/s of one device for a gang that does not say what it computes.
PEAK = round(BW1000.peak_flops("bf16") / 1e6)


def a_compute_quota(dice: random.Random, name: str) -> Quota:
    """Guarantees and limits in effective compute, and now and then in devices too."""
    guaranteed = dice.choice([0, 1, 2, 4, 8]) * PEAK
    limit = dice.choice([None, None, guaranteed + dice.choice([1, 2, 4]) * PEAK])
    return Quota(name, dice.choice([0, 0, 0, 4]), None, guaranteed, limit)


def a_crowd(dice: random.Random, *, compute: bool = False) -> Scene:
    """A cluster of up to 8 nodes with up to 6 gangs that share nodes, quotas, and one more gang that wants in.

    `compute`: quotas are in effective compute as well, and places promise anything up to the peak of their devices.
    """
    devices = dice.choice([2, 4])
    quotas = tuple(Quota(name, dice.choice([0, 1, 2, 4, 8, 16])) for name in "ab") if dice.random() < 0.7 else ()
    if dice.random() < 0.2:
        quotas = (*quotas, Quota("c", dice.choice([0, 4]), dice.choice([4, 8])))
    if compute:
        quotas = tuple(a_compute_quota(dice, name) for name in "abc" if dice.random() < 0.8)
    nodes = [a_node(f"n{i}", f"spine-{i // 4}", f"sn-{i // 2}") for i in range(dice.randint(2, 8))]
    state = a_state(nodes, [a_pool(devices=devices, quotas=quotas)])
    victims: list[Victim] = []
    demands: dict[str, GangDemand] = {}
    placements: dict[str, Placement] = {}
    for index in range(dice.randint(3, 6) if compute else dice.randint(1, 6)):
        key = f"{dice.choice('abc')}/g{index}"
        one = a_gang(key, dice.randint(1, 3), dice.choice([1, 1, devices]), request={"cpu": dice.choice([100, 20_000])})
        mask = state.snapshot().usable.copy()
        for row in range(len(nodes)):
            mask[row] = dice.random() < 0.6
        one = replace(one, disruption=dice.choice(["All", "All", "Single"]))
        result = place(state.snapshot(), one.with_eligible({"dcu": mask}))
        if isinstance(result, Placement):
            if compute and dice.random() < 0.8:
                most = result.devices.size * PEAK
                result = replace(result, promised=(("dcu", dice.randint(0, 8) * most // 8),))
            state.claim(key, result, one.request)
            surplus = dice.choice([0, 0, 1, 2])
            victims.append(Victim(key, dice.randint(0, 3), float(dice.randint(0, 3)), surplus))
            demands[key], placements[key] = one, result
    level = dice.choice(["", "", "spine", "supernode", "node"])
    wishes = (LevelConstraint(level, True),) if level else ()
    wanted = a_gang(
        f"{dice.choice('abc')}/new",
        dice.randint(1, 4),
        dice.choice([1, 2, devices]),
        constraints=wishes,
        priority=dice.choice([0, 0, 0, 2]) if compute else dice.randint(0, 3),
        request={"cpu": dice.choice([100, 20_000])},
        model=MODEL if compute and dice.random() < 0.3 and not any(q.limit_compute for q in quotas) else None,
    )
    return state.snapshot(), wanted, victims, demands, placements


def fits_without(snapshot: Snapshot, demand: GangDemand, gone: Sequence[str], shrunk: dict[str, int]) -> bool:
    work = Work(snapshot)
    for key in gone:
        work.release(key)
    for key, workers in shrunk.items():
        work.release(key, workers)
    return isinstance(place_in(work, demand, closed=False), Placement)


def needed_compute(snapshot: Snapshot, demand: GangDemand) -> int:
    """MFLOP/s with which the gang counts: the peak, or the model's FLOPs over the best step on an empty cluster."""
    if demand.model is None:
        return demand.fewest * demand.devices * PEAK
    nothing = {"free": snapshot.capacity, "device_free": snapshot.device_all, "holders": {}, "memo": {}}
    best = place(replace(snapshot, **nothing), demand)  # type: ignore[arg-type]
    if not isinstance(best, Placement) or best.predicted is None:
        return 2**62
    samples = demand.workers * demand.devices  # data-parallel over all devices
    return math.ceil(flops_per_step(demand.model, samples) / best.predicted.seconds / 1e6)


def may(snapshot: Snapshot, demand: GangDemand, gone: dict[str, Given], victims: dict[str, Victim]) -> bool:
    """Whether all of these may be asked for so much: priorities, else guarantees, in each unit by itself."""
    (pool,) = snapshot.pools

    def guaranteed(namespace: str) -> tuple[int, int]:
        """Devices and MFLOP/s; a unit that nothing is said in does not count, unless nothing is said at all."""
        quota = pool.quota_of(namespace)
        devices, compute = (0, 0) if quota is None else (quota.guaranteed, quota.guaranteed_compute)
        endless = 2**60
        return devices if devices or not compute else endless, compute or endless

    def held_by(namespace: str) -> tuple[int, int]:
        mine = [h for key, h in snapshot.holders.items() if key.split("/")[0] == namespace]
        return sum(h.devices for h in mine), sum(compute_of(h) for h in mine)

    own, most = held_by(demand.namespace), guaranteed(demand.namespace)
    need = demand.fewest * demand.devices, needed_compute(snapshot, demand)
    entitled = all(has + more <= limit for has, more, limit in zip(own, need, most, strict=True))
    for key in gone:
        if victims[key].priority >= demand.priority and (not entitled or key[0] == demand.namespace):
            return False
    for namespace in {key[0] for key in gone}:
        mine = {key: given for key, given in gone.items() if key[0] == namespace}
        # Who would borrow can't have what another namespace is guaranteed, either.
        promised = pool.quota_of(namespace) is not None and pool.quota_of(namespace).guarantees  # type: ignore[union-attr]
        safe = namespace != demand.namespace and not entitled and promised
        above = [given for key, given in mine.items() if safe or victims[key].priority >= demand.priority]
        owed = False  # it still borrows, in either unit, before the last of those that go only as long as it does
        for unit in (0, 1):
            borrowed = held_by(namespace)[unit] - guaranteed(namespace)[unit]
            before = sum(given[unit] for given in mine.values()) - max((given[unit] for given in above), default=0)
            owed = owed or before < borrowed
        if above and not owed:
            return False
    return True


def compute_of(holding: Holding) -> int:
    """MFLOP/s that a holding counts with."""
    return dict(holding.promised)["dcu"] if holding.promised else holding.devices * PEAK


def part_of(holding: Holding, workers: int) -> Given:
    """Devices and MFLOP/s of a gang's last workers: its promise goes by its devices."""
    devices = holding.devices // int(holding.workers.sum()) * workers
    whole = compute_of(holding)
    return devices, whole - whole * (holding.devices - devices) // holding.devices


def brute(snapshot: Snapshot, demand: GangDemand, listed: list[Victim]) -> tuple[object, ...] | None:
    """(whole gangs, their priorities from the highest down, work lost) of the best set; None if there is none."""
    victims = {victim.key: victim for victim in listed}
    surplus = {v.key: min(v.surplus, int(snapshot.holders[v.key].workers.sum()) - 1) for v in listed}
    best: tuple[object, ...] | None = None
    for size in range(len(listed) + 1):
        for gone in combinations(sorted(victims), size):
            elastic = [key for key, count in surplus.items() if count > 0 and key not in gone]
            for chosen in product((False, True), repeat=len(elastic)):
                shrunk = {key: surplus[key] for key, yes in zip(elastic, chosen, strict=True) if yes}
                counts = {key: (h.devices, compute_of(h)) for key in gone for h in [snapshot.holders[key]]}
                counts |= {key: part_of(snapshot.holders[key], count) for key, count in shrunk.items()}
                order = (
                    size,
                    tuple(sorted((victims[key].priority for key in gone), reverse=True)),
                    sum(victims[key].lost_seconds for key in gone),
                )
                better = best is None or order < best  # type: ignore[operator]
                if better and may(snapshot, demand, counts, victims) and fits_without(snapshot, demand, gone, shrunk):
                    best = order
        if best is not None:
            return best
    return None


def check_limits(snapshot: Snapshot, *, grace: frozenset[str] = frozenset()) -> None:
    """No namespace holds more than its limits; `grace`: those that did before."""
    for pool in snapshot.pools:
        for quota in pool.quotas:
            mine = [h for key, h in snapshot.holders.items() if key.split("/")[0] == quota.namespace]
            if quota.namespace in grace:
                continue
            assert quota.limit is None or sum(h.devices for h in mine) <= quota.limit
            assert quota.limit_compute is None or sum(compute_of(h) for h in mine) <= quota.limit_compute


def check(seed: int, *, compute: bool = False) -> str:
    """One scene; what came out."""
    snapshot, demand, listed, _, _ = a_crowd(random.Random(seed), compute=compute)
    victims = {victim.key: victim for victim in listed}
    plan = plan_preemption(snapshot, demand, listed)
    wanted = brute(snapshot, demand, listed)
    if plan is None:
        assert wanted is None, f"seed {seed}: {wanted} is possible"
        return "none"
    assert wanted is not None, f"seed {seed}: {plan}"
    mine = tuple(sorted((victims[key].priority for key in plan.gangs), reverse=True))
    assert (len(plan.gangs), mine, plan.lost_seconds) == wanted, f"seed {seed}"
    verify(snapshot, demand, plan, victims)
    if plan.reclaimed:
        return "reclaimed"
    return "whole" if plan.gangs else "shrunk" if plan.shrunk else "free"


def verify(snapshot: Snapshot, demand: GangDemand, plan: Preemption, victims: dict[str, Victim]) -> None:
    """The plan works, nobody in it could be spared, and none gives more than it has to."""
    counts = {key: (h.devices, compute_of(h)) for key in plan.gangs for h in [snapshot.holders[key]]}
    counts |= {key: part_of(snapshot.holders[key], workers) for key, workers in plan.shrunk}
    assert may(snapshot, demand, counts, victims)
    shrunk = dict(plan.shrunk)
    assert fits_without(snapshot, demand, plan.gangs, shrunk)
    for key in plan.gangs:
        assert not fits_without(snapshot, demand, [k for k in plan.gangs if k != key], shrunk)
    for key, workers in plan.shrunk:
        assert workers <= victims[key].surplus
        fewer = {**shrunk, key: workers - 1} if workers > 1 else {k: n for k, n in shrunk.items() if k != key}
        assert not fits_without(snapshot, demand, plan.gangs, fewer)
    work = Work(snapshot)
    for key in plan.gangs:
        work.release(key)
    for key, workers in plan.shrunk:
        work.release(key, workers)
    work.claim(plan.placement, demand)
    after = work.frozen()
    check_limits(after)
    rows = [after.node_names.index(name) for name in plan.placement.nodes]
    assert (after.free[rows] >= 0).all()
    for row, mask in zip(rows, plan.placement.masks().tolist(), strict=True):
        others = [h for key, h in after.holders.items() if key != demand.key and after.node_names[row] in h.nodes]
        for other in others:
            assert not int(other.masks[other.nodes.index(after.node_names[row])]) & mask, "a device twice"
