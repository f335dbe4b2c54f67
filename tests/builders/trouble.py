"""A local cluster to make trouble in: real processes on the embedded engine, asked and pushed through its API.

`Trouble` knows how to make jobs and to find, kill and stop their processes. `settled` is what must hold after any
trouble: no device held, nothing of a job left, no process alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from supernode.errors import ClusterError, NotFoundError
from supernode.local.agent.warden import marked_processes
from supernode.local.client import Connection, KubeClient

Json = dict[str, Any]
OURS = "/apis/supernode.dev/v1alpha1"
CORE = "/api/v1/namespaces/default"
CLUSTER = """
apiVersion: supernode.dev/v1alpha1
kind: NodeSet
metadata: {name: dcu}
spec:
  count: 4
  template:
    metadata: {labels: {chip: dcu, supernode.dev/supernode: "sn-{index//2}"}}
    status: {capacity: {cpu: "64", memory: 64Gi, pods: "50"}}
---
apiVersion: supernode.dev/v1alpha1
kind: AcceleratorPool
metadata: {name: dcu}
spec: {chip: hygon-bw1000, mode: Emulated, devicesPerNode: 2, nodeSelector: {matchLabels: {chip: dcu}}}
"""
# Sums over all devices of the job, again and again: a worker that is in the middle of a collective at any moment.
SUMMING = """
import numpy as np
from supernode.emulator import client
emulator = client.connect()
group = emulator.group()
arrays = [device.array(np.ones(64, np.float32)) for device in emulator.devices]
while True:
    group.all_reduce(arrays, op="max")
    for device in emulator.devices:
        device.synchronize()
