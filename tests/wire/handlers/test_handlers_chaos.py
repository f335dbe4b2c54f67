"""Everything at once: urgent jobs, elastic jobs, nodes that flap, workers that fail, users who change their minds.

The operator is killed again and again, and the API server has a bad day. At every step the promises hold, and when it
is quiet again every job that was not taken back comes to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from pathlib import Path

import pytest
from tests.builders.placements import workers_in
from tests.wire.engines import BAD_DAY, embedded
from tests.wire.operatorlab import Lab, Process, laboratory
from tests.wire.promises import free_the_lease, look

from supernode.cluster.kinds import CONFIG_MAPS, JOBS, PODS, SECRETS, SERVICES, Json
from supernode.errors import ClusterError

pytestmark = pytest.mark.timeout(400)

STEPS = 30
POLICY: Json = {
    "backoffLimit": 10_000,
    "checkpointSeconds": 1,
    "startDeadlineSeconds": 20,
    "repair": {"nodeLossSeconds": 1, "holdSeconds": 2},
}


class Chaos:
    """One run, all of whose choices come from a seed."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self.lab = lab
        self.chance = random.Random(seed)
        self.jobs: list[str] = []
        self.classes: list[str] = []
        self.process: Process | None = None

    async def run(self) -> None:
        lab = self.lab
        self.classes = [await lab.add_class(name, value) for name, value in [("low", 1), ("mid", 50), ("high", 100)]]
        self.process = lab.operator()
        for _ in range(2):
            await self.new_job()
        steps = [self.new_job, self.kill, self.kill, self.flap, self.fail, self.suspend, self.scale, self.delete_pod]
        for _ in range(STEPS):
            await self.chance.choice(steps)()
            await asyncio.sleep(self.chance.uniform(0.0, 0.5))
            assert await look(lab) == []
        if len(self.jobs) > 1:
            await lab.client.delete(JOBS, self.jobs.pop(0), lab.namespace)

    # --- what happens -----------------------------------------------------------------------------------------------
    async def new_job(self) -> None:
        if len(self.jobs) >= 6:
            return
        name = f"job{len(self.jobs)}"
        self.jobs.append(name)
        workers = self.chance.randint(1, 4)
        gang = {"minCount": self.chance.randint(1, workers), "growAfterSeconds": 0}
        scheduling = {"priorityClassName": self.chance.choice(self.classes), "policy": {"gang": gang}}
        await self.lab.add_job(name, workers=workers, scheduling=scheduling, runPolicy=POLICY)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await free_the_lease(self.lab)
        self.process = self.lab.operator()

    async def flap(self) -> None:
        node = self.chance.choice(self.lab.nodes)
        await self.lab.node_ready(node, self.chance.choice(["True", "Unknown", "True"]))

    async def fail(self) -> None:
        job = self.chance.choice(self.jobs)
        self.lab.kubelet.endings[f"{job}-worker-{self.chance.randint(0, 3)}"] = self.chance.choice([1, 137])

    async def suspend(self) -> None:
        await self.change({"runPolicy": {"suspend": self.chance.random() < 0.4}})

    async def scale(self) -> None:
        # Fewer than minCount is refused by the API server; that is fine.
        await self.change({"workers": self.chance.randint(1, 4)})

    async def delete_pod(self) -> None:
        pods = await self.lab.job_pods(self.chance.choice(self.jobs))
        if pods:
            await self.lab.client.delete(PODS, self.chance.choice(pods)["metadata"]["name"], self.lab.namespace)

    async def change(self, spec: Json) -> None:
        with contextlib.suppress(ClusterError):
            await self.lab.client.patch(JOBS, self.chance.choice(self.jobs), {"spec": spec}, self.lab.namespace)

    # --- the end ----------------------------------------------------------------------------------------------------
    async def calm(self) -> None:
        """No more trouble: every pod that runs comes to a good end, and so does every job."""
        lab = self.lab
        lab.kubelet.endings.clear()
        for node in lab.nodes:
            await lab.node_ready(node, "True")
        for job in self.jobs:
            patch = {"spec": {"runPolicy": {"suspend": False}}}
            await lab.client.patch(JOBS, job, patch, lab.namespace)

        async def ended() -> bool:
            assert await look(lab) == []
            done = True
            for name in self.jobs:
                status = (await lab.job(name)).get("status", {})
                done = done and status.get("state") == "Succeeded"
                if status.get("state") == "Running":
                    count = len(workers_in(status["placement"]))
                    lab.kubelet.endings |= {f"{name}-worker-{rank}": 0 for rank in range(count)}
            return done

        await lab.until("every job has ended well", ended, seconds=120)
        for name in self.jobs:
            status = (await lab.job(name))["status"]
            assert {"disruption", "nomination"} & status.keys() == set()
            await lab.client.delete(JOBS, name, lab.namespace)

        async def empty() -> bool:
            left = (await lab.client.list_page(JOBS, lab.namespace))["items"]
            return not left

        await lab.until("no finalizer is stuck", empty)
        for kind in (PODS, SERVICES, SECRETS, CONFIG_MAPS):
            items = (await lab.client.list_page(kind, lab.namespace))["items"]
            assert [
                i["metadata"]["name"] for i in items if "supernode.dev/job" in i["metadata"].get("labels", {})
            ] == []


@pytest.mark.parametrize("seed", [1])
async def test_the_promises_hold_while_everything_happens_at_once(tmp_path: Path, seed: int) -> None:
    faults = dataclasses.replace(BAD_DAY, seed=seed)
    async with embedded(tmp_path, faults) as cluster, laboratory(cluster, tmp_path) as lab:
        await lab.furnish()
        chaos = Chaos(lab, seed)
        await chaos.run()
        await chaos.calm()
