"""`helm install` on both API servers, and the operator at work with nothing but the rights that the chart grants."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.builders.kube import ASSETS
from tests.conformance.engines import embedded
from tests.wire.controlplane import ControlPlane, control_plane
from tests.wire.operatorlab import laboratory

from supernode.names import FINALIZER, MANAGER

helm = pytest.importorskip("helm_python", reason="needs helm-python-sdk")
pytestmark = [
    pytest.mark.helm,
    pytest.mark.envtest,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not ASSETS, reason="needs a real API server: KUBEBUILDER_ASSETS is not set"),
]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/supernode"
NAMESPACE = "supernode-system"
USER = f"system:serviceaccount:{NAMESPACE}:supernode"
POLICIES = "mutatingadmissionpolicies,mutatingadmissionpolicybindings"
Json = dict[str, Any]


class Cluster:
    """A control plane with the chart installed."""

    def __init__(self, plane: ControlPlane, directory: Path, real: bool) -> None:
        self.plane = plane
        self.real = real
        self.directory = directory
        self.helm = helm.Config(kubeconfig_path=plane.admin, namespace=NAMESPACE)

    def kubectl(self, *arguments: str, stdin: Json | None = None, check: bool = True) -> str:
        command = [str(Path(ASSETS) / "kubectl"), f"--kubeconfig={self.plane.admin}", *arguments]
        text = None if stdin is None else json.dumps(stdin)
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        if check:
            assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def operator_kubeconfig(self) -> Path:
        """A kubeconfig with a token of the chart's service account, as a pod would have."""
        config = yaml.safe_load(self.plane.admin.read_text())
        config["users"][0]["user"] = {"token": self.kubectl("-n", NAMESPACE, "create", "token", "supernode").strip()}
        path = self.directory / "operator.sa.kubeconfig"
        path.write_text(json.dumps(config))
        return path


@pytest.fixture(scope="module", params=["real", "embedded"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("helm")
    with contextlib.ExitStack() as stack:
        if request.param == "real":
            plane = stack.enter_context(control_plane(directory))
        else:
            engine = stack.enter_context(embedded(directory))
            plane = ControlPlane(engine.url, engine.kubeconfig, engine.kubeconfig, directory / "no-audit.log")
        installed = Cluster(plane, directory, request.param == "real")
        installed.helm.install(helm.Chart.load(CHART), "supernode", namespace=NAMESPACE, create_namespace=True)
        yield installed
        installed.helm.close()


def test_install_makes_everything(cluster: Cluster) -> None:
    assert cluster.helm.status("supernode")["status"] == "deployed"
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    found = cluster.kubectl("-n", NAMESPACE, "get", "deploy,sa,svc,pdb", "-o", "name").split()
    assert set(found) >= {
        "deployment.apps/supernode",
        "serviceaccount/supernode",
        "service/supernode-metrics",
        "poddisruptionbudget.policy/supernode",
    }
    assert "tjob" in cluster.kubectl("api-resources", "--api-group=supernode.dev")


def test_the_pods_pass_the_restricted_profile(cluster: Cluster) -> None:
    if not cluster.real:
        pytest.skip("the embedded API server has no PodSecurity admission")
    cluster.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    template = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "deploy", "supernode", "-o", "json"))["spec"][
        "template"
    ]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": NAMESPACE},
        "spec": {**template["spec"], "topologySpreadConstraints": []},
    }
    said = cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=pod)
    assert "violates PodSecurity" not in said
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert "violates PodSecurity" in cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=pod, check=False)


ALLOWED = [
    ("list", "nodes"), ("watch", "nodes"), ("patch", "nodes/status"), ("create", "pods"), ("delete", "pods"),
    ("patch", "trainingjobs.supernode.dev"), ("patch", "trainingjobs.supernode.dev/status"),
    ("create", "secrets"), ("patch", "events"), ("delete", "configmaps"),
]  # fmt: skip
REFUSED = [
    ("get", "secrets"),
    ("list", "secrets"),
    ("deletecollection", "secrets"),
    ("watch", "configmaps"),
    ("patch", "nodes"),
    ("delete", "nodes"),
    ("update", "pods"),
    ("create", "pods/exec"),
    ("create", "trainingjobs.supernode.dev"),
    ("create", "deployments.apps"),
    ("list", "namespaces"),
    ("patch", "customresourcedefinitions.apiextensions.k8s.io"),
    ("escalate", "clusterroles"),
    ("impersonate", "users"),
]


@pytest.mark.parametrize(("verb", "resource"), ALLOWED)
def test_granted(cluster: Cluster, verb: str, resource: str) -> None:
    resource, _, sub = resource.partition("/")
    assert cluster.kubectl("auth", "can-i", verb, resource, f"--subresource={sub}", "-A", f"--as={USER}").endswith(
        "yes\n"
    )


@pytest.mark.parametrize(("verb", "resource"), REFUSED)
def test_not_granted(cluster: Cluster, verb: str, resource: str) -> None:
    resource, _, sub = resource.partition("/")
    arguments = ("auth", "can-i", verb, resource, f"--subresource={sub}", "-A", f"--as={USER}")
    assert "no" in cluster.kubectl(*arguments, check=False).split()


def test_the_lease_alone_in_kube_system(cluster: Cluster) -> None:
    def may(verb: str, name: str, namespace: str) -> bool:
        arguments = ("auth", "can-i", verb, f"leases.coordination.k8s.io/{name}", "-n", namespace, f"--as={USER}")
        return "yes" in cluster.kubectl(*arguments, check=False).split()

    assert may("update", "supernode-operator", "kube-system")
    assert not may("update", "kube-scheduler", "kube-system")
    assert not may("update", "supernode-operator", "default")


