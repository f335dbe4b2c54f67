"""The runner-up places of every level and pool that could hold a gang, with their step times."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduling.clusters import (
    ASCEND,
    MODEL,
    a_gang,
    a_node,
    a_pool,
    a_random_gang,
    a_random_state,
    a_state,
    preferred,
    required,
)

from supernode.scheduling.place import RUNNERS_UP, place
from supernode.scheduling.placement import Placement
from supernode.scheduling.quota import Quota
from supernode.scheduling.rivals import survey
from supernode.scheduling.state import State


def two_spines(**pool: object) -> State:
    """Two spines of two super-nodes of two nodes, and four nodes of another chip."""
    nodes = [a_node(f"n{i}", f"spine-{i // 4}", f"sn-{i // 2}") for i in range(8)]
    nodes += [a_node(f"a{i}", "spine-0", "an-0", pool="npu") for i in range(4)]
    return a_state(nodes, [a_pool(**pool), a_pool("npu", ASCEND)])  # type: ignore[arg-type]


def test_every_level_and_pool_is_listed() -> None:
    """The gang fits one super-node; said is what spreading it over a spine would cost, and what the other chip is."""
    snapshot = two_spines().snapshot()
    demand = a_gang(model=MODEL, pools=("dcu", "npu"), constraints=preferred("supernode"))
    chosen = place(snapshot, demand)
    assert isinstance(chosen, Placement)
    assert (chosen.pool, chosen.level) == ("npu", "supernode")
    full = survey(snapshot, demand, chosen)
    assert (full.workers, full.predicted) == (chosen.workers, chosen.predicted)
    kinds = {(rival.pool, rival.level) for rival in full.runners_up}
    assert kinds == {("dcu", "supernode"), ("dcu", "spine")}
    assert len(full.runners_up) <= RUNNERS_UP
    times = [rival.seconds for rival in full.runners_up]
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]
    assert chosen.predicted is not None
    assert times[0] is not None
    assert times[0] > chosen.predicted.seconds
    spread = next(rival for rival in full.runners_up if rival.level == "spine")
    packed = next(rival for rival in full.runners_up if rival.level == "supernode")
    assert spread.seconds is not None
    assert packed.seconds is not None
    assert spread.seconds > packed.seconds


def test_only_what_the_wishes_and_the_quota_allow() -> None:
    snapshot = two_spines(quotas=(Quota("default", 0, 2),)).snapshot()
    demand = a_gang(model=MODEL, pools=("npu", "dcu"), constraints=required("supernode"))
    chosen = place(snapshot, demand)
    assert isinstance(chosen, Placement)
    assert survey(snapshot, demand, chosen).runners_up == ()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_no_rival_is_faster(seed: int) -> None:
    """What the search passed over in favour of another place was not faster by more than equals may differ."""
    dice = random.Random(seed)
    state = a_random_state(dice, 8)
    snapshot = state.snapshot()
    demand = a_random_gang(dice, snapshot.topologies[0].levels)
    chosen = place(snapshot, demand)
    if not isinstance(chosen, Placement):
        return
    full = survey(snapshot, demand, chosen)
    assert full == survey(snapshot, demand, chosen) or full.runners_up == survey(snapshot, demand, chosen).runners_up
    assert len(full.runners_up) <= RUNNERS_UP
    assert (chosen.pool, chosen.level, chosen.domain) not in {(r.pool, r.level, r.domain) for r in full.runners_up}
    for rival in full.runners_up:
        if rival.seconds is not None and chosen.predicted is not None:
            assert rival.seconds >= chosen.predicted.seconds * (1 - 2e-3)
