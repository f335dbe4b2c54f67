"""Scenarios: how objects end and who may end them, dry runs, generated names, budgets, tokens, events in both forms."""

from __future__ import annotations

from typing import Any

from tests.conformance.samples import POD_SPEC, SAMPLES
from tests.conformance.scenario import Scenario, Step
from tests.conformance.scenarios_custom import APPLY, JSON, MERGE, STRATEGIC
from tests.conformance.scenarios_objects import MAPS, NS, a_deployment, a_map, a_pod

PODS = f"{NS}/pods"
_DEPLOYMENTS = "/apis/apps/v1/namespaces/NAMESPACE/deployments"
_BUDGETS = "/apis/policy/v1/namespaces/NAMESPACE/poddisruptionbudgets"
_ACCOUNTS = f"{NS}/serviceaccounts"
_NEW_EVENTS = "/apis/events.k8s.io/v1/namespaces/NAMESPACE/events"

DRY_RUNS = Scenario(
    "dry-runs",
    [
        Step("POST", MAPS, a_map(data={"a": "1"})),
        Step("POST", f"{MAPS}?dryRun=All", a_map()),
        Step("POST", f"{MAPS}?dryRun=All", {"metadata": {"generateName": "gen-"}}),
        Step("PUT", f"{MAPS}/a?dryRun=All", a_map(data={"a": "2"})),
        Step("PATCH", f"{MAPS}/a?dryRun=All", {"data": {"a": 7}}, MERGE),
        Step("PATCH", f"{MAPS}/a?dryRun=All", [{"op": "remove", "path": "/data/a"}], JSON),
        Step("PATCH", f"{MAPS}/a?dryRun=All&fieldManager=x", a_map(data={"a": "3"}), APPLY),
        Step("PATCH", f"{MAPS}/a?dryRun=All&fieldManager=x&force=true", a_map(data={"a": "3"}), APPLY),
        Step("DELETE", f"{MAPS}/a?dryRun=All"),
        Step("DELETE", f"{MAPS}/a", {"dryRun": ["All"], "propagationPolicy": "Foreground"}),
        Step("DELETE", f"{MAPS}?dryRun=All&labelSelector=none%3Dnone"),
        Step("DELETE", f"{MAPS}/a", {"dryRun": ["Most"]}),
        Step("GET", f"{MAPS}/a"),
        Step("POST", _DEPLOYMENTS, a_deployment()),
        Step("PATCH", f"{_DEPLOYMENTS}/d/scale?dryRun=All", {"spec": {"replicas": 7}}, MERGE),
        Step("PATCH", f"{_DEPLOYMENTS}/d/status?dryRun=All", {"status": {"replicas": 7}}, MERGE),
        Step("GET", f"{_DEPLOYMENTS}/d/scale"),
        Step("POST", PODS, a_pod()),
        Step(
            "POST", f"{PODS}/p/binding?dryRun=All", {"metadata": {"name": "p"}, "target": {"name": "n"}}, keep="/status"
        ),
        Step("GET", f"{PODS}/p", keep="/spec/nodeName"),
    ],
)

SCALES = Scenario(
    "scales",
    [
        Step("POST", _DEPLOYMENTS, a_deployment(replicas=2)),
        Step(
            "PUT",
            f"{_DEPLOYMENTS}/d/scale?fieldManager=me",
            {"metadata": {"name": "d", "namespace": "NAMESPACE"}, "spec": {"replicas": 3}},
        ),
        Step(
            "PATCH",
            f"{_DEPLOYMENTS}/d/scale?fieldManager=you",
            [{"op": "replace", "path": "/spec/replicas", "value": 4}],
            JSON,
        ),
        Step(
            "PATCH", f"{_DEPLOYMENTS}/d/scale", {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 5}}, MERGE
        ),
        Step(
            "PUT",
            f"{_DEPLOYMENTS}/d/scale",
            {"metadata": {"name": "other", "namespace": "NAMESPACE"}, "spec": {"replicas": 5}},
        ),
        Step("PATCH", f"{_DEPLOYMENTS}/d/scale", {"spec": {"replicas": "five"}}, MERGE),
        Step("PATCH", f"{_DEPLOYMENTS}/d/scale", {"spec": {"replicas": None}}, MERGE),
        Step("GET", f"{_DEPLOYMENTS}/d"),
    ],
)

_LIMITED = {"status": {"conditions": [{"type": "Ready", "status": "True"}], "phase": "Running"}}


def _budget(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}}, **spec}}


def _status(**counts: Any) -> dict[str, Any]:
    return {"status": {"observedGeneration": 1, **counts}}


def _pod(name: str) -> dict[str, Any]:
    return {**a_pod(name), "metadata": {"name": name, "labels": {"a": "b"}}}


def _evict(name: str, **options: Any) -> Step:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, **options}
    return Step("POST", f"{PODS}/{name}/eviction", body)


