"""Ring, tree and hierarchy: which is taken, that each gives the sum, and the same bits over memory and over TCP."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.fabric.pods import a_job, at_once, run

from supernode.emulator.fabric import CollectiveCall, channel, memory, order
from supernode.emulator.fabric.boards import round_width
from supernode.emulator.fabric.choice import Chooser, Plan, even_sections
from supernode.emulator.fabric.topology import read_topology
from supernode.steptime.collectives import all_reduce_ways, collective_seconds


def wiring(*domains: list[int]) -> str:
    """Super-nodes in front of a slow spine; the last level is the node."""
    names = [("spine", 50, 10), ("supernode", 224, 2), ("node", 224, 2)]
    levels = [{"name": n, "bandwidthGBps": b, "latencyMicroseconds": us} for n, b, us in names]
    return json.dumps({"levels": levels, "domains": [[0] * len(domains[0]), *domains]})


TWO_BY_TWO = wiring([0, 1, 0, 1], [0, 1, 2, 3])
THREE_AND_ONE = wiring([0, 1, 0, 0], [0, 1, 2, 3])
FLAT = wiring([0, 0, 0, 0], [0, 1, 2, 3])
APART = wiring([0, 1, 2, 3], [0, 1, 2, 3])


def all_reduced(plan: Plan, transport: str, count: int, devices: int, monkeypatch) -> list[bytes]:
    """`connected`: over TCP as groups of many pods do it, and large vectors."""
    if transport == "connected":
        transport = "tcp"
        monkeypatch.setattr(channel, "MOST_DIRECT", 1)
    with a_job(4, devices, transport=transport) as fabrics:
        for fabric in fabrics:
            fabric._chooser._plan = lambda nbytes, group: plan
        group = tuple(range(4 * devices))
        call = CollectiveCall("all_reduce", group, 0, "f32", count)
        data = [np.random.default_rng(rank).standard_normal(count).astype(np.float32) * 10**rank for rank in group]
        exact = np.sum(data, axis=0, dtype=np.float64)
        at_once([lambda r=r: run(fabrics, r, call, data[r], data[r]) for r in group])
        np.testing.assert_allclose(data[0], exact, rtol=0, atol=np.abs(exact).max() * 1e-6)
        return [array.tobytes() for array in data]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("plan", [Plan("tree", 4), Plan("ring", 4), Plan("hierarchy", 2)], ids=lambda plan: plan.way)
@pytest.mark.parametrize("count", [7, 9_001, 300_003])
def test_each_way_gives_one_sum_with_the_same_bits_over_memory_and_tcp(plan, count, devices, monkeypatch):
    results = {
        bits
        for transport in ("auto", "tcp", "connected")
        for bits in all_reduced(plan, transport, count, devices, monkeypatch)
    }
    assert len(results) == 1


@pytest.mark.parametrize(
    ("topology", "count", "way"),
    [
        (APART, 1000, "tree"),
        (APART, 300_000, "tree"),
        (APART, 3_000_000, "ring"),
        (FLAT, 3_000_000, "ring"),
        (TWO_BY_TWO, 7, "hierarchy"),
        (TWO_BY_TWO, 3_000_000, "hierarchy"),
        (THREE_AND_ONE, 3_000_000, "tree"),
    ],
)
def test_size_and_wiring_pick_the_way(topology, count, way):
    chooser = Chooser(read_topology(topology, workers=4, devices=1))
    assert chooser.plan(CollectiveCall("all_reduce", (0, 1, 2, 3), 0, "f32", count)).way == way


def test_the_way_is_the_one_that_the_clock_charges():
    for text in (APART, FLAT, TWO_BY_TWO, THREE_AND_ONE):
        topology = read_topology(text, workers=4, devices=2)
        for group in ((0, 2, 4, 6), tuple(range(8)), (0, 1), (1, 4, 6)):
            links = topology.links(group)
            for nbytes in (0, 100, 1e4, 1e6, 1e8):
                ways = all_reduce_ways(nbytes, links)
                assert min(ways.values()) == collective_seconds("all_reduce", nbytes, links)
                plan = Chooser(topology)._choose(int(nbytes), group)
                best = min(("ring", "tree"), key=lambda way, ways=ways: ways.get(way, np.inf))
                assert (plan.way == "tree") == (best == "tree")


@given(st.integers(2, 9), st.integers(0, 8), st.sampled_from(["ring", "tree"]))
def test_an_order_names_every_pod_once(count, owner, kind):
    expression = order.ring(owner % count, count) if kind == "ring" else order.tree(owner % count, count)

    def leaves(part: order.Order) -> list[int]:
        return [part] if isinstance(part, int) else leaves(part[0]) + leaves(part[1])

    assert sorted(leaves(expression)) == list(range(count))
    values = [np.array([float(10**index)]) for index in range(count)]
    out = np.empty(1)
    order.evaluate(expression, "sum", values, out)
    assert out[0] == sum(10.0**index for index in range(count))


@given(st.integers(0, 1000), st.sampled_from([(4, 2), (6, 3), (6, 2), (8, 4), (4, 4)]))
def test_the_sections_of_a_hierarchy_cover_the_vector_once(size, shape):
    count, inner = shape
    sections = Plan("hierarchy", inner).sections(size, count)
    covered = sorted(index for section in sections for index in range(section.start, section.stop))
    assert covered == list(range(size))
    assert list(Plan("ring", count).sections(size, count)) == even_sections(size, count)


@given(st.integers(1, 600 << 20), st.integers(2, 16), st.sampled_from([1, 2, 4, 8]))
def test_the_rounds_of_a_sum_on_boards_fit_in_their_half_and_none_is_for_a_few_elements(size, count, item):
    longest = max(section.stop - section.start for section in even_sections(size, count))
    width = round_width(longest, size * item, count * item)
    assert width >= 1
    assert width * count * item <= memory.BLOCK
    rounds = -(-longest // width)
    assert rounds * width - longest < rounds, "the last round is about as long as the others"
    assert rounds <= 2 + size * item / memory.block_bytes(size * item)
