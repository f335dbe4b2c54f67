"""How fast gangs are placed, refused and explained, beside a loop over nodes in plain Python.

In process, snapshot already built; every decision is applied before the next one (`plan_cycle` does both). The naive
figures place the same gangs first-fit on the same nodes, without predicting anything.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable

from tests.bench.case import Case

from supernode.chips import find_chip
from supernode.scheduling.cycle import plan_cycle
from supernode.scheduling.demand import GangDemand, LevelConstraint, Slice
from supernode.scheduling.explain import explain
from supernode.scheduling.placement import Placement
from supernode.scheduling.state import GroupSpec, NodeInfo, PoolSpec, State
from supernode.scheduling.topology import Level
from supernode.steptime.model import ModelShape, Parallelism

CHIP = find_chip("hygon-bw1000")
MODEL = ModelShape(96, 12288, 96, 51200, 2048)
SMALL = ModelShape(24, 2048, 16, 51200, 2048)
OFFER = {"cpu": 128_000, "memory": 2**40, "ephemeral-storage": 2**41, "pods": 110}
WORKER = {"cpu": 8000, "memory": 2**36}
REPEATS = 5


def a_cluster(levels: tuple[Level, ...], domains: Iterable[tuple[str, ...]]) -> State:
    """A cluster of nodes with 8 devices each, one per entry of `domains` (its labels, outermost first)."""
    state = State()
    link = CHIP.link_bandwidth or 224e9
    state.set_pool(PoolSpec("dcu", CHIP, CHIP.resource_names[0], True, 8, link, 2e-6))
    state.set_group(GroupSpec("scalex", levels))
    for index, labels in enumerate(domains):
        state.apply_node(NodeInfo(f"node-{index:05d}", OFFER, True, "dcu", {"scalex": labels}))
    state.snapshot()
    return state


def racks() -> State:
    """5,000 nodes: 10 spines of 5 racks of 100 nodes."""
    levels = (Level("spine", 50e9, 10e-6), Level("rack", 100e9, 5e-6))
    return a_cluster(levels, ((f"spine-{i // 500}", f"rack-{i // 100:02d}") for i in range(5000)))


def super_nodes() -> State:
    """102,400 accelerators: 10 super-clusters of 16 super-nodes of 80 nodes."""
    levels = (Level("supercluster", 50e9, 10e-6), Level("supernode", 224e9, 2e-6))
    return a_cluster(levels, ((f"sc-{i // 1280}", f"sn-{i // 80:03d}") for i in range(12800)))


def gang(index: int, workers: int, devices: int, **wishes: object) -> GangDemand:
    """A gang with the small model and plain data parallelism, unless `wishes` say else."""
    fields: dict[str, object] = {"model": SMALL, "request": WORKER, "created": float(index), **wishes}
    return GangDemand(f"team/gang-{index:05d}", ("dcu",), workers, devices, **fields)  # type: ignore[arg-type]


def best_seconds(run: Callable[[], float]) -> float:
    """Least seconds of some runs; the first run also warms what every process keeps (imports, memos of steps)."""
    return min(run() for _ in range(REPEATS))


def timed_cycle(state: State, demands: list[GangDemand]) -> float:
    """Seconds to decide and apply all; every one of them must find a place."""
    snapshot = state.snapshot()
    began = time.perf_counter()
    decisions = plan_cycle(snapshot, demands)
    took = time.perf_counter() - began
    refused = [d for d in decisions if not isinstance(d.result, Placement)]
    if refused:
        raise RuntimeError(explain(refused[0].result, refused[0].snapshot, refused[0].demand))
    return took


def naive_cycle(state: State, demands: list[GangDemand], level: int) -> float:
    """The same by loops over nodes: the first domain of `level` with room takes the gang, node by node."""
    snapshot = state.snapshot()
    (topology,) = snapshot.topologies
    nodes = [
        {"name": snapshot.node_names[row], "domain": domains[level], "free": list(range(8)), "cpu": 128_000}
        for row, domains in zip(topology.node_rows.tolist(), topology.node_domain.tolist(), strict=True)
    ]
    began = time.perf_counter()
    for demand in demands:
        cpu = demand.request["cpu"]
        room: dict[int, int] = {}
        for node in nodes:
            fits = min(len(node["free"]) // demand.devices, node["cpu"] // cpu)
            room[node["domain"]] = room.get(node["domain"], 0) + fits
        chosen = next(domain for domain, fits in room.items() if fits >= demand.workers)
        workers = []
        for node in nodes:
            if node["domain"] != chosen:
                continue
            while len(workers) < demand.workers and len(node["free"]) >= demand.devices and node["cpu"] >= cpu:
                workers.append((len(workers), node["name"], node["free"][: demand.devices]))
                node["free"] = node["free"][demand.devices :]
                node["cpu"] -= cpu
    return time.perf_counter() - began


def fragmented(state: State) -> State:
    """95 % of the devices held, in a pattern that leaves whole free nodes scattered over every super-node."""
    from supernode.scheduling.placement import WorkerPlacement

    names = state.snapshot().node_names
    for domain in range(160):
        first = domain * 80
        free = {first + (domain * 7 + step * 19) % 80 for step in range(4 if domain % 20 else 8)}
        workers = [
            WorkerPlacement(rank, names[row], "dcu", tuple(range(8)))
            for rank, row in enumerate(row for row in range(first, first + 80) if row not in free)
        ]
        state.claim(f"other/holder-{domain:03d}", Placement.of(f"other/holder-{domain:03d}", workers), WORKER)
    state.snapshot()
    return state


def crowded(state: State) -> State:
    """Every node holds something: 6 of 8 devices."""
    from supernode.scheduling.placement import WorkerPlacement

    names = state.snapshot().node_names
    for domain in range(160):
        rows = range(domain * 80, domain * 80 + 80)
        workers = [WorkerPlacement(rank, names[row], "dcu", tuple(range(6))) for rank, row in enumerate(rows)]
        state.claim(f"other/holder-{domain:03d}", Placement.of(f"other/holder-{domain:03d}", workers), WORKER)
    state.snapshot()
    return state


def update(state: State) -> float:
    """Seconds for 1,000 pod events (500 come, 500 go) and the snapshot after them."""
    names = state.snapshot().node_names
    for index in range(500):
        state.add_foreign(f"old-{index}", names[index * 7], {"cpu": 500, "memory": 2**30})
    state.snapshot()
    began = time.perf_counter()
    for index in range(500):
        state.add_foreign(f"new-{index}", names[index * 5], {"cpu": 250, "memory": 2**30})
        state.remove_foreign(f"old-{index}")
    state.snapshot()
    took = time.perf_counter() - began
    for index in range(500):
        state.remove_foreign(f"new-{index}")
    return took


def naive_update(state: State) -> float:
    """Seconds to count 1,000 pods' requests again over all nodes in dicts, as a rebuild of the view does."""
    names = state.snapshot().node_names
    pods = [(names[index * 5], {"cpu": 250, "memory": 2**30}) for index in range(1000)]
    began = time.perf_counter()
    free = {name: dict(OFFER) for name in names}
    for name, request in pods:
        for resource, amount in request.items():
            free[name][resource] -= amount
    return time.perf_counter() - began


