"""The columns of kinds that a local cluster only keeps: volumes, daemon sets, cron jobs, ingresses and the like.

Rows as in `columns`, which takes them in.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from supernode.local.machinery import cells
from supernode.local.machinery.cells import NONE, UNKNOWN, Cell, Obj, at, created, get, pairs, selector_text, since

Row = tuple[str, str, Cell, int]

_NAME: Final[Row] = ("Name", "string", at("metadata.name"), 0)
_AGE: Final[Row] = ("Age", "string", created, 0)
_ACCESS: Final = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}
_SHOWN: Final = 3  # endpoints that a cell names


def _access(path: str) -> Cell:
    return lambda obj, now: ",".join(_ACCESS.get(each, each) for each in get(obj, path, ()))


def _bound(path: str) -> Cell:
    """A claim's cell that is empty until a volume is bound."""
    return lambda obj, now: get(obj, path, "") if get(obj, "spec.volumeName") else ""


def _endpoints(obj: Obj, _now: datetime) -> str:
    found: list[str] = []
    for subset in obj.get("subsets") or ():
        ports: list[dict[str, Any]] = subset.get("ports") or [{}]
        for address in subset.get("addresses") or ():
            found += [f"{address['ip']}:{port['port']}" if port else address["ip"] for port in ports]
    more = f" + {len(found) - _SHOWN} more..." if len(found) > _SHOWN else ""
    return ",".join(found[:_SHOWN]) + more or NONE


def _amounts(prefix: str) -> Cell:
    """used/hard of a quota's limits, or of everything else."""

    def cell(obj: Obj, now: datetime) -> str:
        used = get(obj, "status.used", {})
        hard = get(obj, "status.hard", {})
        chosen = [name for name in sorted(hard) if name.startswith("limits") == (prefix == "limits")]
        return ", ".join(f"{name}: {used.get(name, 0)}/{hard[name]}" for name in chosen)

    return cell


def _hosts(obj: Obj, _now: datetime) -> str:
    found = [rule["host"] for rule in get(obj, "spec.rules", ()) if rule.get("host")]
    more = f" + {len(found) - _SHOWN} more..." if len(found) > _SHOWN else ""
    return ",".join(found[:_SHOWN]) + more or "*"


def _ingress_address(obj: Obj, _now: datetime) -> str:
    found = get(obj, "status.loadBalancer.ingress", ())
    return ",".join(each.get("ip") or each.get("hostname", "") for each in found)


def _suspended(obj: Obj, _now: datetime) -> str:
    value = get(obj, "spec.suspend")
    return NONE if value is None else str(bool(value))


def _last_schedule(obj: Obj, now: datetime) -> str:
    last = get(obj, "status.lastScheduleTime")
    return since(last, now) if last else NONE


def _targets(obj: Obj, _now: datetime) -> str:
    now_at = {
        get(each, "resource.name"): get(each, "resource.current.averageUtilization")
        for each in get(obj, "status.currentMetrics", ())
    }
    texts = []
    for each in get(obj, "spec.metrics", ()):
        name = get(each, "resource.name")
        wanted = get(each, "resource.target.averageUtilization")
        found = now_at.get(name)
        if name and wanted is not None:
            texts.append(f"{name}: {UNKNOWN if found is None else f'{found}%'}/{wanted}%")
    return ", ".join(texts) or NONE


def _least(obj: Obj, _now: datetime) -> str:
    return str(get(obj, "spec.minReplicas", "<unset>"))


def _containers(path: str, priority: int = 1) -> tuple[Row, ...]:
    return (
        ("Containers", "string", cells.containers(path, "name"), priority),
        ("Images", "string", cells.containers(path, "image"), priority),
    )


def _count(name: str, path: str) -> Row:
    return (name, "integer", at(path, 0), 0)


def _selector(path: str, *, plain: bool = False) -> Row:
    def cell(obj: Obj, now: datetime) -> Any:
        value = get(obj, path)
        return pairs(value) if plain else selector_text(value)

    return ("Selector", "string", cell, 1)


