"""Scenarios: pods with their defaults, status, binding, graceful deletion, eviction; nodes; events; namespaces."""

from __future__ import annotations

from tests.conformance.scenario import Scenario, Step
from tests.conformance.scenarios_objects import MAPS, NS, a_map, a_pod

PODS = f"{NS}/pods"
_MERGE = {"Content-Type": "application/merge-patch+json"}
_STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}

FULL = a_pod(
    "full",
    nodeName="no-such-node",
    hostname="h",
    subdomain="s",
    restartPolicy="Never",
    schedulerName="supernode",
    volumes=[
        {"name": "e", "emptyDir": {"medium": "Memory"}},
        {"name": "c", "configMap": {"name": "c"}},
        {"name": "s", "secret": {"secretName": "s"}},
        {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "none"},
    ],
    initContainers=[
        {
            "name": "sidecar",
            "image": "supernode:1",
            "restartPolicy": "Always",
            "startupProbe": {"httpGet": {"path": "/readyz", "port": 29401}},
        }
    ],
    containers=[
        {
            "name": "main",
            "image": "python:latest",
            "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi", "hygon.com/hcu": "2"}},
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ],
            "volumeMounts": [{"name": "e", "mountPath": "/e"}],
            "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 3},
            "readinessProbe": {"tcpSocket": {"port": 80}},
            "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
        }
    ],
)

