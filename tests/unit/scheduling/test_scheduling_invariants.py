"""What holds for every placement and every change of the state, over random clusters and gangs."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import a_gang, a_group, a_node, a_random_gang, a_random_state, a_state

from supernode.scheduling.cycle import plan_cycle, with_claim
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.shares import queue_order
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.state import State
from supernode.scheduling.topology import Level
from supernode.scheduling.unplaceable import Unplaceable

seeds = st.integers(0, 2**32 - 1)


def scene(seed: int, most_nodes: int = 12) -> tuple[State, GangDemand]:
    dice = random.Random(seed)
    state = a_random_state(dice, most_nodes)
    return state, a_random_gang(dice, state.snapshot().topologies[0].levels)


def same(one: Snapshot, two: Snapshot) -> bool:
    """Equal but for the generation."""
    return (
        one.node_names == two.node_names
        and one.resources == two.resources
        and all(
            np.array_equal(getattr(one, name), getattr(two, name))
            for name in ("capacity", "free", "usable", "device_free", "device_all")
        )
        and {key: (h.nodes, h.masks.tolist()) for key, h in one.holders.items()}
        == {key: (h.nodes, h.masks.tolist()) for key, h in two.holders.items()}
    )


def check_placement(snapshot: Snapshot, demand: GangDemand, placement: Placement) -> None:
    """Every promise of a placement, in plain Python."""
    rows = {name: row for row, name in enumerate(snapshot.node_names)}
    workers = placement.workers
    assert demand.fewest <= len(workers) <= demand.workers
    assert [worker.rank for worker in workers] == list(range(len(workers)))
    used: dict[str, set[int]] = {}
    pool_of = {worker.node: worker.pool for worker in workers}
    for worker in workers:
        assert len(worker.devices) == demand.devices == len(set(worker.devices))
        assert list(worker.devices) == sorted(worker.devices)
        taken = used.setdefault(worker.node, set())
        assert not taken & set(worker.devices), "a device twice"
        taken |= set(worker.devices)
    for name, devices in used.items():
        row = rows[name]
        assert snapshot.usable[row]
        assert row in snapshot.pool(pool_of[name]).rows.tolist()  # type: ignore[union-attr]
        free = int(snapshot.device_free[row])
        assert all(free >> device & 1 for device in devices), "a device that is not free"
        pods = sum(worker.node == name for worker in workers)
        for resource, amount in demand.request.items():
            if amount:
                assert pods * amount <= snapshot.free[row, snapshot.resources.index(resource)], resource
    nodes = [worker.node for worker in workers]
    assert len({node for i, node in enumerate(nodes) if not i or nodes[i - 1] != node}) == sum(
        1 for i, node in enumerate(nodes) if not i or nodes[i - 1] != node
    ), "ranks of a node are not neighbours"
    topology = snapshot.topologies[0]
    where = {row: at for at, row in enumerate(topology.node_rows.tolist())}

    def domain(node: str, level: str) -> object:
        if level == "node":
            return node
        at = where.get(rows[node])
        if at is None:
            return None
        return int(topology.node_domain[at, topology.level_index(level)])

    for constraint in demand.constraints:
        if constraint.required:
            homes = {domain(node, constraint.level) for node in used}
            assert len(homes) == 1, f"not in one {constraint.level}"
            assert None not in homes, f"outside every {constraint.level}"
    for item in demand.slices:
        for first in range(0, len(workers), item.size):
            homes = {domain(node, item.level) for node in nodes[first : first + item.size]}
            assert len(homes) == 1, f"slice {first // item.size} is in several domains of {item.level}"
            assert None not in homes, f"slice {first // item.size} is outside every {item.level}"
    inside_domain(placement, snapshot, used)


def inside_domain(placement: Placement, snapshot: Snapshot, used: dict[str, set[int]]) -> None:
    """The domain that the placement names holds all its nodes."""
    if not placement.level:
        return
    rows = {name: row for row, name in enumerate(snapshot.node_names)}
    if placement.level == "node":
        assert list(used) == [placement.domain[-1]]
        return
    topology = next(t for t in snapshot.topologies if t.name == placement.group)
    level = topology.level_index(placement.level)
    for node in used:
        at = topology.node_rows.tolist().index(rows[node])
        assert topology.path(level, int(topology.node_domain[at, level])) == placement.domain


@given(seeds)
@settings(max_examples=300, deadline=None)
def test_every_placement_keeps_its_promises(seed: int) -> None:
    state, demand = scene(seed)
    snapshot = state.snapshot()
    result = place(snapshot, demand)
    if isinstance(result, Placement):
        check_placement(snapshot, demand, result)
    else:
        assert result.pools
        assert result.nearest.code == result.code


@given(seeds)
@settings(max_examples=100, deadline=None)
def test_same_input_same_output_whatever_the_order_of_nodes(seed: int) -> None:
    state, demand = scene(seed)
    snapshot = state.snapshot()
    result = place(snapshot, demand)
    again = place(snapshot, demand)
    mixed, _ = scene(seed)
    for node in random.Random(seed + 1).sample(nodes := list(mixed._nodes.values()), len(nodes)):
        mixed.remove_node(node.name)
        mixed.snapshot()
        mixed.apply_node(node)
    assert same(mixed.snapshot(), snapshot)
    other = place(mixed.snapshot(), demand)
    if isinstance(result, Placement):
        for twin in (again, other):
            assert isinstance(twin, Placement)
            assert twin.workers == result.workers
            assert twin.runners_up == result.runners_up
            assert (twin.level, twin.domain) == (result.level, result.domain)
    else:
        assert again == result == other


@given(seeds)
@settings(max_examples=150, deadline=None)
def test_claiming_and_releasing_restores_exactly(seed: int) -> None:
    state, demand = scene(seed)
    before = state.snapshot()
    result = place(before, demand)
    if not isinstance(result, Placement):
        return
    state.claim(demand.key, result, demand.request)
    after = state.snapshot()
    assert not same(before, after)
    planned = with_claim(before, result, demand)
    assert same(replace(planned, generation=0), replace(after, generation=0))
    state.add_foreign("pod", result.nodes[0], {"cpu": 7, "hygon.com/hcu": 1})
    state.snapshot()
    assert state.release(demand.key)
    state.remove_foreign("pod")
    assert same(state.snapshot(), before)
    assert state.snapshot().generation > before.generation


@given(seeds, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_changes_one_by_one_equal_a_fresh_start(seed: int, steps: int) -> None:
    """Claims, releases, pods, node updates: the arrays kept up to date equal those built anew from the records."""
    dice = random.Random(seed)
    state, _ = scene(seed)
    names = [*state.snapshot().node_names, "not-there"]
    claimed: list[str] = []
    for step in range(steps):
        match dice.randint(0, 4):
            case 0:
                demand = replace(a_random_gang(dice, state.snapshot().topologies[0].levels), key=f"gang/{step}")
                result = place(state.snapshot(), demand)
                if isinstance(result, Placement):
                    state.claim(demand.key, result, demand.request)
                    claimed.append(demand.key)
            case 1 if claimed:
                state.release(claimed.pop(dice.randrange(len(claimed))))
            case 2:
                state.add_foreign(f"pod-{dice.randint(0, 2)}", dice.choice(names), {"cpu": 100, "hygon.com/hcu": 1})
            case 3:
                state.remove_foreign(f"pod-{dice.randint(0, 2)}")
            case _:
                name = dice.choice(names[:-1])
                old = state._nodes[name]
                capacity = {**old.capacity, "cpu": dice.choice([1000, 8000])}
                state.apply_node(replace(old, capacity=capacity, usable=dice.random() < 0.8))
        if dice.random() < 0.5:
            state.snapshot()
    quick = state.snapshot()
    state._stale = True
    state._generation += 1
    assert same(state.snapshot(), quick)


@given(seeds)
@example(3977)  # the first gangs fill all groups, and only nodes outside them are left
@settings(max_examples=80, deadline=None)
def test_a_cycle_never_gives_a_device_twice(seed: int) -> None:
    dice = random.Random(seed)
    state = a_random_state(dice, 12)
    snapshot = state.snapshot()
    gangs = [
        replace(
            a_random_gang(dice, snapshot.topologies[0].levels),
            key=f"gang/{index}",
            priority=dice.randint(0, 2),
            created=float(dice.randint(0, 3)),
        )
        for index in range(6)
    ]
    decisions = plan_cycle(snapshot, gangs)
    assert [d.demand.key for d in decisions] == [demand.key for demand in queue_order(gangs)]
    now = snapshot
    for decision in decisions:
        if isinstance(decision.result, Placement):
            check_placement(now, decision.demand, decision.result)
            now = with_claim(now, decision.result, decision.demand)
            state.claim(decision.demand.key, decision.result, decision.demand.request)  # refuses a device twice
        else:
            assert isinstance(decision.result, Unplaceable)
    shuffled = plan_cycle(snapshot, dice.sample(gangs, len(gangs)))
    assert [d.demand.key for d in shuffled] == [d.demand.key for d in decisions]


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_nodes_in_several_groups_are_used_once(seed: int) -> None:
    """Two groups over partly the same nodes: no device twice, and all of the room is found."""
    dice = random.Random(seed)
    nodes = []
    for index in range(dice.randint(1, 8)):
        groups: dict[str, tuple[str | None, ...]] = {}
        if dice.random() < 0.8:
            groups["scalex"] = (f"spine-{dice.randrange(2)}", f"sn-{dice.randrange(2)}")
        if dice.random() < 0.8:
            groups["racks"] = (f"rack-{dice.randrange(2)}",)
        nodes.append(a_node(f"n{index}", groups=groups))
    state = a_state(nodes, groups=[a_group(), a_group("racks", (Level("rack", 100e9, 5e-6),))])
    demand = a_gang(workers=dice.randint(1, 10), devices=dice.choice([1, 2]))
    snapshot = state.snapshot()
    result = place(snapshot, demand)
    room = sum(2 // demand.devices for _ in nodes)
    assert isinstance(result, Placement) == (demand.workers <= room)
    if isinstance(result, Placement):
        state.claim(demand.key, result, demand.request)
        assert len({(worker.node, device) for worker in result.workers for device in worker.devices}) == (
            demand.workers * demand.devices
        )


def test_a_large_gang_gets_in_under_a_stream_of_small_ones() -> None:
    """Six nodes, all busy with gangs that end after 3 cycles; every cycle two new small ones come."""
    nodes = [a_node(f"n{index}", "spine-0", f"sn-{index // 2}") for index in range(6)]
    state = a_state(nodes)
    running: list[tuple[int, str]] = []
    waiting: dict[str, GangDemand] = {}
    for cycle in range(40):
        for _, key in [entry for entry in running if entry[0] <= cycle]:
            state.release(key)
        running = [entry for entry in running if entry[0] > cycle]
        for index in range(2):
            key = f"small/{cycle}-{index}"
            waiting[key] = GangDemand(key, ("dcu",), 1, 2, created=float(cycle))
        if cycle == 5:
            waiting["big/one"] = GangDemand("big/one", ("dcu",), 6, 2, created=5.0)
        for decision in plan_cycle(state.snapshot(), waiting.values()):
            if isinstance(decision.result, Placement):
                key = decision.demand.key
                state.claim(key, decision.result, decision.demand.request)
                running.append((cycle + 3, key))
                del waiting[key]
        if state.holding("big/one"):
            break
    assert state.holding("big/one"), "starved"
    assert cycle <= 10
