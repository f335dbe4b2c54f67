"""Storage, contention, search and other parts of a prediction that single measurements don't reach."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from supernode.chips import find_chip
from supernode.errors import ModelError
from supernode.steptime.calibration import BLOCK, family_of
from supernode.steptime.collectives import Links, collective_seconds, levels_for, regular_links
from supernode.steptime.cuts import cuts_of
from supernode.steptime.layer import layer_passes
from supernode.steptime.memory import memory_bytes
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.predict import StepTime, predict
from supernode.steptime.search import search
from supernode.steptime.storage import Storage
from supernode.steptime.wiring import regular_wiring

A100 = find_chip("nvidia-a100-80g-sxm")
H100 = find_chip("nvidia-h100-80g-sxm")
MODEL = ModelShape(16, 4096, 32, 32000, 4096)


def run(cut: Parallelism, model: ModelShape = MODEL, storage: Storage | None = None, chip: object = H100) -> StepTime:
    levels = levels_for(chip, [("network", 50e9, 5e-6), ("node", 450e9, 1e-6)])  # type: ignore[arg-type]
    sizes = (max(1, cut.devices // 8), min(8, cut.devices))
    return predict(chip, model, cut, regular_wiring(levels, sizes, cut), storage or Storage())  # type: ignore[arg-type]


def test_checkpoints_and_slow_data_sets_take_their_time() -> None:
    cut = Parallelism(tensor=8, data=2, global_batch_size=64)
    plain = run(cut)
    assert plain.parts.storage == 0
    written = run(cut, storage=Storage(write=20e9, every_steps=100, checkpoint_bytes=2e12))
    assert written.parts.storage == pytest.approx(2e12 / 20e9 / 100)
    assert written.seconds == pytest.approx(plain.seconds + 1.0)
    behind = run(cut, storage=Storage(write=20e9, every_steps=100, checkpoint_bytes=2e12, hidden=0.75))
    assert behind.parts.storage == pytest.approx(0.25)
    own = run(cut, storage=Storage(write=1e9, every_steps=1))
    assert own.parts.storage == pytest.approx(14 * MODEL.parameters / 1e9)
    # Samples are read ahead: only a stream slower than the step is waited for.
    nbytes = 64 * 4096 * 4
    assert run(cut, storage=Storage(read=2 * nbytes / plain.seconds)).parts.storage == 0
    late = run(cut, storage=Storage(read=nbytes / plain.seconds / 3))
    assert late.seconds == pytest.approx(3 * plain.seconds)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"read": 0.0}, "storage.read"),
        ({"write": math.nan}, "storage.write"),
        ({"every_steps": -1}, "storage.every_steps"),
        ({"checkpoint_bytes": math.inf}, "storage.checkpoint_bytes"),
        ({"hidden": 2.0}, "storage.hidden"),
    ],
)
def test_storage_that_can_not_be(given: dict[str, float], field: str) -> None:
    with pytest.raises(ModelError, match=field):
        Storage(**given)  # type: ignore[arg-type]


def test_groups_that_share_links_divide_them() -> None:
    levels = levels_for(H100, [("network", 50e9, 5e-6), ("node", 450e9, 1e-6)])
    alone = regular_links(levels, (4, 1))
    shared = Links(alone.levels, alone.sizes, alone.lanes, sharing=(2.0, 1.0))
    assert collective_seconds("all_gather", 1e11, shared) == pytest.approx(
        2 * collective_seconds("all_gather", 1e11, alone), rel=0.01
    )


def test_gradients_of_a_crowd_take_longer() -> None:
    # Twice the devices, the same groups: only the crowd above `BLOCK` tells them apart.
    model = replace(MODEL, layers=64)
    few = run(Parallelism(8, BLOCK // 64, 8), model, chip=A100)
    many = run(Parallelism(8, BLOCK // 32, 8), replace(model, layers=128), chip=A100)
    assert many.parts.data == pytest.approx(2 * few.parts.data, rel=0.05)


def test_overlap_hides_a_stated_share_and_never_more_than_a_micro_batch() -> None:
    cut = Parallelism(data=8, global_batch_size=8)
    assert family_of(H100.name).overlap == 0.8
    busy = run(cut)
    levels = levels_for(H100, [("network", 50e9, 5e-6), ("node", 450e9, 1e-6)])
    links = regular_links(levels, (1, 8))
    weights = 16 * MODEL.layer_parameters + MODEL.embedding_parameters
    whole = collective_seconds("all_reduce", weights * 4.0, links)
    # All buckets but the last, whose gradients are there when the backward pass has ended.
    assert busy.parts.data == pytest.approx((1 - 0.8 * (1 - 40e6 / weights)) * whole)
    small = replace(MODEL, layers=1, hidden_size=1024, vocabulary_size=1024)
    assert run(cut, small).parts.data == pytest.approx(run(cut, small, chip=A100).parts.data, rel=0.5)
    tiny = replace(MODEL, sequence_length=8)
    assert run(cut, tiny).parts.data > 0.2 * whole


def test_grouped_heads_gates_and_head_size_count() -> None:
    def forward(model: ModelShape) -> float:
        return float(layer_passes(H100, model, cuts_of(Parallelism())).forward)

    assert forward(replace(MODEL, kv_heads=4)) < forward(MODEL) < forward(replace(MODEL, gated=True))
    assert forward(replace(MODEL, head_size=64)) < forward(MODEL) < forward(replace(MODEL, head_size=256))


def test_stages_of_sharding_save_memory_one_by_one() -> None:
    needs = [memory_bytes(H100, MODEL, Parallelism(data=8, zero_stage=stage)) for stage in range(4)]
    assert needs == sorted(needs, reverse=True)
    assert len(set(needs)) == 4
    weights = 16 * MODEL.layer_parameters + MODEL.embedding_parameters
    assert needs[0] - needs[1] == pytest.approx(weights * 12 * 7 / 8, rel=1e-6)
    assert needs[2] - needs[3] == pytest.approx(weights * 2 * 7 / 8, rel=1e-6)


def test_context_ranks_share_activations_and_exchange_keys() -> None:
    whole, cut = run(Parallelism()), run(Parallelism(context=8))
    assert cut.memory_bytes < whole.memory_bytes
    assert cut.parts.context > 0 == whole.parts.context
    assert cut.parts.compute < whole.parts.compute / 4  # the weights' gradients sum over few tokens


def test_a_shard_of_the_optimizer_takes_a_share_of_the_time() -> None:
    whole, shard = run(Parallelism(data=8)), run(Parallelism(data=8, zero_stage=1))
    launch = family_of(H100.name).launch
    assert shard.parts.optimizer - launch == pytest.approx((whole.parts.optimizer - launch) / 8)


def test_context_ranks_gather_keys_for_each_pass() -> None:
    model = replace(MODEL, kv_heads=8)
    links = regular_links(levels_for(H100, [("network", 50e9, 5e-6), ("node", 450e9, 1e-6)]), (1, 4))
    nbytes = 2 * 4096 * 8 * 128 * 2.0  # keys and values of one sequence, 8 heads of 128, 2 bytes
    gather = collective_seconds("all_gather", nbytes, links)
    scatter = collective_seconds("reduce_scatter", nbytes, links)
    assert run(Parallelism(context=4), model).parts.context == pytest.approx(16 * (2 * gather + scatter))
    again = run(Parallelism(context=4, recompute="Full"), model)
    assert again.parts.context == pytest.approx(16 * (3 * gather + scatter))


def test_interleaving_keeps_more_micro_batches() -> None:
    # Korthikanti et al. 2022, 4.2.3: L / p x p x (1 + (p - 1) / (p v)) layers' activations on the first stage.
    model = ModelShape(16, 4096, 32, 1, 4096)

    def activations(interleave: int) -> float:
        def need(micro: int) -> int:
            cut = Parallelism(pipeline=4, interleave=interleave, global_batch_size=64 * micro, micro_batch_size=micro)
            return memory_bytes(H100, model, cut)

        return need(2) - need(1)

    assert activations(2) / activations(1) == pytest.approx(1 + 3 / 8)
    assert activations(4) / activations(1) == pytest.approx(1 + 3 / 16)


def test_search_prefers_what_fits() -> None:
    large = ModelShape(48, 8192, 64, 128256, 8192)
    levels = levels_for(H100, [("network", 50e9, 5e-6), ("node", 450e9, 1e-6)])
    found = search(H100, large, 16, 16, (levels, (2, 8)))
    assert all(one.fits for one in found)
    roomy = search(replace(H100, memory_bytes=None), large, 16, 16, (levels, (2, 8)))
    assert roomy[0].seconds < found[0].seconds
    tight = search(replace(H100, memory_bytes=2**30), large, 16, 16, (levels, (2, 8)))
    assert not tight[0].fits
    assert [one.memory_bytes for one in tight] == sorted(one.memory_bytes for one in tight)


def test_search_beats_every_cut_by_hand() -> None:
    levels = levels_for(H100, [("network", 50e9, 5e-6), ("node", 450e9, 1e-6)])
    found = search(H100, MODEL, 16, 32, (levels, (2, 8)))
    assert len(found) == 10
    assert found[0].tried > 500
    assert all(one.fits for one in found)
    for tensor in (1, 2, 4, 8):
        for pipeline in (1, 2, 4):
            data = 16 // tensor // pipeline
            if not data:
                continue
            cut = Parallelism(tensor, pipeline, data, global_batch_size=32, sequence_parallel=tensor > 1, zero_stage=1)
            one = predict(H100, MODEL, cut, regular_wiring(levels, (2, 8), cut))
            assert not one.fits or found[0].seconds <= one.seconds * (1 + 1e-9)
    # What a search promises is what a prediction says.
    again = predict(H100, MODEL, found[0].parallelism, regular_wiring(levels, (2, 8), found[0].parallelism))
    assert again.seconds == pytest.approx(found[0].seconds)
    assert np.isclose(again.memory_bytes, found[0].memory_bytes, atol=1)


def test_fully_sharded_weights_travel_with_every_micro_batch_unless_behind_a_pipeline() -> None:
    # A100: nothing overlaps, so that the whole traffic shows.
    one, four = (run(Parallelism(data=8, zero_stage=3, global_batch_size=8 * m), chip=A100) for m in (1, 4))
    assert four.parts.data == pytest.approx(4 * one.parts.data)
    twice, eight = (run(Parallelism(1, 2, 4, zero_stage=3, global_batch_size=4 * m), chip=A100) for m in (2, 8))
    assert eight.parts.data == pytest.approx(twice.parts.data)
    kept, sharded = (memory_bytes(H100, MODEL, Parallelism(1, 2, 4, zero_stage=stage)) for stage in (2, 3))
    assert kept == sharded


def test_experts_that_stand_once_have_no_gradients_to_share() -> None:
    model = replace(MODEL, experts=8, experts_per_token=2)
    once, twice = (run(Parallelism(data=8, expert=expert), model, chip=A100) for expert in (8, 4))
    assert once.parts.data < twice.parts.data / 3
