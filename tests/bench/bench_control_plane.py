"""How fast gangs become pods on a real API server, beside a bare loop that creates the same pods and decides nothing.

Needs KUBEBUILDER_ASSETS (etcd, kube-apiserver; kube-scheduler for the comparison with it). The goals are for the full
size; `SUPERNODE_BENCH_SCALE=0.1` makes everything ten times smaller: racks, nodes per rack, jobs.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from tests.bench.case import Case
from tests.bench.control_plane import Bench, Sizes, check, cluster, many
from tests.bench.control_plane_rest import AUDIT, idle
from tests.bench.kube_scheduler import scheduled
from tests.builders.kube import ASSETS

from supernode.cluster.kinds import JOBS

GANGS = 9
# Times that each is measured: the API server's own search for garbage makes one run half as fast as the next.
TURNS = 7
# Seconds that an operator has run before jobs come: a start is measured in a row of its own.
CALM = 2.0


def cases() -> Iterable[Case]:
    """All rows."""
    if not ASSETS:
        print("no control plane: set KUBEBUILDER_ASSETS to etcd and kube-apiserver", file=sys.stderr)
        return
    sizes = Sizes.of(float(os.environ.get("SUPERNODE_BENCH_SCALE", "1")))
    only = os.environ.get("SUPERNODE_BENCH_ROWS", "")
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner() as runner:
        found = _all(Path(directory), sizes, set(filter(None, only.split(","))))
        try:
            while True:
                yield runner.run(anext(found))  # type: ignore[arg-type]
        except StopAsyncIteration:
            return
        finally:
            runner.run(found.aclose())  # type: ignore[attr-defined]


async def _all(directory: Path, sizes: Sizes, only: set[str]) -> AsyncIterator[Case]:
    async with cluster(directory, sizes, AUDIT) as bench:
        for row in (racks, large, small, idle):
            if not only or row.__name__ in only:
                async for case in row(bench):
                    yield case


async def racks(bench: Bench) -> AsyncIterator[Case]:
    """Nine jobs that each fill a rack."""
    per_rack = bench.sizes.per_rack
    name = f"{bench.sizes.nodes:,} nodes in {bench.sizes.racks} racks: {GANGS} jobs x {per_rack} workers, required rack"
    jobs = [(f"gang-{i}", per_rack) for i in range(GANGS)]
    rate = 0.0
    async for case in _beside_bare(bench, "racks", name, jobs, rack=True):
        rate = rate or case.value
        yield case
    theirs = await scheduled(bench, GANGS, per_rack)
    if theirs is not None:
        yield Case(f"kube-scheduler, gangs with a required rack: {name}", round(theirs, 1), "pods/s", None, "higher")
        yield Case(f"as many times kube-scheduler's pods/s: {name}", round(rate / theirs, 2), "x", 10, "higher")


async def large(bench: Bench) -> AsyncIterator[Case]:
    """One job of a fifth of the nodes."""
    workers = bench.sizes.nodes // 5
    async for case in _beside_bare(bench, "large", f"one job of {workers:,} workers", [("large", workers)]):
        yield case


async def small(bench: Bench) -> AsyncIterator[Case]:
    """Many small jobs at once, and how long each waits."""
    count = bench.sizes.small_jobs
    turns: list[dict[str, float]] = []
    name = f"{count} jobs of 4 workers at once"
    async for case in _beside_bare(bench, "small", name, [(f"job-{i}", 4) for i in range(count)], waits=turns):
        yield case
    worst = max(max(waits.values()) / statistics.median(waits.values()) for waits in turns)
    yield Case(f"longest wait for a place, as many times the median: {name}", round(worst, 2), "x", 3, "lower")


async def _beside_bare(
    bench: Bench,
    namespace: str,
    name: str,
    jobs: list[tuple[str, int]],
    *,
    rack: bool = False,
    waits: list[dict[str, float]] | None = None,
) -> AsyncIterator[Case]:
    """The jobs' pods by the operator, then the same pods by a bare loop while no operator runs, by turns: medians.

    `waits`: gets for each turn how long each job waited for its place.
    """
    count = sum(workers for _, workers in jobs)
    took, bare, least = [], [], []
    for turn in range(TURNS):
        here, there = f"{namespace}-{turn}", f"{namespace}-{turn}-bare"
        await bench.namespace(here)
        await bench.namespace(there)
        await bench.operator()
        await asyncio.sleep(CALM)
        await bench.settle()
        began = time.monotonic()
        places: dict[str, float] = {}
        watcher = (
            asyncio.create_task(_watch_places(bench, here, began, places, len(jobs))) if waits is not None else None
        )
        await many([bench.add_job(here, job, workers, rack=rack) for job, workers in jobs])
        await bench.until_pods(here, count, quiet=0.8 * min(took, default=0.0))
        took.append(time.monotonic() - began)
        if watcher is not None and waits is not None:
            await watcher
            waits.append(places)
        pods = await bench.all_pods(here)
        check(pods, count, bench.sizes.per_rack if rack else None)
        await bench.clear(here)
        await bench.settle()
        bare.append(await bench.bare(pods, there))
        await bench.clear(there)
        if waits is not None:
            # What nobody could be faster than who is given jobs: their users make them, and nobody decides anything.
            await bench.settle()
            least.append(await bench.bare(pods, there, [bench.a_job(name, workers) for name, workers in jobs]))
            await bench.clear(there)
    rate, naive = (count / statistics.median(each) for each in (took, bare))
    yield Case(f"from apply to all pods on their nodes: {name}", round(rate, 1), "pods/s", None, "higher")
    yield Case(f"bare loop: {name}", round(naive, 1), "pods/s", None, "higher")
    yield Case(f"share of the bare loop's pods/s: {name}", round(rate / naive, 3), "x", 0.9, "higher")
    if least:
        share = statistics.median(bare) / statistics.median(least)
        yield Case(
            f"share of a loop that makes the jobs too, and nothing else: {name}", round(share, 3), "x", None, "higher"
        )


async def _watch_places(bench: Bench, namespace: str, began: float, waits: dict[str, float], count: int) -> None:
    """Note when each job gets its place."""
    version = (await bench.client.list_page(JOBS, namespace, limit=1))["metadata"]["resourceVersion"]
    async with bench.client.watch(JOBS, namespace=namespace, resource_version=version, seconds=900) as events:
        async for event in events:
            obj = event["object"]
            if event["type"] != "BOOKMARK" and (obj.get("status") or {}).get("placement"):
                waits.setdefault(obj["metadata"]["name"], time.monotonic() - began)
                if len(waits) == count:
                    return
