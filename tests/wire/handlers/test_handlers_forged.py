"""Statuses that no operator of ours has written: they stop nobody, neither this job nor another."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders.placements import placed_on, workers_in
from tests.wire.operatorlab import Lab

from supernode.cluster.kinds import JOBS

pytestmark = pytest.mark.timeout(180)

FAR = "2999-01-01T00:00:00Z"


async def write(lab: Lab, job: str, **status: Any) -> None:
    await lab.client.patch(JOBS, job, {"status": status}, lab.namespace, subresource="status")


async def test_forged_plans_stop_nobody(either_lab: Lab) -> None:
    lab = either_lab
    high = await lab.add_class("high", 1000)
    lab.operator()
    scheduling = {"priorityClassName": high}
    await lab.add_job("runs", workers=2, scheduling=scheduling, runPolicy={"checkpointSeconds": 1})
    first = await lab.until_state("runs", "Running")
    await lab.add_job("waits", workers=4, runPolicy={"checkpointSeconds": 1})
    await lab.until_state("waits", "Waiting")
    # A gang of low priority would have one of high priority stop.
    victim = {"key": f"{lab.namespace}/runs", "uid": first["metadata"]["uid"], "attempt": 0}
    nobody = {"key": "nowhere", "uid": "x", "attempt": -5, "workers": 99}
    await write(lab, "waits", nomination={"since": FAR, "nodes": ["n"], "victims": [victim, nobody]}, retryAt=FAR)
    await lab.until_status("waits", "is told what it waits for", lambda s: "nomination" not in s)
    status = (await lab.job("runs"))["status"]
    assert (status["state"], status["attempt"]) == ("Running", 0)
    assert "disruption" not in status
    for kind in ("Preemption", "Resize", "Migration", "Repair"):
        plan = {"kind": kind, "by": "nobody/there", "requestedAt": FAR, "deadline": FAR, "workers": 7, "nodes": ["n"]}
        await write(lab, "runs", disruption=plan)
        await lab.until_status(
            "runs", f"{kind} comes to nothing", lambda s: s["state"] == "Running" and "disruption" not in s
        )
    status = (await lab.job("runs"))["status"]
    assert (status["restarts"], len(workers_in(status["placement"]))) == (0, 2)
    # Somebody else's words about places: the gang is told, given up and queued; the others go on.
    placement = {
        **status["placement"],
        **placed_on([{"node": "n", "devices": [200]}, {"node": "n", "devices": [200, 201]}]),
    }
    await write(lab, "runs", placement=placement, state="Restarting")
    # Of high priority: else its turn comes after the one that waits for all devices.
    await lab.add_job("good", workers=2, scheduling=scheduling)
    await lab.until_state("good", "Running")
    lab.kubelet.endings |= {"good-worker-0": 0, "good-worker-1": 0}
    await lab.until_state("runs", "Running")
    lab.kubelet.endings |= {"runs-worker-0": 0, "runs-worker-1": 0}
    await lab.until_state("waits", "Running")
