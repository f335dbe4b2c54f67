"""Preemption and reclaim against all sets of victims, and moves against their promises, on small random clusters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import ASCEND, MODEL, a_gang, a_node, a_pool, a_state, held, required

from supernode.scheduling import defragment, smallest
from supernode.scheduling.defragment import Limits, Movable, plan_moves
from supernode.scheduling.demand import GangDemand, LevelConstraint
from supernode.scheduling.explain import explain
from supernode.scheduling.place import place, place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.preempt import Preemption, Victim, plan_preemption, waits_for
from supernode.scheduling.quota import Quota
from supernode.scheduling.rescore import step_on
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.scheduling.work import Work
from supernode.steptime.model import Parallelism

PAIR = (0, 1)
seeds = st.integers(0, 2**32 - 1)
Scene = tuple[Snapshot, GangDemand, list[Victim], dict[str, GangDemand], dict[str, Placement]]


def a_crowd(dice: random.Random) -> Scene:
    """A cluster of up to 8 nodes with up to 6 gangs that share nodes, quotas, and one more gang that wants in."""
    devices = dice.choice([2, 4])
    quotas = tuple(Quota(name, dice.choice([0, 1, 2, 4, 8, 16])) for name in "ab") if dice.random() < 0.7 else ()
    if dice.random() < 0.2:
        quotas = (*quotas, Quota("c", dice.choice([0, 4]), dice.choice([4, 8])))
    nodes = [a_node(f"n{i}", f"spine-{i // 4}", f"sn-{i // 2}") for i in range(dice.randint(2, 8))]
    state = a_state(nodes, [a_pool(devices=devices, quotas=quotas)])
    victims: list[Victim] = []
    demands: dict[str, GangDemand] = {}
    placements: dict[str, Placement] = {}
    for index in range(dice.randint(1, 6)):
        key = f"{dice.choice('abc')}/g{index}"
        one = a_gang(key, dice.randint(1, 3), dice.choice([1, 1, devices]), request={"cpu": dice.choice([100, 20_000])})
        mask = state.snapshot().usable.copy()
        for row in range(len(nodes)):
            mask[row] = dice.random() < 0.6
        one = replace(one, disruption=dice.choice(["All", "All", "Single"]))
        result = place(state.snapshot(), one.with_eligible({"dcu": mask}))
        if isinstance(result, Placement):
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
        priority=dice.randint(0, 3),
        request={"cpu": dice.choice([100, 20_000])},
    )
    return state.snapshot(), wanted, victims, demands, placements


def fits_without(snapshot: Snapshot, demand: GangDemand, gone: Sequence[str], shrunk: dict[str, int]) -> bool:
    work = Work(snapshot)
    for key in gone:
        work.release(key)
    for key, workers in shrunk.items():
        work.release(key, workers)
    return isinstance(place_in(work, demand, closed=False), Placement)


def may(snapshot: Snapshot, demand: GangDemand, gone: dict[str, int], victims: dict[str, Victim]) -> bool:
    """Whether all of these may be asked for so many devices: priorities, else guarantees."""
    (pool,) = snapshot.pools

    def guaranteed(namespace: str) -> int:
        quota = pool.quota_of(namespace)
        return 0 if quota is None else quota.guaranteed

    entitled = snapshot.held("dcu", demand.namespace) + demand.fewest * demand.devices <= guaranteed(demand.namespace)
    for key in gone:
        if victims[key].priority >= demand.priority and (not entitled or key[0] == demand.namespace):
            return False
    for namespace in {key[0] for key in gone}:
        mine = {key: count for key, count in gone.items() if key[0] == namespace}
        # Who would borrow can't have what another namespace is guaranteed, either.
        safe = namespace != demand.namespace and not entitled and guaranteed(namespace) > 0
        above = {key: count for key, count in mine.items() if safe or victims[key].priority >= demand.priority}
        borrowed = snapshot.held("dcu", namespace) - guaranteed(namespace)
        if above and sum(mine.values()) - max(above.values()) >= borrowed:
            return False
    return True


def brute(snapshot: Snapshot, demand: GangDemand, listed: list[Victim]) -> tuple[object, ...] | None:
    """(whole gangs, their priorities from the highest down, work lost) of the best set; None if there is none."""
    victims = {victim.key: victim for victim in listed}
    surplus = {v.key: min(v.surplus, int(snapshot.holders[v.key].workers.sum()) - 1) for v in listed}
    each = {key: h.devices // int(h.workers.sum()) for key, h in snapshot.holders.items()}
    best: tuple[object, ...] | None = None
    for size in range(len(listed) + 1):
        for gone in combinations(sorted(victims), size):
            elastic = [key for key, count in surplus.items() if count > 0 and key not in gone]
            for chosen in product((False, True), repeat=len(elastic)):
                shrunk = {key: surplus[key] for key, yes in zip(elastic, chosen, strict=True) if yes}
                counts = {**{key: snapshot.holders[key].devices for key in gone}}
                counts |= {key: each[key] * count for key, count in shrunk.items()}
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


def check(seed: int) -> str:
    """One scene; what came out."""
    snapshot, demand, listed, _, _ = a_crowd(random.Random(seed))
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
    return "whole" if plan.gangs else "shrunk" if plan.shrunk else "free"


def verify(snapshot: Snapshot, demand: GangDemand, plan: Preemption, victims: dict[str, Victim]) -> None:
    """The plan works, nobody in it could be spared, and none gives more than it has to."""
    each = {key: h.devices // int(h.workers.sum()) for key, h in snapshot.holders.items()}
    counts = {key: snapshot.holders[key].devices for key in plan.gangs}
    counts |= {key: each[key] * workers for key, workers in plan.shrunk}
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
    rows = [after.node_names.index(name) for name in plan.placement.nodes]
    assert (after.free[rows] >= 0).all()
    for row, mask in zip(rows, plan.placement.masks().tolist(), strict=True):
        others = [h for key, h in after.holders.items() if key != demand.key and after.node_names[row] in h.nodes]
        for other in others:
            assert not int(other.masks[other.nodes.index(after.node_names[row])]) & mask, "a device twice"


@pytest.mark.parametrize("part", range(4))
def test_the_smallest_and_cheapest_of_all_sets_gives_way(part: int) -> None:
    outcomes = [check(seed) for seed in range(part * 100, part * 100 + 100)]
    assert {"none", "whole", "free"} <= set(outcomes)


def test_some_scenes_shrink_and_some_reclaim() -> None:
    reclaimed = 0
    shrunk = 0
    for seed in range(300):
        snapshot, demand, listed, _, _ = a_crowd(random.Random(seed))
        plan = plan_preemption(snapshot, demand, listed)
        reclaimed += plan is not None and bool(plan.reclaimed)
        shrunk += plan is not None and bool(plan.shrunk)
    assert reclaimed >= 2
    assert shrunk >= 3


# --- reclaim ---------------------------------------------------------------------------------------------------------
def borrowers() -> Snapshot:
    """b is guaranteed 2 of 8 and holds all 8 with four gangs of 2; d is guaranteed 6."""
    state = a_state(pools=[a_pool(quotas=(Quota("b", 2), Quota("d", 6)))])
    for index in range(4):
        state.claim(f"b/{index}", held(f"b/{index}", (f"dcu-{index}", PAIR)), {})
    return state.snapshot()


def test_a_namespace_is_never_taken_below_its_guarantee_gang_by_gang() -> None:
    snapshot = borrowers()
    victims = [Victim(f"b/{index}", 9, float(index)) for index in range(4)]
    plan = plan_preemption(snapshot, a_gang("d/new", 3), victims)
    assert plan is not None
    assert (plan.gangs, plan.reclaimed) == (("b/0", "b/1", "b/2"), ("b/0", "b/1", "b/2"))
    assert plan_preemption(snapshot, a_gang("d/new", 4), victims) is None  # beyond d's guarantee
    assert plan_preemption(snapshot, a_gang("e/new", 1), victims) is None  # e is guaranteed nothing
    # Quota aside, a lower priority gives way as ever.
    plan = plan_preemption(snapshot, a_gang("e/new", 1, priority=10), victims)
    assert plan is not None
    assert (plan.gangs, plan.reclaimed) == (("b/0",), ())


def test_no_more_is_reclaimed_than_was_borrowed() -> None:
    """b holds 8 of which 4 are guaranteed: of its four gangs of 2, two may go, though d is guaranteed more."""
    state = a_state(pools=[a_pool(quotas=(Quota("b", 4), Quota("d", 6)))])
    for index in range(4):
        state.claim(f"b/{index}", held(f"b/{index}", (f"dcu-{index}", PAIR)), {})
    victims = [Victim(f"b/{index}", 9, float(index)) for index in range(4)]
    assert plan_preemption(state.snapshot(), a_gang("d/new", 3), victims) is None
    plan = plan_preemption(state.snapshot(), a_gang("d/new", 2), victims)
    assert plan is not None
    assert plan.gangs == ("b/0", "b/1")


def test_what_a_namespace_is_guaranteed_is_safe_from_higher_priorities_that_would_borrow() -> None:
    """Else b takes it back at once, whatever the priorities, and the two stop each other for ever."""
    state = a_state(pools=[a_pool(quotas=(Quota("b", 4), Quota("d", 2)))])
    state.claim("b/0", held("b/0", ("dcu-0", PAIR)), {})
    state.claim("b/1", held("b/1", ("dcu-1", PAIR)), {})
    victims = [Victim("b/0"), Victim("b/1")]
    assert plan_preemption(state.snapshot(), a_gang("e/new", 4, priority=9), victims) is None
    assert plan_preemption(state.snapshot(), a_gang("d/new", 4, priority=9), victims) is None  # d would borrow too
    # One more than guaranteed: one of them may go, not both.
    state.claim("b/2", held("b/2", ("dcu-2", PAIR)), {})
    victims.append(Victim("b/2"))
    plan = plan_preemption(state.snapshot(), a_gang("e/new", 2, priority=9), victims)
    assert plan is not None
    assert (len(plan.gangs), plan.reclaimed) == (1, ())
    assert plan_preemption(state.snapshot(), a_gang("e/new", 3, priority=9), victims) is None
    # Among themselves priorities count as ever.
    plan = plan_preemption(state.snapshot(), a_gang("b/new", 4, priority=9), victims)
    assert plan is not None
    assert len(plan.gangs) == 3


def test_a_gang_that_borrows_in_part_gives_way_as_a_whole() -> None:
    """b's one gang holds 8 of a guarantee of 2: what d is guaranteed can't be had otherwise."""
    state = a_state(pools=[a_pool(quotas=(Quota("b", 2), Quota("d", 6)))])
    state.claim("b/big", held("b/big", *((f"dcu-{index}", PAIR) for index in range(4))), {})
    plan = plan_preemption(state.snapshot(), a_gang("d/new", 1), [Victim("b/big", 9)])
    assert plan is not None
    assert plan.gangs == ("b/big",)
    plan = plan_preemption(state.snapshot(), a_gang("d/new", 1), [Victim("b/big", 9, surplus=3)])
    assert plan is not None
    assert (plan.gangs, plan.shrunk, plan.reclaimed) == ((), (("b/big", 1),), ("b/big",))


def test_surplus_goes_in_whole_slices() -> None:
    state = a_state()
    state.claim("b/big", held("b/big", *((f"dcu-{index}", PAIR) for index in range(4))), {})
    plan = plan_preemption(state.snapshot(), a_gang("d/new", 1, priority=1), [Victim("b/big", 0, surplus=3, quantum=2)])
    assert plan is not None
    assert plan.shrunk == (("b/big", 2),)


def test_surplus_of_one_and_the_whole_of_another() -> None:
    """5 nodes; the new gang needs all but one: the elastic one shrinks, and one of the others stops."""
    nodes = [a_node(f"n{index}", "spine-0", "sn-0") for index in range(5)]
    state = a_state(nodes)
    state.claim("a/elastic", held("a/elastic", ("n0", PAIR), ("n1", PAIR)), {})
    state.claim("a/rigid", held("a/rigid", ("n2", PAIR), ("n3", PAIR)), {})
    state.claim("a/dear", held("a/dear", ("n4", PAIR)), {})
    victims = [Victim("a/elastic", 0, 10.0, surplus=1), Victim("a/rigid", 0, 10.0), Victim("a/dear", 0, 99.0)]
    plan = plan_preemption(state.snapshot(), a_gang("d/new", 3, priority=1), victims)
    assert plan is not None
    assert (plan.gangs, plan.shrunk) == (("a/rigid",), (("a/elastic", 1),))
    refused = waits_for(state.snapshot(), a_gang("d/new", 3, priority=1), plan)
    assert refused.code is Reason.WAITING_FOR_PREEMPTION
    assert explain(refused, state.snapshot(), a_gang("d/new", 3, priority=1)) == (
        "needs 3 workers x 2 hygon.com/hcu (6 devices); pool dcu has 10 devices on 5 nodes, 0 free; starts when "
        "a/rigid and 1 of the workers of a/elastic has given way, doing 10 s of work again"
    )


def test_who_fits_needs_nobody() -> None:
    plan = plan_preemption(a_state().snapshot(), a_gang("d/new", 1), [])
    assert plan is not None
    assert (plan.gangs, plan.shrunk) == ((), ())


# --- moves -----------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(seeds)
def test_moves_keep_their_promises(seed: int) -> None:
    """Nobody loses a worker or a wish or gets slower, and the new one has its place; one move is found if there is."""
    snapshot, demand, _, demands, placements = a_crowd(random.Random(seed))
    demands = {key: replace(one, model=MODEL) for key, one in demands.items()}
    movable = [Movable(one, 60.0, placements[key]) for key, one in demands.items()]
    plan = plan_moves(snapshot, demand, movable)
    if isinstance(place(snapshot, demand), Placement):
        assert plan is None
        return
    if plan is None:
        assert not one_move(snapshot, demand, demands), "one whole gang could move"
        return
    assert len(plan.moves) <= Limits().moves
    assert plan.cost < plan.gain
    free = {name: int(snapshot.device_free[row]) for row, name in enumerate(snapshot.node_names)}
    for move in plan.moves:
        for worker in placements[move.key].workers:
            free[worker.node] |= sum(1 << device for device in worker.devices)
    for move in [*plan.moves, plan.placement]:
        for worker in move.workers:
            for device in worker.devices:
                assert free[worker.node] >> device & 1, "not free, or twice"
                free[worker.node] &= ~(1 << device)
    for move in plan.moves:
        before = placements[move.key]
        assert len(move.workers) == len(before.workers)
        if demands[move.key].disruption == "Single":
            assert sum(old != new for old, new in zip(before.workers, move.workers, strict=True)) == 1
        (pool,) = snapshot.pools
        seconds = []
        for workers in (before.workers, move.workers):
            rows = [snapshot.node_names.index(worker.node) for worker in workers]
            step = step_on(snapshot, pool, demands[move.key], rows)
            assert step is not None
            seconds.append(step.seconds)
        assert seconds[1] <= seconds[0] * 1.001


def one_move(snapshot: Snapshot, demand: GangDemand, demands: dict[str, GangDemand]) -> bool:
    """Whether some gang that moves as a whole could go elsewhere, no slower, once the new one has its fastest place."""
    (pool,) = snapshot.pools
    for key, one in demands.items():
        if one.disruption == "Single":
            continue
        work = Work(snapshot)
        holding = work.release(key)
        wanted = place_in(work, demand, closed=False)
        if isinstance(wanted, Placement):
            work.claim(wanted, demand)
            moved = place_in(work, one, closed=False)
            if isinstance(moved, Placement) and len(moved.workers) == int(holding.workers.sum()):
                old = [
                    snapshot.node_names.index(n)
                    for n, c in zip(holding.nodes, holding.workers, strict=True)
                    for _ in range(c)
                ]
                new = [snapshot.node_names.index(worker.node) for worker in moved.workers]
                before, after = step_on(snapshot, pool, one, old), step_on(snapshot, pool, one, new)
                if before is not None and after is not None and after.seconds <= before.seconds:
                    return True
    return False


def scattered() -> Snapshot:
    """One device of a node of each super-node is held: no super-node is whole, though one would be enough."""
    state = a_state()
    state.claim("a/one", held("a/one", ("dcu-0", (0,))), {"cpu": 1000})
    state.claim("b/two", held("b/two", ("dcu-2", (0,))), {"cpu": 1000})
    return state.snapshot()


def test_a_plan_that_costs_more_than_it_gains_is_none() -> None:
    wanted = a_gang("d/new", 2, constraints=required("supernode"))
    movable = [Movable(a_gang("a/one", 1, 1), 60.0)]
    assert plan_moves(scattered(), wanted, movable, Limits(wait=16.0)) is not None  # 60 < 4 x 16
    assert plan_moves(scattered(), wanted, movable, Limits(wait=15.0)) is None
    assert plan_moves(scattered(), wanted, movable, Limits(moves=0)) is None


def test_nobody_is_moved_to_where_it_would_be_slower() -> None:
    """a/one has both nodes of a super-node; apart they would be slower. Without a model nobody can tell."""
    nodes = [a_node(f"n{i}", "spine-0", f"sn-{i // 2}") for i in range(6)]
    state = a_state(nodes)
    one = a_gang("a/one", 2, constraints=(), model=MODEL)
    state.claim("a/one", held("a/one", ("n0", PAIR), ("n1", PAIR)), one.request)
    for index, key in ((2, "b/two"), (4, "c/three")):
        state.claim(key, held(key, (f"n{index}", PAIR)), {})
    wanted = a_gang("d/new", 2, constraints=required("supernode"))
    assert isinstance(place(state.snapshot(), wanted), Unplaceable)
    assert plan_moves(state.snapshot(), wanted, [Movable(one, 60.0)]) is None
    assert plan_moves(state.snapshot(), wanted, [Movable(replace(one, model=None), 60.0)]) is not None


def test_one_worker_moves_where_only_one_may() -> None:
    """a/one has a worker in each super-node; the one in sn-1 moves next to the other, which stays."""
    nodes = [a_node(f"n{i}", "spine-0", f"sn-{i // 2}") for i in range(4)]
    state = a_state(nodes)
    one = a_gang("a/one", 2, 1, disruption="Single")
    here = held("a/one", ("n0", (0,)), ("n2", (1,)))
    state.claim("a/one", here, one.request)
    wanted = a_gang("d/new", 2, constraints=required("supernode"))
    assert plan_moves(state.snapshot(), wanted, [Movable(one, 60.0)]) is None  # where its workers are is not known
    plan = plan_moves(state.snapshot(), wanted, [Movable(one, 60.0, here)])
    assert plan is not None
    (move,) = plan.moves
    moved = [new for old, new in zip(here.workers, move.workers, strict=True) if old != new]
    assert len(moved) == 1
    assert {worker.node for worker in move.workers} <= {"n0", "n1"} or {w.node for w in move.workers} <= {"n2", "n3"}


def test_beyond_its_tries_a_plan_still_works_and_spares_whom_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """On large clusters the exact search ends early: what it falls back on is never in vain either."""
    monkeypatch.setattr(smallest, "MOST_TRIES", 0)
    found = 0
    for seed in range(200):
        snapshot, demand, listed, _, _ = a_crowd(random.Random(seed))
        plan = plan_preemption(snapshot, demand, listed)
        if plan is not None and plan.gangs:
            found += 1
            verify(snapshot, demand, plan, {victim.key: victim for victim in listed})
            assert brute(snapshot, demand, listed) is not None
    assert found > 10


def test_very_many_gangs_give_way_at_once() -> None:
    """1,200 gangs of one node each, and one gang that wants all the nodes."""
    nodes = [a_node(f"n{i:04d}", "spine-0", f"sn-{i // 100}") for i in range(1200)]
    state = a_state(nodes)
    for index in range(1200):
        state.claim(f"a/g{index:04d}", held(f"a/g{index:04d}", (f"n{index:04d}", PAIR)), {})
    victims = [Victim(f"a/g{index:04d}", 0, float(index)) for index in range(1200)]
    plan = plan_preemption(state.snapshot(), a_gang("b/all", 1150, priority=1), victims)
    assert plan is not None
    assert plan.gangs == tuple(f"a/g{index:04d}" for index in range(1150))


def test_moves_are_not_looked_for_where_too_little_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving makes no devices: on a full cluster the question is answered at once."""
    asked: list[str] = []
    monkeypatch.setattr(defragment, "place_in", lambda *args, **kwargs: asked.append("asked"))
    state = a_state()
    for index in range(4):
        state.claim(f"a/g{index}", held(f"a/g{index}", (f"dcu-{index}", PAIR)), {})
    movable = [Movable(a_gang(f"a/g{index}", 1), 30.0) for index in range(4)]
    assert plan_moves(state.snapshot(), a_gang("b/new", 1), movable) is None
    assert not asked


