"""How many pods like one a namespace's ResourceQuotas leave room for. Pure.

Flows in: ResourceQuota objects, and a pod as the API server would make it. Flows out: a sentence, or nothing. The
server's own admission refuses the pod that is one too many when the others are there already; a gang has to know
before. What is counted, and which quota is about which pod: https://kubernetes.io/docs/concepts/policy/resource-quotas
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from supernode.cluster.kinds import Json
from supernode.cluster.pods import request_of
from supernode.errors import InputError
from supernode.quantity import format_resource, parse_resource

# Resources that a quota may name without saying whether it means requests.
_BARE: Final = ("cpu", "memory", "ephemeral-storage")


def shortage(quotas: Iterable[Json], pod: Json, count: int) -> str:
    """Which quota has no room for that many pods, and how much it has; empty if all have, as far as can be told.

    Args:
        quotas: all of the pod's namespace.
        pod: with the defaults that admission gives it.
        count: of pods like it, none of which is there yet.
    """
    spec = pod.get("spec") or {}
    try:
        asked = usage(spec)
    except InputError:
        return ""
    for quota in sorted(quotas, key=lambda each: str(each["metadata"]["name"])):
        status = quota.get("status") or {}
        if not _is_about(quota.get("spec") or {}, spec):
            continue
        for name, limit in sorted((status.get("hard") or {}).items()):
            each = asked.get(name, 0)
            if not each:
                continue
            unit = name.removeprefix("requests.").removeprefix("limits.")
            try:
                most, used = parse_resource(unit, limit), parse_resource(unit, (status.get("used") or {}).get(name, 0))
            except InputError:
                continue
            room = max(0, most - used) // each
            if room < count:
                return (
                    f"ResourceQuota {quota['metadata']['name']} leaves room for {room} of {count} workers: each needs "
                    f"{name} {format_resource(unit, each)}, and {format_resource(unit, used)} of {limit} are used"
                )
    return ""


def usage(spec: Json) -> dict[str, int]:
    """What quotas count of one pod, by the names that quotas have for it, in canonical units.

    Raises:
        InputError: a quantity that can't be read.
    """
    asked, limits = request_of(spec), request_of(_with_limits_alone(spec))
    found = {"pods": 1, "count/pods": 1}
    for name, amount in asked.items():
        if name == "pods":
            continue
        found[f"requests.{name}"] = amount
        if name in _BARE or name.startswith("hugepages-"):
            found[name] = amount
    found |= {f"limits.{name}": amount for name, amount in limits.items() if name in _BARE}
    return found


def _with_limits_alone(spec: Json) -> Json:
    """The spec, asking for its limits."""

    def each(container: Json) -> Json:
        limits = (container.get("resources") or {}).get("limits") or {}
        return {**container, "resources": {"requests": limits}}

    lists = {name: [each(c) for c in spec.get(name) or []] for name in ("containers", "initContainers")}
    whole = (spec.get("resources") or {}).get("limits")
    return {**spec, **lists, "resources": {"requests": whole} if whole else {}}


def _is_about(quota: Json, spec: Json) -> bool:
    """Whether a quota counts such a pod; one with a scope that is not known here counts none."""
    wanted: list[Mapping[str, Any]] = [{"scopeName": name} for name in quota.get("scopes") or []]
    wanted += (quota.get("scopeSelector") or {}).get("matchExpressions") or []
    return all(_matches(each, spec) for each in wanted)


def _matches(scope: Mapping[str, Any], spec: Json) -> bool:
    name = scope.get("scopeName")
    if name == "PriorityClass":
        of, values = str(spec.get("priorityClassName") or ""), scope.get("values") or []
        answers = {"In": of in values, "NotIn": of not in values, "Exists": bool(of), "DoesNotExist": not of}
        return answers.get(str(scope.get("operator") or "Exists"), False)
    holds = {
        "Terminating": spec.get("activeDeadlineSeconds") is not None,
        "NotTerminating": spec.get("activeDeadlineSeconds") is None,
        "BestEffort": _is_best_effort(spec),
        "NotBestEffort": not _is_best_effort(spec),
        "CrossNamespacePodAffinity": _looks_elsewhere(spec.get("affinity") or {}),
    }
    return holds.get(str(name), False)


def _is_best_effort(spec: Json) -> bool:
    """Whether no container asks for processor or memory."""
    asking = [*(spec.get("containers") or []), *(spec.get("initContainers") or []), spec]
    amounts = [(each.get("resources") or {}).get(part) or {} for each in asking for part in ("requests", "limits")]
    return not any(name in given for given in amounts for name in ("cpu", "memory"))


def _looks_elsewhere(affinity: Json) -> bool:
    """Whether a pod's affinity is about pods of other namespaces."""
    for kind in ("podAffinity", "podAntiAffinity"):
        given = affinity.get(kind) or {}
        terms = list(given.get("requiredDuringSchedulingIgnoredDuringExecution") or [])
        preferred = given.get("preferredDuringSchedulingIgnoredDuringExecution") or []
        terms += [each.get("podAffinityTerm") or {} for each in preferred]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms):
            return True
    return False
