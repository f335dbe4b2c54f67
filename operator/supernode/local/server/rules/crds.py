"""Custom resource definitions, and the resources they define."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from supernode.local.machinery import crd
from supernode.local.machinery.refusals import Cause, InvalidError
from supernode.local.server import statuses
from supernode.local.server.rules.plain import Cluster, Rules
from supernode.local.server.statuses import Object

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


class DefinitionRules(Rules):
    """CRDs: checked and completed by the machinery; accepted names and establishment are part of the write."""

    def default(self, new: Object) -> None:
        """Names that follow from others, and no conversion."""
        filled = crd.with_defaults(new)
        new.clear()
        new.update(filled)

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """Names, stored versions and conditions, as a real server's controllers would set them a moment later."""
        if old is None:
            new["status"] = {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []}
        finalizers = new["metadata"].setdefault("finalizers", [])
        if CLEANUP not in finalizers and not new["metadata"].get("deletionTimestamp"):
            finalizers.append(CLEANUP)
        establish(new, cluster)

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Structural schemas, names, versions."""
        try:
            crd.validate(new, old)
        except InvalidError as exc:
            return exc.causes
        return ()


def establish(definition: Object, cluster: Cluster) -> None:
    """Write the status that says the names are taken and the resources are served."""
    spec, status = definition.get("spec") or {}, definition.setdefault("status", {})
    now = cluster.clock.timestamp()
    status["acceptedNames"] = dict(spec.get("names") or {})
    stored = status.setdefault("storedVersions", [])
    for version in spec.get("versions") or ():
        if isinstance(version, dict) and version.get("storage") and version.get("name") not in stored:
            stored.append(version.get("name"))
    wanted = (
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    )
    conditions: list[Any] = status.setdefault("conditions", [])
    generation = definition["metadata"].get("generation", 1)
    for kind, reason, message in wanted:
        if not any(each.get("type") == kind for each in conditions):
            conditions.append(
                {
                    "type": kind,
                    "status": "True",
                    "lastTransitionTime": now,
                    "reason": reason,
                    "message": message,
                    "observedGeneration": generation,
                }
            )


class CustomRules(Rules):
    """Custom resources.

    Args:
        with_status: the version has a status subresource, which then does not count as asking for something.
        scale: the version's scale subresource.
    """

    keeps_status = False

    def __init__(self, with_status: bool, scale: Object | None) -> None:
        self._ignored = {"metadata", "apiVersion", "kind"} | ({"status"} if with_status else set())
        self._scale = scale or {}

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Replicas are not negative, whatever the schema says."""
        causes = []
        for path in filter(None, (self._scale.get("specReplicasPath"), self._scale.get("statusReplicasPath"))):
            value: Any = new
            for step in path.lstrip(".").split("."):
                value = value.get(step) if isinstance(value, dict) else None
            if isinstance(value, int) and value < 0:
                causes.append(statuses.invalid_value(path, value, "should be a non-negative integer"))
        return causes

    def asks_more(self, new: Object, old: Object) -> bool:
        """Everything but metadata counts, and status where it is no subresource."""
        return {key: new[key] for key in new if key not in self._ignored} != {
            key: old[key] for key in old if key not in self._ignored
        }
