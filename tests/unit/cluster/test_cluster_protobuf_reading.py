"""What is read from protobuf: pods as from JSON, events however they are cut, and errors for everything else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.cluster.cache import Store
from supernode.cluster.frames import framed_events_in
from supernode.cluster.kinds import Json
from supernode.cluster.pods import Trimmed, trim
from supernode.cluster.protobuf import MAGIC, PodEncoder
from supernode.cluster.protobuf_reading import PODS_FORM, pods_form, read_event, read_list, read_pod, read_status
from supernode.cluster.refusals import error_from
from supernode.errors import GoneError, UnavailableError


def a_pod(name: str = "p", **status: Any) -> Json:
    """With nothing that is not read, and nothing that the encoder leaves to the server (times)."""
    owner = {"apiVersion": "supernode.dev/v1alpha1", "kind": "TrainingJob", "name": "j", "uid": "u", "controller": True}
    notes = {"supernode.dev/devices": "0,1", "other": "x"}
    metadata = {"name": name, "namespace": "n", "uid": "u1", "resourceVersion": "7", "labels": {"a": "b"}}
    metadata |= {"annotations": notes, "ownerReferences": [{**owner, "controller": False}, owner]}
    resources = {"limits": {"cpu": "1"}, "requests": {"memory": "64Mi"}}
    container = {"name": "c", "image": "i", "env": [{"name": "A", "value": "B"}], "resources": resources}
    sidecar = {"name": "s", "restartPolicy": "Always"}
    spec = {"nodeName": "node", "containers": [container], "initContainers": [sidecar], "restartPolicy": "Never"}
    spec |= {"overhead": {"cpu": "5m"}, "resources": {"requests": {"cpu": "2"}}, "priority": 5}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def encoded(pod: Json) -> bytes:
    data = PodEncoder().encode(pod)
    assert data is not None
    return data


def sized(key: int, data: bytes) -> bytes:
    length = bytes((len(data) & 127 | 128, len(data) >> 7))
    return bytes((key,)) + length + data


def envelope(kind: bytes, raw: bytes) -> bytes:
    return MAGIC + sized(0x0A, sized(0x0A, b"v1") + sized(0x12, kind)) + sized(0x12, raw)


def an_event(kind: bytes, obj: bytes) -> bytes:
    return sized(0x0A, kind) + sized(0x12, sized(0x0A, obj))


STATUS = {
    "phase": "Failed",
    "reason": "Evicted",
    "message": "the node was low on memory",
    "podIP": "10.0.0.1",
    "conditions": [{"type": "Ready", "status": "False"}],
    "containerStatuses": [
        {"name": "c", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, "restartCount": 2},
        {"name": "d", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}},
    ],
    "initContainerStatuses": [
        {
            "name": "s",
            "allocatedResourcesStatus": [{"name": "r", "resources": [{"resourceID": "1", "health": "Unhealthy"}]}],
        }
    ],
}


@pytest.mark.parametrize("status", [{}, {"phase": "Pending"}, STATUS])
def test_a_pod_is_read_as_from_json(status: Json) -> None:
    pod = a_pod(**status)
    found = read_pod(encoded(pod))
    assert isinstance(found, Trimmed)
    assert found == trim(pod)
    assert trim(found) is found, "it is trimmed already"


def test_a_list_and_a_refusal() -> None:
    items = b"".join(sized(0x12, encoded(a_pod(name)).split(b"\x12\x03Pod", 1)[1][3:-4]) for name in "ab")
    page = read_list(envelope(b"PodList", sized(0x0A, sized(0x12, b"42") + sized(0x1A, b"more")) + items))
    assert page["metadata"] == {"resourceVersion": "42", "continue": "more"}
    assert [pod["metadata"]["name"] for pod in page["items"]] == ["a", "b"]
    raw = sized(0x1A, b"too old") + sized(0x22, b"Expired") + sized(0x2A, b"\x28\x05") + b"\x30\x9a\x03"
    status = envelope(b"Status", raw)
    assert read_status(status) == {
        "message": "too old",
        "reason": "Expired",
        "code": 410,
        "details": {"retryAfterSeconds": 5},
    }
    error = error_from("GET", "/x", 410, status, None)
    assert isinstance(error, GoneError)
    assert (error.reason, error.retry_after, str(error)) == ("Expired", 5.0, "GET /x: 410 too old")


async def pieces(data: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    for first, last in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[first:last]


@given(st.data())
async def test_events_however_they_are_cut(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([b"ADDED", b"MODIFIED", b"DELETED", b"BOOKMARK"]), max_size=5))
    frames = [an_event(kind, encoded(a_pod(f"p{i}"))) for i, kind in enumerate(kinds)]
    stream = b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    found = [event async for event in framed_events_in(pieces(stream, cuts), "/pods", PODS_FORM)]
    assert [event["type"].encode() for event in found] == kinds
    assert [event["object"] for event in found] == [trim(a_pod(f"p{i}")) for i in range(len(kinds))]


async def test_the_server_ends_a_watch_and_says_why() -> None:
    frame = an_event(b"ERROR", envelope(b"Status", sized(0x1A, b"too old") + b"\x30\x9a\x03"))
    stream = len(frame).to_bytes(4, "big") + frame
    with pytest.raises(GoneError, match="too old"):
        _ = [event async for event in framed_events_in(pieces(stream, []), "/pods", PODS_FORM)]


@pytest.mark.parametrize("stream", [b"\xff\xff\xff\xff", b"\0\0\0\x03{} ", b"\0\0\0\0"])
async def test_what_is_no_event_is_told(stream: bytes) -> None:
    with pytest.raises(UnavailableError, match="WATCH /pods"):
        _ = [event async for event in framed_events_in(pieces(stream, []), "/pods", PODS_FORM)]


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_or_read(data: bytes) -> None:
    for read in (read_pod, read_list, read_status, read_event):
        for given_bytes in (data, MAGIC + data):
            with_error = False
            try:
                read(given_bytes)
            except ValueError:
                with_error = True
            assert with_error or read is read_event or given_bytes.startswith(MAGIC)


def test_a_pod_is_not_taken_for_a_list() -> None:
    with pytest.raises(ValueError, match="'Pod' instead of a PodList"):
        read_list(encoded(a_pod()))


def test_no_more_than_its_name_is_read_of_a_pod_that_is_known() -> None:
    store = Store(trim=trim)
    form = pods_form(store.knows)
    event = an_event(b"MODIFIED", encoded(a_pod(phase="Running")))
    assert form.event(event)["object"] == trim(a_pod(phase="Running")), "not known yet"
    for version, uid, known in (("6", "u1", False), ("7", "u1", True), ("8", "u1", True), ("8", "other", False)):
        store = Store(trim=trim)
        pod = a_pod(phase="Pending")
        pod["metadata"] |= {"resourceVersion": version, "uid": uid}
        store.offer(pod)
        found = pods_form(store.knows).event(event)
        assert ("spec" not in found["object"]) is known
        assert found["object"]["metadata"]["resourceVersion"] == "7", "the watch goes on from there"
        store.apply(found["type"], found["object"])
        kept = store.get(("n", "p"))
        assert kept is not None
        assert kept["status"]["phase"] == ("Pending" if known else "Running")
        gone = an_event(b"DELETED", encoded(a_pod(phase="Running")))
        assert "spec" in pods_form(store.knows).event(gone)["object"]
