"""Who comes first, that nobody starves, and that backfilling delays nobody who waits: cycle after cycle."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import a_gang, a_node, a_pool, a_state, held, required

from supernode.scheduling.cycle import Reservations, plan_cycle
from supernode.scheduling.demand import GangDemand, LevelConstraint
from supernode.scheduling.placement import Placement
from supernode.scheduling.quota import Quota
from supernode.scheduling.shares import quota_share
from supernode.scheduling.state import State
from supernode.scheduling.work import Work

PAIR = (0, 1)


def test_the_dominant_resource_counts() -> None:
    """a and b hold one device of 8 each, of which each is guaranteed 4; a's worker takes half of all CPU besides."""
    capacity = {"cpu": 8_000, "memory": 2**39, "pods": 110}
    state = a_state(
        [a_node(f"n{i}", "spine-0", "sn-0", capacity=capacity) for i in range(4)],
        [a_pool(quotas=(Quota("a", 4), Quota("b", 4)))],
    )
    state.claim("a/x", held("a/x", ("n0", (0,))), {"cpu": 8_000})
    state.claim("b/x", held("b/x", ("n1", (0,))), {"cpu": 1_000})
    work = Work(state.snapshot())
    assert quota_share(work, "b") == pytest.approx(1 / 4)
    assert quota_share(work, "a") == pytest.approx((8 / 32) / (4 / 8))  # a quarter of the CPU, over half of the pool
    state.claim("b/y", held("b/y", ("n1", (1,))), {"cpu": 1_000})
    # b holds more devices now; a is still the one that holds most of what it holds most of.
    gangs = [a_gang("a/new", 1, 1, created=1.0), a_gang("b/new", 1, 1, created=2.0)]
    order = [decision.demand.key for decision in plan_cycle(state.snapshot(), gangs)]
    assert order == ["a/new", "b/new"] if quota_share(Work(state.snapshot()), "b") > 0.5 else ["b/new", "a/new"]
    assert quota_share(Work(state.snapshot()), "b") == pytest.approx(2 / 4)


def test_weights_count() -> None:
    """a is guaranteed three times as much as b: in the long run it gets three times as much."""
    state = a_state(
        [a_node(f"n{i}", "spine-0", "sn-0") for i in range(8)], [a_pool(quotas=(Quota("a", 12), Quota("b", 4)))]
    )
    gangs = [a_gang(f"{name}/{i}", 1, created=float(i)) for name in "ab" for i in range(8)]
    placed = [d.demand.namespace for d in plan_cycle(state.snapshot(), gangs) if isinstance(d.result, Placement)]
    assert placed.count("a") == 6
    assert placed.count("b") == 2


def run(
    state: State,
    arrivals: dict[int, list[GangDemand]],
    cycles: int,
    length: dict[str, int],
    *,
    known: bool = True,
) -> dict[str, int]:
    """Cycle after cycle, gangs run for their time exactly; the cycle in which each started."""
    running: dict[str, int] = {}
    waiting: dict[str, GangDemand] = {}
    started: dict[str, int] = {}
    for cycle in range(cycles):
        for key in [key for key, end in running.items() if end <= cycle]:
            state.release(key)
            del running[key]
        waiting |= {demand.key: demand for demand in arrivals.get(cycle, ())}
        ends = {key: float(end - cycle) for key, end in running.items()} if known else {}
        for decision in plan_cycle(state.snapshot(), waiting.values(), ends):
            key = decision.demand.key
            if isinstance(decision.result, Placement):
                state.claim(key, decision.result, decision.demand.request)
                running[key] = cycle + length[key]
                started[key] = cycle
                del waiting[key]
    return started


def test_no_starvation_by_those_with_smaller_shares() -> None:
    """b's small gangs end soon, so b's share is always the smaller one. a's needs a whole super-node, and gets one."""
    nodes = [a_node(f"n{i}", "spine-0", f"sn-{i // 2}") for i in range(6)]
    state = a_state(nodes, [a_pool(quotas=(Quota("a", 6), Quota("b", 6)))])
    state.claim("a/old", held("a/old", ("n0", (0,))), {})
    length: dict[str, int] = {"a/big": 5}
    arrivals: dict[int, list[GangDemand]] = {}
    for cycle in range(40):
        for index in range(2):
            one = a_gang(f"b/{cycle}-{index}", 1, 2, created=float(cycle), request={})
            arrivals.setdefault(cycle, []).append(one)
            length[one.key] = 3
    arrivals[5].append(a_gang("a/big", 2, created=5.0, constraints=required("supernode"), request={}))
    started = run(state, arrivals, 40, length, known=False)
    assert "a/big" in started, "starved"
    assert started["a/big"] <= 10
    assert len(started) > 40  # the small ones run as well


