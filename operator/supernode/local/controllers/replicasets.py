"""ReplicaSets: as many pods as asked for.

In: ReplicaSets and pods. Out: pods created and deleted, and the ReplicaSets' status. Left out: adoption of pods that
somebody else made.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from supernode.local.client import KubeClient
from supernode.local.controllers.loop import Controller, owned_by, owner_reference
from supernode.local.controllers.nodelife import parse_time

Object = dict[str, Any]


class ReplicaSetController(Controller):
    """Keeps the number of pods of each ReplicaSet."""

    def __init__(self, client: KubeClient) -> None:
        super().__init__(client, {"sets": "/apis/apps/v1/replicasets", "pods": "/api/v1/pods"}, resync=5.0)

    async def reconcile(self) -> None:
        """Look at every ReplicaSet once."""
        for replica_set in self.caches["sets"]:
            if not replica_set["metadata"].get("deletionTimestamp"):
                await self._reconcile_one(replica_set)

    async def _reconcile_one(self, replica_set: Object) -> None:
        namespace = replica_set["metadata"]["namespace"]
        pods = [
            pod
            for pod in self.caches["pods"]
            if pod["metadata"].get("namespace") == namespace and owned_by(pod, replica_set) and is_active(pod)
        ]
        wanted = replica_set["spec"].get("replicas", 1)
        for _ in range(wanted - len(pods)):
            pod = await self.client.create(f"/api/v1/namespaces/{namespace}/pods", _new_pod(replica_set))
            self.caches["pods"].put(pod)
            pods.append(pod)
        # Those that serve least go first, of equals the youngest.
        pods.sort(key=lambda pod: (is_ready(pod), bool(pod["spec"].get("nodeName")), _age_key(pod)))
        for pod in pods[: max(len(pods) - wanted, 0)]:
            pod["metadata"]["deletionTimestamp"] = pod["metadata"]["creationTimestamp"]
            await self.client.delete(f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}")
        pods = [pod for pod in pods if is_active(pod)]
        status = {
            "replicas": len(pods),
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": sum(map(is_ready, pods)),
            "availableReplicas": sum(
                is_available(pod, replica_set["spec"].get("minReadySeconds") or 0) for pod in pods
            ),
            "observedGeneration": replica_set["metadata"].get("generation", 0),
        }
        old = replica_set.get("status") or {}
        if any(old.get(key, 0) != value for key, value in status.items()):
            path = f"/apis/apps/v1/namespaces/{namespace}/replicasets/{replica_set['metadata']['name']}/status"
            self.caches["sets"].put(await self.client.patch(path, {"status": status}))


def _new_pod(replica_set: Object) -> Object:
    template = copy.deepcopy(replica_set["spec"]["template"])
    given = template.get("metadata") or {}
    meta: Object = {key: given[key] for key in ("labels", "annotations", "finalizers") if given.get(key)}
    meta["generateName"] = f"{replica_set['metadata']['name']}-"
    meta["ownerReferences"] = [owner_reference(replica_set, "apps/v1", "ReplicaSet")]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}


def _age_key(pod: Object) -> float:
    return -parse_time(pod["metadata"]["creationTimestamp"]).timestamp()


def is_active(pod: Object) -> bool:
    """Whether a pod counts: it has not ended and is not being deleted."""
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not ended and not pod["metadata"].get("deletionTimestamp")


def is_ready(pod: Object) -> bool:
    """Whether a pod's Ready condition is True."""
    return _ready_since(pod) is not None


def is_available(pod: Object, seconds: float) -> bool:
    """Whether a pod has been ready for some seconds."""
    since = _ready_since(pod)
    return since is not None and (datetime.now(UTC) - since).total_seconds() >= seconds


def _ready_since(pod: Object) -> datetime | None:
    for entry in (pod.get("status") or {}).get("conditions") or []:
        if entry["type"] == "Ready" and entry["status"] == "True":
            return parse_time(entry.get("lastTransitionTime") or pod["metadata"]["creationTimestamp"])
    return None
