"""Accelerators of a pool are counted once each, whatever state they are in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.builders.manifests import a_pool

from supernode.api.read import pool_from
from supernode.api.rules import Problem
from supernode.chips import find_chip
from supernode.cluster.observe import View
from supernode.handlers.census import Counts, count
from supernode.handlers.facts import closed_pool
from supernode.scheduling.placement import Placement, WorkerPlacement
from supernode.scheduling.state import NodeInfo, PoolSpec, State


def a_state(usable: list[bool], devices: int = 4) -> State:
    state = State()
    state.set_pool(PoolSpec("a", find_chip("hygon-bw1000"), "hygon.com/hcu", True, devices, 1e9, 1e-6))
    for index, good in enumerate(usable):
        state.apply_node(NodeInfo(f"n{index}", {"cpu": 1000, "pods": 10}, usable=good, pool="a"))
    return state


def test_allocated_free_and_unhealthy() -> None:
    state = a_state([True, True, False])
    workers = [WorkerPlacement(0, "n0", "a", (0, 1)), WorkerPlacement(1, "n2", "a", (2, 3))]
    state.claim("t/j", Placement.of("t/j", workers), {})
    assert count(state.snapshot(), "a") == Counts(nodes=3, capacity=12, allocated=4, free=6, unhealthy=2)
    assert count(state.snapshot(), "none") == Counts(0, 0, 0, 0, 0)


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(1, 64), st.integers(0, 64))
def test_the_parts_make_the_whole(usable: list[bool], devices: int, held: int) -> None:
    state = a_state(usable, devices)
    held = min(held, devices)
    if held:
        worker = WorkerPlacement(0, "n0", "a", tuple(range(held)))
        state.claim("t/j", Placement.of("t/j", [worker]), {})
    counts = count(state.snapshot(), "a")
    assert counts.capacity == len(usable) * devices
    assert counts.allocated == held
    assert counts.allocated + counts.free + counts.unhealthy == counts.capacity


def test_a_pool_that_takes_no_new_gang_is_named_with_the_reason() -> None:
    going = a_pool("going")
    going["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    view = View(
        pools={"good": pool_from(a_pool("good")), "going": pool_from(going)},
        pool_problems={"wrong": Problem("spec.chip", "no chip 'x'")},
    )
    assert closed_pool(["good", "unknown"], view) is None
    assert str(closed_pool(["good", "going"], view)) == "spec.pools[1]: AcceleratorPool going is being deleted"
    sentence = "spec.pools[0]: AcceleratorPool wrong is not accepted: spec.chip: no chip 'x'"
    assert str(closed_pool(["wrong"], view)) == sentence
