"""Our nodes in the API: registration, status, heartbeats.

In: Node objects as the cluster file describes them. Out: Node objects in the API with a kubelet's status, and a Lease
each in kube-node-lease. What others write into a node's status (extended resources above all) is never dropped: we
patch only what is ours, and mirror their capacity into allocatable as a kubelet does.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from supernode import __version__
from supernode.errors import ClusterError, ConflictError, NotFoundError, UnavailableError
from supernode.local.agent.container import timestamp
from supernode.local.client import MERGE_PATCH, STRATEGIC_PATCH, KubeClient, persistently

Object = dict[str, Any]

LEASE_NAMESPACE: Final = "kube-node-lease"
# A kubelet's figures: renew every 10 s, a node is missed after 40 s, and its status is repeated every 5 minutes.
_RENEW_SECONDS: Final = 10.0
_STATUS_SECONDS: Final = 300.0
# No more heartbeats than this a second, all nodes together; with more nodes each renews less often.
_RENEWALS_PER_SECOND: Final = 50.0
# Requests at once while many nodes register.
_AT_ONCE: Final = 16
# Emulated nodes have these unless the cluster file says otherwise.
_DEFAULT_CAPACITY: Final = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "110"}
_log = logging.getLogger(__name__)


class NodeKeeper:
    """Keeps all our nodes registered and alive.

    Args:
        client: the API server.
        nodes: as in the cluster file.
        endpoints: node name -> (address, port) of our kubelet endpoint for it.
    """

    def __init__(self, client: KubeClient, nodes: Sequence[Object], endpoints: dict[str, tuple[str, int]]) -> None:
        self._client = client
        self._nodes = {node["metadata"]["name"]: node for node in nodes}
        self._endpoints = endpoints

    @property
    def _renew_seconds(self) -> float:
        return max(_RENEW_SECONDS, len(self._nodes) / _RENEWALS_PER_SECOND)

    async def register(self) -> None:
        """Create every node (or adopt it) with its status and lease."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> None:
            async with gate:
                await persistently(lambda: self._register(name))

        async with asyncio.TaskGroup() as group:
            for name in self._nodes:
                group.create_task(one(name))

    async def keep_alive(self) -> None:
        """Renew leases and repeat the status, for ever."""
        since_status = 0.0
        while True:
            await asyncio.sleep(self._renew_seconds)
            since_status += self._renew_seconds
            for name in self._nodes:
                try:
                    await self._renew(name)
                    if since_status >= _STATUS_SECONDS:
                        await self._report(name)
                except NotFoundError:
                    _log.debug("node %s was deleted", name)
                except ClusterError as exc:
                    _log.warning("no heartbeat of node %s: %s", name, exc)
            if since_status >= _STATUS_SECONDS:
                since_status = 0.0

    async def mirror(self, node: Object) -> None:
        """Extended resources that somebody put into capacity become allocatable, as a kubelet makes them."""
        status = node.get("status") or {}
        capacity, allocatable = status.get("capacity") or {}, status.get("allocatable") or {}
        own = self._capacity(node["metadata"]["name"])
        changes: dict[str, str | None] = {
            name: amount for name, amount in capacity.items() if name not in own and allocatable.get(name) != amount
        }
        changes |= dict.fromkeys(name for name in allocatable if name not in capacity)
        if changes:
            await self._patch_status(node["metadata"]["name"], {"allocatable": changes}, MERGE_PATCH)

    async def _register(self, name: str) -> None:
        node = self._nodes[name]
        meta = node["metadata"]
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": _architecture(),
            **(meta.get("labels") or {}),
        }
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels, "annotations": meta.get("annotations") or {}},
            "spec": {key: value for key, value in (node.get("spec") or {}).items() if value},
        }
        try:
            await self._client.create("/api/v1/nodes", body)
        except ConflictError:
            await self._client.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": labels}})
        await self._report(name)
        await self._renew(name)

    def _capacity(self, name: str) -> dict[str, str]:
        status = self._nodes[name].get("status") or {}
        given = status.get("capacity") or status.get("allocatable") or {}
        return {**_DEFAULT_CAPACITY, **{key: str(value) for key, value in given.items()}}

    async def _report(self, name: str) -> None:
        now = timestamp()
        address, port = self._endpoints[name]
        capacity = self._capacity(name)
        given = (self._nodes[name].get("status") or {}).get("allocatable") or {}
        status = {
            "capacity": capacity,
            "allocatable": {**capacity, **{key: str(value) for key, value in given.items()}},
            "addresses": [{"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": _node_info(name),
            "conditions": await self._conditions(name, now),
        }
        await self._patch_status(name, status, STRATEGIC_PATCH)

    async def _conditions(self, name: str, now: str) -> list[Object]:
        node = await self._client.get(f"/api/v1/nodes/{name}")
        old = {entry["type"]: entry for entry in (node.get("status") or {}).get("conditions") or []}
        wanted = [
            ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ("Ready", "True", "KubeletReady", "the node agent runs pods as processes"),
        ]
        conditions = []
        for kind, status, reason, message in wanted:
            before = old.get(kind, {})
            since = before.get("lastTransitionTime") if before.get("status") == status else None
            conditions.append(
                {
                    "type": kind,
                    "status": status,
                    "reason": reason,
                    "message": message,
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": since or now,
                }
            )
        return conditions

    async def _patch_status(self, name: str, status: Object, kind: str) -> None:
        await self._client.patch(f"/api/v1/nodes/{name}/status", {"status": status}, kind=kind)

    async def _renew(self, name: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        path = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases"
        spec = {"holderIdentity": name, "leaseDurationSeconds": int(4 * self._renew_seconds), "renewTime": now}
        try:
            await self._client.patch(f"{path}/{name}", {"spec": spec})
        except NotFoundError:
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
                "spec": spec,
            }
            try:
                await self._client.create(path, lease)
            except (ConflictError, NotFoundError) as exc:
                # The namespace is made by the API server itself, a moment after its start.
                raise UnavailableError(f"lease of node {name}: {exc}") from exc


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _node_info(name: str) -> Object:
    return {
        "machineID": name,
        "systemUUID": name,
        "bootID": name,
        "kernelVersion": platform.release(),
        "osImage": "processes of this machine",
        "containerRuntimeVersion": f"supernode-processes://{__version__}",
        "kubeletVersion": f"v1.37.2-supernode-{__version__}",
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": _architecture(),
    }
