"""The sentence for each reason, word for word: these are what a person reads in a condition or an event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.scheduling.clusters import (
    ASCEND,
    MODEL,
    a_gang,
    a_group,
    a_node,
    a_pool,
    a_state,
    held,
    preferred,
    required,
)

from supernode.chips import chip_from_mapping
from supernode.scheduling.cycle import plan_cycle
from supernode.scheduling.demand import GangDemand, Slice
from supernode.scheduling.explain import explain
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.quota import Quota
from supernode.scheduling.state import State
from supernode.scheduling.topology import Level
from supernode.scheduling.unplaceable import PoolRefusal, Reason, Unplaceable
from supernode.steptime.model import ModelShape, Parallelism


def answer(state: State, demand: GangDemand) -> tuple[Reason, str]:
    snapshot = state.snapshot()
    result = place(snapshot, demand)
    assert isinstance(result, Unplaceable)
    return result.code, explain(result, snapshot, demand)


def half_full() -> State:
    """default/gpt holds super-node 0."""
    state = a_state()
    state.claim("default/gpt", held("default/gpt", ("dcu-0", (0, 1)), ("dcu-1", (0, 1))), {"cpu": 1000})
    return state


def test_too_few_accelerators() -> None:
    assert answer(half_full(), a_gang("default/big", 4, constraints=required("spine"))) == (
        Reason.INSUFFICIENT_ACCELERATORS,
        "needs 4 workers x 2 hygon.com/hcu in one spine (8 devices); pool dcu has 8 devices on 4 nodes, 4 free: "
        "sn-0 0, sn-1 4; 4 more are missing; default/gpt holds 4",
    )


def test_never_enough() -> None:
    assert answer(a_state(), a_gang("default/big", 5))[1] == (
        "needs 5 workers x 2 hygon.com/hcu (10 devices); pool dcu has 8 devices on 4 nodes, 8 free: sn-0 4, sn-1 4; "
        "2 more are missing; waiting won't help: even empty nodes would take only 4 workers"
    )


def test_free_in_pieces() -> None:
    state = a_state()
    for index in range(4):
        key = f"default/one-{index}"
        state.claim(key, held(key, (f"dcu-{index}", (0,))), {})
    code, text = answer(state, a_gang(workers=1))
    assert code == Reason.INSUFFICIENT_ACCELERATORS
    assert (
        "4 free: sn-0 2, sn-1 2; in pieces too small: 0 of 1 workers find 2 on one node; default/one-0 holds 1" in text
    )


def test_wiring() -> None:
    state = a_state()
    state.claim("a/x", held("a/x", ("dcu-0", (0, 1))), {})
    state.claim("a/y", held("a/y", ("dcu-2", (0, 1))), {})
    assert answer(state, a_gang(constraints=required("supernode"))) == (
        Reason.TOPOLOGY_PLACEMENT_FAILED,
        "needs 2 workers x 2 hygon.com/hcu in one supernode (4 devices); pool dcu has 8 devices on 4 nodes, 4 free: "
        "sn-0 2, sn-1 2, but at most 1 of 2 workers fit in one supernode; 2 gangs of other namespaces hold 4",
    )
    code, text = answer(state, a_gang(slices=(Slice("supernode", 2),)))
    assert code == Reason.TOPOLOGY_PLACEMENT_FAILED
    assert "each 2 ranks in one supernode" in text
    assert "at most 0 of 2 workers fit in whole slices" in text


def test_level_that_no_group_has() -> None:
    code, text = answer(a_state(), a_gang(constraints=required("rack")))
    assert code == Reason.TOPOLOGY_PLACEMENT_FAILED
    assert text.endswith("no group has the level rack among the nodes of this pool")


def test_other_resources() -> None:
    code, text = answer(a_state(), a_gang(request={"cpu": 65_000}))
    assert code == Reason.INSUFFICIENT_NODE_RESOURCES
    assert text == (
        "needs 2 workers x 2 hygon.com/hcu (4 devices) and 65 CPU a worker; pool dcu has 8 devices on 4 nodes, 8 free, "
        "but cpu is short there: only 0 of 2 workers fit; waiting won't help: "
        "even empty nodes would take only 0 workers"
    )
    assert "rdma/hca is short there" in answer(a_state(), a_gang(request={"rdma/hca": 1}))[1]


def test_quota() -> None:
    state = a_state(pools=[a_pool(quotas=(Quota("default", 0, 4), Quota("empty", 0, 2)))])
    state.claim("default/gpt", held("default/gpt", ("dcu-0", (0, 1))), {})
    assert answer(state, a_gang()) == (
        Reason.WAITING_FOR_QUOTA,
        "needs 2 workers x 2 hygon.com/hcu (4 devices); namespace default holds 2 of its limit of 4 devices in pool "
        "dcu, so 2 must be freed first; default/gpt holds 2",
    )
    assert answer(state, a_gang("empty/gpt")) == (
        Reason.EXCEEDS_MAX_QUOTA,
        "needs 2 workers x 2 hygon.com/hcu (4 devices), more than the limit of 2 that namespace empty has in pool dcu; "
        "ask for fewer, or have the pool's quota raised",
    )


def test_pools() -> None:
    state = a_state(pools=[a_pool(), a_pool("empty")])
    code, text = answer(state, a_gang(pools=("nowhere",)))
    assert code == Reason.NO_MATCHING_POOL
    assert text == ("needs 2 workers x 2 accelerators (4 devices); there is no pool nowhere; the pools are: dcu, empty")
    assert answer(state, a_gang(pools=("empty",)))[1].endswith("pool empty has no nodes: its nodeSelector matches none")
    code, text = answer(state, a_gang(workers=9, pools=("nowhere", "dcu")))
    assert code == Reason.INSUFFICIENT_ACCELERATORS
    assert text.endswith("; pool nowhere: does not exist")


def test_memory_and_shape() -> None:
    big = ModelShape(96, 12288, 96, 51200, 2048)
    code, text = answer(a_state(), a_gang(model=big))
    assert code == Reason.OUT_OF_DEVICE_MEMORY
    assert "GiB on each device, but hygon-bw1000 of pool dcu has 64.0 GiB; more tensor" in text
    code, text = answer(a_state(), a_gang(workers=3, devices=1, model=MODEL, parallelism=Parallelism(tensor=3)))
    assert code == Reason.MISCONFIGURED
    assert text == "can't be cut as asked: parallelism.tensor: 16 attention heads can't be split over 3 ranks"


def test_kept_for_another() -> None:
    big = a_gang("default/big", 4, created=1.0)
    small = a_gang("default/small", 1, created=2.0)
    first, second = plan_cycle(half_full().snapshot(), [small, big])
    assert first.demand is big
    assert isinstance(second.result, Unplaceable)
    assert second.result.reserved_for == "default/big"
    assert explain(second.result, second.snapshot, small) == (
        "needs 1 worker x 2 hygon.com/hcu (2 devices); pool dcu has 4 devices free, but they are kept for default/big, "
        "which comes first and waits for more to end"
    )


def test_impossible_gangs_and_quota_keep_nothing() -> None:
    state = a_state(pools=[a_pool(quotas=(Quota("tight", 0, 2),))])
    state.claim("tight/gpt", held("tight/gpt", ("dcu-0", (0, 1))), {})
    small = a_gang("default/small", 1, created=9.0)
    decisions = plan_cycle(state.snapshot(), [a_gang("default/huge", 99), a_gang("tight/more", 1), small])
    assert isinstance(decisions[-1].result, Placement)


def test_reservation_leaves_other_domains_open() -> None:
    """A gang that requires a super-node keeps one of them, not the whole pool."""
    state = a_state()
    state.claim("a/x", held("a/x", ("dcu-0", (0, 1))), {})
    state.claim("a/y", held("a/y", ("dcu-2", (0,))), {})
    big = a_gang("default/big", 2, constraints=required("supernode"), created=1.0)
    small = a_gang("default/small", 1, created=2.0)
    _, second = plan_cycle(state.snapshot(), [big, small])
    assert isinstance(second.result, Placement)
    assert second.result.nodes == ("dcu-3",) or second.result.nodes == ("dcu-1",)
    other = plan_cycle(state.snapshot(), [big, small, a_gang("default/third", 1, created=3.0)])[2]
    assert isinstance(other.result, Unplaceable)
    assert other.result.reserved_for == "default/big"


def test_placed() -> None:
    state = a_state()
    demand = a_gang(model=MODEL, constraints=preferred("supernode"))
    result = place(state.snapshot(), demand)
    text = explain(result, state.snapshot(), demand)
    assert text.startswith("2 workers on 2 nodes of pool dcu, supernode spine-0/sn-0; predicted ")
    assert "next best: supernode spine-0/sn-1" in text
    unknown = chip_from_mapping({"name": "own", "resourceNames": ["own/gpu"], "linkGBps": 100})
    state = a_state(pools=[a_pool(chip=unknown)])
    result = place(state.snapshot(), demand)
    text = explain(result, state.snapshot(), demand)
    assert "step time not predicted: the bf16 peak of chip own is not known" in text


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_words(reason: Reason) -> None:
    state = a_state()
    result = Unplaceable(reason, (PoolRefusal("dcu", reason, limit=1, detail="because"),))
    text = explain(result, state.snapshot(), a_gang())
    assert len(text) > 20
    assert not text.endswith(".")


def test_nodes_that_are_closed() -> None:
    """What nobody may use is not told as free, and not as something that waiting would bring."""
    closed = [a_node(f"dcu-{i}", "spine-0", f"sn-{i // 2}", usable=False) for i in range(4)]
    code, text = answer(a_state(closed), a_gang())
    assert code == Reason.INSUFFICIENT_ACCELERATORS
    assert text == (
        "needs 2 workers x 2 hygon.com/hcu (4 devices); none of the 4 nodes of pool dcu is ready and open to this job "
        "(cordons, taints, its node selector and affinity decide that)"
    )
    assert "; the one node of pool dcu is not ready and open to" in answer(a_state(closed[:1]), a_gang())[1]
    half = [*closed[:2], *(a_node(f"dcu-{i}", "spine-0", "sn-1") for i in (2, 3))]
    assert answer(a_state(half), a_gang(workers=3))[1] == (
        "needs 3 workers x 2 hygon.com/hcu (6 devices); pool dcu has 4 devices on 2 nodes (2 more not ready or closed "
        "to this job), 4 free: sn-1 4; 2 more are missing; waiting won't help: even empty nodes would take only 2 "
        "workers as long as 2 nodes are closed"
    )
    state = a_state()
    mask = np.asarray([False, True, True, True])
    demand = a_gang(workers=4).with_eligible({"dcu": mask})
    assert "6 free: sn-0 2, sn-1 4" in answer(state, demand)[1]


def test_devices_that_are_unhealthy_are_told_as_such() -> None:
    state = a_state([a_node(f"dcu-{i}", "spine-0", f"sn-{i // 2}", unhealthy=0b10 if i else 0) for i in range(4)])
    assert answer(state, a_gang(workers=2))[1].startswith(
        "needs 2 workers x 2 hygon.com/hcu (4 devices); pool dcu has 5 devices on 4 nodes, 5 free, 3 unhealthy: "
    )


def test_a_node_of_two_groups_is_told_of_once() -> None:
    nodes = [
        a_node(f"n{i}", groups={"scalex": ("spine-0", f"sn-{i // 2}"), "racks": (f"rack-{i % 2}",)}) for i in range(4)
    ]
    nodes.append(a_node("n9", groups={"racks": ("rack-1",)}))
    groups = [a_group(), a_group("racks", (Level("rack", 100e9, 5e-6),))]
    text = answer(a_state(nodes, groups=groups), a_gang(workers=6))[1]
    assert "10 free: rack-0 4, rack-1 6; 2 more are missing" in text


def test_waiting_for_others() -> None:
    """Reasons that the operator gives: each with its numbers."""
    state = half_full()
    demand = a_gang("a/x", 4)
    numbers = PoolRefusal("dcu", Reason.SUSPENDED, nodes=4, devices=8, free=4)
    suspended = Unplaceable(Reason.SUSPENDED, (numbers,))
    assert explain(suspended, state.snapshot(), demand) == (
        "needs 4 workers x 2 hygon.com/hcu (8 devices), but is suspended and holds nothing; pool dcu has 8 devices on "
        "4 nodes, 4 free; it queues again when spec.runPolicy.suspend is false"
    )
    numbers = replace(numbers, code=Reason.WAITING_FOR_PREEMPTION, detail="b/y", used=90)
    assert explain(Unplaceable(numbers.code, (numbers,)), state.snapshot(), demand) == (
        "needs 4 workers x 2 hygon.com/hcu (8 devices); pool dcu has 8 devices on 4 nodes, 4 free; starts when b/y has "
        "given way, doing 90 s of work again"
    )
    numbers = replace(numbers, code=Reason.WAITING_FOR_REPAIR, detail="", used=0)
    assert explain(Unplaceable(numbers.code, (numbers,)), state.snapshot(), demand).endswith(
        "4 free; waits until a part of it is repaired"
    )


def test_alternatives_by_step_time() -> None:
    """The faster chip wins, whatever the order of names; the other is a runner-up."""
    nodes: list[Any] = [a_node(f"dcu-{i}", "spine-0", "sn-0") for i in range(2)]
    nodes += [a_node(f"npu-{i}", "spine-0", "sn-1", pool="npu") for i in range(2)]
    npu = a_pool("npu", ASCEND)
    state = a_state(nodes, [a_pool(), npu])
    model = ModelShape(8, 4096, 32, 32000, 2048)
    result = place(state.snapshot(), a_gang(pools=("dcu", "npu"), model=model))
    assert isinstance(result, Placement)
    assert result.pool == "npu"
    assert result.predicted is not None
    assert [(r.pool, (r.seconds or 0) > result.predicted.seconds) for r in result.runners_up] == [("dcu", True)]
    # Without a model the user's order counts.
    plain = place(state.snapshot(), a_gang(pools=("dcu", "npu")))
    assert isinstance(plain, Placement)
    assert plain.pool == "dcu"
