"""Builders of described clusters and gangs; a test names only what it is about."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from supernode.chips import Chip, find_chip
from supernode.scheduling.demand import GangDemand, LevelConstraint, Slice
from supernode.scheduling.placement import Placement, WorkerPlacement
from supernode.scheduling.snapshot import PoolInfo, Snapshot
from supernode.scheduling.state import GroupSpec, NodeInfo, PoolSpec, State
from supernode.scheduling.topology import Level
from supernode.steptime.model import ModelShape, Parallelism

BW1000 = find_chip("hygon-bw1000")
ASCEND = find_chip("huawei-ascend-910c")
A100 = find_chip("nvidia-a100-80g-sxm")
HCU = "hygon.com/hcu"
MODEL = ModelShape(8, 1024, 16, 32000, 512)
#: So large that a stage of it is short of memory on some chips.
HEAVY = ModelShape(24, 8192, 64, 51200, 2048)
SPINE = Level("spine", 50e9, 10e-6)
SUPERNODE = Level("supernode", 224e9, 2e-6)


def a_pool(name: str = "dcu", chip: Chip = BW1000, devices: int = 2, **changes: Any) -> PoolSpec:
    """An emulated pool."""
    fields: dict[str, Any] = {"emulated": True, "bandwidth": chip.link_bandwidth, "latency": 2e-6, **changes}
    return PoolSpec(name=name, chip=chip, resource=chip.resource_names[0], devices_per_node=devices, **fields)


def a_group(name: str = "scalex", levels: tuple[Level, ...] = (SPINE, SUPERNODE)) -> GroupSpec:
    """A group of spines of super-nodes."""
    return GroupSpec(name, levels)


def a_node(name: str, *domains: str, pool: str = "dcu", group: str = "scalex", **changes: Any) -> NodeInfo:
    """A ready node with plenty of everything; `domains` are its label values, outermost first."""
    fields: dict[str, Any] = {
        "capacity": {"cpu": 64_000, "memory": 2**39, "ephemeral-storage": 2**40, "pods": 110},
        "pool": pool,
        "groups": {group: domains} if domains else {},
        **changes,
    }
    return NodeInfo(name=name, **fields)


def a_state(
    nodes: Iterable[NodeInfo] | None = None,
    pools: Iterable[PoolSpec] | None = None,
    groups: Iterable[GroupSpec] | None = None,
) -> State:
    """A cluster; by default 2 super-nodes of 2 nodes of 2 devices in one spine."""
    state = State()
    for pool in [a_pool()] if pools is None else pools:
        state.set_pool(pool)
    for group in [a_group()] if groups is None else groups:
        state.set_group(group)
    if nodes is None:
        nodes = [a_node(f"dcu-{index}", "spine-0", f"sn-{index // 2}") for index in range(4)]
    for node in nodes:
        state.apply_node(node)
    return state


def a_gang(key: str = "default/gpt", workers: int = 2, devices: int = 2, **changes: Any) -> GangDemand:
    """A gang without wishes."""
    fields: dict[str, Any] = {"pools": ("dcu",), "request": {"cpu": 1000}, **changes}
    return GangDemand(key=key, workers=workers, devices=devices, **fields)


def required(*levels: str) -> tuple[LevelConstraint, ...]:
    """Required levels."""
    return tuple(LevelConstraint(level, True) for level in levels)


def preferred(*levels: str) -> tuple[LevelConstraint, ...]:
    """Preferred levels."""
    return tuple(LevelConstraint(level, False) for level in levels)


def held(key: str, *places: tuple[str, tuple[int, ...]], pool: str = "dcu") -> Placement:
    """A placement: one worker per (node, devices)."""
    return Placement.of(
        key, [WorkerPlacement(rank, node, pool, devices) for rank, (node, devices) in enumerate(places)]
    )


def a_random_state(dice: random.Random, most_nodes: int = 6) -> State:
    """A small cluster with 1 to 3 levels, partly held, some nodes short, unready or outside the group."""
    depth = dice.randint(1, 3)
    levels = (SPINE, SUPERNODE, Level("board", 224e9, 1e-6))[:depth]
    pool = a_pool(devices=dice.choice([2, 4, 8]))
    nodes = []
    for index in range(dice.randint(1, most_nodes)):
        domains = [f"{level.name}-{dice.randint(0, 1)}" for level in levels]
        capacity = {"cpu": dice.choice([2000, 64_000]), "memory": 2**39, "pods": dice.choice([2, 110])}
        nodes.append(a_worn_node(dice, f"n{index}", domains, capacity, labelled=0.9))
    state = a_state(nodes, [pool], [a_group(levels=levels)])
    hold_some(dice, state, nodes, pool, share=0.5)
    return state


def a_worn_node(
    dice: random.Random, name: str, domains: list[str], capacity: dict[str, int], *, labelled: float
) -> NodeInfo:
    """A node that may lack its labels (`labelled`: how likely it has them), be unready or have a broken device."""
    return a_node(
        name,
        *(domains if dice.random() < labelled else []),
        capacity=capacity,
        usable=dice.random() < 0.95,
        unhealthy=dice.choice([0, 0, 0, 1]),
    )


def hold_some(dice: random.Random, state: State, nodes: list[NodeInfo], pool: PoolSpec, *, share: float) -> None:
    """Others hold some of the devices of about that share of the nodes."""
    for index, node in enumerate(nodes):
        count = dice.randint(0, pool.devices_per_node)
        if count and dice.random() < share:
            devices = tuple(sorted(dice.sample(range(pool.devices_per_node), count)))
            state.claim(f"other/job-{index}", held(f"other/job-{index}", (node.name, devices)), {"cpu": 500})


def plain_rooms(snapshot: Snapshot, pool: PoolInfo, demand: GangDemand) -> dict[int, int]:
    """Workers that fit on each node of a pool, in plain Python: for oracles."""
    result = {}
    for row in pool.rows.tolist():
        free = bin(int(snapshot.device_free[row])).count("1") // demand.devices
        for name, amount in demand.request.items():
            if amount:
                free = min(free, max(int(snapshot.free[row, snapshot.resources.index(name)]), 0) // amount)
        if snapshot.usable[row] and free:
            result[row] = free
    return result


def a_random_gang(dice: random.Random, levels: tuple[Level, ...]) -> GangDemand:
    """A gang that may or may not fit, with wishes."""
    devices = dice.choice([1, 1, 2, 4])
    slices: tuple[Slice, ...] = ()
    workers = dice.randint(1, 6)
    names = [level.name for level in levels]
    if dice.random() < 0.3:
        size = dice.choice([2, 3])
        workers = size * dice.randint(1, 2)
        outer = dice.randrange(len(names) + 1)
        slices = (Slice([*names, "node"][outer], size),)
        if dice.random() < 0.3 and outer < len(names):  # whole slices inside whole slices
            workers *= 2
            slices = (Slice(names[outer], 2 * size), Slice(dice.choice([*names[outer + 1 :], "node"]), size))
    wishes: tuple[LevelConstraint, ...] = ()
    if dice.random() < 0.5:
        wishes += required(dice.choice([*names, "node"]))
    if dice.random() < 0.3:
        wishes += preferred(dice.choice(names))
    cut = None
    total = workers * devices
    if dice.random() < 0.7:
        tensor = dice.choice([size for size in (1, 2, 4) if total % size == 0])
        rest = total // tensor
        pipeline = dice.choice([size for size in (1, 2, 4) if rest % size == 0])
        cut = Parallelism(tensor=tensor, pipeline=pipeline, data=rest // pipeline)
    return a_gang(
        workers=workers,
        devices=devices,
        request={"cpu": dice.choice([100, 1500])},
        constraints=wishes,
        slices=slices,
        model=MODEL if cut is not None or dice.random() < 0.5 else None,
        parallelism=cut,
        min_count=dice.choice([None, None, 1]) if not slices else None,
    )


def a_random_mix(dice: random.Random, most_nodes: int = 6) -> tuple[State, GangDemand]:
    """A small cluster of two or three pools, partly held, and a gang whose stages may be spread over them."""
    depth = dice.randint(1, 2)
    levels = (SPINE, SUPERNODE)[:depth]
    per_node = dice.choice([2, 4])
    chips = [("dcu", BW1000), ("npu", ASCEND), ("gpu", A100)][: dice.choice([2, 2, 3])]
    pools = [a_pool(name, chip, per_node) for name, chip in chips]
    nodes = []
    for index in range(dice.randint(2, most_nodes)):
        domains = [f"{level.name}-{dice.randint(0, 1)}" for level in levels]
        capacity = {"cpu": dice.choice([3000, 64_000, 64_000]), "memory": 2**39, "pods": 110}
        labelled = dice.random() < 0.9
        name = chips[index % len(chips)][0]
        nodes.append(a_node(f"n{index}", *(domains if labelled else []), pool=name, capacity=capacity))
    state = a_state(nodes, pools, [a_group(levels=levels)])
    for index, node in enumerate(nodes):
        count = dice.randint(0, per_node - 1)
        if count and dice.random() < 0.3:
            devices = tuple(sorted(dice.sample(range(per_node), count)))
            state.claim(f"o/{index}", held(f"o/{index}", (node.name, devices), pool=node.pool), {"cpu": 500})
    devices = dice.choice([1, 2, per_node])
    pipeline, tensor = dice.choice([2, 3, 4]), dice.choice([1, 2])
    data = dice.choice([1, 1, 2])
    while pipeline * tensor * data % devices:
        data += 1
    workers = pipeline * tensor * data // devices
    wishes: tuple[LevelConstraint, ...] = ()
    if dice.random() < 0.3:
        wishes += required(dice.choice(levels).name)
    if dice.random() < 0.3:
        wishes += preferred(dice.choice(levels).name)
    sizes = [size for size in (2, 3) if workers % size == 0]
    slices: tuple[Slice, ...] = ()
    if sizes and dice.random() < 0.3:
        slices = (Slice(dice.choice([*(level.name for level in levels), "node"]), dice.choice(sizes)),)
    cut = Parallelism(
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        micro_batch_size=dice.choice([1, 4]),
        global_batch_size=data * 4 * dice.choice([1, 8]),
        interleave=dice.choice([1, 1, 2]),
        sequence_parallel=dice.random() < 0.5,
    )
    model = dice.choice([MODEL, ModelShape(24, 2048, 16, 51200, 2048), HEAVY])
    demand = a_gang(
        workers=workers,
        devices=devices,
        pools=tuple(dice.sample([name for name, _ in chips], len(chips))),
        mix="Stages",
        request={"cpu": dice.choice([100, 1500])},
        constraints=wishes,
        slices=slices,
        model=model,
        parallelism=cut,
    )
    return state, demand
