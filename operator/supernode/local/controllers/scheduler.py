"""The default scheduler for pods without a node: first the nodes that can take a pod, of them the emptiest.

In: pods with `schedulerName: default-scheduler` and no node. Out: bindings, or a PodScheduled=False condition that
says how many nodes failed and why. It honours resources, cordons, taints and nodeSelector. Left out: affinity between
pods, spreading, priorities and preemption, volumes; Supernode schedules its own jobs itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from supernode.errors import ConflictError, NotFoundError
from supernode.local.agent.admission import amounts, pod_requests
from supernode.local.agent.container import timestamp
from supernode.local.client import STRATEGIC_PATCH, KubeClient
from supernode.local.controllers.loop import Controller
from supernode.local.controllers.nodelife import tolerates
from supernode.quantity import format_resource

Object = dict[str, Any]


class DefaultScheduler(Controller):
    """Binds pods to nodes."""

    def __init__(self, client: KubeClient) -> None:
        super().__init__(client, {"pods": "/api/v1/pods", "nodes": "/api/v1/nodes"})

    async def reconcile(self) -> None:
        """Bind every pod that can be bound now, the oldest first."""
        pods = list(self.caches["pods"])
        waiting = [pod for pod in pods if _wants_node(pod)]
        if not waiting:
            return
        used: dict[str, Counter[str]] = defaultdict(Counter)
        for pod in pods:
            if (node := pod["spec"].get("nodeName")) and pod.get("status", {}).get("phase") not in (
                "Succeeded",
                "Failed",
            ):
                used[node] += pod_requests(pod) + Counter(pods=1)
        nodes = sorted(self.caches["nodes"], key=lambda node: str(node["metadata"]["name"]))
        waiting.sort(key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
        for pod in waiting:
            problems = {node["metadata"]["name"]: _problem(pod, node, used[node["metadata"]["name"]]) for node in nodes}
            fitting = [name for name, problem in problems.items() if problem is None]
            if not fitting:
                await self._unschedulable(pod, [problem for problem in problems.values() if problem])
                continue
            # The fewest pods first; the names are in order already, and min keeps the first of equals.
            chosen = min(fitting, key=lambda name: used[name]["pods"])
            try:
                await self._bind(pod, chosen)
            except (ConflictError, NotFoundError):
                continue
            used[chosen] += pod_requests(pod) + Counter(pods=1)

    async def _bind(self, pod: Object, node: str) -> None:
        meta = pod["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self.client.create(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding", body)
        # Ahead of the watch, so that this pod is not bound a second time.
        pod["spec"]["nodeName"] = node

    async def _unschedulable(self, pod: Object, problems: list[str]) -> None:
        counts = Counter(problems)
        reasons = ", ".join(f"{count} {problem}" for problem, count in sorted(counts.items()))
        message = f"0/{len(problems)} nodes are available: {reasons or 'there are none'}."
        conditions = (pod.get("status") or {}).get("conditions") or []
        old: Object = next((entry for entry in conditions if entry["type"] == "PodScheduled"), {})
        if old.get("message") == message:
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": old.get("lastTransitionTime") or timestamp(),
        }
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        await self.client.patch(path, {"status": {"conditions": [condition]}}, kind=STRATEGIC_PATCH)


def _wants_node(pod: Object) -> bool:
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and (spec.get("schedulerName") or "default-scheduler") == "default-scheduler"
        and not spec.get("schedulingGates")
        and not pod["metadata"].get("deletionTimestamp")
    )


def _problem(pod: Object, node: Object, used: Counter[str]) -> str | None:
    """Why a node can't take a pod, in the words of kube-scheduler; None if it can."""
    if node.get("spec", {}).get("unschedulable"):
        return "node(s) were unschedulable"
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return "node(s) didn't match Pod's node selector"
    tolerations = pod["spec"].get("tolerations") or []
    for taint in node.get("spec", {}).get("taints") or []:
        if taint.get("effect") == "PreferNoSchedule":
            continue
        if not any(tolerates(toleration, taint) for toleration in tolerations):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value') or ''}}}"
    available = amounts(node.get("status", {}).get("allocatable") or {})
    for name, wanted in sorted((pod_requests(pod) + Counter(pods=1)).items()):
        left = available.get(name, 0) - used[name]
        if wanted > left:
            asked, free = format_resource(name, wanted), format_resource(name, max(left, 0))
            return f"Insufficient {name} ({asked} asked, {free} free)"
    return None
