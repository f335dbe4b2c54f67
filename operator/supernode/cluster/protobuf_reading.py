"""What an API server sends in Kubernetes' protobuf form: pods, lists and watch events of pods, and refusals.

In JSON a server spends twice the time on each pod that it tells of, and so do we. Flows in: bytes. Flows out: pods with
what `pods.trim` keeps of them; everything else in a message is skipped, unread. The numbers of a pod's fields are those
of `pod_fields.json`; those of the envelopes are from `generated.proto` of k8s.io/apimachinery v0.37.2 (pkg/runtime,
pkg/apis/meta/v1).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from importlib.resources import files
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from supernode.api.conditions import timestamp
from supernode.cluster.form import Form
from supernode.cluster.kinds import Json
from supernode.cluster.pods import KEPT_NOTES, Trimmed
from supernode.cluster.protobuf import MAGIC, PROTOBUF

#: Parts of a pod that are read.
_POD: Final = {
    "Pod": "metadata spec status",
    "ObjectMeta": "name namespace uid resourceVersion creationTimestamp deletionTimestamp deletionGracePeriodSeconds "
    "labels annotations ownerReferences",
    "OwnerReference": "apiVersion kind name uid controller blockOwnerDeletion",
    "PodSpec": "nodeName containers initContainers restartPolicy overhead resources",
    "Container": "name resources restartPolicy",
    "ResourceRequirements": "limits requests",
    "PodStatus": "phase conditions message reason podIP containerStatuses initContainerStatuses",
    "PodCondition": "type status",
    "ContainerStatus": "name state restartCount allocatedResourcesStatus",
    "ContainerState": "waiting terminated",
    "ContainerStateWaiting": "reason message",
    "ContainerStateTerminated": "exitCode reason message finishedAt",
    "ResourceStatus": "name resources",
    "ResourceHealth": "resourceID health",
}
#: The rest: what pods come in, and what a refusal says.
_ENVELOPES: Final[dict[str, dict[str, tuple[int, str]]]] = {
    "Unknown": {"typeMeta": (1, "TypeMeta"), "raw": (2, "bytes")},
    "TypeMeta": {"apiVersion": (1, "text"), "kind": (2, "text")},
    "WatchEvent": {"type": (1, "text"), "object": (2, "RawExtension")},
    "RawExtension": {"raw": (1, "bytes")},
    "PodList": {"metadata": (1, "ListMeta"), "items": (2, "*Pod")},
    "ListMeta": {"resourceVersion": (2, "text"), "continue": (3, "text")},
    "Status": {"message": (3, "text"), "reason": (4, "text"), "details": (5, "StatusDetails"), "code": (6, "int")},
    "StatusDetails": {"retryAfterSeconds": (5, "int")},
    "Time": {"seconds": (1, "int")},
    "Quantity": {"string": (1, "text")},
}
_PACKAGE: Final = "supernode"


def read_pod(data: bytes) -> Json:
    """A pod that was asked for by itself.

    Raises:
        ValueError: something else.
    """
    return _pod(_parsed("Pod", _opened(data, "Pod")))


def read_list(data: bytes) -> Json:
    """A list of pods, or a page of one, in the form of JSON.

    Raises:
        ValueError: something else.
    """
    found = _parsed("PodList", _opened(data, "PodList"))
    metadata = {"resourceVersion": found.metadata.resourceVersion}
    if token := getattr(found.metadata, "continue"):
        metadata["continue"] = token
    return {"metadata": metadata, "items": [_pod(item) for item in found.items]}


def read_event(data: bytes, known: Callable[[Json], bool] = lambda metadata: False) -> Json:
    """An event of a watch of pods, in the form of JSON. The object of an ``ERROR`` is the refusal.

    Args:
        data: the event.
        known: by name, namespace, uid and version whether a pod is known as it is or newer: no more of it is read then.

    Raises:
        ValueError: something else.
    """
    event = _parsed("WatchEvent", data)
    if event.type == "ERROR":
        return {"type": event.type, "object": read_status(event.object.raw)}
    pod = _parsed("Pod", _opened(event.object.raw, "Pod"))
    metadata = _texts(pod.metadata, "name", "namespace", "uid", "resourceVersion")
    if event.type in ("ADDED", "MODIFIED") and known(metadata):
        return {"type": event.type, "object": Trimmed(metadata=metadata)}
    return {"type": event.type, "object": _pod(pod)}


def read_status(data: bytes) -> Json:
    """A refusal (`Status`), in the form of JSON.

    Raises:
        ValueError: something else.
    """
    status = _parsed("Status", _opened(data, "Status"))
    details = {"retryAfterSeconds": status.details.retryAfterSeconds} if status.details.retryAfterSeconds else {}
    return {"reason": status.reason, "message": status.message, "code": status.code, "details": details}


#: Pods in protobuf where the server has it, else in JSON.
PODS_FORM: Final = Form(
    f"{PROTOBUF}, application/json", f"{PROTOBUF};stream=watch, application/json", read_list, read_event
)


def pods_form(known: Callable[[Json], bool]) -> Form:
    """The same, without reading again what a store knows."""
    return replace(PODS_FORM, event=partial(read_event, known=known))


def _opened(data: bytes, kind: str) -> bytes:
    if not data.startswith(MAGIC):
        raise ValueError(f"{kind}: not in Kubernetes' protobuf form")
    unknown = _parsed("Unknown", data[len(MAGIC) :])
    if unknown.typeMeta.kind != kind:
        raise ValueError(f"a {unknown.typeMeta.kind[:80]!r} instead of a {kind}")
    raw: bytes = unknown.raw
    return raw


def _parsed(kind: str, data: bytes) -> Any:
    try:
        return _classes()[kind].FromString(data)
    except DecodeError as exc:
        raise ValueError(f"not a {kind}: {exc}") from exc


# --- pods ------------------------------------------------------------------------------------------------------------
def _pod(pod: Any) -> Trimmed:
    spec, status = pod.spec, pod.status
    return Trimmed(
        metadata=_metadata(pod.metadata),
        spec={
            "nodeName": spec.nodeName,
            "containers": [_container(each) for each in spec.containers],
            "initContainers": [_container(each) for each in spec.initContainers],
            **({"restartPolicy": spec.restartPolicy} if spec.restartPolicy else {}),
            **({"overhead": _quantities(spec.overhead)} if spec.overhead else {}),
            **({"resources": _resources(spec.resources)} if spec.HasField("resources") else {}),
        },
        status={
            **_texts(status, "phase", "podIP", "reason", "message"),
            **_lists(conditions=[{"type": each.type, "status": each.status} for each in status.conditions]),
            **_lists(containerStatuses=[_container_status(each) for each in status.containerStatuses]),
            **_lists(initContainerStatuses=[_container_status(each) for each in status.initContainerStatuses]),
        },
    )


def _metadata(metadata: Any) -> Json:
    found = _texts(metadata, "name", "namespace", "uid", "resourceVersion")
    for name in ("creationTimestamp", "deletionTimestamp"):
        if metadata.HasField(name) and (seconds := getattr(metadata, name).seconds):
            found[name] = _time(seconds)
    if metadata.deletionGracePeriodSeconds:
        found["deletionGracePeriodSeconds"] = metadata.deletionGracePeriodSeconds
    if metadata.labels:
        found["labels"] = dict(metadata.labels)
    found["annotations"] = {name: metadata.annotations[name] for name in KEPT_NOTES if name in metadata.annotations}
    for owner in metadata.ownerReferences:
        if owner.controller:
            found["ownerReferences"] = [_texts(owner, "apiVersion", "kind", "name", "uid") | {"controller": True}]
            break
    return found


def _container(container: Any) -> Json:
    return {**_texts(container, "name", "restartPolicy"), "resources": _resources(container.resources)}


def _resources(resources: Any) -> Json:
    limits, requests = _quantities(resources.limits), _quantities(resources.requests)
    return {**({"limits": limits} if limits else {}), **({"requests": requests} if requests else {})}


def _quantities(amounts: Any) -> dict[str, str]:
    return {name: amount.string for name, amount in amounts.items()}


def _container_status(status: Any) -> Json:
    state: Json = {}
    if status.state.HasField("waiting"):
        state["waiting"] = _texts(status.state.waiting, "reason", "message")
    if status.state.HasField("terminated"):
        ended = status.state.terminated
        state["terminated"] = {"exitCode": ended.exitCode, **_texts(ended, "reason", "message")}
        if ended.HasField("finishedAt") and ended.finishedAt.seconds:
            state["terminated"]["finishedAt"] = _time(ended.finishedAt.seconds)
    devices = [
        {"name": each.name, "resources": [_texts(one, "resourceID", "health") for one in each.resources]}
        for each in status.allocatedResourcesStatus
    ]
    return {
        "name": status.name,
        "state": state,
        "restartCount": status.restartCount,
        **_lists(allocatedResourcesStatus=devices),
    }


def _texts(message: Any, *names: str) -> Json:
    """The fields that are not empty, as JSON leaves those out."""
    return {name: value for name in names if (value := getattr(message, name))}


def _lists(**lists: list[Json]) -> Json:
    return {name: items for name, items in lists.items() if items}


@lru_cache(maxsize=1024)
def _time(seconds: int) -> str:
    return timestamp(float(seconds))


# --- the shapes of the messages --------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def _classes() -> dict[str, Any]:
    """Message classes with the fields above alone."""
    table = json.loads(files("supernode.cluster").joinpath("pod_fields.json").read_text(encoding="utf-8"))
    shapes = {name: {field: tuple(table[name][field]) for field in fields.split()} for name, fields in _POD.items()}
    file = descriptor_pb2.FileDescriptorProto(name="pods.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in (shapes | _ENVELOPES).items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [*shapes, *_ENVELOPES]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in names}


def _add(message: Any, name: str, number: int, kind: str) -> None:
    shape = descriptor_pb2.FieldDescriptorProto
    if kind.startswith("{}"):
        entry = message.nested_type.add(name=f"{name[0].upper()}{name[1:]}Entry")
        entry.options.map_entry = True
        _add(entry, "key", 1, "text")
        _add(entry, "value", 2, kind[2:])
        label, type_name = shape.LABEL_REPEATED, f".{_PACKAGE}.{message.name}.{entry.name}"
        message.field.add(name=name, number=number, type=shape.TYPE_MESSAGE, label=label, type_name=type_name)
        return
    simple = {"text": shape.TYPE_STRING, "bytes": shape.TYPE_BYTES, "int": shape.TYPE_INT64, "bool": shape.TYPE_BOOL}
    label = shape.LABEL_REPEATED if kind.startswith("*") else shape.LABEL_OPTIONAL
    kind = kind.lstrip("*")
    if kind in simple:
        message.field.add(name=name, number=number, type=simple[kind], label=label)
    else:
        type_name = f".{_PACKAGE}.{kind}"
        message.field.add(name=name, number=number, type=shape.TYPE_MESSAGE, label=label, type_name=type_name)
