"""The largest gang per level and fragmentation: by hand, and against counting one domain after the other."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import a_node, a_random_state, a_state, held

from supernode.scheduling.room import LevelRoom, rooms


def of(state, pool: str = "dcu") -> dict[str, LevelRoom]:
    snapshot = state.snapshot()
    return {room.level: room for topology in snapshot.topologies for room in rooms(snapshot, pool, topology)}


def test_an_empty_cluster_takes_a_gang_of_all_its_devices() -> None:
    found = of(a_state())
    assert [(r.level, r.largest, r.capacity, r.fragmentation) for r in found.values()] == [
        ("spine", 8, 8, 0.0),
        ("supernode", 4, 4, 0.0),
        ("node", 2, 2, 0.0),
    ]


def test_one_device_held_on_each_node_leaves_half_and_no_whole_node() -> None:
    state = a_state()
    for number, node in enumerate(state.snapshot().node_names):
        state.claim(f"default/j{number}", held(f"default/j{number}", (node, (0,))), {})
    found = of(state)
    assert (found["spine"].largest, found["spine"].fragmentation) == (4, 0.0)
    assert (found["supernode"].largest, found["supernode"].fragmentation) == (2, 0.5)
    assert (found["node"].largest, found["node"].fragmentation) == (1, 0.5)


def test_a_full_cluster_has_no_room_and_is_not_torn() -> None:
    state = a_state()
    for number, node in enumerate(state.snapshot().node_names):
        state.claim(f"default/j{number}", held(f"default/j{number}", (node, (0, 1))), {})
    assert {(r.largest, r.domain, r.fragmentation) for r in of(state).values()} == {(0, (), 0.0)}


def test_closed_nodes_have_devices_but_none_free() -> None:
    nodes = [a_node(f"n{i}", "s", "a", usable=i == 0) for i in range(3)]
    found = of(a_state(nodes))
    assert (found["spine"].largest, found["spine"].capacity) == (2, 6)
    assert found["node"].domain == ("s", "a", "n0")


def test_a_pool_outside_the_group_has_no_room_in_it() -> None:
    assert of(a_state(), "other") == {}
    assert of(a_state([a_node("n0")])) == {}


@given(st.integers(0, 10**6))
def test_counted_one_by_one(seed: int) -> None:
    dice = random.Random(seed)
    state = a_random_state(dice, 9)
    snapshot = state.snapshot()
    for pool in snapshot.pools:
        for topology in snapshot.topologies:
            for room in rooms(snapshot, pool.name, topology):
                free: dict[tuple[str, ...], int] = {}
                there: dict[tuple[str, ...], int] = {}
                for place, row in enumerate(topology.node_rows.tolist()):
                    if row not in pool.rows.tolist():
                        continue
                    depth = topology.level_index(room.level)
                    path = topology.path(len(topology.levels) - 1, int(topology.node_domain[place, -1]))[: depth + 1]
                    if room.level == "node":
                        path = (*path, snapshot.node_names[row])
                    there[path] = there.get(path, 0) + int(snapshot.device_all[row]).bit_count()
                    if snapshot.usable[row]:
                        free[path] = free.get(path, 0) + int(snapshot.device_free[row]).bit_count()
                assert room.largest == max(free.values(), default=0)
                assert room.capacity == max(there.values())
                assert room.domain == () or free[room.domain] == room.largest
                possible = min(sum(free.values()), room.capacity)
                assert room.fragmentation == pytest.approx(1 - room.largest / possible if possible else 0)
                assert 0 <= room.fragmentation < 1
