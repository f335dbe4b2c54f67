"""Scenarios: creating, reading, updating; what is refused and how."""

from __future__ import annotations

from typing import Any

from tests.conformance.samples import POD_SPEC, SAMPLES
from tests.conformance.scenario import Scenario, Step

NS = "/api/v1/namespaces/NAMESPACE"
MAPS = f"{NS}/configmaps"


def a_map(name: str = "a", **rest: Any) -> dict[str, Any]:
    """A config map."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **rest}


def a_pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    """A pod."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {**POD_SPEC, **spec}}


def _of_kind(api_version: str, plural: str, namespaced: bool, kind: str, body: dict[str, Any]) -> Scenario:
    root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
    base = f"{root}/namespaces/NAMESPACE/{plural}" if namespaced else f"{root}/{plural}"
    name = "x-NAMESPACE"
    whole = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **body}
    return Scenario(
        f"kind-{api_version.replace('/', '-')}-{plural}",
        [
            Step("POST", base, whole),
            Step("POST", base, whole),
            Step("GET", f"{base}/{name}"),
            Step("PUT", f"{base}/{name}", {**whole, "metadata": {"name": name, "labels": {"a": "b"}}}),
            Step(
                "PATCH",
                f"{base}/{name}",
                {"metadata": {"annotations": {"a": "b"}}},
                {"Content-Type": "application/merge-patch+json"},
            ),
            Step("GET", f"{base}?fieldSelector=metadata.name%3D{name}"),
            Step("DELETE", f"{base}/{name}", {"propagationPolicy": "Background"}),
            Step("DELETE", f"{base}/not-there"),
        ],
    )


