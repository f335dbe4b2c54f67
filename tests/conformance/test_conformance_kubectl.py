"""What people type, with the real kubectl, on both servers."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.builders.kube import ASSETS
from tests.conformance.engines import Engine

if TYPE_CHECKING:
    from tests.conformance.conftest import Kubectl

MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "python"}]}}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "d"},
    "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE},
}


def test_apply_says_created_unchanged_configured(kubectl: Kubectl) -> None:
    for text, word in (("1", "created"), ("1", "unchanged"), ("2", "configured")):
        done = kubectl("apply", "-f", "-", text=json.dumps({**MAP, "data": {"x": text}}))
        assert done.stdout == f"configmap/a {word}\n"
    gone = kubectl("apply", "-f", "-", text=json.dumps({**MAP, "data": {"y": "1"}}))
    assert gone.stdout == "configmap/a configured\n"
    assert json.loads(kubectl("get", "cm", "a", "-o", "json").stdout)["data"] == {"y": "1"}


def test_server_side_apply_finds_conflicts(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "--field-manager=one", "-f", "-", text=json.dumps(MAP))
    other = json.dumps({**MAP, "data": {"x": "2"}})
    refused = kubectl("apply", "--server-side", "--field-manager=two", "-f", "-", text=other, check=False)
    assert refused.returncode == 1
    assert 'Apply failed with 1 conflict: conflict with "one": .data.x' in refused.stderr
    forced = kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=two", "-f", "-", text=other)
    assert forced.stdout == "configmap/a serverside-applied\n"
    managers = json.loads(kubectl("get", "cm", "a", "-o", "json", "--show-managed-fields").stdout)["metadata"]
    assert [(each["manager"], each["operation"]) for each in managers["managedFields"]] == [("two", "Apply")]


def test_wrong_manifests_name_the_field(kubectl: Kubectl) -> None:
    wrong = json.dumps({**MAP, "nope": 1})
    assert 'unknown field "nope"' in kubectl("apply", "-f", "-", text=wrong, check=False).stderr
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "P_"}, "spec": TEMPLATE["spec"]}
    refused = kubectl("apply", "-f", "-", text=json.dumps(pod), check=False)
    assert 'The Pod "P_" is invalid: metadata.name: Invalid value: "P_"' in refused.stderr


def test_create_get_scale_label_annotate_patch(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", text=json.dumps(DEPLOYMENT))
    head, row = kubectl("get", "deploy").stdout.splitlines()
    assert head.split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert row.split()[:4] == ["d", "0/2", "0", "0"]
    assert kubectl("scale", "deploy/d", "--replicas=5").stdout == "deployment.apps/d scaled\n"
    assert kubectl("label", "deploy", "d", "x=y").stdout == "deployment.apps/d labeled\n"
    assert kubectl("annotate", "deploy", "d", "x=y").stdout == "deployment.apps/d annotated\n"
    change = json.dumps({"spec": {"template": {"spec": {"containers": [{"name": "e", "image": "f"}]}}}})
    assert kubectl("patch", "deploy", "d", "-p", change).stdout == "deployment.apps/d patched\n"
    found = json.loads(kubectl("get", "deploy", "d", "-o", "json").stdout)
    assert found["spec"]["replicas"] == 5
    assert [each["name"] for each in found["spec"]["template"]["spec"]["containers"]] == ["e", "c"]
    assert found["metadata"]["labels"] == {"x": "y"}
    assert kubectl("delete", "deploy", "d").stdout.startswith('deployment.apps "d" deleted')
    assert "NotFound" in kubectl("get", "deploy", "d", check=False).stderr


def test_create_by_words_is_protobuf_and_works(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "m", "--from-literal=k=v")
    kubectl("create", "secret", "generic", "s", "--from-literal=k=v")
    kubectl("create", "serviceaccount", "robot")
    kubectl("create", "role", "r", "--verb=get,list", "--resource=pods")
    kubectl("create", "rolebinding", "b", "--role=r", "--serviceaccount=default:robot")
    kubectl("create", "deployment", "d", "--image=python", "--replicas=0")
    kubectl("create", "service", "clusterip", "v", "--tcp=80:8080")
    kubectl("create", "job", "j", "--image=python", "--", "python", "-c", "pass")
    assert yaml.safe_load(kubectl("get", "secret", "s", "-o", "yaml").stdout)["data"] == {"k": "dg=="}
    assert json.loads(kubectl("get", "deploy", "d", "-o", "json").stdout)["spec"]["replicas"] == 0
    port = json.loads(kubectl("get", "svc", "v", "-o", "json").stdout)["spec"]["ports"][0]
    assert (port["port"], port["targetPort"], port["protocol"]) == (80, 8080, "TCP")
    container = json.loads(kubectl("get", "job", "j", "-o", "json").stdout)["spec"]["template"]["spec"]["containers"]
    assert container[0]["command"] == ["python", "-c", "pass"]


def test_describe_explain_and_resources(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", text=json.dumps(DEPLOYMENT))
    described = kubectl("describe", "deploy", "d").stdout
    assert "Replicas:               2 desired | 0 updated" in described
    assert described.splitlines()[-1].split() == ["Events:", "<none>"]
    explained = kubectl("explain", "deploy.spec.template.spec.containers.image").stdout
    assert "FIELD: image <string>" in explained
    names = kubectl("api-resources", "--verbs=list", "-o", "name").stdout.split()
    assert {"pods", "nodes", "events", "deployments.apps", "leases.coordination.k8s.io"} <= set(names)
    assert kubectl("auth", "can-i", "get", "pods").stdout == "yes\n"


def test_events_are_shown(kubectl: Kubectl, namespace: str) -> None:
    about = {"kind": "ConfigMap", "name": "a", "namespace": namespace, "apiVersion": "v1"}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "involvedObject": about,
        "reason": "Because",
        "message": "it was so",
        "type": "Normal",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    kubectl("create", "-f", "-", text=json.dumps(event))
    assert kubectl("events").stdout.splitlines()[1].split()[1:] == [
        "Normal",
        "Because",
        "ConfigMap/a",
        "it",
        "was",
        "so",
    ]
    assert "ConfigMap/a" in kubectl("get", "events").stdout.replace("configmap/a", "ConfigMap/a")


def test_wait_and_watch_see_changes(kubectl: Kubectl, engine: Engine, namespace: str) -> None:
    kubectl("create", "-f", "-", text=json.dumps(MAP))
    command = [f"{ASSETS}/kubectl", f"--kubeconfig={engine.kubeconfig}", "-n", namespace, "get", "cm", "a", "-w"]
    with subprocess.Popen([*command, "-o", "jsonpath={.data.x} "], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        try:
            assert watching.stdout.read(2) == "1 "
            timer = threading.Timer(0.3, kubectl, ("patch", "cm", "a", "--type=merge", "-p", '{"data":{"x":"2"}}'))
            timer.start()
            kubectl("wait", "cm/a", "--for=jsonpath={.data.x}=2", "--timeout=20s")
            assert watching.stdout.read(2) == "2 "
            timer.join()
        finally:
            watching.terminate()
    kubectl("delete", "cm", "a", "--wait=true", "--timeout=20s")


CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "spec": {
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"},
                },
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {"type": "integer", "minimum": 1, "default": 2, "description": "How big."}
                                },
                                "x-kubernetes-validations": [{"rule": "self.size < 10", "message": "too big"}],
                            },
                            "status": {"type": "object", "properties": {"size": {"type": "integer"}}},
                        },
                    }
                },
            }
        ],
    },
}


def test_custom_resources(kubectl: Kubectl, namespace: str) -> None:
    group = f"{namespace}.dev"
    names = {"kind": "Widget", "plural": "widgets", "singular": "widget", "shortNames": ["wg"]}
    definition = {
        **CRD,
        "metadata": {"name": f"widgets.{group}"},
        "spec": {**CRD["spec"], "group": group, "names": names},
    }
    kubectl("apply", "-f", "-", text=json.dumps(definition))
    try:
        kubectl("wait", "--for=condition=Established", f"crd/widgets.{group}", "--timeout=30s")
        widget = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {}}
        kubectl("apply", "-f", "-", text=json.dumps(widget))
        assert kubectl("get", f"widgets.{group}").stdout.split() == ["NAME", "SIZE", "w", "2"]
        kubectl("scale", f"widgets.{group}/w", "--replicas=5")
        big = kubectl("patch", f"widgets.{group}", "w", "--type=merge", "-p", '{"spec":{"size":12}}', check=False)
        assert "too big" in big.stderr
        wrong = kubectl("apply", "-f", "-", text=json.dumps({**widget, "spec": {"sise": 1}}), check=False)
        assert 'unknown field "spec.sise"' in wrong.stderr
        kubectl("patch", f"widgets.{group}", "w", "--subresource=status", "--type=merge", "-p", '{"status":{"size":3}}')
        found = json.loads(kubectl("get", f"widgets.{group}", "w", "-o", "json").stdout)
        assert (found["spec"], found["status"], found["metadata"]["generation"]) == ({"size": 5}, {"size": 3}, 2)
    finally:
        kubectl("delete", "crd", f"widgets.{group}", "--timeout=30s")
    assert kubectl("get", f"widgets.{group}", check=False).returncode == 1


@pytest.mark.parametrize(("arguments", "words"), [(("get", "nothings"), "the server doesn't have a resource type")])
def test_mistakes_are_explained(kubectl: Kubectl, arguments: tuple[str, ...], words: str) -> None:
    assert words in kubectl(*arguments, check=False).stderr
