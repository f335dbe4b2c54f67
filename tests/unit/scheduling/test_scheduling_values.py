"""State, topology, demand and placement by example: what they refuse, and what they say about odd input."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from tests.unit.scheduling.clusters import (
    HCU,
    MODEL,
    SPINE,
    SUPERNODE,
    a_gang,
    a_group,
    a_node,
    a_pool,
    a_state,
    held,
)

from supernode.chips import find_chip
from supernode.errors import InputError
from supernode.scheduling.cycle import Reservations
from supernode.scheduling.demand import GangDemand, Slice
from supernode.scheduling.devices import pick_devices
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement, WorkerPlacement
from supernode.scheduling.quota import Quota
from supernode.scheduling.rank import rank_options
from supernode.scheduling.score import Option, Template
from supernode.scheduling.state import State
from supernode.scheduling.topology import Level, build_topology
from supernode.scheduling.unplaceable import Unplaceable
from supernode.scheduling.work import Work
from supernode.steptime.model import Parallelism


def test_topology_by_example() -> None:
    labels = {0: ("s1", "x"), 1: ("s0", "y"), 2: ("s0", "x"), 3: ("s0", None), 4: ("s1", "x"), 5: ("s1", "")}
    tree = build_topology("g", (SPINE, SUPERNODE), labels, generation=7)
    assert tree.node_rows.tolist() == [2, 1, 0, 4]
    assert tree.node_domain.tolist() == [[0, 0], [0, 1], [1, 2], [1, 2]]
    assert tree.domain_names == (("s0", "s1"), ("x", "y", "x"))
    assert [parents.tolist() for parents in tree.parents] == [[-1, -1], [0, 0, 1]]
    assert [starts.tolist() for starts in tree.starts] == [[0, 2, 4], [0, 1, 2, 4]]
    assert tree.unlabelled.tolist() == [3, 5]
    assert tree.path(1, 2) == ("s1", "x")
    assert (tree.level_index("supernode"), tree.level_index("node"), tree.level_index("rack")) == (1, 2, -1)
    assert tree.generation == 7
    with pytest.raises(ValueError, match="read-only"):
        tree.node_rows[0] = 1


@pytest.mark.parametrize(
    ("levels", "field"),
    [
        ((), "spec.levels"),
        (tuple(Level(f"l{i}", 1.0, 0.0) for i in range(17)), "spec.levels"),
        ((SPINE, SPINE), r"spec.levels\[1\].name"),
        ((Level("", 1.0, 0.0),), r"spec.levels\[0\].name"),
        ((Level("node", 1.0, 0.0),), r"spec.levels\[0\].name"),
        ((Level("a", 0.0, 0.0),), r"spec.levels\[0\].bandwidthGBps"),
        ((Level("a", math.nan, 0.0),), r"spec.levels\[0\].bandwidthGBps"),
        ((Level("a", math.inf, 0.0),), r"spec.levels\[0\].bandwidthGBps"),
        ((Level("a", 1.0, -1.0),), r"spec.levels\[0\].latencyMicroseconds"),
    ],
)
def test_levels_that_can_not_be(levels: tuple[Level, ...], field: str) -> None:
    with pytest.raises(InputError, match=f"SuperNodeGroup g: {field}: "):
        build_topology("g", levels, {})
    with pytest.raises(InputError, match="SuperNodeGroup g: "):
        a_state(groups=[a_group("g", levels)])


def test_strange_names_are_names() -> None:
    nodes = [a_node("ä/ b", "名", "\U0001f600"), a_node("", "名", "x" * 5000)]
    state = a_state(nodes)
    result = place(state.snapshot(), a_gang())
    assert isinstance(result, Placement)
    assert result.domain == ("名",)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workers": 0}, "spec.workers"),
        ({"workers": 2**40}, "spec.workers"),
        ({"workers": True}, "spec.workers"),
        ({"devices": 0}, "spec.acceleratorsPerWorker"),
        ({"devices": 65}, "spec.acceleratorsPerWorker"),
        ({"min_count": 3}, "spec.scheduling.policy.gang.minCount"),
        ({"pools": ()}, "spec.pools"),
        ({"request": {"cpu": -1}}, "resource cpu"),
        ({"request": {"memory": 2**63}}, "resource memory"),
        ({"slices": (Slice("supernode", 0),)}, r"slices\[0\].size"),
        ({"slices": (Slice("supernode", 4),)}, r"slices\[0\].size"),
        ({"workers": 12, "slices": (Slice("spine", 4), Slice("supernode", 3))}, r"slices\[0\].size"),
        ({"parallelism": Parallelism(data=3)}, "spec.parallelism"),
    ],
)
def test_demands_that_can_not_be(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=f"TrainingJob default/gpt: .*{field}"):
        a_gang(**{"workers": 2, **changes})  # type: ignore[arg-type]


def test_nodes_that_can_not_be() -> None:
    state = a_state()
    before = state.snapshot()
    with pytest.raises(InputError, match=r"Node bad: status\.allocatable\.cpu: "):
        state.apply_node(a_node("bad", capacity={"cpu": -1}))
    with pytest.raises(InputError, match=r"AcceleratorPool dcu: spec\.devicesPerNode: .*65"):
        state.set_pool(a_pool(devices=65))
    state = a_state(pools=[a_pool(emulated=False)])
    with pytest.raises(InputError, match=f"Node bad: status.allocatable.{HCU}: .*100"):
        state.apply_node(a_node("bad", capacity={HCU: 100}))
    with pytest.raises(InputError, match="Pod x: request cpu"):
        state.add_foreign("x", "dcu-0", {"cpu": -5})
    assert before.node_names == ("dcu-0", "dcu-1", "dcu-2", "dcu-3")


def test_hardware_devices_are_what_the_node_reports() -> None:
    capacity = {"cpu": 1000, "pods": 10, HCU: 3}
    state = a_state([a_node("n", capacity=capacity)], [a_pool(emulated=False, devices=0)])
    assert state.snapshot().device_all.tolist() == [0b111]
    assert not state.apply_node(a_node("n", capacity=dict(capacity)))
    assert state.apply_node(a_node("n", capacity={**capacity, HCU: 2}))
    assert state.snapshot().device_all.tolist() == [0b11]


def test_two_hands_on_one_device() -> None:
    state = a_state()
    state.claim("a/x", held("a/x", ("dcu-0", (0, 1))), {})
    before = state.snapshot()
    with pytest.raises(InputError, match="TrainingJob b/y: devices on node dcu-0 are held by a/x already"):
        state.claim("b/y", held("b/y", ("dcu-1", (0,)), ("dcu-0", (1,))), {})
    with pytest.raises(InputError, match="TrainingJob a/x: holds 2 devices already"):
        state.claim("a/x", held("a/x", ("dcu-1", (0,))), {})
    assert state.snapshot() is before
    assert not state.release("b/y")
    state.remove_node("dcu-3")  # stale arrays: the records are compared
    with pytest.raises(InputError, match="held by a/x already"):
        state.claim("b/y", held("b/y", ("dcu-0", (1,))), {})


def test_a_node_that_comes_back_is_still_held() -> None:
    state = a_state()
    state.claim("a/x", held("a/x", ("dcu-0", (0,)), ("dcu-1", (0,))), {"cpu": 500})
    held_now = state.snapshot()
    state.remove_node("dcu-0")
    assert state.snapshot().node_names == ("dcu-1", "dcu-2", "dcu-3")
    assert state.snapshot().device_free.tolist() == [0b10, 0b11, 0b11]
    state.apply_node(a_node("dcu-0", "spine-0", "sn-0"))
    assert state.snapshot().device_free.tolist() == held_now.device_free.tolist()
    assert state.snapshot().free.tolist() == held_now.free.tolist()


def test_foreign_pods_take_the_highest_free_devices() -> None:
    state = a_state(pools=[a_pool(devices=4)])
    state.add_foreign("pod", "dcu-0", {HCU: 2, "cpu": 100})
    state.claim("a/x", held("a/x", ("dcu-0", (3,))), {})
    assert state.snapshot().device_free.tolist()[0] == 0b0001
    state.release("a/x")
    assert state.snapshot().device_free.tolist()[0] == 0b0011
    state.add_foreign("pod", "dcu-0", {HCU: 1})
    assert state.snapshot().device_free.tolist()[0] == 0b0111
    state.remove_foreign("pod")
    state.remove_foreign("pod")
    assert state.snapshot().device_free.tolist()[0] == 0b1111


def test_pools_and_groups_come_and_go() -> None:
    state = a_state()
    generation = state.generation
    state.set_group(a_group())
    assert state.generation == generation, "nothing changed"
    state.remove_group("scalex")
    assert state.snapshot().topologies == ()
    assert isinstance(place(state.snapshot(), a_gang()), Placement)
    state.remove_pool("dcu")
    assert isinstance(place(state.snapshot(), a_gang()), Unplaceable)
    state.set_pool(a_pool())
    state.set_group(a_group(levels=(SPINE,)))
    # Nodes were read under the group's former two levels: they are out of it until they are applied again.
    (tree,) = state.snapshot().topologies
    assert tree.unlabelled.tolist() == [0, 1, 2, 3]


def test_snapshots_can_not_be_changed() -> None:
    snapshot = a_state().snapshot()
    for name in ("capacity", "free", "usable", "device_free", "device_all"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(snapshot, name)[0] = 0
    with pytest.raises(TypeError):
        snapshot.holders["x"] = None  # type: ignore[index]


def test_masks_of_another_snapshot_are_refused() -> None:
    snapshot = a_state().snapshot()
    demand = a_gang().with_eligible({"dcu": np.ones(3, dtype=np.bool_)})
    with pytest.raises(InputError, match="the snapshot has 4 nodes"):
        place(snapshot, demand)
    with pytest.raises(InputError, match="the snapshot has 4 nodes"):
        Reservations(Work(snapshot)).place(demand)
    only = np.asarray([False, False, True, True])
    result = place(snapshot, a_gang().with_eligible({"dcu": only}))
    assert isinstance(result, Placement)
    assert set(result.nodes) == {"dcu-2", "dcu-3"}


def test_min_count() -> None:
    state = a_state()
    state.claim("a/x", held("a/x", ("dcu-0", (0, 1))), {})
    result = place(state.snapshot(), a_gang(workers=4, min_count=2))
    assert isinstance(result, Placement)
    assert len(result.workers) == 3
    sliced = a_gang(workers=4, min_count=2, slices=(Slice("supernode", 2),))
    result = place(state.snapshot(), sliced)
    assert isinstance(result, Placement)
    assert len(result.workers) == 2
    fixed = a_gang(workers=4, min_count=2, model=MODEL, parallelism=Parallelism(data=8))
    assert isinstance(place(state.snapshot(), fixed), Unplaceable)


def test_placement_from_status() -> None:
    placement = held("a/x", ("b", (1, 0)), ("a", (3, 2)))
    assert placement.nodes == ("b", "a")
    assert placement.workers[1] == WorkerPlacement(1, "a", "dcu", (2, 3))
    assert placement.masks().tolist() == [0b11, 0b1100]
    for workers, words in (
        ([], "ranks must be"),
        ([WorkerPlacement(1, "a", "dcu", (0,))], "ranks must be"),
        ([WorkerPlacement(0, "a", "dcu", (0, 0))], "same number of different devices"),
        ([WorkerPlacement(0, "a", "dcu", (0,)), WorkerPlacement(1, "a", "npu", (1,))], "same pool"),
        ([WorkerPlacement(0, "a", "dcu", (64,))], "0 to 63"),
    ):
        with pytest.raises(InputError, match=words):
            Placement.of("a/x", workers)


def test_devices_are_the_lowest_free_ones() -> None:
    free = np.asarray([0b10110, 1 << 63 | 1], dtype=np.uint64)
    assert pick_devices(free, np.asarray([1, 1]), 2).tolist() == [[1, 2], [0, 63]]
    assert pick_devices(free, np.asarray([3, 1]), 1).tolist() == [[1], [2], [4], [0]]


def test_tensor_groups_stay_inside_a_super_node() -> None:
    """3 free nodes in one super-node and 3 in the other: a tensor group of 2 workers must not straddle them."""
    nodes = [a_node(f"n{index}", "spine-0", f"sn-{index // 3}") for index in range(6)]
    state = a_state(nodes)
    cut = Parallelism(tensor=4, data=2)
    result = place(state.snapshot(), a_gang(workers=4, model=MODEL, parallelism=cut))
    assert isinstance(result, Placement)
    homes = [int(name[1:]) // 3 for name in (result.nodes[n] for n in result.node_of.tolist())]
    assert homes[0] == homes[1]
    assert homes[2] == homes[3]


def test_what_is_left_for_others() -> None:
    """Equal step times: the broken super-node is used, the whole one stays whole."""
    state = a_state()
    state.claim("a/x", held("a/x", ("dcu-2", (0, 1))), {})
    result = place(state.snapshot(), a_gang(workers=1))
    assert isinstance(result, Placement)
    assert result.nodes == ("dcu-3",)


def test_devices_are_chosen_by_their_links() -> None:
    """Quads 0-3 and 4-7: pairs go where they leave the other quad whole; a quad is not torn apart."""
    free = np.asarray([0b11111111], dtype=np.uint64)
    for mask, workers, devices, wanted in (
        (0b11111111, 2, 2, [[0, 1], [2, 3]]),
        (0b11111100, 1, 2, [[2, 3]]),
        (0b11110011, 1, 4, [[4, 5, 6, 7]]),
        (0b11111001, 1, 2, [[0, 3]]),
        (0b01111001, 1, 4, [[0, 4, 5, 6]]),
        (0b11111111, 1, 6, [[0, 1, 2, 3, 4, 5]]),
        (0b10110111, 2, 3, [[0, 1, 2], [4, 5, 7]]),
    ):
        free = np.asarray([mask], dtype=np.uint64)
        assert pick_devices(free, np.asarray([workers]), devices, 4).tolist() == wanted, bin(mask)
    cluster = a_state([a_node("n")], [a_pool(chip=find_chip("cambricon-mlu370-x8"), devices=8)])
    cluster.claim("a/x", held("a/x", ("n", (0,))), {})
    result = place(cluster.snapshot(), a_gang(workers=1, devices=4, request={}))
    assert isinstance(result, Placement)
    assert result.workers[0].devices == (4, 5, 6, 7)


def test_nodes_are_chosen_by_links_too() -> None:
    """Node a has six free devices, but no whole quad; b has. Where pairs do, the broken node is used up first."""
    state = a_state([a_node("a"), a_node("b")], [a_pool(chip=find_chip("cambricon-mlu370-x8"), devices=8)])
    state.claim("o/x", held("o/x", ("a", (1,)), ("a", (5,))), {})
    for workers, devices, wanted in (
        (1, 4, [("b", (0, 1, 2, 3))]),
        (1, 2, [("a", (0, 2))]),
        (2, 3, [("a", (0, 2, 3)), ("a", (4, 6, 7))]),
        (2, 4, [("b", (0, 1, 2, 3)), ("b", (4, 5, 6, 7))]),
    ):
        result = place(state.snapshot(), a_gang(workers=workers, devices=devices, request={}))
        assert isinstance(result, Placement)
        assert [(worker.node, worker.devices) for worker in result.workers] == wanted
    # Better torn than not at all.
    state.claim("o/y", held("o/y", ("b", (0,)), ("b", (4,))), {})
    torn = place(state.snapshot(), a_gang(workers=1, devices=4, request={}))
    assert isinstance(torn, Placement)


def test_demand_keeps_its_own_copy() -> None:
    request = {"cpu": 1}
    demand = GangDemand("a/x", ("dcu",), 1, 1, request)
    request["cpu"] = 2
    assert dict(demand.request) == {"pods": 1, "cpu": 1}
    assert demand.namespace == "a"


def test_order_of_keys() -> None:
    """Step time first, if it differs by more than 0.1 %; then preferred levels; then the name."""
    (pool,) = a_state().snapshot().pools
    rows = np.asarray([0], dtype=np.int64)

    def option(name: str, seconds: float, missed: int) -> Option:
        template = Template(rows, rows + 1, 1, seconds, None, "", missed, -1, False, (), 0)
        return Option(pool, 0, None, template, start="ab".index(name))

    first = option("a", 1.0, 1)
    for other, wins in (
        (option("b", 1.0, 1), "a"),
        (option("b", 1.0, 0), "b"),
        (option("b", 1.0005, 0), "b"),
        (option("b", 1.01, 0), "a"),
        (option("b", 0.98, 2), "b"),
    ):
        assert rank_options([first, other], with_model=True)[0].start == "ab".index(wins)
        assert rank_options([other, first], with_model=True)[0].start == "ab".index(wins)


def test_absurd_requests_fill_a_node_and_no_more() -> None:
    """Amounts that would overflow 64 bits in a sum must not make room."""
    state = a_state()
    for index in range(4):
        state.add_foreign(f"pod-{index}", "dcu-0", {"memory": 2**62})
    state.claim("a/x", held("a/x", ("dcu-1", (0,)), ("dcu-1", (1,))), {"memory": 2**70})
    column = state.snapshot().resources.index("memory")
    assert state.snapshot().free[:2, column].tolist() == [2**39 - 4 * 2**52, 2**39 - 2 * 2**52]
    result = place(state.snapshot(), a_gang(workers=3, request={"memory": 1}))
    assert isinstance(result, Unplaceable)
    with pytest.raises(InputError, match="TrainingJob b/y: request cpu"):
        state.claim("b/y", held("b/y", ("dcu-2", (0,))), {"cpu": -1})


def test_a_pool_that_comes_after_its_nodes() -> None:
    """More devices than a node can have must not stop everything else when the pool appears later."""
    state = a_state([a_node("big", capacity={HCU: 100, "pods": 9}), a_node("small", capacity={HCU: 2, "pods": 9})], [])
    state.set_pool(a_pool(emulated=False, devices=0))
    snapshot = state.snapshot()
    assert snapshot.device_all.tolist() == [0, 0b11]
    assert snapshot.usable.tolist() == [False, True]


def test_quota_shrinks_an_elastic_gang() -> None:
    state = a_state(pools=[a_pool(quotas=(Quota("default", 0, 5),))])
    result = place(state.snapshot(), a_gang(workers=4, min_count=1, request={}))
    assert isinstance(result, Placement)
    assert len(result.workers) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: a_state(pools=[a_pool(bandwidth=math.nan)]), "AcceleratorPool dcu: spec.interconnect.bandwidthGBps"),
        (lambda: a_state(pools=[a_pool(latency=-1.0)]), "AcceleratorPool dcu: spec.interconnect.latencyMicroseconds"),
        (
            lambda: a_state(pools=[a_pool(quotas=(Quota("a", -1),))]),
            r"AcceleratorPool dcu: spec.quotas\[0\].guaranteed",
        ),
        (lambda: a_state(pools=[a_pool(quotas=(Quota("a", 3, 2),))]), r"AcceleratorPool dcu: spec.quotas\[0\].limit"),
        (lambda: a_state(pools=[a_pool(quotas=(Quota("a"), Quota("a")))]), r"dcu: spec.quotas\[1\].namespace"),
        (lambda: a_state([a_node("n", capacity={"cpu": 1.5})]), "Node n: status.allocatable.cpu"),
        (lambda: a_state([a_node("n", capacity={"cpu": math.nan})]), "Node n: status.allocatable.cpu"),
        (lambda: a_state([a_node("n", unhealthy=-1)]), "Node n: unhealthy"),
        (lambda: a_state([a_node("n", unhealthy=2**80)]), "Node n: unhealthy"),
        (lambda: a_state([a_node("n", 1, 2)]), "Node n: metadata.labels"),  # type: ignore[arg-type]
        (lambda: a_gang(priority=math.nan), "TrainingJob default/gpt: priority"),
        (lambda: a_gang(pools=("dcu", "dcu")), "TrainingJob default/gpt: spec.pools"),
        (lambda: a_gang(workers=2**40), "TrainingJob default/gpt: spec.workers"),
        (lambda: a_group_of(1000), "SuperNodeGroup scalex: spec.levels"),
    ],
)
def test_wrong_input_names_object_and_field(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def a_group_of(levels: int) -> State:
    return a_state(groups=[a_group(levels=tuple(Level(f"l{index}", 1e9, 0.0) for index in range(levels)))])
