"""What a node offers and whom it lets in. Pure readings of raw Node objects.

Flows in: Node objects and pod templates as JSON. Flows out: plain values. Not here: pools, groups, arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from supernode.api.conditions import seconds_of
from supernode.cluster.kinds import Json
from supernode.errors import InputError
from supernode.names import ANNOTATION_UNHEALTHY
from supernode.quantity import parse_resource
from supernode.scheduling.demand import MOST_DEVICES

# A taint with one of these effects keeps pods without a toleration away.
_CLOSING: Final = frozenset({"NoSchedule", "NoExecute"})
# Kubernetes' own words for a node that is not ready: how long that is borne is the job's policy.
_NOT_READY: Final = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})


def trim(node: Json) -> Json:
    """Keep of a cached node what is read here or by people's selectors; the list of images alone is kilobytes."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    kept = ("name", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels")
    conditions = [c for c in status.get("conditions") or [] if c.get("type") == "Ready"]
    trimmed = {name: metadata[name] for name in kept if name in metadata}
    unhealthy = (metadata.get("annotations") or {}).get(ANNOTATION_UNHEALTHY)
    if unhealthy is not None:
        trimmed["annotations"] = {ANNOTATION_UNHEALTHY: unhealthy}
    return {
        "metadata": trimmed,
        "spec": {name: spec[name] for name in ("unschedulable", "taints") if name in spec},
        "status": {
            "capacity": status.get("capacity") or {},
            "allocatable": status.get("allocatable") or {},
            "conditions": conditions,
        },
    }


def same(old: Json, new: Json) -> bool:
    """Whether two trimmed versions of a node differ in nothing but its heartbeat."""

    def facts(node: Json) -> tuple[object, ...]:
        status, metadata = node["status"], node["metadata"]
        resources = (status["capacity"], status["allocatable"])
        labels, going = metadata.get("labels"), metadata.get("deletionTimestamp")
        return labels, going, metadata.get("annotations"), node["spec"], *resources, is_ready(node)

    return facts(old) == facts(new)


def is_ready(node: Json) -> bool:
    """Whether the kubelet says so."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def not_ready_since(node: Json) -> float:
    """When it stopped to be ready (seconds since the epoch); 0 where nobody says so."""
    for condition in (node.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Ready":
            return _seconds(condition.get("lastTransitionTime"))
    return 0.0


def unhealthy_devices(node: Json) -> int:
    """Mask of the devices that the node's annotation calls unhealthy, such as `0,4-7`; what is no index is left out."""
    text = str((node["metadata"].get("annotations") or {}).get(ANNOTATION_UNHEALTHY) or "")
    mask = 0
    for part in re.split(r"[,;\s]+", text):
        found = re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", part, re.ASCII)
        if found is not None:
            first, last = int(found[1]), int(found[2] or found[1])
            mask |= sum(1 << index for index in range(first, min(last + 1, MOST_DEVICES)))
    return mask


def troubles(node: Json) -> tuple[object, ...]:
    """What about a node can be the end of a worker on it: equal values, no news."""
    taints = [t for t in (node.get("spec") or {}).get("taints") or [] if t.get("effect") == "NoExecute"]
    return is_ready(node), unhealthy_devices(node), repr(taints)


class Eviction(NamedTuple):
    """A taint that drives a pod away, and when (seconds since the epoch)."""

    taint: str
    at: float


def eviction(node: Json, tolerations: Sequence[Mapping[str, Any]], now: float) -> Eviction | None:
    """The first taint to drive a pod with these tolerations away, now or later; None if none ever does.

    As Kubernetes' taint eviction; the taints of a node that is not ready are left out.
    """
    found: Eviction | None = None
    for taint in (node.get("spec") or {}).get("taints") or []:
        if taint.get("effect") != "NoExecute" or taint.get("key") in _NOT_READY:
            continue
        matching = [toleration for toleration in tolerations if _tolerates(toleration, taint)]
        limits = [t["tolerationSeconds"] for t in matching if isinstance(t.get("tolerationSeconds"), int)]
        if matching and not limits:
            continue
        at = (_seconds(taint.get("timeAdded")) or now) + min(limits) if matching else now
        if found is None or at < found.at:
            value = f"={taint['value']}" if taint.get("value") else ""
            found = Eviction(f"{taint.get('key')}{value}:NoExecute", at)
    return found


