"""A pod's status as a kubelet words it, from the states of its containers. Pure.

In: the pod, its containers, what the agent decided about it. Out: the `status` object to write. Not here: when it is
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from supernode.quantity import parse_resource

Object = dict[str, Any]


class ContainerView(Protocol):
    """What a status shows of a container."""

    name: str
    role: str
    spec: Object
    state: Object
    last_state: Object
    ready: bool
    started: bool
    restarts: int


@dataclass(frozen=True)
class PodFacts:
    """What the agent knows about a pod beside its containers.

    Attributes:
        address: the pod's address, empty before it has one.
        host: its node's address.
        start_time: when the agent took it, RFC 3339.
        prepared: volumes and address are there.
        finished: no container will run again.
        failure: (reason, message) when the pod failed as a whole.
        now: time for new condition transitions, RFC 3339.
    """

    address: str
    host: str
    start_time: str
    prepared: bool
    finished: bool
    failure: tuple[str, str] | None
    now: str


def pod_status(pod: Object, containers: Sequence[ContainerView], facts: PodFacts) -> Object:
    """The status to merge into the pod's: conditions are merged by type, so those of others stay."""
    current = pod.get("status") or {}
    init = [container for container in containers if container.role != "main"]
    main = [container for container in containers if container.role == "main"]
    phase = _phase(init, main, facts)
    status: Object = {
        "phase": phase,
        "startTime": facts.start_time,
        "hostIP": facts.host,
        "hostIPs": [{"ip": facts.host}],
        "conditions": _conditions(pod, init, main, phase, facts),
        "qosClass": current.get("qosClass") or qos_class(pod),
    }
    if facts.address:
        status |= {"podIP": facts.address, "podIPs": [{"ip": facts.address}]}
    if main:
        status["containerStatuses"] = [_container_status(pod, container) for container in main]
    if init:
        status["initContainerStatuses"] = [_container_status(pod, container) for container in init]
    if facts.failure is not None:
        status |= {"reason": facts.failure[0], "message": facts.failure[1]}
    return status


def with_own_conditions(status: Object, sent: Object | None) -> Object:
    """The API's status with our own conditions as we sent them last, for the API's copy may be older."""
    if sent is None:
        return status
    ours = {entry["type"]: entry for entry in sent["conditions"]}
    others = [entry for entry in status.get("conditions") or [] if entry["type"] not in ours]
    return {**status, "conditions": [*ours.values(), *others]}


def _phase(init: Sequence[ContainerView], main: Sequence[ContainerView], facts: PodFacts) -> str:
    if facts.finished and (facts.failure is not None or not _all_succeeded(init, main)):
        return "Failed"
    if facts.finished:
        return "Succeeded"
    ran = any("waiting" not in container.state or container.last_state for container in main)
    return "Running" if _initialised(init) and ran else "Pending"


def _all_succeeded(init: Sequence[ContainerView], main: Sequence[ContainerView]) -> bool:
    needed = [container for container in (*init, *main) if container.role != "sidecar"]
    return all(container.state.get("terminated", {}).get("exitCode") == 0 for container in needed)


def _initialised(init: Sequence[ContainerView]) -> bool:
    return not _uninitialised(init)


def _uninitialised(init: Sequence[ContainerView]) -> list[str]:
    return [container.name for container in init if not _init_done(container)]


def _init_done(container: ContainerView) -> bool:
    if container.role == "sidecar":
        # One that has started once does not hold up the pod again.
        return container.started or bool(container.last_state) or "terminated" in container.state
    return bool(container.state.get("terminated", {}).get("exitCode") == 0)


def _container_status(pod: Object, container: ContainerView) -> Object:
    ready = container.ready
    if container.role == "init":
        ready = _init_done(container)
    image = container.spec["image"]
    status: Object = {
        "name": container.name,
        "image": image,
        # Nothing was pulled: the machine's own programs stand for the image.
        "imageID": "" if "waiting" in container.state and not container.last_state else f"local://{image}",
        "state": container.state,
        "lastState": container.last_state,
        "ready": ready,
        "restartCount": container.restarts,
        "started": container.started,
    }
    if "running" in container.state:
        status["containerID"] = f"process://{pod['metadata']['uid']}/{container.name}/{container.restarts}"
    elif identity := (container.state.get("terminated") or {}).get("containerID"):
        status["containerID"] = identity
    return status


def _conditions(
    pod: Object, init: Sequence[ContainerView], main: Sequence[ContainerView], phase: str, facts: PodFacts
) -> list[Object]:
    existing = {entry["type"]: entry for entry in (pod.get("status") or {}).get("conditions") or []}
    waiting = _uninitialised(init)
    unready = [container.name for container in (*init, *main) if container.role != "init" and not container.ready]
    rejected = not facts.prepared and facts.failure is not None
    wanted: dict[str, tuple[bool, str, str]] = {
        "PodReadyToStartContainers": (facts.prepared and not facts.finished, "", ""),
        "PodScheduled": (True, "", ""),
    }
    if phase == "Succeeded":
        wanted["Initialized"] = (True, "PodCompleted", "")
        wanted["ContainersReady"] = wanted["Ready"] = (False, "PodCompleted", "")
    else:
        text = f"containers with incomplete status: [{' '.join(waiting)}]" if waiting else ""
        wanted["Initialized"] = (not waiting and not rejected, "ContainersNotInitialized" if waiting else "", text)
        if phase == "Failed":
            reason, text = "PodFailed", ""
        else:
            reason, text = "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
        ready = not unready and phase == "Running"
        wanted["ContainersReady"] = (True, "", "") if ready else (False, reason, text)
        wanted["Ready"] = wanted["ContainersReady"]
        gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
        closed = [gate for gate in gates if existing.get(gate, {}).get("status") != "True"]
        if ready and closed:
            wanted["Ready"] = (False, "ReadinessGatesNotReady", f"readiness gates not met: {', '.join(closed)}")
    return [_condition(kind, *values, existing.get(kind), facts.now) for kind, values in wanted.items()]


def _condition(kind: str, state: bool, reason: str, message: str, old: Object | None, now: str) -> Object:
    status = str(state)
    changed = old is None or old.get("status") != status
    entry: Object = {
        "type": kind,
        "status": status,
        "lastProbeTime": None,
        "lastTransitionTime": now if changed or old is None else old.get("lastTransitionTime"),
    }
    # Explicit nulls take away a reason that no longer holds, in a merge of conditions by their type.
    entry["reason"] = reason or None
    entry["message"] = message or None
    return entry


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort, by Kubernetes' rule over cpu and memory."""
    containers = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]
    any_set, guaranteed = False, True
    for container in containers:
        resources = container.get("resources") or {}
        limits = resources.get("limits") or {}
        requests = {**limits, **(resources.get("requests") or {})}
        any_set = any_set or any(name in requests for name in ("cpu", "memory"))
        for name in ("cpu", "memory"):
            equal = name in limits and parse_resource(name, requests[name]) == parse_resource(name, limits[name])
            guaranteed = guaranteed and equal
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
