"""One operator process, as far as it decides: everything of `runtime`, but for kopf, ports and signals.

kopf brings the events of three kinds; here the operator's own watches do. Killing it cancels it at whatever await it
stands, and nothing more of it is heard; what it had sent is still on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry
from tests.soak.connection import DirectClient
from tests.soak.world import World

from supernode.cluster import nodes, pods
from supernode.cluster.cache import Cache, Store
from supernode.cluster.events import Events
from supernode.cluster.kinds import GROUPS, JOBS, NODES, PODS, POOLS, PRIORITY_CLASSES
from supernode.cluster.lease import Lease, LeaseSettings
from supernode.cluster.observe import Observer, Stores
from supernode.handlers.context import Context
from supernode.handlers.cycle import Cycle
from supernode.handlers.jobs import Jobs
from supernode.handlers.pools import Pools
from supernode.handlers.progress import Reports
from supernode.handlers.reading import Readings
from supernode.telemetry.metrics import OperatorMetrics


class Replica:
    """One process after the other under one name; each has its own identity.

    Args:
        world: where it runs.
        name: such as `operator-0`.
        lease_seconds: how long its lease lasts.
    """

    def __init__(self, world: World, name: str, lease_seconds: int) -> None:
        self.world, self.name, self.lease_seconds = world, name, lease_seconds
        self.skew = 0.0  # seconds that its clock is wrong
        self.lives = 0
        self.clients: list[DirectClient] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self.main: asyncio.Task[None] | None = None
        self._lease: Lease | None = None
        self._release: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def identity(self) -> str:
        return f"{self.name}.{self.lives}"

    def now(self) -> float:
        return self.world.wall() + self.skew

    def start(self) -> None:
        self.lives += 1
        # The lease's own requests are never guarded.
        self.clients = [DirectClient(self.world, self.identity), DirectClient(self.world, self.identity)]
        self._tasks, self._lease, self._release, self._stopping = [], None, None, False
        self.main = self.world.loop.create_task(self._run(*self.clients))

    @property
    def dead(self) -> bool:
        return self.main is None or self.main.done()

    def kill(self) -> None:
        """As SIGKILL does: not one more word."""
        self._end()
        for task in (self.main, self._release):
            if task is not None:
                task.cancel()

    async def stop(self) -> None:
        """As SIGTERM does: everything stops, then the lease is given back; a kill may come before that is done."""
        self._stopping, clients, lease = True, self.clients, self._lease
        for task in (*self._tasks, self.main):
            if task is not None:
                task.cancel()
        if lease is not None:
            self._release = self.world.loop.create_task(lease.release())
            await asyncio.wait([self._release])
        for client in clients:
            client.gone = True

    def _end(self) -> None:
        for client in self.clients:
            client.gone = True
        for task in self._tasks:
            task.cancel()

    async def _run(self, client: DirectClient, working: DirectClient) -> None:
        world = self.world
        settings = LeaseSettings(self.identity, self.lease_seconds)
        lease = Lease(client, settings, clock=world.loop.time)
        self._lease = lease
        await lease.acquire()
        working.guard = lease.guard
        metrics = OperatorMetrics(CollectorRegistry())
        stores = Stores(Store(), Store(), Store(), Store(trim=nodes.trim), Store(trim=pods.trim))
        events = Events(working, self.identity, now=lambda: datetime.fromtimestamp(self.now(), UTC))
        context = Context(working, stores, Observer(stores), events, metrics, "supernode:soak", now=self.now)
        readings = Readings(context)
        reports = Reports()
        jobs = Jobs(context, reports, readings)
        cycle = Cycle(context, jobs, Pools(context, readings), readings, on_end=lambda: None)
        kinds = [
            (NODES, stores.nodes),
            (PODS, stores.pods),
            (PRIORITY_CLASSES, stores.classes),
            (JOBS, stores.jobs),
            (POOLS, stores.pools),
            (GROUPS, stores.groups),
        ]
        caches = [Cache(working, kind, store) for kind, store in kinds]
        parts: list[Coroutine[Any, Any, None]] = [lease.keep(), events.run(), *(cache.run() for cache in caches)]
        self._tasks = [world.loop.create_task(part) for part in parts]
        try:
            synced = world.loop.create_task(_synced(caches))
            self._tasks.append(synced)
            await asyncio.wait([self._tasks[0], synced], return_when=asyncio.FIRST_COMPLETED)
            if self._tasks[0].done():
                return
            context.wake.set()
            work = world.loop.create_task(cycle.run())
            polls = world.loop.create_task(self._poll(context, reports, jobs))
            self._tasks = [task for task in self._tasks if task is not synced] + [work, polls]
            ended, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                if not task.cancelled() and task.exception() is not None:
                    raise task.exception() or RuntimeError
        finally:
            if not self._stopping:
                self._end()

    async def _poll(self, context: Context, reports: Reports, jobs: Jobs) -> None:
        """What the sidecars report, as the poller would have it from them."""
        while True:
            await asyncio.sleep(2)
            for key, obj in list(context.stores.jobs.objects().items()):
                placement = (obj.get("status") or {}).get("placement") or {}
                uid, attempt = obj["metadata"]["uid"], placement.get("attempt", 0)
                report = self.world.progress.get((uid, attempt))
                if report is not None and reports.put(uid, attempt, report, context.now()):
                    jobs.due.touch(key)

    def cut(self, until: float) -> None:
        """Nothing gets through to the server, nor back, until then."""
        for client in self.clients:
            client.cut_until = until


async def _synced(caches: list[Cache]) -> None:
    for cache in caches:
        await cache.synced.wait()
