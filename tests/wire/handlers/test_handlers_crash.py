"""The operator is killed at any moment, or two of them run: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from tests.wire.operatorlab import Lab
from tests.wire.promises import free_the_lease, look

from supernode.cluster.kinds import CONFIG_MAPS, JOBS, LEASES, PODS, SECRETS, SERVICES
from supernode.names import FINALIZER, LEASE_NAME, LEASE_NAMESPACE

# SUPERNODE_KILLS=100 for the long run.
KILLS = int(os.environ.get("SUPERNODE_KILLS", "20"))
# Seconds: the dead leader's lease is freed at once, and a busy machine must not take the living one's.
LEASE = 30

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(200 + 5 * KILLS)]


async def test_killed_at_many_moments_of_start_run_and_end(lab: Lab) -> None:
    """Job after job is started, run and ended, while the operator is killed at moments spread over all of it."""
    chance = random.Random(20261122)
    kills = 0
    process = lab.operator(lease=LEASE)
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
                    process = lab.operator(lease=LEASE)
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
    lab.operator(lease=LEASE)

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
    first = lab.operator(lease=5)
    await lab.add_job("one")
    await lab.until_state("one", "Running")
    second = lab.operator(lease=5)

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
