"""A large cluster on a real API server for the control-plane benchmark: its nodes, an operator process, its pods.

No kubelet and no controller manager run: pods are made and stay, which is all that is measured.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml
from tests.builders.kube import api_server, write_kubeconfig
from tests.wire.operatorlab import NAMESPACES, install_definitions

from supernode.cluster.client import Client
from supernode.cluster.kinds import GROUPS, JOBS, LEASES, NODES, PODS, POOLS, Json, Kind
from supernode.errors import NotFoundError, UnavailableError
from supernode.names import FINALIZER, LEASE_NAME, LEASE_NAMESPACE

POLICY = Path(__file__).parents[2] / "charts/supernode/admission/finalizer-policy.yaml"
_ADMISSION = ("admissionregistration.k8s.io", "v1")
POLICIES = Kind(*_ADMISSION, "mutatingadmissionpolicies", "MutatingAdmissionPolicy", namespaced=False)
BINDINGS = Kind(*_ADMISSION, "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", namespaced=False)
TOKEN = "bench"
# The operator's own, as a token and as a user.
OPERATOR = "operator"
RESOURCE = "hygon.com/hcu"
DEVICES = 8
IN_FLIGHT = 64
# What the comparison with kube-scheduler's own gangs needs; it changes nothing for the others.
FLAGS = (
    "--feature-gates=GenericWorkload=true,TopologyAwareWorkloadScheduling=true",
    "--runtime-config=scheduling.k8s.io/v1beta1=true",
)
# What no two pods share, and what only the API server writes.
_SERVER_SIDE = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "namespace")


@dataclass(frozen=True)
class Sizes:
    """How large everything is; `scale` 1 is what the goals are for."""

    racks: int
    per_rack: int
    small_jobs: int
    idle_seconds: float

    @classmethod
    def of(cls, scale: float) -> Sizes:
        per_rack = max(4, round(100 * scale))
        racks = max(12, round(50 * scale))
        return cls(racks, per_rack, racks * per_rack // 10, max(10.0, 60 * scale))

    @property
    def nodes(self) -> int:
        return self.racks * self.per_rack


class Process:
    """The operator."""

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        self.log = log
        self.began = time.monotonic()
        arguments = [sys.executable, "-m", "supernode", "operator", "--kubeconfig", str(kubeconfig)]
        arguments += ["--metrics-port", "0", "--health-port", "0", "--host", "127.0.0.1", "--log-format", "text"]
        with log.open("wb") as output:
            self.popen = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident MiB."""
        lines = Path(f"/proc/{self.popen.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    async def synchronised(self) -> None:
        await until(lambda: "synchronised" in self.log.read_text(), "the operator has read everything", self)


async def until(
    check: Callable[[], bool], what: str, process: Process | None = None, seconds: float = 600.0, pause: float = 0.05
) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if process is not None and process.popen.poll() is not None:
            raise RuntimeError(f"the operator ended: {process.log.read_text()[-2000:]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"never: {what}\n{process.log.read_text()[-2000:] if process else ''}")
        await asyncio.sleep(pause)


async def many(work: list[Awaitable[object]]) -> None:
    """All of it, as many at a time as saturate an API server."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(each: Awaitable[object]) -> None:
        async with slots:
            await each

    await asyncio.gather(*(one(each) for each in work))


class Bench:
    """The cluster, and what the cases do with it."""

    def __init__(self, client: Client, kubeconfig: Path, directory: Path, sizes: Sizes) -> None:
        self.client = client
        self.kubeconfig = kubeconfig
        self.directory = directory
        self.audit = directory / "audit.log"
        self.sizes = sizes
        self._started = 0
        self._etcd = aiohttp.ClientSession(trust_env=False)
        self._etcd_url = (directory / "etcd-url").read_text()
        self.process: Process | None = None

    async def furnish(self) -> None:
        """Nodes in racks, a pool, a group."""
        await install_definitions(self.client)
        await self._install_policy()
        await many([self._add_node(index) for index in range(self.sizes.nodes)])
        everything = {"matchLabels": {"bench": "yes"}}
        level = {"name": "rack", "nodeLabel": "bench/rack", "bandwidthGBps": 100, "latencyMicroseconds": 5}
        pool = {"chip": "hygon-bw1000", "mode": "Hardware", "nodeSelector": everything}
        for kind, spec in ((POOLS, pool), (GROUPS, {"nodeSelector": everything, "levels": [level]})):
            body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "bench"}, "spec": spec}
            await self.client.create(kind, body)

    async def _install_policy(self) -> None:
        """What the chart installs besides the operator, at work: new jobs get the finalizer from the API server."""
        spec = yaml.safe_load(POLICY.read_text())
        for kind, body in ((POLICIES, spec), (BINDINGS, {"policyName": "finalizer"})):
            metadata = {"name": "finalizer"}
            policy = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": body}
            await self.client.create(kind, policy)
        while True:
            with contextlib.suppress(UnavailableError):  # for a moment it does not know of the definition
                job = await self.client.create(JOBS, self.a_job("probe", 1), "default", dry_run=True)
                if FINALIZER in job["metadata"].get("finalizers", []):
                    return
            await asyncio.sleep(0.1)

    async def _add_node(self, index: int) -> None:
        name, rack = f"node-{index:05d}", f"rack-{index // self.sizes.per_rack:02d}"
        labels = {"bench": "yes", "bench/rack": rack}
        offer = {"cpu": "128", "memory": "1Ti", "pods": "110", "ephemeral-storage": "1Ti", RESOURCE: str(DEVICES)}
        ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
        status = {"capacity": offer, "allocatable": offer, "conditions": ready}
        node: Json = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "status": status,
        }
        await self.client.create(NODES, node)  # with its status, as a kubelet makes itself known

    async def namespace(self, name: str) -> None:
        await self.client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    async def operator(self) -> Process:
        """A new operator that has read everything; the lease of one that was killed need not run out."""
        with contextlib.suppress(NotFoundError):
            await self.client.delete(LEASES, LEASE_NAME, LEASE_NAMESPACE)
        self.process = Process(self.directory / OPERATOR, self.directory / f"operator-{self._started}.log")
        self._started += 1
        await self.process.synchronised()
        return self.process

    async def close(self) -> None:
        self.stop()
        await self._etcd.close()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()

    async def add_job(
        self, namespace: str, name: str, workers: int, *, devices: int = DEVICES, rack: bool = False
    ) -> None:
        await self.client.create(JOBS, self.a_job(name, workers, devices=devices, rack=rack), namespace)

    def a_job(self, name: str, workers: int, *, devices: int = DEVICES, rack: bool = False) -> Json:
        container = {"name": "trainer", "image": "bench:1", "command": ["train"]}
        spec: Json = {"pools": ["bench"], "workers": workers, "acceleratorsPerWorker": devices, "framework": "PyTorch"}
        spec["template"] = {"spec": {"containers": [container]}}
        spec["runPolicy"] = {"startDeadlineSeconds": 86400}  # nobody starts these pods
        if rack:
            spec["scheduling"] = {"constraints": {"topology": [{"level": "rack", "mode": "Required"}]}}
        return {"apiVersion": JOBS.api_version, "kind": JOBS.kind, "metadata": {"name": name}, "spec": spec}

    async def settle(self) -> None:
        """Have the API server collect its garbage, so that what is measured next doesn't pay for what was before."""
        credentials = await self.client.credentials()
        context = ssl.create_default_context(cafile=credentials.ca_file)
        url, headers = f"{credentials.server}/debug/pprof/heap?gc=1", {"Authorization": f"Bearer {TOKEN}"}
        async with self._etcd.get(url, headers=headers, ssl=context) as answer:
            await answer.read()
            answer.raise_for_status()

    async def count(self, namespace: str) -> int:
        """Pods of a namespace, counted in etcd: asking the API server fifty times a second would cost it as much as
        a tenth of what is measured, which the bare loop does not pay."""
        first, behind = (f"/registry/pods/{namespace}{end}".encode() for end in "/0")
        span = {"key": base64.b64encode(first).decode(), "range_end": base64.b64encode(behind).decode()}
        async with self._etcd.post(f"{self._etcd_url}/v3/kv/range", json={**span, "count_only": True}) as answer:
            answer.raise_for_status()
            return int((await answer.json()).get("count", 0))

    async def until_pods(self, namespace: str, count: int, *, quiet: float = 0.0, seconds: float = 900.0) -> None:
        """Until there are `count` pods; `quiet`: seconds for which there is no use in asking."""
        began = time.monotonic()
        await asyncio.sleep(quiet)
        while (there := await self.count(namespace)) < count:
            took = time.monotonic() - began
            if took > seconds:
                log = self.process.log.read_text()[-3000:] if self.process else ""
                raise RuntimeError(f"{there} of {count} pods in {namespace}\n{log}")
            # The less often the longer it will take: the question itself costs a part of what is measured.
            left = took * (count - there) / there if there else 0.1
            await asyncio.sleep(min(0.5, max(0.005, left / 2)))

    async def all_pods(self, namespace: str) -> list[Json]:
        items: list[Json] = []
        token = None
        while True:
            page = await self.client.list_page(PODS, namespace, limit=500, token=token)
            items += page["items"]
            token = page["metadata"].get("continue")
            if not token:
                return items

    async def clear(self, *namespaces: str) -> None:
        """Jobs and pods of these namespaces go, the operator first."""
        self.stop()
        nothing: Json = {"metadata": {"finalizers": None}}
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        for namespace in namespaces:
            for job in (await self.client.list_page(JOBS, namespace))["items"]:
                name = job["metadata"]["name"]
                await self.client.delete(JOBS, name, namespace)
                with contextlib.suppress(NotFoundError):
                    await self.client.patch(JOBS, name, nothing, namespace)
            pods = [pod["metadata"]["name"] for pod in await self.all_pods(namespace)]
            await many([self.client.request("DELETE", PODS.path(namespace, name), body=options) for name in pods])

    async def bare(self, pods: list[Json], namespace: str, jobs: Sequence[Json] = ()) -> float:
        """Seconds of a loop that creates the same pods, on the same nodes, and decides nothing; `jobs`: these first."""
        # Without the operator's own clients: its cost per request is part of what is compared.
        bodies = [*((JOBS, job) for job in jobs), *((PODS, _fresh(pod)) for pod in pods)]
        credentials = await self.client.credentials()
        context = ssl.create_default_context(cafile=credentials.ca_file)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT, ssl=context)
        async with aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False) as session:

            async def one(kind: Kind, body: Json) -> None:
                url = credentials.server + kind.path(namespace)
                async with session.post(url, data=json.dumps(body).encode()) as answer:
                    await answer.read()
                    answer.raise_for_status()

            began = time.monotonic()
            await many([one(kind, body) for kind, body in bodies])
            took = time.monotonic() - began
        await asyncio.sleep(0.1)
        return took


