"""The operator is killed at any moment, or two of them run: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.wire.controlplane import ControlPlane
from tests.wire.operatorlab import Lab, laboratory

from supernode.cluster.kinds import CONFIG_MAPS, JOBS, LEASES, PODS, SECRETS, SERVICES, Json
from supernode.errors import NotFoundError
from supernode.names import FINALIZER, LEASE_NAME, LEASE_NAMESPACE

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(300)]

KILLS = 20


@pytest.fixture
async def lab(real_cluster: ControlPlane, tmp_path: Path) -> AsyncIterator[Lab]:
    async with laboratory(real_cluster, tmp_path) as lab:
        await lab.add_nodes(4)
        await lab.add_pool()
        await lab.add_group()
        yield lab


async def free_the_lease(lab: Lab) -> None:
    """What waiting for the dead leader's lease to run out comes to, without the wait."""
    try:
        await lab.client.delete(LEASES, LEASE_NAME, LEASE_NAMESPACE)
    except NotFoundError:
        return


def invariants(jobs: list[Json], pods: list[Json]) -> list[str]:
    """What must hold at every moment, whoever was killed when."""
    wrong: list[str] = []
    by_uid = {job["metadata"]["uid"]: job for job in jobs}
    claims: dict[tuple[str, int], str] = {}
    for job in jobs:
        name, status = job["metadata"]["name"], job.get("status") or {}
        if status.get("state") in ("Succeeded", "Failed"):
            continue
        for worker in (status.get("placement") or {}).get("workers", []):
            for device in worker["devices"]:
                other = claims.setdefault((worker["node"], device), name)
                if other != name:
                    wrong.append(f"{worker['node']} device {device}: claimed by {other} and {name}")
    for pod in pods:
        labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
        job = by_uid.get(labels["supernode.dev/job-uid"])
        if job is None:
            wrong.append(f"orphan pod {name}")
            continue
        placement = (job.get("status") or {}).get("placement")
        if pod["status"].get("phase") not in ("Succeeded", "Failed") and placement is None:
            wrong.append(f"pod {name} runs without a claim")
    return wrong


async def look(lab: Lab) -> list[str]:
    # Pods first: a job read later can only be newer, and no pod may outlive its job's claim.
    pods = (await lab.client.list_page(PODS, lab.namespace))["items"]
    jobs = (await lab.client.list_page(JOBS, lab.namespace))["items"]
    found = invariants(jobs, pods)
    if not found:
        return []
    # The two lists are not of one moment: only what a second look shows too is real.
    again = (await lab.client.list_page(PODS, lab.namespace))["items"]
    there = {pod["metadata"]["uid"] for pod in again}
    return invariants(
        (await lab.client.list_page(JOBS, lab.namespace))["items"],
        [pod for pod in pods if pod["metadata"]["uid"] in there],
    )