"""
SLEEPING = "import time; time.sleep(600)"


class Trouble:
    """One cluster. `root` must be short, for the paths of its sockets."""

    def __init__(self, root: Path, name: str = "t") -> None:
        self.root = root
        self.name = name
        self.mark = str(root / "s" / name)
        self.environment = {**os.environ, "SUPERNODE_LOCAL_DIR": str(root / "s"), "OMP_NUM_THREADS": "1"}
        self.client: KubeClient = None  # type: ignore[assignment]

    def local(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "supernode", "local", *arguments, "--name", self.name]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def kubeconfig(self) -> Path:
        return Path(self.mark) / "kubeconfig"

    # --- objects ---------------------------------------------------------------------------------------------------
    async def job(self, name: str, program: str = SLEEPING, workers: int = 2, devices: int = 2, **spec: Any) -> Json:
        """Make a job whose workers run a Python program; `container` and `pod` change its template."""
        container = {"name": "trainer", "image": "python", "command": ["python", "-c", program]}
        container |= spec.pop("container", {})
        template = {"spec": {"containers": [container], "terminationGracePeriodSeconds": 2, **spec.pop("pod", {})}}
        body = {
            "apiVersion": "supernode.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": name},
            "spec": {
                "pools": ["dcu"],
                "workers": workers,
                "acceleratorsPerWorker": devices,
                "framework": spec.pop("framework", "None"),
                "template": template,
                **spec,
            },
        }
        return await self.client.create(f"{OURS}/namespaces/default/trainingjobs", body)

    def path(self, name: str) -> str:
        return f"{OURS}/namespaces/default/trainingjobs/{name}"

    async def status(self, name: str) -> Json:
        return (await self.client.get(self.path(name))).get("status") or {}

    async def until(self, what: str, check: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
        """Wait until the check gives something true."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    found = await check()
                    if found:
                        return found
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never: {what}\n{await self.picture()}") from None

    async def until_state(self, name: str, *states: str, seconds: float = 30, restarts: int | None = None) -> Json:
        async def check() -> Json | None:
            status = await self.status(name)
            right = restarts is None or status.get("restarts") == restarts
            return status if status.get("state") in states and right else None

        return await self.until(f"{name} is {'/'.join(states)}", check, seconds)

    async def delete(self, name: str) -> None:
        with contextlib.suppress(NotFoundError):
            await self.client.delete(self.path(name))

    async def gone(self, name: str, seconds: float = 20) -> None:
        async def check() -> bool:
            try:
                await self.client.get(self.path(name))
            except NotFoundError:
                return True
            return False

        await self.until(f"{name} is gone", check, seconds)

    async def pods(self, name: str) -> list[Json]:
        items = (await self.client.get(f"{CORE}/pods", {"labelSelector": f"supernode.dev/job={name}"}))["items"]
        return sorted(items, key=lambda pod: pod["metadata"]["name"])

    async def events(self, name: str) -> list[str]:
        items = (await self.client.get(f"{CORE}/events"))["items"]
        return [e["message"] for e in items if e["involvedObject"]["name"] == name]

    # --- processes -------------------------------------------------------------------------------------------------
    async def processes(self, pod: str, container: str = "trainer") -> list[int]:
        uid = (await self.client.get(f"{CORE}/pods/{pod}"))["metadata"]["uid"]
        return marked_processes(f"{self.mark}#{uid}/{container}")

    async def signal(self, pod: str, container: str = "trainer", number: int = signal.SIGKILL) -> None:
        found = await self.processes(pod, container)
        assert found, f"{pod} has no process of {container}"
        for pid in found:
            self.kill(pid, number)

    def kill(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def operators(self) -> list[int]:
        found = []
        for pid in marked_processes(self.mark):
            with contextlib.suppress(OSError):
                if b"\0operator\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    # --- what must hold --------------------------------------------------------------------------------------------
    async def settled(self, *ended: str) -> None:
        """Delete these jobs; then nothing may be left of any job, and all devices be free."""
        for name in ended:
            await self.delete(name)
        for name in ended:
            await self.gone(name)
        left: list[str] = []

        async def nothing() -> bool:
            left[:] = await self._left()
            return not left

        try:
            await self.until("nothing is left", nothing, 10)
        except AssertionError as exc:
            raise AssertionError(f"left over: {left}\n{exc}") from None

    async def _left(self) -> list[str]:
        left: list[str] = []
        for plural in ("pods", "services", "secrets", "configmaps"):
            items = (await self.client.get(f"{CORE}/{plural}"))["items"]
            left += [f"{plural}/{item['metadata']['name']}" for item in items if "supernode.dev/job" in labels(item)]
        pool = (await self.client.get(f"{OURS}/acceleratorpools/dcu"))["status"]
        if pool["allocated"] or pool["free"] + pool["unhealthy"] != pool["capacity"]:
            left.append(f"pool {pool}")
        left += [f"process {pid}" for pid in marked_processes(self.mark) if _of_a_pod(pid)]
        return left

    async def picture(self) -> str:
        lines = []
        for obj in (await self.client.get(f"{OURS}/trainingjobs"))["items"]:
            lines.append(f"{obj['metadata']['name']}: {json.dumps(obj.get('status'))}")
        for pod in (await self.client.get("/api/v1/pods"))["items"]:
            deleted = pod["metadata"].get("deletionTimestamp")
            lines.append(f"{pod['metadata']['name']} {pod['spec'].get('nodeName')} {pod['status']} deleted={deleted}")
        lines.append((Path(self.mark) / "operator.log").read_text()[-3000:])
        return "\n".join(lines)


def labels(obj: Json) -> Json:
    """Labels of an object."""
    return obj["metadata"].get("labels") or {}


def _of_a_pod(pid: int) -> bool:
    try:
        return b"#" in Path(f"/proc/{pid}/environ").read_bytes().split(b"SUPERNODE_LOCAL_MARK=", 1)[1].split(b"\0")[0]
    except (OSError, IndexError):
        return False


@contextlib.asynccontextmanager
async def trouble(root: Path, *options: str) -> AsyncIterator[Trouble]:
    """A cluster of four nodes with two devices each, up and with its pool ready; down afterwards.

    Args:
        root: short, for the paths of its sockets.
        options: more words for `supernode local up`.
    """
    lab = Trouble(root)
    file = root / "cluster.yaml"
    file.write_text(CLUSTER)
    lab.local("up", "--detach", "--cluster", str(file), *options)
    try:
        async with KubeClient(Connection.from_kubeconfig(lab.kubeconfig)) as client:
            lab.client = client

            async def ready() -> bool:
                with contextlib.suppress(ClusterError, KeyError):
                    pool = await client.get(f"{OURS}/acceleratorpools/dcu")
                    return bool(pool["status"]["free"] == 8)
                return False

            await lab.until("the pool is ready", ready)
            yield lab
    finally:
        lab.local("down")
        assert marked_processes(lab.mark) == []
