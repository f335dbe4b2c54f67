"""The small controllers' decisions, by themselves: shares, hashes, tolerations, and why a node can't take a pod."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from supernode.local.controllers.deployments import _share, template_hash
from supernode.local.controllers.nodelife import NOT_READY, UNREACHABLE, tolerated_seconds, tolerates
from supernode.local.controllers.replicasets import is_active, is_available, is_ready
from supernode.local.controllers.scheduler import _problem

Object = dict[str, Any]


@pytest.mark.parametrize(
    ("value", "whole", "up", "expected"),
    [
        ("25%", 3, True, 1),
        ("25%", 3, False, 0),
        ("25%", 4, True, 1),
        ("100%", 5, False, 5),
        (2, 1, True, 2),
        ("0%", 9, True, 0),
    ],
)
def test_shares_round_surge_up_and_unavailable_down(value: int | str, whole: int, up: bool, expected: int) -> None:
    assert _share(value, whole, up=up) == expected


def test_equal_templates_have_equal_hashes() -> None:
    assert template_hash({"a": 1, "b": 2}) == template_hash({"b": 2, "a": 1})
    assert template_hash({"a": 1}) != template_hash({"a": 2})


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v", "effect": "NoExecute"}, False),
        ({"key": "k"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({}, False),
    ],
)
def test_tolerations(toleration: Object, expected: bool) -> None:
    assert tolerates(toleration, {"key": "k", "value": "v", "effect": "NoSchedule"}) is expected


def test_how_long_a_pod_stays_on_a_lost_node() -> None:
    taint = {"key": UNREACHABLE, "effect": "NoExecute"}

    def seconds(*tolerations: Object) -> float:
        return tolerated_seconds({"spec": {"tolerations": list(tolerations)}}, taint)

    forever = {"key": UNREACHABLE, "operator": "Exists"}
    assert seconds() == 300
    assert seconds(forever) == float("inf")
    assert seconds(forever, {**forever, "tolerationSeconds": 5}) == 5
    assert tolerated_seconds({"spec": {}}, {"key": "mine", "effect": "NoExecute"}) == 0
    assert tolerated_seconds({"spec": {}}, {"key": NOT_READY, "effect": "NoExecute"}) == 300


def a_node(labels: Object | None = None, **spec: Any) -> Object:
    return {"metadata": {"labels": labels or {}}, "spec": spec, "status": {"allocatable": {"cpu": "2", "pods": "2"}}}


def a_pod(cpu: str = "1", **spec: Any) -> Object:
    return {"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}], **spec}}


@pytest.mark.parametrize(
    ("pod", "node", "used", "problem"),
    [
        (a_pod(), a_node(), {}, None),
        (a_pod("3"), a_node(), {}, "Insufficient cpu (3 asked, 2 free)"),
        (a_pod(), a_node(), {"cpu": 1500}, "Insufficient cpu (1 asked, 500m free)"),
        (a_pod(), a_node(), {"pods": 2}, "Insufficient pods (1 asked, 0 free)"),
        (a_pod(), a_node(unschedulable=True), {}, "node(s) were unschedulable"),
        (a_pod(nodeSelector={"a": "b"}), a_node(), {}, "node(s) didn't match Pod's node selector"),
        (a_pod(nodeSelector={"a": "b"}), a_node({"a": "b"}), {}, None),
        (a_pod(), a_node(taints=[{"key": "k", "effect": "NoSchedule"}]), {}, "node(s) had untolerated taint {k: }"),
        (a_pod(), a_node(taints=[{"key": "k", "effect": "PreferNoSchedule"}]), {}, None),
        (
            a_pod(tolerations=[{"key": "k", "operator": "Exists"}]),
            a_node(taints=[{"key": "k", "effect": "NoSchedule"}]),
            {},
            None,
        ),
    ],
)
def test_why_a_node_cannot_take_a_pod(pod: Object, node: Object, used: Object, problem: str | None) -> None:
    assert _problem(pod, node, Counter(used)) == problem


def test_what_counts_of_a_pod() -> None:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    pod: Object = {"metadata": {}, "status": {"phase": "Running", "conditions": [ready]}}
    assert is_active(pod)
    assert is_ready(pod)
    assert is_available(pod, 60)
    assert not is_available(pod, 10**12)
    assert not is_active({**pod, "status": {"phase": "Failed"}})
    assert not is_active({**pod, "metadata": {"deletionTimestamp": "x"}})
    assert not is_ready({**pod, "status": {}})
