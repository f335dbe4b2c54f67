"""What one kind demands beyond its schema: defaults that a real server fills in, checks across fields, and status.

One `Rules` per kind that needs any, found by `rules_for`. Each is asked with private copies, which it may change in
`prepare`; nothing here stores, and nothing reads a clock except through `Cluster`.
"""

from __future__ import annotations

from supernode.local.server.kinds import Served
from supernode.local.server.rules.core import NamespaceRules, NodeRules, SecretRules, ServiceRules
from supernode.local.server.rules.crds import CustomRules, DefinitionRules
from supernode.local.server.rules.plain import Cluster, Rules
from supernode.local.server.rules.pods import PodRules
from supernode.local.server.rules.small import (
    BindingRules,
    BudgetRules,
    ClaimRules,
    ConfigMapRules,
    EventRules,
    NetworkPolicyRules,
    PriorityClassRules,
    StatusRules,
)
from supernode.local.server.rules.workloads import (
    ControllerRules,
    CronJobRules,
    DaemonSetRules,
    DeploymentRules,
    JobRules,
    ReplicaSetRules,
    StatefulSetRules,
)

__all__ = ["Cluster", "Rules", "rules_for"]

_PLAIN = Rules()
_RULES: dict[tuple[str, str], Rules] = {
    ("", "configmaps"): ConfigMapRules(),
    ("", "events"): EventRules(),
    ("events.k8s.io", "events"): EventRules(strict=True),
    ("", "namespaces"): NamespaceRules(),
    ("", "nodes"): NodeRules(),
    ("", "persistentvolumeclaims"): ClaimRules(),
    ("", "persistentvolumes"): StatusRules({"phase": "Pending"}),
    ("", "pods"): PodRules(),
    ("", "replicationcontrollers"): ControllerRules(),
    ("", "resourcequotas"): StatusRules({}),
    ("", "secrets"): SecretRules(),
    ("", "services"): ServiceRules(),
    ("apps", "daemonsets"): DaemonSetRules(),
    ("apps", "deployments"): DeploymentRules(),
    ("apps", "replicasets"): ReplicaSetRules(),
    ("apps", "statefulsets"): StatefulSetRules(),
    ("batch", "cronjobs"): CronJobRules(),
    ("batch", "jobs"): JobRules(),
    ("networking.k8s.io", "ingresses"): StatusRules({"loadBalancer": {}}),
    ("networking.k8s.io", "networkpolicies"): NetworkPolicyRules(),
    ("policy", "poddisruptionbudgets"): BudgetRules(),
    ("rbac.authorization.k8s.io", "rolebindings"): BindingRules(),
    ("rbac.authorization.k8s.io", "clusterrolebindings"): BindingRules(),
    ("scheduling.k8s.io", "priorityclasses"): PriorityClassRules(),
    ("apiextensions.k8s.io", "customresourcedefinitions"): DefinitionRules(),
}


def rules_for(served: Served) -> Rules:
    """The rules of a resource."""
    if served.custom is not None:
        parts = served.custom.get("subresources") or {}
        return CustomRules(parts.get("status") is not None, parts.get("scale"))
    return _RULES.get((served.group, served.plural), _PLAIN)
