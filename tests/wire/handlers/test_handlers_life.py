"""A job's life with the real operator process on a real API server; the test plays the kubelet."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import Lab

from supernode.cluster.kinds import CONFIG_MAPS, EVENTS, GROUPS, JOBS, NODES, PODS, POOLS, SECRETS, SERVICES, Json

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(120)]


def condition(obj: Json, kind: str) -> Json:
    return next((c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind), {})


async def gone(lab: Lab, name: str) -> None:
    async def check() -> bool:
        items = (await lab.client.list_page(JOBS, lab.namespace))["items"]
        return all(item["metadata"]["name"] != name for item in items)

    await lab.until(f"{name} is gone", check)


async def test_a_gang_starts_runs_and_ends(lab: Lab) -> None:
    lab.operator()
    await lab.add_job("train")
    obj = await lab.until_state("train", "Running")
    status = obj["status"]
    assert status["ready"] == "2/2"
    assert condition(obj, "Accepted")["status"] == "True"
    assert condition(obj, "Scheduled")["status"] == "True"
    assert condition(obj, "Running")["status"] == "True"
    pods = await lab.job_pods("train")
    placed = {w["rank"]: w for w in workers_in(status["placement"])}
    for pod in pods:
        labels = pod["metadata"]["labels"]
        worker = placed[int(labels["supernode.dev/rank"])]
        assert pod["spec"]["nodeName"] == worker["node"]
        assert pod["metadata"]["annotations"]["supernode.dev/devices"] == ",".join(map(str, worker["devices"]))
        assert pod["spec"]["initContainers"][0]["name"] == "supernode-emulator"
        assert pod["metadata"]["ownerReferences"][0]["uid"] == obj["metadata"]["uid"]
    # Both on the two nodes of one super-node, so that the ring stays inside it.
    assert status["placement"]["level"] == "supernode"
    assert (await lab.client.get(SERVICES, "train", lab.namespace))["spec"]["clusterIP"] == "None"
    shared = f"train-fabric-{obj['metadata']['uid'][:8]}"
    assert "secret" in (await lab.client.get(SECRETS, shared, lab.namespace))["data"]
    assert "topology.json" in (await lab.client.get(CONFIG_MAPS, shared, lab.namespace))["data"]
    lab.kubelet.endings |= {"train-worker-0": 0, "train-worker-1": 0}
    obj = await lab.until_state("train", "Succeeded")
    assert condition(obj, "Succeeded")["status"] == "True"
    assert condition(obj, "Running")["status"] == "False"
    assert obj["status"]["completionTime"]


async def test_a_gang_waits_says_why_and_starts_by_itself(lab: Lab) -> None:
    lab.operator()
    await lab.add_job("first", workers=2)
    await lab.until_state("first", "Running")
    await lab.add_job("second", workers=4)
    obj = await lab.until_state("second", "Waiting")
    said = condition(obj, "Scheduled")
    assert (said["status"], said["reason"]) == ("False", "InsufficientAccelerators")
    assert f"{lab.namespace}/first" in said["message"]
    assert obj["status"]["message"] == said["message"]
    assert await lab.job_pods("second") == []

    async def told() -> list[Json]:
        events = (await lab.client.list_page(EVENTS, lab.namespace))["items"]
        return [e for e in events if e["involvedObject"]["name"] == "second" and e["message"] == said["message"]]

    await lab.until("the event", told)
    lab.kubelet.endings |= {"first-worker-0": 0, "first-worker-1": 0}
    obj = await lab.until_state("second", "Running")
    assert len(await lab.job_pods("second")) == 4
    assert (await lab.job("first"))["status"]["state"] == "Succeeded"
    events = (await lab.client.list_page(EVENTS, lab.namespace))["items"]
    waits = [e for e in events if e["involvedObject"]["name"] == "second" and e["type"] == "Warning"]
    assert len(waits) <= 2, "an event only when the sentence changes"


NOBODY = """
import os, pwd
for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = getpwuid
"""


async def test_it_works_as_a_user_without_a_name_as_in_its_image(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = lab.operator()
    await lab.add_job("train")
    await lab.until_state("train", "Running")
    assert "uid not found" not in process.text()


async def test_a_job_made_together_with_its_pool_is_not_refused_for_devices_about_to_be_offered(lab: Lab) -> None:
    await lab.add_job("train")
    lab.operator()
    await lab.until_state("train", "Running")

    async def said() -> set[str]:
        events = (await lab.client.list_page(EVENTS, lab.namespace))["items"]
        return {event["reason"] for event in events if event["involvedObject"]["name"] == "train"}

    async def told() -> bool:
        return "Running" in await said()

    await lab.until("the event Running", told)
    assert await said() == {"Placed", "Running"}


async def test_broken_jobs_are_named_and_stop_nobody(lab: Lab) -> None:
    lab.operator()
    await lab.add_job("nowhere", pools=["no-such-pool"])
    await lab.add_job("train")
    await lab.until_state("train", "Running")

    async def refused() -> Json | None:
        obj = await lab.job("nowhere")
        return obj if condition(obj, "Accepted").get("status") == "False" else None

    obj = await lab.until("nowhere is refused", refused)
    assert "spec.pools[0]" in condition(obj, "Accepted")["message"]
    assert "no-such-pool" in condition(obj, "Accepted")["message"]
    # The pool that was missing comes: the job goes on by itself.
    await lab.add_nodes(2, pooled="late")
    await lab.add_pool("no-such-pool", nodeSelector={"matchLabels": {"pooled": "late"}})

    async def accepted() -> bool:
        return condition(await lab.job("nowhere"), "Accepted").get("status") == "True"

    await lab.until("nowhere is accepted", accepted)


async def test_a_failed_worker_restarts_the_gang_and_then_fails_it(lab: Lab) -> None:
    lab.operator()
    await lab.add_job("train", runPolicy={"backoffLimit": 1})
    first = await lab.until_state("train", "Running")
    lab.kubelet.endings["train-worker-1"] = 1

    async def restarted() -> Json | None:
        obj = await lab.job("train")
        status = obj["status"]
        return obj if status["state"] == "Running" and status["attempt"] == 1 else None

    obj = await lab.until("attempt 1 runs", restarted)
    assert obj["status"]["restarts"] == 1
    assert condition(obj, "Restarting")["status"] == "False"
    pods = await lab.job_pods("train")
    assert {p["metadata"]["labels"]["supernode.dev/attempt"] for p in pods} == {"1"}
    assert first["metadata"]["uid"] == obj["metadata"]["uid"]
    lab.kubelet.endings["train-worker-0"] = 137
    obj = await lab.until_state("train", "Failed")
    failed = condition(obj, "Failed")
    assert failed["reason"] == "BackoffLimitExceeded"
    assert "worker 0" in failed["message"]
    assert "137" in failed["message"]

    async def cleaned() -> bool:
        return all(p["status"]["phase"] == "Failed" for p in await lab.job_pods("train"))

    await lab.until("running pods are cleaned", cleaned)


async def test_a_job_deleted_while_starting_leaves_nothing(lab: Lab) -> None:
    lab.operator()
    lab.kubelet.hold = True
    await lab.add_job("train", workers=4)
    await lab.until_state("train", "Starting")

    async def some_pods() -> bool:
        return bool(await lab.job_pods("train"))

    await lab.until("pods", some_pods)
    await lab.client.delete(JOBS, "train", lab.namespace)
    await gone(lab, "train")
    assert await lab.job_pods("train") == []
    for kind in (SERVICES, SECRETS, CONFIG_MAPS):
        items = (await lab.client.list_page(kind, lab.namespace))["items"]
        assert [i for i in items if i["metadata"].get("labels", {}).get("supernode.dev/job") == "train"] == []
    lab.kubelet.hold = False
    await lab.add_job("next", workers=4)
    await lab.until_state("next", "Running")


async def test_terminating_pods_still_hold_their_devices(lab: Lab) -> None:
    lab.operator()
    await lab.add_job("first", workers=4)
    await lab.until_state("first", "Running")
    lab.kubelet.stuck = True
    await lab.client.delete(JOBS, "first", lab.namespace)
    await lab.add_job("second", workers=1)
    await lab.until_state("second", "Waiting")
    assert await lab.job_pods("second") == []
    lab.kubelet.stuck = False
    await lab.until_state("second", "Running")
    await gone(lab, "first")


async def test_suspend_gives_devices_back_and_resume_runs_again(lab: Lab) -> None:
    lab.operator()
    await lab.add_job("train", workers=4)
    await lab.until_state("train", "Running")
    await lab.client.patch(JOBS, "train", {"spec": {"runPolicy": {"suspend": True}}}, lab.namespace)
    obj = await lab.until_state("train", "Suspended")
    assert condition(obj, "Suspended")["status"] == "True"
    await lab.add_job("other", workers=4)
    await lab.until_state("other", "Running")
    assert await lab.job_pods("train") == []
    lab.kubelet.endings |= {f"other-worker-{rank}": 0 for rank in range(4)}
    await lab.until_state("other", "Succeeded")
    await lab.client.patch(JOBS, "train", {"spec": {"runPolicy": {"suspend": False}}}, lab.namespace)
    obj = await lab.until_state("train", "Running")
    assert obj["status"]["restarts"] == 0
    assert condition(obj, "Suspended")["status"] == "False"


async def test_a_scaled_job_starts_again_with_the_new_size(lab: Lab) -> None:
    lab.operator()
    await lab.add_job("train", workers=2)
    await lab.until_state("train", "Running")
    await lab.client.patch(JOBS, "train", {"spec": {"replicas": 3}}, lab.namespace, subresource="scale")

    async def resized() -> bool:
        status = (await lab.job("train"))["status"]
        return status["state"] == "Running" and status["ready"] == "3/3"

    await lab.until("three workers run", resized)
    assert (await lab.job("train"))["status"]["restarts"] == 0


async def test_a_finished_job_is_deleted_after_its_ttl(lab: Lab) -> None:
    lab.operator()
    await lab.add_job("train", runPolicy={"ttlSecondsAfterFinished": 1, "cleanPodPolicy": "All"})
    await lab.until_state("train", "Running")
    lab.kubelet.endings |= {"train-worker-0": 0, "train-worker-1": 0}
    await gone(lab, "train")
    assert await lab.job_pods("train") == []


async def test_a_pod_that_somebody_deletes_restarts_the_gang(lab: Lab) -> None:
    lab.operator()
    await lab.add_job("train")
    await lab.until_state("train", "Running")
    await lab.client.delete(PODS, "train-worker-0", lab.namespace)

    async def restarted() -> bool:
        status = (await lab.job("train"))["status"]
        return status["state"] == "Running" and status["attempt"] == 1

    await lab.until("attempt 1 runs", restarted)


async def test_devices_are_put_back_and_withdrawn(lab: Lab) -> None:
    lab.operator()
    name = lab.nodes[0]

    async def offered() -> bool:
        node = await lab.client.get(NODES, name)
        return node["status"]["allocatable"].get("hygon.com/hcu") == "2"

    await lab.until("offered", offered)
    drop = {"status": {"capacity": {"hygon.com/hcu": None}, "allocatable": {"hygon.com/hcu": None}}}
    await lab.client.patch(NODES, name, drop, subresource="status")
    await lab.until("put back", offered)

    async def ready() -> bool:
        status = (await lab.client.get(POOLS, lab.pool)).get("status", {})
        return (status.get("nodes"), status.get("capacity"), status.get("free")) == (4, 8, 8)

    await lab.until("the pool counts", ready)
    room = (await lab.client.get(POOLS, lab.pool))["status"]["room"]
    assert [(r["level"], r["largestGang"], r["domainSize"], r["fragmentation"]) for r in room][-1] == ("node", 2, 2, 0)
    await lab.client.delete(POOLS, lab.pool)

    async def withdrawn() -> bool:
        node = await lab.client.get(NODES, name)
        return "hygon.com/hcu" not in node["status"]["allocatable"]

    await lab.until("withdrawn", withdrawn)

    async def pool_gone() -> bool:
        items = (await lab.client.list_page(POOLS))["items"]
        return all(item["metadata"]["name"] != lab.pool for item in items)

    await lab.until("the pool is gone", pool_gone)


async def test_a_gang_that_the_server_refuses_is_released_whole_and_stops_nobody(lab: Lab) -> None:
    process = lab.operator()
    container = {"name": "trainer", "image": "x", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}
    await lab.add_job("broken", workers=4, template={"spec": {"containers": [container]}})

    async def refused() -> Json | None:
        obj = await lab.job("broken")
        return obj if "refused" in obj.get("status", {}).get("message", "") else None

    obj = await lab.until("broken is refused", refused)
    assert "must be less than or equal to cpu limit" in obj["status"]["message"]
    await lab.add_job("good", workers=4)
    await lab.until_state("good", "Running")
    assert await lab.job_pods("broken") == []
    assert process.text().count("the gang is released") <= 2, "it is tried again with longer and longer pauses"


async def test_unlabelled_nodes_and_nodes_of_two_pools_are_named(lab: Lab) -> None:
    lab.operator()
    name = lab.nodes[1]
    await lab.client.patch(NODES, name, {"metadata": {"labels": {"supernode.dev/supernode": None}}})
    younger = f"younger-{lab.suffix}"
    await asyncio.sleep(1.1)  # creation times have whole seconds
    await lab.add_pool(younger)

    async def named() -> bool:
        group = await lab.client.get(GROUPS, lab.group)
        said = condition(group, "Ready")
        return said.get("reason") == "NodesUnlabelled" and name in said["message"]

    await lab.until("the group names the node", named)
    group = await lab.client.get(GROUPS, lab.group)
    assert (group["status"]["unlabelledNodes"], group["status"]["nodes"]) == (1, 3)

    async def told() -> Json | None:
        pool = await lab.client.get(POOLS, younger)
        said = condition(pool, "Ready")
        return said if said.get("reason") == "NodesTaken" else None

    said = await lab.until("the younger pool says who has the nodes", told)
    assert lab.pool in said["message"]
    assert lab.nodes[0] in said["message"]


async def test_health_and_metrics_have_their_own_ports(lab: Lab) -> None:
    process = lab.operator()

    async def ports() -> list[str]:
        return re.findall(r"health on port (\d+), metrics on port (\d+)", process.text())

    ((health, metrics),) = await lab.until("ports", ports)
    await lab.add_job("train")
    await lab.until_state("train", "Running")
    async with aiohttp.ClientSession() as session:
        for path in ("healthz", "readyz"):
            async with session.get(f"http://127.0.0.1:{health}/{path}") as answer:
                assert (answer.status, await answer.text()) == (200, "ok")
        async with session.get(f"http://127.0.0.1:{metrics}/metrics") as answer:
            text = await answer.text()
    assert "supernode_leader 1.0" in text
    assert f'supernode_placements_total{{pool="{lab.pool}"}} 1.0' in text
    assert "supernode_pods_created_total 2.0" in text
