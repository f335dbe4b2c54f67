"""What a node or a device plug-in says of trouble, as it is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.api.conditions import timestamp
from supernode.cluster import nodes, pods
from supernode.handlers.facts import pod_facts, tolerations_of

ADDED = "2026-01-01T00:00:00Z"
ADDED_AT = 1767225600.0


def a_node(*taints: dict[str, Any], unhealthy: str | None = None, ready: str = "True", since: str = ADDED) -> Any:
    annotations = {} if unhealthy is None else {"supernode.dev/unhealthy-devices": unhealthy}
    conditions = [{"type": "Ready", "status": ready, "lastTransitionTime": since}]
    return nodes.trim(
        {
            "metadata": {"name": "n", "annotations": {"other": "x", **annotations}},
            "spec": {"taints": list(taints)} if taints else {},
            "status": {"conditions": conditions},
        }
    )


def a_taint(key: str, effect: str = "NoExecute", value: str | None = None) -> dict[str, Any]:
    taint = {"key": key, "effect": effect, "timeAdded": ADDED}
    return taint if value is None else {**taint, "value": value}


@pytest.mark.parametrize(
    ("deleted", "ended", "code", "reason", "stopped"),
    [
        (None, 0, 1, None, False),  # nobody deletes it
        (0, None, 0, None, True),  # nothing has ended yet
        (0, 5, 1, None, True),
        (0, 0, 1, None, True),  # within the same second
        (1, 0, 1, None, False),
        (1, 0, 0, None, True),  # its end was no failure
        (0, 5, 1, "Evicted", False),  # by its node, for a reason of its own
    ],
)
def test_what_ended_because_its_pod_was_deleted(
    deleted: int | None, ended: int | None, code: int, reason: str | None, stopped: bool
) -> None:
    """`deleted`, `ended`: seconds after a moment at which the delete came and the container ended."""
    metadata: dict[str, Any] = {"name": "w", "uid": "u"}
    if deleted is not None:
        metadata |= {"deletionTimestamp": timestamp(ADDED_AT + deleted + 30), "deletionGracePeriodSeconds": 30}
    status: dict[str, Any] = {"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {}}}]}
    if ended is not None:
        finished = {"exitCode": code, "finishedAt": timestamp(ADDED_AT + ended)}
        status["containerStatuses"].append({"name": "d", "state": {"terminated": finished}})
    if reason is not None:
        status["reason"] = reason
    spec = {"restartPolicy": "Never", "containers": [{"name": "c"}, {"name": "d"}]}
    pod = pods.trim({"metadata": metadata, "spec": spec, "status": status})
    assert pods.was_stopped(pod) is stopped
    (facts,) = pod_facts([pod], lambda _: None)
    assert facts.stopped is stopped
    assert facts.exits == ((("d", code),) if ended is not None and not stopped else ())


EXISTS = {"operator": "Exists"}
TAINTS = [
    (a_taint("a"), [], 0, "a:NoExecute"),
    (a_taint("a", value="b"), [], 0, "a=b:NoExecute"),
    (a_taint("a", "NoSchedule"), [], 0, ""),
    (a_taint("node.kubernetes.io/not-ready"), [], 0, ""),
    (a_taint("node.kubernetes.io/unreachable"), [], 0, ""),
    (a_taint("a"), [EXISTS], 0, ""),
    (a_taint("a"), [{"key": "a", **EXISTS}], 0, ""),
    (a_taint("a", value="b"), [{"key": "a", "value": "b"}], 0, ""),
    (a_taint("a", value="b"), [{"key": "a", "value": "c"}], 0, "a=b:NoExecute"),
    (a_taint("a"), [{"key": "a", "effect": "NoSchedule", **EXISTS}], 0, "a:NoExecute"),
    (a_taint("a"), [{**EXISTS, "tolerationSeconds": 60}], 59, ""),
    (a_taint("a"), [{**EXISTS, "tolerationSeconds": 60}], 60, "a:NoExecute"),
    (
        a_taint("a"),
        [{**EXISTS, "tolerationSeconds": 60}, {"key": "a", **EXISTS, "tolerationSeconds": 5}],
        5,
        "a:NoExecute",
    ),
]


@pytest.mark.parametrize(("taint", "tolerations", "after", "expected"), TAINTS)
def test_which_taint_drives_a_pod_away(
    taint: dict[str, Any], tolerations: list[dict[str, Any]], after: float, expected: str
) -> None:
    found = nodes.eviction(a_node(taint), tolerations, ADDED_AT + after)
    assert (found.taint if found is not None and found.at <= ADDED_AT + after else "") == expected


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        (None, 0),
        ("", 0),
        ("0", 1),
        ("0,3", 0b1001),
        (" 1 , 2 ", 0b110),
        ("0,4-6", 0b1110001),
        ("62-99", 0b11 << 62),
        ("64,99", 0),
        ("1000", 0),
        ("all", 0),
        ("-1", 0),
        ("3-1", 0),
        ("1-", 0),
    ],
)
def test_devices_that_a_node_calls_unhealthy(text: str | None, mask: int) -> None:
    assert nodes.unhealthy_devices(a_node(unhealthy=text)) == mask


@given(st.text(max_size=40))
def test_whatever_the_annotation_says_it_is_a_mask(text: str) -> None:
    assert 0 <= nodes.unhealthy_devices(a_node(unhealthy=text)) < 2**64


def test_what_is_news_about_a_node() -> None:
    plain = nodes.troubles(a_node())
    assert plain == nodes.troubles(a_node(a_taint("a", "NoSchedule"), since="2026-02-02T00:00:00Z"))
    for other in (a_node(ready="False"), a_node(unhealthy="1"), a_node(a_taint("a"))):
        assert nodes.troubles(other) != plain
    assert not nodes.same(a_node(), a_node(unhealthy="1"))


def a_pod(devices: str = "0,1", **status: Any) -> Any:
    labels = {"supernode.dev/rank": "0", "supernode.dev/attempt": "0"}
    metadata = {"name": "p", "uid": "u", "labels": labels, "annotations": {"supernode.dev/devices": devices}}
    return pods.trim({"metadata": metadata, "spec": {"nodeName": "n"}, "status": {"phase": "Running", **status}})


def test_a_pod_knows_when_a_device_of_its_own_is_sick() -> None:
    for text, expected in [
        ("2,3", ""),
        ("1", "device 1 of it is unhealthy"),
        ("0,1", "devices 0, 1 of it are unhealthy"),
    ]:
        (facts,) = pod_facts([a_pod()], {"n": a_node(unhealthy=text)}.get)
        assert facts.sick == expected
    health = [{"name": "claim", "resources": [{"resourceID": "a", "health": "Healthy"}]}]
    (facts,) = pod_facts([a_pod(containerStatuses=[{"allocatedResourcesStatus": health}])], {"n": a_node()}.get)
    assert facts.sick == ""
    health[0]["resources"] = [{"resourceID": "b", "health": "Unhealthy"}]
    (facts,) = pod_facts([a_pod(containerStatuses=[{"allocatedResourcesStatus": health}])], {"n": a_node()}.get)
    assert facts.sick == "device claim b is unhealthy"


def test_since_when_a_node_is_not_ready() -> None:
    (facts,) = pod_facts([a_pod()], {"n": a_node(ready="Unknown")}.get)
    assert (facts.node_lost, facts.lost_at) == (True, ADDED_AT)
    (facts,) = pod_facts([a_pod()], {}.get)
    assert (facts.node_gone, facts.node_lost) == (True, False)


@pytest.mark.parametrize("spec", [None, "x", {"tolerations": None}, {"tolerations": "x"}, {"tolerations": [5]}])
def test_tolerations_that_are_none(spec: Any) -> None:
    assert list(tolerations_of({"spec": {"template": {"spec": spec}}})) == []