def waiting(state: State, count: int) -> float:
    """Seconds of one cycle in which nobody fits, with a sentence for each."""
    snapshot = state.snapshot()
    demands = []
    for index in range(count):
        workers, devices = 16 + index % 1000, (8, 4)[index % 2]  # 1,000 different questions
        constraints = (LevelConstraint("supernode", True),) if index % 3 else ()
        demands.append(gang(index, workers, devices, constraints=constraints))
    began = time.perf_counter()
    sentences = [explain(d.result, d.snapshot, d.demand) for d in plan_cycle(snapshot, demands)]
    took = time.perf_counter() - began
    if len(set(sentences)) < min(count, 1000):
        raise RuntimeError(f"only {len(set(sentences))} different sentences")
    return took


def naive_waiting(state: State, count: int) -> float:
    """Seconds to find, by loops over nodes, that `count` gangs don't fit anywhere (no sentence)."""
    snapshot = state.snapshot()
    free = [bin(mask).count("1") for mask in snapshot.device_free.tolist()]
    began = time.perf_counter()
    for _ in range(count):
        sum(value // 4 for value in free)
    return time.perf_counter() - began


def naive_sliced(state: State, demand: GangDemand) -> float:
    """Seconds to find room for whole slices by loops over nodes: the emptiest super-nodes first, node by node."""
    snapshot = state.snapshot()
    (topology,) = snapshot.topologies
    free = [bin(mask).count("1") for mask in snapshot.device_free.tolist()]
    nodes = list(zip(topology.node_rows.tolist(), topology.node_domain[:, 1].tolist(), strict=True))
    size = demand.slices[0].size
    began = time.perf_counter()
    room: dict[int, int] = {}
    for row, domain in nodes:
        room[domain] = room.get(domain, 0) + free[row] // demand.devices
    left: dict[int, int] = {}
    wanted = demand.workers
    for domain in sorted(room, key=lambda domain: -room[domain]):
        left[domain] = min(wanted, room[domain] // size * size)
        wanted -= left[domain]
    workers = []
    for row, domain in nodes:
        while left[domain] and free[row] >= demand.devices:
            workers.append((len(workers), snapshot.node_names[row], list(range(demand.devices))))
            free[row] -= demand.devices
            left[domain] -= 1
    took = time.perf_counter() - began
    if len(workers) != demand.workers:
        raise RuntimeError(f"{len(workers)} of {demand.workers} workers placed")
    return took


def naive_memory() -> float:
    """MiB of the same cluster as one dict per node."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    nodes = [
        {
            "name": f"node-{index:05d}",
            "capacity": dict(OFFER),
            "free": dict(OFFER),
            "labels": {"supercluster": f"sc-{index // 1280}", "supernode": f"sn-{index // 80:03d}"},
            "devices": [True] * 8,
        }
        for index in range(12800)
    ]
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / 2**20 if nodes else 0.0


def memory() -> float:
    """MiB of Python and numpy memory that the state and snapshot of 102,400 accelerators take."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    state = super_nodes()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / 2**20 if state.snapshot().node_names else 0.0


def cases() -> Iterable[Case]:
    """All rows, each with the naive loop's figure behind it."""
    state = racks()
    spine, rack = LevelConstraint("spine", True), LevelConstraint("rack", False)
    large = [gang(i, 1000, 4, constraints=(spine, rack)) for i in range(9)]
    pods = 9 * 1000
    name = "5,000 nodes: 9 gangs x 1,000 pods x 4 devices, required spine, preferred rack"
    yield Case(name, round(pods / best_seconds(lambda: timed_cycle(state, large))), "pods/s", 2_000_000, "higher")
    yield Case(f"naive: {name}", round(pods / naive_cycle(state, large, 0)), "pods/s", None, "higher")
    small = [gang(i, 4, 4, constraints=(LevelConstraint("rack", True),)) for i in range(2250)]
    name = "5,000 nodes: 2,250 gangs x 4 pods x 4 devices, required rack"
    yield Case(name, round(2250 / best_seconds(lambda: timed_cycle(state, small))), "gangs/s", 8000, "higher")
    yield Case(f"naive: {name}", round(100 / naive_cycle(state, small[:100], 1)), "gangs/s", None, "higher")

    state = super_nodes()
    cut = Parallelism(tensor=8, pipeline=16, data=80, micro_batch_size=1, global_batch_size=1280)
    huge = gang(0, 1280, 8, model=MODEL, parallelism=cut, constraints=(LevelConstraint("supercluster", True),))
    name = "102,400 accelerators: one 10,240-card gang"
    yield Case(name, round(1e3 * best_seconds(lambda: timed_cycle(state, [huge])), 3), "ms", 5, "lower")
    yield Case(f"naive: {name}", round(1e3 * naive_cycle(state, [huge], 0), 3), "ms", None, "lower")
    name = "102,400 accelerators: snapshot update from 1,000 pod events"
    yield Case(name, round(1e3 * best_seconds(lambda: update(state)), 3), "ms", 2, "lower")
    yield Case(f"naive: {name}", round(1e3 * naive_update(state), 3), "ms", None, "lower")

    state = fragmented(super_nodes())
    sliced = gang(0, 64, 8, slices=(Slice("supernode", 8),))
    name = "102,400 accelerators, 95 % full and fragmented: 512-card gang with slices of 64 cards"
    yield Case(name, round(1e3 * best_seconds(lambda: timed_cycle(state, [sliced])), 3), "ms", 5, "lower")
    yield Case(f"naive: {name}", round(1e3 * naive_sliced(state, sliced), 3), "ms", None, "lower")
    state = crowded(super_nodes())
    name = "102,400 accelerators: 10,000 gangs that can't be placed, each told why"
    yield Case(name, round(best_seconds(lambda: waiting(state, 10_000)), 3), "s", 1, "lower")
    yield Case(f"naive: {name}", round(1000 * naive_waiting(state, 10), 3), "s", None, "lower")
    name = "memory of the 102,400-accelerator snapshot"
    yield Case(name, round(memory(), 1), "MiB", 100, "lower")
    yield Case(f"naive: {name}", round(naive_memory(), 1), "MiB", None, "lower")
