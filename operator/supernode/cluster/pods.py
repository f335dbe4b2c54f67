"""What a pod asks for and how it stands. Pure readings of raw Pod objects.

Flows in: Pod objects as JSON, ours and others'. Flows out: plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supernode.api.conditions import seconds_of
from supernode.cluster.kinds import Json
from supernode.cluster.ownership import controller_of, controlling
from supernode.names import (
    ANNOTATION_CHECKPOINT,
    ANNOTATION_DEVICES,
    EMULATOR_CONTAINER,
    LABEL_ATTEMPT,
    LABEL_JOB_UID,
    LABEL_RANK,
)
from supernode.plaintext import last_line, plain
from supernode.quantity import parse_resource

# Bound on words of a container that end up in a status.
_LONGEST_WORDS: Final = 300
_LONGEST_REASON: Final = 100
#: Annotations that are read.
KEPT_NOTES: Final = (ANNOTATION_DEVICES, ANNOTATION_CHECKPOINT)
_STAMPS: Final = ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


class Trimmed(dict[str, Any]):
    """A pod of which nothing is left but what is read here."""


def trim(pod: Json) -> Json:
    """Keep of a cached pod what is read here; thousands of them stay in memory."""
    if isinstance(pod, Trimmed):
        return pod
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    kept = _only(metadata, "name", "namespace", "uid", "resourceVersion", "labels", *_STAMPS)
    if (owner := controlling(pod)) is not None:
        kept["ownerReferences"] = [_only(owner, "apiVersion", "kind", "name", "uid", "controller")]
    notes = metadata.get("annotations") or {}
    kept["annotations"] = {name: notes[name] for name in KEPT_NOTES if name in notes}
    return Trimmed(
        metadata=kept,
        spec={
            "nodeName": spec.get("nodeName") or "",
            "containers": [_trim_container(each) for each in spec.get("containers") or []],
            "initContainers": [_trim_container(each) for each in spec.get("initContainers") or []],
            **_only(spec, "overhead", "restartPolicy"),
            **({"resources": _trim_resources(spec["resources"])} if spec.get("resources") is not None else {}),
        },
        status={
            **_only(status, "phase", "podIP", "reason", "message"),
            **_lists("conditions", [_only(each, "type", "status") for each in status.get("conditions") or []]),
            **_lists("containerStatuses", [_trim_status(each) for each in status.get("containerStatuses") or []]),
            **_lists(
                "initContainerStatuses", [_trim_status(each) for each in status.get("initContainerStatuses") or []]
            ),
        },
    )


def _only(obj: Json, *names: str) -> Json:
    """These fields, as far as something is in them."""
    return {name: obj[name] for name in names if obj.get(name)}


def _lists(name: str, items: list[Json]) -> Json:
    return {name: items} if items else {}


def _trim_container(container: Json) -> Json:
    return {**_only(container, "name", "restartPolicy"), "resources": _trim_resources(container.get("resources") or {})}


def _trim_resources(resources: Json) -> Json:
    return _only(resources, "limits", "requests")


def _trim_status(status: Json) -> Json:
    state = status.get("state") or {}
    found: Json = {"name": status.get("name", ""), "state": {}, "restartCount": status.get("restartCount", 0)}
    if state.get("waiting") is not None:
        found["state"]["waiting"] = _only(state["waiting"], "reason", "message")
    if (ended := state.get("terminated")) is not None:
        found["state"]["terminated"] = {
            "exitCode": ended.get("exitCode", 0),
            **_only(ended, "reason", "message", "finishedAt"),
        }
    devices = [
        {
            "name": each.get("name", ""),
            "resources": [_only(one, "resourceID", "health") for one in each.get("resources") or []],
        }
        for each in status.get("allocatedResourcesStatus") or []
    ]
    return found | _lists("allocatedResourcesStatus", devices)


def request_of(spec: Json) -> dict[str, int]:
    """What the scheduler must keep for a pod, in canonical units, as Kubernetes computes it.

    Containers and sidecars add up; an ordinary init container counts with the sidecars started before it, where that
    is more; the pod's own `resources` replace the sum; overhead comes on top. Every pod takes one of ``pods``.

    Raises:
        InputError: a quantity that can't be read; names the field.
    """
    total: dict[str, int] = {}
    for index, container in enumerate(spec.get("containers") or []):
        _add(total, _requests(container, f"containers[{index}]"))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for index, container in enumerate(spec.get("initContainers") or []):
        request = _requests(container, f"initContainers[{index}]")
        if container.get("restartPolicy") == "Always":
            _add(total, request)
            _add(sidecars, request)
        else:
            _add(request, sidecars)
            for name, amount in request.items():
                peak[name] = max(peak.get(name, 0), amount)
    for name, amount in peak.items():
        total[name] = max(total.get(name, 0), amount)
    total.update(_requests(spec, "spec"))
    _add(total, _amounts(spec.get("overhead") or {}, "spec.overhead"))
    total["pods"] = 1
    return total


def is_over(pod: Json) -> bool:
    """Whether all its containers have ended for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def job_uid(pod: Json) -> str:
    """UID of the training job that the pod belongs to; empty if none.

    By its label and by who controls it: a label alone anybody may set. Of the pod's own namespace, if of any.
    """
    uid = (pod["metadata"].get("labels") or {}).get(LABEL_JOB_UID)
    owner = controller_of(pod) if uid else None
    return owner.uid if owner is not None and owner.uid == uid else ""


