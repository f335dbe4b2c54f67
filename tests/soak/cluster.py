"""What the schedules run on: nodes, one or two pools, a group, quotas; and nodes that come, go and fail.

In: lots. Out: objects on the server, made by a user whom no fault touches.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from tests.soak.connection import DirectClient
from tests.soak.world import World

from supernode.cluster.kinds import GROUPS, NODES, POOLS, PRIORITY_CLASSES, Json, Kind

ROOT = Path(__file__).parents[2]
NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
DEFINITIONS = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
TEAMS = ("team-a", "team-b")
# Whose pods admission refuses.
BARRED = "team-c"
# Devices of a node; nodes of a domain.
DEVICES = 2
TOGETHER = 2
FIRST, SECOND = "soak", "other"
OTHER_RESOURCE = "huawei.com/Ascend910"


@dataclass(frozen=True)
class Plan:
    """What there is.

    Args:
        first: nodes of the first pool, whose devices are emulated.
        second: nodes of the second pool; 0 = there is none.
        real: the second pool has real devices, so that workers can be replaced alone.
        limit: most devices of the first team in the first pool; 0 = all of them.
        guaranteed: team -> devices of the first pool.
        moves: pool -> seconds that a gang rests before it may be moved unasked; not there = nobody moves unasked.
    """

    first: int = 3
    second: int = 0
    real: bool = False
    limit: int = 0
    guaranteed: dict[str, int] = field(default_factory=dict)
    moves: dict[str, int] = field(default_factory=dict)

    @classmethod
    def drawn(cls, chance: random.Random) -> Plan:
        """Any of them."""
        first, second = chance.randint(3, 5), chance.choice([0, 3, 3])
        limit = chance.choice([DEVICES * first, DEVICES * first - 2, 4])
        guaranteed = {TEAMS[0]: min(chance.choice([0, 2, 2, 4]), limit)}
        if chance.random() < 0.3:
            guaranteed[TEAMS[1]] = 2
        moves = {pool: chance.choice([0, 10]) for pool in (FIRST, SECOND) if chance.random() < 0.6}
        return cls(first, second, chance.random() < 0.5, limit, guaranteed, moves)


class Cluster:
    """Nodes and pools. `limit`: most devices of the first team in the first pool. `down`: nodes without a kubelet."""

    def __init__(self, world: World, user: DirectClient, plan: Plan) -> None:
        self.world, self.user, self.plan = world, user, plan
        self.nodes: dict[str, tuple[str, int]] = {}  # name -> pool, index in it
        self.down: set[str] = set()
        self.limit = plan.limit or DEVICES * plan.first

    async def furnish(self) -> None:
        """Everything but jobs."""
        user, plan = self.user, self.plan
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            await user.create(DEFINITIONS, _definition(path))
        await asyncio.sleep(1)
        for team in (*TEAMS, BARRED):
            await user.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": team}})
        for name, value in (("low", 1), ("mid", 50), ("high", 100)):
            body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": value}
            await user.create(PRIORITY_CLASSES, {**body, "metadata": {"name": name}})
        for index in range(plan.first):
            await self.add_node(f"node-{index}", FIRST, index)
        for index in range(plan.second):
            await self.add_node(f"other-{index}", SECOND, index)
        quotas: list[Json] = [{"namespace": team, "guaranteed": count} for team, count in plan.guaranteed.items()]
        mine = next((quota for quota in quotas if quota["namespace"] == TEAMS[0]), None)
        if mine is None:
            quotas.append(mine := {"namespace": TEAMS[0], "guaranteed": 0})
        mine["limit"] = self.limit
        emulated: Json = {"mode": "Emulated", "devicesPerNode": DEVICES}
        await self._pool(FIRST, {"chip": "hygon-bw1000", **emulated, "quotas": quotas})
        if plan.second:
            mode: Json = {"mode": "Hardware"} if plan.real else emulated
            await self._pool(SECOND, {"chip": "huawei-ascend-910c", **mode})
        level = {"name": "sn", "nodeLabel": "soak/sn", "bandwidthGBps": 224, "latencyMicroseconds": 2}
        selector = {"matchLabels": {"soak": "yes"}}
        await self._make(GROUPS, "soak", {"nodeSelector": selector, "levels": [level]})

    def size(self, pool: str) -> int:
        """Nodes of a pool, whether they are there just now or not."""
        return sum(of == pool for of, _ in self.nodes.values())

    async def _pool(self, name: str, spec: Json) -> None:
        moves: Json = {"mode": "OnRequest"}
        if name in self.plan.moves:
            moves = {"mode": "Automatic", "afterSeconds": 3, "restSeconds": self.plan.moves[name]}
        await self._make(
            POOLS, name, {**spec, "nodeSelector": {"matchLabels": {"soak/pool": name}}, "defragmentation": moves}
        )

    async def _make(self, kind: Kind, name: str, spec: Json) -> None:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, "spec": spec}
        await self.user.create(kind, body)

    async def add_node(self, name: str, pool: str, index: int) -> None:
        """A node, new or come back, ready."""
        labels = {"soak": "yes", "soak/pool": pool, "soak/sn": f"{pool}-{index // TOGETHER}"}
        await self.user.create(
            NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        )
        offer = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "10Gi"}
        if pool == SECOND and self.plan.real:
            offer[OTHER_RESOURCE] = str(DEVICES)
        await self.user.patch(NODES, name, {"status": {"capacity": offer, "allocatable": offer}}, subresource="status")
        self.nodes.setdefault(name, (pool, index))
        await self.ready(name, "True")

    def there(self, name: str) -> bool:
        """Whether the server has the node."""
        return self.world.store.get(("", "nodes"), ("", name)) is not None

    async def ready(self, name: str, status: str) -> None:
        """Its kubelet is well, or not."""
        (self.down.discard if status == "True" else self.down.add)(name)
        stamp = self.world.server._objects.clock.timestamp()
        condition = {"type": "Ready", "status": status, "reason": "Soak", "lastTransitionTime": stamp}
        await self.user.patch(NODES, name, {"status": {"conditions": [condition]}}, subresource="status")

    async def mend(self) -> None:
        """Every node is there and well."""
        for name, (pool, index) in self.nodes.items():
            if not self.there(name):
                await self.add_node(name, pool, index)
            await self.ready(name, "True")
            annotations = {"supernode.dev/unhealthy-devices": None}
            patch = {"metadata": {"annotations": annotations}, "spec": {"taints": None, "unschedulable": None}}
            await self.user.patch(NODES, name, patch)


_DEFINITIONS: dict[Path, Json] = {}


def _definition(path: Path) -> Json:
    if path not in _DEFINITIONS:
        _DEFINITIONS[path] = yaml.safe_load(path.read_text())
    return _DEFINITIONS[path]
