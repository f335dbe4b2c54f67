"""The operator works under exactly the rights that the chart grants, and uses what it is granted."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.wire.controlplane import OPERATOR_USER, ControlPlane
from tests.wire.operatorlab import ROOT, Lab, laboratory

from supernode.cluster.kinds import JOBS, POOLS, Json, Kind
from supernode.errors import ConflictError, NotFoundError

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
# Granted, but not met on a path that a test can force: each with its reason.
RARE = {
    ("get", "", "pods"): "a create that finds its pod there before the watch has told of it",
    ("get", "supernode.dev", "trainingjobs"): "somebody else wrote first; a pod whose job seems gone",
    ("get", "supernode.dev", "acceleratorpools"): "somebody else wrote first",
    ("get", "supernode.dev", "supernodegroups"): "somebody else wrote first",
    ("patch", "supernode.dev", "supernodegroups"): "one rule for pools and groups",
    ("update", "supernode.dev", "trainingjobs/finalizers"): "asked for by an admission plugin, not by a request",
    ("patch", "", "events"): "the same event again",
}


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
        await lab.add_nodes(4)
        await lab.add_pool()
        await lab.add_group()
        yield lab


def metric(process: Any, name: str) -> list[str]:
    port = next(line for line in process.text().splitlines() if "metrics on port" in line).rsplit(" ", 1)[1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return [line for line in answer.read().decode().splitlines() if line.startswith(name)]


async def test_a_whole_life_under_the_charts_rights(lab: Lab, real_cluster: ControlPlane) -> None:
    process = lab.operator(kubeconfig=real_cluster.operator)
    await lab.add_job("slim", runPolicy={"checkpointSeconds": 1})
    await lab.until_state("slim", "Running")
    await lab.client.patch(JOBS, "slim", {"spec": {"replicas": 1}}, lab.namespace, subresource="scale")
    await lab.until_status("slim", "runs with one worker", lambda s: s["state"] == "Running" and s["ready"] == "1/1")
    await lab.client.delete(JOBS, "slim", lab.namespace)
    await lab.add_job("train", runPolicy={"backoffLimit": 1, "ttlSecondsAfterFinished": 1, "cleanPodPolicy": "All"})
    await lab.add_job("wide", workers=4)
    await lab.until_state("train", "Running")
    await lab.until_state("wide", "Waiting")
    lab.kubelet.endings["train-worker-1"] = 1

    async def restarted() -> bool:
        status = (await lab.job("train"))["status"]
        return status["state"] == "Running" and status["attempt"] == 1

    await lab.until("attempt 1 runs", restarted)
    lab.kubelet.endings |= {"train-worker-0": 0, "train-worker-1": 0}

    async def gone() -> bool:
        try:
            await lab.job("train")
        except NotFoundError:
            return True
        return False

    await lab.until("train is gone", gone)
    await lab.until_state("wide", "Running")
    await lab.client.delete(JOBS, "wide", lab.namespace)
    await lab.client.delete(POOLS, lab.pool)

    async def pool_gone() -> bool:
        return all(p["metadata"]["name"] != lab.pool for p in (await lab.client.list_page(POOLS))["items"])

    await lab.until("the pool is gone", pool_gone)
    assert [line for line in metric(process, "supernode_api_requests_total") if 'code="403"' in line] == []
    assert process.stop() == 0
    used, given = real_cluster.used(OPERATOR_USER), granted(chart_rules())
    # A client that lists what exists makes requests that everybody may make.
    assert {u for u in used if u[2]} - given == set()
    assert given - used - RARE.keys() == set(), "granted and never used"
    assert RARE.keys() <= given


def test_secrets_are_never_read() -> None:
    assert {verb for verb, _, resource in granted(chart_rules()) if resource == "secrets"} == {
        "create",
        "deletecollection",
    }
