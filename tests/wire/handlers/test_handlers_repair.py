"""Gangs that lose nodes or devices: who is replaced where, how long the rest is held, and what does no harm."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import Lab
from tests.wire.promises import free_the_lease

from supernode.cluster.kinds import JOBS, NODES, PODS, Json
from supernode.names import ANNOTATION_UNHEALTHY

pytestmark = pytest.mark.timeout(180)


def nodes_of(status: Json) -> list[str]:
    return [worker["node"] for worker in workers_in(status.get("placement"))]


async def running(lab: Lab, name: str, attempt: int) -> Json:
    """The status once that attempt runs."""
    return await lab.until_status(
        name, f"attempt {attempt} runs", lambda s: s.get("state") == "Running" and s.get("attempt") == attempt
    )


def policy(loss: int = 0, hold: int = 300, **more: Any) -> Json:
    return {"repair": {"nodeLossSeconds": loss, "holdSeconds": hold}, **more}


async def annotate(lab: Lab, node: str, devices: str | None) -> None:
    await lab.client.patch(NODES, node, {"metadata": {"annotations": {ANNOTATION_UNHEALTHY: devices}}})


@pytest.mark.parametrize("way", ["NoSchedule", "NoExecute", "label"])
async def test_who_waits_for_nodes_that_are_closed_to_it_starts_when_they_open(either_lab: Lab, way: str) -> None:
    """Long before everything is looked at again: nothing but the node itself tells of it."""
    lab = either_lab

    async def close(patch: Json) -> None:
        for node in lab.nodes:
            await lab.client.patch(NODES, node, patch)

    selector = {"nodeSelector": {"disk": "fast"}} if way == "label" else {}
    container = {"name": "trainer", "image": "python:3", "command": ["python", "-c", "pass"]}
    template = {"spec": {"containers": [container], **selector}}
    if way != "label":
        await close({"spec": {"taints": [{"key": "x", "value": "y", "effect": way}]}})
    lab.operator()
    await lab.add_job("patient", template=template)
    await lab.until_state("patient", "Waiting")
    await asyncio.sleep(1)  # until the operator has nothing more to do
    await close({"metadata": {"labels": {"disk": "fast"}}} if way == "label" else {"spec": {"taints": None}})
    await lab.until_state("patient", "Running", seconds=20)


async def test_a_worker_that_fails_comes_back_where_it_was(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("train", workers=2)
    first = (await lab.until_state("train", "Running"))["status"]
    # Somebody waits for the devices: the gang's place is not given away while it restarts.
    await lab.add_job("wide", workers=4)
    await lab.until_state("wide", "Waiting")
    lab.kubelet.endings["train-worker-1"] = 1
    status = await running(lab, "train", 1)
    assert workers_in(status["placement"]) == workers_in(first["placement"])
    assert status["startTime"] == first["startTime"], "activeDeadlineSeconds counts on"
    assert status["restarts"] == 1


TROUBLES = ["not-ready", "unreachable", "tainted", "sick", "sick-hardware", "deleted"]


async def make(trouble: str, lab: Lab, job: str, node: str) -> None:
    """Something happens to the node of rank 1, or to its devices."""
    match trouble:
        case "not-ready":
            await lab.node_ready(node, "False")
        case "unreachable":
            await lab.node_ready(node, "Unknown")
        case "tainted":
            taint = {"key": "broken", "value": "fan", "effect": "NoExecute"}
            await lab.client.patch(NODES, node, {"spec": {"taints": [taint]}})
        case "sick":
            await annotate(lab, node, "1")
        case "sick-hardware":
            # As a kubelet reports what a device plug-in says of the devices of a container.
            pod = await lab.client.get(PODS, f"{job}-worker-1", lab.namespace)
            health = {"name": "hygon.com/hcu", "resources": [{"resourceID": "card-7", "health": "Unhealthy"}]}
            container = {**pod["status"]["containerStatuses"][0], "allocatedResourcesStatus": [health]}
            patch = {"status": {"containerStatuses": [container]}}
            await lab.client.patch(PODS, pod["metadata"]["name"], patch, lab.namespace, subresource="status")
        case "deleted":
            await lab.client.delete(NODES, node)
            lab.nodes.remove(node)


async def mend(lab: Lab, node: str) -> None:
    await lab.node_ready(node, "True")
    await lab.client.patch(NODES, node, {"spec": {"taints": None}})
    await annotate(lab, node, None)


async def test_the_rank_of_a_lost_node_goes_to_another_one_of_the_same_domain(either_lab: Lab) -> None:
    lab = either_lab
    # Four nodes in one super-node: room to repair in the same domain.
    await lab.add_nodes(2, **{"supernode.dev/supernode": "sn-0"})
    lab.operator()
    constraints = {"topology": [{"level": "supernode", "mode": "Required"}]}
    for trouble in TROUBLES:
        await lab.add_job(trouble, workers=3, runPolicy=policy(), scheduling={"constraints": constraints})
        before = workers_in((await lab.until_state(trouble, "Running"))["status"]["placement"])
        lost = before[1]["node"]
        await make(trouble, lab, trouble, lost)
        after = workers_in((await running(lab, trouble, 1))["placement"])
        assert [after[rank] for rank in (0, 2)] == [before[rank] for rank in (0, 2)], f"{trouble}: the others stay"
        assert after[1]["node"] != lost, trouble
        other = await lab.client.get(NODES, after[1]["node"])
        assert other["metadata"]["labels"]["supernode.dev/supernode"] == "sn-0", trouble
        await lab.client.delete(JOBS, trouble, lab.namespace)
        if trouble != "deleted":
            await mend(lab, lost)


async def test_a_cordoned_node_stops_nobody_and_takes_nobody(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("train", workers=2, runPolicy=policy())
    before = nodes_of((await lab.until_state("train", "Running"))["status"])
    await lab.client.patch(NODES, before[0], {"spec": {"unschedulable": True}})
    await lab.add_job("wide", workers=4)
    await lab.until_state("wide", "Waiting")
    assert (await lab.job("train"))["status"]["attempt"] == 0
    # The next restart leaves it, as a drain wants.
    lab.kubelet.endings["train-worker-1"] = 1
    after = nodes_of(await running(lab, "train", 1))
    assert before[0] not in after


async def test_several_nodes_at_once(either_lab: Lab) -> None:
    lab = either_lab
    await lab.add_nodes(2)
    lab.operator()
    await lab.add_job("train", workers=4, runPolicy=policy())
    before = nodes_of((await lab.until_state("train", "Running"))["status"])
    for node in (before[0], before[3]):
        await lab.node_ready(node, "Unknown")
    status = await lab.until_status(
        "train",
        "runs elsewhere",
        lambda s: s.get("state") == "Running" and not {before[0], before[3]} & set(nodes_of(s)),
    )
    after = nodes_of(status)
    assert after[1:3] == before[1:3]
    assert len(set(after)) == 4


async def test_a_wounded_gang_is_held_until_its_node_is_back(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("train", workers=4, runPolicy=policy(hold=3600))
    before = nodes_of((await lab.until_state("train", "Running"))["status"])
    await lab.node_ready(before[2], "Unknown")

    async def held() -> bool:
        return (await lab.condition("train", "Scheduled")).get("reason") == "WaitingForRepair"

    await lab.until("it waits for repair", held)
    status = (await lab.job("train"))["status"]
    assert status["state"] == "Restarting"
    assert nodes_of(status) == before, "it holds on to its place"
    assert before[2] in status["message"]
    assert status["disruption"]["kind"] == "Repair"
    await lab.add_job("small", workers=1)
    await lab.until_state("small", "Waiting")
    await lab.node_ready(before[2], "True")
    assert nodes_of(await running(lab, "train", 1)) == before


async def test_a_wounded_gang_is_released_whole_when_its_time_is_up(either_lab: Lab) -> None:
    lab = either_lab
    process = lab.operator()
    await lab.add_job("train", workers=4, runPolicy=policy(hold=2))
    before = nodes_of((await lab.until_state("train", "Running"))["status"])
    progress = {"step": 9, "checkpointStep": 8, "checkpointAt": "2026-01-01T00:00:00Z"}
    await lab.client.patch(JOBS, "train", {"status": {"progress": progress}}, lab.namespace, subresource="status")
    await lab.node_ready(before[2], "Unknown")
    # Whoever leads then: the time is in the API.
    await lab.until_status("train", "is held", lambda s: (s.get("disruption") or {}).get("deadline"))
    process.kill()
    await free_the_lease(lab)
    lab.operator()
    status = await lab.until_status("train", "is queued", lambda s: s.get("state") == "Waiting", seconds=60)
    assert "placement" not in status
    assert status["checkpoint"]["step"] == 8
    assert await lab.job_pods("train") == []
    await lab.add_job("small", workers=1)
    await lab.until_state("small", "Running")


async def test_a_gang_moves_whole_where_its_own_domain_has_no_room(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    constraints = {"topology": [{"level": "supernode", "mode": "Required"}]}
    await lab.add_job("train", workers=2, runPolicy=policy(hold=3600), scheduling={"constraints": constraints})
    before = nodes_of((await lab.until_state("train", "Running"))["status"])
    await lab.node_ready(before[0], "Unknown")
    after = nodes_of(await running(lab, "train", 1))
    assert not set(before) & set(after)
