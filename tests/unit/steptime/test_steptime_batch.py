"""A batch gives the figures of single predictions, and says which row is wrong."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.chips import find_chip
from supernode.errors import ModelError
from supernode.steptime.batch import regular_wirings, stack_wirings
from supernode.steptime.collectives import KINDS, LinkLevel, Links, levels_for, regular_links, transfer_seconds
from supernode.steptime.cuts import allowed, cuts_of, parallelism_at, stack_cuts
from supernode.steptime.model import ModelShape, Parallelism, check
from supernode.steptime.predict import PARTS, predict, predict_batch
from supernode.steptime.storage import Storage
from supernode.steptime.wiring import regular_wiring

CHIPS = [find_chip(name) for name in ("hygon-bw1000", "nvidia-a100-80g-sxm", "nvidia-h100-80g-sxm")]
DENSE = ModelShape(16, 4096, 32, 32000, 4096, kv_heads=8, gated=True, feed_forward_size=14336)
EXPERTS = ModelShape(16, 2048, 32, 32000, 2048, experts=8, experts_per_token=2, feed_forward_size=1024, head_size=128)
SIZES = (2, 2, 2, 8)

cuts = st.builds(
    Parallelism,
    tensor=st.sampled_from([1, 2, 4, 8]),
    pipeline=st.just(2),
    data=st.sampled_from([1, 2, 4]),
    context=st.sampled_from([1, 2]),
    micro_batch_size=st.sampled_from([1, 2]),
    global_batch_size=st.sampled_from([16, 64]),
    interleave=st.sampled_from([1, 2, 4]),
    sequence_parallel=st.booleans(),
    recompute=st.sampled_from(["None", "Selective", "Full"]),
    zero_stage=st.sampled_from([0, 1, 2, 3]),
)


def levels_of(chip: object) -> tuple[LinkLevel, ...]:
    figures = [("spine", 50e9, 1e-5), ("leaf", 50e9, 8e-6), ("supernode", 200e9, 3e-6), ("node", 224e9, 2e-6)]
    return levels_for(chip, figures)  # type: ignore[arg-type]


def sizes_of(devices: int) -> tuple[int, ...]:
    """A regular tree that the job fills from the inside."""
    sizes = []
    for most in SIZES[::-1]:
        sizes.append(math.gcd(devices, most))
        devices //= sizes[-1]
    return (sizes[3] * devices, sizes[2], sizes[1], sizes[0])


@given(st.lists(cuts, min_size=1, max_size=6), st.sampled_from(CHIPS), st.sampled_from([DENSE, EXPERTS]))
@settings(deadline=None, max_examples=60)
def test_a_batch_equals_single_predictions(chosen: list[Parallelism], chip: object, model: ModelShape) -> None:
    if model.experts > 1:
        chosen = [parallelism_at(_with_experts(one), 0) for one in chosen]
    levels = levels_of(chip)
    storage = Storage(read=1e7, write=1e9, every_steps=100)
    wirings = [regular_wiring(levels, sizes_of(one.devices), one) for one in chosen]
    table = stack_cuts(chosen)
    many = predict_batch(chip, model, table, stack_wirings(wirings), storage)  # type: ignore[arg-type]
    regular = regular_wirings(levels, np.array([sizes_of(one.devices) for one in chosen]).T, table)
    same = predict_batch(chip, model, table, regular, storage)  # type: ignore[arg-type]
    for row, (one, wiring) in enumerate(zip(chosen, wirings, strict=True)):
        single = predict(chip, model, one, wiring, storage)  # type: ignore[arg-type]
        assert many.seconds[row] == pytest.approx(single.seconds, rel=1e-12)
        assert same.seconds[row] == pytest.approx(single.seconds, rel=1e-12)
        for index, name in enumerate(PARTS):
            expected = getattr(single.parts, name)
            assert many.parts[index, row] == pytest.approx(expected, rel=1e-9, abs=1e-15), name
        assert many.memory_bytes[row] == pytest.approx(single.memory_bytes, abs=1)
        assert many.mfu[row] == pytest.approx(single.mfu)
        assert many.fits[row] == single.fits
    assert not many.seconds.flags.writeable


def _with_experts(one: Parallelism):  # type: ignore[no-untyped-def]
    table = stack_cuts([one])
    table.expert[:] = math.gcd(8, one.data * one.context)
    return table


@given(
    st.sampled_from(KINDS),
    st.lists(st.lists(st.integers(1, 5), min_size=4, max_size=4), min_size=1, max_size=5),
    st.floats(0, 1e11),
    st.sampled_from(CHIPS),
)
@settings(deadline=None)
def test_collectives_in_a_batch(kind: str, shapes: list[list[int]], nbytes: float, chip: object) -> None:
    levels = levels_of(chip)
    links = [regular_links(levels, shape) for shape in shapes]
    stacked = Links(
        levels,
        tuple(np.array([one.sizes[level] for one in links], dtype=float) for level in range(4)),
        tuple(np.array([one.lanes[level] for one in links], dtype=float) for level in range(4)),
    )
    many = np.broadcast_to(transfer_seconds(kind, nbytes, stacked), len(shapes))
    for row, one in enumerate(links):
        assert many[row] == pytest.approx(transfer_seconds(kind, nbytes, one), rel=1e-12)


def test_regular_wirings_of_every_even_cut() -> None:
    # 64 devices over 2 x 2 x 2 x 8, cut in all ways that powers of two allow.
    levels = levels_of(CHIPS[0])
    chosen = [
        Parallelism(t, p, d, 64 // (t * p * d), expert=math.gcd(4, 64 // (t * p)))
        for t, p, d in itertools.product((1, 2, 4, 8, 16), (1, 2, 4, 8), (1, 2, 4, 8, 16))
        if t * p * d <= 64
    ]
    table = stack_cuts(chosen)
    many = regular_wirings(levels, SIZES, table)
    for row, one in enumerate(chosen):
        single = regular_wiring(levels, SIZES, one)
        for kind in ("tensor", "context", "pipeline", "data", "expert"):
            links: Links = getattr(single, kind)
            found: Links = getattr(many, kind)
            assert [size[row] for size in found.sizes] == list(links.sizes), (kind, one)
            crossed = [size > 1 for size in links.sizes]
            lanes = [lane[row] for lane, used in zip(found.lanes, crossed, strict=True) if used]
            assert lanes == [lane for lane, used in zip(links.lanes, crossed, strict=True) if used], (kind, one)


def test_a_wrong_row_is_named() -> None:
    levels = levels_of(CHIPS[0])
    good, bad = Parallelism(tensor=8), Parallelism(tensor=3, data=3, global_batch_size=3)
    table = stack_cuts([good, bad])
    assert allowed(DENSE, table).tolist() == [True, False]
    wiring = regular_wirings(levels, (1, 1, 2, 8), table)
    with pytest.raises(ModelError, match=r"row 1 of the batch: .*parallelism.tensor"):
        predict_batch(CHIPS[0], DENSE, table, wiring)
    with pytest.raises(ModelError, match="at least one wiring"):
        stack_wirings([])
    one = Parallelism()
    different = [regular_wiring(levels, (1, 1, 1, 1), one), regular_wiring(levels[1:], (1, 1, 1), one)]
    with pytest.raises(ModelError, match="same levels"):
        stack_wirings(different)
    with pytest.raises(ModelError, match="sizes of 1 or more"):
        regular_wirings(levels, (0, 1, 1, 1), table)


@given(cuts, st.sampled_from([1, 2, 4, 8, 16, 32]))
@settings(deadline=None)
def test_allowed_says_what_check_says(one: Parallelism, pipeline: int) -> None:
    table = stack_cuts([one])
    table.pipeline[:] = pipeline
    try:
        check(DENSE, parallelism_at(table, 0))
        good = True
    except ModelError:
        good = False
    assert bool(allowed(DENSE, table)[0]) == good


def test_one_cut_as_numbers_and_back() -> None:
    one = Parallelism(2, 4, 2, 2, 2, 1, 8, 2, True, "Selective", 1)
    assert parallelism_at(stack_cuts([one]), 0) == one
    assert cuts_of(one).micro_batches == one.micro_batches
    assert stack_cuts([]).tensor.shape == (0,)
    assert stack_cuts([one, Parallelism()]).take(np.array([1])).tensor.tolist() == [1.0]


@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)),
    st.data(),
)
@settings(deadline=None, max_examples=200)
def test_uneven_wirings_are_never_better_than_they_are(shape: tuple[int, int, int, int], data: st.DataObject) -> None:
    one = Parallelism(*shape)
    node = data.draw(st.sampled_from([size for size in range(1, 25) if one.devices % size == 0]))
    nodes = one.devices // node
    outer = data.draw(st.sampled_from([size for size in range(1, nodes + 1) if nodes % size == 0]))
    levels = levels_of(CHIPS[0])[1:]
    sizes = (outer, nodes // outer, node)
    true, found = regular_wiring(levels, sizes, one), regular_wirings(levels, sizes, stack_cuts([one]))
    for kind in ("tensor", "context", "data", "pipeline"):
        real: Links = getattr(true, kind)
        said: Links = getattr(found, kind)
        crossed = [index for index, size in enumerate(said.sizes) if size[0] > 1]
        assert (real.widest == -1) == (not crossed), kind
        if crossed:
            assert crossed[0] <= real.widest, kind
            for index, size in enumerate(real.sizes):
                if size > 1 and kind != "pipeline":
                    assert said.lanes[index][0] <= real.lanes[index], (kind, one, sizes)


def test_experts_that_can_not_be_shared_out_are_not_allowed() -> None:
    model = ModelShape(2, 64, 4, 100, 64, experts=6, experts_per_token=1)
    table = stack_cuts([Parallelism(data=12, expert=expert) for expert in (1, 2, 3, 4, 6, 12)])
    assert allowed(model, table).tolist() == [True, True, True, False, True, False]
