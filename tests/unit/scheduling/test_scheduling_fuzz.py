"""Wrong input of every kind: a typed error that names object and field, or a right answer; never anything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import BW1000, HCU, MODEL, a_gang, a_group, a_node, a_pool, a_state, held

from supernode.errors import InputError
from supernode.scheduling.cycle import plan_cycle
from supernode.scheduling.demand import GangDemand, LevelConstraint, Slice
from supernode.scheduling.explain import explain
from supernode.scheduling.picture import picture
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement, WorkerPlacement
from supernode.scheduling.preempt import Victim, plan_preemption
from supernode.scheduling.quota import Quota
from supernode.scheduling.state import GroupSpec, NodeInfo, PoolSpec, State
from supernode.scheduling.topology import Level

NASTY = ("", "node", "a/b", "\x00", "\N{SNOWMAN}" * 3, " ", "<x>&\"'", "spine", "a" * 300, "../..", "%s", "{}")
names = st.one_of(st.sampled_from(NASTY), st.text(max_size=8))
odd = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, -1, 64, 65, 2**31, 2**62, 2**63, 2**64]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.none(),
)
sound = st.integers(0, 8)
numbers = st.one_of(sound, sound, odd)
figures = st.one_of(st.sampled_from([1e9, 224e9, 2e-6]), odd)


def told(run: Callable[[], Any]) -> Any:
    """What it gives, or None after an error that names the object."""
    try:
        return run()
    except InputError as exc:
        assert exc.obj, f"no object: {exc}"
        assert exc.field or "held" in exc.message or "holds" in exc.message, f"no field: {exc}"
        return None


@st.composite
def a_wild_state(draw: st.DrawFn) -> State:
    """A cluster of which any number may be anything."""
    state = State()
    levels = tuple(
        Level(draw(names), draw(figures), draw(figures)) for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3, 17])))
    )
    told(lambda: state.set_group(GroupSpec("scalex", levels)))
    told(lambda: state.set_group(a_group("sound")))
    quotas = tuple(Quota(draw(names), draw(numbers), draw(numbers)) for _ in range(draw(st.integers(0, 2))))
    pool = PoolSpec(
        draw(st.sampled_from(["dcu", "dcu", ""])),
        BW1000,
        HCU,
        draw(st.booleans()),
        draw(numbers),
        draw(figures),
        draw(figures),
        quotas,
    )
    told(lambda: state.set_pool(pool))
    if draw(st.booleans()):
        told(lambda: state.set_pool(a_pool()))
    for index in range(draw(st.integers(0, 4))):
        capacity = {"cpu": draw(numbers), HCU: draw(numbers), "pods": draw(sound), draw(names): draw(numbers)}
        labels = tuple(draw(st.one_of(st.none(), names)) for _ in range(draw(st.integers(0, 3))))
        groups: dict[str, tuple[str | None, ...]] = {"scalex": labels, "sound": (draw(names), draw(names))}
        unhealthy = draw(st.one_of(st.just(0), numbers))
        node = NodeInfo(f"n{index}", capacity, draw(st.booleans()), "dcu", groups, unhealthy)
        told(lambda node=node: state.apply_node(node))
    for index in range(draw(st.integers(0, 2))):
        told(lambda index=index: state.add_foreign(f"p{index}", "n0", {draw(names): draw(numbers), HCU: draw(numbers)}))
    return state


@st.composite
def a_wild_gang(draw: st.DrawFn) -> GangDemand | None:
    """A gang of which any number may be anything; None if it was refused."""
    fields: dict[str, Any] = {
        "key": f"a/{draw(names)}",
        "pools": tuple(draw(st.lists(st.sampled_from(["dcu", "", "nowhere"]), max_size=2))),
        "workers": draw(numbers),
        "devices": draw(numbers),
        "request": {draw(names): draw(numbers)},
        "min_count": draw(st.one_of(st.none(), numbers)),
        "constraints": tuple(LevelConstraint(draw(names), draw(st.booleans())) for _ in range(draw(st.integers(0, 2)))),
        "slices": tuple(Slice(draw(names), draw(numbers)) for _ in range(draw(st.sampled_from([0, 0, 1, 2])))),
        "priority": draw(st.one_of(st.just(0), odd)),
        "created": draw(st.one_of(st.just(0.0), odd)),
        "seconds": draw(st.one_of(st.none(), odd)),
        "model": draw(st.sampled_from([None, MODEL])),
    }
    result: GangDemand | None = told(lambda: GangDemand(**fields))
    return result


@settings(max_examples=300, deadline=None)
@given(a_wild_state(), st.lists(a_wild_gang(), min_size=1, max_size=3))
def test_anything_gets_an_answer_or_a_typed_error(state: State, gangs: list[GangDemand | None]) -> None:
    snapshot = state.snapshot()
    unique = {gang.key: gang for gang in gangs if gang is not None}
    assert picture(snapshot, None)
    for gang in unique.values():
        result = place(snapshot, gang)
        assert explain(result, snapshot, gang)
        plan_preemption(snapshot, gang, [Victim("nobody/x", 0)])
        if isinstance(result, Placement):
            assert picture(snapshot, result)
    for decision in plan_cycle(snapshot, unique.values()):
        assert explain(decision.result, decision.snapshot, decision.demand)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(odd, names, names, st.lists(st.one_of(sound, odd), max_size=3)), max_size=4))
def test_a_status_of_any_kind(rows: list[tuple[Any, str, str, list[Any]]]) -> None:
    """What stands in a job's status may have been written by anybody."""
    workers = [
        WorkerPlacement(index if isinstance(rank, bool) else rank, node, pool, tuple(devices))
        for index, (rank, node, pool, devices) in enumerate(rows)
    ]
    placement = told(lambda: Placement.of("a/x", workers))
    if placement is not None:
        state = a_state()
        told(lambda: state.claim("a/x", placement, {"cpu": 1}))
        state.snapshot()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 1.5, True, None, 2**80, "8"])