async def test_killed_at_twenty_moments_of_start_run_and_end(lab: Lab) -> None:
    """Job after job is started, run and ended, while the operator is killed at moments spread over all of it."""
    chance = random.Random(20261122)
    kills = 0
    process = lab.operator()
    number = 0
    while kills < KILLS:
        name = f"job{number}"
        number += 1
        await lab.add_job(name, workers=4)
        await lab.add_job(f"{name}-next", workers=4)
        for each in (name, f"{name}-next"):
            # From the job's making to its end: some kills hit the claim, some the creates, some the end.
            for part in ("start", "run", "end"):
                if part == "end":
                    lab.kubelet.endings |= {f"{each}-worker-{rank}": 0 for rank in range(4)}
                if kills < KILLS:
                    await asyncio.sleep(chance.uniform(0.0, 0.6) if part != "run" else chance.uniform(0.0, 0.2))
                    process.kill()
                    kills += 1
                    assert await look(lab) == []
                    await free_the_lease(lab)
                    process = lab.operator()
                    if part == "start":
                        # Killed once more while it comes up: reading, claiming again, going on creating.
                        await asyncio.sleep(chance.uniform(0.8, 2.0))
                if part == "run":
                    await lab.until_state(each, "Running", "Succeeded")
                    assert await look(lab) == []
            done = await lab.until_state(each, "Succeeded")
            assert done["status"]["restarts"] == 0, "a kill of the operator must not cost a job an attempt"
            assert done["status"]["attempt"] == 0
    assert kills == KILLS
    for obj in (await lab.client.list_page(JOBS, lab.namespace))["items"]:
        await lab.client.delete(JOBS, obj["metadata"]["name"], lab.namespace)
    process.kill()
    await free_the_lease(lab)
    lab.operator()

    async def empty() -> bool:
        return not (await lab.client.list_page(JOBS, lab.namespace))["items"]

    await lab.until("all jobs are gone, no finalizer is stuck", empty)
    for kind in (PODS, SERVICES, SECRETS, CONFIG_MAPS):
        items = (await lab.client.list_page(kind, lab.namespace))["items"]
        assert [i["metadata"]["name"] for i in items if "supernode.dev/job" in i["metadata"].get("labels", {})] == []


async def test_a_job_deleted_while_no_operator_runs_is_cleaned_up(lab: Lab) -> None:
    process = lab.operator()
    await lab.add_job("train")
    await lab.until_state("train", "Running")
    process.kill()
    await lab.client.delete(JOBS, "train", lab.namespace)
    assert FINALIZER in (await lab.job("train"))["metadata"]["finalizers"]
    await free_the_lease(lab)
    lab.operator()

    async def empty() -> bool:
        return not (await lab.client.list_page(JOBS, lab.namespace))["items"]

    await lab.until("the job is gone", empty)
    assert await lab.job_pods("train") == []


async def test_pods_of_a_job_whose_finalizer_was_torn_off_are_swept(lab: Lab) -> None:
    process = lab.operator()
    await lab.add_job("train")
    await lab.until_state("train", "Running")
    process.kill()
    await lab.client.delete(JOBS, "train", lab.namespace)
    await lab.client.patch(JOBS, "train", {"metadata": {"finalizers": None}}, lab.namespace)
    await lab.add_job("train")
    await free_the_lease(lab)
    lab.operator()
    obj = await lab.until_state("train", "Running")
    pods = await lab.job_pods("train")
    assert {pod["metadata"]["labels"]["supernode.dev/job-uid"] for pod in pods} == {obj["metadata"]["uid"]}


async def test_a_standby_takes_over_and_only_one_acts(lab: Lab) -> None:
    first = lab.operator()
    await lab.add_job("one")
    await lab.until_state("one", "Running")
    second = lab.operator()

    async def stands_by() -> bool:
        return "standing by" in second.text()

    await lab.until("the second stands by", stands_by)
    first.kill()
    await lab.add_job("two")
    await lab.until_state("two", "Running")
    assert "leading" in second.text()
    assert (await lab.job("one"))["status"]["attempt"] == 0
    # Told to stop, it gives the lease back: the next one starts at once.
    assert second.stop() == 0
    third = lab.operator(lease=30)
    await lab.add_job("three", workers=1, devices=1, pools=[lab.pool])
    assert third.popen.poll() is None
    await lab.until_state("three", "Waiting", "Running", seconds=20)


async def test_who_loses_the_lease_stops_writing_and_ends(lab: Lab) -> None:
    process = lab.operator()
    await lab.add_job("one")
    await lab.until_state("one", "Running")
    thief = {"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 3600}}
    await lab.client.patch(LEASES, LEASE_NAME, thief, LEASE_NAMESPACE)

    async def ended() -> bool:
        return process.popen.poll() is not None

    await lab.until("it has ended", ended)
    assert process.popen.returncode == 1
    assert "lost the lease" in process.text()
    await free_the_lease(lab)