_COUNTS = {"currentHealthy": 2, "desiredHealthy": 2, "expectedPods": 2}
BUDGETS = Scenario(
    "budgets",
    [
        Step("POST", PODS, _pod("p"), keep="/kind"),
        Step("POST", PODS, _pod("q"), keep="/kind"),
        Step("PATCH", f"{PODS}/p/status", _LIMITED, STRATEGIC, keep="/status/phase"),
        Step("PATCH", f"{PODS}/q/status", _LIMITED, STRATEGIC, keep="/status/phase"),
        Step("POST", _BUDGETS, _budget("x", minAvailable=1, maxUnavailable=1)),
        Step("POST", _BUDGETS, _budget("x", minAvailable="half")),
        Step("POST", _BUDGETS, _budget("x", minAvailable=-1)),
        Step("POST", _BUDGETS, _budget("b", minAvailable=2)),
        # No controller counts here: the test says what one would have found.
        Step("PATCH", f"{_BUDGETS}/b/status", _status(disruptionsAllowed=0, **_COUNTS), MERGE),
        _evict("p"),
        _evict("p", deleteOptions={"dryRun": ["All"]}),
        Step("PATCH", f"{_BUDGETS}/b", {"spec": {"minAvailable": 1}}, MERGE, keep="/spec"),
        Step(
            "PATCH",
            f"{_BUDGETS}/b/status",
            _status(disruptionsAllowed=1, **{**_COUNTS, "desiredHealthy": 1}),
            MERGE,
            keep="/status/disruptionsAllowed",
        ),
        Step("PATCH", f"{_BUDGETS}/b/status", {"status": {"observedGeneration": 2}}, MERGE, keep="/kind"),
        _evict("p"),
        Step("GET", f"{PODS}/p"),
        Step("POST", f"{PODS}/q/eviction", {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}),
    ],
)

TOKENS = Scenario(
    "tokens",
    [
        Step("POST", _ACCOUNTS, {"metadata": {"name": "robot"}}),
        Step("POST", f"{_ACCOUNTS}/robot/token", {"spec": {"expirationSeconds": 3600}}, keep="/spec"),
        Step("POST", f"{_ACCOUNTS}/robot/token", {"spec": {"expirationSeconds": 5}}),
        Step("POST", f"{_ACCOUNTS}/robot/token", {"spec": {"expirationSeconds": 1 << 33}}),
        Step("POST", f"{_ACCOUNTS}/robot/token", {"spec": {"audiences": ["me"]}}, keep="/spec/audiences"),
        Step("POST", f"{_ACCOUNTS}/nobody/token", {"spec": {}}),
        Step(
            "POST",
            f"{_ACCOUNTS}/robot/token",
            {"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none"}}},
        ),
        Step("GET", f"{_ACCOUNTS}/robot/token"),
    ],
)

_ABOUT = {"kind": "Pod", "name": "p", "namespace": "NAMESPACE", "apiVersion": "v1"}
EVENT_VIEWS = Scenario(
    "event-views",
    [
        Step(
            "POST",
            f"{NS}/events",
            {
                "metadata": {"name": "old"},
                "involvedObject": {**_ABOUT, "fieldPath": "spec.containers{c}"},
                "reason": "Why",
                "message": "text",
                "type": "Warning",
                "source": {"component": "c", "host": "h"},
                "firstTimestamp": "2026-01-01T00:00:00Z",
                "lastTimestamp": "2026-01-02T00:00:00Z",
                "count": 3,
                "related": {"kind": "Node", "name": "n"},
            },
        ),
        Step("GET", f"{_NEW_EVENTS}/old"),
        Step(
            "POST",
            _NEW_EVENTS,
            {
                "metadata": {"name": "new"},
                "regarding": _ABOUT,
                "eventTime": "2026-01-01T00:00:00.000000Z",
                "reportingController": "x.dev/c",
                "reportingInstance": "i",
                "action": "Acting",
                "reason": "Why",
                "type": "Normal",
                "note": "text",
                "related": {"kind": "Node", "name": "n"},
                "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"},
            },
        ),
        Step("GET", f"{NS}/events/new"),
        Step("GET", f"{_NEW_EVENTS}?fieldSelector=regarding.name%3Dp,reason%3DWhy,reportingController%3Dx.dev/c"),
        Step("GET", f"{NS}/events?fieldSelector=involvedObject.name%3Dp,reportingComponent%3Dx.dev/c"),
        Step("GET", f"{_NEW_EVENTS}?fieldSelector=type%3DWarning"),
        Step("PATCH", f"{_NEW_EVENTS}/new", {"series": {"count": 3}}, MERGE),
        Step("PATCH", f"{_NEW_EVENTS}/new", {"note": "other"}, MERGE),
        Step("PATCH", f"{NS}/events/old", {"message": "other", "count": 4}, MERGE),
        Step("PATCH", f"{_NEW_EVENTS}/old", {"metadata": {"labels": {"a": "b"}}}, MERGE),
        Step("POST", _NEW_EVENTS, {"metadata": {"name": "bad"}, "regarding": _ABOUT, "reason": "Why"}),
        Step("DELETE", f"{_NEW_EVENTS}/new"),
    ],
)


