"""Pod status from container states: phase and conditions as a kubelet words them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from supernode.local.agent.status import PodFacts, pod_status, qos_class, with_own_conditions

Object = dict[str, Any]
FACTS = PodFacts("127.20.0.9", "127.20.0.1", "T0", True, False, None, "T1")
WAITING: Object = {"waiting": {"reason": "PodInitializing"}}
RUNNING: Object = {"running": {"startedAt": "T0"}}


def ended(code: int) -> Object:
    return {"terminated": {"exitCode": code}}


@dataclass
class View:
    """A container as a status sees it."""

    name: str
    role: str = "main"
    state: Object = field(default_factory=lambda: dict(RUNNING))
    last_state: Object = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restarts: int = 0
    spec: Object = field(default_factory=lambda: {"image": "python"})


def a_pod(**status: Any) -> Object:
    return {"metadata": {"uid": "u"}, "spec": {"containers": []}, "status": status}


def conditions(status: Object) -> dict[str, str]:
    return {entry["type"]: entry["status"] for entry in status["conditions"]}


@pytest.mark.parametrize(
    ("containers", "finished", "phase"),
    [
        ([View("i", "init", WAITING), View("m", state=WAITING)], False, "Pending"),
        ([View("i", "init", ended(0)), View("m", state=WAITING)], False, "Pending"),
        ([View("i", "init", ended(0)), View("m")], False, "Running"),
        ([View("s", "sidecar"), View("m", state=WAITING)], False, "Pending"),
        ([View("s", "sidecar", started=True), View("m")], False, "Running"),
        ([View("m", state=WAITING, last_state=ended(1))], False, "Running"),
        ([View("m", state=ended(0))], False, "Running"),
        ([View("m", state=ended(0))], True, "Succeeded"),
        ([View("m", state=ended(0)), View("n", state=ended(1))], True, "Failed"),
        ([View("s", "sidecar", ended(137)), View("m", state=ended(0))], True, "Succeeded"),
        ([View("i", "init", ended(1)), View("m", state=WAITING)], True, "Failed"),
    ],
)
def test_phase(containers: list[View], finished: bool, phase: str) -> None:
    assert pod_status(a_pod(), containers, replace(FACTS, finished=finished))["phase"] == phase


def test_ready_needs_every_container_and_sidecar() -> None:
    side, main = View("s", "sidecar", started=True, ready=True), View("m", ready=True)
    assert conditions(pod_status(a_pod(), [side, main], FACTS))["Ready"] == "True"
    side.ready = False
    status = pod_status(a_pod(), [side, main], FACTS)
    assert conditions(status)["Ready"] == "False"
    assert "unready status: [s]" in next(c["message"] for c in status["conditions"] if c["type"] == "Ready")


def test_readiness_gates_hold_ready_back_but_not_containers_ready() -> None:
    pod = a_pod()
    pod["spec"]["readinessGates"] = [{"conditionType": "example.org/x"}]
    found = conditions(pod_status(pod, [View("m", ready=True)], FACTS))
    assert (found["ContainersReady"], found["Ready"]) == ("True", "False")
    pod["status"]["conditions"] = [{"type": "example.org/x", "status": "True"}]
    assert conditions(pod_status(pod, [View("m", ready=True)], FACTS))["Ready"] == "True"


def test_a_rejected_pod_is_failed_with_the_reason() -> None:
    facts = replace(FACTS, prepared=False, finished=True, failure=("OutOfcpu", "text"), address="")
    status = pod_status(a_pod(), [], facts)
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "OutOfcpu", "text")
    assert "podIP" not in status


def test_transition_times_change_only_with_the_state_and_other_peoples_conditions_stay() -> None:
    first = pod_status(a_pod(), [View("m")], FACTS)
    other = {"type": "example.org/x", "status": "True"}
    merged = with_own_conditions({"conditions": [other, {"type": "Ready", "status": "stale"}]}, first)
    assert other in merged["conditions"]
    later = replace(FACTS, now="T9")
    same = pod_status({**a_pod(), "status": merged}, [View("m")], later)
    assert {entry["lastTransitionTime"] for entry in same["conditions"]} == {"T1"}
    ready = pod_status({**a_pod(), "status": merged}, [View("m", ready=True)], later)
    times = {entry["type"]: entry["lastTransitionTime"] for entry in ready["conditions"]}
    assert (times["Ready"], times["Initialized"]) == ("T9", "T1")


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"limits": {"hygon.com/hcu": "2"}}, "BestEffort"),
    ],
)
def test_qos_class(resources: Object, expected: str) -> None:
    assert qos_class({"spec": {"containers": [{"name": "c", "resources": resources}]}}) == expected
