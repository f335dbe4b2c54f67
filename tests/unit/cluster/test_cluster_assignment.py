"""Places of workers in a status: what goes in comes out, and regular gangs stay short."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.placements import workers_in

from supernode.cluster.assignment import (
    assignment_json,
    indices_of,
    indices_text,
    nodes_of,
    pools_of,
    worker_count,
    workers_of,
)
from supernode.scheduling.placement import WorkerPlacement

SETS = st.lists(st.integers(0, 63), unique=True, max_size=16).map(lambda found: tuple(sorted(found)))
WORKERS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["dcu", "npu"]), SETS), max_size=40)


@given(WORKERS)
def test_every_worker_comes_back(drawn: list[tuple[str, str, tuple[int, ...]]]) -> None:
    workers = [WorkerPlacement(rank, *each) for rank, each in enumerate(drawn)]
    status = json.loads(json.dumps({"pool": "dcu", "assignment": assignment_json(workers)}))
    assert workers_of(status) == workers
    assert [(w["rank"], w["node"], w["pool"], tuple(w["devices"])) for w in workers_in(status)] == [
        (w.rank, w.node, w.pool, w.devices) for w in workers
    ]
    assert worker_count(status) == len(workers)
    assert nodes_of(status) == {w.node for w in workers}
    assert pools_of(status) == {w.pool for w in workers}


@given(SETS)
def test_sets_of_indices(indices: tuple[int, ...]) -> None:
    assert indices_of(indices_text(reversed(indices))) == indices


def test_as_people_write_them() -> None:
    assert indices_text([5, 0, 1, 2, 7, 6]) == "0-2,5-7"
    assert (indices_text([]), indices_of("")) == ("", ())
    assert indices_of("3,0-1,1") == (3, 0, 1, 1), "what is there twice is told as it is"


@pytest.mark.parametrize("text", ["x", "1-", "-1", "3-1", "1--2", "0-9999", ",", "1,", "0-1023,0-1023", "\u0661"])
def test_what_is_no_set(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|more than"):
        indices_of(text)


@pytest.mark.parametrize("devices", [[tuple(range(8))], [(0, 1, 2, 3), (4, 5, 6, 7)], [(i,) for i in range(8)]])
def test_a_gang_that_fills_its_nodes_is_one_entry(devices: list[tuple[int, ...]]) -> None:
    places = [(f"node-{i}", "dcu", each) for i in range(1000 // len(devices)) for each in devices]
    (entry,) = assignment_json([WorkerPlacement(rank, *place) for rank, place in enumerate(places)])
    assert len(entry["nodes"]) == 1000 // len(devices)
    assert entry["devices"] == [indices_text(each) for each in devices]


def test_nothing_is_nowhere() -> None:
    assert (workers_of({}), worker_count({}), nodes_of({}), pools_of({})) == ([], 0, set(), set())
