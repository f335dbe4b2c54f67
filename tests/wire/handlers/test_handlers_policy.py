"""Every field of `spec.runPolicy`, and who else may look after a job."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.builders.placements import placed_on
from tests.wire.operatorlab import Lab
from tests.wire.promises import free_the_lease

from supernode.cluster.kinds import EVENTS, JOBS, PODS, Json
from supernode.errors import BadRequestError, NotFoundError

pytestmark = pytest.mark.timeout(180)
CONTAINER = {"name": "trainer", "image": "python:3", "command": ["python", "-c", "pass"]}


def template(policy: str) -> Json:
    return {"spec": {"restartPolicy": policy, "containers": [CONTAINER]}}


def rules(*given: Json) -> Json:
    return {"podFailurePolicy": {"rules": list(given)}}


async def running(lab: Lab, name: str, attempt: int) -> Json:
    return await lab.until_status(
        name, f"attempt {attempt} runs", lambda s: s.get("state") == "Running" and s.get("attempt") == attempt
    )


async def gone(lab: Lab, name: str) -> None:
    async def check() -> bool:
        try:
            await lab.job(name)
        except NotFoundError:
            return True
        return False

    await lab.until(f"{name} is gone", check)


async def test_failures_mean_what_the_rules_say(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    policy = rules(
        {"action": "FailJob", "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [42, 43]}},
        {"action": "Ignore", "onReasons": ["NodeTainted"]},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}},
        {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [1]}},
    )
    await lab.add_job("train", runPolicy={"backoffLimit": 1, **policy})
    await running(lab, "train", 0)
    lab.kubelet.endings["train-worker-0"] = 7
    assert (await running(lab, "train", 1))["restarts"] == 0
    # What `kubectl drain` does: the eviction says so in the pod, then the pod goes.
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    patch = {"status": {"conditions": [{"type": "Ready", "status": "True"}, condition]}}
    lab.kubelet.stuck = True
    await lab.client.patch(PODS, "train-worker-1", patch, lab.namespace, subresource="status")
    await lab.client.delete(PODS, "train-worker-1", lab.namespace)
    await lab.until_status("train", "restarts", lambda s: s["state"] == "Restarting")
    lab.kubelet.stuck = False
    assert (await running(lab, "train", 2))["restarts"] == 0
    lab.kubelet.endings["train-worker-1"] = 9
    assert (await running(lab, "train", 3))["restarts"] == 1
    lab.kubelet.endings["train-worker-0"] = 42
    failed = (await lab.until_state("train", "Failed"))["status"]
    assert "exit code 42" in failed["message"]
    assert "podFailurePolicy" in failed["message"]


async def test_a_deadline_counts_over_restarts_and_begins_again_with_a_resume(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("train", runPolicy={"activeDeadlineSeconds": 5})
    first = await running(lab, "train", 0)
    await asyncio.sleep(2)
    await lab.client.patch(JOBS, "train", {"spec": {"runPolicy": {"suspend": True}}}, lab.namespace)
    await lab.until_status("train", "is suspended", lambda s: s["state"] == "Suspended" and "placement" not in s)
    await lab.client.patch(JOBS, "train", {"spec": {"runPolicy": {"suspend": False}}}, lab.namespace)
    resumed = await running(lab, "train", 1)
    assert resumed["startTime"] > first["startTime"]
    lab.kubelet.endings["train-worker-0"] = 1
    again = await running(lab, "train", 2)
    assert again["startTime"] == resumed["startTime"], "a restart is no new start"
    failed = (await lab.until_state("train", "Failed"))["status"]
    assert "activeDeadlineSeconds" in failed["message"]
    assert failed["restarts"] == 1


async def test_containers_that_the_node_restarts_count_too(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("train", runPolicy={"backoffLimit": 2}, template=template("OnFailure"))
    await running(lab, "train", 0)
    pod = await lab.client.get(PODS, "train-worker-1", lab.namespace)
    assert pod["spec"]["restartPolicy"] == "OnFailure"
    for count in (2, 3):
        container = {**pod["status"]["containerStatuses"][0], "restartCount": count}
        patch = {"status": {"containerStatuses": [container]}}
        await lab.client.patch(PODS, "train-worker-1", patch, lab.namespace, subresource="status")
        if count == 2:
            await asyncio.sleep(0.5)
            assert (await lab.job("train"))["status"]["state"] == "Running"
    failed = (await lab.until_state("train", "Failed"))["status"]
    assert "restarted 3 times" in failed["message"]
    await lab.add_job("always", workers=1, template=template("Always"))
    await running(lab, "always", 0)
    assert (await lab.job_pods("always"))[0]["spec"]["restartPolicy"] == "Always"


async def test_an_exit_code_of_the_program_itself_is_not_tried_again(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("train", template=template("ExitCode"))
    await running(lab, "train", 0)
    lab.kubelet.endings["train-worker-0"] = 137
    assert (await running(lab, "train", 1))["restarts"] == 1
    lab.kubelet.endings["train-worker-0"] = 2
    assert (await lab.until_state("train", "Failed"))["status"]["restarts"] == 1


async def test_a_gang_that_does_not_start_gives_its_place_to_others_and_says_why(either_lab: Lab) -> None:
    lab = either_lab
    lab.kubelet.held = {"slow-worker-1"}
    process = lab.operator()
    await lab.add_job("slow", workers=4, runPolicy={"startDeadlineSeconds": 6})
    await lab.until_status("slow", "starts", lambda s: "3 of 4 workers run" in s.get("message", ""))
    pod = (await lab.client.get(PODS, "slow-worker-1", lab.namespace))["spec"]["containers"][0]
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    status: Json = {
        "name": pod["name"],
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": waiting,
    }
    patch = {"status": {"containerStatuses": [status]}}
    await lab.client.patch(PODS, "slow-worker-1", patch, lab.namespace, subresource="status")
    await lab.add_job("next", workers=4)
    status = await lab.until_status(
        "slow", "is tried again later", lambda s: s.get("requeues") and "placement" not in s
    )
    assert "startDeadlineSeconds (6 s)" in status["message"]
    assert "worker 1 on node" in status["message"]
    assert "ImagePullBackOff: no such image" in status["message"]
    assert status["restarts"] == 0
    # The pause is in the API: it holds for the next operator too.
    process.kill()
    await free_the_lease(lab)
    lab.operator()
    await lab.until_state("next", "Running")
    assert (await lab.job("slow"))["status"].get("placement") is None
    lab.kubelet.held = set()
    lab.kubelet.endings |= {f"next-worker-{rank}": 0 for rank in range(4)}
    status = (await lab.until_state("slow", "Running", seconds=60))["status"]
    assert {"requeues", "retryAt"} & status.keys() == set()


async def test_pods_of_a_job_that_has_ended(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    policies = {"none": {"Running", "Failed"}, "running": {"Failed"}, "all": set()}
    for name in policies:
        policy = {"backoffLimit": 0, "cleanPodPolicy": name.capitalize(), "ttlSecondsAfterFinished": 4}
        await lab.add_job(name, devices=1, runPolicy=policy)
    for name in policies:
        await running(lab, name, 0)
        lab.kubelet.endings[f"{name}-worker-1"] = 1
    for name, left in policies.items():
        await lab.until_state(name, "Failed")

        async def cleaned(name: str = name, left: set[str] = left) -> bool:
            return {pod["status"]["phase"] for pod in await lab.job_pods(name)} == left

        await lab.until(f"{name}: only {left} are left", cleaned, seconds=4)
    # The jobs go when their time is up, and what they left goes with them.
    for name in policies:
        await gone(lab, name)
        assert await lab.job_pods(name) == []


async def test_the_launcher_decides_about_an_mpi_job_and_all_workers_about_others(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    given: list[tuple[str, Json]] = [
        ("launcher", {"framework": "MPI"}),
        ("torch", {"framework": "PyTorch"}),
        ("strict", {"framework": "MPI", "runPolicy": {"successPolicy": "AllWorkers"}}),
    ]
    for name, spec in given:
        await lab.add_job(name, devices=1, **spec)
    for name, _ in given:
        await running(lab, name, 0)
        lab.kubelet.endings[f"{name}-worker-0"] = 0
    ended = (await lab.until_state("launcher", "Succeeded"))["status"]
    assert "rank 0 succeeded" in ended["message"]

    async def cleaned() -> bool:
        return [pod["metadata"]["name"] for pod in await lab.job_pods("launcher")] == ["launcher-worker-0"]

    await lab.until("the others are stopped, as cleanPodPolicy Running says", cleaned)
    for name in ("torch", "strict"):
        await lab.until_status(name, "rank 0 is done", lambda s: s.get("workers", {}).get("succeeded") == 1)
        assert (await lab.job(name))["status"]["state"] == "Running"
        lab.kubelet.endings[f"{name}-worker-1"] = 0
        await lab.until_state(name, "Succeeded")


async def test_a_job_of_another_controller_is_left_alone(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("theirs", workers=4, managedBy="kueue.x-k8s.io/multikueue")
    # What its status says is about another cluster: it holds nothing here.
    placement = {
        "attempt": 0,
        "pool": lab.pool,
        **placed_on([{"node": lab.nodes[0], "pool": lab.pool, "devices": [0, 1]}]),
    }
    await lab.client.patch(
        JOBS, "theirs", {"status": {"state": "Running", "placement": placement}}, lab.namespace, subresource="status"
    )
    await lab.add_job("ours", workers=4, managedBy="supernode.dev/operator")
    await running(lab, "ours", 0)
    theirs = await lab.job("theirs")
    assert "finalizers" not in theirs["metadata"]
    assert theirs["status"] == {"state": "Running", "placement": placement}
    events = (await lab.client.list_page(EVENTS, lab.namespace))["items"]
    assert [e for e in events if e["involvedObject"]["name"] == "theirs"] == []
    for change in ({"managedBy": "supernode.dev/operator"}, {"managedBy": None}):
        with pytest.raises(BadRequestError, match="can't be changed"):
            await lab.client.patch(JOBS, "theirs", {"spec": change}, lab.namespace)


BAD_RULES: list[Any] = [
    {"action": "FailJob"},
    {"action": "FailJob", "onReasons": ["A"], "onExitCodes": {"operator": "In", "values": [1]}},
    {"action": "Explode", "onReasons": ["A"]},
    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [0]}},
    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": []}},
]


async def test_rules_that_say_nothing_are_refused_at_once(either_lab: Lab) -> None:
    for index, rule in enumerate(BAD_RULES):
        with pytest.raises(BadRequestError):
            await either_lab.add_job(f"bad-{index}", runPolicy=rules(rule))
