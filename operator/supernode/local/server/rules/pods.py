"""Pods: the defaults that `kubectl get -o yaml` shows, quality of service, priority, and what may not change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from supernode.local.machinery.refusals import Cause
from supernode.local.server import statuses
from supernode.local.server.rules.plain import Cluster, Rules
from supernode.local.server.statuses import Object

_FILE_MODE: Final = 420  # 0644
_LISTS: Final = ("initContainers", "containers")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NAME_RULE: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    f"'{_NAME.pattern}')"
)
_SYSTEM_PRIORITIES: Final = {"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}
# What an update of a pod may change.
_MUTABLE: Final = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations")
_CHANGED: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def containers(spec: Object) -> Iterator[tuple[str, Object]]:
    """Every container of a pod spec with its path below `spec`."""
    for name in _LISTS:
        for index, container in enumerate(spec.get(name) or ()):
            yield f"{name}[{index}]", container


def _pull_policy(image: str) -> str:
    name = image.rpartition("/")[2]
    if "@" in name:
        return "IfNotPresent"
    return "Always" if name.partition(":")[2] in ("", "latest") else "IfNotPresent"


def _default_probe(probe: Object) -> None:
    for key, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        probe.setdefault(key, value)
    if "httpGet" in probe:
        probe["httpGet"].setdefault("path", "/")
        probe["httpGet"].setdefault("scheme", "HTTP")
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _default_container(container: Object) -> None:
    container.setdefault("imagePullPolicy", _pull_policy(str(container.get("image", ""))))
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    limits = resources.get("limits")
    if limits:
        resources["requests"] = {**limits, **(resources.get("requests") or {})}
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(name), dict):
            _default_probe(container[name])


def _default_volume(volume: Object) -> None:
    if set(volume) <= {"name"}:
        volume["emptyDir"] = {}
    for name in ("secret", "configMap", "downwardAPI", "projected"):
        if isinstance(volume.get(name), dict):
            volume[name].setdefault("defaultMode", _FILE_MODE)
    for item in (volume.get("downwardAPI") or {}).get("items") or ():
        if "fieldRef" in item:
            item["fieldRef"].setdefault("apiVersion", "v1")
    for source in (volume.get("projected") or {}).get("sources") or ():
        if "serviceAccountToken" in source:
            source["serviceAccountToken"].setdefault("expirationSeconds", 3600)
        for item in (source.get("downwardAPI") or {}).get("items") or ():
            if "fieldRef" in item:
                item["fieldRef"].setdefault("apiVersion", "v1")
    if isinstance(volume.get("hostPath"), dict):
        volume["hostPath"].setdefault("type", "")


def default_spec(spec: Object) -> None:
    """Defaults of a pod spec, whether in a pod or in a template."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    if spec.get("serviceAccountName"):
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for _, container in containers(spec):
        _default_container(container)
    for volume in spec.get("volumes") or ():
        _default_volume(volume)


def quality(spec: Object) -> str:
    """Quality of service class: from the requests and limits of cpu and memory."""
    requests: set[str] = set()
    guaranteed, any_set = True, False
    for _, container in containers(spec):
        resources = container.get("resources") or {}
        limits, asked = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            if name in asked or name in limits:
                any_set = True
                requests.add(name)
            if name not in limits or str(asked.get(name, limits[name])) != str(limits[name]):
                guaranteed = False
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _tolerations(spec: Object) -> None:
    tolerations: list[Any] = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        covers = any(
            each.get("key") in (key, None, "") and each.get("effect") in ("NoExecute", None, "") for each in tolerations
        )
        if not covers:
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            )


