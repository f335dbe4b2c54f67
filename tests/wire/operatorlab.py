"""A laboratory for the operator: the real process, a real API server, and a kubelet played by the test.

The kubelet sees only the nodes of its own test: it starts pods at once (or holds them back), ends them as told, and
lets go of deleted ones. All names carry the test's own suffix, so that tests do not see each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.wire.controlplane import ControlPlane

from supernode.cluster.client import Client
from supernode.cluster.kinds import GROUPS, JOBS, LEASES, NODES, PODS, POOLS, PRIORITY_CLASSES, Json, Kind
from supernode.errors import ClusterError, ConflictError, NotFoundError
from supernode.names import LEASE_NAME, LEASE_NAMESPACE

NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
DEFINITIONS = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
RESOURCE = "hygon.com/hcu"
ROOT = Path(__file__).parents[2]


class LabClient(Client):
    """A client that faults can be told to spare."""

    async def _headers(self, content_type: str | None) -> dict[str, str]:
        return {**await super()._headers(content_type), "User-Agent": "lab"}


async def install_definitions(client: Client) -> None:
    """Apply crds/ and wait until the API server serves them."""
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        with contextlib.suppress(ConflictError):
            await client.create(DEFINITIONS, yaml.safe_load(path.read_text()))
    for kind in (JOBS, POOLS, GROUPS):
        while True:
            try:
                await client.list_page(kind)
                break
            except NotFoundError:
                await asyncio.sleep(0.1)


@dataclass
class Kubelet:
    """Plays the kubelet of the test's nodes.

    `hold`: pods stay pending; `held`: those of these names do. `stuck`: deleted pods stay.
    """

    client: Client
    nodes: set[str]
    hold: bool = False
    stuck: bool = False
    held: set[str] = field(default_factory=set)
    endings: dict[str, int] = field(default_factory=dict)
    seen_devices: list[str] = field(default_factory=list)
    stopped: bool = False

    async def run(self) -> None:
        while not self.stopped:
            with contextlib.suppress(ClusterError):
                await self.once()
            await asyncio.sleep(0.05)

    async def once(self) -> None:
        pods = [p for p in (await self.client.list_page(PODS))["items"] if p["spec"].get("nodeName") in self.nodes]
        self._check(pods)
        await asyncio.gather(*(self._tend(pod) for pod in pods))

    def _check(self, pods: list[Json]) -> None:
        """No device in two hands: every pod that has not ended holds its own."""
        held: dict[tuple[str, str], str] = {}
        for pod in pods:
            if pod["status"].get("phase") in ("Succeeded", "Failed"):
                continue
            devices = pod["metadata"].get("annotations", {}).get("supernode.dev/devices", "")
            for device in filter(None, devices.split(",")):
                place = (pod["spec"]["nodeName"], device)
                if place in held:
                    self.seen_devices.append(f"{place} in {held[place]} and {pod['metadata']['name']}")
                held[place] = pod["metadata"]["name"]

    async def _tend(self, pod: Json) -> None:
        metadata, name, namespace = pod["metadata"], pod["metadata"]["name"], pod["metadata"]["namespace"]
        phase = pod["status"].get("phase")
        if "deletionTimestamp" in metadata:
            if not self.stuck:
                await self.client.delete(PODS, name, namespace, uid=metadata["uid"], grace=0)
            return
        if name in self.endings and phase in ("Pending", "Running"):
            code = self.endings.pop(name)
            await self.status(pod, "Failed" if code else "Succeeded", code)
        elif phase == "Pending" and not self.hold and name not in self.held:
            await self.status(pod, "Running")

    async def status(self, pod: Json, phase: str, code: int | None = None) -> None:
        state: Json = {"running": {}} if code is None else {"terminated": {"exitCode": code, "reason": "Error"}}
        containers = [
            {
                "name": pod["spec"]["containers"][0]["name"],
                "state": state,
                "ready": code is None,
                "restartCount": 0,
                "image": "x",
                "imageID": "x",
            }
        ]
        ready = "True" if phase == "Running" else "False"
        patch = {
            "status": {
                "phase": phase,
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": containers,
            }
        }
        metadata = pod["metadata"]
        with contextlib.suppress(NotFoundError):
            await self.client.patch(PODS, metadata["name"], patch, metadata["namespace"], subresource="status")


@dataclass
class Process:
    """One `supernode operator` process."""

    popen: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def text(self) -> str:
        return self.log.read_text()


class Lab:
    """One test's corner of the cluster."""

    def __init__(self, cluster: ControlPlane, client: Client, directory: Path) -> None:
        self.cluster = cluster
        self.client = client
        self.directory = directory
        self.suffix = uuid.uuid4().hex[:6]
        self.namespace = f"team-{self.suffix}"
        self.pool = f"dcu-{self.suffix}"
        self.group = f"scalex-{self.suffix}"
        self.nodes: list[str] = []
        self.classes: list[str] = []
        self.kubelet = Kubelet(client, set())
        self.processes: list[Process] = []

    # --- the operator ----------------------------------------------------------------------------------------------
    def operator(self, *more: str, kubeconfig: Path | None = None, lease: int = 15) -> Process:
        # Long enough that a busy machine does not lose it; who kills an operator frees its lease (`free_the_lease`).
        log = self.directory / f"operator-{len(self.processes)}.log"
        arguments = [
            sys.executable,
            "-m",
            "supernode",
            "operator",
            "--kubeconfig",
            str(kubeconfig or self.cluster.admin),
        ]
        arguments += ["--metrics-port", "0", "--health-port", "0", "--host", "127.0.0.1"]
        arguments += ["--lease-seconds", str(lease), "--log-format", "text", *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with log.open("wb") as output:
            popen = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment)
        process = Process(popen, log)
        self.processes.append(process)
        return process

    # --- making things ---------------------------------------------------------------------------------------------
    async def add_nodes(self, count: int = 4, per_supernode: int = 2, **labels: str) -> list[str]:
        made = []
        for index in range(len(self.nodes), len(self.nodes) + count):
            name = f"dcu-{self.suffix}-{index}"
            node = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "labels": {
                        "lab": self.suffix,
                        "supernode.dev/spine": "spine-0",
                        "supernode.dev/supernode": f"sn-{index // per_supernode}",
                        **labels,
                    },
                },
            }
            await self.client.create(NODES, node)
            resources = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "10Gi"}
            status = {
                "capacity": resources,
                "allocatable": resources,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            }
            await self.client.patch(NODES, name, {"status": status}, subresource="status")
            made.append(name)
        self.nodes += made
        self.kubelet.nodes |= set(made)
        return made

    async def add_class(self, name: str, value: int, **more: Any) -> str:
        """A PriorityClass; gives its name, which carries the test's suffix."""
        full = f"{name}-{self.suffix}"
        body = {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": full},
            "value": value,
            **more,
        }
        await self.client.create(PRIORITY_CLASSES, body)
        self.classes.append(full)
        return full

    async def node_ready(self, name: str, status: str, since: str = "2026-01-01T00:00:00Z") -> None:
        """Set the Ready condition of a node."""
        condition = {"type": "Ready", "status": status, "reason": "Test", "lastTransitionTime": since}
        await self.client.patch(NODES, name, {"status": {"conditions": [condition]}}, subresource="status")

    async def add_pool(self, name: str | None = None, **spec: Any) -> Json:
        body = {
            "apiVersion": "supernode.dev/v1alpha1",
            "kind": "AcceleratorPool",
            "metadata": {"name": name or self.pool},
            "spec": {
                "chip": "hygon-bw1000",
                "mode": "Emulated",
                "devicesPerNode": 2,
                "nodeSelector": {"matchLabels": {"lab": self.suffix}},
                **spec,
            },
        }
        return await self.client.create(POOLS, body)

    async def add_group(self) -> Json:
        body = {
            "apiVersion": "supernode.dev/v1alpha1",
            "kind": "SuperNodeGroup",
            "metadata": {"name": self.group},
            "spec": {
                "nodeSelector": {"matchLabels": {"lab": self.suffix}},
                "levels": [
                    {
                        "name": "spine",
                        "nodeLabel": "supernode.dev/spine",
                        "bandwidthGBps": 50,
                        "latencyMicroseconds": 10,
                    },
                    {
                        "name": "supernode",
                        "nodeLabel": "supernode.dev/supernode",
                        "bandwidthGBps": 224,
                        "latencyMicroseconds": 2,
                    },
                ],
            },
        }
        return await self.client.create(GROUPS, body)

    async def furnish(self) -> None:
        """Four nodes of two devices in two super-nodes, a pool and a group."""
        await self.add_nodes(4)
        await self.add_pool()
        await self.add_group()

    async def add_job(self, name: str, workers: int = 2, devices: int = 2, **spec: Any) -> Json:
        container = {"name": "trainer", "image": "python:3", "command": ["python", "-c", "pass"]}
        body = {
            "apiVersion": "supernode.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": name},
            "spec": {
                "pools": [self.pool],
                "workers": workers,
                "acceleratorsPerWorker": devices,
                "framework": "PyTorch",
                "template": {"spec": {"containers": [container]}},
                **spec,
            },
        }
        params = {"fieldManager": "user"}  # `managedFields` then tell what the operator wrote
        return await self.client.request("POST", JOBS.path(self.namespace), body=body, params=params)

    # --- looking ---------------------------------------------------------------------------------------------------
    async def job(self, name: str) -> Json:
        return await self.client.get(JOBS, name, self.namespace)

    async def condition(self, name: str, kind: str) -> Json:
        """A condition of a job; empty if it has none of that type."""
        conditions = (await self.job(name)).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    async def until_status(self, name: str, what: str, check: Callable[[Json], Any], seconds: float = 40) -> Json:
        """Wait until the check gives something true for a job's status; gives the status."""

        async def ask() -> Json | None:
            status: Json = (await self.job(name)).get("status", {})
            return status if check(status) else None

        found: Json = await self.until(f"{name}: {what}", ask, seconds)
        return found

    async def job_pods(self, name: str) -> list[Json]:
        return (await self.client.list_page(PODS, self.namespace, selector=f"supernode.dev/job={name}"))["items"]

    async def until(self, what: str, check: Callable[[], Any], seconds: float = 40) -> Any:
        """Wait until the awaitable check gives something true."""
        last: Any = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    last = await check()
                    if last:
                        return last
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = "\n".join(f"--- {p.log.name}\n{p.text()[-3000:]}" for p in self.processes)
            raise AssertionError(f"never: {what}\n{await self.picture()}\n{logs}") from None

    async def until_state(self, name: str, *states: str, seconds: float = 40) -> Json:
        async def check() -> Json | None:
            obj = await self.job(name)
            return obj if obj.get("status", {}).get("state") in states else None

        return await self.until(f"{name} is {'/'.join(states)}", check, seconds)

    async def picture(self) -> str:
        jobs = (await self.client.list_page(JOBS, self.namespace))["items"]
        pods = (await self.client.list_page(PODS, self.namespace))["items"]
        lines = [f"{j['metadata']['name']}: {j.get('status')}" for j in jobs]
        lines += [
            f"{p['metadata']['name']} {p['spec'].get('nodeName')} {p['status'].get('phase')} {p['metadata']['labels']}"
            f" deleting={p['metadata'].get('deletionTimestamp')}"
            for p in pods
        ]
        return "\n".join(lines)


