"""Every kind, dtype, reduction and size over jobs of one to eight ranks, near and far, against NumPy."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import numpy as np
import pytest
from tests.unit.fabric.pods import at_once, listening, run
from tests.unit.fabric.test_fabric_results import NUMPY, TOLERANCE, together

from supernode.emulator.fabric import KINDS, REDUCTIONS, CollectiveCall
from supernode.emulator.fabric.call import REDUCING

#: (workers, devices of each, workers that are alone on their host)
JOBS = [
    (1, 1, ()),
    (2, 1, ()),
    (1, 3, ()),
    (4, 1, (3,)),
    (5, 1, (0, 2)),
    (2, 3, (0, 1)),
    (7, 1, ()),
    (4, 2, (1,)),
]
KINDS_HERE = sorted(set(KINDS) - {"send", "recv", "barrier", "all_to_all_v"})
COUNTS = [0, 1, 7, 1023, 20_001]


@contextmanager
def a_mixed_job(workers: int, devices: int, apart: tuple[int, ...]):
    """Some workers share memory, those `apart` are reached over TCP, as if they were on hosts of their own."""
    fabrics = listening(workers, devices, transport="auto")
    for worker in apart:
        # What a pod on another host would say of its place.
        mesh = fabrics[worker]._mesh
        mesh.address = mesh.address._replace(place=f"host {worker}")
        if mesh._register is not None:
            mesh._register._mine = mesh.address
    try:
        at_once([fabric.start for fabric in fabrics])
        yield fabrics
    finally:
        for fabric in fabrics:
            fabric.close()


@pytest.fixture(scope="module", params=JOBS, ids=lambda job: f"{job[0]}x{job[1]}-{len(job[2])} apart")
def job(request):
    with a_mixed_job(*request.param) as fabrics:
        yield fabrics


@pytest.mark.parametrize("kind", KINDS_HERE)
def test_every_kind_dtype_and_size(job, kind):
    world = job[0].config.world
    everyone = tuple(range(world))
    groups = [everyone, everyone[::-1], everyone[1:]] if world > 1 else [everyone]
    combinations = list(itertools.product(sorted(NUMPY), COUNTS))
    for number, (dtype, count) in enumerate(combinations):
        group = groups[number % len(groups)]
        op = REDUCTIONS[number % len(REDUCTIONS)] if kind in REDUCING else "sum"
        together(job, CollectiveCall(kind, group, 0, dtype, count, op, group[number % len(group)]), number)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_every_reduction_of_every_dtype(job, op):
    group = tuple(range(job[0].config.world))
    for number, dtype in enumerate(sorted(NUMPY)):
        together(job, CollectiveCall("all_reduce", group, 0, dtype, 1001, op), number)


def test_the_table_names_what_the_fabric_has():
    assert set(TOLERANCE) < set(NUMPY)
    assert set(REDUCTIONS) == {"sum", "product", "min", "max", "average"}


def test_pods_on_one_host_use_memory_and_others_tcp():
    with a_mixed_job(3, 1, (2,)) as fabrics:
        call = CollectiveCall("all_to_all", (0, 1, 2), 0, "f32", 10)
        at_once(
            [lambda r=r: run(fabrics, r, call, np.zeros(30, np.float32), np.zeros(30, np.float32)) for r in range(3)]
        )
        for rank, fabric in enumerate(fabrics):
            (channel,) = fabric._channels.values()
            kinds = {pod: type(link).__name__ for pod, link in channel._links.items()}
            expected = {pod: "Link" if 2 in (pod, rank) else "MemoryLink" for pod in range(3) if pod != rank}
            assert kinds == expected


@pytest.mark.parametrize("dtype", ["bf16", "f8e4m3", "f8e5m2", "f16"])
def test_narrow_floats_are_summed_in_f32_and_rounded_once(dtype):
    """A value and seven tiny ones: each alone is lost to the format's rounding, together they are not."""
    step = (
        float(np.spacing(np.ones(1, NUMPY[dtype]))[0])
        if dtype == "f16"
        else {"bf16": 2**-7, "f8e4m3": 2**-3, "f8e5m2": 2**-2}[dtype]
    )
    tiny = np.array([step / 4], NUMPY[dtype])
    sends = [np.ones(1, NUMPY[dtype])] + [tiny] * 7
    wanted = np.float32(1 + 7 * float(tiny[0])).astype(NUMPY[dtype])
    assert float(wanted) > 1
    with a_mixed_job(8, 1, (1, 4)) as fabrics:
        receives = [np.zeros(1, NUMPY[dtype]) for _ in range(8)]
        call = CollectiveCall("all_reduce", tuple(range(8)), 0, dtype, 1)
        at_once([lambda r=r: run(fabrics, r, call, sends[r], receives[r]) for r in range(8)])
    assert [float(received[0]) for received in receives] == [float(wanted)] * 8


def test_sums_of_8_bit_floats_saturate():
    with a_mixed_job(2, 1, ()) as fabrics:
        data = [np.full(3, 448, NUMPY["f8e4m3"]) for _ in range(2)]
        call = CollectiveCall("all_reduce", (0, 1), 0, "f8e4m3", 3)
        at_once([lambda r=r: run(fabrics, r, call, data[r], data[r]) for r in range(2)])
        assert data[0].astype(float).tolist() == [448.0] * 3
