"""Watches and lists on both servers: order, selectors, bookmarks, pages, what is too old, tables."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from tests.conformance.engines import HISTORY, Engine
from tests.conformance.scenarios_custom import a_definition
from tests.conformance.wire import Wire, query


def _base(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def _make(wire: Wire, namespace: str, name: str, **labels: str) -> dict[str, Any]:
    answer = wire.post(_base(namespace), {"metadata": {"name": name, "labels": labels}})
    assert answer.status == 201, answer
    body: dict[str, Any] = answer.body
    return body


def _seen(events: list[Any]) -> list[tuple[str, str]]:
    return [
        (each["type"], each["object"]["metadata"].get("name", ""))
        for each in events
        if each["object"].get("metadata", {}).get("name") != "kube-root-ca.crt"
    ]


def test_changes_come_in_order_from_a_version_on(wire: Wire, namespace: str) -> None:
    start = _make(wire, namespace, "a")["metadata"]["resourceVersion"]
    _make(wire, namespace, "b")
    wire.patch(f"{_base(namespace)}/a", {"data": {"x": "y"}})
    wire.delete(f"{_base(namespace)}/b")
    events = list(wire.watch(_base(namespace) + query(resourceVersion=start), seconds=1))
    assert _seen(events) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
    versions = [int(each["object"]["metadata"]["resourceVersion"]) for each in events]
    assert versions == sorted(versions)
    assert {each["object"]["kind"] for each in events} == {"ConfigMap"}


def test_a_watch_without_version_begins_with_what_is_there(wire: Wire, namespace: str) -> None:
    _make(wire, namespace, "a")
    assert ("ADDED", "a") in _seen(list(wire.watch(_base(namespace), seconds=1)))


def test_objects_come_and_go_with_the_selector(wire: Wire, namespace: str) -> None:
    start = _make(wire, namespace, "a", x="1")["metadata"]["resourceVersion"]
    path = f"{_base(namespace)}/a"
    wire.patch(path, {"metadata": {"labels": {"x": "2"}}})
    wire.patch(path, {"metadata": {"labels": {"y": "1"}}})
    wire.patch(path, {"metadata": {"labels": {"x": "1"}}})
    wire.delete(path)
    asked = query(resourceVersion=start, labelSelector="x=2")
    assert _seen(list(wire.watch(_base(namespace) + asked, seconds=1))) == [
        ("ADDED", "a"),
        ("MODIFIED", "a"),
        ("DELETED", "a"),
    ]


def test_initial_events_end_with_a_bookmark(wire: Wire, namespace: str) -> None:
    _make(wire, namespace, "a", mine="1")
    asked = query(
        sendInitialEvents="true",
        resourceVersionMatch="NotOlderThan",
        allowWatchBookmarks="true",
        labelSelector="mine=1",
    )
    events = []
    for event in wire.watch(_base(namespace) + asked, seconds=5):
        events.append(event)
        if event["type"] == "BOOKMARK":
            break
    assert [each["type"] for each in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert events[1]["object"]["kind"] == "ConfigMap"


@pytest.mark.parametrize(
    "asked",
    [
        {"sendInitialEvents": "true"},
        {"resourceVersionMatch": "NotOlderThan"},
    ],
)
def test_contradicting_watch_parameters_are_refused(wire: Wire, namespace: str, asked: dict[str, str]) -> None:
    answer = wire.get(_base(namespace) + query(watch="1", timeoutSeconds=1, **asked))
    assert (answer.status, answer.body["reason"]) == (422, "Invalid"), answer


def test_events_arrive_while_they_happen(wire: Wire, namespace: str) -> None:
    start = _make(wire, namespace, "a")["metadata"]["resourceVersion"]
    timer = threading.Timer(0.5, wire.patch, (f"{_base(namespace)}/a", {"data": {"now": "yes"}}))
    timer.start()
    asked = query(resourceVersion=start, fieldSelector="metadata.name=a")
    event = next(iter(wire.watch(_base(namespace) + asked, seconds=10)))
    timer.join()
    assert (event["type"], event["object"]["data"]) == ("MODIFIED", {"now": "yes"})


def test_pages_show_one_moment(wire: Wire, namespace: str) -> None:
    for name in ("a", "b", "c", "d"):
        _make(wire, namespace, name, page="1")
    first = wire.get(_base(namespace) + query(limit=2, labelSelector="page=1"))
    assert [each["metadata"]["name"] for each in first.body["items"]] == ["a", "b"]
    wire.delete(f"{_base(namespace)}/c")
    _make(wire, namespace, "bb", page="1")
    rest = {"limit": 2, "labelSelector": "page=1", "continue": first.body["metadata"]["continue"]}
    second = wire.get(_base(namespace) + query(**rest))
    assert [each["metadata"]["name"] for each in second.body["items"]] == ["c", "d"]
    assert second.body["metadata"]["resourceVersion"] == first.body["metadata"]["resourceVersion"]
    exact = query(resourceVersion=first.body["metadata"]["resourceVersion"], resourceVersionMatch="Exact")
    names = [each["metadata"]["name"] for each in wire.get(_base(namespace) + exact).body["items"]]
    assert {"a", "b", "c", "d"} <= set(names)
    assert "bb" not in names


def _forgetful(wire: Wire, namespace: str, engine: Engine) -> str:
    """A path whose first versions the server does not know any more."""
    home = _base(namespace)
    if engine.name == "embedded":
        for number in range(HISTORY):
            wire.patch(f"{home}/a", {"data": {"number": str(number)}})
        return home
    # The real server's watch cache outlives what etcd forgets; for a new resource it begins now.
    text = json.dumps(a_definition()).replace("NAMESPACE", namespace)
    wire.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json.loads(text))
    path = f"/apis/{namespace}.dev/v1/namespaces/{namespace}/gadgets"
    wire.until(path, lambda answer: answer.status == 200)
    return path


def test_what_is_forgotten_is_gone(wire: Wire, namespace: str, engine: Engine) -> None:
    for name in ("a", "b", "c"):
        _make(wire, namespace, name, page="1")
    asked = {"limit": 1, "labelSelector": "page=1"}
    first = wire.get(_base(namespace) + query(**asked)).body["metadata"]
    _make(wire, namespace, "bb", page="1")
    path = _forgetful(wire, namespace, engine)
    old = list(wire.watch(path + query(resourceVersion=1), seconds=3))
    assert [(each["type"], each["object"]["code"], each["object"]["reason"]) for each in old] == [
        ("ERROR", 410, "Expired")
    ]
    assert old[0]["object"]["message"].startswith("too old resource version: 1 (")
    late = wire.get(_base(namespace) + query(**asked, **{"continue": first["continue"]}))
    if engine.name == "embedded":  # etcd still has all of it
        exact = wire.get(path + query(resourceVersion=1, resourceVersionMatch="Exact"))
        assert (exact.status, exact.body["reason"]) == (410, "Expired")
        assert exact.body["message"] == "The resourceVersion for the provided list is too old."
        assert (late.status, late.body["reason"]) == (410, "Expired")
        # A token for those who would rather go on with what is there now than begin again.
        late = wire.get(_base(namespace) + query(**asked, **{"continue": late.body["metadata"]["continue"]}))
    assert [each["metadata"]["name"] for each in late.body["items"]] == ["b"]


def test_bookmarks_tell_how_far_a_watch_is(wire: Wire, namespace: str) -> None:
    start = _make(wire, namespace, "a")["metadata"]["resourceVersion"]
    changed = wire.patch(f"{_base(namespace)}/a", {"data": {"x": "y"}}).body["metadata"]["resourceVersion"]
    asked = query(resourceVersion=start, allowWatchBookmarks="true", fieldSelector="metadata.name=a")
    events = list(wire.watch(_base(namespace) + asked, seconds=5))
    marks = [each for each in events if each["type"] == "BOOKMARK"]
    assert ("MODIFIED", "a") in _seen(events)
    assert marks
    assert set(marks[-1]["object"]) == {"kind", "apiVersion", "metadata"}
    assert int(marks[-1]["object"]["metadata"]["resourceVersion"]) >= int(changed)


def test_remaining_items_are_counted(wire: Wire, namespace: str) -> None:
    for name in ("a", "b", "c"):
        _make(wire, namespace, name)
    total = len(wire.get(_base(namespace)).body["items"])
    page = wire.get(_base(namespace) + query(limit=1))
    assert page.body["metadata"]["remainingItemCount"] == total - 1


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"resourceVersion": "nonsense"}, 400),
        ({"resourceVersionMatch": "Exact"}, 422),
        ({"resourceVersion": "0", "resourceVersionMatch": "Exact"}, 422),
        ({"resourceVersion": "1", "resourceVersionMatch": "Sometimes"}, 422),
        ({"continue": "nonsense", "limit": "1"}, 400),
        ({"limit": "many"}, 400),
        ({"labelSelector": "a in (b"}, 400),
        ({"labelSelector": "a=b=c"}, 400),
        ({"fieldSelector": "spec.nope=1"}, 400),
    ],
)
def test_wrong_list_parameters_are_refused(wire: Wire, namespace: str, asked: dict[str, str], status: int) -> None:
    assert wire.get(_base(namespace) + query(**asked)).status == status


def test_a_version_from_the_future_is_refused(wire: Wire, namespace: str) -> None:
    current = int(wire.get(_base(namespace)).body["metadata"]["resourceVersion"])
    answer = wire.get(_base(namespace) + query(resourceVersion=current + 100000, resourceVersionMatch="NotOlderThan"))
    assert (answer.status, answer.body["reason"]) == (504, "Timeout")
    assert answer.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"


def test_tables(wire: Wire, namespace: str) -> None:
    _make(wire, namespace, "a", t="1")
    table = wire.get(_base(namespace) + query(labelSelector="t=1"), Accept=f"{TABLE},application/json").body
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [each["name"] for each in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert table["rows"][0]["cells"][:2] == ["a", 0]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    one = wire.get(f"{_base(namespace)}/a?includeObject=None", Accept=TABLE).body
    assert (one["rows"][0]["cells"][0], one["rows"][0]["object"]) == ("a", None)
    events = list(wire.watch(_base(namespace) + query(labelSelector="t=1"), seconds=1, Accept=TABLE))
    assert events[0]["object"]["rows"][0]["cells"][0] == "a"


def test_partial_metadata(wire: Wire, namespace: str) -> None:
    _make(wire, namespace, "a", t="1")
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    found = wire.get(_base(namespace) + query(labelSelector="t=1"), Accept=accept).body
    assert (found["kind"], found["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    assert "data" not in found["items"][0]


def test_tokens_of_service_accounts_are_let_in_as_far_as_roles_go(wire: Wire, namespace: str) -> None:
    home = f"/api/v1/namespaces/{namespace}"
    wire.post(f"{home}/serviceaccounts", {"metadata": {"name": "robot"}})
    token = wire.post(f"{home}/serviceaccounts/robot/token", {"spec": {"expirationSeconds": 600}}).body["status"][
        "token"
    ]
    robot = Wire(wire.url, token)
    refused = robot.get(f"{home}/configmaps")
    assert (refused.status, refused.body["reason"]) == (403, "Forbidden")
    assert (
        f'User "system:serviceaccount:{namespace}:robot" cannot list resource "configmaps"' in refused.body["message"]
    )
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
    wire.post(f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": [rule]})
    subject = {"kind": "ServiceAccount", "name": "robot", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    wire.post(f"{rbac}/rolebindings", {"metadata": {"name": "b"}, "roleRef": role, "subjects": [subject]})
    robot.until(f"{home}/configmaps", lambda answer: answer.status == 200)
    assert robot.get(f"{home}/secrets").status == 403
    assert robot.get("/apis").status == 200
    assert Wire(wire.url, "wrong").get(f"{home}/configmaps").status == 401
    assert Wire(wire.url, "").get(f"{home}/configmaps").status in (401, 403)
    assert Wire(wire.url, "").get("/healthz").status == 200


def test_discovery_in_both_forms(wire: Wire) -> None:
    assert wire.get("/version").body["gitVersion"].startswith("v1.37")
    assert wire.get("/api").body["versions"] == ["v1"]
    groups = {each["name"] for each in wire.get("/apis").body["groups"]}
    assert {"apps", "batch", "coordination.k8s.io", "apiextensions.k8s.io"} <= groups
    pods = next(each for each in wire.get("/api/v1").body["resources"] if each["name"] == "pods")
    assert (pods["kind"], pods["shortNames"], pods["namespaced"]) == ("Pod", ["po"], True)
    form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    answer = wire.get("/apis", Accept=f"{form},application/json")
    assert answer.body["kind"] == "APIGroupDiscoveryList"
    assert "as=APIGroupDiscoveryList" in answer.media
    index = wire.get("/openapi/v3", Accept="application/json").body["paths"]
    document = wire.get(index["apis/apps/v1"]["serverRelativeURL"]).body
    assert document["openapi"].startswith("3.")
