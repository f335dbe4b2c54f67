"""Whether a node takes a pod: its requests against what the node has left, as a kubelet decides. Pure.

In: pods and the node. Out: None, or (reason, message) of the failure that the pod's status shows. Resources are exact
integers in canonical units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from supernode.quantity import format_resource, parse_resource

Object = dict[str, Any]


def pod_requests(pod: Object) -> Counter[str]:
    """What a pod needs: containers and sidecars together, or its largest init container with the sidecars before it."""
    spec = pod["spec"]
    sidecars: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    for container in spec.get("initContainers") or []:
        needs = _requests(container)
        if container.get("restartPolicy") == "Always":
            sidecars += needs
            peak |= sidecars
        else:
            peak |= sidecars + needs
    running = sum((_requests(container) for container in spec["containers"]), start=Counter(sidecars))
    total = running | peak
    for name, value in (spec.get("overhead") or {}).items():
        total[name] += parse_resource(name, value)
    return total


def _requests(container: Object) -> Counter[str]:
    resources = container.get("resources") or {}
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return Counter({name: parse_resource(name, value) for name, value in merged.items()})


def refuse(pod: Object, node: Object, others: Iterable[Object]) -> tuple[str, str] | None:
    """(reason, message) if the node cannot take the pod beside `others`, the active pods that it runs already."""
    labels = node["metadata"].get("labels") or {}
    for key, value in (pod["spec"].get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return "NodeAffinity", f"Predicate NodeAffinity failed: the node has no label {key}={value}"
    allocatable = amounts(node.get("status", {}).get("allocatable") or {})
    running = list(others)
    if "pods" in allocatable and len(running) + 1 > allocatable["pods"]:
        return "OutOfpods", _message("pods", 1, len(running), allocatable["pods"])
    used = sum((pod_requests(other) for other in running), start=Counter[str]())
    for name, wanted in sorted(pod_requests(pod).items()):
        # A resource that the node does not have at all is no concern of the node (a kubelet's rule for extended ones).
        if wanted and name in allocatable and used[name] + wanted > allocatable[name]:
            return f"OutOf{name}", _message(name, wanted, used[name], allocatable[name])
    return None


def amounts(resources: Mapping[str, str]) -> dict[str, int]:
    """A resource list in canonical units."""
    return {name: parse_resource(name, value) for name, value in resources.items()}


def _message(name: str, wanted: int, used: int, capacity: int) -> str:
    shown = [format_resource(name, amount) for amount in (wanted, used, capacity)]
    return (
        f"Pod was rejected: Node didn't have enough resource: {name}, "
        f"requested: {shown[0]}, used: {shown[1]}, capacity: {shown[2]}"
    )