DEFAULTS = Scenario(
    "pod-defaults",
    [
        Step("POST", PODS, a_pod()),
        Step("POST", PODS, FULL),
        Step(
            "POST",
            PODS,
            a_pod("q1", containers=[{"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "1"}}}]),
        ),
        Step(
            "POST",
            PODS,
            a_pod(
                "q2",
                containers=[
                    {
                        "name": "c",
                        "image": "i@sha256:" + "0" * 64,
                        "resources": {"limits": {"cpu": "1000m", "memory": "1Gi"}},
                    }
                ],
            ),
        ),
        Step("POST", PODS, a_pod("t", tolerations=[{"operator": "Exists"}], priorityClassName="system-node-critical")),
        Step("POST", PODS, a_pod("bad", priorityClassName="none-such")),
        Step("POST", PODS, a_pod("bad", restartPolicy="Sometimes")),
        Step("POST", PODS, a_pod("bad", containers=[])),
        Step("POST", PODS, a_pod("bad", containers=[{"name": "c"}])),
        Step("POST", PODS, a_pod("bad", containers=[{"name": "c", "image": "i"}, {"name": "c", "image": "i"}])),
        Step("POST", PODS, a_pod("bad", containers=[{"name": "C_", "image": "i"}])),
        Step(
            "POST",
            PODS,
            a_pod("bad", containers=[{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]),
        ),
        Step(
            "POST",
            PODS,
            a_pod("bad", containers=[{"name": "c", "image": "i", "resources": {"requests": {"x.dev/y": "1"}}}]),
        ),
        Step(
            "POST",
            PODS,
            a_pod("bad", containers=[{"name": "c", "image": "i", "resources": {"limits": {"x.dev/y": "1500m"}}}]),
        ),
        Step(
            "POST",
            PODS,
            a_pod("bad", containers=[{"name": "c", "image": "i", "resources": {"limits": {"cpu": "much"}}}]),
        ),
    ],
)

LIFE = Scenario(
    "pod-life",
    [
        Step("POST", PODS, a_pod()),
        Step("PATCH", f"{PODS}/p", {"spec": {"nodeName": "n"}}, _MERGE),
        Step("PATCH", f"{PODS}/p", {"spec": {"activeDeadlineSeconds": 9}}, _MERGE),
        Step("PATCH", f"{PODS}/p", {"spec": {"containers": [{"name": "c", "image": "other:1"}]}}, _STRATEGIC),
        Step("PATCH", f"{PODS}/p", {"spec": {"containers": [{"name": "c", "command": ["x"]}]}}, _STRATEGIC),
        Step(
            "POST",
            f"{PODS}/p/binding",
            {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}},
            keep="/status",
        ),
        Step("POST", f"{PODS}/p/binding", {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n2"}}),
        Step("GET", f"{PODS}/p"),
        Step(
            "PATCH",
            f"{PODS}/p/status",
            {
                "status": {
                    "phase": "Running",
                    "podIP": "127.0.0.9",
                    "podIPs": [{"ip": "127.0.0.9"}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [
                        {
                            "name": "c",
                            "ready": True,
                            "restartCount": 1,
                            "image": "i",
                            "imageID": "",
                            "state": {"running": {}},
                        }
                    ],
                }
            },
            _STRATEGIC,
        ),
        Step(
            "GET", f"{NS}/pods?fieldSelector=spec.nodeName%3Dn1,status.phase%3DRunning", keep="/items/0/metadata/name"
        ),
        Step("GET", f"{NS}/pods?fieldSelector=spec.nodeName!%3Dn1"),
        Step("GET", f"{NS}/pods?fieldSelector=spec.image%3Dn1"),
        Step("DELETE", f"{PODS}/p"),
        Step("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 5}),
        Step("PATCH", f"{PODS}/p", {"metadata": {"finalizers": ["x.dev/f"]}}, _MERGE),
        Step("GET", f"{PODS}/p"),
        Step("DELETE", f"{PODS}/p?gracePeriodSeconds=0"),
        Step("GET", f"{PODS}/p"),
        Step("POST", PODS, a_pod("u")),
        Step("DELETE", f"{PODS}/u"),
        Step("GET", f"{PODS}/u"),
        Step("POST", PODS, a_pod("done", nodeName="n1")),
        Step("PATCH", f"{PODS}/done/status", {"status": {"phase": "Succeeded"}}, _MERGE),
        Step("DELETE", f"{PODS}/done", keep="/metadata/name"),
        Step("GET", f"{PODS}/done"),
    ],
)

_BUDGET = {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}
_EVICTION = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}

EVICTION = Scenario(
    "eviction",
    [
        Step("POST", PODS, {**a_pod(), "metadata": {"name": "p", "labels": {"a": "b"}}}),
        Step("POST", f"{PODS}/not-there/eviction", _EVICTION),
        Step("POST", f"{PODS}/p/eviction", _EVICTION),
        Step("GET", f"{PODS}/p"),
    ],
)

NODES = Scenario(
    "nodes",
    [
        Step(
            "POST",
            "/api/v1/nodes",
            {
                "metadata": {"name": "n-NAMESPACE", "labels": {"a": "b"}},
                "status": {
                    "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
                    "nodeInfo": {"kubeletVersion": "v1"},
                },
            },
        ),
        Step("PATCH", "/api/v1/nodes/n-NAMESPACE/status", {"status": {"capacity": {"hygon.com/hcu": "8"}}}, _STRATEGIC),
        Step(
            "PATCH",
            "/api/v1/nodes/n-NAMESPACE/status",
            {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r"}]}},
            _STRATEGIC,
        ),
        Step(
            "PATCH",
            "/api/v1/nodes/n-NAMESPACE/status",
            {"status": {"conditions": [{"type": "Disk", "status": "False"}]}, "metadata": {"labels": {"x": "y"}}},
            _STRATEGIC,
        ),
        Step("PATCH", "/api/v1/nodes/n-NAMESPACE", {"spec": {"unschedulable": True}}, _MERGE),
        Step(
            "PATCH",
            "/api/v1/nodes/n-NAMESPACE",
            {"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}},
            _STRATEGIC,
        ),
        Step(
            "GET",
            "/api/v1/nodes?fieldSelector=metadata.name%3Dn-NAMESPACE,spec.unschedulable%3Dtrue",
            keep="/items/0/spec",
        ),
        Step("DELETE", "/api/v1/nodes/n-NAMESPACE"),
    ],
)

EVENTS = Scenario(
    "events",
    [
        Step(
            "POST",
            f"{NS}/events",
            {
                "metadata": {"name": "e1"},
                "involvedObject": {"kind": "Pod", "name": "p", "namespace": "NAMESPACE"},
                "reason": "Why",
                "message": "text",
                "type": "Normal",
                "source": {"component": "c"},
                "count": 1,
            },
        ),
        Step("GET", "/apis/events.k8s.io/v1/namespaces/NAMESPACE/events/e1"),
        Step(
            "GET",
            f"{NS}/events?fieldSelector=involvedObject.name%3Dp,involvedObject.kind%3DPod",
            keep="/items/0/reason",
        ),
        Step("GET", f"{NS}/events?fieldSelector=involvedObject.name%3Dq"),
        Step("GET", f"{NS}/events?fieldSelector=reason%3DWhy,type%3DNormal,source%3Dc", keep="/items/0/message"),
        Step(
            "POST",
            f"{NS}/events",
            {"metadata": {"name": "e2"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}},
        ),
    ],
)

NAMESPACES = Scenario(
    "namespaces",
    [
        Step("POST", "/api/v1/namespaces", {"metadata": {"name": "z-NAMESPACE"}}),
        Step("GET", "/api/v1/namespaces/z-NAMESPACE/serviceaccounts/default", wait=200),
        Step("POST", "/api/v1/namespaces/z-NAMESPACE/configmaps", a_map()),
        Step(
            "POST",
            "/api/v1/namespaces/z-NAMESPACE/configmaps",
            a_map("held", metadata={"name": "held", "finalizers": ["x.dev/f"]}),
        ),
        Step("DELETE", "/api/v1/namespaces/z-NAMESPACE", keep="/status/phase"),
        Step("POST", "/api/v1/namespaces/z-NAMESPACE/configmaps", a_map("late")),
        Step("GET", "/api/v1/namespaces/z-NAMESPACE/configmaps/a", wait=404),
        Step("GET", "/api/v1/namespaces/z-NAMESPACE", keep="/status/phase"),
        Step("PATCH", "/api/v1/namespaces/z-NAMESPACE/configmaps/held", {"metadata": {"finalizers": None}}, _MERGE),
        Step("GET", "/api/v1/namespaces/z-NAMESPACE", wait=404),
    ],
    controllers=True,
)

DELETES = Scenario(
    "deletes",
    [
        Step("POST", MAPS, a_map("a", metadata={"name": "a", "finalizers": ["x.dev/f"]})),
        Step("DELETE", f"{MAPS}/a"),
        Step("DELETE", f"{MAPS}/a"),
        Step("PATCH", f"{MAPS}/a", {"metadata": {"finalizers": ["x.dev/f", "x.dev/g"]}}, _MERGE),
        Step("PATCH", f"{MAPS}/a", {"metadata": {"finalizers": []}}, _MERGE),
        Step("GET", f"{MAPS}/a"),
        Step("POST", MAPS, a_map("b")),
        Step("DELETE", f"{MAPS}/b", {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}),
        Step("DELETE", f"{MAPS}/b", {"preconditions": {"resourceVersion": "1"}}),
        Step("DELETE", f"{MAPS}/b", {"propagationPolicy": "Sideways"}),
        Step("DELETE", f"{MAPS}/b?dryRun=All"),
        Step("DELETE", f"{MAPS}/b", {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}),
        Step("POST", MAPS, a_map("c", metadata={"name": "c", "labels": {"x": "1"}})),
        Step("POST", MAPS, a_map("d", metadata={"name": "d", "labels": {"x": "2"}})),
        Step("DELETE", f"{MAPS}?labelSelector=x%3D1"),
        Step("GET", f"{MAPS}/c"),
        Step("GET", f"{MAPS}/d", keep="/metadata/name"),
    ],
)


def _owned(name: str, *, block: bool = False) -> dict:  # type: ignore[type-arg]
    owner = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "owner",
        "uid": "{UID}",
        **({"blockOwnerDeletion": True} if block else {}),
    }
    return a_map(name, metadata={"name": name, "ownerReferences": [owner]})


GARBAGE = Scenario(
    "garbage",
    [
        Step("POST", MAPS, a_map("owner")),
        Step("POST", MAPS, _owned("child")),
        Step("GET", f"{MAPS}/owner", keep="/metadata/name"),
        Step("DELETE", f"{MAPS}/owner", {"propagationPolicy": "Background"}),
        Step("GET", f"{MAPS}/child", wait=404),
        Step("POST", MAPS, a_map("owner")),
        Step("POST", MAPS, _owned("child2", block=True)),
        Step("DELETE", f"{MAPS}/owner", {"propagationPolicy": "Foreground"}),
        Step("GET", f"{MAPS}/owner", wait=404),
        Step("GET", f"{MAPS}/child2", wait=404),
        Step("POST", MAPS, a_map("owner")),
        Step("POST", MAPS, _owned("child3")),
        Step("DELETE", f"{MAPS}/owner", {"propagationPolicy": "Orphan"}),
        Step("GET", f"{MAPS}/owner", wait=404),
        Step("GET", f"{MAPS}/child3"),
        Step(
            "POST",
            MAPS,
            a_map(
                "stray",
                metadata={
                    "name": "stray",
                    "ownerReferences": [
                        {
                            "apiVersion": "v1",
                            "kind": "ConfigMap",
                            "name": "gone",
                            "uid": "00000000-0000-0000-0000-00000000000a",
                        }
                    ],
                },
            ),
            keep="/metadata/name",
        ),
        Step("GET", f"{MAPS}/stray", wait=404),
    ],
    controllers=True,
)

SCENARIOS = [DEFAULTS, LIFE, EVICTION, NODES, EVENTS, NAMESPACES, DELETES, GARBAGE]