def _fresh(pod: Json) -> Json:
    # With whom it belongs to: there is nobody here who would miss the job.
    metadata = {name: value for name, value in pod["metadata"].items() if name not in _SERVER_SIDE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


def check(pods: list[Json], count: int, per_rack: int | None) -> None:
    """The pods are where they should be: all there, each on a node, no device twice, racks kept."""
    held: set[tuple[str, str]] = set()
    racks: dict[str, set[int]] = {}
    for pod in pods:
        metadata, node = pod["metadata"], pod["spec"]["nodeName"]
        for device in metadata["annotations"]["supernode.dev/devices"].split(","):
            if (node, device) in held:
                raise RuntimeError(f"device {device} of {node} is in two hands")
            held.add((node, device))
        if per_rack is not None:
            racks.setdefault(metadata["labels"]["supernode.dev/job"], set()).add(int(node[5:]) // per_rack)
    if len(pods) != count or any(len(found) != 1 for found in racks.values()):
        raise RuntimeError(f"{len(pods)} of {count} pods, in racks {racks}")


@contextlib.asynccontextmanager
async def cluster(directory: Path, sizes: Sizes, audit: Json) -> AsyncIterator[Bench]:
    """A real API server with the nodes, the pool and the group; `audit`: policy of what it notes."""
    policy, log = directory / "audit-policy.json", directory / "audit.log"
    policy.write_text(json.dumps(audit))
    log.touch()
    flags = [*FLAGS, f"--audit-policy-file={policy}", f"--audit-log-path={log}", "--audit-log-mode=blocking"]
    everybody = {name: f'{name},{name},"system:masters"' for name in (TOKEN, OPERATOR)}
    with api_server(directory, everybody, flags) as url:
        authority = directory / "certs" / "apiserver.crt"
        kubeconfig = write_kubeconfig(directory / "kubeconfig", url, TOKEN, authority)
        write_kubeconfig(directory / OPERATOR, url, OPERATOR, authority)
        client = await Client.connect(str(kubeconfig))
        bench = Bench(client, kubeconfig, directory, sizes)
        try:
            await bench.furnish()
            yield bench
        finally:
            await bench.close()
            await client.close()
