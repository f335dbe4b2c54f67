"""What a job's user, its pods and its nodes may do at the worst moment: real processes on the embedded engine.

After each trouble the same holds: nothing of the job is left, all devices are free, and the next gang gets them.
"""

from __future__ import annotations

import asyncio
import re
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.builders.placements import placed_on, workers_in
from tests.builders.trouble import CORE, OURS, SLEEPING, SUMMING, Trouble, trouble

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]
NODES = "/api/v1/nodes"
POOL = f"{OURS}/acceleratorpools/dcu"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Trouble]:
    with tempfile.TemporaryDirectory(prefix="sn", dir="/tmp") as folder:
        async with trouble(Path(folder)) as lab:
            yield lab


@pytest_asyncio.fixture(loop_scope="module")
async def lab(cluster: Trouble) -> AsyncIterator[Trouble]:
    yield cluster
    # Where a test has failed: the next one starts from nothing all the same.
    for obj in (await cluster.client.get(f"{OURS}/trainingjobs"))["items"]:
        await cluster.delete(obj["metadata"]["name"])


async def test_killed_processes_restart_the_gang_until_the_limit(lab: Trouble) -> None:
    await lab.job("hit", SUMMING, runPolicy={"backoffLimit": 2})
    await lab.until_state("hit", "Running")
    await lab.signal("hit-worker-1")
    # Far below the 60 s after which the other sidecar would give up by itself.
    await lab.until_state("hit", "Running", restarts=1)
    await lab.signal("hit-worker-1", "supernode-emulator")
    await lab.until_state("hit", "Running", restarts=2)
    await asyncio.gather(lab.signal("hit-worker-0"), lab.signal("hit-worker-0", "supernode-emulator"))
    status = await lab.until_state("hit", "Failed")
    assert "worker 0 on node" in status["message"]
    assert "backoffLimit is 2" in status["message"]
    # A job that has ended holds nothing, whether or not somebody deletes it.
    await lab.job("next", workers=4)
    await lab.until_state("next", "Running")
    await lab.settled("hit", "next")


async def test_a_failed_worker_need_not_wait_for_its_stubborn_neighbour(lab: Trouble) -> None:
    neighbour = {"name": "neighbour", "image": "python", "command": ["python", "-c", STUBBORN]}
    trainer = {"name": "trainer", "image": "python", "command": ["python", "-c", "raise SystemExit(3)"]}
    pod = {"containers": [trainer, neighbour], "terminationGracePeriodSeconds": 1}
    await lab.job("odd", pod=pod, runPolicy={"backoffLimit": 0})
    status = await lab.until_state("odd", "Failed")
    assert "failed with exit code 3" in status["message"]
    await lab.settled("odd")


async def test_deletes_at_many_moments_of_a_start_leave_nothing(lab: Trouble) -> None:
    await lab.job("stays", SUMMING, workers=1)
    for moment in range(10):
        # The same name again and again, and names of their own that end side by side.
        for name in ("same", f"own-{moment}"):
            await lab.job(name, SUMMING, workers=1 + moment % 2, devices=1)
        await asyncio.sleep(moment * 0.1)
        await asyncio.gather(lab.delete("same"), lab.delete(f"own-{moment}"))
        await lab.gone("same")
    status = await lab.until_state("stays", "Running")
    assert status["restarts"] == 0
    await lab.settled("stays")


async def test_pods_and_shared_objects_deleted_by_hand(lab: Trouble) -> None:
    await lab.job("hand")
    await lab.until_state("hand", "Running")
    shared = f"hand-fabric-{(await lab.client.get(lab.path('hand')))['metadata']['uid'][:8]}"
    for path in (f"{CORE}/secrets/{shared}", f"{CORE}/configmaps/{shared}", f"{CORE}/services/hand"):
        await lab.client.delete(path)
    await lab.client.delete(f"{CORE}/pods/hand-worker-1", {"gracePeriodSeconds": 0})
    status = await lab.until_state("hand", "Running", restarts=1)
    assert status["attempt"] == 1
    await lab.settled("hand")


