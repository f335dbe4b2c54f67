"""Urgent gangs: who gives way to whom, with time to save a checkpoint, never in vain, whoever is killed when."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.wire.operatorlab import NAMESPACES, Lab
from tests.wire.promises import free_the_lease

from supernode.cluster.kinds import EVENTS, JOBS, PODS, POOLS, PRIORITY_CLASSES, Json
from supernode.names import ANNOTATION_CHECKPOINT

pytestmark = pytest.mark.timeout(180)


def with_class(name: str, **more: object) -> Json:
    return {"priorityClassName": name, **more}


async def report(lab: Lab, job: str, step: int, saved_at: str) -> None:
    """What rank 0's sidecar would have the operator write: a checkpoint was saved."""
    progress = {"step": step, "checkpointStep": step, "checkpointAt": saved_at}
    await lab.client.patch(JOBS, job, {"status": {"progress": progress}}, lab.namespace, subresource="status")


async def test_a_class_that_is_not_there_is_said_and_the_job_goes_on_when_it_comes(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("train", scheduling=with_class(f"urgent-{lab.suffix}"))

    async def refused() -> bool:
        said = await lab.condition("train", "Accepted")
        return said.get("status") == "False" and "spec.scheduling.priorityClassName" in said["message"]

    await lab.until("the class is missed", refused)
    await lab.add_class("urgent", 1000)
    await lab.until_state("train", "Running")


async def test_the_more_urgent_of_two_that_wait_goes_first(either_lab: Lab) -> None:
    lab = either_lab
    urgent = await lab.add_class("urgent", 1000, preemptionPolicy="Never")
    await lab.add_job("first", workers=4)
    lab.operator()
    await lab.until_state("first", "Running")
    await lab.add_job("older", workers=4)
    await lab.until_state("older", "Waiting")
    await lab.add_job("urgent", workers=4, scheduling=with_class(urgent))
    await lab.until_state("urgent", "Waiting")
    assert (await lab.job("first"))["status"].get("disruption") is None, "it may not make others give way"
    lab.kubelet.endings |= {f"first-worker-{rank}": 0 for rank in range(4)}
    await lab.until_state("urgent", "Running")
    assert (await lab.job("older"))["status"]["state"] == "Waiting"


async def test_a_gang_gives_way_after_a_checkpoint_and_comes_back(either_lab: Lab) -> None:
    lab = either_lab
    low, high = await lab.add_class("low", 10), await lab.add_class("high", 1000)
    lab.operator()
    await lab.add_job("low", workers=2, scheduling=with_class(low), runPolicy={"checkpointSeconds": 3600})
    await lab.add_job("other", workers=2, scheduling=with_class(high))
    await lab.until_state("low", "Running")
    await lab.until_state("other", "Running")
    await lab.add_job("high", workers=2, scheduling=with_class(high))

    async def asked() -> bool:
        pods = await lab.job_pods("low")
        return len(pods) == 2 and all(ANNOTATION_CHECKPOINT in p["metadata"].get("annotations", {}) for p in pods)

    await lab.until("the workers are asked for a checkpoint", asked)
    said = await lab.until_status("high", "waits", lambda s: s.get("nomination"))
    assert "low (4 devices)" in said["message"]
    assert (await lab.condition("high", "Scheduled"))["reason"] == "WaitingForPreemption"
    victim = (await lab.job("low"))["status"]
    assert victim["state"] == "Running", "it has an hour to save one"
    assert victim["disruption"]["by"] == f"{lab.namespace}/high"
    await report(lab, "low", 42, "2099-01-01T00:00:00Z")
    await lab.until_state("high", "Running")
    waiting = await lab.until_status("low", "waits again", lambda s: s.get("state") == "Waiting")
    assert waiting["checkpoint"]["step"] == 42
    assert (waiting["attempt"], waiting["restarts"]) == (1, 0)
    assert "disruption" not in waiting
    assert (await lab.job("other"))["status"]["attempt"] == 0, "who need not give way is left alone"
    lab.kubelet.endings |= {"high-worker-0": 0, "high-worker-1": 0}
    await lab.until_state("low", "Running")
    environment = (await lab.job_pods("low"))[0]["spec"]["containers"][0]["env"]
    assert {"name": "SUPERNODE_CHECKPOINT_STEP", "value": "42"} in environment


async def test_the_wait_for_a_checkpoint_is_bounded(either_lab: Lab) -> None:
    lab = either_lab
    high = await lab.add_class("high", 1000)
    lab.operator()
    await lab.add_job("low", workers=4, runPolicy={"checkpointSeconds": 2})
    await lab.until_state("low", "Running")
    lab.kubelet.stuck = True
    await lab.add_job("high", workers=4, scheduling=with_class(high))
    await lab.until_state("low", "Restarting")
    # Its pods end in their own time; until the last has gone, its devices are nobody else's.
    await asyncio.sleep(1)
    assert "placement" not in (await lab.job("high"))["status"]
    lab.kubelet.stuck = False
    await lab.until_state("high", "Running")
    assert (await lab.until_state("low", "Waiting"))["status"]["restarts"] == 0


async def test_nobody_gives_way_in_vain(either_lab: Lab) -> None:
    lab = either_lab
    high = await lab.add_class("high", 1000)
    lab.operator()
    await lab.add_job("low", workers=2, runPolicy={"checkpointSeconds": 3600})
    await lab.until_state("low", "Running")
    # Even an empty cluster has no room for it.
    await lab.add_job("huge", workers=40, scheduling=with_class(high))
    await lab.until_state("huge", "Waiting")
    assert "disruption" not in (await lab.job("low"))["status"]
    await lab.add_job("high", workers=4, scheduling=with_class(high))
    await lab.until_status("low", "is asked", lambda s: s.get("disruption"))
    # Who it was for goes away before it had to stop.
    await lab.client.delete(JOBS, "high", lab.namespace)
    await lab.until_status("low", "is left alone", lambda s: not s.get("disruption"))

    async def unasked() -> bool:
        pods = await lab.job_pods("low")
        return all(ANNOTATION_CHECKPOINT not in p["metadata"].get("annotations", {}) for p in pods)

    await lab.until("the request is taken back", unasked)
    status = (await lab.job("low"))["status"]
    assert (status["state"], status["attempt"]) == ("Running", 0)

    async def told() -> bool:
        found = (await lab.client.list_page(EVENTS, lab.namespace))["items"]
        return any(each["reason"] == "DisruptionCancelled" for each in found)

    await lab.until("it is told that it runs on", told)


async def test_who_ends_well_in_its_time_to_save_has_succeeded(either_lab: Lab) -> None:
    lab = either_lab
    high = await lab.add_class("high", 1000)
    lab.operator()
    await lab.add_job("low", workers=2, runPolicy={"checkpointSeconds": 3600})
    await lab.until_state("low", "Running")
    await lab.add_job("high", workers=4, scheduling=with_class(high))
    await lab.until_status("low", "is asked", lambda s: s.get("disruption"))
    lab.kubelet.endings["low-worker-1"] = 0
    await lab.until_status("low", "one worker has ended", lambda s: (s.get("workers") or {}).get("succeeded") == 1)
    await asyncio.sleep(1)  # time enough to do the wrong thing
    assert (await lab.job("low"))["status"]["state"] == "Running"
    lab.kubelet.endings["low-worker-0"] = 0
    status = (await lab.until_state("low", "Succeeded"))["status"]
    assert status["attempt"] == 0
    await lab.until_state("high", "Running")
    await lab.client.delete(POOLS, lab.pool)
    await lab.until_status("high", "hears of its pool", lambda s: "AcceleratorPool" in s.get("message", ""))
    assert (await lab.job("low"))["status"]["message"] == status["message"], "what came out of it stays"


async def test_borrowed_devices_are_given_back(either_lab: Lab) -> None:
    lab = either_lab
    quotas = [{"namespace": lab.namespace, "guaranteed": 4}]
    await lab.client.patch(POOLS, lab.pool, {"spec": {"quotas": quotas}})
    lab.operator()
    mine, borrower = lab.namespace, f"borrower-{lab.suffix}"
    await lab.client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": borrower}})
    lab.namespace = borrower
    for name in ("one", "two"):
        await lab.add_job(name, workers=2, runPolicy={"checkpointSeconds": 1})
        await lab.until_state(name, "Running")
    lab.namespace = mine
    await lab.add_job("ours", workers=2)
    await lab.until_state("ours", "Running")
    lab.namespace = borrower
    states = sorted([(await lab.job(name))["status"]["state"] for name in ("one", "two")])
    assert states == ["Running", "Waiting"], "no more is taken back than what was borrowed"
    for name in ("one", "two"):
        await lab.client.delete(JOBS, name, borrower)
    await lab.until("the borrower is gone", lambda: gone(lab, borrower))
    lab.namespace = mine


async def gone(lab: Lab, namespace: str) -> bool:
    return not (await lab.client.list_page(JOBS, namespace))["items"]


async def test_who_gives_way_is_decided_once_however_often_the_operator_is_killed(either_lab: Lab) -> None:
    lab = either_lab
    chance = random.Random(7)
    high = await lab.add_class("high", 1000)
    process = lab.operator()
    await lab.add_job("low", workers=4, runPolicy={"checkpointSeconds": 1})
    await lab.until_state("low", "Running")
    await lab.add_job("high", workers=3, scheduling=with_class(high))
    for _ in range(6):
        await asyncio.sleep(chance.uniform(0.0, 1.2))
        process.kill()
        await free_the_lease(lab)
        process = lab.operator()
    await lab.until_state("high", "Running")
    low = await lab.until_status("low", "waits", lambda s: s.get("state") == "Waiting")
    assert (low["attempt"], low["restarts"]) == (1, 0)
    assert (await lab.job("high"))["status"]["attempt"] == 0
    assert "nomination" not in (await lab.job("high"))["status"]
    pods = (await lab.client.list_page(PODS, lab.namespace))["items"]
    assert {pod["metadata"]["labels"]["supernode.dev/job"] for pod in pods} == {"high"}


async def test_a_class_that_goes_stops_nobody_who_runs(either_lab: Lab) -> None:
    lab = either_lab
    name = await lab.add_class("fleeting", 5)
    lab.operator()
    await lab.add_job("train", scheduling=with_class(name))
    await lab.until_state("train", "Running")
    await lab.client.delete(PRIORITY_CLASSES, name)

    async def said() -> bool:
        return (await lab.condition("train", "Accepted")).get("status") == "False"

    await lab.until("it is said", said)
    assert (await lab.job("train"))["status"]["state"] == "Running"


async def test_a_wounded_gang_gives_way_at_once(either_lab: Lab) -> None:
    lab = either_lab
    high = await lab.add_class("high", 1000)
    lab.operator()
    repair = {"repair": {"nodeLossSeconds": 0, "holdSeconds": 3600}, "checkpointSeconds": 3600}
    await lab.add_job("low", workers=4, runPolicy=repair)
    await lab.until_state("low", "Running")
    await lab.node_ready(lab.nodes[0], "Unknown")

    async def held() -> bool:
        return (await lab.condition("low", "Scheduled")).get("reason") == "WaitingForRepair"

    await lab.until("it waits for repair", held)
    await lab.add_job("high", workers=3, scheduling=with_class(high))
    await lab.until_state("high", "Running")
    assert "placement" not in (await lab.until_state("low", "Waiting"))["status"]


async def test_who_gave_way_reads_for_whom_the_nodes_are_kept(either_lab: Lab) -> None:
    """The first of two victims has gone, the second saves: nothing is wrong with the nodes, they are kept."""
    lab = either_lab
    high = await lab.add_class("high", 1000)
    lab.operator()
    for name, seconds in (("quick", 1), ("slow", 3600)):
        await lab.add_job(name, workers=2, runPolicy={"checkpointSeconds": seconds})
        await lab.until_state(name, "Running")
    await lab.add_job("high", workers=4, scheduling=with_class(high))
    waiting = await lab.until_status(
        "quick", "waits again", lambda s: s["state"] == "Waiting" and "kept" in s["message"]
    )
    assert waiting["message"] == (
        "needs 2 workers x 2 devices (4) and would fit, but 8 devices on 4 nodes are kept for "
        f"{lab.namespace}/high, which it gave way to"
    )
    await lab.add_job("late", workers=3)
    told = await lab.until_state("late", "Waiting")
    assert "pool has" not in told["status"]["message"]
    assert "2 more are missing" in told["status"]["message"]
    assert told["status"]["message"].endswith(f"8 devices on 4 nodes are kept for {lab.namespace}/high")
