"""Pools, groups and nodes as `cluster` hands them to the scheduler's `State`: frozen values in canonical units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from supernode.chips import Chip
from supernode.errors import InputError
from supernode.scheduling.demand import MOST_DEVICES
from supernode.scheduling.quota import Quota
from supernode.scheduling.snapshot import Store
from supernode.scheduling.topology import Level, check_figure

#: Largest amount of anything on a node, and largest that a pod is booked with: what asks for more fills any node just
#: the same, and sums over a node's pods stay inside 64 bits.
_MOST_OFFERED: Final = 2**56
_MOST_BOOKED: Final = 2**52
#: Largest quota in MFLOP/s: 10^12 TFLOPS.
_MOST_COMPUTE: Final = 10**18


@dataclass(frozen=True, eq=False)
class PoolSpec:
    """An AcceleratorPool as the scheduler sees it (its nodes come with the nodes).

    Attributes:
        name: of the pool.
        chip: data sheet.
        resource: name that pods request, such as ``hygon.com/hcu``.
        emulated: devices come from the sidecar: each node has `devices_per_node`, whatever it reports.
        devices_per_node: of an emulated pool.
        bandwidth: bytes/s of one card, one way, inside a node.
        latency: seconds per hop inside a node.
        quotas: per namespace.
    """

    name: str
    chip: Chip
    resource: str
    emulated: bool
    devices_per_node: int
    bandwidth: float
    latency: float
    quotas: tuple[Quota, ...] = ()


@dataclass(frozen=True)
class GroupSpec:
    """A SuperNodeGroup as the scheduler sees it: levels outermost first, without the node; and its storage."""

    name: str
    levels: tuple[Level, ...]
    stores: tuple[Store, ...] = ()


@dataclass(frozen=True)
class NodeInfo:
    """A node as the scheduler sees it.

    Attributes:
        name: of the node.
        capacity: resource name -> allocatable amount, in canonical units (milli-CPU, bytes, devices, pods).
        usable: ready and not cordoned. Taints, selectors and affinity are the job's: `GangDemand.eligible`.
        pool: name of the one pool that selects it; empty = none.
        groups: name of each group that selects it -> its label value per level, outermost first; None = no label.
        unhealthy: bit i = device i exists but must not be used.
        marks: what jobs' selectors and tolerations are held against. Not read here: it only tells that who may go
            there can be another question than it was, although nothing else has changed.
    """

    name: str
    capacity: Mapping[str, int]
    usable: bool = True
    pool: str = ""
    groups: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    unhealthy: int = 0
    marks: tuple[object, ...] = ()


def booked(request: Mapping[str, int], obj: str) -> dict[str, int]:
    """What is booked for a pod: its request, one pod, and nothing so large that sums could overflow.

    Raises:
        InputError: an amount that is not a whole number of 0 or more; names the object and the resource.
    """
    amounts = {"pods": 1, **request}
    for name, amount in amounts.items():
        if type(amount) is not int or not 0 <= amount <= _MOST_BOOKED:
            if isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
                raise InputError(
                    f"must be a whole number of 0 or more, found {amount!r}", field=f"request {name}", obj=obj
                )
            amounts[name] = min(amount, _MOST_BOOKED)
    return amounts


def check_devices(count: object, obj: str, field: str) -> None:
    """Refuse a number of devices that no node can have.

    Raises:
        InputError: names object and field.
    """
    if not _is_whole(count, 0, MOST_DEVICES):
        raise InputError(f"a node has 0 to {MOST_DEVICES} devices, found {count!r}", field=field, obj=obj)


def check_pool(spec: PoolSpec) -> None:
    """Refuse a pool that can't be.

    Raises:
        InputError: names pool and field.
    """
    obj = f"AcceleratorPool {spec.name}"
    check_devices(spec.devices_per_node, obj, "spec.devicesPerNode")
    check_figure(spec.bandwidth, "spec.interconnect.bandwidthGBps", obj, zero=False)
    check_figure(spec.latency, "spec.interconnect.latencyMicroseconds", obj)
    seen: set[str] = set()
    for index, quota in enumerate(spec.quotas):
        where = f"spec.quotas[{index}]"
        if quota.namespace in seen:
            raise InputError(f"{quota.namespace} has a quota already", field=f"{where}.namespace", obj=obj)
        seen.add(quota.namespace)
        if not _is_whole(quota.guaranteed, 0, _MOST_OFFERED):
            raise InputError(
                f"must be a whole number from 0 to 2^56, found {quota.guaranteed!r}",
                field=f"{where}.guaranteed",
                obj=obj,
            )
        if quota.limit is not None and not _is_whole(quota.limit, quota.guaranteed, _MOST_OFFERED):
            raise InputError(
                f"must be a whole number of at least what is guaranteed, {quota.guaranteed}, found {quota.limit!r}",
                field=f"{where}.limit",
                obj=obj,
            )
        if not _is_whole(quota.guaranteed_compute, 0, _MOST_COMPUTE):
            raise InputError(
                f"must be from 0 to 10^12 TFLOPS, found {quota.guaranteed_compute!r} MFLOP/s",
                field=f"{where}.guaranteedTFLOPS",
                obj=obj,
            )
        if quota.limit_compute is not None and not _is_whole(
            quota.limit_compute, quota.guaranteed_compute, _MOST_COMPUTE
        ):
            raise InputError(
                f"must be at least what is guaranteed, {quota.guaranteed_compute} MFLOP/s, found "
                f"{quota.limit_compute!r}",
                field=f"{where}.limitTFLOPS",
                obj=obj,
            )


def check_node(node: NodeInfo) -> None:
    """Refuse a node that can't be.

    Raises:
        InputError: names node and field.
    """
    obj = f"Node {node.name}"
    for name, amount in node.capacity.items():
        if not _is_whole(amount, 0, _MOST_OFFERED):
            raise InputError(
                f"must be a whole number from 0 to 2^56, found {amount!r}", field=f"status.allocatable.{name}", obj=obj
            )
    if not _is_whole(node.unhealthy, 0, 2**MOST_DEVICES - 1):
        raise InputError(
            f"must be a mask of {MOST_DEVICES} devices, found {node.unhealthy!r}", field="unhealthy", obj=obj
        )
    for group, values in node.groups.items():
        for value in values:
            if value is not None and not isinstance(value, str):
                raise InputError(
                    f"labels for group {group} must be text, found {value!r}", field="metadata.labels", obj=obj
                )


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