def rank_of(pod: Json) -> int:
    """Rank by its label; -1 if it has none."""
    return _number((pod["metadata"].get("labels") or {}).get(LABEL_RANK))


def attempt_of(pod: Json) -> int:
    """Attempt by its label; -1 if it has none."""
    return _number((pod["metadata"].get("labels") or {}).get(LABEL_ATTEMPT))


def devices_of(pod: Json) -> tuple[int, ...]:
    """Device indices by its annotation; empty if it has none, or no numbers."""
    text = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_DEVICES) or ""
    parts = [part for part in text.split(",") if part]
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


def is_ready(pod: Json) -> bool:
    """Whether the pod's Ready condition is true."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def ending(pod: Json) -> tuple[int | None, str, str]:
    """(exit code, reason, last words) of the container that failed, or of the pod itself where the node ended it.

    The words are one line: the last that the container wrote, where a traceback has its error.
    """
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated")
        if ended and ended.get("exitCode"):
            words = last_line(str(ended.get("message") or ""), _LONGEST_WORDS)
            return int(ended["exitCode"]), plain(str(ended.get("reason") or ""), _LONGEST_REASON), words
    reason, words = str(status.get("reason") or ""), str(status.get("message") or "")
    return None, plain(reason, _LONGEST_REASON), plain(words, _LONGEST_WORDS)


def has_failed(pod: Json) -> bool:
    """Whether the pod has failed, or can't but fail: a container that nobody will start again ended with an error.

    The node says `Failed` only when all containers have ended, which may take the sidecars' whole grace period.
    """
    if (pod.get("status") or {}).get("phase") == "Failed":
        return True
    spec = pod.get("spec") or {}
    again = {c.get("name") for c in spec.get("containers") or [] if c.get("restartPolicy") not in (None, "Never")}
    return spec.get("restartPolicy") == "Never" and any(
        ((container.get("state") or {}).get("terminated") or {}).get("exitCode")
        for container in (pod.get("status") or {}).get("containerStatuses") or []
        if container.get("name") not in again
    )


def is_winding_down(pod: Json) -> bool:
    """Whether all containers have ended for good, and only sidecars are still being stopped by the node."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    ended = {c.get("name") for c in status.get("containerStatuses") or [] if (c.get("state") or {}).get("terminated")}
    containers = spec.get("containers") or []
    return spec.get("restartPolicy") == "Never" and all(
        container.get("name") in ended and container.get("restartPolicy") in (None, "Never") for container in containers
    )


