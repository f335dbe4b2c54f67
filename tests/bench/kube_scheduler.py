"""kube-scheduler with its own gang and topology scheduling on the same cluster, to compare with."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from tests.bench.control_plane import DEVICES, RESOURCE, Bench, many
from tests.builders.kube import ASSETS, process

from supernode.cluster.kinds import PODS, Json, Kind

POD_GROUPS = Kind("scheduling.k8s.io", "v1beta1", "podgroups", "PodGroup")
GATES = "GenericWorkload=true,TopologyAwareWorkloadScheduling=true"
LONGEST = 300.0


async def scheduled(bench: Bench, gangs: int, workers: int) -> float | None:
    """Pods per second from apply to the last of them bound; None where there is no kube-scheduler."""
    binary = Path(ASSETS) / "kube-scheduler"
    if not binary.exists():
        return None
    namespace = "kube-scheduler"
    await bench.namespace(namespace)
    config = bench.directory / "scheduler.json"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": str(bench.kubeconfig), "qps": 5000, "burst": 5000},
                "leaderElection": {"leaderElect": False},
            }
        )
    )
    arguments = [str(binary), f"--config={config}", f"--feature-gates={GATES}", "--secure-port=0"]
    log = bench.directory / "kube-scheduler.log"
    with process(arguments, log):
        await asyncio.sleep(10)  # it reads all nodes first
        began = time.monotonic()
        await many([_pod_group(bench, namespace, f"gang-{gang}", workers) for gang in range(gangs)])
        names = [(f"gang-{gang}", rank) for gang in range(gangs) for rank in range(workers)]
        await many([_pod(bench, namespace, gang, rank) for gang, rank in names])
        count = gangs * workers
        while (bound := await _bound(bench, namespace)) < count:
            if time.monotonic() - began > LONGEST:
                print(f"kube-scheduler: {bound} of {count} pods\n{log.read_text()[-1500:]}", file=sys.stderr)
                break
            await asyncio.sleep(0.2)
        took = time.monotonic() - began
    await bench.clear(namespace)
    return bound / took if bound else None


async def _bound(bench: Bench, namespace: str) -> int:
    params = {"fieldSelector": "spec.nodeName!="}
    return len((await bench.client.request("GET", PODS.path(namespace), params=params))["items"])


async def _pod_group(bench: Bench, namespace: str, name: str, workers: int) -> None:
    spec: Json = {"schedulingPolicy": {"gang": {"minCount": workers}}}
    spec["schedulingConstraints"] = {"topology": [{"key": "bench/rack"}]}
    body = {"apiVersion": POD_GROUPS.api_version, "kind": POD_GROUPS.kind, "metadata": {"name": name}, "spec": spec}
    await bench.client.create(POD_GROUPS, body, namespace)


async def _pod(bench: Bench, namespace: str, gang: str, rank: int) -> None:
    limits = {"limits": {RESOURCE: str(DEVICES)}}
    spec: Json = {"containers": [{"name": "trainer", "image": "bench:1", "resources": limits}]}
    spec["schedulingGroup"] = {"podGroupName": gang}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{gang}-{rank}"}, "spec": spec}
    await bench.client.create(PODS, body, namespace)
