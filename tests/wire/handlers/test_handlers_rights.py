"""The operator works under exactly the rights that the chart grants, and uses what it is granted."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.builders.placements import workers_in
from tests.wire.controlplane import OPERATOR_USER, ControlPlane
from tests.wire.operatorlab import ROOT, Lab, laboratory

from supernode.cluster.kinds import EVENTS, JOBS, PODS, POOLS, Json, Kind
from supernode.errors import ConflictError, NotFoundError
from supernode.names import ANNOTATION_DEFRAGMENT

helm = pytest.importorskip("helm_python", reason="needs helm-python-sdk")
pytestmark = [pytest.mark.envtest, pytest.mark.helm, pytest.mark.timeout(120)]

RBAC = "rbac.authorization.k8s.io"
KINDS = {
    kind: Kind(RBAC, "v1", plural, kind, namespaced=namespaced)
    for kind, plural, namespaced in [
        ("ClusterRole", "clusterroles", False),
        ("ClusterRoleBinding", "clusterrolebindings", False),
        ("Role", "roles", True),
        ("RoleBinding", "rolebindings", True),
    ]
}
# Granted, but never a request of ours: what an admission plugin asks about, which has a test of its own below.
ASKED_ABOUT = {("update", "supernode.dev", "trainingjobs/finalizers")}


def chart_rules() -> list[Json]:
    rendered = helm.Chart.load(ROOT / "charts" / "supernode").render({}, name="supernode", namespace="supernode-system")
    objects = [o for path, text in rendered.items() if path.endswith(".yaml") for o in yaml.safe_load_all(text) if o]
    return [o for o in objects if o["kind"] in KINDS]


def granted(objects: list[Json]) -> set[tuple[str, str, str]]:
    return {
        (verb, group, resource)
        for obj in objects
        for rule in obj.get("rules", [])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
async def lab(real_cluster: ControlPlane, tmp_path: Path) -> AsyncIterator[Lab]:
    async with laboratory(real_cluster, tmp_path) as lab:
        for obj in chart_rules():
            obj = {**obj}
            if "subjects" in obj:
                obj["subjects"] = [{"kind": "User", "name": OPERATOR_USER, "apiGroup": RBAC}]
            try:
                await lab.client.create(KINDS[obj["kind"]], obj, obj["metadata"].get("namespace"))
            except ConflictError:
                continue
        await lab.furnish()
        yield lab


def metric(process: Any, name: str) -> list[str]:
    port = next(line for line in process.text().splitlines() if "metrics on port" in line).rsplit(" ", 1)[1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return [line for line in answer.read().decode().splitlines() if line.startswith(name)]


async def ran_and_went(lab: Lab) -> None:
    """Scaled, failed, restarted, ended, gone by itself."""
    await lab.add_job("slim", runPolicy={"checkpointSeconds": 1})
    await lab.until_state("slim", "Running")
    await lab.client.patch(JOBS, "slim", {"spec": {"replicas": 1}}, lab.namespace, subresource="scale")
    await lab.until_status("slim", "runs with one worker", lambda s: s["state"] == "Running" and s["ready"] == "1/1")
    await lab.client.patch(JOBS, "slim", {"spec": {"runPolicy": {"suspend": True}}}, lab.namespace)
    await lab.until_state("slim", "Suspended")
    await lab.client.delete(JOBS, "slim", lab.namespace)
    await lab.add_job("train", runPolicy={"backoffLimit": 1, "ttlSecondsAfterFinished": 1, "cleanPodPolicy": "All"})
    await lab.until_state("train", "Running")
    lab.kubelet.endings["train-worker-1"] = 1
    await lab.until_status("train", "runs again", lambda s: s["state"] == "Running" and s["attempt"] == 1)
    lab.kubelet.endings |= {"train-worker-0": 0, "train-worker-1": 0}
    await lab.until("train is gone", lambda: gone(lab, JOBS, "train", lab.namespace))


async def gave_way_and_was_in_vain(lab: Lab) -> None:
    """Waits, asks for moves that help nobody (the same event twice), and makes one of lower priority give way."""
    await lab.add_job("low", workers=3, runPolicy={"checkpointSeconds": 1})
    await lab.until_state("low", "Running")
    await lab.add_job("wide", workers=4)
    await lab.until_state("wide", "Waiting")
    for count in (1, 2):
        patch = {"metadata": {"annotations": {ANNOTATION_DEFRAGMENT: "1"}}}
        await lab.client.patch(JOBS, "wide", patch, lab.namespace)
        await lab.until(f"refused {count} times", lambda count=count: told(lab, "NotDefragmented", count))
    await lab.client.delete(JOBS, "wide", lab.namespace)
    await lab.add_job("urgent", workers=4, scheduling={"priorityClassName": await lab.add_class("high", 1000)})
    await lab.until_state("urgent", "Running")
    await lab.until_state("low", "Waiting")
    await lab.client.delete(JOBS, "urgent", lab.namespace)
    await lab.until_state("low", "Running")
    await lab.client.delete(JOBS, "low", lab.namespace)
    await lab.until("low is gone", lambda: gone(lab, JOBS, "low", lab.namespace))


async def moved(lab: Lab) -> None:
    """Makes room by moving."""
    for index in range(4):
        await lab.add_job(f"small-{index}", workers=1, runPolicy={"checkpointSeconds": 1})
        await lab.until_state(f"small-{index}", "Running")
    by_node = {}
    for index in range(4):
        placement = (await lab.job(f"small-{index}"))["status"]["placement"]
        by_node[workers_in(placement)[0]["node"]] = f"small-{index}"
    for node in (lab.nodes[0], lab.nodes[2]):
        lab.kubelet.endings[f"{by_node[node]}-worker-0"] = 0
        await lab.until_state(by_node[node], "Succeeded")
    together: Json = {"constraints": {"topology": [{"level": "supernode", "mode": "Required"}]}}
    await lab.add_job("wide", workers=2, scheduling=together)
    await lab.until_state("wide", "Waiting")
    patch = {"metadata": {"annotations": {ANNOTATION_DEFRAGMENT: "1"}}}
    await lab.client.patch(JOBS, "wide", patch, lab.namespace)
    await lab.until_state("wide", "Running")


async def swept(lab: Lab) -> None:
    """A pod of a job that is gone, as an operator that was killed may leave one."""
    owner = {"apiVersion": JOBS.api_version, "kind": "TrainingJob", "name": "past", "uid": "gone", "controller": True}
    labels = {"supernode.dev/job": "past", "supernode.dev/job-uid": "gone"}
    metadata = {"name": "past-worker-0", "labels": labels, "ownerReferences": [owner]}
    spec = {"nodeName": lab.nodes[0], "containers": [{"name": "c", "image": "x"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    await lab.client.create(PODS, body, lab.namespace)
    await lab.until("the pod is swept", lambda: gone(lab, PODS, "past-worker-0", lab.namespace))


async def gone(lab: Lab, kind: Kind, name: str, namespace: str | None = None) -> bool:
    try:
        await lab.client.get(kind, name, namespace)
    except NotFoundError:
        return True
    return False


async def told(lab: Lab, reason: str, count: int) -> bool:
    events = (await lab.client.list_page(EVENTS, lab.namespace))["items"]
    return any(event["reason"] == reason and event["count"] >= count for event in events)


async def test_whole_lives_under_the_charts_rights(lab: Lab, real_cluster: ControlPlane) -> None:
    process = lab.operator(kubeconfig=real_cluster.operator)
    await ran_and_went(lab)
    await gave_way_and_was_in_vain(lab)
    await moved(lab)
    await swept(lab)
    for job in (await lab.client.list_page(JOBS, lab.namespace))["items"]:
        await lab.client.delete(JOBS, job["metadata"]["name"], lab.namespace)
    await lab.client.delete(POOLS, lab.pool)
    await lab.until("the pool is gone", lambda: gone(lab, POOLS, lab.pool))
    assert [line for line in metric(process, "supernode_api_requests_total") if 'code="403"' in line] == []
    assert process.stop() == 0
    used, given = real_cluster.used(OPERATOR_USER), granted(chart_rules())
    # A client that lists what exists makes requests that everybody may make.
    assert {u for u in used if u[2]} - given == set(), "used and not granted"
    assert given - used - ASKED_ABOUT == set(), "granted and never used"
    assert given >= ASKED_ABOUT


async def test_the_right_that_only_an_admission_plugin_asks_about_is_needed(
    lab: Lab, real_cluster: ControlPlane
) -> None:
    name = next(o["metadata"]["name"] for o in chart_rules() if "trainingjobs/finalizers" in str(o.get("rules")))
    role = await lab.client.get(KINDS["ClusterRole"], name)
    fewer = [rule for rule in role["rules"] if "trainingjobs/finalizers" not in rule["resources"]]
    lab.operator(kubeconfig=real_cluster.operator)
    await lab.client.patch(KINDS["ClusterRole"], name, {"rules": fewer})
    try:
        await lab.add_job("train")
        await lab.until_status("train", "is refused", lambda s: "blockOwnerDeletion" in s.get("message", ""))
    finally:
        await lab.client.patch(KINDS["ClusterRole"], name, {"rules": role["rules"]})
    await lab.until_state("train", "Running")


def test_secrets_are_never_read() -> None:
    """Nor deleted by label: the API server answers that with what it deletes."""
    assert {verb for verb, _, resource in granted(chart_rules()) if resource == "secrets"} == {"create", "delete"}
