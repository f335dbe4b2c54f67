"""The kinds of object that the operator deals with, and where each lives in the API. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from supernode.names import GROUP, VERSION

# A raw Kubernetes object.
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object: where it lives in the API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Such as ``v1`` or ``supernode.dev/v1alpha1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of the collection, of an object, or of its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = [root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)


NODES: Final = Kind("", "v1", "nodes", "Node", namespaced=False)
PODS: Final = Kind("", "v1", "pods", "Pod")
SERVICES: Final = Kind("", "v1", "services", "Service")
SECRETS: Final = Kind("", "v1", "secrets", "Secret")
CONFIG_MAPS: Final = Kind("", "v1", "configmaps", "ConfigMap")
RESOURCE_QUOTAS: Final = Kind("", "v1", "resourcequotas", "ResourceQuota")
EVENTS: Final = Kind("", "v1", "events", "Event")
LEASES: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease")
JOBS: Final = Kind(GROUP, VERSION, "trainingjobs", "TrainingJob")
POOLS: Final = Kind(GROUP, VERSION, "acceleratorpools", "AcceleratorPool", namespaced=False)
GROUPS: Final = Kind(GROUP, VERSION, "supernodegroups", "SuperNodeGroup", namespaced=False)
PRIORITY_CLASSES: Final = Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
