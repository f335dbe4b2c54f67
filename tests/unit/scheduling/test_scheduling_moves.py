"""Moves against their promises, on small random clusters."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import ASCEND, MODEL, a_gang, a_node, a_pool, a_state, held, required
from tests.unit.scheduling.crowds import PAIR, a_crowd

from supernode.scheduling import defragment
from supernode.scheduling.defragment import Limits, Movable, plan_moves
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place, place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.rescore import step_on
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Unplaceable
from supernode.scheduling.work import Work
from supernode.steptime.model import Parallelism

seeds = st.integers(0, 2**32 - 1)


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
