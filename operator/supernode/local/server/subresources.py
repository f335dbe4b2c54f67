"""Subresources that are not simply a part of the object: scale, binding, eviction, token, finalize.

`status` goes through `Objects` itself; `log` is in `podlogs`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from supernode.local.machinery.refusals import PatchedInvalidError
from supernode.local.server import selection, statuses
from supernode.local.server.deletion import Deleted, Deletion, parse_options
from supernode.local.server.identity import Identities
from supernode.local.server.objects import Objects
from supernode.local.server.statuses import Object
from supernode.local.server.store import Stored
from supernode.local.server.target import Target, Write, Written, refused
from supernode.local.server.tree import clone

_SHORTEST_TOKEN: Final = 600  # seconds
_LONGEST_TOKEN: Final = 1 << 32
_HOUR: Final = 3600
_PROCESS: Final = "a pod is processes of this machine: see their output with `kubectl logs`, their state with `ps`"
_REACH: Final = "a pod listens on an address of this machine: connect to its status.podIP"
# What needs a stream into a container, or a way through the server; and what to do instead.
ABSENT: Final[Mapping[tuple[str, str], str]] = {
    ("pods", "exec"): _PROCESS,
    ("pods", "attach"): _PROCESS,
    ("pods", "ephemeralcontainers"): _PROCESS,
    ("pods", "resize"): "a process keeps what it was started with: delete the pod and make another",
    ("pods", "portforward"): _REACH,
    ("pods", "proxy"): _REACH,
    ("services", "proxy"): _REACH,
    ("nodes", "proxy"): _PROCESS,
}


def _at(obj: Object, path: str) -> Any:
    value: Any = obj
    for step in path.lstrip(".").split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _put(obj: Object, path: str, value: Any) -> None:
    *steps, last = path.lstrip(".").split(".")
    for step in steps:
        obj = obj.setdefault(step, {})
    obj[last] = value


def _paths(target: Target) -> tuple[str, str, str]:
    """Where a kind keeps wanted replicas, present replicas, and its selector."""
    if target.served.custom is None:
        return "spec.replicas", "status.replicas", "spec.selector"
    scale = (target.served.custom.get("subresources") or {}).get("scale") or {}
    return scale["specReplicasPath"], scale["statusReplicasPath"], scale.get("labelSelectorPath", "")


def _selector_text(value: Any) -> str:
    if not value:
        return ""
    if isinstance(value, str):
        return value
    if "matchLabels" not in value and "matchExpressions" not in value:
        value = {"matchLabels": value}
    signs = {"In": "in", "NotIn": "notin"}
    terms = [f"{key}={each}" for key, each in sorted((value.get("matchLabels") or {}).items())]
    for each in value.get("matchExpressions") or ():
        if each["operator"] in signs:
            terms.append(f"{each['key']} {signs[each['operator']]} ({','.join(sorted(each['values']))})")
        else:
            terms.append(each["key"] if each["operator"] == "Exists" else f"!{each['key']}")
    return ",".join(terms)


def scale_of(target: Target, stored: Stored) -> Object:
    """The Scale that an object shows."""
    wanted, present, selector = _paths(target)
    meta = stored.obj["metadata"]
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Object = {"replicas": _at(stored.obj, present) or 0}
    text = _selector_text(_at(stored.obj, selector)) if selector else ""
    if text:
        status["selector"] = text
    replicas = _at(stored.obj, wanted) or 0
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in names if name in meta},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


def write_scale(objects: Objects, target: Target, scale: Object, write: Write) -> Written:
    """Set the replicas that a Scale asks for.

    Raises:
        StatusError: 409 another version, 422 a negative number.
    """
    stored = objects.find(target)
    given = (scale.get("metadata") or {}).get("name")
    if given != target.name:
        raise statuses.bad_request(
            f"the name of the object ({given}) does not match the name on the URL ({target.name})"
            if given
            else f"the name of the object ({target.name} based on URL) was undeterminable: name must be provided"
        )
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if not isinstance(replicas, int):
        why = "json: cannot unmarshal string into Go struct field ScaleSpec.spec.replicas of type int32"
        raise refused(target, PatchedInvalidError(json.dumps(scale, separators=(",", ":")), why))
    if target.served.custom is None and replicas < 0:
        cause = statuses.invalid_value("spec.replicas", replicas, "must be greater than or equal to 0")
        details = {"name": target.name, "group": "autoscaling", "kind": "Scale", "causes": [cause.as_dict()]}
        message = f'Scale.autoscaling "{target.name}" is invalid: {cause}'
        raise statuses.StatusError(422, "Invalid", message, details)
    new = clone(stored.obj)
    new["metadata"].pop("managedFields", None)
    version = (scale.get("metadata") or {}).get("resourceVersion")
    if version:
        new["metadata"]["resourceVersion"] = version
    if stored.obj["metadata"].get("managedFields"):
        new["metadata"]["managedFields"] = clone(stored.obj["metadata"]["managedFields"])
    _put(new, _paths(target)[0], replicas)
    new["apiVersion"], new["kind"] = target.served.api_version, target.served.kind
    main = Target(target.served, target.namespace, target.name)
    return objects.update(main, new, replace(write, part="scale"))


def bind(objects: Objects, target: Target, binding: Object, write: Write) -> Object:
    """Put a pod on a node, as a scheduler does.

    Raises:
        StatusError: 409 when it is on one already.
    """
    stored = objects.find(target)
    node = (binding.get("target") or {}).get("name")
    if not node:
        raise statuses.bad_request("target.name: Required value")
    uid = (binding.get("metadata") or {}).get("uid")
    if uid and uid != stored.obj["metadata"]["uid"]:
        raise statuses.conflict("", "pods", target.name, "the uid does not match")
    if stored.obj["metadata"].get("deletionTimestamp"):
        why = f"pod {target.name} is being deleted, cannot be assigned to a host"
        raise statuses.conflict("", "pods/binding", target.name, why)
    present = stored.obj["spec"].get("nodeName")
    if present:
        why = f'pod {target.name} is already assigned to node "{present}"'
        raise statuses.conflict("", "pods/binding", target.name, why)
    if not write.dry_run:
        new = clone(stored.obj)
        new["spec"]["nodeName"] = node
        annotations = (binding.get("metadata") or {}).get("annotations") or {}
        if annotations:
            new["metadata"].setdefault("annotations", {}).update(annotations)
        conditions = [each for each in new["status"].get("conditions") or () if each.get("type") != "PodScheduled"]
        since = objects.clock.timestamp()
        scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": since}
        new["status"]["conditions"] = [*conditions, scheduled]
        objects.store.put(target.served.store, target.key, new)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _room(budget: Object, pods: list[Object]) -> int:
    """How many more pods a disruption budget lets go."""
    healthy = [pod for pod in pods if _ready(pod) and not pod["metadata"].get("deletionTimestamp")]
    spec = budget["spec"]
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None:
        return len(healthy) - _share(least, len(pods), up=True)
    if most is not None:
        return _share(most, len(pods), up=True) - (len(pods) - len(healthy))
    return len(healthy) - 1


def _share(value: Any, total: int, *, up: bool) -> int:
    if isinstance(value, str) and value.endswith("%"):
        exact = int(value[:-1]) * total
        return -(-exact // 100) if up else exact // 100
    return int(value)


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def evict(objects: Objects, deletion: Deletion, target: Target, eviction: Object) -> Deleted:
    """Delete a pod unless a disruption budget forbids it.

    Raises:
        StatusError: 429, a budget is used up.
    """
    if (eviction.get("metadata") or {}).get("name") != target.name:
        raise statuses.bad_request("name in URL does not match name in Eviction object")
    stored = objects.find(target)
    pod = stored.obj
    finished = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed", "Pending")
    if not finished and not pod["metadata"].get("deletionTimestamp"):
        for each in objects.store.items(("policy", "poddisruptionbudgets"), target.namespace):
            chosen = each.obj["spec"].get("selector")
            if not selection.chooses(chosen, pod):
                continue
            pods = [
                other.obj
                for other in objects.store.items(("", "pods"), target.namespace)
                if selection.chooses(chosen, other.obj)
            ]
            if _ready(pod) and _room(each.obj, pods) <= 0:
                raise _budget_refusal(each.obj, pods)
    return deletion.delete(target, parse_options(eviction.get("deleteOptions") or {}, {}))


def _budget_refusal(budget: Object, pods: list[Object]) -> statuses.StatusError:
    name = budget["metadata"]["name"]
    healthy = sum(map(_ready, pods))
    needed = (
        len(pods) - _share(budget["spec"]["maxUnavailable"], len(pods), up=True)
        if budget["spec"].get("maxUnavailable") is not None
        else _share(budget["spec"].get("minAvailable", 1), len(pods), up=True)
    )
    text = f"The disruption budget {name} needs {needed} healthy pods and has {healthy} currently"
    message = "Cannot evict pod as it would violate the pod's disruption budget."
    return statuses.StatusError(
        429, "TooManyRequests", message, {"causes": [{"reason": "DisruptionBudget", "message": text}]}
    )


def issue_token(objects: Objects, identities: Identities, target: Target, request: Object) -> Object:
    """Answer a TokenRequest for a service account.

    Raises:
        StatusError: 404 no such account or bound object, 422 a lifetime that cannot be.
    """
    account = objects.find(target)
    spec = request.get("spec") or {}
    seconds = int(spec.get("expirationSeconds") or _HOUR)
    if not _SHORTEST_TOKEN <= seconds <= _LONGEST_TOKEN:
        short = seconds < _SHORTEST_TOKEN
        why = f"may not specify a duration {'less than 10 minutes' if short else 'larger than 2^32 seconds'}"
        cause = statuses.invalid_value("spec.expirationSeconds", seconds, why)
        details = {"group": "authentication.k8s.io", "kind": "TokenRequest", "causes": [cause.as_dict()]}
        raise statuses.StatusError(
            422, "Invalid", f'TokenRequest.authentication.k8s.io "" is invalid: {cause}', details
        )
    pod: tuple[str, str] | None = None
    bound = spec.get("boundObjectRef") or {}
    if bound.get("kind") == "Pod":
        found = objects.store.get(("", "pods"), (target.namespace, bound.get("name", "")))
        if found is None:
            raise statuses.not_found("", "pods", bound.get("name", ""))
        uid = found.obj["metadata"]["uid"]
        if bound.get("uid") not in (None, "", uid):
            raise statuses.conflict("", "pods", bound["name"], "the UID in the bound object reference does not match")
        pod = (bound["name"], uid)
    token = identities.issue(target.namespace, target.name, account.obj["metadata"]["uid"], seconds, pod)
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {
            "name": target.name,
            "namespace": target.namespace,
            "creationTimestamp": objects.clock.timestamp(),
        },
        "spec": {
            "audiences": spec.get("audiences") or ["https://kubernetes.default.svc"],
            "expirationSeconds": seconds,
            "boundObjectRef": spec.get("boundObjectRef"),
        },
        "status": {"token": token, "expirationTimestamp": objects.clock.timestamp(seconds)},
    }


def finalize(objects: Objects, deletion: Deletion, target: Target, value: Object) -> Object:
    """Set a namespace's own finalizers (`spec.finalizers`)."""
    stored = objects.find(target)
    new = clone(stored.obj)
    wanted = (value.get("spec") or {}).get("finalizers")
    new["spec"] = {"finalizers": wanted} if wanted else {}
    deletion.amend(target, new)
    return new
