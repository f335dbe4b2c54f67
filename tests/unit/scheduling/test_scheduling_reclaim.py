"""What is taken back from whom: no more than was borrowed, in devices and in effective compute."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import MODEL, a_gang, a_pool, a_state, held
from tests.unit.scheduling.crowds import PAIR, PEAK, check_limits

from supernode.scheduling.cycle import plan_cycle
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.explain import explain
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.preempt import Victim, plan_preemption
from supernode.scheduling.quota import Quota
from supernode.scheduling.shares import queue_order, quota_share
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.trial import Trial, share_of
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.scheduling.work import Work


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


def test_nobody_is_stopped_whose_stead_a_waiting_gang_would_have_back_at_once() -> None:
    """b/wide holds 8, of which 2 are guaranteed; b/small waits, and would be within that if b/wide were gone."""
    state = a_state(pools=[a_pool(quotas=(Quota("b", 2), Quota("d", 8)))])
    state.claim("b/wide", held("b/wide", *((f"dcu-{index}", PAIR) for index in range(4))), {})
    snapshot, victims = state.snapshot(), [Victim("b/wide", 5, 0.0)]
    small, larger = a_gang("b/small", 1), a_gang("b/larger", 2)

    def may(key: str, workers: int, priority: int, *waiting: GangDemand) -> bool:
        demand = a_gang(key, workers, priority=priority)
        return plan_preemption(snapshot, demand, victims, {"b": waiting}) is not None

    assert not may("e/new", 1, 9, small)
    assert not may("e/new", 1, 9, larger, small)
    # Nobody would take it back: nobody waits, who waits would borrow too, or who asks is within its own guarantee.
    assert may("e/new", 1, 9)
    assert may("e/new", 1, 9, larger)
    assert may("d/new", 1, 0, small)
    assert may("b/new", 4, 9, small)
    # Nor may one stop that could start again within the guarantee, with fewer workers; it may give up some of them.
    victims = [Victim("b/wide", 5, 0.0, surplus=3)]
    assert may("e/new", 3, 9)
    assert not may("e/new", 4, 9)
    assert may("d/new", 4, 9)


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


# --- in effective compute ---------------------------------------------------------------------------------------------
def promising(key: str, compute: int, *places: tuple[str, tuple[int, ...]]) -> Placement:
    """A place that promises so many MFLOP/s."""
    return replace(held(key, *places), promised=(("dcu", compute),))


def test_compute_is_taken_back_in_its_own_unit() -> None:
    """c holds all devices but promises little: in compute it borrows nothing, in devices it has no guarantee at all."""
    for quota, borrows in ((Quota("c", 0, None, 400), False), (Quota("c", 0, None, 399), True), (Quota("c", 8), False)):
        state = a_state(pools=[a_pool(quotas=(quota, Quota("d", 0, None, 2 * PEAK)))])
        for index in range(4):
            state.claim(f"c/{index}", promising(f"c/{index}", 100, (f"dcu-{index}", PAIR)), {})
        victims = [Victim(f"c/{index}", 9, float(index)) for index in range(4)]
        plan = plan_preemption(state.snapshot(), a_gang("d/new", 1), victims)
        assert (plan is not None) is borrows, quota
        if plan is not None:
            assert (plan.gangs, plan.reclaimed) == (("c/0",), ("c/0",))
        assert plan_preemption(state.snapshot(), a_gang("d/new", 2), victims) is None, "more than d is guaranteed"


def test_a_gang_with_a_model_is_entitled_by_its_best_place() -> None:
    state = a_state(pools=[a_pool(quotas=(Quota("d", 0, None, PEAK),))])
    for index in range(4):
        state.claim(f"c/{index}", held(f"c/{index}", (f"dcu-{index}", PAIR)), {})
    victims = [Victim(f"c/{index}", 9, float(index)) for index in range(4)]
    plan = plan_preemption(state.snapshot(), a_gang("d/new", 1, model=MODEL), victims)
    assert plan is not None, "two devices whose model runs at less than half of their peak"
    assert 0 < dict(plan.placement.promised)["dcu"] <= PEAK
    assert plan_preemption(state.snapshot(), a_gang("d/new", 1), victims) is None, "the peak of two is more"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 2**32 - 1))
def test_all_that_is_guaranteed_can_be_had_whoever_borrowed_it(first: int, second: int, seed: int) -> None:
    """Gangs of high priority hold all; a and b, guaranteed no more than there is, take theirs back gang by gang."""
    dice = random.Random(seed)
    second = min(second, 8 - first)
    quotas = Quota("a", 0, None, first * PEAK), Quota("b", second, None, 0), Quota("c", 0)
    state = a_state(pools=[a_pool(quotas=quotas)])
    for index in range(8):
        key = f"{dice.choice('cccab')}/g{index}"
        state.claim(key, held(key, (f"dcu-{index // 2}", (index % 2,))), {"cpu": 1000})
    wanted = {"a": first, "b": second}
    for turn in range(40):
        snapshot = state.snapshot()
        short = [name for name, count in wanted.items() if snapshot.held("dcu", name) < count]
        if not short:
            break
        name = dice.choice(short)
        victims = [Victim(key, 9, float(dice.randint(0, 9))) for key in snapshot.holders]
        demand = a_gang(f"{name}/new{turn}", 1, 1)
        plan = plan_preemption(snapshot, demand, victims)
        assert plan is not None, f"{name} is guaranteed more than it holds"
        for key in plan.gangs:
            state.release(key)
        state.claim(demand.key, plan.placement, demand.request)
        for other in set(wanted) - {name}:
            before, after = snapshot.held("dcu", other), state.snapshot().held("dcu", other)
            assert after >= min(before, wanted[other]), "taken back further than to the guarantee"
    assert all(state.snapshot().held("dcu", name) >= count for name, count in wanted.items())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_cycle_exceeds_a_limit_in_either_unit(seed: int) -> None:
    """Gangs with and without a model, elastic and not, come to a pool with limits; all that is placed stays within."""
    dice = random.Random(seed)
    quotas = tuple(
        Quota(name, 0, dice.choice([None, 3, 6]), 0, dice.choice([None, 1, PEAK // 2, PEAK, 3 * PEAK])) for name in "ab"
    )
    state = a_state(pools=[a_pool(quotas=quotas)])
    gangs = []
    for index in range(6):
        model = dice.choice([None, MODEL])
        fewest = dice.choice([None, 1]) if model is None else None
        name, workers = f"{dice.choice('abc')}/{index}", dice.randint(1, 3)
        gangs.append(a_gang(name, workers, dice.choice([1, 2]), model=model, min_count=fewest))
    for decision in plan_cycle(state.snapshot(), gangs):
        if isinstance(decision.result, Placement):
            state.claim(decision.demand.key, decision.result, decision.demand.request)
            continue
        refusal = decision.result.nearest
        if refusal.compute:  # the numbers that the sentence tells are those that stand in the way
            over = refusal.code is Reason.EXCEEDS_MAX_QUOTA
            assert (refusal.compute > refusal.limit) is over
            assert refusal.used + refusal.compute > refusal.limit
            assert "TFLOPS" in explain(decision.result, decision.snapshot, decision.demand)
    check_limits(state.snapshot())


def test_a_gang_that_runs_may_be_repaired_into_a_faster_place_but_not_grow_past_its_limit() -> None:
    state = a_state(pools=[a_pool(quotas=(Quota("a", 0, None, 0, 2),))])
    state.claim("a/one", promising("a/one", 1, ("dcu-0", PAIR)), {"cpu": 1000})
    work = Work(state.snapshot())
    work.release("a/one")
    assert isinstance(place_in(work, a_gang("a/one", 1), closed=False), Placement)
    grown = place_in(work, a_gang("a/one", 2), closed=False)
    assert isinstance(grown, Unplaceable)
    assert grown.code is Reason.EXCEEDS_MAX_QUOTA
    other = place_in(work, a_gang("a/two", 1), closed=False)
    assert isinstance(other, Unplaceable), "it is not the one that ran"


def test_the_fair_share_counts_compute_where_the_guarantee_is_stated_in_it() -> None:
    """a is guaranteed 100 and holds 50, b is guaranteed 4 devices and holds 3: a is asked first, whatever it holds."""
    quotas = Quota("a", 0, None, 100), Quota("b", 4)
    state = a_state(pools=[a_pool(quotas=quotas)])
    state.claim("a/one", promising("a/one", 50, ("dcu-0", PAIR), ("dcu-1", PAIR)), {})
    state.claim("b/one", held("b/one", ("dcu-2", PAIR)), {})
    state.claim("b/two", held("b/two", ("dcu-3", (0,))), {})
    work = Work(state.snapshot())
    assert quota_share(work, "a") == pytest.approx(0.5)
    assert quota_share(work, "b") == pytest.approx(0.75)
    asked = [a_gang("b/new", 1, 1, created=1.0), a_gang("a/new", 1, 1, created=2.0)]
    assert [demand.key for demand in queue_order(asked, work)] == ["a/new", "b/new"]
    # In both units the larger share counts.
    state.set_pool(a_pool(quotas=(Quota("a", 5, None, 100), Quota("b", 4))))
    assert quota_share(Work(state.snapshot()), "a") == pytest.approx(0.8)


def test_who_gives_up_workers_gives_up_their_part_of_the_promise() -> None:
    state = a_state(pools=[a_pool(quotas=(Quota("d", 0, None, PEAK),))])
    state.claim("c/big", promising("c/big", 100, *((f"dcu-{index}", PAIR) for index in range(4))), {})
    work = Work(state.snapshot())
    work.release("c/big", 1)
    assert work.amount("dcu", "c").compute == 75
    trial = Trial(state.snapshot(), a_gang("c/new", 1))
    part = share_of(state.snapshot(), "c/big", 1)
    assert (part.pools["dcu"].devices, part.pools["dcu"].compute) == (2, 25)
    trial.take(part)
    assert trial.freed().amount("dcu", "c").compute == 75
