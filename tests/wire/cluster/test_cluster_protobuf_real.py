"""Pods in protobuf against a real API server: it must read from the bytes exactly what it reads from the JSON, and we
from its bytes what we read from its JSON."""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supernode.cluster.client import Client
from supernode.cluster.creation import create_pod, speaks_protobuf
from supernode.cluster.form import Form
from supernode.cluster.kinds import PODS, Json
from supernode.cluster.pods import Trimmed, trim
from supernode.cluster.protobuf import PodEncoder
from supernode.cluster.protobuf_reading import PODS_FORM
from supernode.errors import BadRequestError, ClusterError

pytestmark = pytest.mark.envtest

_NAMES = st.from_regex(r"[a-z]([a-z0-9]{0,8})", fullmatch=True)
_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
_AMOUNTS = st.sampled_from(["1", "250m", "64Mi", "1e3", "0", 2])
_RESOURCES = st.fixed_dictionaries(
    {}, optional={"limits": st.dictionaries(st.sampled_from(["cpu", "memory"]), _AMOUNTS)}
)
_PORTS = st.one_of(st.integers(1, 65535), st.just("web"))
_PROBES = st.fixed_dictionaries(
    {},
    optional={"periodSeconds": st.integers(1, 9), "terminationGracePeriodSeconds": st.integers(1, 1 << 40)},
).flatmap(
    lambda probe: st.sampled_from(
        [
            {**probe, "httpGet": {"path": "/x", "port": 80, "httpHeaders": [{"name": "A", "value": ""}]}},
            {**probe, "exec": {"command": ["a", ""]}},
            {**probe, "tcpSocket": {"port": "web"}},
        ]
    )
)
_ENV = st.lists(
    st.one_of(
        st.fixed_dictionaries({"name": _NAMES}, optional={"value": _WORDS}),
        st.builds(lambda name: {"name": name, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, _NAMES),
        st.builds(
            lambda name, may: {"name": name, "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": may}}},
            _NAMES,
            st.booleans(),
        ),
    ),
    max_size=4,
)
_CONTAINERS = st.fixed_dictionaries(
    {"image": st.just("x:1"), "env": _ENV},
    optional={
        "command": st.lists(_WORDS, max_size=3),
        "resources": _RESOURCES,
        "livenessProbe": _PROBES,
        "tty": st.booleans(),
        "ports": st.just([{"name": "web", "containerPort": 8080, "protocol": "UDP"}]),
        "securityContext": st.fixed_dictionaries(
            {},
            optional={
                "runAsUser": st.integers(0, 1 << 31 - 1),
                "readOnlyRootFilesystem": st.booleans(),
                "capabilities": st.just({"drop": ["ALL"], "add": []}),
            },
        ),
    },
)
_SPECS = st.fixed_dictionaries(
    {"containers": st.lists(_CONTAINERS, min_size=1, max_size=3), "nodeName": _NAMES},
    optional={
        "hostNetwork": st.just(False),
        "enableServiceLinks": st.booleans(),
        "terminationGracePeriodSeconds": st.integers(0, 1 << 40),
        "securityContext": st.just({"supplementalGroups": [1, 300, 70000], "fsGroup": 0}),
        "tolerations": st.just(
            [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}, {"operator": "Exists"}]
        ),
        "nodeSelector": st.dictionaries(_NAMES, _NAMES, max_size=3),
        "volumes": st.just(
            [
                {"name": "e", "emptyDir": {}},
                {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {"name": "c", "configMap": {"name": "c", "defaultMode": 0, "items": [{"key": "k", "path": "p"}]}},
                {"name": "d", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"name": "p", "projected": {"sources": [{"secret": {"name": "s", "optional": True}}]}},
            ]
        ),
        "affinity": st.just(
            {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]
                    }
                },
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "weight": 5,
                            "podAffinityTerm": {"topologyKey": "t", "labelSelector": {"matchLabels": {"a": "b"}}},
                        }
                    ]
                },
            }
        ),
    },
)


def a_pod(spec: Json, rank: int = 0) -> Json:
    spec = copy.deepcopy(spec)
    for index, container in enumerate(spec["containers"]):
        container["name"] = f"c{index}"
    spec["containers"][0]["env"].append({"name": "RANK", "value": str(rank)})
    metadata: Json = {"name": f"pod-{rank}", "namespace": "default", "labels": {"a": "b", "rank": str(rank)}}
    metadata["annotations"] = {"note": "ü" * 200}
    owner = {"apiVersion": "supernode.dev/v1alpha1", "kind": "TrainingJob", "name": "j", "uid": "u", "controller": True}
    metadata["ownerReferences"] = [owner]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


async def made(client: Client, pod: Json, encoder: PodEncoder | None) -> tuple[Json, Json]:
    """What the answer to the create tells of it, and how the server keeps it."""
    name = pod["metadata"]["name"]
    told = await create_pod(client, pod, encoder)
    kept = await client.get(PODS, name, "default")
    await client.delete(PODS, name, "default", grace=0)
    assert told["metadata"]["uid"] == kept["metadata"]["uid"]
    return told, kept


async def empty(client: Client) -> None:
    """No pods: an example that failed may have left its own, and would have the next one fail for another reason."""
    for pod in (await client.list_page(PODS, "default"))["items"]:
        await client.delete(PODS, pod["metadata"]["name"], "default", grace=0)


def version_of(found: Json) -> int:
    return int(found["metadata"]["resourceVersion"])


def essence(pod: Json) -> Json:
    metadata = {name: pod["metadata"].get(name) for name in ("name", "labels", "annotations", "ownerReferences")}
    return {"metadata": metadata, "spec": pod["spec"], "status": pod["status"]}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(specs=st.lists(_SPECS, min_size=1, max_size=2))
