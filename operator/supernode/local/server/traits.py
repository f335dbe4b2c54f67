"""How the server treats each resource beyond its schema: a table, one row per resource that differs from the usual.

The facts (who counts generations, who may be created by an update, what a delete answers, which fields a selector may
name) were read off kube-apiserver 1.37 by trying each; `tests/conformance` tries them again on both servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from supernode.local.server.statuses import Object
from supernode.local.server.store import ResourceKey
from supernode.local.server.views import EVENTS, View, regarding, reporter

# Fields that every resource can be selected by.
COMMON_FIELDS: Final = frozenset({"metadata.name", "metadata.namespace"})


@dataclass(frozen=True)
class Traits:
    """One resource's habits."""

    generation: bool = False  # metadata.generation counts changes of what the user asks for
    upsert: bool = False  # an update of an absent object creates it
    needs_version: bool = False  # an update without resourceVersion is refused
    answers_object: bool = False  # a delete answers with the object, not with a Status
    orphans: bool = False  # dependents stay unless a delete says otherwise
    orphaning: str = ""  # said with a delete that does not say what becomes of dependents
    fields: frozenset[str] = COMMON_FIELDS
    readers: Mapping[str, Callable[[Object], str]] = field(default_factory=dict)
    name_rule: str = "subdomain"
    warning: str = ""  # said with every answer
    view: View | None = None  # how its objects differ from what is stored


def _event_source(obj: Object) -> str:
    source: Mapping[str, Any] = obj.get("source") or {}
    return str(source.get("component") or obj.get("reportingComponent") or "")


def _fields(*names: str) -> frozenset[str]:
    return COMMON_FIELDS | frozenset(names)


_POD = _fields(
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
)
_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_EVENT = _fields(
    *(f"involvedObject.{each}" for each in _INVOLVED),
    "reason",
    "reportingComponent",
    "source",
    "type",
)
_REGARDING = _fields(*(f"regarding.{each}" for each in _INVOLVED), "reason", "reportingController", "type")

TRAITS: Final[Mapping[ResourceKey, Traits]] = {
    ("", "endpoints"): Traits(
        upsert=True, warning="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
    ),
    ("", "events"): Traits(upsert=True, fields=_EVENT, readers={"source": _event_source}),
    ("events.k8s.io", "events"): Traits(
        upsert=True,
        fields=_REGARDING,
        readers={**{f"regarding.{each}": regarding(each) for each in _INVOLVED}, "reportingController": reporter},
        view=EVENTS,
    ),
    ("", "limitranges"): Traits(upsert=True),
    ("", "namespaces"): Traits(
        answers_object=True,
        fields=_fields("status.phase", "name"),
        readers={"name": lambda obj: str(obj["metadata"]["name"])},
        name_rule="label",
    ),
    ("", "nodes"): Traits(
        fields=_fields("spec.unschedulable"),
        readers={"spec.unschedulable": lambda obj: str(bool((obj.get("spec") or {}).get("unschedulable"))).lower()},
    ),
    ("", "persistentvolumes"): Traits(answers_object=True),
    ("", "persistentvolumeclaims"): Traits(answers_object=True),
    ("", "pods"): Traits(
        generation=True,
        answers_object=True,
        fields=_POD,
        readers={"spec.hostNetwork": lambda obj: str(bool((obj.get("spec") or {}).get("hostNetwork"))).lower()},
    ),
    ("", "podtemplates"): Traits(answers_object=True),
    ("", "replicationcontrollers"): Traits(generation=True, orphans=True, fields=_fields("status.replicas")),
    ("", "resourcequotas"): Traits(answers_object=True),
    ("", "secrets"): Traits(fields=_fields("type")),
    ("", "serviceaccounts"): Traits(answers_object=True),
    ("", "services"): Traits(
        upsert=True, answers_object=True, fields=_fields("spec.clusterIP", "spec.type"), name_rule="label"
    ),
    ("apps", "daemonsets"): Traits(generation=True),
    ("apps", "deployments"): Traits(generation=True),
    ("apps", "replicasets"): Traits(generation=True, fields=_fields("status.replicas")),
    ("apps", "statefulsets"): Traits(generation=True),
    ("batch", "jobs"): Traits(
        generation=True,
        orphans=True,
        orphaning="child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to "
        "remove them or set propagationPolicy=Orphan to suppress this warning",
        fields=_fields("status.successful"),
    ),
    ("batch", "cronjobs"): Traits(generation=True),
    ("coordination.k8s.io", "leases"): Traits(upsert=True, needs_version=True),
    ("discovery.k8s.io", "endpointslices"): Traits(generation=True),
    ("networking.k8s.io", "ingresses"): Traits(generation=True),
    ("networking.k8s.io", "networkpolicies"): Traits(generation=True),
    ("policy", "poddisruptionbudgets"): Traits(generation=True, needs_version=True),
    ("rbac.authorization.k8s.io", "roles"): Traits(upsert=True, name_rule="path"),
    ("rbac.authorization.k8s.io", "rolebindings"): Traits(upsert=True, name_rule="path"),
    ("rbac.authorization.k8s.io", "clusterroles"): Traits(upsert=True, name_rule="path"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"): Traits(upsert=True, name_rule="path"),
    ("scheduling.k8s.io", "priorityclasses"): Traits(generation=True),
    ("apiextensions.k8s.io", "customresourcedefinitions"): Traits(
        generation=True, answers_object=True, needs_version=True
    ),
}
PLAIN: Final = Traits()
CUSTOM: Final = Traits(generation=True, needs_version=True)

# Resources that are two views of one store.
ALIASES: Final[Mapping[ResourceKey, ResourceKey]] = {("events.k8s.io", "events"): ("", "events")}