def _priority(spec: Object, cluster: Cluster) -> None:
    name = spec.get("priorityClassName")
    found: Object | None = None
    if name and name not in _SYSTEM_PRIORITIES:
        found = cluster.get("scheduling.k8s.io", "priorityclasses", "", name)
    elif not name:
        defaults = [each for each in cluster.all("scheduling.k8s.io", "priorityclasses") if each.get("globalDefault")]
        found = min(defaults, key=lambda each: int(each["value"]), default=None)
        if found is not None:
            spec["priorityClassName"] = found["metadata"]["name"]
    spec["priority"] = int(found["value"]) if found else _SYSTEM_PRIORITIES.get(name or "", 0)
    policy = (found or {}).get("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("preemptionPolicy", policy)


class PodRules(Rules):
    """Defaults, first status and immutability of pods."""

    def default(self, new: Object) -> None:
        """Defaults of the spec."""
        spec = new.setdefault("spec", {})
        default_spec(spec)
        spec.setdefault("enableServiceLinks", True)
        status = new.get("status") or {}
        for condition in status.get("conditions") or ():
            condition.setdefault("lastProbeTime", None)
            condition.setdefault("lastTransitionTime", None)
        for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            if (each.get("state") or {}).get("running") is not None:
                each["state"]["running"].setdefault("startedAt", None)

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """Account, priority and tolerations; the first status."""
        spec = new["spec"]
        _tolerations(spec)
        if old is not None:
            for name in ("priority", "preemptionPolicy", "serviceAccountName", "serviceAccount"):
                if name in old["spec"]:
                    spec.setdefault(name, old["spec"][name])
            return
        spec.setdefault("serviceAccountName", "default")
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
        _priority(spec, cluster)
        new["status"] = {"phase": "Pending", "qosClass": quality(spec)}

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """Names of containers and volumes, the priority class, and what may not change."""
        spec = new["spec"]
        causes = _check_spec(spec, "spec")
        if old is None:
            name = spec.get("priorityClassName")
            known = name in _SYSTEM_PRIORITIES or cluster.get("scheduling.k8s.io", "priorityclasses", "", name or "")
            if name and not known:
                why = f"no PriorityClass with name {name} was found"
                raise statuses.forbidden("", "pods", new["metadata"]["name"], why)
            return causes
        if _fixed(spec) != _fixed(old["spec"]):
            causes.append(statuses.forbidden_value("spec", _CHANGED))
        return causes


def _fixed(spec: Object) -> Object:
    """The part of a pod spec that may never change."""
    kept = {key: value for key, value in spec.items() if key not in _MUTABLE}
    for name in _LISTS:
        if name in kept:
            kept[name] = [{key: each[key] for key in each if key != "image"} for each in kept[name]]
    return kept


def _check_spec(spec: Object, path: str) -> list[Cause]:
    """What a pod spec may not say although its schema allows it."""
    causes: list[Cause] = []
    if not spec.get("containers"):
        causes.append(statuses.required(f"{path}.containers"))
    volumes = [str(each.get("name")) for each in spec.get("volumes") or ()]
    names: set[str] = set()
    for below, container in containers(spec):
        where = f"{path}.{below}"
        name = str(container.get("name", ""))
        if not container.get("image"):
            causes.append(statuses.required(f"{where}.image"))
        if not _NAME.fullmatch(name) or len(name) > 63:
            causes.append(statuses.invalid_value(f"{where}.name", name, _NAME_RULE))
        if name in names:
            causes.append(statuses.duplicate(f"{where}.name", name))
        names.add(name)
        for index, mount in enumerate(container.get("volumeMounts") or ()):
            if mount.get("name") not in volumes:
                cause = Cause(
                    "FieldValueNotFound", f'Not found: "{mount.get("name")}"', f"{where}.volumeMounts[{index}].name"
                )
                causes.append(cause)
        causes += _check_resources(container.get("resources") or {}, f"{where}.resources")
    if spec.get("restartPolicy") not in ("Always", "OnFailure", "Never"):
        supported = ("Always", "OnFailure", "Never")
        causes.append(statuses.not_supported(f"{path}.restartPolicy", spec.get("restartPolicy"), supported))
    for index, name in enumerate(volumes):
        if name in volumes[:index]:
            causes.append(statuses.duplicate(f"{path}.volumes[{index}].name", name))
    return causes


def _check_resources(resources: Object, path: str) -> list[Cause]:
    """Extended resources: whole numbers, and limits that equal the requests."""
    causes = []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for field, amounts in (("limits", limits), ("requests", requests)):
        for name, value in amounts.items():
            if "/" in name and not str(value).isdigit():
                causes.append(statuses.invalid_value(f"{path}.{field}[{name}]", str(value), "must be an integer"))
    for name, value in requests.items():
        if "/" not in name or name.startswith("kubernetes.io/"):
            continue
        if name not in limits:
            causes.append(statuses.required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
        elif str(limits[name]) != str(value):
            why = f"must be equal to {name} limit of {limits[name]}"
            causes.append(statuses.invalid_value(f"{path}.requests", str(value), why))
    return causes


check_spec = _check_spec
