"""A taint that is tolerated for some time only ends its worker at that very time, not when all is looked at next."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from supernode.cluster import nodes
from supernode.cluster.kinds import Json
from supernode.handlers.facts import pod_facts
from supernode.handlers.life import JobFacts, State
from supernode.handlers.lifecycle import decide
from supernode.names import LABEL_ATTEMPT, LABEL_RANK

ADDED = "2026-11-22T12:00:00Z"
ADDED_AT = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def a_node(*taints: Json) -> Json:
    ready = [{"type": "Ready", "status": "True"}]
    return nodes.trim({"metadata": {"name": "n"}, "spec": {"taints": list(taints)}, "status": {"conditions": ready}})


def a_taint(key: str, **more: Any) -> Json:
    return {"key": key, "effect": "NoExecute", "timeAdded": ADDED, **more}


def borne(key: str, seconds: int | None = None) -> Json:
    found: Json = {"key": key, "operator": "Exists", "effect": "NoExecute"}
    return found if seconds is None else {**found, "tolerationSeconds": seconds}


def running(node: Json, tolerations: list[Json], now: float) -> Any:
    labels = {LABEL_RANK: "0", LABEL_ATTEMPT: "0"}
    pod: Json = {"metadata": {"name": "j-worker-0", "uid": "u", "labels": labels}, "spec": {"nodeName": "n"}}
    pod["status"] = {"phase": "Running"}
    facts = pod_facts([pod], lambda name: node, tolerations, now)
    job = JobFacts(workers=1, wanted=1, state=State.RUNNING, placed_attempt=0, started=ADDED_AT)
    return decide(job, facts, now)


def test_the_job_is_looked_at_when_its_patience_ends() -> None:
    node, bears = a_node(a_taint("drain")), [borne("drain", 30)]
    before = running(node, bears, ADDED_AT + 10)
    assert (before.state, before.wake_at) == (State.RUNNING, ADDED_AT + 30)
    after = running(node, bears, ADDED_AT + 30)
    assert after.state is State.RESTARTING
    assert "drain:NoExecute" in after.message


def test_what_is_borne_for_ever_wakes_nobody() -> None:
    decision = running(a_node(a_taint("drain")), [borne("drain")], ADDED_AT + 10)
    assert (decision.state, decision.wake_at) == (State.RUNNING, None)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 100)), max_size=4), st.integers(0, 120)
)
def test_the_first_taint_that_is_borne_no_longer_decides(patience: dict[str, int | None], after: int) -> None:
    node = a_node(*(a_taint(key) for key in patience))
    found = nodes.eviction(node, [borne(key, seconds) for key, seconds in patience.items()], ADDED_AT + after)
    times = [ADDED_AT + seconds for seconds in patience.values() if seconds is not None]
    assert (found.at if found is not None else None) == min(times, default=None)
