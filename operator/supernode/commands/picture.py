"""The cluster as people see it: which node is where, how many devices it has, and which job holds them.

Flows in: raw nodes, pools, groups and jobs as the API has them. Flows out: plain values. Pure. What a job holds is what
its `status.placement` says until it has ended, so it can differ from the operator's own books for as long as pods take
to go. Not here: drawing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from supernode.api.group import SuperNodeGroup
from supernode.api.read import group_from, pool_from
from supernode.cluster import nodes, translate
from supernode.cluster.assignment import workers_of
from supernode.cluster.kinds import Json
from supernode.commands.reading import key_of
from supernode.errors import InputError
from supernode.scheduling.placement import WorkerPlacement
from supernode.scheduling.state import PoolSpec

FINISHED: Final = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a device: `job` is namespace/name."""

    job: str
    rank: int


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node.

    Attributes:
        name: of the node.
        pool: that it belongs to, or empty.
        devices: accelerators of that pool that it has.
        holders: device index -> who has it.
        usable: ready, not cordoned, its devices there.
        problem: why it is not usable, a word or two.
        domains: group -> its domain per level, outermost first; None where the label is missing.
    """

    name: str
    pool: str
    devices: int
    holders: dict[int, Holder]
    usable: bool
    problem: str
    domains: dict[str, tuple[str | None, ...]] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Devices that a worker could have now."""
        return self.devices - sum(index < self.devices for index in self.holders) if self.usable else 0


@dataclass(frozen=True, slots=True)
class Picture:
    """All nodes by name, the valid groups, and devices that each job holds per pool."""

    nodes: tuple[NodeView, ...]
    groups: dict[str, SuperNodeGroup]
    held: dict[tuple[str, str], int]

    def devices_in(self, pools: Collection[str]) -> int:
        """Devices of some pools, whoever holds them; 0 as well where nodes may not be listed."""
        return sum(view.devices for view in self.nodes if view.pool in pools)

    def holders_in(self, pool: str) -> list[tuple[str, int]]:
        """Jobs that hold devices of a pool; the largest first, then by name."""
        found = [(job, amount) for (where, job), amount in self.held.items() if where == pool]
        return sorted(found, key=lambda entry: (-entry[1], entry[0]))


def picture(
    raw_nodes: Iterable[Json], raw_pools: Iterable[Json], raw_groups: Iterable[Json], jobs: Iterable[Json]
) -> Picture:
    """Put the lists together; pools and groups that are not valid are left out, as the operator does."""
    pools = []
    specs: dict[str, PoolSpec] = {}
    for obj in raw_pools:
        try:
            pool = pool_from(_without_status(obj))
            specs[pool.metadata.name] = translate.pool_spec(pool)
            pools.append(pool)
        except InputError:
            continue
    groups: dict[str, SuperNodeGroup] = {}
    for obj in raw_groups:
        try:
            groups[obj["metadata"]["name"]] = group_from(_without_status(obj))
        except InputError:
            continue
    on_node, held = _held(jobs)
    oldest_first = translate.by_age(pools)
    views = []
    for node in sorted(raw_nodes, key=lambda node: str(node["metadata"]["name"])):
        selecting = translate.pools_selecting(node, oldest_first)
        name = node["metadata"]["name"]
        views.append(_view(node, specs[selecting[0]] if selecting else None, groups, on_node.get(name, {})))
    return Picture(tuple(views), dict(sorted(groups.items())), held)


def placed(job: Json) -> list[WorkerPlacement]:
    """The workers of a job's placement, as its status has them; none once it has ended."""
    status = job.get("status") or {}
    if status.get("state") in FINISHED:
        return []
    return workers_of(status.get("placement") or {})


def _held(jobs: Iterable[Json]) -> tuple[dict[str, dict[int, Holder]], dict[tuple[str, str], int]]:
    on_node: dict[str, dict[int, Holder]] = {}
    held: dict[tuple[str, str], int] = {}
    for job in jobs:
        key = key_of(job)
        for worker in placed(job):
            held[worker.pool, key] = held.get((worker.pool, key), 0) + len(worker.devices)
            for device in worker.devices:
                on_node.setdefault(worker.node, {})[device] = Holder(key, worker.rank)
    return on_node, held


def _view(node: Json, spec: PoolSpec | None, groups: dict[str, SuperNodeGroup], holders: dict[int, Holder]) -> NodeView:
    info = translate.node_info(node, spec, list(groups.values()))
    devices = 0
    if spec is not None:
        devices = spec.devices_per_node if spec.emulated else info.capacity.get(spec.resource, 0)
    problem = ""
    if not nodes.is_ready(node):
        problem = "not ready"
    elif (node.get("spec") or {}).get("unschedulable"):
        problem = "cordoned"
    elif node["metadata"].get("deletionTimestamp"):
        problem = "being deleted"
    elif not info.usable:
        problem = "devices not advertised"
    return NodeView(
        name=info.name,
        pool=info.pool,
        devices=devices,
        holders=dict(sorted(holders.items())),
        usable=info.usable,
        problem=problem,
        domains={name: tuple(levels) for name, levels in info.groups.items()},
    )


def _without_status(obj: Json) -> Json:
    return {name: value for name, value in obj.items() if name != "status"}
