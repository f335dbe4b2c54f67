"""Plans that change who holds what: preemption, moves, replacement, and what `alternatives` offers. All on copies."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import (
    MODEL,
    a_gang,
    a_node,
    a_pool,
    a_random_gang,
    a_random_state,
    a_state,
    held,
    required,
)

from supernode.errors import InputError
from supernode.scheduling.alternatives import Running, alternatives
from supernode.scheduling.cycle import plan_cycle
from supernode.scheduling.defragment import Movable, plan_moves
from supernode.scheduling.demand import Slice
from supernode.scheduling.explain import explain, explain_alternatives
from supernode.scheduling.picture import picture
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.preempt import Victim, plan_preemption
from supernode.scheduling.quota import Quota
from supernode.scheduling.repair import plan_replacement
from supernode.scheduling.shares import queue_order, quota_share
from supernode.scheduling.state import State
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.scheduling.work import Work

PAIR = (0, 1)


def full(**pool: object) -> State:
    """4 nodes of 2 devices: a/low has dcu-0 and dcu-1 (sn-0), b/mid dcu-2, c/high dcu-3 (sn-1)."""
    state = a_state(pools=[a_pool(**pool)]) if pool else a_state()
    state.claim("a/low", held("a/low", ("dcu-0", PAIR), ("dcu-1", PAIR)), {"cpu": 1000})
    state.claim("b/mid", held("b/mid", ("dcu-2", PAIR)), {"cpu": 1000})
    state.claim("c/high", held("c/high", ("dcu-3", PAIR)), {"cpu": 1000})
    return state


def victims(**lost: float) -> list[Victim]:
    levels = {"a/low": 0, "b/mid": 1, "c/high": 9}
    return [Victim(key, level, lost.get(key[2:], 0.0)) for key, level in levels.items()]


# --- preemption ------------------------------------------------------------------------------------------------------
def test_the_cheapest_single_gang_gives_way() -> None:
    snapshot = full().snapshot()
    plan = plan_preemption(snapshot, a_gang("d/new", 1, priority=5), victims())
    assert plan is not None
    assert plan.gangs == ("a/low",)
    plan = plan_preemption(
        snapshot, a_gang("d/new", 1, priority=5), [Victim("a/low", 1, 60.0), Victim("b/mid", 1, 5.0)]
    )
    assert plan is not None
    assert (plan.gangs, plan.lost_seconds) == (("b/mid",), 5.0)
    assert "d/new" not in snapshot.holders
    assert set(snapshot.holders) == {"a/low", "b/mid", "c/high"}


def test_nobody_gives_way_in_vain_or_to_a_gang_that_is_not_above_it() -> None:
    snapshot = full().snapshot()
    assert plan_preemption(snapshot, a_gang("d/new", 5, priority=99), victims()) is None
    assert plan_preemption(snapshot, a_gang("d/new", 1, priority=0), victims()) is None
    # Both nodes of sn-1 are needed, but c/high may not be touched.
    plan = plan_preemption(snapshot, a_gang("d/new", 2, priority=5, constraints=required("supernode")), victims())
    assert plan is not None
    assert plan.gangs == ("a/low",)
    plan = plan_preemption(snapshot, a_gang("d/new", 3, priority=5), victims())
    assert plan is not None
    assert plan.gangs == ("a/low", "b/mid")


def test_surplus_workers_go_before_whole_gangs() -> None:
    snapshot = full().snapshot()
    plan = plan_preemption(snapshot, a_gang("d/new", 1, priority=5), [Victim("a/low", 0, 99.0, surplus=1)])
    assert plan is not None
    assert (plan.gangs, plan.shrunk) == ((), (("a/low", 1),))
    assert plan.placement.nodes == ("dcu-1",)  # the last rank's node


def test_borrowed_devices_are_given_back() -> None:
    quotas = (Quota("d", guaranteed=2), Quota("a", guaranteed=4), Quota("b", guaranteed=0))
    snapshot = full(quotas=quotas).snapshot()
    plan = plan_preemption(snapshot, a_gang("d/new", 1), victims())
    assert plan is not None
    assert plan.gangs == ("b/mid",)  # a/low is within its namespace's guarantee
    assert plan_preemption(snapshot, a_gang("d/new", 2), victims()) is None  # beyond d's own guarantee


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_preemption_makes_room_for_what_it_promises(seed: int) -> None:
    dice = random.Random(seed)
    state = a_random_state(dice, 8)
    snapshot = state.snapshot()
    demand = a_random_gang(dice, snapshot.topologies[0].levels)
    candidates = [Victim(key, -1, dice.random(), dice.randint(0, 1)) for key in snapshot.holders]
    plan = plan_preemption(snapshot, demand, candidates)
    work = Work(snapshot)
    if plan is None:
        for key in snapshot.holders:
            work.release(key)
        if candidates:
            assert isinstance(place(work.frozen(), demand), Unplaceable)
        return
    for key in plan.gangs:
        work.release(key)
    for key, workers in plan.shrunk:
        work.release(key, workers)
    work.claim(plan.placement, demand)
    assert (work.frozen().free[plan.placement.rows] >= 0).all()


# --- release ---------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_claim_that_is_released_leaves_nothing(seed: int) -> None:
    dice = random.Random(seed)
    snapshot = a_random_state(dice, 8).snapshot()
    demand = a_random_gang(dice, snapshot.topologies[0].levels)
    result = place(snapshot, demand)
    if isinstance(result, Unplaceable):
        return
    work = Work(snapshot)
    work.claim(result, demand)
    workers = result.node_of.size
    if workers > 1:
        work.release(demand.key, workers - 1)
        assert int(work.live.holders[demand.key].workers.sum()) == 1
    work.release(demand.key)
    after = work.frozen()
    assert np.array_equal(after.free, snapshot.free)
    assert np.array_equal(after.device_free, snapshot.device_free)
    assert set(after.holders) == set(snapshot.holders)


def test_what_is_not_held_can_not_be_released() -> None:
    work = Work(full().snapshot())
    with pytest.raises(InputError, match="TrainingJob d/x: holds nothing"):
        work.release("d/x")
    with pytest.raises(InputError, match="has 2 workers, 3 can't be taken"):
        work.release("a/low", 3)


# --- moves -----------------------------------------------------------------------------------------------------------
def scattered() -> State:
    """One device of a node of each super-node is held: no super-node is whole, though one would be enough."""
    state = a_state()
    state.claim("a/one", held("a/one", ("dcu-0", (0,))), {"cpu": 1000})
    state.claim("b/two", held("b/two", ("dcu-2", (0,))), {"cpu": 1000})
    return state


def movable(cost: Mapping[str, float]) -> list[Movable]:
    return [Movable(a_gang(key, 1, 1), seconds) for key, seconds in cost.items()]


def test_one_cheap_move_makes_room() -> None:
    snapshot = scattered().snapshot()
    wanted = a_gang("d/new", 2, constraints=required("supernode"))
    assert isinstance(place(snapshot, wanted), Unplaceable)
    plan = plan_moves(snapshot, wanted, movable({"a/one": 60.0, "b/two": 30.0}))
    assert plan is not None
    (move,) = plan.moves
    assert move.key == "b/two"
    assert set(plan.placement.nodes) == {"dcu-2", "dcu-3"}
    assert move.nodes[0] in {"dcu-0", "dcu-1"}
    assert (plan.cost, plan.gain, plan.devices) == (30.0, 4 * 3600.0, 4)
    # Nowhere else to go: no plan.
    assert plan_moves(snapshot, a_gang("d/new", 4), movable({"a/one": 60.0, "b/two": 30.0})) is None


# --- replacement -----------------------------------------------------------------------------------------------------
def test_lost_nodes_are_replaced_nearby_and_other_ranks_stay() -> None:
    nodes = [a_node(f"n{i:02d}", "spine-0", f"sn-{i // 4}") for i in range(12)]
    state = a_state(nodes)
    demand = a_gang("a/x", 6, constraints=required("spine"))
    before = held("a/x", *((f"n{i:02d}", PAIR) for i in (0, 1, 2, 4, 5, 6)))
    state.claim("a/x", before, demand.request)
    state.apply_node(a_node("n01", "spine-0", "sn-0", usable=False))
    state.remove_node("n05")
    after = plan_replacement(state.snapshot(), demand, before, {"n01", "n05", "elsewhere"})
    assert isinstance(after, Placement)
    assert [worker.node for worker in after.workers] == ["n00", "n03", "n02", "n04", "n07", "n06"]
    assert (after.level, after.domain) == ("spine", ("spine-0",))
    inside = a_gang("a/x", 6, constraints=required("supernode"))
    before = held("a/y", *((f"n{i:02d}", PAIR) for i in (8, 9, 10, 11)))
    state.claim("a/y", before, demand.request)
    refused = plan_replacement(state.snapshot(), replace(inside, key="a/y", workers=4), before, {"n08"})
    assert isinstance(refused, Unplaceable)  # sn-2 has no node to spare
    assert refused.code is Reason.WAITING_FOR_REPAIR
    assert (refused.nearest.wanted, refused.nearest.fits, refused.nearest.domain) == (1, 0, ("spine-0", "sn-2"))
    assert explain(refused, state.snapshot(), inside) == (
        "lost n08; 1 worker x 2 hygon.com/hcu must be replaced in supernode spine-0/sn-2, where 0 of 1 fit; pool dcu "
        "has 18 devices on 9 nodes (2 more not ready or closed to this job), 4 free; the gang goes on when these nodes "
        "are back or others there are free"
    )


def test_replacement_keeps_slices_together() -> None:
    nodes = [a_node(f"n{i:02d}", "spine-0", f"sn-{i // 3}") for i in range(6)]
    state = a_state(nodes)
    demand = a_gang("a/x", 4, slices=(Slice("supernode", 2),))
    before = held("a/x", ("n00", PAIR), ("n01", PAIR), ("n03", PAIR), ("n04", PAIR))
    state.claim("a/x", before, demand.request)
    after = plan_replacement(state.snapshot(), demand, before, {"n00", "n04"})
    assert isinstance(after, Placement)
    assert [worker.node for worker in after.workers] == ["n02", "n01", "n03", "n05"]
    state.remove_node("n03")
    after = plan_replacement(state.snapshot(), demand, before, {"n03"})
    assert isinstance(after, Placement)
    assert [worker.node for worker in after.workers][2] == "n05"


# --- alternatives ----------------------------------------------------------------------------------------------------
def words(state: State, demand: object, running: Running) -> list[str]:
    return [explain_alternatives([item]) for item in alternatives(state.snapshot(), demand, running)]  # type: ignore[arg-type]


def test_fewer_workers_or_further_out() -> None:
    state = a_state()
    state.claim("a/low", held("a/low", ("dcu-0", PAIR)), {"cpu": 1000})
    wanted = a_gang("d/new", 3, constraints=required("supernode"))
    found = words(state, wanted, Running({}))
    assert found == ["fits at level spine", "fits now with 2 workers"]


def test_the_price_of_going_further_out_is_told() -> None:
    state = scattered()
    wanted = a_gang("d/new", 2, constraints=required("supernode"), model=MODEL)
    assert isinstance(place(state.snapshot(), wanted), Unplaceable)
    first = words(state, wanted, Running({}))[0]
    assert first.startswith("fits at level spine, predicted ")
    assert first.endswith("x slower")


def test_when_it_will_be_free_and_who_could_give_way() -> None:
    found = words(
        full(), a_gang("d/new", 2, priority=5), Running({"b/mid": 600.0, "c/high": 2400.0}, tuple(victims(low=90.0)))
    )
    assert found == ["free in about 40 min when c/high ends", "fits if a/low gave way, doing 90 s of work again"]


def test_moves_are_told_with_cost_and_gain() -> None:
    wanted = a_gang("d/new", 2, constraints=required("supernode"))
    first = words(scattered(), wanted, Running({}, (), tuple(movable({"b/two": 30.0}))))[0]
    assert (
        first == "fits after moving b/two to spine-0/sn-0/dcu-0 (30 device-seconds stand still, 4 devices gain 14400)"
    )


# --- picture ---------------------------------------------------------------------------------------------------------
def test_the_picture_shows_every_device_once() -> None:
    state = full()
    state.release("b/mid")
    demand = a_gang("d/<new>", 1)
    result = place(state.snapshot(), demand)
    assert isinstance(result, Placement)
    root = ET.fromstring(picture(state.snapshot(), result))
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(title.rsplit(" ", 1)[1] for title in titles) == ["held"] * 6 + ["mine"] * 2
    assert "d/&lt;new&gt;" in picture(state.snapshot(), result)
    assert "not placed" in picture(state.snapshot(), None)


# --- order and backfill ----------------------------------------------------------------------------------------------
def test_the_namespace_with_the_smaller_share_of_its_guarantee_is_asked_first() -> None:
    """a holds 4 of its 4, b 2 of its 2, c nothing of 2; d has no guarantee and holds nothing of the rest (1)."""
    state = full(quotas=(Quota("a", 4), Quota("b", 2), Quota("c", 1)))
    gangs = [a_gang(f"{name}/new", 1, created=float(at)) for at, name in enumerate("abcde")]
    work = Work(state.snapshot())
    assert [d.key[0] for d in queue_order(gangs, work)] == ["d", "e", "a", "b", "c"]
    assert quota_share(work, "c") == 2.0
    assert [d.key[0] for d in queue_order(gangs)] == ["a", "b", "c", "d", "e"]
    first = a_gang("c/first", 1, priority=1)
    assert next(queue_order([*gangs, first], work)) is first


def test_shares_grow_with_each_placement() -> None:
    """Both namespaces are guaranteed half; they take turns, whoever asked first."""
    state = a_state(pools=[a_pool(quotas=(Quota("a", 4), Quota("b", 4)))])
    gangs = [a_gang(f"a/{i}", 1, created=float(i)) for i in range(4)]
    gangs += [a_gang(f"b/{i}", 1, created=10.0 + i) for i in range(4)]
    placed = [d.demand.key for d in plan_cycle(state.snapshot(), gangs) if isinstance(d.result, Placement)]
    assert placed == ["a/0", "b/0", "a/1", "b/1"]


def test_backfill_only_where_the_head_is_not_delayed() -> None:
    """dcu-0 is free; the head wants all 4 nodes, and the last of the others ends in 40 min."""
    state = full()
    state.release("a/low")
    state.claim("a/low", held("a/low", ("dcu-1", PAIR)), {"cpu": 1000})
    ends = {"a/low": 60.0, "b/mid": 600.0, "c/high": 2400.0}
    head = a_gang("d/head", 4, created=1.0)

    def second(seconds: float | None, ends: dict[str, float]) -> bool:
        small = a_gang("e/small", 1, created=2.0, seconds=seconds)
        return isinstance(plan_cycle(state.snapshot(), [head, small], ends)[1].result, Placement)

    assert second(2400.0, ends)
    assert not second(2401.0, ends)
    assert not second(None, ends)
    assert not second(1.0, {"a/low": 60.0})  # nobody knows when the head can start
    assert not second(1.0, {})
    both = [a_gang(f"e/{i}", 1, created=2.0, seconds=s) for i, s in enumerate((9999.0, 1.0))]
    answers = plan_cycle(state.snapshot(), [head, *both], ends)
    assert [isinstance(a.result, Placement) for a in answers] == [False, False, True]


def test_a_stream_of_backfilled_gangs_does_not_starve_the_head() -> None:
    """4 nodes; small gangs that say 2 come for ever. The big one of 4 gets in as soon as the first ones have ended."""
    state = a_state()
    running: dict[str, int] = {}
    waiting = {"big/one": a_gang("big/one", 4, created=1.0)}
    for cycle in range(12):
        for key in [key for key, end in running.items() if end <= cycle]:
            state.release(key)
            del running[key]
        for index in range(2):
            key = f"small/{cycle}-{index}"
            waiting[key] = a_gang(key, 1, created=float(cycle), seconds=2.0)
        ends = {key: float(end - cycle) for key, end in running.items()}
        for decision in plan_cycle(state.snapshot(), waiting.values(), ends):
            if isinstance(decision.result, Placement):
                state.claim(decision.demand.key, decision.result, decision.demand.request)
                running[decision.demand.key] = cycle + 2
                del waiting[decision.demand.key]
        if state.holding("big/one"):
            break
    assert state.holding("big/one"), "starved"
    assert cycle <= 4


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_times_that_can_not_be(seconds: float) -> None:
    with pytest.raises(InputError, match="TrainingJob default/gpt: seconds"):
        a_gang(seconds=seconds)


def test_nobody_is_named_where_nobody_need_give_way() -> None:
    """What keeps it waiting may be a place that is kept for another gang."""
    found = words(scattered(), a_gang("d/new", 1, priority=5), Running({}, tuple(victims(low=90.0))))
    assert not [sentence for sentence in found if "gave way" in sentence]
