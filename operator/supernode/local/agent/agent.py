"""The node agent: plays the kubelet of all nodes of a local cluster, in one asyncio process.

In: a connection to any Kubernetes API server, the nodes to be, a directory. Out: registered nodes, pods as processes
with their status. It knows nothing of the server behind the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from supernode.errors import ClusterError, NotFoundError
from supernode.local.agent import volumes
from supernode.local.agent.access import PodAccess
from supernode.local.agent.addresses import AddressBlock, pod_owner
from supernode.local.agent.admission import refuse
from supernode.local.agent.endpoint import KubeletEndpoint
from supernode.local.agent.environment import ConfigError
from supernode.local.agent.events import EventRecorder
from supernode.local.agent.images import ImageTable
from supernode.local.agent.nodes import NodeKeeper
from supernode.local.agent.pod import PodRunner
from supernode.local.agent.sandbox import BackOff, Services
from supernode.local.agent.substitute import replace_pod_names
from supernode.local.agent.supervise import Warden
from supernode.local.client import Connection, KubeClient, mirror, persistently
from supernode.local.kubeconfig import kubeconfig

Object = dict[str, Any]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AgentSettings:
    """How an agent works.

    Attributes:
        directory: for pods' files and logs; short, because sockets lie below it.
        memory_directory: for volumes in memory.
        images: the image table.
        back_off: restart delays.
        tls: certificate for the kubelet endpoint (a kube-apiserver needs https); None for plain http.
    """

    directory: Path
    memory_directory: Path
    images: ImageTable = field(default_factory=ImageTable)
    back_off: BackOff = field(default_factory=BackOff)
    tls: ssl.SSLContext | None = None


class NodeAgent:
    """All local nodes. `start`, then `stop`.

    Args:
        connection: the API server.
        nodes: Node objects, as the cluster file has them.
        settings: how to work.
        warden: starts and ends processes; already started, and owned by the caller.
    """

    def __init__(
        self, connection: Connection, nodes: Sequence[Object], settings: AgentSettings, warden: Warden
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._warden = warden
        self._wanted = list(nodes)
        self._nodes: dict[str, Object] = {node["metadata"]["name"]: node for node in nodes}
        self._pods: dict[str, PodRunner] = {}
        self._by_name: dict[tuple[str, str], PodRunner] = {}
        self._hosts: dict[str, str] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._listed = asyncio.Event()

    async def start(self) -> None:
        """Register the nodes and begin to run pods."""
        self._client = KubeClient(self._connection, user_agent="supernode-node-agent")
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        self._addresses = AddressBlock(str(self._settings.directory))
        self._events = EventRecorder(self._client, "supernode-node-agent")
        settings = self._settings
        self._services = Services(self._warden, settings.images, self._http, settings.back_off)
        self._endpoint = KubeletEndpoint(lambda namespace, name: self._by_name.get((namespace, name)), settings.tls)
        await self._endpoint.start()
        endpoints = {}
        for name in self._nodes:
            self._hosts[name] = self._addresses.address(f"node:{name}")
            endpoints[name] = (self._hosts[name], await self._endpoint.listen(self._hosts[name]))
        self._keeper = NodeKeeper(self._client, self._wanted, endpoints)
        self._begin(self._events.run())
        await self._keeper.register()
        self._begin(mirror(self._client, "/api/v1/nodes", on_list=self._on_nodes, on_event=self._on_node))
        self._begin(mirror(self._client, "/api/v1/pods", on_list=self._on_pods, on_event=self._on_pod))
        self._begin(self._keeper.keep_alive())
        await self._listed.wait()

    async def stop(self) -> None:
        """Stop working; processes that still run are left to the warden's end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(runner.cancel() for runner in self._pods.values()))
        await self._endpoint.stop()
        await self._http.close()
        await self._client.close()
        self._addresses.close()

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_complain)
        self._tasks.append(task)

    # --- nodes -------------------------------------------------------------------------------------------------------

    async def _on_nodes(self, nodes: list[Object]) -> None:
        for node in nodes:
            await self._on_node("ADDED", node)

    async def _on_node(self, kind: str, node: Object) -> None:
        name = node["metadata"]["name"]
        if name not in self._nodes or kind == "DELETED":
            return
        self._nodes[name] = node
        try:
            await self._keeper.mirror(node)
        except ClusterError as exc:
            _log.debug("allocatable of node %s not mirrored: %s", name, exc)

    async def _admit(self, pod: Object) -> tuple[str, str] | None:
        """Whether the pod's node takes it; asks the API for the node once more before it says no."""
        name = pod["spec"]["nodeName"]
        if (problem := self._decide(pod)) is not None:
            try:
                self._nodes[name] = await self._client.get(f"/api/v1/nodes/{name}")
            except ClusterError:
                return problem
            problem = self._decide(pod)
        return problem

    def _decide(self, pod: Object) -> tuple[str, str] | None:
        name = pod["spec"]["nodeName"]
        others = [
            runner.pod for runner in self._pods.values() if runner.active and runner.pod["spec"]["nodeName"] == name
        ]
        problem = refuse(pod, self._nodes[name], others)
        # Counted from here on, before the next pod is looked at.
        self._pods[pod["metadata"]["uid"]].admitted = problem is None
        return problem

    # --- pods --------------------------------------------------------------------------------------------------------

    def _on_pods(self, pods: list[Object]) -> None:
        present = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self._pods if uid not in present]:
            self._forget(uid)
        for pod in pods:
            self._on_pod("ADDED", pod)
        self._listed.set()

    def _on_pod(self, kind: str, pod: Object) -> None:
        if pod.get("spec", {}).get("nodeName") not in self._nodes:
            return
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._forget(uid)
            return
        runner = self._pods.get(uid)
        if runner is None:
            if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                if pod["metadata"].get("deletionTimestamp"):
                    self._begin(self._remove(pod))
                return
            runner = self._take(pod)
        runner.update(pod)

    def _take(self, pod: Object) -> PodRunner:
        meta, spec = pod["metadata"], pod["spec"]
        owner = pod_owner(meta["namespace"], spec.get("hostname") or meta["name"], spec.get("subdomain"), meta["uid"])
        # Short, for the paths of sockets below; 48 bits of the uid are enough on one machine.
        short = meta["uid"].replace("-", "")[:12]
        logs = f"{meta['namespace']}_{meta['name']}_{meta['uid']}"
        node = self._nodes[spec["nodeName"]]
        access = PodAccess(
            client=self._client,
            services=self._services,
            host=self._hosts[spec["nodeName"]],
            address=self._addresses.address(owner),
            rewrite=self._rewrite,
            directory=self._settings.directory / "p" / short,
            memory_directory=self._settings.memory_directory / short,
            log_directory=self._settings.directory / "logs" / logs,
            lookup=lambda kind, name: self._lookup(meta["namespace"], kind, name),
            kubeconfig=lambda token: self._kubeconfig(token, meta["namespace"]),
            event=self._record,
            admit=self._admit,
            allocatable=(node.get("status") or {}).get("allocatable") or {},
        )
        runner = PodRunner(pod, access)
        key = (meta["namespace"], meta["name"])
        before = self._by_name.get(key)
        self._pods[meta["uid"]] = runner
        self._by_name[key] = runner
        runner.start(before.finished if before else None)
        return runner

    def _forget(self, uid: str) -> None:
        runner = self._pods.get(uid)
        if runner is not None:
            runner.vanish()
            self._begin(self._bury(runner))

    async def _bury(self, runner: PodRunner) -> None:
        await runner.finished.wait()
        self._pods.pop(runner.uid, None)
        if self._by_name.get(runner.key) is runner:
            del self._by_name[runner.key]
        if not runner.pod["spec"].get("subdomain"):
            self._addresses.release(f"uid:{runner.uid}")
        await asyncio.to_thread(volumes.remove, runner.log_directory)

    async def _remove(self, pod: Object) -> None:
        """A pod that had ended before this agent began, and is being deleted."""
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}

        async def delete() -> None:
            with contextlib.suppress(NotFoundError):
                await self._client.delete(path, options)

        await persistently(delete)

    def _rewrite(self, text: str) -> str:
        return replace_pod_names(
            text, lambda host, sub, namespace: self._addresses.address(pod_owner(namespace, host, sub, ""))
        )

    async def _lookup(self, namespace: str, kind: str, name: str) -> Object | None:
        plural = {"Secret": "secrets", "ConfigMap": "configmaps"}[kind]
        try:
            return {**await self._client.get(f"/api/v1/namespaces/{namespace}/{plural}/{name}"), "kind": kind}
        except NotFoundError:
            return None
        except ClusterError as exc:
            raise ConfigError(f"cannot read {kind.lower()} {namespace}/{name}: {exc}") from exc

    def _kubeconfig(self, token: str, namespace: str) -> str:
        return yaml.safe_dump(kubeconfig("in-cluster", self._connection.url, token, self._connection.ca, namespace))

    def _record(self, pod: Object, kind: str, reason: str, message: str, container: str) -> None:
        field = f"spec.containers{{{container}}}" if container else ""
        if container and all(entry["name"] != container for entry in pod["spec"]["containers"]):
            field = f"spec.initContainers{{{container}}}"
        obj = {**pod, "apiVersion": "v1", "kind": "Pod"}
        self._events.record(obj, kind, reason, message, field=field, host=pod["spec"].get("nodeName") or "")


def _complain(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the node agent lost a task", exc_info=error)