def _owner(name: str, uid: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, **rest}


OWNERS = Scenario(
    "owners",
    [
        Step("POST", MAPS, a_map("one")),
        Step(
            "POST",
            MAPS,
            a_map(
                "child",
                metadata={
                    "name": "child",
                    "ownerReferences": [_owner("one", "{UID}", blockOwnerDeletion=True, controller=True)],
                    "finalizers": ["x.dev/hold"],
                },
            ),
        ),
        Step("GET", f"{MAPS}/one", keep="/metadata/name"),
        Step("DELETE", f"{MAPS}/one", {"propagationPolicy": "Foreground"}),
        Step("GET", f"{MAPS}/one", keep="/metadata/finalizers"),
        Step("PATCH", f"{MAPS}/child", {"metadata": {"finalizers": None}}, MERGE, keep="/kind"),
        Step("GET", f"{MAPS}/one", wait=404),
        Step("GET", f"{MAPS}/child", wait=404),
        Step(
            "POST",
            MAPS,
            a_map(
                "two",
                metadata={
                    "name": "two",
                    "ownerReferences": [
                        _owner("a", "00000000-0000-0000-0000-00000000000a", controller=True),
                        _owner("b", "00000000-0000-0000-0000-00000000000b", controller=True),
                    ],
                },
            ),
        ),
        Step("POST", MAPS, a_map("three", metadata={"name": "three", "ownerReferences": [{"kind": "X"}]})),
        Step("DELETE", f"{MAPS}/none", {"propagationPolicy": "Foreground"}),
        Step("DELETE", f"{MAPS}/none", {"propagationPolicy": "Orphan", "orphanDependents": True}),
        Step("POST", "/api/v1/namespaces/NAMESPACE/configmaps", {"metadata": {"generateName": "Bad_Name-"}}),
        Step("POST", MAPS, a_map("held", metadata={"name": "held", "finalizers": ["x.dev/a", "x.dev/b"]})),
        Step("DELETE", f"{MAPS}/held", {"preconditions": {"uid": "{UID}", "resourceVersion": "{VERSION}"}}),
        Step(
            "PUT",
            f"{MAPS}/held",
            a_map("held", data={"still": "writable"}, metadata={"name": "held", "finalizers": ["x.dev/a"]}),
        ),
        Step("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": ["x.dev/a", "x.dev/new"]}}, MERGE),
        Step("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": []}}, MERGE),
        Step("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": []}}, MERGE),
    ],
    controllers=True,
)

_TABLE = {"Accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}
# Beside the samples: kinds with columns whose objects are never made elsewhere in the suite.
_KEPT: list[tuple[str, str, bool, str, dict[str, Any]]] = [
    (
        "v1",
        "persistentvolumes",
        False,
        "PersistentVolume",
        {
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
                "hostPath": {"path": "/x"},
                "claimRef": {"namespace": "a", "name": "b"},
                "storageClassName": "s",
                "persistentVolumeReclaimPolicy": "Retain",
                "volumeMode": "Filesystem",
            }
        },
    ),
    ("v1", "podtemplates", True, "PodTemplate", {"template": {"metadata": {"labels": {"a": "b"}}, "spec": POD_SPEC}}),
    (
        "networking.k8s.io/v1",
        "ingresses",
        True,
        "Ingress",
        {
            "spec": {
                "ingressClassName": "c",
                "tls": [{"hosts": ["a"]}],
                "rules": [{"host": f"{each}.example"} for each in "abcd"],
                "defaultBackend": {"service": {"name": "x", "port": {"number": 80}}},
            }
        },
    ),
]


def _rows() -> list[Step]:
    steps = []
    for api_version, plural, namespaced, kind, body in [*SAMPLES, *_KEPT]:
        if kind in ("LimitRange", "ControllerRevision", "Namespace"):
            continue  # LimitRange and ControllerRevision: the samples are refused; Namespace: its uid is not stable
        root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
        base = f"{root}/namespaces/NAMESPACE/{plural}" if namespaced else f"{root}/{plural}"
        name = "t-NAMESPACE"
        whole = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **body}
        steps += [
            Step("POST", base, whole, keep="/kind"),
            Step("GET", f"{base}/{name}?includeObject=None", headers=_TABLE, keep="/rows/0"),
            Step("DELETE", f"{base}/{name}", {"gracePeriodSeconds": 0}, keep="/apiVersion"),
        ]
    return steps


ROWS = Scenario("rows", _rows())

SCENARIOS = [DRY_RUNS, SCALES, BUDGETS, TOKENS, EVENT_VIEWS, OWNERS, ROWS]
