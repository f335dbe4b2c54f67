"""Nobody stops for a gang whose namespace may not run it: it is asked for before others are."""

from __future__ import annotations

import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import NAMESPACES, RESOURCE
from tests.wire.security.conftest import Two

from supernode.cluster.kinds import JOBS, PODS, RESOURCE_QUOTAS, SERVICES, Json
from supernode.cluster.resourcequota import shortage
from supernode.errors import ForbiddenError

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(180)]


async def until_refused(two: Two, name: str, *words: str) -> Json:
    """The job's condition, once it says that its pods would be refused, and in which words."""

    def said(status: Json) -> bool:
        found = [c for c in status.get("conditions", []) if c["type"] == "Scheduled" and c["reason"] == "PodsRefused"]
        return bool(found) and all(word in found[0]["message"] for word in words)

    status = await two.lab.until_status(name, f"would be refused: {words}", said)
    assert "nomination" not in status
    return status


async def test_nobody_gives_way_for_pods_that_would_be_refused(two: Two) -> None:
    """By Pod Security, by a quota that has room for some of the gang only, and by a name that is taken."""
    lab, client = two.lab, two.lab.client
    high = {"scheduling": {"priorityClassName": await lab.add_class("high", 1000)}}
    quick = {"runPolicy": {"checkpointSeconds": 1}}
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    await client.patch(NAMESPACES, lab.namespace, {"metadata": {"labels": labels}})
    lab.operator()
    await two.add_job("theirs", workers=4, **quick)
    before = await two.until_state("theirs", "Running")
    container = {"name": "trainer", "image": "python:3"}
    breaks_out = {"spec": {"hostNetwork": True, "containers": [container]}}
    await lab.add_job("host", workers=1, template=breaks_out, **high)
    told = await until_refused(two, "host", "worker 0 would be refused", "violates PodSecurity", "hostNetwork=true")
    assert len(told["message"]) <= 1024
    assert "requeues" not in told
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "named"}, "spec": {"clusterIP": "None"}}
    await client.create(SERVICES, service, lab.namespace)
    await lab.add_job("named", workers=1, **high)
    await until_refused(two, "named", "Service named is there already and is not this job's")
    # Nothing is left of what was asked.
    assert (await client.list_page(PODS, lab.namespace))["items"] == []
    for name in ("host", "named"):
        await client.delete(JOBS, name, lab.namespace)
    hard = {f"requests.{RESOURCE}": "6", "pods": "10"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "compute"}, "spec": {"hard": hard}}
    await client.create(RESOURCE_QUOTAS, quota, lab.namespace)
    # As the controller manager does, which does not run here.
    status = {"status": {"hard": hard, "used": {f"requests.{RESOURCE}": "0", "pods": "0"}}}
    await client.patch(RESOURCE_QUOTAS, "compute", status, lab.namespace, subresource="status")
    await lab.add_job("large", workers=4, **high, **quick)
    await until_refused(two, "large", f"leaves room for 3 of 4 workers: each needs requests.{RESOURCE} 2, and 0 of 6")
    after = await client.get(JOBS, "theirs", two.other)
    assert "disruption" not in after["status"]
    assert after["status"]["placement"] == before["status"]["placement"]
    events = [event["message"] for event in await two.events(two.other) if event["reason"] == "CheckpointRequested"]
    assert events == []
    # Allowed, it is tried again by itself.
    await client.delete(RESOURCE_QUOTAS, "compute", lab.namespace)
    await lab.until_state("large", "Running", seconds=90)
    await two.until_state("theirs", "Waiting")


