"""The smallest valid object of each built-in kind: (group version, plural, object without apiVersion and metadata)."""

from __future__ import annotations

from typing import Any

POD_SPEC: dict[str, Any] = {"containers": [{"name": "c", "image": "python"}]}
_LABELS = {"app": "x"}
_TEMPLATE = {"metadata": {"labels": _LABELS}, "spec": POD_SPEC}
_WORKLOAD = {"spec": {"selector": {"matchLabels": _LABELS}, "template": _TEMPLATE}}
_JOB = {"template": {"spec": {**POD_SPEC, "restartPolicy": "Never"}}}

# (apiVersion, plural, namespaced, kind, body)
SAMPLES: list[tuple[str, str, bool, str, dict[str, Any]]] = [
    ("v1", "configmaps", True, "ConfigMap", {"data": {"a": "b"}}),
    ("v1", "endpoints", True, "Endpoints", {}),
    ("v1", "events", True, "Event", {"involvedObject": {"namespace": "NAMESPACE", "name": "x", "kind": "Pod"}}),
    ("v1", "limitranges", True, "LimitRange", {"spec": {"limits": []}}),
    ("v1", "namespaces", False, "Namespace", {}),
    ("v1", "nodes", False, "Node", {}),
    (
        "v1",
        "persistentvolumeclaims",
        True,
        "PersistentVolumeClaim",
        {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
    ),
    ("v1", "pods", True, "Pod", {"spec": POD_SPEC}),
    (
        "v1",
        "replicationcontrollers",
        True,
        "ReplicationController",
        {"spec": {"selector": _LABELS, "template": _TEMPLATE}},
    ),
    ("v1", "resourcequotas", True, "ResourceQuota", {"spec": {"hard": {"pods": "1000"}}}),
    ("v1", "secrets", True, "Secret", {"stringData": {"a": "b"}}),
    ("v1", "serviceaccounts", True, "ServiceAccount", {}),
    ("v1", "services", True, "Service", {"spec": {"selector": _LABELS, "ports": [{"port": 80}]}}),
    ("apps/v1", "controllerrevisions", True, "ControllerRevision", {"revision": 1}),
    ("apps/v1", "daemonsets", True, "DaemonSet", _WORKLOAD),
    ("apps/v1", "deployments", True, "Deployment", _WORKLOAD),
    ("apps/v1", "replicasets", True, "ReplicaSet", _WORKLOAD),
    ("apps/v1", "statefulsets", True, "StatefulSet", {"spec": {**_WORKLOAD["spec"], "serviceName": "x"}}),
    ("batch/v1", "jobs", True, "Job", {"spec": _JOB}),
    ("batch/v1", "cronjobs", True, "CronJob", {"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": _JOB}}}),
    ("coordination.k8s.io/v1", "leases", True, "Lease", {"spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}}),
    ("discovery.k8s.io/v1", "endpointslices", True, "EndpointSlice", {"addressType": "IPv4", "endpoints": []}),
    (
        "events.k8s.io/v1",
        "events",
        True,
        "Event",
        {
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "x.dev/c",
            "reportingInstance": "i",
            "action": "a",
            "reason": "r",
            "type": "Normal",
            "regarding": {"kind": "Pod", "name": "x", "namespace": "NAMESPACE"},
        },
    ),
    (
        "networking.k8s.io/v1",
        "ingresses",
        True,
        "Ingress",
        {"spec": {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}}},
    ),
    ("networking.k8s.io/v1", "networkpolicies", True, "NetworkPolicy", {"spec": {"podSelector": {}}}),
    (
        "policy/v1",
        "poddisruptionbudgets",
        True,
        "PodDisruptionBudget",
        {"spec": {"minAvailable": 1, "selector": {"matchLabels": _LABELS}}},
    ),
    ("rbac.authorization.k8s.io/v1", "roles", True, "Role", {"rules": []}),
    (
        "rbac.authorization.k8s.io/v1",
        "rolebindings",
        True,
        "RoleBinding",
        {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "x"}},
    ),
    ("rbac.authorization.k8s.io/v1", "clusterroles", False, "ClusterRole", {"rules": []}),
    (
        "rbac.authorization.k8s.io/v1",
        "clusterrolebindings",
        False,
        "ClusterRoleBinding",
        {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "x"}},
    ),
    ("scheduling.k8s.io/v1", "priorityclasses", False, "PriorityClass", {"value": 10}),
]
