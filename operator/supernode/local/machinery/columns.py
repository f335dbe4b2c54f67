"""The columns of the built-in kinds, in order.

A row of `CELLS` is (name, type, value, priority); `Name` has its place in it too, since it is not always first. Names,
order and priorities are facts of Kubernetes 1.37's own Table answers (checked by a test against the real server).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from supernode.local.machinery import cells, kept_columns
from supernode.local.machinery.cells import (
    NONE,
    UNKNOWN,
    Cell,
    Obj,
    at,
    created,
    created_at,
    duration,
    get,
    moment,
    pairs,
    selector_text,
    since,
)

Row = tuple[str, str, Cell, int]


def _workload(path: str = "spec.template.spec.containers") -> tuple[Row, ...]:
    return (
        ("Containers", "string", cells.containers(path, "name"), 1),
        ("Images", "string", cells.containers(path, "image"), 1),
    )


_SELECTOR: Final[Row] = ("Selector", "string", lambda obj, now: selector_text(get(obj, "spec.selector")), 1)
_AGE: Final[Row] = ("Age", "string", created, 0)
_NAME: Final[Row] = ("Name", "string", at("metadata.name"), 0)


def _kernel(obj: Obj, _now: datetime) -> str:
    version, architecture = get(obj, "status.nodeInfo.kernelVersion"), get(obj, "status.nodeInfo.architecture")
    return f"{version} ({architecture})" if version and architecture else version or UNKNOWN


def _service_ports(obj: Obj, _now: datetime) -> str:
    texts = []
    for port in get(obj, "spec.ports", ()):
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        texts.append(f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}")
    return ",".join(texts) or NONE


def _external(obj: Obj, _now: datetime) -> str:
    own = get(obj, "spec.externalIPs", [])
    if get(obj, "spec.type") == "LoadBalancer":
        given = [i.get("ip") or i.get("hostname", "") for i in get(obj, "status.loadBalancer.ingress", ())] + own
        return ",".join(given) or "<pending>"
    if get(obj, "spec.type") == "ExternalName":
        return str(get(obj, "spec.externalName", ""))
    return ",".join(own) or NONE


def _ready_of(obj: Obj, _now: datetime) -> str:
    return f"{get(obj, 'status.readyReplicas', 0)}/{get(obj, 'spec.replicas', 0)}"


def _event_object(path: str) -> Cell:
    return lambda obj, now: f"{str(get(obj, f'{path}.kind', '')).lower()}/{get(obj, f'{path}.name', '')}"


def _event_source(obj: Obj, _now: datetime) -> str:
    component = get(obj, "source.component") or get(obj, "reportingComponent") or get(obj, "reportingController", "")
    host = get(obj, "source.host") or get(obj, "reportingInstance", "")
    return f"{component}, {host}" if host else str(component)


def _event_last(obj: Obj, now: datetime) -> str:
    times = ("series.lastObservedTime", "lastTimestamp", "deprecatedLastTimestamp", "eventTime")
    return since(next((get(obj, path) for path in times if get(obj, path)), None), now)


def _event_first(obj: Obj, now: datetime) -> str:
    times = ("firstTimestamp", "deprecatedFirstTimestamp", "eventTime")
    return since(next((get(obj, path) for path in times if get(obj, path)), None), now)


def _event_count(obj: Obj, _now: datetime) -> int:
    return int(get(obj, "series.count") or get(obj, "count") or get(obj, "deprecatedCount") or 1)


def _event(target: str, message: str) -> tuple[Row, ...]:
    return (
        ("Last Seen", "string", _event_last, 0),
        ("Type", "string", at("type"), 0),
        ("Reason", "string", at("reason"), 0),
        ("Object", "string", _event_object(target), 0),
        ("Subobject", "string", at(f"{target}.fieldPath"), 1),
        ("Source", "string", _event_source, 1),
        ("Message", "string", lambda obj, now: str(get(obj, message, "")).strip(), 0),
        ("First Seen", "string", _event_first, 1),
        ("Count", "string", _event_count, 1),
        ("Name", "string", at("metadata.name"), 1),
    )


def _job_status(obj: Obj, _now: datetime) -> str:
    true = [c.get("type") for c in get(obj, "status.conditions", ()) if c.get("status") == "True"]
    for name, text in (("Complete", "Complete"), ("Failed", "Failed")):
        if name in true:
            return text
    if get(obj, "metadata.deletionTimestamp"):
        return "Terminating"
    for name in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if name in true:
            return name
    return "Running"


def _job_completions(obj: Obj, _now: datetime) -> str:
    done, wanted, parallel = (
        get(obj, "status.succeeded", 0),
        get(obj, "spec.completions"),
        get(obj, "spec.parallelism", 0),
    )
    if wanted is not None:
        return f"{done}/{wanted}"
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _job_duration(obj: Obj, now: datetime) -> str:
    start, end = moment(get(obj, "status.startTime")), moment(get(obj, "status.completionTime"))
    return duration(((end or now) - start).total_seconds()) if start else ""


def _crd_versions(obj: Obj, _now: datetime) -> str:
    versions = get(obj, "spec.versions", ())
    return ",".join(v.get("name", "") + ("(storage)" if v.get("storage") else "") for v in versions)


def _subjects(kind: str) -> Cell:
    def cell(obj: Obj, now: datetime) -> str:
        found = [s for s in obj.get("subjects") or () if s.get("kind") == kind]
        names = (
            f"{s.get('namespace', '')}/{s.get('name', '')}" if kind == "ServiceAccount" else s.get("name", "")
            for s in found
        )
        return ",".join(names)

    return cell


def _slice_ports(obj: Obj, _now: datetime) -> str:
    ports = [str(p["port"]) if p.get("port") is not None else "*" for p in obj.get("ports") or ()]
    return ",".join(ports[:3]) + (f" + {len(ports) - 3} more..." if len(ports) > 3 else "") or "<unset>"


def _slice_endpoints(obj: Obj, _now: datetime) -> str:
    found = [address for endpoint in obj.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    return ",".join(found[:3]) + (f" + {len(found) - 3} more..." if len(found) > 3 else "") or "<unset>"


def _data(obj: Obj, _now: datetime) -> int:
    return len(obj.get("data") or {}) + len(obj.get("binaryData") or {})


def _available(path: str) -> Cell:
    return lambda obj, now: "N/A" if get(obj, path) is None else str(get(obj, path))


_ROLE_REF: Final[Row] = (
    "Role",
    "string",
    lambda o, now: f"{get(o, 'roleRef.kind', '')}/{get(o, 'roleRef.name', '')}",
    0,
)
_BINDING: Final[tuple[Row, ...]] = (
    _NAME,
    _ROLE_REF,
    _AGE,
    ("Users", "string", _subjects("User"), 1),
    ("Groups", "string", _subjects("Group"), 1),
    ("ServiceAccounts", "string", _subjects("ServiceAccount"), 1),
)

CELLS: Final[dict[tuple[str, str], tuple[Row, ...]]] = {
    **kept_columns.CELLS,
    ("", "Node"): (
        _NAME,
        ("Status", "string", cells.node_status, 0),
        ("Roles", "string", cells.node_roles, 0),
        _AGE,
        ("Version", "string", at("status.nodeInfo.kubeletVersion"), 0),
        ("Internal-IP", "string", cells.address("InternalIP"), 1),
        ("External-IP", "string", cells.address("ExternalIP"), 1),
        ("OS-Image", "string", lambda o, now: get(o, "status.nodeInfo.osImage") or UNKNOWN, 1),
        ("Kernel-Version", "string", _kernel, 1),
        ("Container-Runtime", "string", lambda o, now: get(o, "status.nodeInfo.containerRuntimeVersion") or UNKNOWN, 1),
    ),
    ("", "Pod"): (
        _NAME,
        ("Ready", "string", cells.pod_ready, 0),
        ("Status", "string", cells.pod_status, 0),
        ("Restarts", "string", cells.pod_restarts, 0),
        _AGE,
        ("IP", "string", at("status.podIP", NONE), 1),
        ("Node", "string", at("spec.nodeName", NONE), 1),
        ("Nominated Node", "string", at("status.nominatedNodeName", NONE), 1),
        ("Readiness Gates", "string", lambda o, now: NONE, 1),
    ),
    ("", "Service"): (
        _NAME,
        ("Type", "string", at("spec.type"), 0),
        ("Cluster-IP", "string", at("spec.clusterIP", NONE), 0),
        ("External-IP", "string", _external, 0),
        ("Port(s)", "string", _service_ports, 0),
        _AGE,
        ("Selector", "string", lambda o, now: pairs(get(o, "spec.selector")), 1),
    ),
    ("", "Event"): _event("involvedObject", "message"),
    ("events.k8s.io", "Event"): _event("regarding", "note"),
    ("", "ConfigMap"): (_NAME, ("Data", "string", _data, 0), _AGE),
    ("", "Secret"): (_NAME, ("Type", "string", at("type"), 0), ("Data", "string", _data, 0), _AGE),
    ("", "Namespace"): (_NAME, ("Status", "string", at("status.phase"), 0), _AGE),
    ("", "ServiceAccount"): (_NAME, _AGE),
    ("coordination.k8s.io", "Lease"): (_NAME, ("Holder", "string", at("spec.holderIdentity"), 0), _AGE),
    ("apps", "Deployment"): (
        _NAME,
        ("Ready", "string", _ready_of, 0),
        ("Up-to-date", "string", at("status.updatedReplicas", 0), 0),
        ("Available", "string", at("status.availableReplicas", 0), 0),
        _AGE,
        *_workload(),
        _SELECTOR,
    ),
    ("apps", "ReplicaSet"): (
        _NAME,
        ("Desired", "integer", at("spec.replicas", 0), 0),
        ("Current", "integer", at("status.replicas", 0), 0),
        ("Ready", "integer", at("status.readyReplicas", 0), 0),
        _AGE,
        *_workload(),
        _SELECTOR,
    ),
    ("apps", "StatefulSet"): (_NAME, ("Ready", "string", _ready_of, 0), _AGE, *_workload()),
    ("batch", "Job"): (
        _NAME,
        ("Status", "string", _job_status, 0),
        ("Completions", "string", _job_completions, 0),
        ("Duration", "string", _job_duration, 0),
        _AGE,
        *_workload(),
        _SELECTOR,
    ),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): (
        _NAME,
        ("Scope", "string", at("spec.scope"), 0),
        ("Versions", "string", _crd_versions, 0),
        ("Created At", "date", created_at, 0),
        ("Group", "string", at("spec.group"), 1),
        ("Kind", "string", at("spec.names.kind"), 1),
        ("ShortNames", "string", lambda o, now: ",".join(get(o, "spec.names.shortNames", ())), 1),
        ("Established", "boolean", lambda o, now: _condition(o, "Established"), 1),
    ),
    ("rbac.authorization.k8s.io", "RoleBinding"): _BINDING,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): _BINDING,
    ("policy", "PodDisruptionBudget"): (
        _NAME,
        ("Min Available", "string", _available("spec.minAvailable"), 0),
        ("Max Unavailable", "string", _available("spec.maxUnavailable"), 0),
        ("Allowed Disruptions", "integer", at("status.disruptionsAllowed", 0), 0),
        _AGE,
    ),
    ("scheduling.k8s.io", "PriorityClass"): (
        _NAME,
        ("Value", "integer", at("value", 0), 0),
        ("Global-Default", "boolean", at("globalDefault", False), 0),
        _AGE,
        ("PreemptionPolicy", "string", at("preemptionPolicy"), 0),
    ),
    ("discovery.k8s.io", "EndpointSlice"): (
        _NAME,
        ("AddressType", "string", at("addressType"), 0),
        ("Ports", "string", _slice_ports, 0),
        ("Endpoints", "string", _slice_endpoints, 0),
        _AGE,
    ),
    ("networking.k8s.io", "NetworkPolicy"): (
        _NAME,
        ("Pod-Selector", "string", lambda o, now: selector_text(get(o, "spec.podSelector")), 0),
        _AGE,
    ),
}


def _condition(obj: Obj, name: str) -> bool:
    return any(c.get("type") == name and c.get("status") == "True" for c in get(obj, "status.conditions", ()))