async def test_nobody_moves_for_pods_that_would_be_refused(two: Two) -> None:
    lab, client = two.lab, two.lab.client
    lab.operator()
    for index in range(4):
        await two.add_job(f"small-{index}", workers=1)
        await two.until_state(f"small-{index}", "Running")
    by_node = {}
    for index in range(4):
        job = await client.get(JOBS, f"small-{index}", two.other)
        by_node[workers_in(job["status"]["placement"])[0]["node"]] = f"small-{index}"
    for node in (lab.nodes[0], lab.nodes[2]):
        lab.kubelet.endings[f"{by_node[node]}-worker-0"] = 0
        await two.until_state(by_node[node], "Succeeded")
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    await client.patch(NAMESPACES, lab.namespace, {"metadata": {"labels": labels}})
    together: Json = {"constraints": {"topology": [{"level": "supernode", "mode": "Required"}]}}
    container = {"name": "trainer", "image": "python:3"}
    template = {"spec": {"hostNetwork": True, "containers": [container]}}
    await lab.add_job("wide", workers=2, scheduling=together, template=template)
    await lab.until_state("wide", "Waiting")
    asked = {"metadata": {"annotations": {"supernode.dev/defragment": "4"}}}
    await client.patch(JOBS, "wide", asked, lab.namespace)
    await until_refused(two, "wide", "violates PodSecurity")

    async def said() -> list[str]:
        return [e["message"] for e in await two.events(lab.namespace) if e["reason"] == "NotDefragmented"]

    assert "violates PodSecurity" in (await lab.until("the asker is told", said))[0]
    for name in by_node.values():
        assert "disruption" not in (await client.get(JOBS, name, two.other))["status"]


ASKS = {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi", RESOURCE: "2"}}
SELECTOR = {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}]}
ELSEWHERE = {"scopeName": "PriorityClass", "operator": "NotIn", "values": ["system-node-critical"]}
# A quota's spec -> how many pods that ask for `ASKS` it lets in.
QUOTAS = {
    "pods": ({"hard": {"pods": "2"}}, 2),
    "count": ({"hard": {"count/pods": "1"}}, 1),
    "accelerators": ({"hard": {f"requests.{RESOURCE}": "5"}}, 2),
    "processor": ({"hard": {"cpu": "600m"}}, 2),
    "requests-and-limits": ({"hard": {"requests.cpu": "10", "limits.cpu": "3", "limits.memory": "1Gi"}}, 3),
    "memory": ({"hard": {"requests.memory": "100Mi"}}, 1),
    "not-best-effort": ({"hard": {"pods": "1"}, "scopes": ["NotBestEffort"]}, 1),
    "best-effort": ({"hard": {"pods": "1"}, "scopes": ["BestEffort"]}, None),
    "terminating": ({"hard": {"pods": "1"}, "scopes": ["Terminating"]}, None),
    "other-class": ({"hard": {"pods": "1"}, "scopeSelector": SELECTOR}, None),
    "no-such-class": ({"hard": {"pods": "2"}, "scopeSelector": {"matchExpressions": [ELSEWHERE]}}, 2),
    "not-terminating": ({"hard": {"cpu": "1", "pods": "9"}, "scopes": ["NotTerminating"]}, 4),
}
MOST = 6


async def test_a_quotas_room_is_what_the_api_server_lets_in(two: Two) -> None:
    client, namespace = two.lab.client, two.lab.namespace
    spec = {"containers": [{"name": "c", "image": "x", "resources": ASKS}]}
    for name, (given, most) in QUOTAS.items():
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": given}
        await client.create(RESOURCE_QUOTAS, quota, namespace)
        status = {"status": {"hard": given["hard"], "used": dict.fromkeys(given["hard"], "0")}}
        await client.patch(RESOURCE_QUOTAS, name, status, namespace, subresource="status")
        quotas = (await client.list_page(RESOURCE_QUOTAS, namespace))["items"]
        body: Json = {"apiVersion": "v1", "kind": "Pod", "spec": spec}
        pod = await client.create(PODS, {**body, "metadata": {"name": "asked"}}, namespace, dry_run=True)
        promised = sum(not shortage(quotas, pod, count) for count in range(1, MOST + 1))
        let_in = 0
        for index in range(MOST):
            try:
                await client.create(PODS, {**body, "metadata": {"name": f"pod-{index}"}}, namespace)
            except ForbiddenError as exc:
                assert "exceeded quota" in str(exc)
                break
            let_in += 1
        assert let_in == promised == (MOST if most is None else most), name
        left = (await client.list_page(RESOURCE_QUOTAS, namespace))["items"]
        assert bool(shortage(left, pod, 1)) is (most is not None), name
        for index in range(let_in):
            await client.delete(PODS, f"pod-{index}", namespace, grace=0)
        await client.delete(RESOURCE_QUOTAS, name, namespace)
