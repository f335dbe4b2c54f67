"""Discovery, OpenAPI, Tables and data facts, beside those of a real API server."""

# ruff: noqa: E501

from __future__ import annotations

from typing import Any

import pytest
from tests.builders.machinery import Json, widget_crd
from tests.builders.machinery_scenarios import a_deployment, a_widget
from tests.wire.controlplane import ControlPlane
from tests.wire.local_machinery.record import RealServer

from supernode.local.machinery import crd, discovery, extract, openapi, resources, schemas, table

pytestmark = pytest.mark.envtest
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.fixture(scope="module")
def real(real_cluster: ControlPlane) -> RealServer:
    server = RealServer(real_cluster.admin)
    server.prepare()
    return server


def served() -> tuple[resources.Resource, ...]:
    made = crd.with_defaults(widget_crd())
    return resources.builtin() + resources.custom(made, crd.compile(made))


GROUPS = sorted({(resource.group, resource.version) for resource in served()})


def test_the_data_file_is_what_the_extractor_finds(real: RealServer) -> None:
    facts = extract.extract(lambda path, accept: real.call("GET", path, accept=accept)[1])
    known = schemas.builtin()
    assert facts["version"] == known.version
    assert facts["kinds"] == known.kinds
    assert facts["definitions"] == known.definitions
    assert facts["resources"] == known.resources


@pytest.mark.parametrize(("group", "version"), GROUPS)
def test_resource_lists(real: RealServer, group: str, version: str) -> None:
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    theirs = real.call("GET", root)[1]
    ours = discovery.resource_list(served(), group, version)
    assert ours is not None

    def by_name(document: Json) -> Json:
        return {entry["name"]: {**entry, "verbs": sorted(entry["verbs"])} for entry in document["resources"]}

    assert by_name(ours) == by_name(theirs)
    assert ours["groupVersion"] == theirs["groupVersion"]


@pytest.mark.parametrize("core", [True, False])
def test_aggregated_discovery(real: RealServer, core: bool) -> None:
    theirs = real.call("GET", "/api" if core else "/apis", accept=AGGREGATED)[1]
    ours = discovery.aggregated(served(), core=core)

    def flat(document: Json) -> dict[Any, Any]:
        found = {}
        for item in document["items"]:
            group = item["metadata"].get("name", "")
            for version in item["versions"]:
                for entry in version["resources"]:
                    subs = {
                        sub["subresource"]: (sub["responseKind"]["kind"], sorted(sub["verbs"]))
                        for sub in entry.get("subresources", ())
                    }
                    rest = {k: v for k, v in entry.items() if k not in ("subresources", "verbs", "responseKind")}
                    key = (group, version["version"], entry["resource"])
                    found[key] = (rest, sorted(entry["verbs"]), entry["responseKind"]["kind"], subs)
        return found

    wanted = {key: value for key, value in flat(theirs).items() if key[:2] in GROUPS}
    assert flat(ours) == wanted
    assert {k: v for k, v in ours.items() if k != "items"} == {k: v for k, v in theirs.items() if k != "items"}


DROPPED = ("description", "x-kubernetes-unions", "default", "title")


def stripped(node: Any) -> Any:
    """Without prose, and with what is only said in another way (atomic lists, wrapped references) said in one."""
    if isinstance(node, list):
        return [stripped(child) for child in node]
    if not isinstance(node, dict):
        return node
    result = {}
    for name, child in node.items():
        if name == "properties":
            result[name] = {field: stripped(value) for field, value in child.items()}
        elif name not in DROPPED and (name, child) != ("x-kubernetes-list-type", "atomic"):
            result[name] = stripped(child)
    return result["allOf"][0] if set(result) == {"allOf"} else result


