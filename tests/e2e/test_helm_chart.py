"""The chart by itself, with the real Helm: lint, template, values and their schema, what the pods may do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from supernode import __version__
from supernode.cli import build_parser
from supernode.names import LEASE_NAME, LEASE_NAMESPACE, PORT_OPERATOR_HEALTH, PORT_OPERATOR_METRICS

helm = pytest.importorskip("helm_python", reason="needs helm-python-sdk")
pytestmark = pytest.mark.helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/supernode"
Json = dict[str, Any]


def render(values: Json | None = None, name: str = "supernode", namespace: str = "supernode-system") -> list[Json]:
    """Every object that `helm template` gives."""
    rendered = helm.Chart.load(CHART).render(values or {}, name=name, namespace=namespace)
    return [
        obj
        for path, text in rendered.items()
        if path.endswith(".yaml")
        for obj in yaml.safe_load_all(text)
        if obj is not None
    ]


def only(objects: list[Json], kind: str, ending: str = "") -> Json:
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(ending))
    return found


def test_lint_finds_nothing() -> None:
    found = helm.lint(CHART)
    assert found["errors"] == []
    assert [m for m in found["messages"] if m["severity"] > 1] == []  # 1 is information


def test_versions_are_the_packages() -> None:
    metadata = helm.Chart.load(CHART).metadata
    assert (metadata["version"], metadata["appVersion"]) == (__version__, __version__)


def test_the_chart_carries_the_definitions() -> None:
    ours = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    assert len(ours) == 3
    assert {path.name: path.read_text() for path in (CHART / "crds").glob("*.yaml")} == ours
    assert len(helm.Chart.load(CHART).crds) == 3


def test_default_objects() -> None:
    objects = render()
    found = sorted((o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in objects)
    assert found == [
        ("ClusterRole", "", "supernode-cluster"),
        ("ClusterRole", "", "supernode-jobs"),
        ("ClusterRoleBinding", "", "supernode-cluster"),
        ("ClusterRoleBinding", "", "supernode-jobs"),
        ("Deployment", "supernode-system", "supernode"),
        ("PodDisruptionBudget", "supernode-system", "supernode"),
        ("Role", "kube-system", "supernode-lease"),
        ("RoleBinding", "kube-system", "supernode-lease"),
        ("Service", "supernode-system", "supernode-metrics"),
        ("ServiceAccount", "supernode-system", "supernode"),
    ]
    for obj in objects:
        assert obj["metadata"]["labels"]["app.kubernetes.io/name"] == "supernode"


def test_the_pods_are_restricted_and_probed() -> None:
    pod = only(render(), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"health": PORT_OPERATOR_HEALTH, "metrics": PORT_OPERATOR_METRICS}


def test_the_arguments_are_ones_that_the_operator_knows() -> None:
    values = {"watchNamespace": "team-a", "log": {"format": "text", "level": "debug"}, "leaseSeconds": 9}
    (container,) = only(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    args = build_parser(["operator"]).parse_args([a.replace("$(POD_IP)", "10.0.0.1") for a in container["args"]])
    assert (args.command, args.namespace, args.lease_seconds, args.log_format) == ("operator", "team-a", 9, "text")
    assert (args.host, args.health_port, args.metrics_port) == ("10.0.0.1", PORT_OPERATOR_HEALTH, PORT_OPERATOR_METRICS)
    assert args.emulator_image == f"supernode:{__version__}"


def test_images() -> None:
    image = {"repository": "registry.example/supernode", "tag": "x"}
    (container,) = only(render({"image": image}), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/supernode:x"
    assert "--emulator-image=registry.example/supernode:x" in container["args"]
    values = {"image": image, "emulator": {"image": "other:1"}}
    (container,) = only(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "--emulator-image=other:1" in container["args"]


# What the operator may do, held a second time: (group, resource) -> verbs.
CLUSTER_RIGHTS = {
    ("supernode.dev", "acceleratorpools"): {"list", "watch", "patch"},
    ("supernode.dev", "supernodegroups"): {"list", "watch"},
    ("supernode.dev", "acceleratorpools/status"): {"patch"},
    ("supernode.dev", "supernodegroups/status"): {"patch"},
    ("", "nodes"): {"list", "watch"},
    ("", "nodes/status"): {"patch"},
    ("scheduling.k8s.io", "priorityclasses"): {"list", "watch"},
}
JOB_RIGHTS = {
    ("supernode.dev", "trainingjobs"): {"get", "list", "watch", "patch", "delete"},
    ("supernode.dev", "trainingjobs/status"): {"patch"},
    ("supernode.dev", "trainingjobs/finalizers"): {"update"},
    ("", "pods"): {"list", "watch", "create", "patch", "delete"},
    ("", "services"): {"create", "get", "delete"},
    ("", "resourcequotas"): {"list"},
    ("", "secrets"): {"create", "delete"},
    ("", "configmaps"): {"create", "delete"},
    ("", "events"): {"create", "patch"},
}


def rights(role: Json) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if "resourceNames" not in rule
    }


def test_rights_are_least() -> None:
    objects = render()
    assert rights(only(objects, "ClusterRole", "-cluster")) == CLUSTER_RIGHTS
    assert rights(only(objects, "ClusterRole", "-jobs")) == JOB_RIGHTS
    lease = only(objects, "Role", "-lease")
    assert lease["metadata"]["namespace"] == LEASE_NAMESPACE
    named, create = lease["rules"]
    assert (named["resourceNames"], named["verbs"]) == ([LEASE_NAME], ["get", "update"])
    assert create["verbs"] == ["create"]
    assert "*" not in json.dumps([o for o in objects if "Role" in o["kind"]])


def test_one_namespace_only() -> None:
    objects = render({"watchNamespace": "team-a"})
    binding = only(objects, "RoleBinding", "-jobs")
    assert (binding["metadata"]["namespace"], binding["roleRef"]["kind"]) == ("team-a", "ClusterRole")
    assert only(objects, "RoleBinding", "-events")["metadata"]["namespace"] == "default"
    assert [o["metadata"]["name"] for o in objects if o["kind"] == "ClusterRoleBinding"] == ["supernode-cluster"]


def test_parts_can_be_left_out() -> None:
    values = {
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "mine"},
        "metrics": {"service": False},
        "podDisruptionBudget": {"create": False},
    }
    objects = render(values)
    assert [o["kind"] for o in objects] == ["Deployment"]
    assert objects[0]["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_everything_for_the_pods_reaches_them() -> None:
    values = {
        "imagePullSecrets": [{"name": "s"}],
        "priorityClassName": "p",
        "nodeSelector": {"a": "b"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"c": "d"},
        "podLabels": {"e": "f"},
        "replicas": 1,
        "resources": {"limits": {"cpu": 1}},
    }
    spec = only(render(values), "Deployment")["spec"]
    pod = spec["template"]["spec"]
    for key in ("imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations", "affinity"):
        assert pod[key] == values[key]
    assert spec["template"]["metadata"]["annotations"] == {"c": "d"}
    assert spec["template"]["metadata"]["labels"]["e"] == "f"
    assert "e" not in spec["selector"]["matchLabels"]
    assert spec["replicas"] == 1
    assert pod["containers"][0]["resources"]["limits"]["cpu"] == 1


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": 2},
        {"replicas": -1},
        {"replicas": "two"},
        {"image": {"repository": ""}},
        {"image": {"pullPolicy": "Sometimes"}},
        {"leaseSeconds": 1},
        {"log": {"level": "trace"}},
        {"watchNamespace": "Team A"},
        {"emulator": {"tag": "x"}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(values: Json) -> None:
    with pytest.raises(helm.HelmError):
        helm.Chart.load(CHART).validate_schema(helm.Chart.load(CHART).merge_values(values))


def test_values_and_schema_name_the_same() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    for name, value in values.items():
        inner = schema["properties"][name].get("properties")
        if inner is not None:
            assert set(inner) == set(value), name


def test_names_follow_the_release() -> None:
    assert only(render(name="ai"), "Deployment")["metadata"]["name"] == "ai-supernode"
    assert only(render(name="my-supernode"), "Deployment")["metadata"]["name"] == "my-supernode"
    long = only(render(name="x" * 53), "Deployment")["metadata"]["name"]
    assert len(long) <= 50
