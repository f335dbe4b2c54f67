"""Calls, topology and virtual time: what is refused, and with which words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.unit.fabric.pods import SECRET, a_job, at_once, run

from supernode.emulator import fabric
from supernode.emulator.fabric import KINDS, CollectiveCall, Fabric, FabricConfig
from supernode.emulator.fabric.topology import read_topology
from supernode.errors import EmulatorError, FabricError
from supernode.steptime.collectives import collective_seconds, links_of

# The kinds a second time, held independently: what a user of a collective library expects to find.
EXPECTED_KINDS = {
    "all_reduce",
    "reduce_scatter",
    "all_gather",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "all_to_all",
    "all_to_all_v",
    "send",
    "recv",
    "barrier",
}


def test_all_kinds_are_there():
    assert set(KINDS) == EXPECTED_KINDS


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (CollectiveCall("allreduce", (0,)), "collective 'allreduce' is unknown; the fabric knows all_reduce"),
        (CollectiveCall("all_reduce", ()), "must name at least one rank"),
        (CollectiveCall("all_reduce", (0, 0)), r"group \[0, 0\] must name at least one rank, each once"),
        (CollectiveCall("all_reduce", (0, 9)), r"ranks \[9\] are not in this job of 2 devices \(0..1\)"),
        (CollectiveCall("all_reduce", (0,), count=-1), "count -1 must be between"),
        (CollectiveCall("all_reduce", (0,), count=1 << 50), "must be between 0 and"),
        (CollectiveCall("all_reduce", (0,), count=4, reduce="xor"), "reduction 'xor' is unknown; use one of sum"),
        (CollectiveCall("broadcast", (0,), count=4, root_or_peer=1), r"root 1 is not in group \[0\]"),
        (CollectiveCall("send", (0, 1), count=4, root_or_peer=-1), "peer -1 is not in group"),
        (CollectiveCall("send", (0, 1), count=4, root_or_peer=0), "rank 0 cannot exchange with itself"),
        (CollectiveCall("all_reduce", (0,), dtype="complex", count=4), "complex"),
        (CollectiveCall("all_to_all_v", (0,), sends=(1, 2), receives=(4,)), r"sends needs 1 counts, not \[1, 2\]"),
        (CollectiveCall("all_to_all_v", (0,), sends=(4,), receives=(-1,)), r"receives needs 1 counts, not \[-1\]"),
        (CollectiveCall("all_reduce", (0,), dtype="bool", count=4), "bool cannot be reduced; use u8"),
        (CollectiveCall("all_reduce", (1,), count=4), r"rank 0 is not in the group \[1\]"),
        (CollectiveCall("all_reduce", (0,), count=5), "send buffer of 5 x f32, got 4 x float32"),
        (CollectiveCall("all_reduce", (0,), dtype="f16", count=4), "send buffer of 4 x f16, got 4 x float32"),
    ],
)
def test_a_wrong_call_is_refused_with_what_is_wrong(call, words):
    with a_job(1, 2) as (pod,):
        data = np.zeros(4, np.float32)
        with pytest.raises(EmulatorError, match=words):
            pod.run(call, 0, data, data, 0.0)


def test_wrong_buffers_are_refused():
    with a_job(1, 2) as (pod,):
        call = CollectiveCall("all_reduce", (0,), count=4)
        good = np.zeros(4, np.float32)
        frozen = np.zeros(4, np.float32)
        frozen.setflags(write=False)
        with pytest.raises(FabricError, match="needs a receive buffer of 4 x f32, got none"):
            pod.run(call, 0, good, None, 0.0)
        with pytest.raises(FabricError, match="read-only"):
            pod.run(call, 0, good, frozen, 0.0)
        with pytest.raises(FabricError, match="contiguous"):
            pod.run(call, 0, np.zeros((4, 2), np.float32)[:, 0], good, 0.0)
        with pytest.raises(FabricError, match="device 7 is not one of this pod's 2"):
            pod.run(call, 7, good, good, 0.0)
        assert pod.run(call, 0, frozen, good, 1.5) == 1.5
        # What is known of a call from the first time spares no look at the buffers of the next.
        with pytest.raises(FabricError, match="needs a receive buffer of 4 x f32, got 4 x float64"):
            pod.run(call, 0, good, np.zeros(4), 0.0)
        with pytest.raises(FabricError, match="needs a send buffer of 4 x f32, got 5 x float32"):
            pod.run(call, 0, np.zeros(5, np.float32), good, 0.0)
        with pytest.raises(FabricError, match="read-only"):
            pod.run(call, 0, good, frozen, 0.0)
        square = np.zeros((2, 2), np.float32)
        assert pod.run(call, 0, np.arange(4, dtype=np.float32), square, 1.5) == 1.5
        assert square.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 2, "workers": 2}, "rank 2 of 2 workers"),
        ({"workers": 0}, "of 0 workers"),
        ({"devices_per_worker": 0}, "0 devices per worker"),
        ({"timeout": 0}, "timeouts must be above 0"),
        ({"workers": 2, "secret": "short"}, "need a job secret of 16 bytes or more in SUPERNODE_FABRIC_SECRET, got 5"),
        ({"rank": 1, "workers": 2, "rendezvous": "host"}, "SUPERNODE_RENDEZVOUS must be host:port, got 'host'"),
        ({"rank": 1, "workers": 2, "rendezvous": "host:99999"}, "must be host:port"),
        ({"rank": 1, "workers": 2, "rendezvous": ":29400"}, "must be host:port"),
    ],
)
def test_a_wrong_configuration_names_the_variable(settings, words):
    base = {"rank": 0, "workers": 1, "devices_per_worker": 1, "secret": SECRET}
    with pytest.raises(FabricError, match=words):
        FabricConfig(**{**base, **settings})


def test_the_secret_is_never_printed():
    assert "cdef" not in repr(FabricConfig(0, 1, 1, secret=SECRET))


WIRING = {
    "levels": [
        {"name": "spine", "bandwidthGBps": 50, "latencyMicroseconds": 10},
        {"name": "supernode", "bandwidthGBps": 224, "latencyMicroseconds": 2},
        {"name": "node", "bandwidthGBps": 448, "latencyMicroseconds": 1},
    ],
    "domains": [[0, 0, 0, 0], [7, 3, 7, 3], [0, 1, 2, 3]],
}


def test_rings_cross_each_boundary_as_few_times_as_possible():
    topology = read_topology(json.dumps(WIRING), workers=4, devices=2)
    assert topology.ring((0, 1, 2, 3)) == (1, 3, 0, 2)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        json.dumps({**WIRING, "domains": [[0, 0]]}),
        json.dumps({**WIRING, "levels": []}),
        json.dumps({**WIRING, "domains": [[0, 0, 0, 1e300]] * 3}),
        json.dumps({**WIRING, "levels": [{**level, "bandwidthGBps": 0} for level in WIRING["levels"]]}),
        json.dumps({**WIRING, "levels": [{**level, "bandwidthGBps": "x"} for level in WIRING["levels"]]}),
        json.dumps({**WIRING, "domains": "abc"}),
    ],
)
def test_a_wrong_topology_is_a_typed_error(text):
    with pytest.raises(FabricError, match="SUPERNODE_TOPOLOGY"):
        read_topology(text, workers=4, devices=2)


def test_virtual_time_starts_with_the_last_rank_and_costs_the_links_that_are_crossed():
    with a_job(4, 2, topology=json.dumps(WIRING)) as fabrics:
        topology = read_topology(json.dumps(WIRING), workers=4, devices=2)

        def end(group: tuple[int, ...]) -> float:
            call = CollectiveCall("all_reduce", group, 0, "f32", 250_000)
            buffers = {rank: np.zeros(250_000, np.float32) for rank in group}
            ends = at_once(
                [lambda r=r: run(fabrics, r, call, buffers[r], buffers[r], ready=1.0 + r / 10) for r in group]
            )
            assert len(set(ends)) == 1
            return ends[0] - (1.0 + max(group) / 10)

        # Worked out here a second time: devices 0 and 1 share a node; 0 and 4 a super-node; 0 and 2 only the spine.
        for group, domains in (
            ((0, 1), [[0, 0], [7, 7], [0, 0]]),
            ((0, 4), [[0, 0], [7, 7], [0, 2]]),
            ((0, 2), [[0, 0], [7, 3], [0, 1]]),
        ):
            seconds = collective_seconds("all_reduce", 1_000_000, links_of(topology.levels, domains))
            assert end(group) == pytest.approx(seconds, rel=1e-9)
        assert end((0, 1)) < end((0, 4)) < end((0, 2))


def test_an_address_that_is_taken_is_a_typed_error():
    with a_job(2, 1) as fabrics:
        host, port = fabrics[0].address
        with pytest.raises(FabricError, match=f"cannot listen on {host}:{port}"):
            Fabric(FabricConfig(0, 2, 1, listen_host=host, listen_port=port, secret=SECRET))


def test_the_page_names_every_kind_and_every_reason_for_turning_away():
    page = (Path(__file__).parents[3] / "docs" / "fabric.md").read_text()
    section = page.split("## Collectives")[1].split("##")[0]
    named = {word for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE) for word in row.split(", ")}
    assert named == {f"`{kind}`" for kind in KINDS}
    code = (Path(fabric.__file__).parent / "reception.py").read_text()
    reasons = set(re.findall(r'_count\("(\w+)"\)', code))
    assert reasons == set(re.findall(r"`(\w+)`", page.split("counted by reason (")[1].split(")")[0]))
