"""What pools and groups tell of their accelerators, and of nodes whose labels do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from supernode.chips import find_chip
from supernode.handlers.census import Counts, Sick, census
from supernode.handlers.effective import Effective, differ, effective_json
from supernode.handlers.groupstatus import group_ready, group_status
from supernode.scheduling.state import NodeInfo, PoolSpec, State

CHIP = find_chip("hygon-bw1000")


def a_pool_spec(*, emulated: bool, devices: int = 4) -> PoolSpec:
    return PoolSpec("a", CHIP, "hygon.com/hcu", emulated, devices, 1e9, 1e-6)


def a_node(capacity: str = "4", offered: str = "4", unhealthy: str | None = None) -> dict[str, Any]:
    annotations = {} if unhealthy is None else {"supernode.dev/unhealthy-devices": unhealthy}
    status = {"capacity": {"hygon.com/hcu": capacity}, "allocatable": {"hygon.com/hcu": offered}}
    return {"metadata": {"name": "n", "annotations": annotations}, "status": status}


def test_unhealthy_devices_by_annotation_and_by_plug_in() -> None:
    sick = Sick()
    for name, node in {
        "well": a_node(),
        "named": a_node(unhealthy="0,3,9"),
        "taken-back": a_node(offered="3"),
        "both": a_node(offered="2", unhealthy="1"),
    }.items():
        sick.note(node, name)
    hardware, emulated = a_pool_spec(emulated=False), a_pool_spec(emulated=True)
    assert [sick.devices(name, hardware) for name in ("well", "named", "taken-back", "both")] == [0, 2, 1, 3]
    assert [sick.devices(name, emulated) for name in ("well", "named", "taken-back", "both")] == [0, 2, 0, 1]
    assert sick.devices("named", None) == 0
    assert sorted(sick.names()) == ["both", "named", "taken-back"]
    sick.note(None, "both")
    sick.note(a_node(), "named")
    assert sick.names() == ["taken-back"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15)), min_size=1, max_size=5))
def test_every_device_is_counted_once(given_nodes: list[tuple[bool, int]]) -> None:
    state = State()
    state.set_pool(a_pool_spec(emulated=True))
    sick = 0
    for index, (usable, mask) in enumerate(given_nodes):
        state.apply_node(NodeInfo(f"n{index}", {"cpu": 1000, "pods": 10}, usable=usable, pool="a", unhealthy=mask))
        sick += mask.bit_count()
    rows = np.arange(len(given_nodes), dtype=np.int32)
    counts = census(state.snapshot(), rows, sick)
    assert counts.capacity == 4 * len(given_nodes)
    assert counts.capacity == counts.allocated + counts.free + counts.unhealthy
    assert counts.unhealthy == sum(4 if not usable else mask.bit_count() for usable, mask in given_nodes)


def test_nodes_whose_labels_do_not_fit_are_named_with_the_label() -> None:
    counts = Counts(2, 8, 0, 8, 0)
    unfit = {"n3": "supernode.dev/spine", "n7": "supernode.dev/supernode", "n8": "supernode.dev/supernode"}
    status = group_status(None, counts, [], None, unfit)
    assert status["unlabelledNodes"] == 3
    assert group_ready(status, None, unfit) == (
        False,
        "NodesUnlabelled",
        "node n3 lacks the label supernode.dev/spine, nodes n7, n8 lack the label supernode.dev/supernode; they are in "
        "no domain, and no gang is placed by them",
    )
    many = {f"n{index:03}": "l" for index in range(500)}
    words = group_ready(group_status(None, counts, [], None, many), None, many)[2]
    assert "and 490 more lack" in words
    assert len(words) < 300


def test_effective_compute_is_told_again_when_it_has_changed_by_a_twentieth() -> None:
    said = effective_json(Effective(peak=100.0, predicted=50.0, observed=40.0))
    assert said == {"peakTFLOPS": 100.0, "predictedTFLOPS": 50.0, "observedTFLOPS": 40.0}
    assert not differ(said, Effective(100.0, 50.0, 41.0))
    assert differ(said, Effective(100.0, 50.0, 43.0))
    assert differ(said, Effective())
    assert differ(None, Effective(100.0, 50.0, 40.0))
    assert not differ(None, Effective()), "where nothing has run there is nothing to tell"
    assert not differ(effective_json(Effective()), Effective())
