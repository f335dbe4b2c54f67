"""Preemption against all sets of victims, on small random clusters."""

from __future__ import annotations

import random

import pytest
from tests.unit.scheduling.clusters import a_gang, a_node, a_state, held
from tests.unit.scheduling.crowds import PAIR, a_crowd, brute, check, verify

from supernode.scheduling import smallest
from supernode.scheduling.explain import explain
from supernode.scheduling.preempt import Victim, plan_preemption, waits_for
from supernode.scheduling.unplaceable import Reason


@pytest.mark.parametrize("part", range(4))
def test_the_smallest_and_cheapest_of_all_sets_gives_way(part: int) -> None:
    outcomes = [check(seed) for seed in range(part * 100, part * 100 + 100)]
    assert {"none", "whole", "free"} <= set(outcomes)


@pytest.mark.parametrize("part", range(2))
def test_so_it_does_where_quotas_are_in_effective_compute(part: int) -> None:
    """Guarantees, borrowing and limits in either unit, against every set of victims."""
    outcomes = [check(seed, compute=True) for seed in range(part * 100, part * 100 + 100)]
    assert {"none", "whole", "free", "reclaimed"} <= set(outcomes)


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
