"""What a failure means: every kind of it, and the rules against a table of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.handlers.failure import failures, judge
from supernode.handlers.life import Action, JobFacts, PodFacts, Rule, RunPolicy, State

NOW = 1000.0
RUNNING = JobFacts(workers=2, wanted=2, state=State.RUNNING, placed_attempt=0, started=NOW)


def a_pod(rank: int, phase: str = "Running", **more: object) -> PodFacts:
    return PodFacts(f"j-worker-{rank}", f"uid-{rank}", rank, 0, phase=phase, node=f"n{rank}", **more)  # type: ignore[arg-type]


# What is wrong with a pod -> (reason, whether its node is to blame, a part of the sentence).
KINDS = [
    ({"phase": "Failed", "exit_code": 3, "message": "boom"}, "Error", False, "failed with exit code 3: boom"),
    ({"phase": "Failed", "reason": "Evicted"}, "Evicted", False, "failed (Evicted)"),
    ({"broken": True, "reason": "OOMKilled", "exit_code": 137}, "OOMKilled", False, "exit code 137 (OOMKilled)"),
    ({"node_gone": True}, "NodeGone", True, "node n1 is no longer in the cluster"),
    ({"node_lost": True, "lost_at": NOW - 60}, "NodeLost", True, "not been ready for 60 s"),
    ({"node_lost": True, "deleting": True, "lost_at": NOW}, "NodeLost", True, "its pod was evicted"),
    ({"evicted_by": "broken=fan:NoExecute"}, "NodeTainted", True, "the taint broken=fan:NoExecute"),
    ({"sick": "device 3 of it is unhealthy"}, "DeviceUnhealthy", True, "node n1: device 3 of it is unhealthy"),
    ({"deleting": True}, "PodDeleted", False, "is being deleted"),
    ({"deleting": True, "broken": True, "exit_code": 1}, "Error", False, "failed with exit code 1"),
    ({"deleting": True, "broken": True, "exit_code": 1, "stopped": True}, "PodDeleted", False, "is being deleted"),
    ({"deleting": True, "phase": "Failed", "exit_code": 1, "stopped": True}, "PodDeleted", False, "is being deleted"),
    (
        {"deleting": True, "phase": "Failed", "exit_code": 143, "stopped": True, "evicted_by": "x:NoExecute"},
        "NodeTainted",
        True,
        "the taint x:NoExecute",
    ),
]


@pytest.mark.parametrize(("wrong", "reason", "blamed", "words"), KINDS)
def test_every_kind_of_failure(wrong: dict[str, object], reason: str, blamed: bool, words: str) -> None:
    pods = {0: a_pod(0), 1: a_pod(1, **wrong)}  # type: ignore[arg-type]
    (found,) = failures(RUNNING, pods, NOW)
    assert (found.rank, found.reason) == (1, reason)
    assert found.node == ("n1" if blamed else "")
    assert words in found.message
    verdict = judge(RUNNING, pods, NOW)
    assert verdict is not None
    assert (verdict.action, verdict.nodes) == (Action.COUNT, ("n1",) if blamed else ())


@pytest.mark.parametrize(
    "fine",
    [
        {},
        {"node_lost": True, "lost_at": NOW - 59},
        {"phase": "Succeeded", "node_gone": True},
        {"phase": "Succeeded", "deleting": True, "stopped": True},
    ],
)
def test_what_is_no_failure(fine: dict[str, object]) -> None:
    assert judge(RUNNING, {0: a_pod(0), 1: a_pod(1, **fine)}, NOW) is None  # type: ignore[arg-type]


def test_a_program_that_was_told_to_stop_has_not_failed_by_its_exit_code() -> None:
    policy = RunPolicy(by_exit_code=True, rules=(Rule(Action.IGNORE, reasons=frozenset({"PodDeleted"})),))
    for stopped, rules, action, by_rule in [
        (True, policy.rules, Action.IGNORE, True),
        (True, (), Action.COUNT, False),
        (False, policy.rules, Action.FAIL, False),
    ]:
        pod = a_pod(0, "Failed", deleting=True, exit_code=1, stopped=stopped)
        verdict = judge(replace(RUNNING, workers=1, policy=replace(policy, rules=rules)), {0: pod}, NOW)
        assert verdict is not None
        assert (verdict.action, verdict.by_rule) == (action, by_rule)


def test_several_nodes_at_once_are_all_to_blame() -> None:
    verdict = judge(RUNNING, {0: a_pod(0, node_gone=True), 1: a_pod(1, evicted_by="x:NoExecute")}, NOW)
    assert verdict is not None
    assert verdict.nodes == ("n0", "n1")
    assert verdict.message.startswith("worker 0 is lost")
    assert verdict.message.endswith("(and 1 more)")


def test_the_gravest_failure_decides() -> None:
    rules = (
        Rule(Action.IGNORE, reasons=frozenset({"OOMKilled"})),
        Rule(Action.FAIL, codes=frozenset({42})),
    )
    job = replace(RUNNING, workers=3, policy=RunPolicy(rules=rules))
    ignored = a_pod(0, "Failed", reason="OOMKilled", exits=(("c", 137),))
    counted, fatal = a_pod(1, "Failed", exits=(("c", 1),)), a_pod(2, "Failed", exits=(("c", 42),))
    for pods, action, rank in [
        ([ignored], Action.IGNORE, 0),
        ([ignored, counted], Action.COUNT, 1),
        ([ignored, counted, fatal], Action.FAIL, 2),
    ]:
        verdict = judge(job, {pod.rank: pod for pod in [a_pod(0), a_pod(1), a_pod(2), *pods]}, NOW)
        assert verdict is not None
        assert verdict.action is action
        assert f"worker {rank}" in verdict.message


def expected(
    rules: list[Rule], code: int, container: str, reason: str, conditions: frozenset[tuple[str, str]]
) -> Action:
    """Kubernetes' description of a pod failure policy, once more."""
    for rule in rules:
        if rule.codes:
            named = rule.container == "" or rule.container == container
            inside = code in rule.codes
            if named and code != 0 and (not inside if rule.outside else inside):
                return rule.action
        elif reason in rule.reasons or any(each in rule.conditions for each in conditions):
            return rule.action
    return Action.COUNT


