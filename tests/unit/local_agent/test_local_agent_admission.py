"""Admission: what a pod asks against what a node has left, with Kubernetes' rule for init containers and sidecars."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.local.agent.admission import pod_requests, refuse

Object = dict[str, Any]
HCU = "hygon.com/hcu"


def a_container(**requests: str) -> Object:
    return {"name": "c", "resources": {"requests": requests}}


def a_pod(*containers: Object, init: list[Object] | None = None, **spec: Any) -> Object:
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers), "initContainers": init or [], **spec}}


def a_node(**allocatable: str) -> Object:
    return {"metadata": {"name": "n", "labels": {"a": "b"}}, "status": {"allocatable": allocatable}}


def a_gang_pod(devices: int) -> Object:
    return a_pod({"name": "c", "resources": {"limits": {HCU: str(devices)}}})


def test_limits_count_as_requests_and_containers_add_up() -> None:
    pod = a_pod(a_container(cpu="1500m"), {"name": "d", "resources": {"limits": {"cpu": "1", HCU: "2"}}})
    assert pod_requests(pod) == {"cpu": 2500, HCU: 2}


def test_sidecars_add_up_and_the_largest_init_container_counts_with_the_sidecars_before_it() -> None:
    sidecar = {**a_container(cpu="1"), "restartPolicy": "Always"}
    assert pod_requests(a_pod(a_container(cpu="2"), init=[sidecar]))["cpu"] == 3000
    assert pod_requests(a_pod(a_container(cpu="2"), init=[sidecar, a_container(cpu="4")]))["cpu"] == 5000
    assert pod_requests(a_pod(a_container(cpu="2"), init=[a_container(cpu="4"), sidecar]))["cpu"] == 4000


def test_overhead_is_added() -> None:
    assert pod_requests(a_pod(a_container(cpu="1"), overhead={"cpu": "100m"}))["cpu"] == 1100


@pytest.mark.parametrize(("running", "asked", "fits"), [(0, 8, True), (1, 8, False), (6, 2, True), (8, 1, False)])
def test_extended_resources_are_honoured(running: int, asked: int, fits: bool) -> None:
    problem = refuse(a_gang_pod(asked), a_node(**{HCU: "8"}), [a_gang_pod(running)])
    assert (problem is None) is fits
    if problem is not None:
        assert problem[0] == f"OutOf{HCU}"
        assert f"requested: {asked}, used: {running}, capacity: 8" in problem[1]


def test_an_extended_resource_that_the_node_never_had_is_not_the_nodes_concern() -> None:
    assert refuse(a_gang_pod(2), a_node(cpu="1"), []) is None


def test_pods_and_node_selector() -> None:
    assert (refuse(a_pod(), a_node(pods="1"), [a_pod()]) or ("", ""))[0] == "OutOfpods"
    assert refuse(a_pod(nodeSelector={"a": "b"}), a_node(), []) is None
    assert (refuse(a_pod(nodeSelector={"a": "c"}), a_node(), []) or ("", ""))[0] == "NodeAffinity"


@given(st.lists(st.integers(0, 5), max_size=12))
def test_admitted_pods_never_exceed_the_node(asked: list[int]) -> None:
    node, admitted = a_node(**{HCU: "8"}), []
    for devices in asked:
        pod = a_gang_pod(devices)
        if refuse(pod, node, admitted) is None:
            admitted.append(pod)
    assert sum(pod_requests(pod)[HCU] for pod in admitted) <= 8