@pytest.mark.parametrize(("group", "version"), GROUPS)
def test_openapi_v3(real: RealServer, group: str, version: str) -> None:
    path = f"apis/{group}/{version}" if group else f"api/{version}"
    theirs = real.call("GET", f"/openapi/v3/{path}")[1]
    ours = openapi.v3(served(), group, version)
    assert ours is not None
    schemas_ours, schemas_theirs = ours["components"]["schemas"], theirs["components"]["schemas"]
    for name, schema in schemas_ours.items():
        if name not in schemas_theirs:
            continue
        mine, real_one = stripped(schema), stripped(schemas_theirs[name])
        # The real server lists kinds like Status under every group; here under the one that is asked for.
        for each in (mine, real_one):
            each.pop("x-kubernetes-group-version-kind", None)
        assert mine == real_one, name
    for endpoint, item in ours["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            real_operation = theirs["paths"][endpoint][method]
            for key in ("x-kubernetes-group-version-kind", "x-kubernetes-action"):
                assert operation[key] == real_operation[key], (endpoint, method)
            if method == "patch" and operation["x-kubernetes-action"] == "patch":
                names = {parameter["name"] for parameter in operation["parameters"]}
                assert names == {parameter["name"] for parameter in real_operation["parameters"]} - {"pretty"}
                contents = set(real_operation["requestBody"]["content"])
                assert set(operation["requestBody"]["content"]) == {c for c in contents if "cbor" not in c}


COLUMNS = sorted(
    {(r.group, r.version, r.plural, r.kind) for r in resources.builtin() if (r.group, r.kind) in table.CELLS}
)


@pytest.mark.parametrize(("group", "version", "plural", "kind"), COLUMNS)
def test_columns_of_built_in_kinds(real: RealServer, group: str, version: str, plural: str, kind: str) -> None:
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    theirs = real.call("GET", f"{root}/{plural}", accept=TABLE)[1]["columnDefinitions"]
    ours = [column.definition() for column in table.builtin_columns(group, kind)]
    for each in (*ours, *theirs):
        each.pop("description")
    assert ours == theirs


def test_rows_of_the_real_server(real: RealServer) -> None:
    """Cells of objects with status, the ages apart."""
    base = "/api/v1/namespaces/machinery-tables"
    real.call(
        "POST",
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "machinery-tables"}},
    )
    node_status = {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": dict.fromkeys(NODE_INFO, "x"),
    }
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "t", "labels": {"node-role.kubernetes.io/gpu": ""}},
    }
    made = [
        ("POST", "/api/v1/nodes", node, ""),
        ("PATCH", "/api/v1/nodes/t/status", {"status": node_status}, "nodes"),
        ("POST", f"{base}/pods", a_pod("p"), ""),
        ("PATCH", f"{base}/pods/p/status", {"status": POD_STATUS}, "pods"),
        ("POST", f"{base}/pods", a_pod("q"), ""),
        ("POST", "/apis/apps/v1/namespaces/machinery-tables/deployments", a_deployment(), ""),
        ("POST", f"{base}/services", {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "protocol": "TCP"}], "selector": {"a": "b"}}}, ""),
        ("POST", f"{base}/events", {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "machinery-tables"}, "reason": "R", "message": "m\n", "type": "Normal", "source": {"component": "c", "host": "h"}, "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z"}, ""),
        ("POST", "/apis/machinery.example.com/v1/namespaces/machinery-tables/widgets", a_widget({"replicas": 4}), ""),
        ("PATCH", "/apis/machinery.example.com/v1/namespaces/machinery-tables/widgets/it/status", {"status": {"state": "Good", "conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]}}, "widgets"),
    ]  # fmt: skip
    for method, path, body, _ in made:
        code, answer = real.call(
            method, path, body, "application/merge-patch+json" if method == "PATCH" else "application/json"
        )
        assert code in (200, 201), answer
    widget = crd.compile(crd.with_defaults(widget_crd()))["v1"]
    for path, columns in (
        ("/api/v1/nodes", table.builtin_columns("", "Node")),
        (f"{base}/pods", table.builtin_columns("", "Pod")),
        (f"{base}/services", table.builtin_columns("", "Service")),
        (f"{base}/events", table.builtin_columns("", "Event")),
        ("/apis/apps/v1/namespaces/machinery-tables/deployments", table.builtin_columns("apps", "Deployment")),
        ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", table.builtin_columns("apiextensions.k8s.io", "CustomResourceDefinition")),
        ("/apis/machinery.example.com/v1/namespaces/machinery-tables/widgets", table.columns(widget.columns)),
    ):  # fmt: skip
        listed = real.call("GET", path)[1]["items"]
        theirs = real.call("GET", path, accept=TABLE)[1]
        ours = table.render(columns, listed, now="2026-01-01T00:00:00Z")
        ages = [i for i, column in enumerate(columns) if column.name in ("Age", "Last Seen", "First Seen")]
        for mine, real_row in zip(ours["rows"], theirs["rows"], strict=True):
            for index in ages:
                mine["cells"][index] = real_row["cells"][index] = ""
            assert mine["cells"] == real_row["cells"], path


NODE_INFO = [
    "machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeletVersion",
    "kubeProxyVersion", "operatingSystem", "architecture",
]  # fmt: skip


def a_pod(name: str) -> Json:
    container = {"name": "a", "image": "x"}
    spec = {"containers": [container], "initContainers": [{**container, "name": "s", "restartPolicy": "Always"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


POD_STATUS = {
    "phase": "Running",
    "podIP": "10.1.1.1",
    "podIPs": [{"ip": "10.1.1.1"}],
    "initContainerStatuses": [
        {"name": "s", "ready": True, "started": True, "restartCount": 0, "image": "x", "imageID": "", "state": {"running": {}}}
    ],
    "containerStatuses": [
        {"name": "a", "ready": False, "restartCount": 2, "image": "x", "imageID": "", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    ],
}  # fmt: skip
