"""Where a stopped gang goes on: who stays, who moves, and that no place is used which can't be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.chips import find_chip
from supernode.handlers import bounds
from supernode.handlers.goingon import DemandAt, first_workers, go_on, largest, lost_nodes
from supernode.handlers.preemption import spare
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement, WorkerPlacement
from supernode.scheduling.rescore import step_on
from supernode.scheduling.state import GroupSpec, NodeInfo, PoolSpec, State
from supernode.scheduling.topology import Level
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.steptime.model import ModelShape

DEVICES = 2
GANG = GangDemand("t/gang", ("p",), 4, DEVICES)
MODEL = ModelShape(8, 1024, 16, 32000, 512)


def a_state(nodes: int, per_supernode: int, unusable: frozenset[int] = frozenset(), sick: int = 0) -> State:
    """`sick`: mask of unhealthy devices on node 0."""
    state = State()
    state.set_pool(PoolSpec("p", find_chip("hygon-bw1000"), "hygon.com/hcu", True, DEVICES, 1e9, 1e-6))
    state.set_group(GroupSpec("g", (Level("supernode", 1e9, 1e-6),)))
    for index in range(nodes):
        state.apply_node(
            NodeInfo(
                f"n{index}",
                {"cpu": 10_000, "memory": 2**40, "pods": 100},
                usable=index not in unusable,
                pool="p",
                groups={"g": (f"sn-{index // per_supernode}",)},
                unhealthy=sick if index == 0 else 0,
            )
        )
    return state


def at(nodes: list[int]) -> Placement:
    workers = [WorkerPlacement(rank, f"n{node}", "p", (0, 1)) for rank, node in enumerate(nodes)]
    return Placement.of("t/gang", workers)


def exactly(demand: GangDemand) -> DemandAt:
    return lambda workers: replace(demand, workers=workers, min_count=None)


def test_nothing_lost_nothing_moves() -> None:
    state, held = a_state(6, 2), at([0, 1, 2, 3])
    state.claim("t/gang", held, {})
    assert go_on(state.snapshot(), held, (), 4, (4,), exactly(GANG)) is held


def test_what_counts_as_lost() -> None:
    state, held = a_state(6, 2, unusable=frozenset({1}), sick=0b10), at([0, 1, 2, 3])
    state.claim("t/gang", held, {})
    state.remove_node("n2")
    snapshot = state.snapshot()
    assert lost_nodes(snapshot, held, GANG, ["n3", "n5"]) == {"n0", "n1", "n2", "n3"}
    mask = np.ones(len(snapshot.node_names), dtype=np.bool_)
    mask[snapshot.node_names.index("n3")] = False
    assert lost_nodes(snapshot, held, GANG.with_eligible({"p": mask}), ()) == {"n0", "n1", "n2", "n3"}


def test_fewer_are_the_first_ranks_and_more_need_room() -> None:
    state, held = a_state(4, 2), at([3, 2, 1])
    state.claim("t/gang", held, {})
    snapshot = state.snapshot()
    fewer = go_on(snapshot, held, (), 2, (4, 3, 2), exactly(GANG))
    assert isinstance(fewer, Placement)
    assert fewer.workers == held.workers[:2]
    more = go_on(snapshot, held, (), 4, (4,), exactly(GANG))
    assert isinstance(more, Placement)
    assert len(more.node_of) == 4
    # No room for more: on with those there are, if it may; else it goes back to the queue.
    assert go_on(snapshot, held, (), 8, (8, 3), exactly(GANG)) is held
    assert go_on(snapshot, held, (), 8, (8,), exactly(GANG)) is None


def test_without_a_place_it_says_so_or_shrinks() -> None:
    state, held = a_state(4, 2, unusable=frozenset({1})), at([0, 1, 2, 3])
    state.claim("t/gang", held, {})
    snapshot = state.snapshot()
    none = go_on(snapshot, held, {"n1"}, 4, (4,), exactly(GANG))
    assert isinstance(none, Unplaceable)
    assert none.code is Reason.WAITING_FOR_REPAIR
    shrunk = go_on(snapshot, held, {"n1"}, 4, (4, 3, 2), exactly(GANG))
    assert isinstance(shrunk, Placement)
    assert len(shrunk.node_of) == 3


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_lost_node_no_foreign_device_and_who_is_well_stays(data: st.DataObject) -> None:
    nodes = data.draw(st.integers(2, 8))
    state = a_state(nodes, data.draw(st.integers(1, 4)))
    workers = data.draw(st.integers(1, nodes))
    held = place(state.snapshot(), replace(GANG, workers=workers))
    assert isinstance(held, Placement)
    state.claim("t/gang", held, {})
    other = place(state.snapshot(), GangDemand("t/other", ("p",), data.draw(st.integers(1, nodes)), DEVICES))
    if isinstance(other, Placement):
        state.claim("t/other", other, {})
    lost = frozenset(data.draw(st.sets(st.sampled_from([f"n{i}" for i in range(nodes)]))))
    sizes = tuple(range(workers, data.draw(st.integers(0, workers - 1)), -1))
    snapshot = state.snapshot()
    result = go_on(snapshot, held, lost, workers, sizes, exactly(GANG))
    taken = {(w.node, d) for w in (other.workers if isinstance(other, Placement) else ()) for d in w.devices}
    free = sum(name not in lost for name in snapshot.node_names) - len({node for node, _ in taken} - lost)
    if not isinstance(result, Placement):
        # One worker fills a node here: an independent count says that there was no room.
        assert free < sizes[-1]
        return
    used = [(worker.node, device) for worker in result.workers for device in worker.devices]
    assert len(used) == len(set(used))
    assert not set(used) & taken
    assert not {node for node, _ in used} & lost
    assert [worker.rank for worker in result.workers] == list(range(len(result.node_of)))
    assert len(result.node_of) == min(workers, free), "no fewer than fit"
    if len(result.node_of) == workers:
        for old, new in zip(held.workers, result.workers, strict=True):
            assert old.node in lost or new == old


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40))
def test_the_largest_size_that_fits_is_found(fits: int, fewest: int, most: int) -> None:
    state = a_state(fits, 4)
    sizes = list(range(most, min(fewest, most) - 1, -1))
    found = largest(state.snapshot(), "t/gang", sizes, (), exactly(GANG))
    expected = next((size for size in sizes if size <= fits), None)
    assert (None if found is None else len(found.node_of)) == expected


def test_no_size_is_chosen_whose_place_could_not_be_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    line = bounds._LINE + len("n500") + len("p") + bounds._longest_text(1)
    monkeypatch.setattr(bounds, "LARGEST_PLACEMENT", bounds._REST + 1002 * line)
    ones = GangDemand("t/gang", ("p",), 1004, 1)
    found = largest(a_state(502, 4).snapshot(), "t/gang", [1004, 1003, 1002, 1001], (), exactly(ones))
    assert found is not None
    assert len(found.node_of) == 1002


@pytest.mark.parametrize(
    ("count", "level", "domain"), [(3, "", ()), (2, "supernode", ("sn-0",)), (1, "node", ("sn-0", "n0"))]
)
def test_the_first_workers_are_a_place_of_their_own(count: int, level: str, domain: tuple[str, ...]) -> None:
    state, held = a_state(4, 2), at([0, 1, 2, 3])
    state.claim("t/gang", held, {})
    snapshot = state.snapshot()
    demand = replace(GANG, workers=count, model=MODEL)
    found = first_workers(snapshot, demand, held)
    assert (found.nodes, found.level, found.domain) == (tuple(f"n{i}" for i in range(count)), level, domain)
    assert found.predicted == step_on(snapshot, snapshot.pools[0], demand, list(range(count)))
    assert found.predicted is not None


def test_first_workers_on_a_node_that_is_gone_leave_the_telling_to_the_repair() -> None:
    state, held = a_state(4, 2), at([0, 1, 2])
    state.claim("t/gang", held, {})
    state.remove_node("n1")
    assert first_workers(state.snapshot(), replace(GANG, workers=2), held).nodes == ("n0", "n1")


@pytest.mark.parametrize(
    ("sizes", "workers", "expected"),
    [
        ((4,), 4, (0, 1)),
        ((8, 7, 6), 8, (2, 1)),
        ((8, 7, 6), 7, (1, 1)),
        ((8, 6, 4, 2), 8, (6, 2)),
        ((8, 4, 2), 8, (6, 6)),
        ((8, 4, 2), 4, (2, 2)),
    ],
)
def test_what_a_gang_can_do_without(sizes: tuple[int, ...], workers: int, expected: tuple[int, int]) -> None:
    assert spare(sizes, workers) == expected
