"""disruptionMode Single on real devices: what goes wrong with one worker is no matter of the others."""

from __future__ import annotations

import json

import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import Lab
from tests.wire.promises import free_the_lease

from supernode.cluster.kinds import CONFIG_MAPS, Json
from supernode.cluster.manifests import HOSTFILE_KEY, TOPOLOGY_KEY, fabric_name

pytestmark = pytest.mark.timeout(180)


async def uids(lab: Lab, name: str) -> dict[int, str]:
    """Rank -> uid of its pod."""
    pods = [pod for pod in await lab.job_pods(name) if "deletionTimestamp" not in pod["metadata"]]
    return {int(pod["metadata"]["labels"]["supernode.dev/rank"]): pod["metadata"]["uid"] for pod in pods}


def supernodes(status: Json) -> list[int]:
    """Which super-node each rank is in: two nodes each, by the nodes' numbers."""
    return [int(worker["node"].rpartition("-")[2]) // 2 for worker in workers_in(status["placement"])]


async def settled(lab: Lab, name: str, workers: int, restarts: int) -> Json:
    return await lab.until_status(
        name,
        f"{workers} run after {restarts} restarts",
        lambda s: s.get("state") == "Running" and s["ready"].startswith(f"{workers}/") and s["restarts"] == restarts,
    )


async def test_a_worker_is_replaced_alone(hardware_lab: Lab) -> None:
    lab = hardware_lab
    process = lab.operator()
    repair = {"repair": {"nodeLossSeconds": 0, "holdSeconds": 3600}, "backoffLimit": 2}
    single = {"disruptionMode": "Single"}
    await lab.add_job("train", workers=3, framework="MPI", scheduling=single, runPolicy=repair)
    first = await settled(lab, "train", 3, 0)
    before = await uids(lab, "train")
    lab.kubelet.stuck = True
    lab.kubelet.endings["train-worker-1"] = 1
    await lab.until_status("train", "replaces one", lambda s: (s.get("disruption") or {}).get("replacing"))
    process.kill()
    lab.kubelet.stuck = False
    await free_the_lease(lab)
    lab.operator()
    second = await settled(lab, "train", 3, 1)
    after = await uids(lab, "train")
    assert [rank for rank in range(3) if before[rank] != after[rank]] == [1]
    assert second["attempt"] == 0
    assert workers_in(second["placement"]) == workers_in(first["placement"])
    # A node is lost for good: its rank goes elsewhere, here to the other super-node, and the others don't notice.
    homes = supernodes(second)
    moved = next(rank for rank in range(3) if homes.count(homes[rank]) == 2)
    await lab.node_ready(workers_in(second["placement"])[moved]["node"], "Unknown")
    third = await settled(lab, "train", 3, 2)
    stay = [rank for rank in range(3) if rank != moved]
    old, new = workers_in(second["placement"]), workers_in(third["placement"])
    assert [new[rank] for rank in stay] == [old[rank] for rank in stay]
    assert new[moved]["node"] not in {worker["node"] for worker in old}
    last = await uids(lab, "train")
    assert [rank for rank in range(3) if after[rank] != last[rank]] == [moved]
    # The wiring that the pods may read is that of the new places.
    name = fabric_name("train", (await lab.job("train"))["metadata"]["uid"])
    wiring = json.loads((await lab.client.get(CONFIG_MAPS, name, lab.namespace))["data"][TOPOLOGY_KEY])
    domains, places = wiring["domains"][1], supernodes(third)
    assert places != homes
    assert [[a == b for b in domains] for a in domains] == [[a == b for b in places] for a in places]
    lab.kubelet.endings["train-worker-0"] = 1
    assert "backoffLimit is 2" in (await lab.until_state("train", "Failed"))["status"]["message"]


async def test_a_gang_runs_on_while_one_of_it_waits_for_a_node(hardware_lab: Lab) -> None:
    lab = hardware_lab
    lab.operator()
    repair = {"repair": {"nodeLossSeconds": 0, "holdSeconds": 3600}}
    await lab.add_job("train", workers=4, scheduling={"disruptionMode": "Single"}, runPolicy=repair)
    first = await settled(lab, "train", 4, 0)
    before = await uids(lab, "train")
    lost = workers_in(first["placement"])[3]["node"]
    await lab.node_ready(lost, "Unknown")

    async def waits() -> bool:
        return (await lab.condition("train", "Scheduled")).get("reason") == "WaitingForRepair"

    await lab.until("it waits for repair", waits)
    assert {rank: uid for rank, uid in before.items() if rank < 3} == await uids(lab, "train")
    await lab.node_ready(lost, "True")
    assert workers_in((await settled(lab, "train", 4, 1))["placement"]) == workers_in(first["placement"])


async def test_workers_that_can_be_done_without_go_and_the_others_run_on(hardware_lab: Lab) -> None:
    lab = hardware_lab
    high = await lab.add_class("high", 1000)
    lab.operator()
    scheduling = {"disruptionMode": "Single", "policy": {"gang": {"minCount": 2}}}
    await lab.add_job("low", workers=4, framework="MPI", scheduling=scheduling, runPolicy={"checkpointSeconds": 1})
    await settled(lab, "low", 4, 0)
    before = await uids(lab, "low")
    await lab.add_job("high", workers=1, scheduling={"priorityClassName": high})
    await lab.until_state("high", "Running")
    status = await settled(lab, "low", 3, 0)
    assert status["attempt"] == 0
    assert "disruption" not in status
    assert await uids(lab, "low") == {rank: uid for rank, uid in before.items() if rank < 3}
    # Those that run on read of no rank that has gone.
    name = fabric_name("low", (await lab.job("low"))["metadata"]["uid"])
    told = (await lab.client.get(CONFIG_MAPS, name, lab.namespace))["data"]
    assert [line.partition(".")[0] for line in told[HOSTFILE_KEY].splitlines()] == [f"low-worker-{n}" for n in range(3)]
    assert [len(domains) for domains in json.loads(told[TOPOLOGY_KEY])["domains"]] == [3, 3, 3]