async def test_the_server_keeps_the_same_pod_from_bytes_and_from_json(admin: Client, specs: list[Json]) -> None:
    encoder = PodEncoder()
    for rank, spec in enumerate([*specs, specs[0]]):
        pod = a_pod(spec, rank)
        assert encoder.encode(pod) == PodEncoder().encode(pod), "what came before makes no difference"
        told, kept = await made(admin, pod, encoder)
        _, expected = await made(admin, pod, None)
        assert essence(kept) == essence(expected)
        # The watch has nothing to add.
        assert told == trim(kept)


async def test_a_real_server_speaks_protobuf(admin: Client) -> None:
    assert await speaks_protobuf(admin)


async def test_what_the_server_refuses_is_said_in_the_same_words(admin: Client) -> None:
    pod = a_pod({"containers": [{"image": "x:1", "env": []}]})
    pod["metadata"]["name"] = "Not a name"
    said = []
    for encoder in (None, PodEncoder()):
        with pytest.raises(BadRequestError) as caught:
            await create_pod(admin, pod, encoder)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "Not a name" in said[0]


_STATES = st.sampled_from(
    [
        {},
        {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
        {"waiting": {}},
        {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": "2026-01-01T00:00:00Z"}},
        {"terminated": {"exitCode": 1}},
        {"terminated": {"exitCode": 137, "signal": 9, "reason": "OOMKilled", "message": "ü" * 9}},
    ]
)
_CONTAINER_STATUSES = st.lists(
    st.fixed_dictionaries(
        {
            "name": _NAMES,
            "ready": st.booleans(),
            "restartCount": st.integers(0, 9),
            "image": st.just(""),
            "imageID": st.just(""),
            "state": _STATES,
        },
        optional={
            "lastState": _STATES,
            "allocatedResourcesStatus": st.just(
                [{"name": "hygon.com/hcu", "resources": [{"resourceID": "hcu-3", "health": "Unhealthy"}]}]
            ),
        },
    ),
    max_size=3,
    unique_by=lambda status: status["name"],
)
_STATUSES = st.fixed_dictionaries(
    {"phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed"])},
    optional={
        "reason": st.just("Evicted"),
        "message": _WORDS,
        "podIP": st.just("10.0.0.7"),
        "podIPs": st.just([{"ip": "10.0.0.7"}]),
        "startTime": st.just("2026-01-01T00:00:00Z"),
        "conditions": st.just(
            [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "R"},
                {"type": "DisruptionTarget", "status": "False"},
            ]
        ),
        "containerStatuses": _CONTAINER_STATUSES,
        "initContainerStatuses": _CONTAINER_STATUSES,
    },
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spec=_SPECS, statuses=st.lists(_STATUSES, min_size=1, max_size=3), grace=st.booleans())
async def test_what_is_read_of_a_pod_is_the_same_from_bytes_and_from_json(
    admin: Client, spec: Json, statuses: list[Json], grace: bool
) -> None:
    """Of lists, a page at a time too, and of each event of a watch, bookmarks left out."""
    await empty(admin)
    start = (await admin.list_page(PODS, "default"))["metadata"]["resourceVersion"]
    for rank in range(2):
        await create_pod(admin, a_pod(spec, rank), None)
    for status in statuses:
        await admin.patch(PODS, "pod-0", {"status": status}, "default", subresource="status")
        whole = await admin.list_page(PODS, "default")
        read = await admin.list_page(PODS, "default", form=PODS_FORM)
        after = await admin.list_page(PODS, "default")
        assert all(isinstance(pod, Trimmed) for pod in read["items"])
        assert read["items"] == list(map(trim, whole["items"]))
        # A list's version is the whole store's, and the server writes leases of its own meanwhile.
        assert version_of(whole) <= version_of(read) <= version_of(after)
    first = await admin.list_page(PODS, "default", form=PODS_FORM, limit=1)
    second = await admin.list_page(PODS, "default", form=PODS_FORM, limit=1, token=first["metadata"]["continue"])
    assert [pod["metadata"]["name"] for pod in first["items"] + second["items"]] == ["pod-0", "pod-1"]
    assert "continue" not in second["metadata"]
    for rank in range(2):
        await admin.delete(PODS, f"pod-{rank}", "default", grace=60 if grace and not rank else 0)
    if grace:
        await admin.delete(PODS, "pod-0", "default", grace=0)
    told = []
    for form in (None, PODS_FORM):
        found = []
        async with admin.watch(PODS, namespace="default", resource_version=start, seconds=30, form=form) as events:
            async for event in events:
                found.append((event["type"], trim(event["object"])))
                if event["type"] == "DELETED" and [kind for kind, _ in found].count("DELETED") == 2:
                    break
        told.append(found)
    assert told[0] == told[1]
    assert len(told[0]) >= 4 + (1 if grace else 0)


async def test_refusals_are_said_in_the_same_words_in_either_form(admin: Client) -> None:
    async def watch(form: Form | None) -> None:
        async with admin.watch(PODS, resource_version="nonsense", seconds=30, form=form) as events:
            async for _ in events:
                pass

    lists, watches = [], []
    for form in (None, PODS_FORM):
        with pytest.raises(BadRequestError, match="token") as caught:
            await admin.list_page(PODS, "default", token="nonsense", form=form)
        lists.append(str(caught.value))
        with pytest.raises(ClusterError, match="nonsense") as refused:
            await watch(form)
        watches.append(str(refused.value))
    assert lists[0] == lists[1]
    assert watches[0] == watches[1]
