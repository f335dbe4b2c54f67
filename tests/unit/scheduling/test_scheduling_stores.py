"""Storage decides between places: near is faster, shared is slower, and among equals near comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.scheduling.clusters import MODEL, SPINE, SUPERNODE, a_gang, a_group, a_node, a_pool, a_state, held

from supernode.errors import InputError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import Store
from supernode.scheduling.state import GroupSpec, State
from supernode.scheduling.stores import StorageUse, resolved, storage_at
from supernode.steptime.storage import Storage

FAST = Store("fast", "scalex", "spine", "spine-1", 80e9, 60e9)
SLOW = Store("slow", "scalex", "supernode", "sn-3", 2e9, 1e9)


def a_cluster(*stores: Store, held_in_near: int = 0) -> State:
    """Two spines of two super-nodes of two nodes of two devices; some nodes of spine-1 are taken."""
    nodes = [a_node(f"n{i}", f"spine-{i // 4}", f"sn-{i // 2}") for i in range(8)]
    group = GroupSpec("scalex", (SPINE, SUPERNODE), stores)
    state = a_state(nodes, [a_pool()], [group])
    for index in range(held_in_near):
        state.claim(f"o/{index}", held(f"o/{index}", (f"n{7 - index}", (0, 1))), {})
    return state


def saves(store: str, **changes: object) -> GangDemand:
    """A gang that writes 48 GB every 10 steps."""
    return a_gang(model=MODEL, storage=StorageUse("", store, 10, 48e9), **changes)


def test_the_store_decides_the_domain() -> None:
    """Without storage the broken spine is filled first; near its store a step takes half as long."""
    state = a_cluster(replace(FAST, domain="spine-0", write=100e9), held_in_near=2)
    plain = place(state.snapshot(), a_gang(model=MODEL))
    assert isinstance(plain, Placement)
    assert plain.domain[0] == "spine-1"
    result = place(state.snapshot(), saves("fast"))
    assert isinstance(result, Placement)
    assert result.domain[0] == "spine-0"
    assert result.predicted is not None
    assert result.predicted.parts.storage == pytest.approx(48e9 / 100e9 / 10)
    far = next(rival for rival in result.runners_up if rival.domain[0] == "spine-1")
    assert far.seconds is not None
    # One link of the spine level, 50 GB/s, is all that is known of the way there.
    assert far.seconds - result.predicted.seconds == pytest.approx(48e9 / 50e9 / 10 - 48e9 / 100e9 / 10, rel=0.01)


def test_among_equals_near_comes_first() -> None:
    """A store slower than any link is as fast from everywhere: near still wins, before what is left for others."""
    state = a_cluster(replace(SLOW, level="spine", domain="spine-0"), held_in_near=2)
    plain = place(state.snapshot(), a_gang(model=MODEL))
    near = place(state.snapshot(), saves("slow"))
    assert isinstance(plain, Placement)
    assert isinstance(near, Placement)
    assert (plain.domain[0], near.domain[0]) == ("spine-1", "spine-0")


def test_a_near_domain_is_tried_however_many_others_fit_better() -> None:
    """Only six domains a level are tried; the one beside the store is always among them."""
    nodes = [a_node(f"n{i:02d}", f"spine-{i // 2:02d}", f"sn-{i // 2:02d}") for i in range(40)]
    store = Store("fast", "scalex", "supernode", "sn-13", 200e9, 200e9)
    state = a_state(nodes, [a_pool()], [GroupSpec("scalex", (SPINE, SUPERNODE), (store,))])
    result = place(state.snapshot(), saves("fast"))
    assert isinstance(result, Placement)
    assert result.domain == ("spine-13", "sn-13")


def test_gangs_share_a_store() -> None:
    state = a_cluster(FAST)
    first = place(state.snapshot(), saves("fast", key="a/one"))
    assert isinstance(first, Placement)
    assert first.predicted is not None
    state.claim("a/one", first, {}, ("fast",))
    second = place(state.snapshot(), saves("fast", key="a/two"))
    assert isinstance(second, Placement)
    assert second.predicted is not None
    assert second.predicted.parts.storage == pytest.approx(2 * first.predicted.parts.storage)
    again = place(state.snapshot(), saves("fast", key="a/one"))  # one's own share is not counted twice
    assert isinstance(again, Placement)
    assert again.predicted is not None
    assert again.predicted.parts.storage == first.predicted.parts.storage


def test_rates_by_example() -> None:
    topology = a_cluster(FAST, SLOW).snapshot().topologies[0]
    use = resolved(StorageUse("slow", "fast", 5, 1e9), (FAST, SLOW), {}, "a/x")
    inside = topology.node_domain[6:8].T  # sn-3 of spine-1
    assert storage_at(use, topology, inside, None) == Storage(2e9, 60e9, 5, 1e9)
    across = topology.node_domain[4:8].T  # both super-nodes of spine-1: the spine's links lead to sn-3
    assert storage_at(use, topology, across, None) == Storage(2e9, 60e9, 5, 1e9)
    other = topology.node_domain[:2].T
    assert storage_at(use, topology, other, None) == Storage(2e9, 50e9, 5, 1e9)
    assert storage_at(use, None, other, 10e9) == Storage(2e9, 10e9, 5, 1e9)
    assert resolved(StorageUse("none"), (FAST,), {}, "a/x").found == ()


@pytest.mark.parametrize(
    ("store", "words"),
    [
        (replace(FAST, level="rack"), r"SuperNodeGroup scalex: spec.storage\[0\].level: no level is called 'rack'"),
        (replace(FAST, read=0.0), r"SuperNodeGroup scalex: spec.storage\[0\].readGBps"),
        (replace(FAST, write=float("nan")), r"SuperNodeGroup scalex: spec.storage\[0\].writeGBps"),
    ],
)
def test_stores_that_can_not_be(store: Store, words: str) -> None:
    with pytest.raises(InputError, match=words):
        a_cluster(store)
    assert a_group().stores == ()
