"""The operator as a whole: waits for the lease, then runs kopf, the caches and the cycle until told to stop.

Flows in: `Settings` and a connection. Flows out: an exit status. If any part ends by itself, or the lease is lost,
everything stops at once and the process ends: the next one goes on from what the API holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import kopf
from prometheus_client import CollectorRegistry

from supernode.cluster import nodes, pods
from supernode.cluster.cache import Cache, Store
from supernode.cluster.client import Client
from supernode.cluster.creation import speaks_protobuf
from supernode.cluster.events import Events
from supernode.cluster.kinds import GROUPS, JOBS, NODES, PODS, POOLS, PRIORITY_CLASSES, Kind
from supernode.cluster.lease import Lease, LeaseSettings
from supernode.cluster.observe import Observer, Stores
from supernode.cluster.protobuf_reading import pods_form
from supernode.errors import ClusterError, NotFoundError
from supernode.handlers import wiring
from supernode.handlers.context import Context
from supernode.handlers.cycle import Cycle
from supernode.handlers.health import served
from supernode.handlers.jobs import Jobs
from supernode.handlers.pools import Pools
from supernode.handlers.progress import ProgressPoller, Reports
from supernode.handlers.reading import Readings
from supernode.telemetry.metrics import OperatorMetrics

logger = logging.getLogger(__name__)

# Seconds between full lists of our kinds: an event that kopf missed while it was cut off is made up for.
RELIST: Final = 60.0
# Objects made before the youngest are searched for garbage: a gang's pods are tens of thousands.
YOUNG: Final = 10_000
# Seconds without a cycle's end after which the process counts as hanging.
HANGING: Final = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How the operator runs.

    Ports may be 0 for "any free one"; `namespace` None is all namespaces; `signals` stop it.
    """

    identity: str
    image: str
    kubeconfig: str | None = None
    namespace: str | None = None
    host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside the pod
    metrics_port: int = 0
    health_port: int = 0
    lease_seconds: int = 15
    signals: tuple[signal.Signals, ...] = ()