def finalizers_of(cluster: Cluster, namespace: str, **more: Any) -> list[str]:
    """What a new job's finalizers would be; nothing is kept."""
    template = {"spec": {"containers": [{"name": "trainer", "image": "trainer:1"}]}}
    spec = {"pools": ["pool"], "workers": 1, "acceleratorsPerWorker": 1, "template": template}
    job: Json = {"apiVersion": "supernode.dev/v1alpha1", "kind": "TrainingJob", "spec": spec}
    job["metadata"] = {"name": "probe", "namespace": namespace, "finalizers": more.pop("finalizers", [])}
    spec |= more
    made = json.loads(cluster.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=job))
    return list(made["metadata"].get("finalizers", []))


def until_finalizers(cluster: Cluster, namespace: str, wanted: list[str]) -> None:
    """The API server takes a moment to learn of a new policy, and of the definition that it is about."""
    deadline = time.monotonic() + 60
    found: list[str] | str = []
    while found != wanted:
        try:
            found = finalizers_of(cluster, namespace)
        except AssertionError as exc:
            found = str(exc)
            assert "There can be a delay" in found, found
        assert time.monotonic() < deadline, f"{found}, not {wanted}"


def test_the_api_server_puts_the_finalizer_on_new_jobs(cluster: Cluster) -> None:
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    if not cluster.real:  # it has no such policies: the operator does it itself
        assert "mutatingadmission" not in cluster.kubectl("api-resources", "-o", "name")
        assert finalizers_of(cluster, "default") == []
        return
    until_finalizers(cluster, "default", [FINALIZER])
    assert finalizers_of(cluster, "default", finalizers=["example.com/mine"]) == ["example.com/mine", FINALIZER]
    assert finalizers_of(cluster, "default", finalizers=[FINALIZER, "a.b/c"]) == [FINALIZER, "a.b/c"]
    assert finalizers_of(cluster, "default", managedBy=MANAGER) == [FINALIZER]
    assert finalizers_of(cluster, "default", managedBy="example.com/other") == []


async def test_the_operator_does_its_work_under_these_rights(cluster: Cluster, tmp_path: Path) -> None:
    kubeconfig = cluster.operator_kubeconfig()
    async with laboratory(cluster.plane, tmp_path) as lab:
        await lab.add_nodes(2)
        await lab.add_pool()
        await lab.add_group()
        # The workers of the examples, emulator included, pass the restricted profile.
        cluster.kubectl("label", "namespace", lab.namespace, "pod-security.kubernetes.io/enforce=restricted")
        example = yaml.safe_load((ROOT / "kind/examples/30-job-gpt.yaml").read_text())
        process = lab.operator(kubeconfig=kubeconfig)
        # A job that runs, is restarted after a failure, ends, and is taken away by its time to live.
        policy = {"backoffLimit": 1, "ttlSecondsAfterFinished": 1}
        await lab.add_job("train", runPolicy=policy, template=example["spec"]["template"])
        await lab.until_state("train", "Running")
        if cluster.real:  # the finalizer was there already: of the job the operator has written the status alone
            writers = (await lab.job("train"))["metadata"]["managedFields"]
            who = [(each["manager"], each.get("subresource")) for each in writers]
            assert who == [("user", None), ("supernode", "status")], writers
        lab.kubelet.endings["train-worker-0"] = 1

        async def restarted() -> bool:
            return (await lab.job("train"))["status"].get("restarts") == 1

        await lab.until("train has restarted", restarted)
        await lab.until_state("train", "Running")
        lab.kubelet.endings |= {"train-worker-0": 0, "train-worker-1": 0}

        async def taken_away() -> bool:
            return "train" not in await lab.picture()

        await lab.until("train is gone", taken_away)
        status = process.stop()
        said = process.text()
    assert status == 0, said[-3000:]
    assert "forbidden" not in said.lower(), said[-3000:]


def test_upgrade_keeps_what_was_set_and_uninstall_keeps_the_definitions(cluster: Cluster) -> None:
    chart = helm.Chart.load(CHART)
    cluster.helm.upgrade(chart, "supernode", {"replicas": 1}, namespace=NAMESPACE)
    deployment = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "deploy", "supernode", "-o", "json"))
    assert deployment["spec"]["replicas"] == 1
    if cluster.real:
        until_finalizers(cluster, "default", [FINALIZER])
        # Of other namespaces' jobs nobody would take it off.
        cluster.kubectl("create", "namespace", "team-a")
        cluster.helm.upgrade(chart, "supernode", {"watchNamespace": "team-a"}, namespace=NAMESPACE)
        until_finalizers(cluster, "default", [])
        until_finalizers(cluster, "team-a", [FINALIZER])
        cluster.helm.upgrade(chart, "supernode", {"admissionPolicy": {"create": False}}, namespace=NAMESPACE)
        assert cluster.kubectl("get", POLICIES, "-o", "name").split() == []
        cluster.helm.upgrade(chart, "supernode", {"admissionPolicy": {"create": True}}, namespace=NAMESPACE)
        assert len(cluster.kubectl("get", POLICIES, "-o", "name").split()) == 2
    with pytest.raises(helm.HelmError):
        cluster.helm.upgrade(chart, "supernode", {"replicaCount": 1}, namespace=NAMESPACE)
    cluster.helm.uninstall("supernode")
    assert cluster.kubectl("-n", NAMESPACE, "get", "deploy,svc,pdb", "-o", "name").split() == []
    assert len(cluster.kubectl("get", "crd", "-o", "name").split()) == 3
    if cluster.real:
        assert cluster.kubectl("get", POLICIES, "-o", "name").split() == []
