"""The predictor: what must hold between predictions, wiring, and refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.chips import Chip, chip_from_mapping, find_chip
from supernode.errors import ChipError, ModelError
from supernode.steptime.calibration import DEFAULT, FAMILIES, family_named, family_of
from supernode.steptime.collectives import LinkLevel, Links, levels_for, links_of
from supernode.steptime.model import ModelShape, Parallelism, check, flops_per_step
from supernode.steptime.predict import StepTime, predict
from supernode.steptime.roofline import gemm_seconds, kernel_seconds
from supernode.steptime.wiring import regular_wiring, runs, wiring_of

BW1000 = find_chip("hygon-bw1000")
SMALL = ModelShape(8, 1024, 16, 32000, 1024)


def two_nodes(chip: Chip = BW1000) -> tuple[LinkLevel, ...]:
    return levels_for(chip, [("spine", 50e9, 10e-6), ("node", 224e9, 2e-6)])


def run(cut: Parallelism, model: ModelShape = SMALL, chip: Chip = BW1000) -> StepTime:
    nodes = max(1, cut.devices // 8)
    return predict(chip, model, cut, regular_wiring(two_nodes(chip), (nodes, cut.devices // nodes), cut))


cuts = st.builds(
    Parallelism,
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2, 4]),
    data=st.sampled_from([1, 2]),
    context=st.sampled_from([1, 2]),
    micro_batch_size=st.sampled_from([1, 2]),
    sequence_parallel=st.booleans(),
    recompute=st.sampled_from(["None", "Selective", "Full"]),
    zero_stage=st.sampled_from([0, 1, 2, 3]),
)


@given(cuts)
@settings(deadline=None)
def test_parts_add_up_and_nothing_beats_the_data_sheet(cut: Parallelism) -> None:
    step = run(cut)
    parts = step.parts
    total = sum(getattr(parts, name) for name in type(parts).__slots__)
    assert step.seconds == pytest.approx(total)
    assert all(getattr(parts, name) >= 0 for name in type(parts).__slots__)
    assert 0 < step.mfu < 1
    least = flops_per_step(SMALL, cut.batch) / (cut.devices * BW1000.peak_flops("bf16"))
    assert step.seconds > least
    assert step.mfu == pytest.approx(least / step.seconds)
    assert step.fits == (step.memory_bytes <= 64 * 2**30)
    assert (parts.tensor > 0) == (cut.tensor > 1)
    assert (parts.pipeline > 0) == (cut.pipeline > 1)
    assert (parts.data > 0) == (cut.data * cut.context > 1)


@given(cuts)
@settings(max_examples=50, deadline=None)
def test_slower_links_never_make_a_step_faster(cut: Parallelism) -> None:
    sizes = (max(1, cut.devices // 8), min(8, cut.devices))
    fast = predict(BW1000, SMALL, cut, regular_wiring(two_nodes(), sizes, cut))
    slow_levels = tuple(replace(level, bandwidth=level.bandwidth / 3) for level in two_nodes())
    slow = predict(BW1000, SMALL, cut, regular_wiring(slow_levels, sizes, cut))
    assert slow.seconds >= fast.seconds


@given(cuts)
@settings(max_examples=50, deadline=None)
def test_recomputing_costs_time_and_saves_memory(cut: Parallelism) -> None:
    plain, full = run(replace(cut, recompute="None")), run(replace(cut, recompute="Full"))
    assert full.parts.compute > plain.parts.compute
    assert full.memory_bytes <= plain.memory_bytes


def test_bubble_of_one_forward_one_backward() -> None:
    plain = run(Parallelism(pipeline=4, global_batch_size=16))
    more = run(Parallelism(pipeline=4, global_batch_size=64))
    assert more.parts.compute == pytest.approx(4 * plain.parts.compute)
    # The bubble is the same however many micro batches there are: its share falls. Sends grow with them.
    interleaved = run(Parallelism(pipeline=4, global_batch_size=16, interleave=2))
    assert interleaved.parts.pipeline < plain.parts.pipeline
    # Without an output layer to speak of, three quarters of a stage's work of 4 micro batches are waited for.
    model = replace(SMALL, vocabulary_size=1)
    plain, more = (run(Parallelism(pipeline=4, global_batch_size=batch), model) for batch in (16, 64))
    sends = (more.parts.pipeline - plain.parts.pipeline) / (64 - 16) * (16 + 3)
    assert plain.parts.pipeline - sends == pytest.approx(3 / 16 * plain.parts.compute, rel=0.1)


def test_experts_cost_exchange_and_save_weights() -> None:
    model = ModelShape(4, 1024, 16, 32000, 1024, experts=8, experts_per_token=2, feed_forward_size=1024)
    alone = run(Parallelism(data=8), model)
    spread = run(Parallelism(data=8, expert=8), model)
    assert alone.parts.expert == 0 < spread.parts.expert
    assert spread.memory_bytes < alone.memory_bytes
    assert model.parameters > ModelShape(4, 1024, 16, 32000, 1024, feed_forward_size=1024).parameters


def test_says_whether_it_is_calibrated() -> None:
    mine = chip_from_mapping(
        {"name": "mine", "memoryGiB": 64, "memoryGBps": 1600, "tflops": {"bf16": 480, "f32": 60}, "linkGBps": 224}
    )
    guess = run(Parallelism(data=2), chip=mine)
    assert not guess.calibrated
    assert guess.notes
    assert run(Parallelism(data=2)).calibrated
    assert family_of("mine") is DEFAULT
    for family in FAMILIES:
        assert family.sources, family.name
        assert set(family.sources) <= set(type(family).__slots__)
        assert family_named(family.name) is family
    with pytest.raises(ModelError, match="no calibration family"):
        family_named("none")


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2)),
    data=st.data(),
)
@settings(deadline=None)
def test_wiring_is_the_slowest_of_the_groups(shape: tuple[int, int, int, int], data: st.DataObject) -> None:
    tensor, context, pipeline, replicas = shape
    cut = Parallelism(tensor=tensor, context=context, pipeline=pipeline, data=replicas)
    # Sorted ids: each domain's ranks are neighbours.
    spine = np.sort(data.draw(st.lists(st.integers(0, 1), min_size=cut.devices, max_size=cut.devices)))
    node = np.asarray(data.draw(st.lists(st.integers(0, 2), min_size=cut.devices, max_size=cut.devices)))
    order = np.lexsort((node, spine))
    domains = np.stack((spine, node[order]))
    levels = two_nodes()
    wiring = wiring_of(levels, domains, cut)
    grid = np.arange(cut.devices).reshape(replicas, pipeline, context, tensor)

    def expected(axes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        groups = np.moveaxis(grid, axes, range(-len(axes), 0)).reshape(-1, math.prod(grid.shape[a] for a in axes))
        every = [links_of(levels, domains[:, group]) for group in groups]
        return (
            tuple(max(one.sizes[level] for one in every) for level in range(2)),
            tuple(min(one.lanes[level] for one in every) for level in range(2)),
        )

    def found(links: Links) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return links.sizes, links.lanes

    for links, axes in ((wiring.tensor, (3,)), (wiring.context, (2,)), (wiring.data, (0, 2))):
        if math.prod(grid.shape[a] for a in axes) > 1:
            assert found(links) == expected(axes)
    crossed = any(
        tuple(domains[:, grid[d, p, c, t]]) != tuple(domains[:, grid[d, p + 1, c, t]])
        for d, p, c, t in np.ndindex(replicas, pipeline - 1, context, tensor)
    )
    assert (wiring.pipeline.widest == 0) == crossed


def test_runs_number_domains_by_rank() -> None:
    ids = np.asarray([[5, 5, 2, 2], [1, 1, 1, 0]])
    assert runs(ids).tolist() == [[0, 0, 1, 1], [0, 0, 1, 2]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ModelShape(0, 8, 2, 10, 10), "model.layers"),
        (lambda: ModelShape(2, True, 1, 10, 10), "model.hiddenSize"),
        (lambda: ModelShape(2, 10, 3, 10, 10), "model.attentionHeads"),
        (lambda: ModelShape(2, 8, 2, 10, 10, kv_heads=3), "model.kvHeads"),
        (lambda: ModelShape(2, 8, 2, 10, 10, dtype="q4"), "unknown dtype"),
        (lambda: ModelShape(2, 8, 2, 10, 10, experts=2, experts_per_token=3), "expertsPerToken"),
        (lambda: ModelShape(2, 8, 2, 10**13, 10), "10\\^12"),
        (lambda: Parallelism(tensor=-1), "parallelism.tensor"),
        (lambda: Parallelism(data=3, global_batch_size=10), "parallelism.globalBatchSize"),
        (lambda: Parallelism(recompute="Some"), "parallelism.recompute"),
        (lambda: Parallelism(zero_stage=4), "parallelism.zeroStage"),
        (lambda: Parallelism(expert=2), "parallelism.expert"),
        (lambda: Parallelism(interleave=2), "parallelism.interleave"),
        (lambda: check(SMALL, Parallelism(tensor=3)), "parallelism.tensor"),
        (lambda: check(SMALL, Parallelism(pipeline=16)), "parallelism.pipeline"),
        (lambda: check(SMALL, Parallelism(context=3)), "parallelism.context"),
        (lambda: wiring_of(two_nodes(), [[0, 0], [0, 1]], Parallelism(data=3)), "3, but 2 workers"),
        (lambda: wiring_of(two_nodes(), [[0, 0]], Parallelism(data=2)), "2 levels need"),
        (lambda: regular_wiring(two_nodes(), (2, 2), Parallelism(data=3)), "multiply to 3"),
        (lambda: gemm_seconds(BW1000, -1, 2, 3, "bf16"), "m=-1"),
        (lambda: kernel_seconds(BW1000, flops=-1, bytes_moved=0, dtype="f32"), "0 or more"),
    ],
)
def test_nonsense_names_its_field(call: object, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        call()  # type: ignore[operator]


def test_a_missing_figure_says_what_to_write() -> None:
    bare = chip_from_mapping({"name": "bare", "tflops": {"bf16": 100}})
    with pytest.raises(ChipError, match="memoryGBps"):
        gemm_seconds(bare, 8, 8, 8, "bf16")
    with pytest.raises(ChipError, match="f32"):
        kernel_seconds(bare, flops=1, bytes_moved=0, dtype="f32")


def test_roofline_has_two_slopes() -> None:
    # Large and square: arithmetic counts. One row: the weight's bytes count.
    big = gemm_seconds(BW1000, 8192, 8192, 8192, "bf16")
    assert 0.4 < 2 * 8192**3 / big / BW1000.peak_flops("bf16") < 0.65
    thin = gemm_seconds(BW1000, 1, 8192, 8192, "bf16")
    assert 8192**2 * 2 / thin / 1.6e12 == pytest.approx(0.70, abs=0.06)
    assert gemm_seconds(BW1000, 0, 8, 8, "bf16") == family_of(BW1000.name).launch
