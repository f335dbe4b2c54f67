"""What people do to a running cluster with the real kubectl, on both servers: edit, diff, cascades, nodes, access."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.conformance.engines import Engine
from tests.conformance.test_conformance_kubectl import DEPLOYMENT, MAP

if TYPE_CHECKING:
    from tests.conformance.conftest import Kubectl


def _get(kubectl: Kubectl, *what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("get", *what, "-o", "json").stdout)
    return found


def test_edit_and_diff(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(os.environ, "TMPDIR", str(tmp_path))  # kubectl leaves a copy of what was refused
    text = json.dumps(DEPLOYMENT)
    kubectl("apply", "-f", "-", text=text)
    assert kubectl("diff", "-f", "-", text=text).stdout == ""
    changed = kubectl("diff", "-f", "-", text=text.replace('"replicas": 2', '"replicas": 7'), check=False)
    assert changed.returncode == 1
    assert "-  replicas: 2\n+  replicas: 7\n" in changed.stdout
    monkeypatch.setitem(os.environ, "KUBE_EDITOR", "sed -i 's/replicas: 2/replicas: 3/'")
    assert kubectl("edit", "deploy", "d").stdout == "deployment.apps/d edited\n"
    assert _get(kubectl, "deploy", "d")["spec"]["replicas"] == 3
    monkeypatch.setitem(os.environ, "KUBE_EDITOR", "sed -i 's/replicas: 3/replicas: -3/'")
    refused = kubectl("edit", "deploy", "d", check=False)
    assert 'deployments.apps "d" is invalid' in refused.stderr
    copy = Path(refused.stderr.partition('stored to "')[2].partition('"')[0]).read_text()
    assert "# * spec.replicas: Invalid value: -3: must be greater than or equal to 0" in copy


def test_patches_of_each_type(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", text=json.dumps(DEPLOYMENT))
    kubectl("patch", "deploy", "d", "--type=json", "-p", '[{"op":"replace","path":"/spec/replicas","value":3}]')
    kubectl("patch", "deploy", "d", "--type=merge", "-p", '{"metadata":{"labels":{"a":"b"}}}')
    part = '{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"new"}]}}}}'
    kubectl("patch", "deploy", "d", "--type=strategic", "-p", part)
    same = kubectl("patch", "deploy", "d", "--type=strategic", "-p", part)
    assert same.stdout == "deployment.apps/d patched (no change)\n"
    kubectl("patch", "deploy", "d", "--subresource=scale", "--type=merge", "-p", '{"spec":{"replicas":4}}')
    kubectl("label", "deploy", "d", "a-")
    assert kubectl("label", "deploy", "d", "b=c", "--dry-run=server").stdout.startswith(
        "deployment.apps/d labeled (server"
    )
    found = _get(kubectl, "deploy", "d")
    assert (found["spec"]["replicas"], found["metadata"].get("labels")) == (4, None)
    assert [each["image"] for each in found["spec"]["template"]["spec"]["containers"]] == ["new"]
    failed = kubectl(
        "patch", "deploy", "d", "--type=json", "-p", '[{"op":"test","path":"/spec/replicas","value":9}]', check=False
    )
    assert "the server rejected our request due to an error in our request" in failed.stderr


@pytest.mark.parametrize(("cascade", "stays"), [("background", False), ("foreground", False), ("orphan", True)])
def test_deleting_with_dependents(kubectl: Kubectl, engine: Engine, cascade: str, *, stays: bool) -> None:
    if not engine.controllers:
        pytest.skip("needs kube-controller-manager in KUBEBUILDER_ASSETS")
    kubectl("create", "-f", "-", text=json.dumps(MAP))
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": _get(kubectl, "cm", "a")["metadata"]["uid"]}
    child = {**MAP, "metadata": {"name": "child", "ownerReferences": [owner]}}
    kubectl("create", "-f", "-", text=json.dumps(child))
    kubectl("delete", "cm", "a", f"--cascade={cascade}", "--timeout=30s")
    if stays:
        assert "ownerReferences" not in _get(kubectl, "cm", "child")["metadata"]
    else:
        kubectl("wait", "cm/child", "--for=delete", "--timeout=30s")


def test_nodes_are_cordoned_tainted_and_drained(kubectl: Kubectl, namespace: str) -> None:
    node = f"n-{namespace}"
    ready = [{"type": "Ready", "status": "True"}]
    status = {"conditions": ready, "allocatable": {"cpu": "2", "pods": "9"}, "capacity": {"cpu": "2", "pods": "9"}}
    kubectl(
        "create",
        "-f",
        "-",
        text=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": status}),
    )
    try:
        kubectl("taint", "node", node, "k=v:NoSchedule")
        assert kubectl("cordon", node).stdout == f"node/{node} cordoned\n"
        assert "Ready,SchedulingDisabled" in kubectl("get", "node", node).stdout
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p"},
            "spec": {**DEPLOYMENT["spec"]["template"]["spec"], "nodeName": node},
        }
        kubectl("create", "-f", "-", text=json.dumps(pod))
        text = kubectl("describe", "node", node).stdout
        assert "k=v:NoSchedule" in text
        assert f"{namespace}" in text.partition("Non-terminated Pods")[2]
        # Nothing ends the pod's processes here, so the drain waits for it in vain: it is marked all the same.
        drained = kubectl("drain", node, "--force", "--timeout=1s", check=False)
        assert f"evicting pod {namespace}/p" in drained.stderr + drained.stdout
        assert "deletionTimestamp" in _get(kubectl, "pod", "p")["metadata"]
        kubectl("delete", "pod", "p", "--force", "--grace-period=0")
        kubectl("uncordon", node)
        kubectl("taint", "node", node, "k-")
        assert "taints" not in _get(kubectl, "node", node)["spec"]
    finally:
        kubectl("delete", "node", node)


def test_access_and_tokens(kubectl: Kubectl, namespace: str, engine: Engine) -> None:
    kubectl("create", "serviceaccount", "robot")
    kubectl("create", "role", "reader", "--verb=get", "--resource=pods")
    kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:robot")
    token = kubectl("create", "token", "robot").stdout.strip()
    robot = ("--kubeconfig=/dev/null", f"--server={engine.url}", f"--token={token}", "--insecure-skip-tls-verify")
    kubectl("wait", "--for=jsonpath={.roleRef.name}=reader", "rolebinding/reader", "--timeout=10s")
    assert kubectl(*robot, "auth", "can-i", "get", "pods").stdout == "yes\n"
    assert kubectl(*robot, "auth", "can-i", "get", "secrets", check=False).stdout == "no\n"
    assert f"system:serviceaccount:{namespace}:robot" in kubectl(*robot, "auth", "whoami").stdout
    account = f"--as=system:serviceaccount:{namespace}:robot"
    assert kubectl("auth", "can-i", "delete", "pods", account, check=False).stdout == "no\n"


def test_what_is_not_there_is_said_clearly(kubectl: Kubectl, engine: Engine) -> None:
    if engine.name != "embedded":
        pytest.skip("only the embedded server lacks them")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {**DEPLOYMENT["spec"]["template"]["spec"], "nodeName": "n"},
    }
    kubectl("create", "-f", "-", text=json.dumps(pod))
    running = '{"status":{"phase":"Running"}}'
    kubectl("patch", "pod", "p", "--subresource=status", "--type=merge", "-p", running)
    for arguments, words in (
        (("exec", "p", "--", "ls"), "pods/exec is not supported by the local cluster: a pod is processes"),
        (("attach", "p"), "pods/attach is not supported by the local cluster"),
        (("port-forward", "p", ":80"), "pods/portforward is not supported by the local cluster: a pod listens"),
        (("debug", "p", "--image=x"), "pods/ephemeralcontainers is not supported by the local cluster"),
        (("top", "pod"), "Metrics API not available"),
    ):
        refused = kubectl(*arguments, check=False)
        assert refused.returncode == 1
        assert words in refused.stderr, (arguments, refused.stderr)