ACTIONS = st.sampled_from(list(Action))
CODES = st.sampled_from([1, 2, 137])
CONDITIONS = st.frozensets(
    st.tuples(st.sampled_from(["Ready", "DisruptionTarget"]), st.sampled_from(["True", "False"]))
)
RULES = st.one_of(
    st.builds(
        Rule,
        ACTIONS,
        codes=st.frozensets(CODES, min_size=1),
        outside=st.booleans(),
        container=st.sampled_from(["", "trainer", "logger"]),
    ),
    st.builds(Rule, ACTIONS, reasons=st.frozensets(st.sampled_from(["OOMKilled", "Error"]), min_size=1)),
    st.builds(Rule, ACTIONS, conditions=CONDITIONS.filter(bool)),
)


@given(
    st.lists(RULES, max_size=4),
    st.one_of(st.just(0), CODES),
    st.sampled_from(["trainer", "logger"]),
    st.sampled_from(["OOMKilled", "Error", "Evicted"]),
    CONDITIONS,
)
def test_the_first_rule_that_matches_decides(
    rules: list[Rule], code: int, container: str, reason: str, conditions: frozenset[tuple[str, str]]
) -> None:
    job = replace(RUNNING, workers=1, policy=RunPolicy(rules=tuple(rules)))
    pod = a_pod(0, "Failed", reason=reason, exits=((container, code),), conditions=conditions)
    verdict = judge(job, {0: pod}, NOW)
    assert verdict is not None
    assert verdict.action is expected(rules, code, container, reason, conditions)
