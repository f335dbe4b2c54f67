"""What the clock charges for a call is what the step-time model says, exactly, with the model's meaning of bytes."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from tests.unit.fabric.pods import a_job, at_once, run

from supernode.chips import find_chip
from supernode.emulator.fabric import KINDS, CollectiveCall
from supernode.emulator.fabric.topology import read_topology
from supernode.steptime.collectives import collective_seconds, levels_for, regular_links

CHIP = find_chip("hygon-bw1000")
FIGURES = [("spine", 50.0, 10.0), ("supernode", 224.0, 2.0), ("node", 224.0, 2.0)]
WIRING = json.dumps(
    {
        "levels": [{"name": n, "bandwidthGBps": b, "latencyMicroseconds": us} for n, b, us in FIGURES],
        "domains": [[0] * 4, [0, 0, 1, 1], [0, 1, 2, 3]],
    }
)
# kind -> buffer in the model's sense for n ranks and `count` elements each (see `collective_seconds`), held here again.
BYTES = {
    "all_reduce": lambda n, count: count,
    "broadcast": lambda n, count: count,
    "reduce": lambda n, count: count,
    "all_gather": lambda n, count: n * count,
    "reduce_scatter": lambda n, count: n * count,
    "all_to_all": lambda n, count: n * count,
    "gather": lambda n, count: n * count,
    "scatter": lambda n, count: n * count,
    "barrier": lambda n, count: 0,
}


@pytest.fixture(scope="module")
def job():
    with a_job(4, 2, topology=WIRING, chip=CHIP) as fabrics:
        yield fabrics


# Groups that lie evenly, as (ranks, parts per level): one node, one super-node, one lane over both, everyone.
GROUPS = [((0, 1), (1, 1, 2)), ((0, 2), (1, 2, 1)), ((1, 5), (2, 1, 1)), (tuple(range(8)), (2, 2, 2))]


@pytest.mark.parametrize("kind", sorted(BYTES))
@pytest.mark.parametrize(("group", "sizes"), GROUPS)
def test_a_call_takes_what_the_model_predicts_for_its_group(job, kind, group, sizes):
    levels = levels_for(CHIP, [(name, bandwidth * 1e9, latency * 1e-6) for name, bandwidth, latency in FIGURES])
    links = regular_links(levels, sizes)
    n = len(group)
    for count in (1, 5000):
        call = CollectiveCall(kind, group, 0, "bf16", count, root_or_peer=group[0])
        ready = {rank: 0.001 * place for place, rank in enumerate(group)}

        def part(rank: int, call=call, ready=ready):
            out, into = call.shares(rank)
            arrays = [None if size is None else np.zeros(size, ml_dtypes.bfloat16) for size in (out, into)]
            return lambda: run(job, rank, call, *arrays, ready=ready[rank])

        (end,) = set(at_once([part(rank) for rank in group]))
        assert end == max(ready.values()) + collective_seconds(kind, 2.0 * BYTES[kind](n, count), links)


def test_a_message_and_an_uneven_exchange(job):
    topology = read_topology(WIRING, workers=4, devices=2, chip=CHIP)
    send = CollectiveCall("send", (0, 7), 0, "f32", 1000, root_or_peer=7)
    recv = CollectiveCall("recv", (0, 7), 0, "f32", 1000, root_or_peer=0)
    data = np.zeros(1000, np.float32)
    (end,) = set(at_once([lambda: run(job, 0, send, data, None), lambda: run(job, 7, recv, None, data.copy())]))
    assert end == collective_seconds("send_recv", 4000, topology.links((0, 7)))
    counts = {0: ((10, 30), (10, 50)), 7: ((50, 0), (30, 0))}

    def uneven(rank: int):
        sends, receives = counts[rank]
        call = CollectiveCall("all_to_all_v", (0, 7), 0, "f32", sends=sends, receives=receives)
        arrays = np.zeros(sum(sends), np.float32), np.zeros(sum(receives), np.float32)
        return lambda: run(job, rank, call, *arrays)

    # As an even exchange of the largest buffer that any rank sends or receives.
    (end,) = set(at_once([uneven(rank) for rank in (0, 7)]))
    assert end == collective_seconds("all_to_all", 60 * 4, topology.links((0, 7)))


def test_every_kind_is_held():
    assert set(BYTES) | {"send", "recv", "all_to_all_v"} == set(KINDS)