CREATE = Scenario(
    "create",
    [
        Step("POST", MAPS, a_map(data={"a": "b"})),
        Step("POST", MAPS, a_map()),
        Step("POST", MAPS, {"metadata": {"generateName": "gen-"}}),
        Step("POST", MAPS, {"metadata": {}}),
        Step("POST", MAPS, a_map("Not_A_Name")),
        Step("POST", MAPS, a_map("x" * 300)),
        # One label with both faults: a real server walks over several in random order.
        Step("POST", MAPS, a_map("b", metadata={"name": "b", "labels": {"a b": "no good!"}})),
        Step("POST", MAPS, a_map("b", metadata={"name": "b", "annotations": {"UPPER/x": "c"}})),
        Step("POST", MAPS, a_map("b", metadata={"name": "b", "namespace": "other"})),
        Step("POST", MAPS, a_map("b", metadata={"name": "b", "resourceVersion": "7"})),
        Step(
            "POST",
            MAPS,
            a_map(
                "b", metadata={"name": "b", "uid": "mine", "generation": 9, "deletionTimestamp": "2020-01-01T00:00:00Z"}
            ),
        ),
        Step("POST", MAPS, a_map("c", metadata={"name": "c", "finalizers": ["no-slash"]})),
        Step(
            "POST",
            MAPS,
            a_map("c", metadata={"name": "c", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
        ),
        Step("POST", "/api/v1/namespaces/not-there/configmaps", a_map()),
        Step("POST", MAPS + "?dryRun=All", a_map("dry")),
        Step("GET", f"{MAPS}/dry"),
        Step("POST", MAPS + "?dryRun=Some", a_map("dry")),
        Step("POST", MAPS + "?fieldManager=me", a_map("managed", data={"k": "v"})),
        Step("POST", MAPS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
        Step("POST", MAPS, {"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "s"}}),
        Step("POST", MAPS, {"apiVersion": "apps/v1", "kind": "ConfigMap", "metadata": {"name": "s"}}),
        Step("POST", f"{MAPS}/a", a_map()),
        Step("POST", "/api/v1/configmaps", a_map()),
        Step("PATCH", MAPS, {}),
        Step("PUT", MAPS, {}),
    ],
)

BODIES = Scenario(
    "bodies",
    [
        Step("POST", MAPS, b"{not json"),
        Step("POST", MAPS, b""),
        Step("POST", MAPS, b"[]"),
        Step("POST", MAPS, b'"text"'),
        Step("POST", MAPS, a_map(data={"a": 1})),
        Step("POST", MAPS, a_map(data=["a"])),
        Step("POST", MAPS, a_map(metadata=[])),
        Step("POST", MAPS, a_map(metadata={"name": 7})),
        Step(
            "POST",
            MAPS,
            b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: in-yaml}\ndata: {a: b}\n",
            {"Content-Type": "application/yaml"},
        ),
        Step("POST", MAPS, b"x", {"Content-Type": "text/csv"}),
        Step("POST", MAPS + "?fieldValidation=Strict", a_map("s", nope=1, data={"a": "b"})),
        Step("POST", MAPS + "?fieldValidation=Warn", a_map("w", nope=1, metadata={"name": "w", "lables": {}})),
        Step("POST", MAPS + "?fieldValidation=Ignore", a_map("i", nope=1)),
        Step("POST", MAPS, a_map("default", nope=1)),
        Step("POST", MAPS + "?fieldValidation=Strict", b'{"metadata":{"name":"d"},"data":{"a":"1","a":"2"}}'),
        Step("POST", MAPS + "?fieldValidation=Maybe", a_map("m")),
        Step(
            "POST",
            f"{NS}/pods?fieldValidation=Strict",
            a_pod(containerz=[], containers=[{"name": "c", "image": "i", "imag": "x"}]),
        ),
        Step("POST", f"{NS}/pods", a_pod(containers="c")),
        Step(
            "POST",
            f"{NS}/pods",
            a_pod(containers=[{"name": "c", "image": "i", "ports": [{"containerPort": "eighty"}]}]),
        ),
        Step("POST", f"{NS}/pods", a_pod(terminationGracePeriodSeconds="soon")),
    ],
)

READ = Scenario(
    "read",
    [
        Step("GET", f"{MAPS}/not-there"),
        Step("GET", "/api/v1/namespaces/NAMESPACE"),
        Step("GET", "/api/v1/namespaces/not-there"),
        Step("GET", "/api/v1/namespaces/not-there/configmaps"),
        Step("GET", f"{NS}/nothings"),
        Step("GET", f"{NS}/configmaps/a/status"),
        Step("GET", "/apis/apps/v1/namespaces/NAMESPACE/nothings"),
        Step("GET", "/apis/apps/v9/deployments"),
        Step("GET", "/apis/none.dev/v1/things"),
        Step("GET", "/api/v2/pods"),
        Step("GET", "/nothing"),
        Step("GET", "/apis/apps/v1/namespaces/NAMESPACE/deployments"),
        Step("GET", f"{MAPS}/x", headers={"Accept": "application/vnd.kubernetes.protobuf-x"}),
        Step("DELETE", "/api/v1/namespaces"),
        Step("POST", "/version", {}),
    ],
)

UPDATE = Scenario(
    "update",
    [
        Step("POST", MAPS, a_map(data={"a": "1"})),
        Step("PUT", f"{MAPS}/a", a_map(data={"a": "2"})),
        Step("PUT", f"{MAPS}/a", a_map(data={"a": "2"})),
        Step("PUT", f"{MAPS}/a", a_map(data={"a": "3"}, metadata={"name": "a", "resourceVersion": "1"})),
        Step("PUT", f"{MAPS}/a", a_map(data={"a": "3"}, metadata={"name": "a", "resourceVersion": "{VERSION}"})),
        Step("PUT", f"{MAPS}/a", a_map(metadata={"name": "a", "uid": "00000000-0000-0000-0000-000000000000"})),
        Step("PUT", f"{MAPS}/a", a_map("b")),
        Step("PUT", f"{MAPS}/a", {"metadata": {}}),
        Step("PUT", f"{MAPS}/not-there", a_map("not-there")),
        Step("PUT", f"{MAPS}/a", a_map(metadata={"name": "a", "generation": 7, "creationTimestamp": None})),
        Step("PUT", f"{MAPS}/a", a_map(metadata={"name": "a", "creationTimestamp": "2020-01-01T00:00:00Z"})),
        Step("PUT", f"{MAPS}/a?dryRun=All", a_map(data={"dry": "run"})),
        Step("GET", f"{MAPS}/a"),
        Step("POST", MAPS, a_map("fixed", immutable=True, data={"a": "1"})),
        Step("PUT", f"{MAPS}/fixed", a_map("fixed", immutable=True, data={"a": "2"})),
        Step("PUT", f"{MAPS}/fixed", a_map("fixed", data={"a": "1"})),
    ],
)

_DEPLOYMENTS = "/apis/apps/v1/namespaces/NAMESPACE/deployments"
_MERGE = {"Content-Type": "application/merge-patch+json"}


def a_deployment(name: str = "d", **spec: Any) -> dict[str, Any]:
    """A deployment."""
    template = {"metadata": {"labels": {"app": "x"}}, "spec": POD_SPEC}
    wanted = {"selector": {"matchLabels": {"app": "x"}}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": wanted}


WORKLOADS = Scenario(
    "workloads",
    [
        Step("POST", _DEPLOYMENTS, a_deployment(replicas=2)),
        Step("PATCH", f"{_DEPLOYMENTS}/d", {"spec": {"replicas": 3}}, _MERGE),
        Step("PATCH", f"{_DEPLOYMENTS}/d", {"status": {"replicas": 3}}, _MERGE),
        Step("PATCH", f"{_DEPLOYMENTS}/d/status", {"status": {"replicas": 3}, "spec": {"replicas": 9}}, _MERGE),
        Step("GET", f"{_DEPLOYMENTS}/d/scale"),
        Step("PATCH", f"{_DEPLOYMENTS}/d/scale", {"spec": {"replicas": 5}}, _MERGE),
        Step(
            "PUT",
            f"{_DEPLOYMENTS}/d/scale",
            {"metadata": {"name": "d", "namespace": "NAMESPACE"}, "spec": {"replicas": 1}},
        ),
        Step("PATCH", f"{_DEPLOYMENTS}/d/scale", {"spec": {"replicas": -1}}, _MERGE),
        Step("GET", f"{_DEPLOYMENTS}/d"),
        Step("PATCH", f"{_DEPLOYMENTS}/d", {"metadata": {"labels": {"a": "b"}}}, _MERGE),
        Step("PATCH", f"{_DEPLOYMENTS}/d", {"spec": {"selector": {"matchLabels": {"app": "y"}}}}, _MERGE),
        Step("POST", _DEPLOYMENTS, a_deployment("e", selector={"matchLabels": {"app": "other"}})),
        Step("POST", _DEPLOYMENTS, a_deployment("e", selector=None)),
        Step(
            "POST",
            _DEPLOYMENTS,
            a_deployment("e", template={"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}),
        ),
        Step("GET", f"{_DEPLOYMENTS}/not-there/scale"),
        Step("GET", f"{_DEPLOYMENTS}/d/nothing"),
    ],
)

SECRETS = Scenario(
    "secrets",
    [
        Step("POST", f"{NS}/secrets", {"metadata": {"name": "a"}, "stringData": {"a": "text"}, "data": {"b": "eA=="}}),
        Step("PATCH", f"{NS}/secrets/a", {"stringData": {"b": "other"}}, _MERGE),
        Step("POST", f"{NS}/secrets", {"metadata": {"name": "b"}, "data": {"b": "not base64!"}}),
        Step("PUT", f"{NS}/secrets/a", {"metadata": {"name": "a"}, "type": "other/type"}),
        Step("POST", f"{NS}/secrets", {"metadata": {"name": "c"}, "data": {"bad key": "eA=="}}),
        Step("GET", f"{NS}/secrets?fieldSelector=type%3DOpaque"),
    ],
)

SERVICES = Scenario(
    "services",
    [
        Step(
            "POST",
            f"{NS}/services",
            {"metadata": {"name": "a"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}},
        ),
        Step(
            "POST",
            f"{NS}/services",
            {
                "metadata": {"name": "h"},
                "spec": {"clusterIP": "None", "selector": {"a": "b"}, "publishNotReadyAddresses": True},
            },
        ),
        Step(
            "POST",
            f"{NS}/services",
            {"metadata": {"name": "e"}, "spec": {"type": "ExternalName", "externalName": "x.example"}},
        ),
        Step("POST", f"{NS}/services", {"metadata": {"name": "n"}, "spec": {"ports": []}}),
        Step("POST", f"{NS}/services", {"metadata": {"name": "n"}, "spec": {"ports": [{"port": 0}]}}),
        Step("POST", f"{NS}/services", {"metadata": {"name": "n"}, "spec": {"ports": [{"port": 1}, {"port": 2}]}}),
        Step("POST", f"{NS}/services", {"metadata": {"name": "9n"}, "spec": {"ports": [{"port": 1}]}}),
        Step("PATCH", f"{NS}/services/a", {"spec": {"ports": [{"port": 81, "name": "x"}]}}, _MERGE),
        Step(
            "PATCH", f"{NS}/services/a", {"spec": {"clusterIP": "10.96.200.1", "clusterIPs": ["10.96.200.1"]}}, _MERGE
        ),
    ],
)

SCENARIOS = [CREATE, BODIES, READ, UPDATE, WORKLOADS, SECRETS, SERVICES, *(_of_kind(*sample) for sample in SAMPLES)]