def test_the_search_for_moves_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gang's leaving would make room, and none has a place to go to: not each way to find that out is tried."""
    asked: list[bool] = []

    def counting(work: Work, demand: GangDemand, *, closed: bool) -> object:
        asked.append(work.brief)
        return place_in(work, demand, closed=closed)

    monkeypatch.setattr(defragment, "place_in", counting)
    state = a_state([a_node(f"n{i:03d}", "spine-0", f"sn-{i // 2}") for i in range(400)])
    for index in range(400):  # one device of every node of the first half is free, and both gangs want whole nodes
        devices = (0,) if index < 200 else PAIR
        state.claim(f"a/g{index:03d}", held(f"a/g{index:03d}", (f"n{index:03d}", devices)), {})
    movable = [Movable(a_gang(f"a/g{index:03d}", 1), 30.0) for index in range(200, 400)]
    assert plan_moves(state.snapshot(), a_gang("b/new", 1), movable) is None
    assert 1 < len(asked) <= 600
    assert asked.count(False) <= 12


@pytest.mark.parametrize("near", [False, True])
def test_gangs_over_several_pools_are_not_moved_to_where_they_are_slower(near: bool) -> None:
    """Its DCU node is wanted; the other one that is free lies beside its NPU node, or behind the spine's links."""
    other = "sn-0" if near else "sn-1"
    nodes = [a_node("d0", "spine-0", "sn-0"), a_node("d1", "spine-0", other)]
    nodes.append(a_node("n0", "spine-0", "sn-0", pool="npu"))
    state = a_state(nodes, [a_pool(), a_pool("npu", ASCEND)])
    cut = Parallelism(tensor=2, pipeline=2, micro_batch_size=4, global_batch_size=32)
    mixed = a_gang("a/mix", 2, 2, pools=("dcu", "npu"), mix="Stages", model=MODEL, parallelism=cut)
    row = state.snapshot().node_names.index("d0")
    only = {"dcu": np.arange(3) == row}
    first = place(state.snapshot(), mixed.with_eligible(only))
    assert isinstance(first, Placement)
    assert first.pools == ("dcu", "npu") or first.pools == ("npu", "dcu")
    state.claim(mixed.key, first, mixed.request)
    snapshot = state.snapshot()
    wanted = a_gang("b/new", 1, eligible=only)
    plan = plan_moves(snapshot, wanted, [Movable(mixed, 1.0, first)])
    assert (plan is not None) is near
