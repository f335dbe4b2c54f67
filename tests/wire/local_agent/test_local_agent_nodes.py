"""Nodes: what others write into their status stays, and is honoured; logs through kubectl; default scheduling."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.wire.local_agent.cluster import Namespace, until

Object = dict[str, Any]
HCU = "hygon.com/hcu"
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


def a_container(devices: int, script: str = "sleep 99") -> Object:
    limits = {HCU: str(devices)} if devices else {}
    return {"name": "c", "image": "python", "command": ["sh", "-c", script], "resources": {"limits": limits}}


async def test_nodes_look_like_a_kubelets(namespace: Namespace) -> None:
    node = await namespace.client.get("/api/v1/nodes/node-0")
    status = node["status"]
    conditions = {entry["type"]: entry["status"] for entry in status["conditions"]}
    assert conditions == {"Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
    assert status["capacity"]["cpu"] == status["allocatable"]["cpu"] == "8"
    assert status["addresses"][0]["type"] == "InternalIP"
    assert node["metadata"]["labels"]["half"] == "h0"
    lease = await namespace.client.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-0")
    renewed = datetime.fromisoformat(lease["spec"]["renewTime"].replace("Z", "+00:00"))
    assert (datetime.now(UTC) - renewed).total_seconds() < 40


async def test_extended_resources_stay_become_allocatable_and_are_honoured(namespace: Namespace) -> None:
    path = "/api/v1/nodes/node-1"
    await namespace.client.patch(f"{path}/status", {"status": {"capacity": {HCU: "2"}}})

    async def mirrored() -> bool:
        return (await namespace.client.get(path))["status"]["allocatable"].get(HCU) == "2"

    await until(mirrored)
    await namespace.run("fits", a_container(2), nodeName="node-1")
    await namespace.until_phase("fits", "Running")
    await namespace.run("over", a_container(1), nodeName="node-1")
    pod = await namespace.until_phase("over", "Failed")
    assert pod["status"]["reason"] == f"OutOf{HCU}"
    assert "requested: 1, used: 2, capacity: 2" in pod["status"]["message"]
    await namespace.delete("fits", gracePeriodSeconds=1)
    await namespace.until_gone("fits")
    await namespace.run("next", a_container(1), nodeName="node-1")
    await namespace.until_phase("next", "Running")
    node = await namespace.client.get(path)
    assert node["status"]["capacity"][HCU] == "2"
    await namespace.client.patch(f"{path}/status", {"status": {"capacity": {HCU: None}}})


async def test_a_pod_without_node_is_scheduled_where_its_selector_says(namespace: Namespace) -> None:
    await namespace.run("p", a_container(0), nodeName=None, nodeSelector={"half": "h1"})
    pod = await namespace.until_phase("p", "Running")
    assert pod["spec"]["nodeName"] == "node-1"
    await namespace.run("q", a_container(0), nodeName=None, nodeSelector={"half": "none"})
    pod = await namespace.until("q", lambda pod: pod["status"].get("conditions"))
    assert pod["status"]["conditions"][0]["reason"] == "Unschedulable"
    assert "0/2 nodes" in pod["status"]["conditions"][0]["message"]


async def test_logs_through_kubectl(namespace: Namespace, kubectl: Kubectl) -> None:
    await namespace.run("p", a_container(0, "for i in 1 2 3; do echo line $i; sleep 0.3; done"), restartPolicy="Never")
    await namespace.until("p", lambda pod: (pod["status"].get("containerStatuses") or [{}])[0].get("containerID"))
    place = ("-n", namespace.name)
    follow = await asyncio.to_thread(kubectl, "logs", "-f", "p", *place)
    assert follow.stdout == "line 1\nline 2\nline 3\n", follow.stderr
    tail = await asyncio.to_thread(kubectl, "logs", "p", "--tail=1", "--timestamps", *place)
    assert tail.stdout.split(" ", 1)[1] == "line 3\n"
    assert tail.stdout.startswith(str(datetime.now(UTC).year))
    wrong = await asyncio.to_thread(kubectl, "logs", "p", "--previous", *place)
    assert wrong.returncode == 1
    assert "previous" in wrong.stderr
    described = await asyncio.to_thread(kubectl, "describe", "pod", "p", *place)
    assert "Started container c" in described.stdout


async def test_a_deployment_rolls_out_and_replaces_and_its_service_complains_of_nothing(namespace: Namespace) -> None:
    service = {"clusterIP": "None", "selector": {"app": "d"}}
    await namespace.create("services", {"kind": "Service", "metadata": {"name": "s"}, "spec": service})
    deployments = f"/apis/apps/v1/namespaces/{namespace.name}/deployments"
    template = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [a_container(0)]}}
    body = {
        "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "d"}}, "template": template},
    }
    await namespace.client.create(deployments, {"apiVersion": "apps/v1", "kind": "Deployment", **body})

    async def available(generation: int) -> Object:
        deployment: Object = {}

        async def check() -> bool:
            nonlocal deployment
            deployment = await namespace.client.get(f"{deployments}/d")
            status = deployment.get("status") or {}
            counts = [status.get(key) for key in ("replicas", "updatedReplicas", "availableReplicas")]
            return counts == [2, 2, 2] and status.get("observedGeneration", 0) >= generation

        await until(check, 60)
        return deployment

    first = await available(1)
    assert {entry["type"]: entry["status"] for entry in first["status"]["conditions"]}["Available"] == "True"
    change = {"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}}
    changed = await namespace.client.patch(f"{deployments}/d", change)
    await available(changed["metadata"]["generation"])
    pods = (await namespace.client.get(f"{namespace.path}/pods"))["items"]
    fresh = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    assert [pod["metadata"]["annotations"]["a"] for pod in fresh] == ["b", "b"]
    # A real server refuses endpoints on loopback addresses: nobody may try to make them.
    assert await namespace.events("s") == {}
    await namespace.client.delete(f"{deployments}/d", {"propagationPolicy": "Background"})

    async def empty() -> bool:
        return not (await namespace.client.get(f"{namespace.path}/pods"))["items"]

    await until(empty, 60)