def test_numbers_that_no_pool_node_or_group_can_have(value: Any) -> None:
    for make, where in (
        (lambda: a_state(pools=[a_pool(devices=value)]), "AcceleratorPool dcu: spec.devicesPerNode"),
        (
            lambda: a_state(pools=[a_pool(quotas=(Quota("a", value),))]),
            "AcceleratorPool dcu: spec.quotas[0].guaranteed",
        ),
        (lambda: a_state([a_node("n", unhealthy=value)]), "Node n: unhealthy"),
        (lambda: a_state([a_node("n", capacity={"cpu": value})]), "Node n: status.allocatable.cpu"),
        (lambda: a_gang(workers=value), "TrainingJob default/gpt: spec.workers"),
        (lambda: a_gang(devices=value), "TrainingJob default/gpt: spec.acceleratorsPerWorker"),
        (lambda: a_state().claim("a/x", held("a/x", ("dcu-0", (0,))), {"cpu": value}), "TrainingJob a/x: request cpu"),
        (lambda: a_state().add_foreign("u", "dcu-0", {"cpu": value}), "Pod u: request cpu"),
    ):
        if value == 2**80 and "request" in where:
            make()  # booked as the most that fills any node
            continue
        with pytest.raises(InputError) as caught:
            make()
        assert str(caught.value).startswith(where), where


def test_a_domain_can_not_be_inside_itself() -> None:
    """Labels that seem to go round in a circle: paths make the tree, so a name may come again anywhere in it."""
    levels = (Level("a", 1e9, 0.0), Level("b", 1e9, 0.0))
    state = a_state(
        [a_node("n0", "x", "y"), a_node("n1", "y", "x"), a_node("n2", "x", "x")], groups=[a_group(levels=levels)]
    )
    (topology,) = state.snapshot().topologies
    assert [topology.path(1, domain) for domain in range(3)] == [("x", "x"), ("x", "y"), ("y", "x")]


def test_thousands_of_levels_are_refused_at_once() -> None:
    levels = tuple(Level(f"level-{index}", 1e9, 0.0) for index in range(5000))
    with pytest.raises(InputError, match=r"SuperNodeGroup scalex: spec.levels: needs 1 to 16 levels, found 5000"):
        a_state(groups=[a_group(levels=levels)])