async def test_what_keeps_a_worker_from_starting_is_said(lab: Trouble) -> None:
    missing = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "nope", "key": "k"}}}
    await lab.job("image", container={"image": "nobody/has:this"})
    await lab.job("secret", container={"env": [missing]})

    async def said() -> bool:
        events = await lab.events("image") + await lab.events("secret")
        return all(any(word in event for event in events) for word in ("nobody/has:this", 'secret "nope" not found'))

    await lab.until("both are warned of", said)
    message = (await lab.status("image"))["message"]
    # Whichever worker's kubelet has said it first.
    assert re.search(r"worker [01] on node dcu-\d: (ErrImagePull|ImagePullBackOff)", message)
    await lab.settled("image", "secret")


async def test_a_job_that_ignores_sigterm_ends_with_its_grace_period(lab: Trouble) -> None:
    await lab.job("deaf", STUBBORN)
    await lab.until_state("deaf", "Running")
    await lab.settled("deaf")


async def test_malformed_templates_are_named_and_stop_nobody(lab: Trouble) -> None:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    broken = {
        "affinity": {"affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": "x"}}}},
        "tolerations": {"tolerations": [{"key": 5}]},
        "nodeselector": {"nodeSelector": {"a": 1}},
    }
    for name, pod in broken.items():
        await lab.job(name, pod=pod)
    await lab.job("good", workers=4)
    await lab.until_state("good", "Running")
    for name in broken:
        status = await lab.status(name)
        accepted = next(c for c in status["conditions"] if c["type"] == "Accepted")
        assert accepted["status"] == "False"
        assert f"spec.template.spec.{name}" in accepted["message"].lower()
    await lab.settled("good", *broken)


async def test_forged_pods_and_statuses_stop_nobody(lab: Trouble) -> None:
    sleeper = {"name": "c", "image": "python", "command": ["sleep", "600"]}
    forged = {
        "no-job": ({"supernode.dev/job-uid": "x"}, {}),
        "no-uid": ({"supernode.dev/job": "x"}, {}),
        "no-devices": ({}, {"supernode.dev/devices": "99999999999999999999,3"}),
    }
    for name, (tags, notes) in forged.items():
        metadata = {"name": name, "labels": tags, "annotations": notes}
        spec = {"nodeName": "dcu-3", "containers": [sleeper], "terminationGracePeriodSeconds": 0}
        await lab.client.create(f"{CORE}/pods", {"metadata": metadata, "spec": spec})
    await lab.job("real")
    placement = (await lab.until_state("real", "Running"))["placement"]
    placement |= placed_on([{**worker, "devices": [200]} for worker in workers_in(placement)])
    status = {"placement": placement, "completionTime": "0001-01-01T00:00:00Z"}
    await lab.client.patch(f"{lab.path('real')}/status", {"status": status})
    await lab.job("other", workers=1)
    await lab.until_state("other", "Running")
    for name in forged:
        # They are still there: none of them is ours to delete.
        await lab.client.delete(f"{CORE}/pods/{name}")
    await lab.settled("real", "other")


async def test_a_pool_that_goes_takes_no_new_gang_and_goes_with_the_last(lab: Trouble) -> None:
    pool = await lab.client.get(POOL)
    await lab.job("old", SLEEPING)
    await lab.until_state("old", "Running")
    await lab.client.delete(POOL)
    await lab.job("new")

    async def refused() -> bool:
        return (await lab.status("new")).get("message") == "spec.pools[0]: AcceleratorPool dcu is being deleted"

    await lab.until("new is refused", refused)
    assert (await lab.status("old"))["state"] == "Running"
    await lab.delete("old")

    async def gone() -> bool:
        return not (await lab.client.get(f"{OURS}/acceleratorpools"))["items"]

    await lab.until("the pool is gone", gone)
    assert "hygon.com/hcu" not in (await lab.client.get(f"{NODES}/dcu-0"))["status"]["allocatable"]
    await lab.client.create(
        f"{OURS}/acceleratorpools",
        {"apiVersion": pool["apiVersion"], "kind": pool["kind"], "metadata": {"name": "dcu"}, "spec": pool["spec"]},
    )
    await lab.until_state("new", "Running")
    # What is said first of a pool comes after its devices are offered.
    said = [event for event in await lab.events("dcu") if "accelerators" in event]
    assert said
    assert not [event for event in said if event.endswith(" 0 free")]
    await lab.settled("old", "new")


