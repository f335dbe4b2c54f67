"""Gangs whose size may change: they shrink instead of dying, give up only what they can do without, and grow again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import Lab
from tests.wire.promises import free_the_lease

from supernode.cluster.kinds import JOBS, NODES, Json

pytestmark = pytest.mark.timeout(180)


def elastic(fewest: int, grow: int = 0, **more: Any) -> Json:
    return {"policy": {"gang": {"minCount": fewest, "growAfterSeconds": grow}}, **more}


def size(status: Json) -> int:
    return len(workers_in(status.get("placement")))


async def runs_with(lab: Lab, name: str, workers: int) -> Json:
    status = await lab.until_status(
        name, f"runs with {workers}", lambda s: s.get("state") == "Running" and s["ready"].startswith(f"{workers}/")
    )
    assert size(status) == workers
    pods = [pod for pod in await lab.job_pods(name) if "deletionTimestamp" not in pod["metadata"]]
    # Ranks are 0, 1, 2 ... without gaps, and everybody knows how many there are.
    assert sorted(int(pod["metadata"]["labels"]["supernode.dev/rank"]) for pod in pods) == list(range(workers))
    for pod in pods:
        environment = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
        assert environment["SUPERNODE_WORKERS"] == str(workers)
        assert environment["WORLD_SIZE"] == str(workers) or environment["PET_NNODES"] == str(workers)
    return status


async def test_a_gang_starts_with_what_there_is_and_grows_when_devices_free_up(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("first", workers=2)
    await lab.until_state("first", "Running")
    await lab.add_job("train", workers=4, scheduling=elastic(2), runPolicy={"checkpointSeconds": 1})
    small = await runs_with(lab, "train", 2)
    assert small["attempt"] == 0
    lab.kubelet.endings |= {"first-worker-0": 0, "first-worker-1": 0}
    grown = await runs_with(lab, "train", 4)
    # The other's workers end one by one: it may have grown in two steps.
    assert grown["attempt"] in (1, 2)
    assert grown["restarts"] == 0
    assert "disruption" not in grown


async def test_nobody_grows_past_a_gang_that_waits(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("first", workers=2)
    await lab.until_state("first", "Running")
    await lab.add_job("train", workers=4, scheduling=elastic(2), runPolicy={"checkpointSeconds": 1})
    await runs_with(lab, "train", 2)
    await lab.add_job("next", workers=2)
    await lab.until_state("next", "Waiting")
    lab.kubelet.endings |= {"first-worker-0": 0, "first-worker-1": 0}
    await lab.until_state("next", "Running")
    assert (await lab.job("train"))["status"]["attempt"] == 0


async def test_a_gang_that_loses_a_node_for_good_shrinks_instead_of_dying(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    repair = {"repair": {"nodeLossSeconds": 0, "holdSeconds": 3600}, "checkpointSeconds": 1}
    await lab.add_job("train", workers=4, scheduling=elastic(2), runPolicy=repair)
    before = await runs_with(lab, "train", 4)
    lost = workers_in(before["placement"])[1]["node"]
    await lab.node_ready(lost, "Unknown")
    after = await runs_with(lab, "train", 3)
    assert lost not in {worker["node"] for worker in workers_in(after["placement"])}
    # Counted from before: where a node offers its devices late, the gang has grown to its size first.
    assert (after["attempt"], after["restarts"]) == (before["attempt"] + 1, 1)
    await lab.node_ready(lost, "True")
    assert (await runs_with(lab, "train", 4))["restarts"] == 1


async def test_only_workers_that_can_be_done_without_give_way(either_lab: Lab) -> None:
    lab = either_lab
    high = await lab.add_class("high", 1000)
    process = lab.operator()
    await lab.add_job("low", workers=4, scheduling=elastic(2), runPolicy={"checkpointSeconds": 1})
    before = await runs_with(lab, "low", 4)
    await lab.add_job("high", workers=2, scheduling={"priorityClassName": high})
    await lab.until_status("low", "is asked", lambda s: s.get("disruption"))
    process.kill()
    await free_the_lease(lab)
    lab.operator()
    await lab.until_state("high", "Running", seconds=60)
    after = await runs_with(lab, "low", 2)
    assert workers_in(after["placement"]) == workers_in(before["placement"])[:2], "the first ranks stay where they are"
    assert (after["attempt"], after["restarts"]) == (before["attempt"] + 1, 0)
    lab.kubelet.endings |= {"high-worker-0": 0, "high-worker-1": 0}
    await runs_with(lab, "low", 4)


async def test_kubectl_scale_up_and_down(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("train", workers=2, runPolicy={"checkpointSeconds": 1})
    await lab.add_job("other", workers=1)
    before = await runs_with(lab, "train", 2)
    await lab.until_state("other", "Running")

    async def scale(workers: int) -> None:
        patch = {"spec": {"replicas": workers}}
        await lab.client.patch(JOBS, "train", patch, lab.namespace, subresource="scale")

    # There is room for one more, not for two: it goes on as it is until there is.
    await scale(4)
    await lab.until_status(
        "train", "has seen it", lambda s: s["workers"]["desired"] == 2 and s["observedGeneration"] > 1
    )
    await scale(3)
    await runs_with(lab, "train", 3)
    await scale(1)
    small = await runs_with(lab, "train", 1)
    assert small["restarts"] == 0
    assert before["attempt"] < small["attempt"]
    await scale(4)
    await lab.client.delete(JOBS, "other", lab.namespace)
    await runs_with(lab, "train", 4)


async def test_a_model_is_cut_again_for_another_number_of_workers(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("first", workers=2)
    await lab.until_state("first", "Running")
    cut = {"tensor": 2, "globalBatchSize": 8}
    policy = {"checkpointSeconds": 1}
    await lab.add_job("train", workers=4, parallelism=cut, scheduling=elastic(1), runPolicy=policy)

    async def data() -> str:
        (pod, *_) = await lab.job_pods("train")
        environment = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
        return json.loads(environment["SUPERNODE_PARALLELISM"])["data"]

    await runs_with(lab, "train", 2)
    assert await data() == 2
    lab.kubelet.endings |= {"first-worker-0": 0, "first-worker-1": 0}
    await runs_with(lab, "train", 4)
    assert await data() == 4
    for node in lab.nodes[:2]:
        await lab.client.patch(NODES, node, {"spec": {"unschedulable": True}})
    lab.kubelet.endings["train-worker-0"] = 1
    # Three would not cut the batch of 8, and only two nodes are open.
    await runs_with(lab, "train", 2)
    assert await data() == 2


async def test_nobody_stops_to_grow_when_the_room_is_gone(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("first", workers=2)
    await lab.until_state("first", "Running")
    await lab.add_job("train", workers=4, scheduling=elastic(2), runPolicy={"checkpointSeconds": 3600})
    await runs_with(lab, "train", 2)
    lab.kubelet.endings |= {"first-worker-0": 0, "first-worker-1": 0}
    await lab.until_status("train", "is about to grow", lambda s: (s.get("disruption") or {}).get("workers") == 4)
    await lab.add_job("next", workers=2)
    await lab.until_state("next", "Running")
    status = await lab.until_status("train", "stays as it is", lambda s: not s.get("disruption"))
    assert (status["state"], status["attempt"], size(status)) == ("Running", 0, 2)