_WORKERS: Final = "spec.template.spec.containers"
CELLS: Final[dict[tuple[str, str], tuple[Row, ...]]] = {
    ("", "Endpoints"): (_NAME, ("Endpoints", "string", _endpoints, 0), _AGE),
    ("", "PersistentVolumeClaim"): (
        _NAME,
        ("Status", "string", at("status.phase"), 0),
        ("Volume", "string", at("spec.volumeName"), 0),
        ("Capacity", "string", _bound("status.capacity.storage"), 0),
        ("Access Modes", "string", _access("status.accessModes"), 0),
        ("StorageClass", "string", at("spec.storageClassName"), 0),
        ("VolumeAttributesClass", "string", at("spec.volumeAttributesClassName", "<unset>"), 0),
        _AGE,
        ("VolumeMode", "string", at("spec.volumeMode"), 1),
    ),
    ("", "PersistentVolume"): (
        _NAME,
        ("Capacity", "string", at("spec.capacity.storage"), 0),
        ("Access Modes", "string", _access("spec.accessModes"), 0),
        ("Reclaim Policy", "string", at("spec.persistentVolumeReclaimPolicy"), 0),
        ("Status", "string", at("status.phase"), 0),
        (
            "Claim",
            "string",
            lambda o, now: "/".join(
                filter(None, (get(o, "spec.claimRef.namespace", ""), get(o, "spec.claimRef.name", "")))
            ),
            0,
        ),
        ("StorageClass", "string", at("spec.storageClassName"), 0),
        ("VolumeAttributesClass", "string", at("spec.volumeAttributesClassName", "<unset>"), 0),
        ("Reason", "string", at("status.reason"), 0),
        _AGE,
        ("VolumeMode", "string", at("spec.volumeMode"), 1),
    ),
    ("", "ReplicationController"): (
        _NAME,
        _count("Desired", "spec.replicas"),
        _count("Current", "status.replicas"),
        _count("Ready", "status.readyReplicas"),
        _AGE,
        *_containers(_WORKERS),
        _selector("spec.selector", plain=True),
    ),
    ("", "ResourceQuota"): (
        _NAME,
        ("Request", "string", _amounts("requests"), 0),
        ("Limit", "string", _amounts("limits"), 0),
        _AGE,
    ),
    ("", "PodTemplate"): (
        _NAME,
        *_containers("template.spec.containers", 0),
        ("Pod Labels", "string", lambda o, now: pairs(get(o, "template.metadata.labels")), 0),
    ),
    ("apps", "DaemonSet"): (
        _NAME,
        _count("Desired", "status.desiredNumberScheduled"),
        _count("Current", "status.currentNumberScheduled"),
        _count("Ready", "status.numberReady"),
        _count("Up-to-date", "status.updatedNumberScheduled"),
        _count("Available", "status.numberAvailable"),
        ("Node Selector", "string", lambda o, now: pairs(get(o, "spec.template.spec.nodeSelector")), 0),
        _AGE,
        *_containers(_WORKERS),
        _selector("spec.selector"),
    ),
    ("batch", "CronJob"): (
        _NAME,
        ("Schedule", "string", at("spec.schedule"), 0),
        ("Timezone", "string", at("spec.timeZone", NONE), 0),
        ("Suspend", "boolean", _suspended, 0),
        ("Active", "integer", lambda o, now: len(get(o, "status.active", ())), 0),
        ("Last Schedule", "string", _last_schedule, 0),
        _AGE,
        *_containers("spec.jobTemplate.spec.template.spec.containers"),
        _selector("spec.jobTemplate.spec.selector"),
    ),
    ("networking.k8s.io", "Ingress"): (
        _NAME,
        ("Class", "string", at("spec.ingressClassName", NONE), 0),
        ("Hosts", "string", _hosts, 0),
        ("Address", "string", _ingress_address, 0),
        ("Ports", "string", lambda o, now: "80, 443" if get(o, "spec.tls") else "80", 0),
        _AGE,
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): (
        _NAME,
        (
            "Reference",
            "string",
            lambda o, now: f"{get(o, 'spec.scaleTargetRef.kind', '')}/{get(o, 'spec.scaleTargetRef.name', '')}",
            0,
        ),
        ("Targets", "string", _targets, 0),
        ("MinPods", "string", _least, 0),
        ("MaxPods", "string", at("spec.maxReplicas", 0), 0),
        ("Replicas", "string", at("status.currentReplicas", 0), 0),
        _AGE,
    ),
}
