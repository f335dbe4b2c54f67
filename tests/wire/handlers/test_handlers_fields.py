"""What fields of a job's spec do to it on the API server, where no other file here is about them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders.placements import workers_in
from tests.wire.operatorlab import RESOURCE, Lab

from supernode.cluster.kinds import GROUPS, JOBS, NODES, PODS, POOLS, Json

pytestmark = pytest.mark.timeout(180)


def wishes(*topology: tuple[str, str], slices: int = 0) -> Json:
    constraints: Json = {"topology": [{"level": level, "mode": mode} for level, mode in topology]}
    if slices:
        constraints["slices"] = [{"level": "supernode", "size": slices}]
    return {"constraints": constraints}


async def supernodes_of(lab: Lab, name: str) -> list[str]:
    """The super-node of each rank's node."""
    status = (await lab.until_state(name, "Running"))["status"]
    found = []
    for worker in workers_in(status["placement"]):
        labels = (await lab.client.get(NODES, worker["node"]))["metadata"]["labels"]
        found.append(labels["supernode.dev/supernode"])
    return found


async def end(lab: Lab, name: str, workers: int) -> None:
    lab.kubelet.endings |= {f"{name}-worker-{rank}": 0 for rank in range(workers)}
    await lab.until_state(name, "Succeeded")


async def test_wishes_about_the_wiring(either_lab: Lab) -> None:
    """Two super-nodes of two nodes of two devices; on one of each sits a gang that takes a whole node."""
    lab = either_lab
    lab.operator()
    await lab.add_job("left", workers=1, scheduling=wishes(("node", "Required")))
    await supernodes_of(lab, "left")
    # One super-node has both nodes free, the other one: two workers of a whole node fit together, four nowhere.
    await lab.add_job("together", workers=2, scheduling=wishes(("supernode", "Required")))
    assert len(set(await supernodes_of(lab, "together"))) == 1
    await lab.add_job("required", workers=2, devices=1, scheduling=wishes(("supernode", "Required")))
    await supernodes_of(lab, "required")  # both on the one node that is left
    await end(lab, "required", 2)
    await end(lab, "left", 1)
    await lab.add_job("across", workers=2, scheduling=wishes(("spine", "Required"), ("supernode", "Preferred")))
    assert len(set(await supernodes_of(lab, "across"))) == 1, "as it prefers"
    await end(lab, "together", 2)
    # Free: the whole of one super-node. Three workers prefer one and can't have it; where it is required they wait.
    await end(lab, "across", 2)
    await lab.add_job("wide", workers=3, scheduling=wishes(("supernode", "Preferred")))
    assert len(set(await supernodes_of(lab, "wide"))) == 2
    await end(lab, "wide", 3)
    await lab.add_job("narrow", workers=3, scheduling=wishes(("supernode", "Required")))
    await lab.until_state("narrow", "Waiting")
    said = await lab.condition("narrow", "Scheduled")
    assert said["reason"] == "TopologyPlacementFailed"
    await lab.client.delete(JOBS, "narrow", lab.namespace)
    await lab.add_job("pairs", workers=4, devices=1, scheduling=wishes(slices=2))
    ranks = await supernodes_of(lab, "pairs")
    assert ranks[0] == ranks[1]
    assert ranks[2] == ranks[3]


async def test_a_suspended_job_gives_its_quota_back(either_lab: Lab) -> None:
    lab = either_lab
    await lab.client.patch(POOLS, lab.pool, {"spec": {"quotas": [{"namespace": lab.namespace, "limit": 4}]}})
    lab.operator()
    await lab.add_job("first", workers=2)
    await lab.until_state("first", "Running")
    await lab.add_job("second", workers=2)
    await lab.until_status("second", "waits", lambda s: "of its limit of 4" in s.get("message", ""))

    async def suspend(name: str, yes: bool) -> None:
        await lab.client.patch(JOBS, name, {"spec": {"runPolicy": {"suspend": yes}}}, lab.namespace)

    await suspend("first", True)
    await lab.until_state("second", "Running")
    suspended = (await lab.job("first"))["status"]
    assert (suspended["state"], "placement" in suspended) == ("Suspended", False)
    assert await lab.job_pods("first") == []
    await suspend("first", False)
    await lab.until_state("first", "Waiting")
    assert (await lab.condition("first", "Scheduled"))["reason"] == "WaitingForQuota"
    await end(lab, "second", 2)
    again = (await lab.until_state("first", "Running"))["status"]
    assert (again["attempt"], again["restarts"]) == (1, 0)


