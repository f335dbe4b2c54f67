"""A user of one namespace neither sees nor hurts another's job through the operator."""

from __future__ import annotations

import json

import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import RESOURCE
from tests.wire.security.conftest import Two

from supernode.cluster.kinds import JOBS, PODS, Json
from supernode.names import ANNOTATION_CHECKPOINT, ANNOTATION_DEVICES

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(180)]


async def everything(two: Two, namespace: str) -> str:
    """All that a user who may read everything in a namespace gets to read there of us."""
    client = two.lab.client
    jobs = (await client.list_page(JOBS, namespace))["items"]
    pods = (await client.list_page(PODS, namespace))["items"]
    return json.dumps([jobs, pods, await two.events(namespace)])


async def test_no_job_of_another_namespace_is_named(two: Two) -> None:
    """One waits for the other, makes it give way, and is waited for: neither ever reads the other's name."""
    lab = two.lab
    high = await lab.add_class("high", 1000)
    process = lab.operator()
    await two.add_job("their-secret-plan", workers=3, runPolicy={"checkpointSeconds": 3})
    await two.until_state("their-secret-plan", "Running")
    await lab.add_job("own", workers=1)
    await lab.until_state("own", "Running")
    await lab.add_job("my-secret-plan", workers=2)
    waiting = await lab.until_state("my-secret-plan", "Waiting")
    assert "a gang of another namespace holds 6" in waiting["status"]["message"]
    assert f"{lab.namespace}/own holds 2" in waiting["status"]["message"]
    await lab.client.delete(JOBS, "my-secret-plan", lab.namespace)
    scheduling = {"priorityClassName": high}
    await lab.add_job("my-other-plan", workers=3, scheduling=scheduling, runPolicy={"checkpointSeconds": 3})
    told = await lab.until_status("my-other-plan", "says who gives way", lambda s: s.get("nomination"))
    assert "a gang of another namespace (6 devices) gives way for it" in told["message"]
    victim = await two.until_state("their-secret-plan", "Running")
    uid = (await lab.job("my-other-plan"))["metadata"]["uid"]

    async def asked() -> Json | None:
        status = (await lab.client.get(JOBS, "their-secret-plan", two.other))["status"]
        found: Json | None = status.get("disruption")
        return found

    disruption = await lab.until("the victim is told", asked)
    assert disruption["by"] == uid
    assert "gives way to a gang of another namespace (priority 1000" in disruption["message"]
    await lab.until_state("my-other-plan", "Running")
    await two.until_state("their-secret-plan", "Waiting")
    mine, theirs = await everything(two, lab.namespace), await everything(two, two.other)
    for word in ("their-secret-plan", two.other):
        assert word not in mine
    for word in ("my-secret-plan", "my-other-plan", lab.namespace):
        assert word not in theirs.replace(lab.pool, "").replace(lab.group, "")
    # Who looks after the cluster finds the names in the operator's log.
    lines = [line for line in process.text().splitlines() if f"gives way to {lab.namespace}/my-other-plan" in line]
    assert [line for line in lines if f"job={two.other}/their-secret-plan" in line]
    lab.kubelet.endings |= {f"my-other-plan-worker-{rank}": 0 for rank in range(3)}
    again = await two.until_state("their-secret-plan", "Running")
    assert again["status"]["attempt"] == victim["status"]["attempt"] + 1


async def test_forged_pods_of_another_namespace_are_none_of_a_jobs_pods(two: Two) -> None:
    """Labels, owner, rank and attempt of somebody else's job on one's own failed pod; devices it never asked for."""
    lab = two.lab
    lab.operator()
    await two.add_job("victim", workers=2)
    victim = await two.until_state("victim", "Running")
    uid = victim["metadata"]["uid"]
    owner = {"apiVersion": JOBS.api_version, "kind": "TrainingJob", "name": "victim", "uid": uid, "controller": True}
    labels = {
        "supernode.dev/job": "victim",
        "supernode.dev/job-uid": uid,
        "supernode.dev/rank": "0",
        "supernode.dev/attempt": "0",
    }
    container = {"name": "c", "image": "x"}
    free = next(n for n in lab.nodes if n not in {w["node"] for w in workers_in(victim["status"]["placement"])})
    for name, node in (("victim-worker-0", free), ("greedy", free)):
        notes = {ANNOTATION_DEVICES: "0,1", ANNOTATION_CHECKPOINT: "2026-01-01T00:00:00Z"}
        metadata = {"name": name, "annotations": notes}
        if name != "greedy":
            metadata |= {"labels": labels, "ownerReferences": [owner]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        await lab.client.create(PODS, {**body, "spec": {"nodeName": node, "containers": [container]}}, lab.namespace)
    lab.kubelet.endings["victim-worker-0"] = 1
    # Four nodes: two are the victim's. On all that is left a gang finds its place, whatever the forged pods claim.
    await lab.add_job("rest", workers=2)
    await lab.until_state("rest", "Running")
    status = (await two.until_state("victim", "Running"))["status"]
    assert (status["attempt"], status["restarts"], status["ready"]) == (0, 0, "2/2")
    assert all(RESOURCE in str(pod["spec"]) for pod in (await lab.client.list_page(PODS, two.other))["items"])
    await lab.client.delete(PODS, "greedy", lab.namespace, grace=0)
    # The laboratory's kubelet takes what pods say about devices at its word; the forged ones have none.
    lab.kubelet.seen_devices = [seen for seen in lab.kubelet.seen_devices if free not in seen]
