"""What pods ask for, which nodes let them in, what differs between two statuses, which version wins."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.cluster import nodes, pods
from supernode.cluster.cache import Store
from supernode.cluster.refusals import error_from
from supernode.cluster.resources import missing
from supernode.cluster.status import difference
from supernode.errors import (
    BadRequestError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    GoneError,
    InputError,
    NotFoundError,
    UnavailableError,
)


def a_container(**requests: str) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": requests}}


def test_containers_and_sidecars_add_up_and_init_containers_peak() -> None:
    spec = {
        "containers": [a_container(cpu="1", memory="1Gi"), a_container(cpu="500m")],
        "initContainers": [
            {**a_container(cpu="100m"), "restartPolicy": "Always"},
            a_container(cpu="3"),
            {**a_container(cpu="1"), "restartPolicy": "Always"},
        ],
        "overhead": {"cpu": "50m"},
    }
    # The sum with both sidecars is 2600m; the init container beside the first sidecar needs 3100m.
    assert pods.request_of(spec) == {"cpu": 3150, "memory": 2**30, "pods": 1}


def test_a_limit_counts_where_there_is_no_request() -> None:
    spec = {
        "containers": [
            {"name": "c", "resources": {"limits": {"hygon.com/hcu": "4", "cpu": "2"}, "requests": {"cpu": "1"}}}
        ]
    }
    assert pods.request_of(spec) == {"hygon.com/hcu": 4, "cpu": 1000, "pods": 1}


def test_a_request_that_is_no_quantity_names_its_field() -> None:
    with pytest.raises(InputError) as caught:
        pods.request_of({"containers": [a_container(cpu="lots")]})
    assert caught.value.field == "spec.template.spec.containers[0].resources.cpu"


def a_node(labels: dict[str, str] | None = None, taints: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": "n1", "labels": labels or {}}, "spec": {"taints": taints or []}}


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({}, True),
        ({"nodeSelector": {"zone": "a"}}, True),
        ({"nodeSelector": {"zone": "b"}}, False),
        (affinity(expression("zone", "In", "a", "b")), True),
        (affinity(expression("zone", "NotIn", "a")), False),
        (affinity(expression("rack", "NotIn", "a")), True),
        (affinity(expression("rack", "Exists")), False),
        (affinity(expression("rack", "DoesNotExist")), True),
        (affinity(expression("cards", "Gt", "7")), True),
        (affinity(expression("cards", "Lt", "8")), False),
        (affinity(expression("zone", "Gt", "7")), False),
        (affinity(expression("zone", "In", "b"), expression("zone", "In", "a")), True),
        (affinity({}), False),
        (affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), True),
        (affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), False),
    ],
)
def test_selectors_and_affinity(spec: dict[str, Any], allowed: bool) -> None:
    assert nodes.allows(a_node({"zone": "a", "cards": "8"}), spec) is allowed


@pytest.mark.parametrize(
    ("tolerations", "allowed"),
    [
        ([], False),
        ([{"operator": "Exists"}], True),
        ([{"key": "gpu", "operator": "Exists"}], True),
        ([{"key": "gpu", "value": "yes"}], True),
        ([{"key": "gpu", "value": "no"}], False),
        ([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}], False),
        ([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}], True),
        ([{"key": "other", "operator": "Exists"}], False),
    ],
)
def test_taints_and_tolerations(tolerations: list[dict[str, str]], allowed: bool) -> None:
    node = a_node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    assert nodes.allows(node, {"tolerations": tolerations}) is allowed
    assert nodes.allows(a_node(taints=[{"key": "x", "effect": "PreferNoSchedule"}]), {})


def test_only_a_ready_node_that_is_open_is_usable() -> None:
    def node(status: str, **spec: bool) -> dict[str, Any]:
        return {
            "metadata": {"name": "n"},
            "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        }

    assert nodes.is_usable(node("True"))
    assert not nodes.is_usable(node("True", unschedulable=True))
    assert not nodes.is_usable(node("Unknown"))
    assert not nodes.is_usable({"metadata": {"name": "n"}})


def test_devices_are_offered_where_they_are_missing_and_withdrawn_where_not_wanted() -> None:
    node = {"status": {"capacity": {"hygon.com/hcu": "2", "cpu": "8"}, "allocatable": {"cpu": "8"}}}
    assert missing(node, {"hygon.com/hcu": 2}) == {"status": {"allocatable": {"hygon.com/hcu": "2"}}}
    assert missing(node, {}, frozenset({"hygon.com/hcu"})) == {"status": {"capacity": {"hygon.com/hcu": None}}}
    assert missing({"status": {}}, {}, frozenset({"hygon.com/hcu"})) == {}


# --- status ---------------------------------------------------------------------------------------------------------
VALUES = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=1), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text("abc", min_size=1, max_size=1), VALUES, max_size=3)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, written down once more."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(OBJECTS, OBJECTS)
@settings(deadline=None)
def test_the_difference_makes_one_status_into_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merged(old, difference(old, new)) == new
    assert difference(new, new) == {}


# --- store ----------------------------------------------------------------------------------------------------------
def an_object(version: int, uid: str = "u", name: str = "a") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version)}}


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store = Store()
    seen: list[int] = []
    store.listen(lambda old, new: seen.append(int(new["metadata"]["resourceVersion"]) if new else 0))
    assert store.offer(an_object(5))
    assert not store.offer(an_object(4))
    assert not store.offer(an_object(5))
    assert store.offer(an_object(6))
    assert seen == [5, 6]


def test_what_was_deleted_does_not_come_back_but_its_successor_does() -> None:
    store = Store()
    store.offer(an_object(5))
    store.apply("DELETED", an_object(7))
    assert not store.offer(an_object(6)), "a late answer to our own write"
    assert len(store) == 0
    assert store.offer(an_object(8, uid="v"))
    store.apply("DELETED", an_object(9, uid="u"))
    assert len(store) == 1, "the deletion was of the one before"


def test_a_list_takes_away_what_it_lacks_unless_that_is_newer() -> None:
    store = Store()
    store.offer(an_object(5, "u", "old"))
    store.offer(an_object(12, "v", "made-after-the-list"))
    store.replace([an_object(6, "w", "kept")], 10)
    assert {name for _, name in store.objects()} == {"kept", "made-after-the-list"}


# --- errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, ForbiddenError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, GoneError),
        (422, BadRequestError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
        (418, ClusterError),
    ],
)
def test_each_status_is_one_error(status: int, kind: type[ClusterError]) -> None:
    body = b'{"kind": "Status", "reason": "Why", "message": "the words", "details": {"retryAfterSeconds": 3}}'
    error = error_from("GET", "/x", status, body, None)
    assert type(error) is kind
    assert (error.status, error.reason, error.retry_after) == (status, "Why", 3.0)
    assert "the words" in str(error)
    assert error_from("GET", "/x", status, b"<html>", "7").retry_after == 7.0


@pytest.mark.parametrize(
    ("policy", "containers", "failed"),
    [
        ("Never", {"trainer": 1}, True),
        ("Never", {"trainer": None, "logger": 137}, True),
        ("Never", {"trainer": 0}, False),
        ("Never", {"trainer": None}, False),
        ("OnFailure", {"trainer": 1}, False),
    ],
)
def test_a_pod_has_failed_as_soon_as_a_container_has_for_good_and_winds_down_when_all_have_ended(
    policy: str, containers: dict[str, int | None], failed: bool
) -> None:
    statuses = [
        {"name": name, "state": {"running": {}} if code is None else {"terminated": {"exitCode": code}}}
        for name, code in containers.items()
    ]
    spec: dict[str, Any] = {"restartPolicy": policy, "containers": [{"name": name} for name in containers]}
    pod = {"metadata": {}, "spec": spec, "status": {"phase": "Running", "containerStatuses": statuses}}
    assert pods.has_failed(pod) is failed
    assert pods.has_failed(pods.trim(pod)) is failed
    winding_down = policy == "Never" and None not in containers.values()
    assert pods.is_winding_down(pod) is pods.is_winding_down(pods.trim(pod)) is winding_down
    spec["containers"] = [{"name": name, "restartPolicy": "OnFailure"} for name in containers]
    assert not pods.has_failed(pod)
    assert not pods.is_winding_down(pod)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Traceback (most recent call last):\n  File x\nValueError: 3 is not 4\n\n", "ValueError: 3 is not 4"),
        ("x" * 5000, "x" * 300),
        ("", ""),
        ("\n", ""),
        (None, ""),
    ],
)
def test_of_a_failed_containers_words_the_last_line_is_told(message: str | None, words: str) -> None:
    ended = {"exitCode": 1, "reason": "Error", **({} if message is None else {"message": message})}
    pod = {"metadata": {}, "status": {"containerStatuses": [{"name": "c", "state": {"terminated": ended}}]}}
    assert pods.ending(pod) == (1, "Error", words)


def test_a_pod_that_is_being_deleted_says_when_it_should_be_gone() -> None:
    assert pods.ends_at({"metadata": {}}) is None
    assert pods.ends_at({"metadata": {"deletionTimestamp": "1970-01-01T00:01:00Z"}}) == 60.0