def ends_at(pod: Json) -> float | None:
    """When a pod that is being deleted should be gone at the latest (seconds since the epoch); None if it is not."""
    stamp = pod["metadata"].get("deletionTimestamp")
    return seconds_of(stamp) if isinstance(stamp, str) else None


def was_stopped(pod: Json) -> bool:
    """Whether it is being deleted, and none of its containers had failed when that was asked for.

    What a container says that was told to stop is no failure of its own, whoever looks when. Stamps are of whole
    seconds: one that failed in the second in which its pod was deleted counts as stopped.
    """
    latest = ends_at(pod)
    if latest is None or (pod.get("status") or {}).get("reason"):
        return False  # not being deleted, or ended by its node before
    asked = latest - (pod["metadata"].get("deletionGracePeriodSeconds") or 0)
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated") or {}
        stamp = ended.get("finishedAt")
        if ended.get("exitCode") and (not isinstance(stamp, str) or seconds_of(stamp) < asked):
            return False
    return True


def trouble(pod: Json) -> str:
    """Why a container can't start, such as ``ErrImagePull: ...``; empty when nothing is known to be wrong."""
    status = pod.get("status") or {}
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason") or ""
        if reason not in ("", "ContainerCreating", "PodInitializing"):
            words = plain(str(waiting.get("message") or ""), _LONGEST_WORDS)
            reason = plain(str(reason), _LONGEST_REASON)
            return f"{reason}: {words}" if words else reason
    return ""


def exits(pod: Json) -> tuple[tuple[str, int], ...]:
    """(container, exit code) of every container that has ended, the user's own init containers too."""
    status = pod.get("status") or {}
    found = []
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        ended = (container.get("state") or {}).get("terminated")
        if ended and isinstance(ended.get("exitCode"), int):
            found.append((str(container.get("name") or ""), int(ended["exitCode"])))
    return tuple(found)


def conditions(pod: Json) -> frozenset[tuple[str, str]]:
    """(type, status) of the pod's conditions."""
    found = (pod.get("status") or {}).get("conditions") or []
    return frozenset((str(c.get("type")), str(c.get("status"))) for c in found)


def restarts(pod: Json) -> int:
    """How often the node has restarted containers of it."""
    counts = [c.get("restartCount") for c in (pod.get("status") or {}).get("containerStatuses") or []]
    return sum(count for count in counts if isinstance(count, int) and count > 0)


def sick_device(pod: Json) -> str:
    """A device that the pod holds and whose plug-in calls it unhealthy (``allocatedResourcesStatus``); else empty."""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        for resource in container.get("allocatedResourcesStatus") or []:
            for device in resource.get("resources") or []:
                if device.get("health") == "Unhealthy":
                    name = f"{resource.get('name')} {device.get('resourceID')}"
                    return f"device {plain(name, _LONGEST_WORDS)} is unhealthy"
    return ""


def was_asked(pod: Json) -> bool:
    """Whether it was asked to save a checkpoint."""
    return ANNOTATION_CHECKPOINT in (pod["metadata"].get("annotations") or {})


def last_words(pod: Json) -> str:
    """The emulator sidecar's termination message; empty until it has ended."""
    for container in (pod.get("status") or {}).get("initContainerStatuses") or []:
        if container.get("name") == EMULATOR_CONTAINER:
            ended = (container.get("state") or {}).get("terminated") or {}
            return str(ended.get("message") or "")
    return ""


def address_of(pod: Json) -> str:
    """The pod's IP address; empty until it has one."""
    return str((pod.get("status") or {}).get("podIP") or "")


def _requests(container: Json, where: str) -> dict[str, int]:
    resources = container.get("resources") or {}
    # A limit without a request is a request; the API server writes it so, a template may not have it yet.
    amounts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return _amounts(amounts, f"{where}.resources")


def _amounts(amounts: Mapping[str, Any], where: str) -> dict[str, int]:
    return {
        name: parse_resource(name, value, field=f"spec.template.spec.{where}.{name}") for name, value in amounts.items()
    }


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isdecimal() else -1