@contextlib.asynccontextmanager
async def laboratory(cluster: ControlPlane, directory: Path) -> AsyncIterator[Lab]:
    client = await LabClient.connect(str(cluster.admin))
    lab = Lab(cluster, client, directory)
    await install_definitions(client)
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": lab.namespace}})
    task = asyncio.create_task(lab.kubelet.run())
    try:
        yield lab
        assert lab.kubelet.seen_devices == []
    finally:
        for process in lab.processes:
            if process.popen.poll() is None:
                process.kill()
        await _clean(lab)
        lab.kubelet.stopped = True
        await task
        await client.close()


async def _clean(lab: Lab) -> None:
    """Take everything of the test away, finalizers too: no operator runs any more, and the next need not wait."""
    with contextlib.suppress(NotFoundError):
        await lab.client.delete(LEASES, LEASE_NAME, LEASE_NAMESPACE)
    nothing: Json = {"metadata": {"finalizers": None}}
    for kind, namespace in ((JOBS, lab.namespace), (POOLS, None), (GROUPS, None)):
        for obj in (await lab.client.list_page(kind, namespace))["items"]:
            name = obj["metadata"]["name"]
            with contextlib.suppress(NotFoundError):
                await lab.client.delete(kind, name, namespace)
                await lab.client.patch(kind, name, nothing, namespace)
    for pod in (await lab.client.list_page(PODS, lab.namespace))["items"]:
        await lab.client.delete(PODS, pod["metadata"]["name"], lab.namespace, grace=0)
    for name in lab.nodes:
        await lab.client.delete(NODES, name)
    for name in lab.classes:
        await lab.client.delete(PRIORITY_CLASSES, name)
