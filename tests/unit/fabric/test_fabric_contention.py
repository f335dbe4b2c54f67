"""Two transfers of one accelerator share its links in virtual time, and the same run gives the same microsecond."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.fabric.pods import a_job, at_once, outcomes

from supernode.emulator.fabric import CollectiveCall, agreement
from supernode.emulator.fabric.contention import limit, schedule, slowest
from supernode.emulator.fabric.standing import standing
from supernode.emulator.fabric.timing import LinkClock
from supernode.emulator.fabric.topology import read_topology
from supernode.errors import CollectiveTimeoutError

WIRING = json.dumps(
    {
        "levels": [
            {"name": "network", "bandwidthGBps": 25, "latencyMicroseconds": 10},
            {"name": "node", "bandwidthGBps": 200, "latencyMicroseconds": 2},
        ],
        "domains": [[0, 0, 0], [0, 1, 2]],
    }
)
COUNT = 250_000  # f32: 1 MB


def reduce_of(group: tuple[int, ...], channel: int = 0, count: int = COUNT) -> CollectiveCall:
    return CollectiveCall("all_reduce", group, 0, "f32", count, channel=channel)


# --- the arithmetic, against a simulation in small steps --------------------------------------------------------------


def test_a_transfer_waits_while_its_link_is_taken_and_uses_the_gaps():
    assert schedule(0.0, 5.0, []) == [(0.0, 5.0, 1.0)]
    assert schedule(1.0, 5.0, [(2.0, 4.0, 0.0)]) == [(1.0, 2.0, 1.0), (4.0, 8.0, 1.0)]
    assert schedule(0.0, 1.0, [(2.0, 4.0, 0.0)]) == [(0.0, 1.0, 1.0)]
    assert schedule(0.0, 3.0, [(0.0, 4.0, 0.5), (4.0, 5.0, 0.0)]) == [(0.0, 4.0, 0.5), (5.0, 6.0, 1.0)]
    assert schedule(9.0, 3.0, [(0.0, 4.0, 0.5)]) == [(9.0, 12.0, 1.0)]


def test_ports_are_shared_by_rate_and_directions_are_apart():
    out, both = {(0, "out"): 1.0}, {(0, "out"): 0.5, (0, "in"): 0.5}
    assert limit(out, [({(0, "in"): 1.0}, [(0.0, 9.0, 1.0)])]) == []
    assert limit(out, [({(1, "out"): 1.0}, [(0.0, 9.0, 1.0)])]) == []
    assert limit(both, [(out, [(1.0, 2.0, 1.0)])]) == [(1.0, 2.0, 0.0)]
    assert limit(out, [(both, [(1.0, 2.0, 1.0)])]) == [(1.0, 2.0, 0.5)]
    assert limit(both, [(both, [(1.0, 2.0, 1.0)])]) == []
    assert slowest([[(0.0, 2.0, 0.5)], [(1.0, 3.0, 0.25)]]) == [(0.0, 1.0, 0.5), (1.0, 2.0, 0.25), (2.0, 3.0, 0.25)]


@given(st.floats(0, 10), st.integers(0, 1 << 24), st.lists(st.floats(0, 1), max_size=3))
def test_whoever_is_asked_in_vain_changes_no_bit_of_the_time(ready: float, count: int, ends: list[float]) -> None:
    """A transfer that has ended may still be asked about, or not: that is up to the threads of the host."""
    clock = LinkClock(read_topology(WIRING, workers=3, devices=1))
    call = reduce_of((0, 1), count=count)
    need = clock.need(call)
    alone = standing(call, 0, lambda call: None, clock).alone(ready)
    words = {"finish": alone[0], "moving": alone[1], "begin": ready + need.latency, "seconds": need.seconds}
    over = [[(0.0, ready * end, 0.5)] for end in ends]
    assert agreement.settle(words, over) == {"finish": alone[0], "moving": alone[1]}
    held = agreement.settle(words, [*over, [(ready, ready + 1.0, 0.0)]])
    assert held["finish"] > ready + 1.0 if need.seconds else held["finish"] == alone[0]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9), st.sampled_from([0.0, 0.25, 0.5])), max_size=4),
    st.integers(0, 20),
    st.integers(1, 15),
)
def test_work_is_conserved(others, begin, seconds):
    """Against a walk in steps of 1/8: what moved by the end is what was to move, and no faster than allowed."""
    limits = slowest([[(float(start), float(start + length), speed)] for start, length, speed in others])
    stretches = schedule(float(begin), float(seconds), limits)
    assert sum((end - first) * speed for first, end, speed in stretches) == pytest.approx(seconds)
    now, moved = float(begin), 0.0
    while moved < seconds - 1e-9:
        moved += min([1.0, *(s for start, length, s in others if start <= now < start + length)]) / 8
        now += 1 / 8
    assert stretches[-1][1] == pytest.approx(now, abs=0.51)


# --- programs ---------------------------------------------------------------------------------------------------------


def programs(delays: list[float], ready: dict[str, float], calls: dict[str, CollectiveCall], order: list[str]):
    """Three pods of one device each; every program issues `order`, each call on a stream of its own."""
    with a_job(3, 1, topology=WIRING) as fabrics:
        ends: dict[tuple[str, int], float] = {}
        delay = iter(delays)
        work = []
        for rank, fabric in enumerate(fabrics):
            program = fabric.enter()
            for name in order:
                call = calls[name]
                if rank not in call.group:
                    continue
                ticket, pause = program.issue(call, 0, name), next(delay)

                def part(program=program, ticket=ticket, name=name, rank=rank, pause=pause):
                    time.sleep(pause)
                    data = np.zeros(ticket.call.count, np.float32)
                    ends[name, rank] = program.run(ticket, data, data, ready[name])

                work.append(part)
        at_once(work)
        return ends


def alone(call: CollectiveCall) -> float:
    return LinkClock(read_topology(WIRING, workers=3, devices=1)).seconds(call)


def test_the_later_of_two_on_one_link_ends_when_both_would_have_one_after_the_other():
    calls = {"a": reduce_of((0, 1, 2)), "b": reduce_of((0, 1, 2), channel=1)}
    ends = programs([0.0] * 6, {"a": 1.0, "b": 1.0}, calls, ["a", "b"])
    whole, latency = alone(calls["a"]), alone(reduce_of((0, 1, 2), count=0))
    assert {ends["a", rank] for rank in range(3)} == {1.0 + whole}
    assert {round(ends["b", rank], 12) for rank in range(3)} == {round(1.0 + whole + (whole - latency), 12)}


def test_a_transfer_that_ends_before_the_earlier_one_begins_is_not_held_up():
    calls = {"a": reduce_of((0, 1, 2)), "b": reduce_of((0, 1, 2), channel=1)}
    ends = programs([0.0] * 6, {"a": 5.0, "b": 1.0}, calls, ["a", "b"])
    assert ends["b", 0] == 1.0 + alone(calls["b"])
    assert ends["a", 0] == 5.0 + alone(calls["a"])


def test_the_two_directions_of_a_link_are_apart_and_one_of_them_is_shared():
    """Rank 1 sends to 0 while it sends to 2: these share. Rank 0 sends to 1 meanwhile: that does not."""

    def send(source: int, target: int) -> CollectiveCall:
        return CollectiveCall("send", (0, 1, 2), 0, "f32", COUNT, root_or_peer=target, channel=source)

    def sender(call: CollectiveCall) -> int:
        return call.channel

    calls = {"back": send(1, 0), "on": send(1, 2), "there": send(0, 1)}
    with a_job(3, 1, topology=WIRING) as fabrics:
        ends = {}
        work = []
        for rank, fabric in enumerate(fabrics):
            program = fabric.enter()
            for name, call in calls.items():
                if rank not in (sender(call), call.root_or_peer):
                    continue
                if rank == call.root_or_peer:
                    source = sender(call)
                    call = CollectiveCall("recv", call.group, 0, "f32", COUNT, root_or_peer=source, channel=source)
                ticket = program.issue(call, 0, name)

                def part(program=program, ticket=ticket, name=name, rank=rank):
                    data = np.zeros(COUNT, np.float32)
                    ends[name, rank] = program.run(ticket, data, data, 1.0)

                work.append(part)
        at_once(work)
    whole, latency = alone(calls["back"]), alone(CollectiveCall("send", (0, 1), root_or_peer=1))
    assert ends["back", 0] == ends["back", 1] == ends["there", 0] == ends["there", 1] == 1.0 + whole
    assert ends["on", 1] == ends["on", 2] == pytest.approx(1.0 + whole + whole - latency, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_a_contended_run_gives_the_same_microsecond_whatever_the_host_does(seed):
    """Four overlapping transfers over three devices, with random real delays in each of their threads."""
    calls = {
        "everyone": reduce_of((0, 1, 2)),
        "left": reduce_of((0, 1), channel=1, count=COUNT // 2),
        "right": reduce_of((1, 2), channel=1, count=2 * COUNT),
        "again": reduce_of((0, 1, 2), channel=2),
    }
    ready = {"everyone": 1e-3, "left": 1.00001e-3, "right": 0.99e-3, "again": 1.05e-3}
    delays = [random.Random(seed * 100 + n).uniform(0, 0.08) if seed else 0.0 for n in range(16)]
    ends = programs(delays, ready, calls, list(calls))
    assert RESULTS.setdefault("ends", ends) == ends
    assert ends["again", 0] > ready["again"] + 1.5 * alone(calls["again"])


RESULTS: dict[str, dict[tuple[str, int], float]] = {}


def test_orders_that_differ_between_ranks_hold_nobody_up(monkeypatch):
    """Rank 0 issues a then b, rank 1 b then a: neither is first on both, so neither waits, and nothing hangs."""

    def waits(*arguments):
        raise AssertionError("a call waits for another that is not before it everywhere")

    monkeypatch.setattr(agreement, "_limits", waits)
    with a_job(2, 1) as fabrics:
        a, b = reduce_of((0, 1)), reduce_of((0, 1), channel=1)
        work = []
        for fabric, order in zip(fabrics, ([a, b], [b, a]), strict=True):
            program = fabric.enter()
            for call in order:
                ticket = program.issue(call, 0, object())
                data = np.zeros(COUNT, np.float32)
                work.append(lambda p=program, t=ticket, d=data: p.run(t, d, d, 0.0))
        ends = at_once(work)
        assert len(set(ends)) == 1


def test_a_circle_of_orders_is_an_error_after_the_timeout_and_never_a_time_that_chance_decides():
    """a before b on rank 0, b before c on rank 1, c before a on rank 2."""
    with a_job(3, 1, topology=WIRING, timeouts=[1.0] * 3) as fabrics:
        calls = {"a": reduce_of((0, 2)), "b": reduce_of((0, 1)), "c": reduce_of((1, 2))}
        orders = ["ab", "bc", "ca"]
        work = []
        for fabric, order in zip(fabrics, orders, strict=True):
            program = fabric.enter()
            for name in order:
                ticket = program.issue(calls[name], 0, object())
                data = np.zeros(COUNT, np.float32)
                work.append(lambda p=program, t=ticket, d=data: p.run(t, d, d, 0.0))
        errors = [result for result in outcomes(work) if isinstance(result, CollectiveTimeoutError)]
        assert errors
        assert all("waited 1 s for all_reduce" in str(error) for error in errors)
        assert all("let all ranks issue them in one order" in str(error) for error in errors)


# --- programs that end or begin again ---------------------------------------------------------------------------------


def both(fabrics, programs_, call: CollectiveCall) -> list[float]:
    tickets = [program.issue(call, 0, "stream") for program in programs_]
    arrays = [np.full(call.count, rank + 1.0, np.float32) for rank in range(len(fabrics))]
    ends = at_once(
        [lambda p=p, t=t, a=a: p.run(t, a, a, 0.0) for p, t, a in zip(programs_, tickets, arrays, strict=True)]
    )
    assert {array[0] for array in arrays} == {sum(range(1, len(fabrics) + 1))}
    return ends


def test_programs_that_are_started_again_on_all_pods_begin_anew():
    from supernode.errors import FabricError

    with a_job(2, 1) as fabrics:
        call = reduce_of((0, 1), count=10)
        first = [fabric.enter() for fabric in fabrics]
        for _ in range(3):
            both(fabrics, first, call)
        # Rank 1's program dies and is started again; rank 0's hears of it at its next call, at once.
        first[1].leave()
        deadline = time.monotonic() + 20
        ticket = first[0].issue(call, 0, "stream")
        data = np.ones(10, np.float32)
        with pytest.raises(FabricError, match=r"the program of rank 1 \(worker 1 .*\) has ended or was started again"):
            first[0].run(ticket, data, data, 0.0)
        assert time.monotonic() < deadline
        first[0].leave()
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
        for _ in range(5):
            again = [fabric.enter() for fabric in fabrics]
            for _ in range(2):
                both(fabrics, again, call)
            for program in again:
                program.leave()
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= files + 8


def test_a_group_that_failed_is_made_again_as_the_next_generation():
    from supernode.errors import CollectiveTimeoutError

    with a_job(2, 1, timeouts=[0.5, 0.5]) as fabrics:
        programs_ = [fabric.enter() for fabric in fabrics]
        call = reduce_of((0, 1), count=10)
        data = np.ones(10, np.float32)
        with pytest.raises(CollectiveTimeoutError):
            programs_[0].run(programs_[0].issue(call, 0, "s"), data, data, 0.0)
        with pytest.raises(CollectiveTimeoutError):
            programs_[1].run(programs_[1].issue(call, 0, "s"), data, data, 0.0)
        both(fabrics, programs_, CollectiveCall("all_reduce", (0, 1), 0, "f32", 10, generation=1))
