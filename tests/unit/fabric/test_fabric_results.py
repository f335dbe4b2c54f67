"""Every collective against a plain NumPy formula, over random groups, sizes, types and wirings.

The formulas below are written from the meaning of each collective (MPI's and NCCL's), not from our code.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.fabric.pods import a_job, at_once, outcomes, run

from supernode.emulator.fabric import KINDS, REDUCTIONS, CollectiveCall, Fabric
from supernode.emulator.fabric.collectives import DIRECT_BYTES
from supernode.errors import CollectiveMismatchError

WORKERS, DEVICES = 3, 2
WORLD = WORKERS * DEVICES
NUMPY = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f8e4m3": ml_dtypes.float8_e4m3fn,
    "f8e5m2": ml_dtypes.float8_e5m2,
    "i64": np.int64,
    "i32": np.int32,
    "i8": np.int8,
    "u8": np.uint8,
    "u32": np.uint32,
}
# Relative error of one rounding, and of a sum of up to 6 values of similar size in another order.
TOLERANCE = {"f64": 1e-12, "f32": 1e-5, "f16": 2e-3, "bf16": 1.6e-2, "f8e4m3": 0.13, "f8e5m2": 0.25}


@pytest.fixture(scope="module", params=["auto", "tcp"])
def job(request):
    with a_job(WORKERS, DEVICES, transport=request.param) as fabrics:
        yield fabrics


def reduced(op: str, parts: list[np.ndarray[Any, Any]], dtype: str) -> np.ndarray[Any, Any]:
    """The exact reduction: floats in f64, integers in their own arithmetic."""
    if dtype.startswith(("f", "bf")):
        stack = np.stack([part.astype(np.float64) for part in parts])
    else:
        stack = np.stack(parts)
    with np.errstate(all="ignore"):
        if op == "average":
            total = stack.sum(axis=0, dtype=stack.dtype)
            return total / len(parts) if stack.dtype == np.float64 else total // stack.dtype.type(len(parts))
        name = {"sum": "add", "product": "multiply", "min": "minimum", "max": "maximum"}[op]
        return getattr(np, name).reduce(stack, axis=0, dtype=stack.dtype)


def expected(call: CollectiveCall, sends: list[np.ndarray[Any, Any]], place: int) -> np.ndarray[Any, Any] | None:
    """What the rank at `place` must receive; None where it receives nothing."""
    n, count = len(call.group), call.count
    root = call.group.index(call.root_or_peer) if call.root_or_peer >= 0 else -1
    shares = [send.reshape(n, count) if send.size == n * count else None for send in sends]
    if call.kind == "all_reduce" or (call.kind == "reduce" and place == root):
        return reduced(call.reduce, sends, call.dtype)
    if call.kind == "reduce_scatter":
        return reduced(call.reduce, [share[place] for share in shares], call.dtype)
    if call.kind == "all_gather" or (call.kind == "gather" and place == root):
        return np.concatenate(sends)
    if call.kind == "broadcast":
        return sends[root]
    if call.kind == "scatter":
        return shares[root][place]
    if call.kind == "all_to_all":
        return np.concatenate([share[place] for share in shares])
    return None


def values(dtype: str, count: int, seed: int) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    if dtype in TOLERANCE:
        return (random.uniform(0.5, 1.5, count) * random.choice([-1, 1], count)).astype(NUMPY[dtype])
    info = np.iinfo(NUMPY[dtype])
    return random.integers(info.min, info.max, count, endpoint=True, dtype=NUMPY[dtype])


def together(job: list[Fabric], call: CollectiveCall, seed: int) -> None:
    """Run a call on all ranks of its group and compare with the formula, bits between ranks included."""
    n, dtype = len(call.group), NUMPY[call.dtype]
    send_size = call.count * (n if call.kind in ("reduce_scatter", "scatter", "all_to_all") else 1)
    recv_size = call.count * (n if call.kind in ("all_gather", "gather", "all_to_all") else 1)
    sends = [values(call.dtype, send_size, seed + place) for place in range(n)]
    receives = [np.full(recv_size, 77, dtype=dtype) for _ in range(n)]
    kept = [send.copy() for send in sends]

    def part(place: int):
        return lambda: run(job, call.group[place], call, sends[place], receives[place], ready=float(place))

    finishes = at_once([part(place) for place in range(n)])
    assert len(set(finishes)) == 1
    assert finishes[0] >= n - 1
    for place in range(n):
        np.testing.assert_array_equal(sends[place], kept[place], err_msg="the send buffer was changed")
        wanted = expected(call, kept, place)
        if wanted is None:
            np.testing.assert_array_equal(receives[place], np.full(recv_size, 77, dtype=dtype))
        elif call.dtype in TOLERANCE:
            got = receives[place].astype(np.float64)
            slack = TOLERANCE[call.dtype] * n
            np.testing.assert_allclose(got, wanted.astype(np.float64), rtol=slack, atol=slack)
        else:
            np.testing.assert_array_equal(receives[place], wanted)
    if call.kind in ("all_reduce", "all_gather", "broadcast"):
        assert len({received.tobytes() for received in receives}) == 1


GROUPS = st.lists(st.integers(0, WORLD - 1), min_size=1, max_size=WORLD, unique=True).map(tuple)


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(sorted(set(KINDS) - {"send", "recv", "barrier", "all_to_all_v"})),
    group=GROUPS,
    dtype=st.sampled_from(sorted(NUMPY)),
    op=st.sampled_from(REDUCTIONS),
    count=st.one_of(st.integers(0, 40), st.integers(0, 9000), st.sampled_from([16384, 16385, 50001])),
    root=st.integers(0, WORLD - 1),
    seed=st.integers(0, 2**20),
)
def test_any_collective_of_any_group_gives_what_numpy_says(job, kind, group, dtype, op, count, root, seed):
    place = group[root % len(group)]
    together(job, CollectiveCall(kind, group, 0, dtype, count, op, place), seed)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"send", "recv", "barrier", "all_to_all_v"}))
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_large_buffers_take_the_ring(job, kind, dtype):
    together(job, CollectiveCall(kind, (4, 1, 5, 0, 2), 0, dtype, 300_001, "sum", 5), 7)


def test_an_all_reduce_that_is_too_large_to_go_straight_takes_the_ring(job):
    together(job, CollectiveCall("all_reduce", (4, 1, 5, 0, 2), 0, "f32", DIRECT_BYTES // 4 + 1), 7)


@pytest.mark.parametrize("count", [4, 100_000])
def test_sum_of_16_bit_values_is_rounded_once(job, count):
    """1 and five times 1.875/1024: any sum of two in bf16 (gap 8/1024 above 1) loses the small part."""
    group = tuple(range(WORLD))
    sends = [np.full(count, 1.0 if rank == 0 else 1.875 / 1024, dtype=ml_dtypes.bfloat16) for rank in group]
    receives = [np.empty_like(send) for send in sends]
    call = CollectiveCall("all_reduce", group, 0, "bf16", count)
    at_once([lambda r=r: run(job, r, call, sends[r], receives[r]) for r in group])
    assert all((received == ml_dtypes.bfloat16(1 + 8 / 1024)).all() for received in receives)


@pytest.mark.parametrize("kind", ["all_reduce", "broadcast", "reduce"])
@pytest.mark.parametrize("count", [10, 100_000])
def test_send_and_receive_may_be_the_same_memory(job, kind, count):
    group = tuple(range(WORLD))
    buffers = [values("f32", count, rank) for rank in group]
    kept = [buffer.copy() for buffer in buffers]
    call = CollectiveCall(kind, group, 0, "f32", count, "sum", 3)
    at_once([lambda r=r: run(job, r, call, buffers[r], buffers[r]) for r in group])
    for rank in group:
        wanted = expected(call, kept, rank)
        np.testing.assert_allclose(buffers[rank], kept[rank] if wanted is None else wanted, rtol=1e-5, atol=1e-5)


def test_timing_of_the_ranks_does_not_change_the_bits(job):
    """The order in which ranks arrive must not show in a sum of floats."""
    import time

    group = tuple(range(WORLD))
    sends = [values("f32", 70_000, rank) * 10.0 ** (rank - 3) for rank in group]
    sends = [send.astype(np.float32) for send in sends]
    results = set()
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]):
        receives = [np.empty(70_000, np.float32) for _ in group]

        def part(rank: int, receives=receives, order=order) -> float:
            time.sleep(0.02 * order.index(rank))
            return run(job, rank, CollectiveCall("all_reduce", group, 0, "f32", 70_000), sends[rank], receives[rank])

        at_once([lambda r=r: part(r) for r in group])
        results |= {received.tobytes() for received in receives}
    assert len(results) == 1


def test_send_and_recv_between_pods_and_inside_one(job):
    for source, target in ((0, 5), (5, 0), (2, 3)):
        sent = [values("i32", 1000 * step, step) for step in range(1, 4)]
        got = [np.zeros(1000 * step, np.int32) for step in range(1, 4)]
        group = tuple(range(WORLD))

        def sender(sent=sent, source=source, target=target, group=group):
            for number, array in enumerate(sent):
                run(job, source, CollectiveCall("send", group, number, "i32", array.size, "sum", target), array, None)

        def receiver(got=got, source=source, target=target, group=group):
            for number, array in enumerate(got):
                # The receiver's own count of calls differs: only the order between the two matters.
                run(
                    job,
                    target,
                    CollectiveCall("recv", group, 40 + number, "i32", array.size, "sum", source),
                    None,
                    array,
                )

        at_once([sender, receiver])
        for left, right in zip(sent, got, strict=True):
            np.testing.assert_array_equal(left, right)


def test_groups_run_side_by_side_and_channels_keep_streams_apart(job):
    """Rows, columns and two channels of everyone at the same time, many times, in different orders per rank."""
    rows, columns, everyone = [(0, 1, 2), (3, 4, 5)], [(0, 3), (1, 4), (2, 5)], (0, 1, 2, 3, 4, 5)

    def stream(rank: int, group: tuple[int, ...], channel: int):
        def go() -> None:
            for number in range(15):
                data = np.full(2000 + number, rank + number, np.float32)
                call = CollectiveCall("all_reduce", group, number, "f32", data.size, "sum", -1, channel)
                run(job, rank, call, data, data)
                assert (data == sum(r + number for r in group)).all()

        return go

    work = [stream(rank, group, 0) for group in rows + columns for rank in group]
    work += [stream(rank, everyone, channel) for rank in everyone for channel in (0, 1)]
    at_once(work)


def test_a_single_pod_needs_no_network():
    with a_job(1, 4) as fabrics:
        assert fabrics[0].address is None
        together(fabrics, CollectiveCall("all_reduce", (3, 1, 2, 0), 0, "f32", 1000), 1)
        together(fabrics, CollectiveCall("all_to_all", (0, 1, 2, 3), 0, "bf16", 100), 1)


def test_barrier_waits_for_the_last_and_gives_all_one_time(job):
    group = (1, 2, 4)
    call = CollectiveCall("barrier", group)
    ends = at_once([lambda r=r: run(job, r, call, None, None, ready=r * 0.5) for r in group])
    assert len(set(ends)) == 1
    assert 2.0 <= ends[0] < 2.01


@settings(max_examples=30, deadline=None)
@given(group=GROUPS, dtype=st.sampled_from(["f32", "bf16", "u8"]), seed=st.integers(0, 2**20))
def test_an_uneven_exchange_gives_each_pair_its_own_count(job, group, dtype, seed):
    random = np.random.default_rng(seed)
    n = len(group)
    counts = random.choice([0, 1, 7, 300, 20_000], (n, n), p=[0.3, 0.2, 0.2, 0.2, 0.1])
    sends = [values(dtype, int(counts[place].sum()), seed + place) for place in range(n)]
    receives = [np.zeros(int(counts[:, place].sum()), NUMPY[dtype]) for place in range(n)]

    def part(place: int):
        out, into = tuple(counts[place].tolist()), tuple(counts[:, place].tolist())
        call = CollectiveCall("all_to_all_v", group, 3, dtype, sends=out, receives=into)
        return lambda: run(job, group[place], call, sends[place], receives[place])

    assert len(set(at_once([part(place) for place in range(n)]))) == 1
    pieces = [np.split(send, np.cumsum(counts[place])[:-1]) for place, send in enumerate(sends)]
    for place in range(n):
        np.testing.assert_array_equal(receives[place], np.concatenate([pieces[source][place] for source in range(n)]))


def test_an_uneven_exchange_whose_counts_do_not_fit_is_told_to_all(job):
    wrong = {0: ((1, 2), (1, 5)), 2: ((4, 0), (2, 0))}

    def part(rank: int) -> float:
        out, into = wrong[rank]
        call = CollectiveCall("all_to_all_v", (0, 2), 0, "f32", sends=out, receives=into, where=f"train.py:{rank}")
        return run(job, rank, call, np.zeros(sum(out), np.float32), np.zeros(sum(into), np.float32))

    for error in outcomes([lambda r=r: part(r) for r in (0, 2)]):
        assert isinstance(error, CollectiveMismatchError)
        assert "rank 2 sends 4 elements to rank 0, which expects 5; called at train.py:0" in str(error)
