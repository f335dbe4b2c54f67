"""AcceleratorPools and SuperNodeGroups: their status, and the emulated devices that their nodes offer.

Flows in: the cycle's snapshot. Flows out: status writes, and patches of nodes' status. An emulated pool has our
finalizer, so that its devices are withdrawn from the nodes even if it is deleted while no operator runs; it goes
when no gang holds a device of it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from supernode.api.conditions import Condition, ConditionType, set_condition, timestamp
from supernode.api.rules import Problem
from supernode.cluster import nodes, resources
from supernode.cluster import status as statuses
from supernode.cluster.cache import Key, Store
from supernode.cluster.kinds import GROUPS, POOLS, Json, Kind
from supernode.cluster.translate import unlabelled
from supernode.errors import ClusterError, ConflictError, NotFoundError
from supernode.handlers.census import Counts, Sick, census, count
from supernode.handlers.context import Context
from supernode.handlers.effective import (
    Effective,
    Effectives,
    Wired,
    differ,
    effective_compute,
    effective_json,
    measure_pools,
)
from supernode.handlers.groupstatus import LISTED, group_ready, group_status, many, named
from supernode.handlers.quotas import measure_use, overpromised, quota_use, use_json
from supernode.handlers.reading import Readings
from supernode.names import FINALIZER
from supernode.scheduling.room import LevelRoom, rooms
from supernode.scheduling.snapshot import Snapshot

logger = logging.getLogger(__name__)

# Levels of all groups that a pool's status tells of.
ROOMS: Final = 128


class Pools:
    """Looks after pools, groups and what emulated nodes offer.

    Args:
        context: what handlers share.
        readings: of jobs.
    """

    def __init__(self, context: Context, readings: Readings) -> None:
        self._context = context
        self._readings = readings
        self._effective = Effectives({}, {})
        self._sick = Sick()
        self._wired = Wired(context)
        # (pool, group) -> its room there, in the snapshot that is being reported.
        self._rooms: dict[tuple[str, str], tuple[LevelRoom, ...]] = {}
        # The snapshot's generation for which the devices are offered, and the one for which the status is written.
        self._offered_at: int | None = None
        self._reported_at: int | None = None
        # node -> resources that a pool of this operator's lifetime made it offer
        self._offered: dict[str, set[str]] = {}
        context.stores.pools.listen(self._on_change)
        context.stores.groups.listen(self._on_change)
        context.stores.nodes.listen(self._on_node)

    def _on_change(self, old: Json | None, new: Json | None) -> None:
        self._again()
        self._context.wake.set()

    def _again(self) -> None:
        """Nothing counts as done any more."""
        self._wired.forget()
        self._offered_at = self._reported_at = None

    def _on_node(self, old: Json | None, new: Json | None) -> None:
        if old is None or new is None or not nodes.same(old, new):
            self._sick.note(new, (new or old or {})["metadata"]["name"])
            self._on_change(old, new)

    async def offer(self) -> None:
        """Finalizers, and the emulated devices of nodes; nothing is done when nothing has changed.

        Before gangs are placed, so that none is refused for devices that are about to be offered.
        """
        generation = self._context.observer.snapshot().generation
        if self._offered_at == generation:
            return
        self._offered_at = generation
        # Finalizers first: what is offered must be withdrawn one day.
        done = [await self._hold(obj) for obj in list(self._context.stores.pools.objects().values())]
        done.append(await self._offer())
        if not all(done):
            self._try_later()

    def measure(self) -> None:
        """What running jobs get out of pools and groups; told in their status again where it is another now."""
        found = self._effective = effective_compute(self._context, self._readings, self._wired)
        measure_pools(self._context, found.pools)
        stores = self._context.stores
        for store, values in ((stores.pools, found.pools), (stores.groups, found.groups)):
            for name, effective in values.items():
                status = (store.get(("", name)) or {}).get("status") or {}
                if differ(status.get("effective"), effective):
                    self._reported_at = None

    async def report(self) -> None:
        """The status of pools and groups, after gangs were placed; nothing is done when nothing has changed."""
        snapshot = self._context.observer.snapshot()
        if self._reported_at == snapshot.generation:
            return
        self._reported_at = snapshot.generation
        done = []
        self._rooms.clear()
        for gauge in ("supernode_pool_fragmentation_ratio", "supernode_quota_devices", "supernode_quota_tflops"):
            self._context.metrics.clear(gauge)
        # One that came while we were writing is not in this cycle's view: its turn is in the next.
        view = self._context.observer.view
        for obj in list(self._context.stores.pools.objects().values()):
            if obj["metadata"]["name"] in view.pools.keys() | view.pool_problems.keys():
                done.append(await self._pool(obj, snapshot))
        for obj in list(self._context.stores.groups.objects().values()):
            if obj["metadata"]["name"] in view.groups.keys() | view.group_problems.keys():
                done.append(await self._group(obj, snapshot))
        if not all(done):
            self._try_later()

    def _try_later(self) -> None:
        self._again()
        asyncio.get_running_loop().call_later(1.0, self._context.wake.set)

    # --- devices on nodes ------------------------------------------------------------------------------------------
    async def _offer(self) -> bool:
        """Make every node of an emulated pool offer its devices, and no other node offer what we made it offer."""
        view = self._context.observer.view
        leaving = {
            obj["metadata"]["name"]
            for obj in self._context.stores.pools.objects().values()
            if "deletionTimestamp" in obj["metadata"] and not self._in_use(obj["metadata"]["name"])
        }
        work = []
        for (_, name), node in self._context.stores.nodes.objects().items():
            owner = view.pool_of_node.get(name, "")
            spec = view.specs.get(owner)
            wanted: dict[str, int] = {}
            offered = self._offered.setdefault(name, set())
            if spec is not None and spec.emulated:
                if owner not in leaving:
                    wanted = {spec.resource: spec.devices_per_node}
                offered.add(spec.resource)
            if resources.missing(node, wanted, frozenset(offered)):
                work.append(self._offer_one(node, wanted, frozenset(offered)))
        return all(await asyncio.gather(*work))

    async def _offer_one(self, node: Json, wanted: dict[str, int], offered: frozenset[str]) -> bool:
        name = node["metadata"]["name"]
        try:
            async with self._context.slots:
                new = await resources.advertise(self._context.client, node, wanted, offered)
        except ClusterError as exc:
            logger.warning("node %s could not be made to offer %s: %s", name, wanted, exc)
            return False
        if new is not None:
            amounts = ", ".join(f"{amount} {resource}" for resource, amount in wanted.items())
            logger.info("node %s offers %s", name, amounts or "nothing of ours any more")
            self._context.stores.nodes.offer(new)
        return True

    def _in_use(self, pool: str) -> bool:
        snapshot = self._context.observer.snapshot()
        return any(pool in holding.pools for holding in snapshot.holders.values())

    async def _hold(self, obj: Json) -> bool:
        """Put our finalizer on an emulated pool; take it off one that goes and whose devices are withdrawn."""
        metadata, name = obj["metadata"], obj["metadata"]["name"]
        held = FINALIZER in (metadata.get("finalizers") or [])
        if "deletionTimestamp" not in metadata:
            wanted = held or (obj.get("spec") or {}).get("mode") == "Emulated"
        else:
            wanted = held and (self._in_use(name) or self._still_offered(name))
        if wanted == held:
            return True
        return await self._try(POOLS, self._context.stores.pools, obj, finalizer=wanted)

    def _still_offered(self, pool: str) -> bool:
        view = self._context.observer.view
        spec = view.specs.get(pool)
        if spec is None or not spec.emulated:
            return False
        for node, owner in view.pool_of_node.items():
            raw = self._context.stores.nodes.get(("", node))
            if owner == pool and raw is not None and spec.resource in nodes.allocatable(raw):
                self._again()
                return True
        return False

    # --- status ----------------------------------------------------------------------------------------------------
    async def _pool(self, obj: Json, snapshot: Snapshot) -> bool:
        name = obj["metadata"]["name"]
        view, metrics = self._context.observer.view, self._context.metrics
        problem = view.pool_problems.get(name)
        counts = count(snapshot, name, self._unhealthy(name))
        for state in ("capacity", "allocated", "free", "unhealthy"):
            metrics.gauge("supernode_pool_devices", getattr(counts, state), name, state)
        ready, reason, message = self._pool_ready(obj, name, counts)
        pool = snapshot.pool(name)
        if pool is not None and (more := overpromised(snapshot, pool)):
            message = f"{message}; {more}: not everybody can have what is guaranteed at once"
        if problem is not None:
            ready, reason, message = False, "Misconfigured", str(problem)
        status = {
            **(obj.get("status") or {}),
            "observedGeneration": obj["metadata"].get("generation", 0),
            "nodes": counts.nodes,
            "capacity": counts.capacity,
            "allocated": counts.allocated,
            "free": counts.free,
            "unhealthy": counts.unhealthy,
            "room": self._room(snapshot, name),
            "quotas": self._quotas(snapshot, name),
        }
        _tell_effective(status, self._effective.pools.get(name))
        self._conditions(POOLS, obj, status, problem, ready, reason, message)
        return await self._try(POOLS, self._context.stores.pools, obj, status)

    def _unhealthy(self, pool: str = "", members: Collection[str] = ()) -> int:
        """Unhealthy devices of a pool's nodes, or of some nodes."""
        view = self._context.observer.view
        found = 0
        for node in self._sick.names():
            owner = view.pool_of_node.get(node, "")
            if owner and (owner == pool or node in members):
                found += self._sick.devices(node, view.specs.get(owner))
        return found

    def _room(self, snapshot: Snapshot, name: str) -> list[Json]:
        found: list[Json] = []
        for topology in snapshot.topologies:
            self._rooms[name, topology.name] = rooms(snapshot, name, topology)
            for room in self._rooms[name, topology.name]:
                self._context.metrics.gauge(
                    "supernode_pool_fragmentation_ratio", room.fragmentation, name, room.group, room.level
                )
                found.append(
                    {
                        "group": room.group,
                        "level": room.level,
                        "largestGang": room.largest,
                        "domain": "/".join(room.domain),
                        "domainSize": room.capacity,
                        "fragmentation": round(room.fragmentation, 3),
                    }
                )
        return found[:ROOMS]

    def _quotas(self, snapshot: Snapshot, name: str) -> list[Json]:
        pool = snapshot.pool(name)
        if pool is None:
            return []
        use = quota_use(snapshot, pool)
        measure_use(self._context.metrics, name, use)
        return use_json(use)

    def _pool_ready(self, obj: Json, name: str, counts: Counts) -> tuple[bool, str, str]:
        view = self._context.observer.view
        taken = view.taken.get(name) or {}
        odd = {n: text for n, text in view.node_problems.items() if view.pool_of_node.get(n) == name}
        if taken:
            owners = ", ".join(sorted(set(taken.values())))
            return False, "NodesTaken", f"older pool {owners} has {named(taken)}, which this pool selects too"
        if odd:
            return False, "NodesRefused", "; ".join(sorted(odd.values())[:LISTED])
        if counts.nodes == 0:
            return False, "NoNodes", "spec.nodeSelector selects no node"
        if counts.capacity == 0:
            return False, "NoDevices", f"{many(counts.nodes, 'node')}, but no accelerator is offered there"
        if "deletionTimestamp" in obj["metadata"]:
            return False, "Deleting", "it goes when no gang holds a device of it any more"
        found = f"{many(counts.nodes, 'node')} with {many(counts.capacity, 'accelerator')}, {counts.free} free"
        return True, "Ready", found

    async def _group(self, obj: Json, snapshot: Snapshot) -> bool:
        name = obj["metadata"]["name"]
        view = self._context.observer.view
        problem = view.group_problems.get(name)
        group = view.groups.get(name)
        unfit = unlabelled(group, self._context.stores.nodes.objects()) if group is not None else {}
        topology = next((t for t in snapshot.topologies if t.name == name), None)
        counts = Counts(0, 0, 0, 0, 0)
        if topology is not None:
            members = {snapshot.node_names[row] for row in topology.node_rows.tolist()}
            counts = census(snapshot, topology.node_rows, self._unhealthy(members=members))
        found = [(pool, room) for (pool, where), each in self._rooms.items() if where == name for room in each]
        told = group_status(topology, counts, found, None, unfit)
        ready, reason, message = group_ready(told, problem, unfit)
        status = {
            **(obj.get("status") or {}),
            "observedGeneration": obj["metadata"].get("generation", 0),
            **told,
        }
        _tell_effective(status, self._effective.groups.get(name))
        self._conditions(GROUPS, obj, status, problem, ready, reason, message)
        return await self._try(GROUPS, self._context.stores.groups, obj, status)

    def _conditions(
        self, kind: Kind, obj: Json, status: Json, problem: Problem | None, ready: bool, reason: str, message: str
    ) -> None:
        """Set Accepted and Ready in `status`; an event when Ready or its reason changes."""
        now = timestamp(self._context.now())
        generation = obj["metadata"].get("generation", 0)
        accepted = Condition(str(ConditionType.ACCEPTED), "True", "Accepted", "it is valid", generation)
        if problem is not None:
            accepted = Condition(str(ConditionType.ACCEPTED), "False", "Misconfigured", str(problem), generation)
        wanted = Condition(str(ConditionType.READY), "True" if ready else "False", reason, message, generation)
        said = statuses.condition(obj, str(ConditionType.READY)) or {}
        if said.get("reason") != reason:
            tell = self._context.events.normal if ready else self._context.events.warning
            tell(kind, obj, reason, message)
        conditions = set_condition(status.get("conditions") or [], accepted, now=now)
        status["conditions"] = set_condition(conditions, wanted, now=now)

    async def _try(
        self, kind: Kind, store: Store, obj: Json, status: Json | None = None, *, finalizer: bool | None = None
    ) -> bool:
        """One write; False when it must be tried again."""
        client = self._context.client
        key: Key = ("", obj["metadata"]["name"])
        try:
            if finalizer is not None:
                new = await statuses.set_finalizer(client, kind, obj, FINALIZER, present=finalizer)
            else:
                new = await statuses.write(client, kind, store.get(key) or obj, status or {})
            store.offer(new)
        except NotFoundError:
            store.forget(obj)
        except ConflictError:
            return False  # somebody else wrote first: the watch tells of it before it is tried again
        except ClusterError as exc:
            self._context.metrics.count("supernode_reconcile_errors", kind.kind)
            logger.warning("%s %s: %s", kind.kind, key[1], exc)
            return False
        return True


def _tell_effective(status: Json, effective: Effective | None) -> None:
    """Put what running jobs get out of it into a status, where it says something else by now."""
    if effective is not None and differ(status.get("effective"), effective):
        status["effective"] = effective_json(effective)
