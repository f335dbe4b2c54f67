"""Gangs over several pools by pipeline stages: what holds for each of them, and what is said where none is possible."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import ASCEND, HEAVY, MODEL, a_gang, a_node, a_pool, a_random_mix, a_state, required
from tests.unit.scheduling.test_scheduling_invariants import check_placement, same

from supernode.scheduling.cycle import with_claim
from supernode.scheduling.demand import GangDemand, Slice
from supernode.scheduling.explain import explain
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement
from supernode.scheduling.quota import Quota
from supernode.scheduling.repair import plan_replacement
from supernode.scheduling.state import State
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.scheduling.work import Work
from supernode.steptime.mixed import MixedStepTime
from supernode.steptime.model import Parallelism

seeds = st.integers(0, 2**32 - 1)


def two_pools(dcus: int, npus: int, **pool: object) -> State:
    """Nodes of two devices each, of two pools in one spine."""
    nodes = [a_node(f"d{i}", "s0", f"sd{i // 2}") for i in range(dcus)]
    nodes += [a_node(f"a{i}", "s0", f"sa{i // 2}", pool="npu") for i in range(npus)]
    return a_state(nodes, [a_pool(**pool), a_pool("npu", ASCEND)])  # type: ignore[arg-type]


def a_mix(pipeline: int = 4, data: int = 2, **changes: object) -> GangDemand:
    """Tensor 2, one worker of 2 devices per tensor group."""
    cut = Parallelism(tensor=2, pipeline=pipeline, data=data, global_batch_size=8 * data)
    fields: dict[str, object] = {"pools": ("dcu", "npu"), "mix": "Stages", "model": MODEL, "parallelism": cut}
    return a_gang(workers=pipeline * data, devices=2, **{**fields, **changes})


@given(seeds)
@settings(max_examples=120, deadline=None)
def test_every_mix_keeps_its_promises(seed: int) -> None:
    state, demand = a_random_mix(random.Random(seed), 8)
    snapshot = state.snapshot()
    result = place(snapshot, demand)
    if isinstance(result, Unplaceable):
        assert result.mix is not None
        assert result.nearest in result.pools
        return
    check_placement(snapshot, demand, result)
    assert result.predicted is not None
    assert result.predicted.fits
    if not result.stages:
        return
    assert demand.parallelism is not None
    assert demand.model is not None
    cut = demand.parallelism
    assert len(result.stages) == cut.pipeline
    assert sum(stage.layers for stage in result.stages) == demand.model.layers
    assert all(len(stage.chunks) == cut.interleave and min(stage.chunks) >= 1 for stage in result.stages)
    # Device ranks of a stage are neighbours, all of them in its pool.
    pools = [worker.pool for worker in result.workers for _ in worker.devices]
    each = len(pools) // cut.pipeline
    assert pools == [stage.pool for stage in result.stages for _ in range(each)]
    step = result.predicted
    assert isinstance(step, MixedStepTime)
    assert all(one.memory_limit is None or one.memory_bytes <= one.memory_limit for one in step.stages)
    assert max(range(cut.pipeline), key=lambda i: step.stages[i].seconds) == step.slowest
    assert result.pool == ",".join(dict.fromkeys(stage.pool for stage in result.stages))


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_same_mix_whatever_the_order_of_nodes_and_freeing_restores(seed: int) -> None:
    state, demand = a_random_mix(random.Random(seed), 8)
    before = state.snapshot()
    result = place(before, demand)
    twin, _ = a_random_mix(random.Random(seed), 8)
    for node in random.Random(seed + 1).sample(nodes := list(twin._nodes.values()), len(nodes)):
        twin.remove_node(node.name)
        twin.snapshot()
        twin.apply_node(node)
    other = place(twin.snapshot(), demand)
    if isinstance(result, Unplaceable):
        assert other == result == place(before, demand)
        return
    assert isinstance(other, Placement)
    assert (other.workers, other.runners_up, other.stages) == (result.workers, result.runners_up, result.stages)
    state.claim(demand.key, result, demand.request)
    after = state.snapshot()
    held = after.holders[demand.key]
    for pool in after.pools:
        mine = sum(len(worker.devices) for worker in result.workers if worker.pool == pool.name)
        assert held.devices_in(pool.name) == after.held(pool.name, "default") == mine
        assert after.holders_in(pool.name).get(demand.key, 0) == mine
    planned = with_claim(before, result, demand)
    assert same(replace(planned, generation=0), replace(after, generation=0))
    work = Work(after)
    work.release(demand.key)
    assert np.array_equal(work.live.free, before.free)
    assert np.array_equal(work.live.device_free, before.device_free)
    state._stale = True
    state._generation += 1
    assert same(state.snapshot(), after)
    assert state.release(demand.key)
    assert same(state.snapshot(), before)


def test_layers_follow_the_chips_effective_speed() -> None:
    """Neither pool holds all four stages; the Ascend's stages get more layers than the DCU's."""
    result = place(two_pools(4, 4).snapshot(), a_mix(model=replace(MODEL, layers=48)))
    assert isinstance(result, Placement)
    layers: dict[str, list[int]] = {}
    for stage in result.stages:
        layers.setdefault(stage.pool, []).append(stage.layers)
    assert {name: len(counts) for name, counts in layers.items()} == {"dcu": 2, "npu": 2}
    assert min(layers["npu"]) > max(layers["dcu"])
    said = explain(result, two_pools(4, 4).snapshot(), a_mix())
    assert f"dcu (2 stages, {sum(layers['dcu'])} layers)" in said
    step = result.predicted
    assert isinstance(step, MixedStepTime)
    seconds = [one.seconds for one in step.stages]
    assert max(seconds) <= 1.15 * min(seconds)  # balanced, up to a layer


def test_quota_counts_per_pool() -> None:
    """The namespace may hold 4 devices of the DCU pool: one of its stages; three go to the other pool."""
    state = two_pools(8, 6, quotas=(Quota("default", 0, 4),))
    result = place(state.snapshot(), a_mix())
    assert isinstance(result, Placement)
    assert [stage.pool for stage in result.stages].count("dcu") == 1
    state.claim("default/gpt", result, {})
    assert state.snapshot().held("dcu", "default") == 4
    refused = place(state.snapshot(), replace(a_mix(), key="default/two"))
    assert isinstance(refused, Unplaceable)


def test_one_pool_is_enough_where_it_is_as_fast() -> None:
    """Without other stages to relieve, a gang stays in the pool that has the faster chip."""
    result = place(two_pools(8, 8).snapshot(), a_mix())
    assert isinstance(result, Placement)
    assert result.pools == ("npu",)
    assert any(rival.pool == "npu,dcu" for rival in result.runners_up)


def test_why_there_is_no_mix() -> None:
    few = place(two_pools(2, 3).snapshot(), a_mix())
    assert isinstance(few, Unplaceable)
    assert few.mix is not None
    assert (few.mix.stages, few.mix.fits, few.mix.empty) == (4, (("dcu", 1), ("npu", 1)), 2)
    assert explain(few, two_pools(2, 3).snapshot(), a_mix()) == (
        "needs 8 workers x 2 hygon.com/hcu (16 devices) as 4 pipeline stages; 2 fit over its pools now (dcu 1, npu 1), "
        "2 more are missing; waiting won't help: even empty pools would take only 2 stages; pool dcu: 4 of 4 devices "
        "free, 2 of 8 workers fit, pool npu: 6 of 6 devices free, 3 of 8 workers fit"
    )
    assert not few.possible
    state = two_pools(4, 4)
    state.claim("o/x", place(state.snapshot(), replace(a_mix(), key="o/x")), {})  # type: ignore[arg-type]
    later = place(state.snapshot(), a_mix())
    assert isinstance(later, Unplaceable)
    assert later.possible, "it fits when the other gang ends"
    apart = [a_node(f"d{i}", "s0", "x") for i in range(4)] + [a_node(f"a{i}", "s1", "x", pool="npu") for i in range(4)]
    torn = place(
        a_state(apart, [a_pool(), a_pool("npu", ASCEND)]).snapshot(), a_mix(constraints=required("spine"), slices=())
    )
    assert isinstance(torn, Unplaceable)
    assert torn.mix is not None
    assert torn.mix.code is Reason.TOPOLOGY_PLACEMENT_FAILED
    heavy = place(two_pools(4, 4).snapshot(), a_mix(model=replace(HEAVY, layers=400)))
    assert isinstance(heavy, Unplaceable)
    assert heavy.mix is not None
    assert heavy.code is Reason.OUT_OF_DEVICE_MEMORY
    assert 0 < heavy.mix.held < 400
    said = explain(heavy, two_pools(4, 4).snapshot(), a_mix(model=replace(HEAVY, layers=400)))
    assert f"the devices of the stages hold {heavy.mix.held} of 400 layers" in said
    # Slices of 4 workers end only every second stage.
    sliced = place(two_pools(4, 4).snapshot(), a_mix(slices=(Slice("spine", 4),)))
    assert isinstance(sliced, Placement)
    assert [stage.pool for stage in sliced.stages] in (["npu", "npu", "dcu", "dcu"], ["dcu", "dcu", "npu", "npu"])


def test_interleaved_stages_have_chunks() -> None:
    cut = Parallelism(tensor=2, pipeline=4, data=2, global_batch_size=16, interleave=2)
    result = place(two_pools(4, 4).snapshot(), a_mix(parallelism=cut))
    assert isinstance(result, Placement)
    assert [len(stage.chunks) for stage in result.stages] == [2, 2, 2, 2]
    assert sum(stage.layers for stage in result.stages) == 8
    narrow = place(two_pools(4, 4).snapshot(), a_mix(parallelism=cut, model=replace(MODEL, layers=7)))
    assert isinstance(narrow, Unplaceable)
    assert "7 layers" in (narrow.mix.detail if narrow.mix else "")


@pytest.mark.parametrize("changes", [{"model": None}, {"mix": "None"}, {"pools": ("dcu",)}])
def test_without_stages_a_gang_stays_in_one_pool(changes: dict[str, object]) -> None:
    result = place(two_pools(4, 4).snapshot(), a_mix(**changes))
    assert isinstance(result, Unplaceable)
    assert result.mix is None


def test_a_lost_node_is_replaced_in_its_own_pool() -> None:
    """Every stage keeps its pool and its layers; the new node is in the same spine, and nobody else moves."""
    nodes = [a_node(f"d{i}", f"s{i // 5}", "x") for i in range(10)]
    nodes += [a_node(f"a{i}", f"s{i // 5}", "x", pool="npu") for i in range(10)]
    state = a_state(nodes, [a_pool(), a_pool("npu", ASCEND)])
    demand = a_mix(constraints=required("spine"), model=replace(MODEL, layers=48))
    before = place(state.snapshot(), demand)
    assert isinstance(before, Placement)
    assert set(before.pools) == {"dcu", "npu"}
    state.claim(demand.key, before, demand.request)
    for pool in ("dcu", "npu"):
        lost = next(worker for worker in before.workers if worker.pool == pool)
        after = plan_replacement(state.snapshot(), demand, before, {lost.node})
        assert isinstance(after, Placement), after
        assert after.stages == before.stages
        assert (after.pool, after.level, after.domain) == (before.pool, before.level, before.domain)
        assert [w.pool for w in after.workers] == [w.pool for w in before.workers]
        assert {new.rank for old, new in zip(before.workers, after.workers, strict=True) if old != new} == {lost.rank}
        assert after.predicted is not None
        assert before.predicted is not None
        assert after.predicted.seconds == pytest.approx(before.predicted.seconds, rel=0.05)
    spare = {f"a{i}" for i in (range(5) if before.domain[0] == "s0" else range(5, 10))}
    none = plan_replacement(state.snapshot(), demand, before, spare)
    assert isinstance(none, Unplaceable)
    assert none.nearest.pool == "npu"