class Operator:
    """One operator process.

    Args:
        settings: how it runs.
        registry: where its metrics are registered.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._metrics = OperatorMetrics(registry)
        self._stop = asyncio.Event()
        self._ready = False
        self._last_cycle: float | None = None

    def stop(self) -> None:
        """Stop, release the lease, end."""
        self._stop.set()

    async def run(self) -> int:
        """Run until stopped (0) or until the lease or a part is lost (1).

        Raises:
            ClusterError: no configuration, or the API server can't be used at all.
        """
        settings = self._settings
        self._take_signals()
        on_request = self._count_request
        client = await Client.connect(settings.kubeconfig, on_request=on_request)
        lease_client = await Client.connect(settings.kubeconfig, on_request=on_request)
        lease = Lease(lease_client, LeaseSettings(settings.identity, settings.lease_seconds))
        self._metrics.gauge("supernode_leader", 0)
        try:
            async with served(
                host=settings.host,
                health_port=settings.health_port,
                metrics_port=settings.metrics_port,
                alive=self._alive,
                ready=lambda: "" if self._ready else "not connected yet",
                metrics=self._metrics,
            ) as ports:
                logger.info("health on port %d, metrics on port %d", ports.health, ports.metrics)
                return await self._lead(client, lease)
        finally:
            await client.close()
            await lease_client.close()

    async def _lead(self, client: Client, lease: Lease) -> int:
        if not await self._unless_stopped(self._await_definitions(client)):
            return 0
        # A standby is ready too: it can take over at any time.
        self._ready = True
        if not await self._unless_stopped(lease.acquire()):
            await lease.release()
            return 0
        client.guard = lease.guard
        self._metrics.gauge("supernode_leader", 1)
        try:
            return await self._work(client, lease)
        finally:
            self._metrics.gauge("supernode_leader", 0)
            await lease.release()

    async def _work(self, client: Client, lease: Lease) -> int:
        """Everything that runs while leading; returns when the first part ends."""
        settings = self._settings
        stores = Stores(Store(), Store(), Store(), Store(trim=nodes.trim), Store(trim=pods.trim))
        events = Events(client, settings.identity)
        context = Context(client, stores, Observer(stores), events, self._metrics, settings.image)
        events.busy = context.slots.locked  # pods first
        reports = Reports()
        readings = Readings(context)
        jobs = Jobs(context, reports, readings)
        cycle = Cycle(context, jobs, Pools(context, readings), readings, on_end=self._note_cycle)
        stop_kopf = asyncio.Event()
        node_cache = Cache(client, NODES, stores.nodes, on_restart=self._counter("nodes"))
        pod_cache = Cache(
            client,
            PODS,
            stores.pods,
            namespace=settings.namespace,
            on_restart=self._counter("pods"),
            form=pods_form(stores.pods.knows),
        )
        class_cache = Cache(client, PRIORITY_CLASSES, stores.classes, on_restart=self._counter("priorityclasses"))
        watched = [(JOBS, stores.jobs), (POOLS, stores.pools), (GROUPS, stores.groups)]
        listers = [Cache(client, kind, store, namespace=settings.namespace) for kind, store in watched]
        tasks = {
            asyncio.create_task(part, name=name)
            for name, part in {
                "lease": lease.keep(),
                "stop": self._stop.wait(),
                "nodes": node_cache.run(),
                "pods": pod_cache.run(),
                "priorityclasses": class_cache.run(),
                "events": events.run(),
            }.items()
        }
        try:
            ended = await self._first_of(tasks, self._synced([node_cache, pod_cache, class_cache], listers))
            if not ended:
                logger.info(
                    "synchronised: %d nodes, %d pods, %d jobs", len(stores.nodes), len(stores.pods), len(stores.jobs)
                )
                _settle()
                registry = wiring.wire(stores, client.credentials)
                scope: dict[str, Any] = (
                    {"clusterwide": True} if settings.namespace is None else {"namespaces": [settings.namespace]}
                )
                parts = {
                    "kopf": self._kopf(registry, stop_kopf, scope),
                    "cycle": cycle.run(),
                    "progress": ProgressPoller(context, reports, jobs.due.touch).run(),
                    "relist": self._relist(listers),
                }
                tasks |= {asyncio.create_task(part, name=name) for name, part in parts.items()}
                context.protobuf = await speaks_protobuf(client)
                context.wake.set()
                ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return self._verdict(ended)
        finally:
            stop_kopf.set()
            if lease.leading and self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2):
                        await events.drain()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=5)

    async def _kopf(self, registry: kopf.OperatorRegistry, stop: asyncio.Event, scope: dict[str, Any]) -> None:
        """kopf's tasks, until `stop`. It takes the process's signals for itself: they are taken back."""
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=wiring.settings(),
            # Its own guess asks for the name of the user, and fails where there is none: the image has only a number.
            identity=self._settings.identity,
            standalone=True,
            stop_flag=stop,
            **scope,
        )
        self._take_signals()
        await kopf.run_tasks(tasks, ignored=others)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in self._settings.signals:
            loop.add_signal_handler(number, self.stop)

    def _verdict(self, ended: set[asyncio.Task[Any]]) -> int:
        status = 0
        for task in ended:
            if task.get_name() == "stop":
                continue
            status = 1
            error = None if task.cancelled() else task.exception()
            if error is not None:
                logger.error("%s ended: %s", task.get_name(), error, exc_info=error)
            else:
                logger.error("%s ended", task.get_name())
        return status

    async def _first_of(self, tasks: set[asyncio.Task[Any]], work: Coroutine[Any, Any, None]) -> set[asyncio.Task[Any]]:
        """Wait for `work`, unless one of `tasks` ends before: then those that did."""
        task = asyncio.create_task(work)
        done, _ = await asyncio.wait({task, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            await task
            return set()
        task.cancel()
        return done

    async def _synced(self, caches: list[Cache], listers: list[Cache]) -> None:
        """Until everything has been listed once: nothing is decided before."""
        for cache in caches:
            await cache.synced.wait()
        for lister in listers:
            while True:
                try:
                    await lister.relist()
                except ClusterError as exc:
                    logger.warning("list: %s", exc)
                    await asyncio.sleep(1)
                else:
                    break

    async def _relist(self, listers: list[Cache]) -> None:
        while True:
            await asyncio.sleep(RELIST)
            for lister in listers:
                try:
                    await lister.relist()
                except ClusterError as exc:
                    logger.warning("list: %s", exc)

    async def _await_definitions(self, client: Client) -> None:
        """Until the API server knows our kinds."""
        told = ""
        for kind in (JOBS, POOLS, GROUPS):
            while True:
                text = await self._problem_with(client, kind)
                if not text:
                    break
                if text != told:
                    told = text
                    logger.warning("waiting: %s", text)
                await asyncio.sleep(0.5)

    async def _problem_with(self, client: Client, kind: Kind) -> str:
        try:
            await client.list_page(kind, self._settings.namespace if kind.namespaced else None, limit=1)
        except NotFoundError:
            return f"the API server knows no {kind.plural}; apply crds/, or install the chart"
        except ClusterError as exc:
            return str(exc)
        return ""

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Wait for `work`; False if told to stop before."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            await task
            return True
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return False

    def _alive(self) -> str:
        """Liveness: while leading, cycles must end."""
        if self._last_cycle is None:
            return ""
        silent = asyncio.get_running_loop().time() - self._last_cycle
        return f"no cycle has ended for {silent:.0f} s" if silent > HANGING else ""

    def _note_cycle(self) -> None:
        self._last_cycle = asyncio.get_running_loop().time()

    def _count_request(self, verb: str, status: int) -> None:
        self._metrics.count("supernode_api_requests", verb, str(status))

    def _counter(self, resource: str) -> Any:
        return lambda why: self._metrics.count("supernode_watch_restarts", resource, why)


def _settle() -> None:
    """Take what was read at the start, which stays, out of the search for garbage.

    With 5,000 nodes and 10,000 pods each full search costs 60 ms, in the midst of a gang's pods. What
    goes later goes by its count of references, as nearly everything here does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