def is_usable(node: Json) -> bool:
    """Ready, not cordoned and not on its way out."""
    metadata, spec = node["metadata"], node.get("spec") or {}
    return is_ready(node) and not spec.get("unschedulable") and not metadata.get("deletionTimestamp")


def labels_of(node: Json) -> Mapping[str, str]:
    """The node's labels."""
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    return labels


def allocatable(node: Json) -> dict[str, int]:
    """What the node offers to pods, in canonical units; what can't be read counts as nothing."""
    result: dict[str, int] = {}
    for name, value in ((node.get("status") or {}).get("allocatable") or {}).items():
        try:
            result[name] = parse_resource(name, value)
        except InputError:
            result[name] = 0
    return result


def allows(node: Json, pod_spec: Json) -> bool:
    """Whether the template's node selector, required node affinity and tolerations let its pods onto the node.

    As kube-scheduler's NodeAffinity and TaintToleration filters; preferences play no part.
    """
    labels = labels_of(node)
    selector = pod_spec.get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        return False
    affinity = ((pod_spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if affinity is not None:
        terms = affinity.get("nodeSelectorTerms") or []
        if not any(_term_holds(term, labels, node["metadata"]["name"]) for term in terms):
            return False
    taints = (node.get("spec") or {}).get("taints") or []
    tolerations = pod_spec.get("tolerations") or []
    return all(taint.get("effect") not in _CLOSING or _tolerated(taint, tolerations) for taint in taints)


def marks(node: Json) -> tuple[object, ...]:
    """The parts of a node that `allows` looks at: equal values give equal answers."""
    return tuple(sorted(labels_of(node).items())), repr((node.get("spec") or {}).get("taints") or [])


def placement_rules(pod_spec: Json) -> tuple[Any, ...]:
    """The parts of a template that `allows` looks at: equal values give equal answers."""
    return (
        repr(sorted((pod_spec.get("nodeSelector") or {}).items())),
        repr((pod_spec.get("affinity") or {}).get("nodeAffinity")),
        repr(pod_spec.get("tolerations") or []),
    )


def _term_holds(term: Mapping[str, Any], labels: Mapping[str, str], name: str) -> bool:
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    if not expressions and not fields:
        return False  # an empty term selects nothing
    return all(_holds(e, labels.get(e.get("key", ""))) for e in expressions) and all(
        f.get("key") == "metadata.name" and _holds(f, name) for f in fields
    )


def _holds(requirement: Mapping[str, Any], value: str | None) -> bool:
    values: Sequence[str] = requirement.get("values") or []
    match requirement.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return _compare(value, values) > 0
        case "Lt":
            return _compare(value, values) < 0
        case _:
            return False


def _compare(value: str | None, values: Sequence[str]) -> int:
    """Sign of value - values[0] as whole numbers; 0 (neither) when one of them is none."""
    try:
        difference = int(value or "") - int(values[0])
    except (ValueError, IndexError):
        return 0
    return (difference > 0) - (difference < 0)


def _tolerated(taint: Mapping[str, Any], tolerations: Iterable[Mapping[str, Any]]) -> bool:
    return any(_tolerates(toleration, taint) for toleration in tolerations)


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    key = toleration.get("key") or ""
    exists = toleration.get("operator") == "Exists"
    if not key:
        return exists
    return bool(key == taint.get("key") and (exists or (toleration.get("value") or "") == (taint.get("value") or "")))


def _seconds(stamp: object) -> float:
    try:
        return seconds_of(stamp) if isinstance(stamp, str) else 0.0
    except ValueError:
        return 0.0
