"""Deployments, replica sets, stateful sets, daemon sets, jobs: their defaults, and the selector that must not change.

The server only keeps them; who makes their pods is not its business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from supernode.local.machinery.refusals import Cause
from supernode.local.server import selection, statuses
from supernode.local.server.rules.plain import Cluster, Rules
from supernode.local.server.rules.pods import check_spec, default_spec
from supernode.local.server.statuses import Object


def _fill(spec: Object, **defaults: Any) -> None:
    for name, value in defaults.items():
        spec.setdefault(name, value)


def _template(spec: Object) -> None:
    template = spec.setdefault("template", {})
    template.setdefault("metadata", {})
    default_spec(template.setdefault("spec", {}))


def not_negative(spec: Object, *names: str) -> list[Cause]:
    """Counts and times of a spec are zero or more."""
    why = "must be greater than or equal to 0"
    return [
        statuses.invalid_value(f"spec.{name}", spec[name], why)
        for name in names
        if isinstance(spec.get(name), int) and spec[name] < 0
    ]


class _SelectorRules(Rules):
    """What every workload with a selector and a template shares."""

    def defaults(self, spec: Object) -> None:
        """Defaults of the kind's own fields."""

    def default(self, new: Object) -> None:
        """Defaults of the kind's own fields and of the template."""
        spec = new.setdefault("spec", {})
        self.defaults(spec)
        _template(spec)

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """The status starts empty."""
        if old is None:
            new["status"] = self.first_status()

    def first_status(self) -> Object:
        """What the status is before any controller has seen the object."""
        return {}

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """The selector must choose the template's labels, and stay."""
        spec = new["spec"]
        causes = not_negative(spec, "replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
        selector = spec.get("selector") or {}
        labels = (spec["template"].get("metadata") or {}).get("labels") or {}
        if not selector:
            causes.append(statuses.required("spec.selector"))
        if not selector or not selection.chooses(selector, spec["template"]):
            why = "`selector` does not match template `labels`"
            causes.append(statuses.invalid_value("spec.template.metadata.labels", labels, why))
        if old is not None and selector != old["spec"].get("selector"):
            causes.append(statuses.invalid_value("spec.selector", selector, "field is immutable"))
        return causes + check_spec(spec["template"]["spec"], "spec.template.spec")


class DeploymentRules(_SelectorRules):
    """Deployments."""

    def asks_more(self, new: Object, old: Object) -> bool:
        """Annotations count too: a deployment hands them on to its replica sets."""
        return super().asks_more(new, old) or new["metadata"].get("annotations") != old["metadata"].get("annotations")

    def defaults(self, spec: Object) -> None:
        """One replica, rolling update by a quarter."""
        _fill(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
        strategy = spec.setdefault("strategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            _fill(strategy.setdefault("rollingUpdate", {}), maxUnavailable="25%", maxSurge="25%")


class ControllerRules(Rules):
    """Replication controllers: selector and labels come from the template."""

    def default(self, new: Object) -> None:
        """Defaults of the spec."""
        spec = new.setdefault("spec", {})
        _fill(spec, replicas=1)
        _template(spec)
        labels = spec["template"]["metadata"].get("labels") or {}
        if labels and not spec.get("selector"):
            spec["selector"] = dict(labels)
        if labels and not new["metadata"].get("labels"):
            new["metadata"]["labels"] = dict(labels)

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """No replicas yet."""
        if old is None:
            new["status"] = {"replicas": 0}

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Counts."""
        return not_negative(new["spec"], "replicas", "minReadySeconds")


class ReplicaSetRules(_SelectorRules):
    """Replica sets."""

    def defaults(self, spec: Object) -> None:
        """One replica."""
        _fill(spec, replicas=1)

    def first_status(self) -> Object:
        """No replicas yet."""
        return {"replicas": 0}


class StatefulSetRules(_SelectorRules):
    """Stateful sets."""

    def defaults(self, spec: Object) -> None:
        """One replica, in order."""
        _fill(spec, replicas=1, podManagementPolicy="OrderedReady", revisionHistoryLimit=10)
        update = spec.setdefault("updateStrategy", {})
        if update.setdefault("type", "RollingUpdate") == "RollingUpdate":
            _fill(update.setdefault("rollingUpdate", {}), partition=0, maxUnavailable=1)
        _fill(spec.setdefault("persistentVolumeClaimRetentionPolicy", {}), whenDeleted="Retain", whenScaled="Retain")

    def first_status(self) -> Object:
        """No replicas yet."""
        return {"replicas": 0, "availableReplicas": 0}


class DaemonSetRules(_SelectorRules):
    """Daemon sets."""

    def default(self, new: Object) -> None:
        """Defaults, and an annotation that old clients look for."""
        super().default(new)
        annotations = new["metadata"].get("annotations") or {}
        new["metadata"]["annotations"] = {"deprecated.daemonset.template.generation": "1", **annotations}

    def defaults(self, spec: Object) -> None:
        """One pod at a time is replaced."""
        _fill(spec, revisionHistoryLimit=10)
        update = spec.setdefault("updateStrategy", {})
        if update.setdefault("type", "RollingUpdate") == "RollingUpdate":
            _fill(update.setdefault("rollingUpdate", {}), maxUnavailable=1, maxSurge=0)

    def first_status(self) -> Object:
        """Nothing scheduled yet."""
        names = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady")
        return dict.fromkeys(names, 0)


def default_job(spec: Object) -> None:
    """Defaults of a job's spec."""
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    _fill(spec, parallelism=1, backoffLimit=6, completionMode="NonIndexed", suspend=False)
    policy = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    _fill(spec, podReplacementPolicy=policy, manualSelector=False)
    _template(spec)


class JobRules(Rules):
    """Jobs: the selector is made from the object's uid."""

    def default(self, new: Object) -> None:
        """Defaults of the spec."""
        default_job(new.setdefault("spec", {}))

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """Selector and labels of the pods."""
        spec = new["spec"]
        if old is not None or spec.get("manualSelector"):
            return
        new["status"] = {}
        uid, name = new["metadata"]["uid"], new["metadata"]["name"]
        labels = spec["template"]["metadata"].setdefault("labels", {})
        for key, value in (("controller-uid", uid), ("job-name", name)):
            labels[key] = value
            labels[f"batch.kubernetes.io/{key}"] = value
        if not new["metadata"].get("labels"):
            new["metadata"]["labels"] = dict(labels)
        spec.setdefault("selector", {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Pods of a job end; the template stays."""
        spec = new["spec"]
        causes = not_negative(
            spec, "parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"
        )
        causes += check_spec(spec["template"]["spec"], "spec.template.spec")
        if spec["template"]["spec"].get("restartPolicy") == "Always":
            allowed = ("OnFailure", "Never")
            causes.append(statuses.not_supported("spec.template.spec.restartPolicy", "Always", allowed))
        if old is not None and spec["template"] != old["spec"]["template"] and not old["spec"].get("suspend"):
            causes.append(Cause("FieldValueInvalid", "Invalid value: field is immutable", "spec.template"))
        return causes


class CronJobRules(Rules):
    """Cron jobs."""

    def default(self, new: Object) -> None:
        """Defaults of the spec."""
        spec = new.setdefault("spec", {})
        _fill(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
        template = spec.setdefault("jobTemplate", {})
        template.setdefault("metadata", {})
        inner = template.setdefault("spec", {})
        _template(inner)

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """The status starts empty."""
        if old is None:
            new["status"] = {}
