"""Kinds with one or two rules each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from supernode.local.machinery.refusals import Cause
from supernode.local.server import statuses
from supernode.local.server.rules.core import check_keys
from supernode.local.server.rules.plain import Cluster, Rules
from supernode.local.server.statuses import Object
from supernode.local.server.tree import clone
from supernode.local.server.views import keep_event, show_event

# What an event with a time of its own must say, beside its controller.
_REPORTED = ("reportingInstance", "action", "reason")


class ConfigMapRules(Rules):
    """Config maps: a key stands once, and immutable ones stay."""

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Keys of data and binaryData, immutability."""
        causes = check_keys(new.get("data"), "data") + check_keys(new.get("binaryData"), "binaryData")
        for key in new.get("binaryData") or {}:
            if key in (new.get("data") or {}):
                causes.append(
                    Cause("FieldValueInvalid", "Invalid value: duplicate of key present in data", f"binaryData[{key}]")
                )
        if old is not None and old.get("immutable"):
            for name in ("data", "binaryData"):
                if new.get(name) != old.get(name):
                    causes.append(statuses.forbidden_value(name, "field is immutable when `immutable` is set"))
            if not new.get("immutable"):
                causes.append(statuses.forbidden_value("immutable", "field is immutable when `immutable` is set"))
        return causes


class EventRules(Rules):
    """Events live in the namespace of what they are about.

    Args:
        strict: as events.k8s.io/v1, which demands who reports what, and lets nothing of it change.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """Fields that are always written, even empty."""
        blank = show_event({}) if self._strict else keep_event({})
        for name, value in blank.items():
            new.setdefault(name, value)

    def _demands(self, new: Object, old: Object | None) -> list[Cause]:
        if old is not None:
            return [
                statuses.invalid_value(name, new.get(shown), "field is immutable")
                for name, shown in (
                    ("involvedObject", "regarding"),
                    ("reason", "reason"),
                    ("message", "note"),
                    ("source", "deprecatedSource"),
                    ("count", "deprecatedCount"),
                    ("type", "type"),
                )
                if new.get(shown) != old.get(shown)
            ]
        causes = [] if new.get("eventTime") else [statuses.required("eventTime")]
        kind = new.get("type", "")
        if kind not in ("Normal", "Warning"):
            causes.append(statuses.invalid_value("type", kind, f"has invalid value: {kind}"))
        return causes

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Namespaces must agree."""
        about = new.get("involvedObject") or new.get("regarding") or {}
        home, given = new["metadata"].get("namespace", ""), about.get("namespace", "")
        if old is None and given != home and not (not given and home == "default"):
            field = "involvedObject.namespace"
            return [statuses.invalid_value(field, given, "does not match event.namespace")]
        causes = []
        reporter = "reportingController" if self._strict else "reportingComponent"
        if old is None and new.get("eventTime"):
            for name, shown in ((reporter, "reportingController"), *((each, each) for each in _REPORTED)):
                if not new.get(name):
                    causes.append(statuses.required(shown))
        return causes + (self._demands(new, old) if self._strict else [])


class BindingRules(Rules):
    """Role bindings: defaults of subjects, and the role that stays."""

    def default(self, new: Object) -> None:
        """API groups of subjects and role."""
        group = "rbac.authorization.k8s.io"
        (new.get("roleRef") or {}).setdefault("apiGroup", group)
        for subject in new.get("subjects") or ():
            if subject.get("kind") in ("User", "Group"):
                subject.setdefault("apiGroup", group)

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """The role cannot be changed."""
        if old is not None and new.get("roleRef") != old.get("roleRef"):
            return [statuses.invalid_value("roleRef", new.get("roleRef"), "cannot change roleRef")]
        return ()


class PriorityClassRules(Rules):
    """Priority classes."""

    def default(self, new: Object) -> None:
        """The preemption policy is always written."""
        new.setdefault("preemptionPolicy", "PreemptLowerPriority")

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Values above a billion are the system's; a value stays."""
        value = new.get("value", 0)
        if old is not None and value != old.get("value", 0):
            return [statuses.forbidden_value("value", "may not be changed in an update.")]
        if value > 1_000_000_000 and not new["metadata"]["name"].startswith("system-"):
            why = "maximum allowed value of a user defined priority is 1000000000"
            return [statuses.forbidden_value("value", why)]
        return ()


class BudgetRules(Rules):
    """Disruption budgets: one bound, as a number or a share."""

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """The first status."""
        if old is None:
            names = ("currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods")
            new["status"] = dict.fromkeys(names, 0)

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """minAvailable or maxUnavailable, zero or more."""
        spec = new.get("spec") or {}
        least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
        if least is not None and most is not None:
            shown = {"MinAvailable": least, "Selector": spec.get("selector"), "MaxUnavailable": most}
            shown["UnhealthyPodEvictionPolicy"] = spec.get("unhealthyPodEvictionPolicy")
            return [statuses.invalid_value("spec", shown, "minAvailable and maxUnavailable cannot be both set")]
        return [*_share("spec.minAvailable", least), *_share("spec.maxUnavailable", most)]


def _share(field: str, value: Any) -> list[Cause]:
    if isinstance(value, int) and value < 0:
        return [statuses.invalid_value(field, value, "must be greater than or equal to 0")]
    if isinstance(value, str) and not re.fullmatch(r"[0-9]+%", value):
        why = (
            "a valid percent string must be a numeric string followed by an ending '%' "
            "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
        )
        return [statuses.invalid_value(field, value, why)]
    return []


class StatusRules(Rules):
    """A kind that is kept and not acted upon: it only gets its first status.

    Args:
        status: what it is.
    """

    def __init__(self, status: Object) -> None:
        self._status = status

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """The first status."""
        if old is None:
            new["status"] = clone(self._status)


class NetworkPolicyRules(Rules):
    """Network policies: kept, not enforced."""

    def default(self, new: Object) -> None:
        """Which directions a policy is about."""
        spec = new.setdefault("spec", {})
        spec.setdefault("policyTypes", ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])


class ClaimRules(Rules):
    """Persistent volume claims: kept, never bound."""

    def default(self, new: Object) -> None:
        """How the volume is used."""
        new.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """First status."""
        if old is None:
            new["status"] = {"phase": "Pending"}
