"""Nodes that are no longer heard of: their Ready condition becomes Unknown, and they get the taint that says so.

In: nodes and their leases. Out: conditions and taints, taken back when the node is heard of again. Pods on such a node
are deleted after their toleration (300 s unless the pod says else). Left out: rate limits and zones.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from supernode.local.client import STRATEGIC_PATCH, KubeClient
from supernode.local.controllers.loop import Controller

Object = dict[str, Any]

UNREACHABLE: Final = "node.kubernetes.io/unreachable"
NOT_READY: Final = "node.kubernetes.io/not-ready"
_EVICT_SECONDS: Final = 300.0


class NodeLifecycle(Controller):
    """Watches over the nodes' heartbeats.

    Args:
        client: the API server.
        grace: seconds without a heartbeat after which a node is lost; None: its lease's duration.
    """

    def __init__(self, client: KubeClient, *, grace: float | None = None) -> None:
        paths = {
            "nodes": "/api/v1/nodes",
            "leases": "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
            "pods": "/api/v1/pods",
        }
        super().__init__(client, paths, resync=min(grace or 5.0, 5.0))
        self._grace = grace

    async def reconcile(self) -> None:
        """Look at every node once."""
        now = datetime.now(UTC)
        for node in self.caches["nodes"]:
            name = node["metadata"]["name"]
            lease = self.caches["leases"].find("kube-node-lease", name)
            if lease is None or not lease.get("spec", {}).get("renewTime"):
                continue
            age = (now - parse_time(lease["spec"]["renewTime"])).total_seconds()
            lost = age > (self._grace or float(lease["spec"].get("leaseDurationSeconds") or 40))
            ready = next((entry for entry in node["status"].get("conditions", []) if entry["type"] == "Ready"), None)
            if lost and (ready is None or ready["status"] != "Unknown"):
                await self._unknown(name, now)
            wanted = {UNREACHABLE} if lost else set() if ready and ready["status"] == "True" else {NOT_READY}
            await self._taint(node, wanted, now)
            await self._evict(node, now)

    async def _unknown(self, name: str, now: datetime) -> None:
        stamp = format_time(now)
        condition = {
            "type": "Ready",
            "status": "Unknown",
            "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
            "lastTransitionTime": stamp,
        }
        body = {"status": {"conditions": [condition]}}
        await self.client.patch(f"/api/v1/nodes/{name}/status", body, kind=STRATEGIC_PATCH)

    async def _taint(self, node: Object, wanted: set[str], now: datetime) -> None:
        ours = {UNREACHABLE, NOT_READY}
        taints = node.get("spec", {}).get("taints") or []
        present = {taint["key"] for taint in taints} & ours
        if present == wanted:
            return
        kept = [taint for taint in taints if taint["key"] not in ours or taint["key"] in wanted]
        added = [
            {"key": key, "effect": effect} | ({"timeAdded": format_time(now)} if effect == "NoExecute" else {})
            for key in sorted(wanted - present)
            for effect in ("NoSchedule", "NoExecute")
        ]
        meta = {"resourceVersion": node["metadata"]["resourceVersion"]}
        body = {"metadata": meta, "spec": {"taints": [*kept, *added]}}
        self.caches["nodes"].put(await self.client.patch(f"/api/v1/nodes/{node['metadata']['name']}", body))

    async def _evict(self, node: Object, now: datetime) -> None:
        taints = [taint for taint in node.get("spec", {}).get("taints") or [] if taint.get("effect") == "NoExecute"]
        if not taints:
            return
        for pod in self.caches["pods"]:
            if pod["spec"].get("nodeName") != node["metadata"]["name"] or pod["metadata"].get("deletionTimestamp"):
                continue
            for taint in taints:
                age = (now - parse_time(taint["timeAdded"])).total_seconds() if taint.get("timeAdded") else 0.0
                if age >= tolerated_seconds(pod, taint):
                    meta = pod["metadata"]
                    await self.client.delete(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}")
                    break


def tolerated_seconds(pod: Object, taint: Object) -> float:
    """How long a pod may stay on a node with a NoExecute taint; ours have Kubernetes' default of 300 s."""
    found = [entry for entry in pod["spec"].get("tolerations") or [] if tolerates(entry, taint)]
    if not found:
        return _EVICT_SECONDS if taint["key"] in (UNREACHABLE, NOT_READY) else 0.0
    limits = [float(entry["tolerationSeconds"]) for entry in found if entry.get("tolerationSeconds") is not None]
    return min(limits) if limits else float("inf")


def tolerates(toleration: Object, taint: Object) -> bool:
    """Kubernetes' rule for one toleration and one taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def parse_time(text: str) -> datetime:
    """An RFC 3339 time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def format_time(time: datetime) -> str:
    """A time as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
