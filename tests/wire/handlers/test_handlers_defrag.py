"""A cluster that is busy but can neither compute nor move: who waits gets room when others move, and nobody is hurt."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys

import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import Lab
from tests.wire.promises import free_the_lease

from supernode.cluster.kinds import JOBS, POOLS, Json
from supernode.names import ANNOTATION_DEFRAGMENT

pytestmark = pytest.mark.timeout(180)
TOGETHER: Json = {"constraints": {"topology": [{"level": "supernode", "mode": "Required"}]}}


async def command(lab: Lab, *arguments: str) -> str:
    """What `supernode defrag` says."""
    line = [sys.executable, "-m", "supernode", "defrag", "--kubeconfig", str(lab.cluster.admin), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = await asyncio.to_thread(subprocess.run, line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def a_torn_cluster(lab: Lab, **spec: object) -> dict[str, str]:
    """Two super-nodes of two nodes with two devices; in each a job holds one node. Half of all is free, and a gang of
    two nodes that must be together finds no place. Gives each job's node.
    """
    # One job a node until all four are full; then one in each super-node ends.
    for index in range(4):
        await lab.add_job(f"small-{index}", workers=1, **spec)
        await lab.until_state(f"small-{index}", "Running")
    where = {
        f"small-{i}": workers_in((await lab.job(f"small-{i}"))["status"]["placement"])[0]["node"] for i in range(4)
    }
    # lab.nodes: the first two are one super-node, the last two the other.
    by_node = {node: name for name, node in where.items()}
    for node in (lab.nodes[0], lab.nodes[2]):
        lab.kubelet.endings[f"{by_node[node]}-worker-0"] = 0
        await lab.until_state(by_node[node], "Succeeded")
        del where[by_node[node]]
    return where


async def test_a_torn_cluster_is_cured_by_moving_one_gang(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    where = await a_torn_cluster(lab, runPolicy={"checkpointSeconds": 1})
    await lab.add_job("wide", workers=2, scheduling=TOGETHER)
    await lab.until_state("wide", "Waiting")
    assert (await lab.client.get(POOLS, lab.pool))["status"]["free"] == 4, "half of the cluster is free"
    key = f"{lab.namespace}/wide"
    plan = json.loads(await command(lab, "--for", key, "-o", "json"))
    assert [move["devices"] for move in plan["moves"]] == [2]
    assert plan["gainDeviceSeconds"] > plan["costDeviceSeconds"] > 0
    assert not plan["requested"]
    shown = await command(lab, "--for", key)
    assert plan["moves"][0]["job"] in shown
    assert "--yes" in shown
    assert (await lab.job("wide"))["status"]["state"] == "Waiting", "a plan is only a plan"
    await command(lab, "--for", key, "--yes")
    wide = (await lab.until_state("wide", "Running"))["status"]
    mover = plan["moves"][0]["job"].partition("/")[2]
    moved = await lab.until_status(mover, "runs again", lambda s: s["state"] == "Running" and s["attempt"] == 1)
    assert workers_in(moved["placement"])[0]["node"] != where[mover]
    assert (moved["restarts"], moved.get("disruption")) == (0, None)
    other = next(name for name in where if name != mover)
    assert (await lab.job(other))["status"]["attempt"] == 0, "who need not move is left alone"
    assert "nomination" not in wide
    assert ANNOTATION_DEFRAGMENT not in (await lab.job("wide"))["metadata"].get("annotations", {})
    again = json.loads(await command(lab, "--for", key, "-o", "json"))
    assert (again["moves"], again["why"]) == ([], "it has a place already")
    jobs = (await lab.client.list_page(JOBS, lab.namespace))["items"]
    ended = next(job["metadata"]["name"] for job in jobs if job["status"]["state"] == "Succeeded")
    assert "it has ended" in await command(lab, "--for", f"{lab.namespace}/{ended}")


async def test_who_asks_again_at_once_is_answered_again(either_lab: Lab) -> None:
    """Though nothing else has changed since the last answer, and the request may be back before anybody has looked."""
    lab = either_lab
    lab.operator()
    await lab.add_job("wide", workers=5)
    await lab.until_state("wide", "Waiting")
    assert "it can never be placed" in await command(lab, "--for", f"{lab.namespace}/wide")
    patch = {"metadata": {"annotations": {ANNOTATION_DEFRAGMENT: "1"}}}
    for _ in range(30):
        await lab.client.patch(JOBS, "wide", patch, lab.namespace)
        async with asyncio.timeout(40):
            while ANNOTATION_DEFRAGMENT in (await lab.job("wide"))["metadata"].get("annotations", {}):  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_it_goes_on_however_often_the_operator_is_killed(either_lab: Lab) -> None:
    lab = either_lab
    chance, process = random.Random(5), lab.operator()
    await a_torn_cluster(lab, runPolicy={"checkpointSeconds": 1})
    await lab.add_job("wide", workers=2, scheduling=TOGETHER)
    await lab.until_state("wide", "Waiting")
    patch = {"metadata": {"annotations": {ANNOTATION_DEFRAGMENT: "1"}}}
    await lab.client.patch(JOBS, "wide", patch, lab.namespace)
    for _ in range(4):
        await asyncio.sleep(chance.uniform(0.3, 1.5))
        process.kill()
        await free_the_lease(lab)
        process = lab.operator()
    await lab.until_state("wide", "Running")
    attempts = []
    for obj in (await lab.client.list_page(JOBS, lab.namespace))["items"]:
        if obj["status"]["state"] != "Succeeded" and obj["metadata"]["name"] != "wide":
            status = await lab.until_status(obj["metadata"]["name"], "runs", lambda s: s["state"] == "Running")
            attempts.append((status["attempt"], status["restarts"]))
    assert sorted(attempts) == [(0, 0), (1, 0)]


async def test_nobody_moves_against_his_policy_or_unasked(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await a_torn_cluster(lab, scheduling={"disruptionMode": "Single"})
    await lab.add_job("wide", workers=2, scheduling=TOGETHER)
    await lab.until_state("wide", "Waiting")
    found = json.loads(await command(lab, "--for", f"{lab.namespace}/wide", "-o", "json", "--yes"))
    assert found["moves"] == []
    assert "may be moved" in found["why"]
    patch = {"metadata": {"annotations": {ANNOTATION_DEFRAGMENT: "1"}}}
    await lab.client.patch(JOBS, "wide", patch, lab.namespace)

    async def taken_off() -> bool:
        return ANNOTATION_DEFRAGMENT not in (await lab.job("wide"))["metadata"].get("annotations", {})

    await lab.until("the request is answered", taken_off)
    wide = (await lab.job("wide"))["status"]
    assert (wide["state"], wide.get("nomination")) == ("Waiting", None)


async def test_a_pool_may_see_to_it_by_itself(either_lab: Lab) -> None:
    lab = either_lab
    rule = {"mode": "Automatic", "afterSeconds": 0, "maxMoves": 1, "restSeconds": 0}
    lab.operator()
    where = await a_torn_cluster(lab, runPolicy={"checkpointSeconds": 0})
    await lab.add_job("wide", workers=2, scheduling=TOGETHER)
    await lab.until_state("wide", "Waiting")
    # Those that have not been long enough where they are rest.
    await lab.client.patch(POOLS, lab.pool, {"spec": {"defragmentation": {**rule, "restSeconds": 3600}}})
    await asyncio.sleep(1)
    assert (await lab.job("wide"))["status"]["state"] == "Waiting"
    await lab.client.patch(POOLS, lab.pool, {"spec": {"defragmentation": rule}})
    await lab.until_state("wide", "Running")
    moved = [name for name in where if (await lab.job(name))["status"]["attempt"] == 1]
    assert len(moved) == 1
