"""The control-plane benchmark's cases in which nothing should happen: many pods run, and the operator comes again."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.bench.case import Case
from tests.bench.control_plane import OPERATOR, Bench, many

from supernode.cluster.kinds import JOBS, PODS, Json
from supernode.names import LEASE_NAME, LEASE_NAMESPACE

NAMESPACE = "idle"
DEVICES = 2  # of 8 a node: half of the cluster is taken
# A job that comes while no operator runs.
FIRST = "first"
# Seconds in which an operator that has come again must leave everything as it is: several looks at everything that
# follows the start.
QUIET = 10.0
# What the API server notes of the operator: writes, of objects in these namespaces and of those in none.
AUDIT: Json = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "Metadata",
            "users": [OPERATOR],
            "verbs": ["create", "update", "patch", "delete", "deletecollection"],
            "namespaces": [NAMESPACE, LEASE_NAMESPACE, "default", ""],
        },
        {"level": "None"},
    ],
}


async def idle(bench: Bench) -> AsyncIterator[Case]:
    """Twice as many pods as nodes run, and nothing changes; then the operator is killed and comes again."""
    sizes = bench.sizes
    jobs = sizes.nodes * 2 // sizes.per_rack
    count = jobs * sizes.per_rack
    await bench.namespace(NAMESPACE)
    process = await bench.operator()
    names = [f"job-{i}" for i in range(jobs)]
    await many([bench.add_job(NAMESPACE, name, sizes.per_rack, devices=DEVICES) for name in names])
    await bench.until_pods(NAMESPACE, count)
    await many([_run(bench, pod) for pod in await bench.all_pods(NAMESPACE)])
    await _until_running(bench, jobs)
    await _until_silent(bench)

    noted = len(_writes(bench))
    began, before = time.monotonic(), process.cpu_seconds()
    await asyncio.sleep(sizes.idle_seconds)
    share = (process.cpu_seconds() - before) / (time.monotonic() - began)
    name = f"{count:,} pods running, nothing changing"
    yield Case(f"share of a core: {name}", round(100 * share, 2), "%", 10, "lower")
    yield Case(f"resident memory: {name}", round(process.memory()), "MiB", 500, "lower")
    yield Case(f"writes but the lease: {name}", _named(_writes(bench)[noted:]), "requests", 0, "lower")

    name = f"restart with {count:,} pods running"
    bench.stop()
    earlier, noted = await _picture(bench), len(_writes(bench))
    process = await bench.operator()
    took, spent = time.monotonic() - process.began, process.cpu_seconds()
    yield Case(f"from the process's start until it has read everything: {name}", round(took, 2), "s", None, "lower")
    yield Case(f"its processor time until then: {name}", round(spent, 2), "s", None, "lower")
    await asyncio.sleep(QUIET)
    later = await _picture(bench)
    touched = sum(later.get(key) != version for key, version in earlier.items())
    yield Case(f"objects touched that were right: {name}", touched, "objects", 0, "lower")
    yield Case(f"writes but the lease: {name}", _named(_writes(bench)[noted:]), "requests", 0, "lower")
    yield Case(f"resident memory: {name}", round(process.memory()), "MiB", 500, "lower")

    bench.stop()
    await bench.add_job(NAMESPACE, FIRST, 1, devices=DEVICES)
    process = await bench.operator()
    await bench.until_pods(NAMESPACE, count + 1)
    took = time.monotonic() - process.began
    yield Case(f"from the process's start to the first decision's pod: {name}", round(took, 2), "s", 10, "lower")
    await bench.clear(NAMESPACE)


async def _run(bench: Bench, pod: Json) -> None:
    metadata, container = pod["metadata"], pod["spec"]["containers"][0]["name"]
    state = {
        "name": container,
        "ready": True,
        "restartCount": 0,
        "image": "x",
        "imageID": "x",
        "state": {"running": {}},
    }
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [state]}
    await bench.client.patch(PODS, metadata["name"], {"status": status}, metadata["namespace"], subresource="status")


async def _until_running(bench: Bench, count: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        items = (await bench.client.list_page(JOBS, NAMESPACE))["items"]
        if sum((obj.get("status") or {}).get("state") == "Running" for obj in items) == count:
            return
        await asyncio.sleep(0.5)
    raise RuntimeError("not all jobs run")


async def _until_silent(bench: Bench) -> None:
    """Until the operator has written nothing for a while: the last status and events of the start are done."""
    noted, since = -1, time.monotonic()
    while time.monotonic() - since < 5:
        if (now := len(_writes(bench))) != noted:
            noted, since = now, time.monotonic()
        await asyncio.sleep(0.5)


async def _picture(bench: Bench) -> dict[str, str]:
    """Versions of all jobs and pods: whoever was written has another one."""
    items = await bench.all_pods(NAMESPACE) + (await bench.client.list_page(JOBS, NAMESPACE))["items"]
    return {obj["metadata"]["uid"]: obj["metadata"]["resourceVersion"] for obj in items}


def _writes(bench: Bench) -> list[Json]:
    """What the API server has noted of the operator's writes, but those of the lease."""
    path: Path = bench.audit
    entries: list[Json] = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [entry for entry in entries if (entry.get("objectRef") or {}).get("name") != LEASE_NAME]


def _named(entries: list[Json]) -> int:
    """How many; the first of them are named for whoever runs this."""
    for entry in entries[:20]:
        ref = entry.get("objectRef") or {}
        where = "/".join(str(ref[part]) for part in ("namespace", "resource", "subresource", "name") if ref.get(part))
        print(f"written: {entry['verb']} {where}", file=sys.stderr)
    return len(entries)