async def test_an_operator_that_stands_still_goes_on_with_what_is_there_then(lab: Trouble) -> None:
    await lab.job("edited", SUMMING)
    await lab.job("again", SUMMING, workers=1)
    await lab.job("gone", SUMMING, workers=1)
    (operator,) = lab.operators()
    for moment in range(3):
        lab.kill(operator, signal.SIGSTOP)
        await lab.client.patch(lab.path("edited"), {"spec": {"runPolicy": {"suspend": moment % 2 == 0}}})
        await lab.delete("gone")
        await asyncio.sleep(0.2 * moment)
        lab.kill(operator, signal.SIGCONT)
        await asyncio.sleep(0.2 * moment)
    await lab.client.patch(lab.path("edited"), {"spec": {"workers": 3, "runPolicy": {"suspend": False}}})
    status = await lab.until_state("edited", "Running")
    assert (status["restarts"], status["workers"]["desired"]) == (0, 3)
    await lab.gone("gone")
    await lab.settled("edited", "again")


# Saves when it is asked, in the way that docs/operator.md describes, and tells of SIGTERM.
SAVING = """
import os, pathlib, signal, sys, time
out, asked = pathlib.Path(sys.argv[1]), pathlib.Path(os.environ["SUPERNODE_CHECKPOINT_REQUEST"])
def say(word):
    with out.open("a") as file:
        print(os.environ["SUPERNODE_RANK"], word, file=file)
def end(*_):
    say("term")
    raise SystemExit(0)
signal.signal(signal.SIGTERM, end)
while not asked.read_text():
    time.sleep(0.05)
say("saved")
time.sleep(600)
"""


async def test_who_gives_way_sees_the_request_and_then_the_signal(lab: Trouble) -> None:
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    await lab.client.create(classes, {"metadata": {"name": "urgent"}, "value": 1000})
    said = lab.root / "said"
    container = {"command": ["python", "-c", SAVING, str(said)]}
    await lab.job("gives", workers=4, container=container, runPolicy={"checkpointSeconds": 3})
    await lab.until_state("gives", "Running")
    await lab.job("takes", workers=4, scheduling={"priorityClassName": "urgent"})
    await lab.until_state("takes", "Running")
    lines = said.read_text().splitlines()
    assert sorted(lines[:4]) == [f"{rank} saved" for rank in range(4)]
    assert sorted(lines[4:]) == [f"{rank} term" for rank in range(4)]
    status = await lab.until_state("gives", "Waiting")
    assert (status["restarts"], status["attempt"]) == (0, 1)
    await lab.delete("takes")
    await lab.until_state("gives", "Running")
    await lab.client.delete(f"{classes}/urgent")
    await lab.settled("gives", "takes")


async def test_nodes_that_close_or_go(lab: Trouble) -> None:
    await lab.job("moved", SUMMING, workers=1)
    node = workers_in((await lab.until_state("moved", "Running"))["placement"])[0]["node"]
    taint = {"key": "broken", "effect": "NoExecute"}
    await lab.client.patch(f"{NODES}/{node}", {"spec": {"taints": [taint]}})
    status = await lab.until_state("moved", "Running", restarts=1)
    other = workers_in(status["placement"])[0]["node"]
    assert other != node
    await lab.client.patch(f"{NODES}/{node}", {"spec": {"taints": None}})
    await lab.client.delete(f"{NODES}/{other}")
    status = await lab.until_state("moved", "Running", restarts=2)
    assert workers_in(status["placement"])[0]["node"] != other
    lost = f"worker 0 is lost: node {other} is no longer in the cluster"
    assert any(lost in event for event in await lab.events("moved"))
    await lab.settled("moved")
