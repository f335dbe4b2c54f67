"""Other nodes for lost ones: what stays, what moves, and that a refusal is right. Checked in plain Python."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import (
    MODEL,
    a_gang,
    a_group,
    a_node,
    a_random_gang,
    a_random_state,
    a_state,
    held,
    required,
)

from supernode.scheduling.demand import GangDemand, Slice
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.repair import moved_ranks, plan_replacement
from supernode.scheduling.rescore import step_on
from supernode.scheduling.snapshot import Snapshot, Store
from supernode.scheduling.state import State
from supernode.scheduling.stores import StorageUse
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.steptime.model import ModelShape, Parallelism

PAIR = (0, 1)


def super_nodes(sizes: list[int]) -> State:
    """One spine with super-nodes of so many nodes: n00, n01, ... in order."""
    homes = [f"sn-{index}" for index, size in enumerate(sizes) for _ in range(size)]
    return a_state([a_node(f"n{index:02d}", "spine-0", home) for index, home in enumerate(homes)])


def nodes_of(result: Placement | Unplaceable) -> list[str]:
    assert isinstance(result, Placement)
    return [worker.node for worker in result.workers]


def test_a_slice_that_its_domain_can_not_complete_moves_whole() -> None:
    """sn-0 is full with two slices of 2; sn-1 has room for one slice."""
    state = super_nodes([4, 3])
    demand = a_gang("a/x", 4, slices=(Slice("supernode", 2),), model=MODEL)
    before = held("a/x", *((f"n{i:02d}", PAIR) for i in range(4)))
    state.claim("a/x", before, demand.request)
    after = plan_replacement(state.snapshot(), demand, before, {"n02"})
    assert nodes_of(after) == ["n00", "n01", "n04", "n05"]
    assert isinstance(after, Placement)
    assert moved_ranks(before, after) == (2, 3)
    assert after.predicted is not None
    assert after.predicted.seconds > 0


def test_a_slice_that_moves_makes_room_for_another() -> None:
    """Both slices of 2 lose a node; the healthy node of the one that moves completes the other."""
    state = super_nodes([4, 2])
    demand = a_gang("a/x", 4, slices=(Slice("supernode", 2),))
    before = held("a/x", *((f"n{i:02d}", PAIR) for i in range(4)))
    state.claim("a/x", before, demand.request)
    assert nodes_of(plan_replacement(state.snapshot(), demand, before, {"n00", "n02"})) == ["n04", "n05", "n01", "n03"]


def test_nested_slices_move_from_the_inside_out() -> None:
    """Slices of 4 in a spine, of 2 in a super-node: the slice of 2 finds another super-node of its own spine."""
    homes = [("a", 0), ("a", 0), ("a", 1), ("a", 1), ("a", 2), ("a", 2), ("b", 3), ("b", 3), ("b", 4), ("b", 4)]
    nodes = [a_node(f"n{i:02d}", f"spine-{spine}", f"sn-{home}") for i, (spine, home) in enumerate(homes)]
    state = a_state(nodes)
    demand = a_gang("a/x", 4, slices=(Slice("spine", 4), Slice("supernode", 2)))
    before = held("a/x", *((f"n{i:02d}", PAIR) for i in range(4)))
    state.claim("a/x", before, demand.request)
    assert nodes_of(plan_replacement(state.snapshot(), demand, before, {"n01"})) == ["n04", "n05", "n02", "n03"]
    state.claim("b/y", held("b/y", ("n04", (0,))), {})
    # No other super-node of spine a is whole: all 4 go to spine b.
    assert nodes_of(plan_replacement(state.snapshot(), demand, before, {"n01"})) == ["n06", "n07", "n08", "n09"]
    inside = replace(demand, constraints=required("spine"))
    assert nodes_of(plan_replacement(state.snapshot(), inside, before, {"n01"})) == ["n06", "n07", "n08", "n09"]
    state.claim("b/z", held("b/z", ("n09", (0,))), {})
    refused = plan_replacement(state.snapshot(), demand, before, {"n01"})
    assert isinstance(refused, Unplaceable)
    assert (refused.nearest.wanted, refused.nearest.fits, refused.nearest.domain) == (1, 0, ("spine-a", "sn-0"))


@pytest.mark.parametrize("model", [MODEL, None])
def test_who_is_alone_in_a_domain_comes_back_to_the_others(model: ModelShape | None) -> None:
    """Rank 0 was repaired away to sn-1 once; now that its node there is lost too, there is room beside rank 1 again."""
    state = super_nodes([2, 2])
    demand = a_gang("a/x", 2, model=model)
    before = held("a/x", ("n02", PAIR), ("n01", PAIR))
    state.claim("a/x", before, demand.request)
    after = plan_replacement(state.snapshot(), demand, before, {"n02"})
    assert nodes_of(after) == ["n00", "n01"]
    assert isinstance(after, Placement)
    assert (after.level, after.domain) == ("supernode", ("spine-0", "sn-0"))


def test_with_mates_left_in_its_domain_a_worker_stays_there() -> None:
    state = super_nodes([3, 3])
    demand = a_gang("a/x", 4, model=MODEL)
    before = held("a/x", ("n00", PAIR), ("n01", PAIR), ("n03", PAIR), ("n04", PAIR))
    state.claim("a/x", before, demand.request)
    assert nodes_of(plan_replacement(state.snapshot(), demand, before, {"n04"})) == ["n00", "n01", "n03", "n05"]


def test_a_lost_domain_is_replaced_by_one_domain() -> None:
    """sn-0 (ranks 0 and 1) is lost. One node is free in sn-1 beside ranks 2 and 3, and all of sn-2: a tensor group
    stays in one super-node."""
    state = super_nodes([2, 3, 2])
    demand = a_gang("a/x", 4, model=MODEL, parallelism=Parallelism(data=2, tensor=4))
    before = held("a/x", *((name, PAIR) for name in ("n00", "n01", "n02", "n03")))
    state.claim("a/x", before, demand.request)
    assert nodes_of(plan_replacement(state.snapshot(), demand, before, {"n00", "n01"})) == ["n05", "n06", "n02", "n03"]


def test_a_gang_without_any_healthy_node_is_placed_anew() -> None:
    state = super_nodes([2, 2])
    demand = a_gang("a/x", 2, constraints=required("supernode"))
    before = held("a/x", ("n00", PAIR), ("n01", PAIR))
    state.claim("a/x", before, demand.request)
    assert nodes_of(plan_replacement(state.snapshot(), demand, before, {"n00", "n01"})) == ["n02", "n03"]
    state.remove_node("n03")
    refused = plan_replacement(state.snapshot(), demand, before, {"n00", "n01"})
    assert isinstance(refused, Unplaceable)
    assert (refused.code, refused.nearest.wanted, refused.nearest.fits) == (Reason.WAITING_FOR_REPAIR, 2, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_step_on_given_nodes_is_what_the_search_predicts(seed: int) -> None:
    """One and the same place has one predicted step, storage included, whoever asks."""
    dice = random.Random(seed)
    state = a_random_state(dice, 8)
    levels = state.snapshot().topologies[0].levels
    store = Store("near", "scalex", levels[0].name, f"{levels[0].name}-0", 4e9, 2e9)
    state.set_group(replace(a_group(levels=levels), stores=(store,)))
    demand = replace(a_random_gang(dice, levels), min_count=None)
    if dice.random() < 0.5:
        demand = demand.with_storage(StorageUse("near", "near", 10, 1e12))
    snapshot = state.snapshot()
    result = place(snapshot, demand)
    if isinstance(result, Placement) and result.predicted is not None:
        (pool,) = snapshot.pools
        rows = [snapshot.node_names.index(worker.node) for worker in result.workers]
        assert step_on(snapshot, pool, demand, rows) == result.predicted


def domain_of(snapshot: Snapshot, node: str, level: str) -> object:
    """The domain that a node is in; None outside the group."""
    (topology,) = snapshot.topologies
    row = snapshot.node_names.index(node)
    if level == "node":
        return row
    rows = topology.node_rows.tolist()
    return int(topology.node_domain[rows.index(row), topology.level_index(level)]) if row in rows else None


def check(snapshot: Snapshot, demand: GangDemand, before: Placement, after: Placement, lost: set[str]) -> None:
    """Every promise of a repair."""
    free = {name: int(snapshot.device_free[row]) for row, name in enumerate(snapshot.node_names)}
    for worker in before.workers:
        row = snapshot.node_names.index(worker.node)
        free[worker.node] |= sum(1 << device for device in worker.devices) & int(snapshot.device_all[row])
    moved = moved_ranks(before, after)
    for worker in after.workers:
        if worker.rank in moved:
            assert worker.node not in lost
            assert snapshot.usable[snapshot.node_names.index(worker.node)]
        for device in worker.devices:
            assert free[worker.node] >> device & 1, "not free, or twice"
            free[worker.node] &= ~(1 << device)
    for constraint in demand.constraints:
        if constraint.required:
            homes = {domain_of(snapshot, worker.node, constraint.level) for worker in after.workers}
            assert len(homes) == 1
            assert None not in homes
    for item in demand.slices:
        for first in range(0, len(after.workers), item.size):
            mine = after.workers[first : first + item.size]
            assert len({domain_of(snapshot, worker.node, item.level) for worker in mine}) == 1
    inner = demand.slices[-1].size if demand.slices else 1
    torn = {w.rank // (demand.slices[0].size if demand.slices else 1) for w in before.workers if w.node in lost}
    outer = demand.slices[0].size if demand.slices else 1
    if len(lost & set(before.nodes)) < len(before.nodes):
        assert {rank // outer for rank in moved} <= torn, "a worker moved that no lost node stands for"
        if not demand.slices:
            assert all(before.workers[rank].node in lost for rank in moved)
    assert inner >= 1


def fits_in_place(snapshot: Snapshot, demand: GangDemand, before: Placement, lost: set[str]) -> bool:
    """Whether the lost workers alone can go into the domains where their mates are, by counting."""
    (pool,) = snapshot.pools
    room: dict[str, int] = {}
    for row in pool.rows.tolist():
        name = snapshot.node_names[row]
        count = bin(int(snapshot.device_free[row])).count("1") // demand.devices
        for resource, amount in demand.request.items():
            if amount:
                count = min(count, max(int(snapshot.free[row, snapshot.resources.index(resource)]), 0) // amount)
        room[name] = count if snapshot.usable[row] and name not in lost else 0
    level = next((c.level for c in demand.constraints if c.required), "")
    if demand.slices and level:
        return False  # not counted here
    size = demand.slices[-1].size if demand.slices else len(before.workers)
    level = demand.slices[-1].level if demand.slices else level
    needed: dict[object, int] = {}
    for first in range(0, len(before.workers), size):
        mine = before.workers[first : first + size]
        homes = {domain_of(snapshot, w.node, level) if level else 0 for w in mine if w.node not in lost}
        torn = sum(worker.node in lost for worker in mine)
        if torn and not homes:
            return False
        if torn:
            (home,) = homes
            needed[home] = needed.get(home, 0) + torn
    return all(
        sum(r for n, r in room.items() if not level or domain_of(snapshot, n, level) == home) >= count
        for home, count in needed.items()
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_repairs_keep_their_promises_and_are_found_where_counting_finds_them(seed: int) -> None:
    dice = random.Random(seed)
    state = a_random_state(dice, 12)
    demand = replace(a_random_gang(dice, state.snapshot().topologies[0].levels), min_count=None)
    before = place(state.snapshot(), demand)
    if not isinstance(before, Placement) or len(before.nodes) < 2:
        return
    state.claim(demand.key, before, demand.request)
    lost = set(dice.sample(before.nodes, dice.randint(1, len(before.nodes) - 1)))
    for name in lost:
        state.apply_node(replace(state._nodes[name], usable=False))
    snapshot = state.snapshot()
    after = plan_replacement(snapshot, demand, before, lost)
    possible = fits_in_place(snapshot, demand, before, lost)
    if isinstance(after, Placement):
        check(snapshot, demand, before, after, lost)
        if possible:
            assert {before.workers[rank].node for rank in moved_ranks(before, after)} <= lost
    else:
        assert not possible
        assert after.nearest.fits < after.nearest.wanted or demand.slices