async def test_rules_by_reason_and_by_container(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    containers = [{"name": name, "image": "python:3", "command": ["true"]} for name in ("trainer", "helper")]
    rules: list[Json] = [
        {"action": "Ignore", "onReasons": ["OOMKilled"]},
        {"action": "FailJob", "onExitCodes": {"containerName": "helper", "operator": "In", "values": [9]}},
    ]
    policy = {"backoffLimit": 1, "podFailurePolicy": {"rules": rules}}
    await lab.add_job("train", runPolicy=policy, template={"spec": {"containers": containers}})

    async def ends(attempt: int, container: str, code: int, reason: str) -> None:
        await lab.until_status(
            "train", f"attempt {attempt} runs", lambda s: s.get("state") == "Running" and s["attempt"] == attempt
        )
        state: Json = {"terminated": {"exitCode": code, "reason": reason}}
        row: Json = {"name": container, "state": state, "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
        patch = {"status": {"phase": "Failed", "containerStatuses": [row]}}
        await lab.client.patch(PODS, "train-worker-1", patch, lab.namespace, subresource="status")

    await ends(0, "trainer", 137, "OOMKilled")
    await ends(1, "trainer", 9, "Error")
    counted = await lab.until_status("train", "restarts", lambda s: s["attempt"] == 2 and s["state"] == "Running")
    assert counted["restarts"] == 1, "the memory does not count, and the rule is about the other container"
    await ends(2, "helper", 9, "Error")
    failed = (await lab.until_state("train", "Failed"))["status"]
    assert "exit code 9" in failed["message"]
    assert "podFailurePolicy" in failed["message"]


async def test_storage_and_pools_to_choose_from(either_lab: Lab) -> None:
    lab = either_lab
    model: dict[str, Any] = {
        "layers": 8,
        "hiddenSize": 1024,
        "attentionHeads": 16,
        "vocabularySize": 32000,
        "sequenceLength": 512,
    }
    store = {"name": f"close-{lab.suffix}", "level": "supernode", "domain": "sn-1", "readGBps": 40, "writeGBps": 20}
    await lab.client.patch(GROUPS, lab.group, {"spec": {"storage": [store]}})
    # A second pool of a chip that is many times slower, named first: the predicted step decides.
    await lab.add_nodes(1, slow="yes")
    slow = f"slow-{lab.suffix}"
    await lab.client.patch(NODES, lab.nodes[-1], {"metadata": {"labels": {"lab": f"slow-{lab.suffix}"}}})
    chip = {"name": "slow", "memoryGiB": 64, "memoryGBps": 100, "linkGBps": 10, "tflops": {"bf16": 1, "f32": 1}}
    selector = {"matchLabels": {"lab": f"slow-{lab.suffix}"}}
    await lab.add_pool(
        slow, chip=None, chipSpec={**chip, "resourceNames": ["slow.example/card"]}, nodeSelector=selector
    )
    lab.operator()
    checkpoint = {"store": store["name"], "everySteps": 10, "sizeGB": 1}
    await lab.add_job(
        "train",
        workers=1,
        pools=[slow, lab.pool],
        model=model,
        storage={"dataset": store["name"], "checkpoint": checkpoint},
    )
    status = (await lab.until_state("train", "Running"))["status"]
    assert status["placement"]["pool"] == lab.pool
    assert await supernodes_of(lab, "train") == ["sn-1"], "close to its store"
    await lab.add_job("unknown", storage={"dataset": "nowhere"})
    accepted = await lab.until("it is refused", lambda: lab.condition("unknown", "Accepted"))
    assert accepted["status"] == "False"
    assert "spec.storage.dataset" in accepted["message"]


async def test_saving_more_or_more_often_takes_longer_steps(either_lab: Lab) -> None:
    """100 GB at 20 GB/s take 5 s: half a second of each of 10 steps, nothing that counts of each of 10,000."""
    lab = either_lab
    store = {"name": f"close-{lab.suffix}", "level": "spine", "domain": "spine-0", "readGBps": 40, "writeGBps": 20}
    await lab.client.patch(GROUPS, lab.group, {"spec": {"storage": [store]}})
    lab.operator()
    model = {"layers": 8, "hiddenSize": 1024, "attentionHeads": 16, "vocabularySize": 32000, "sequenceLength": 512}
    seconds = {}
    for name, every, size in (("none", 0, 0), ("large", 10, 100), ("small", 10, 1), ("seldom", 10_000, 100)):
        checkpoint = {"checkpoint": {"store": store["name"], "everySteps": every, "sizeGB": size}} if every else {}
        await lab.add_job(name, workers=1, model=model, storage=checkpoint)
        placement = (await lab.until_state(name, "Running"))["status"]["placement"]
        seconds[name] = placement["predictedStepSeconds"]
        await end(lab, name, 1)
    assert seconds["large"] - seconds["none"] == pytest.approx(100 / 20 / 10, rel=0.01)
    assert seconds["small"] - seconds["none"] == pytest.approx(1 / 20 / 10, rel=0.01)
    assert seconds["seldom"] - seconds["none"] == pytest.approx(100 / 20 / 10_000, rel=0.01)


async def test_pods_are_what_their_template_says(either_lab: Lab) -> None:
    """Everything of it is on the pods that the API server has, and what the init container asks for counts."""
    lab = either_lab
    lab.operator()
    setup: Json = {"name": "setup", "image": "setup:1", "command": ["prepare", "--all"]}
    setup["resources"] = {"requests": {"cpu": "6"}}
    trainer: Json = {"name": "trainer", "image": "team/train:2", "command": ["python"], "args": ["train.py"]}
    trainer |= {"env": [{"name": "MINE", "value": "$(SUPERNODE_RANK)"}], "workingDir": "/work"}
    trainer["volumeMounts"] = [{"name": "scratch", "mountPath": "/scratch"}]
    helper: Json = {"name": "helper", "image": "team/help:1", "resources": {"limits": {"memory": "64Mi"}}}
    spec: Json = {
        "initContainers": [setup],
        "containers": [trainer, helper],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
        "terminationGracePeriodSeconds": 7,
        "tolerations": [{"key": "team/own", "operator": "Exists", "effect": "NoSchedule"}],
        "securityContext": {"runAsUser": 1234, "fsGroup": 99},
        "automountServiceAccountToken": False,
    }
    metadata = {"labels": {"team": "a"}, "annotations": {"team/note": "two words"}}
    await lab.add_job("train", workers=2, devices=1, template={"metadata": metadata, "spec": spec})
    placed = workers_in((await lab.until_state("train", "Running"))["status"]["placement"])
    # A node has two devices, but not twice the processors that the init container asks for.
    assert len({worker["node"] for worker in placed}) == 2
    for pod in await lab.job_pods("train"):
        assert metadata["labels"].items() <= pod["metadata"]["labels"].items()
        assert metadata["annotations"].items() <= pod["metadata"]["annotations"].items()
        for field in ("terminationGracePeriodSeconds", "securityContext", "automountServiceAccountToken"):
            assert pod["spec"][field] == spec[field]
        assert spec["tolerations"][0] in pod["spec"]["tolerations"]
        assert spec["volumes"][0] in pod["spec"]["volumes"]
        made = {c["name"]: c for part in ("initContainers", "containers") for c in pod["spec"][part]}
        assert [c["name"] for c in pod["spec"]["containers"]] == ["trainer", "helper"]
        for wanted in (setup, trainer, helper):
            for field in ("image", "command", "args", "workingDir"):
                assert made[wanted["name"]].get(field) == wanted.get(field)
        assert made["setup"]["resources"]["requests"]["cpu"] == "6"
        assert made["helper"]["resources"]["limits"] == {"memory": "64Mi"}
        assert trainer["volumeMounts"][0] in made["trainer"]["volumeMounts"]
        assert trainer["env"][0] in made["trainer"]["env"]
        # The first container gets the accelerators, no other.
        holders = [name for name, c in made.items() if RESOURCE in (c.get("resources") or {}).get("limits", {})]
        assert holders == ["trainer"]


async def test_more_workers_than_can_be_told_of_each_other(either_lab: Lab) -> None:
    lab = either_lab
    lab.operator()
    await lab.add_job("crowd", workers=20_000, framework="TensorFlow")
    await lab.until_status("crowd", "is not accepted", lambda s: "20,000 workers are too many" in s.get("message", ""))
    accepted = await lab.condition("crowd", "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "Misconfigured")
    assert accepted["message"].startswith("spec.workers: 20,000 workers are too many for TensorFlow: TF_CONFIG would")
    # As many as it says do fit.
    most = int(accepted["message"].split("up to ")[1].split()[0].replace(",", ""))
    await lab.client.patch(JOBS, "crowd", {"spec": {"workers": most}}, lab.namespace)
    await lab.until_status("crowd", "only lacks devices", lambda s: s["state"] == "Waiting")