def test_a_borrower_does_not_hold_up_those_within_their_guarantee() -> None:
    """c is guaranteed nothing and waits for a whole super-node, longest of all; b takes what it is guaranteed."""
    state = a_state(pools=[a_pool(quotas=(Quota("a", 2), Quota("b", 4)))])
    state.claim("c/x", held("c/x", ("dcu-0", PAIR)), {})
    state.claim("a/y", held("a/y", ("dcu-2", (0,))), {})
    big = a_gang("c/big", 2, created=1.0, constraints=required("supernode"), request={})
    small = [a_gang(f"b/{i}", 1, 2, created=5.0 + i, request={}) for i in range(2)]
    decisions = {d.demand.key: d.result for d in plan_cycle(state.snapshot(), [big, *small])}
    assert all(isinstance(decisions[demand.key], Placement) for demand in small)


def test_the_oldest_gang_is_not_passed_over_in_its_own_cycle() -> None:
    """It fits now, but its share is the larger one: what it needs is left for it, though others are asked first."""
    state = a_state(pools=[a_pool(quotas=(Quota("a", 6), Quota("b", 2)))])
    state.claim("a/x", held("a/x", ("dcu-0", (0,))), {})
    big = a_gang("a/big", 2, created=1.0, constraints=required("supernode"), request={})
    small = [a_gang(f"b/{i}", 1, 1, created=5.0 + i, request={}) for i in range(5)]
    decisions = plan_cycle(state.snapshot(), [big, *small])
    placed = {d.demand.key: d.result for d in decisions if isinstance(d.result, Placement)}
    assert decisions[0].demand.key == "b/0"
    assert "a/big" in placed
    assert len(placed) == 1 + 3  # dcu-0 has one device left, dcu-1 two


def test_backfill_beside_what_the_head_needs() -> None:
    """6 nodes; the head needs 4 and can start in 600 s, when 5 are free: one of them may be used for good."""
    nodes = [a_node(f"n{i}", "spine-0", f"sn-{i // 2}") for i in range(6)]
    state = a_state(nodes)
    state.claim("a/x", held("a/x", ("n0", PAIR), ("n1", PAIR), ("n2", PAIR)), {})
    head = a_gang("d/head", 4, created=1.0)
    small = [a_gang(f"e/{i}", 1, created=2.0 + i) for i in range(3)]

    def placed(ends: dict[str, float]) -> list[str]:
        decisions = plan_cycle(state.snapshot(), [head, *small], ends)
        return [d.demand.key for d in decisions if isinstance(d.result, Placement)]

    assert placed({"a/x": 600.0}) == ["e/0", "e/1"]  # 3 are free now, 6 then
    assert placed({}) == []
    state.claim("b/y", held("b/y", ("n3", PAIR)), {})
    assert placed({"a/x": 600.0}) == ["e/0"]
    assert placed({"b/y": 600.0}) == []  # nobody knows when the head can start


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_nobody_starts_later_than_the_first_in_line_was_promised(seed: int) -> None:
    """Gangs that run exactly as long as they said: the head of the queue starts no later than when it was told."""
    dice = random.Random(seed)
    nodes = [a_node(f"n{i}", f"spine-{i // 4}", f"sn-{i // 2}") for i in range(dice.randint(2, 8))]
    state = a_state(nodes)
    waiting: dict[str, GangDemand] = {}
    running: dict[str, int] = {}
    promised: dict[str, float] = {}
    for cycle in range(24):
        for key in [key for key, end in running.items() if end <= cycle]:
            state.release(key)
            del running[key]
        if cycle < 12:
            level = dice.choice(["", "", "spine", "supernode"])
            wishes = (LevelConstraint(level, True),) if level else ()
            one = a_gang(
                f"g/{cycle:02d}",
                dice.randint(1, 4),
                2,
                created=float(cycle),
                seconds=float(dice.randint(1, 6)),
                constraints=wishes,
            )
            waiting[one.key] = one
        ends = {key: float(end - cycle) for key, end in running.items()}
        work = Work(state.snapshot())
        reservations = Reservations(work, ends)
        head = True
        for key in sorted(waiting):
            demand = waiting[key]
            result = reservations.place(demand)
            if isinstance(result, Placement):
                work.claim(result, demand)
                state.claim(key, result, demand.request)
                assert demand.seconds is not None
                running[key] = cycle + int(demand.seconds)
                assert cycle <= promised.get(key, cycle), f"{key} was promised {promised[key]}"
                del waiting[key]
            elif head and result.possible:
                head = False  # the first that waits: its promise counts from now on
                for pool_heads in reservations._heads.values():
                    if pool_heads[0].start and pool_heads[0].demand.key == key:
                        at = cycle + pool_heads[0].start
                        assert at <= promised.get(key, at), f"{key}: {at} instead of {promised[key]}"
                        promised[key] = at
    assert not [key for key, at in promised.items() if key in waiting and at < 24]
