"""Laws that hold whatever the constants: better hardware is never slower, more devices never need more memory each,
and a pipeline takes as long, and holds as much, as one that is played through step by step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from supernode.chips import Chip, find_chip
from supernode.steptime.calibration import FAMILIES, family_of
from supernode.steptime.collectives import KINDS, LinkLevel, collective_seconds, levels_for, regular_links
from supernode.steptime.cuts import cuts_of
from supernode.steptime.memory import in_flight, memory_bytes, memory_of, stage_memory, stage_weights
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.predict import StepTime, predict
from supernode.steptime.stage import end_costs, layer_cost, optimizer_seconds, send_seconds, shared_seconds
from supernode.steptime.wiring import regular_wiring

DENSE = ModelShape(16, 4096, 32, 32000, 4096, "f16", kv_heads=8, gated=True, feed_forward_size=14336)
EXPERTS = ModelShape(
    16, 2048, 32, 32000, 2048, "f16", experts=8, experts_per_token=2, feed_forward_size=4096, head_size=128
)
CHIPS = [
    find_chip(name)
    for name in ("nvidia-a100-80g-sxm", "nvidia-v100-32g-sxm", "nvidia-h100-80g-sxm", "hygon-bw1000", "nvidia-b200-sxm")
]

cuts = st.builds(
    Parallelism,
    tensor=st.sampled_from([1, 2, 4, 8]),
    pipeline=st.sampled_from([1, 2, 4]),
    data=st.sampled_from([1, 2, 4]),
    context=st.sampled_from([1, 2]),
    micro_batch_size=st.sampled_from([1, 2]),
    global_batch_size=st.just(32),
    sequence_parallel=st.booleans(),
    recompute=st.sampled_from(["None", "Selective", "Full"]),
    zero_stage=st.sampled_from([0, 1, 2, 3]),
)
models = st.sampled_from([DENSE, EXPERTS])
chips = st.sampled_from(CHIPS)


def usable(cut: Parallelism, model: ModelShape) -> Parallelism:
    """With experts shared as far as the cut allows."""
    return replace(cut, expert=min(cut.data * cut.context, model.experts))


def links(chip: Chip, faster: float = 1.0, quicker: float = 1.0) -> tuple[LinkLevel, ...]:
    """Nodes of 8 behind a network; `faster`: bandwidth of all links, `quicker`: their latency."""
    family = family_of(chip.name)
    levels = levels_for(chip, [("network", 25e9, family.network_latency), ("node", 300e9, family.node_latency)])
    return tuple(replace(one, bandwidth=one.bandwidth * faster, latency=one.latency / quicker) for one in levels)


def run(chip: Chip, model: ModelShape, cut: Parallelism, *, faster: float = 1.0, quicker: float = 1.0) -> StepTime:
    levels = links(chip, faster, quicker)
    inside = min(8, cut.devices)
    return predict(chip, model, cut, regular_wiring(levels, (cut.devices // inside, inside), cut))


@given(chips, models, cuts, st.floats(1.0, 8.0))
@settings(deadline=None, max_examples=150)
def test_better_hardware_is_never_slower(chip: Chip, model: ModelShape, cut: Parallelism, factor: float) -> None:
    cut = usable(cut, model)
    plain = run(chip, model, cut).seconds * (1 + 1e-12)
    bandwidth = chip.memory_bandwidth
    assert bandwidth is not None
    assert run(replace(chip, memory_bandwidth=bandwidth * factor), model, cut).seconds <= plain
    peaks = {name: peak * factor for name, peak in chip.tflops.items()}
    assert run(replace(chip, tflops=peaks), model, cut).seconds <= plain
    assert run(chip, model, cut, faster=factor).seconds <= plain
    assert run(chip, model, cut, quicker=factor).seconds <= plain


@pytest.mark.parametrize("kind", KINDS)
@given(chips, st.tuples(st.integers(1, 6), st.integers(1, 8)), st.floats(0, 1e10), st.floats(1.0, 8.0))
@settings(deadline=None, max_examples=60)
def test_collectives_gain_by_better_links(
    kind: str, chip: Chip, sizes: tuple[int, int], nbytes: float, factor: float
) -> None:
    def seconds(faster: float, quicker: float) -> float:
        return collective_seconds(kind, nbytes, regular_links(links(chip, faster, quicker), sizes))

    plain = seconds(1.0, 1.0) * (1 + 1e-12)
    assert seconds(factor, 1.0) <= plain
    assert seconds(1.0, factor) <= plain


@given(chips, models, cuts, st.sampled_from(["tensor", "pipeline", "data", "context", "expert", "zero_stage"]))
@settings(deadline=None, max_examples=200)
def test_more_devices_never_need_more_memory_each(chip: Chip, model: ModelShape, cut: Parallelism, by: str) -> None:
    cut = replace(usable(cut, model), sequence_parallel=True)
    if by == "zero_stage":
        assume(cut.zero_stage < 3)
        wider = replace(cut, zero_stage=cut.zero_stage + 1)
    elif by == "expert":
        assume(model.experts > 1 and (cut.data * cut.context) % (2 * cut.expert) == 0)
        wider = replace(cut, expert=2 * cut.expert)
    else:
        wider = replace(cut, **{by: 2 * getattr(cut, by)}, global_batch_size=None)
        wider = replace(wider, global_batch_size=cut.batch * (2 if by == "data" else 1))
    assert memory_bytes(chip, model, wider) <= memory_bytes(chip, model, cut)


@given(chips, models, cuts)
@settings(deadline=None)
def test_parts_of_the_memory_add_up(chip: Chip, model: ModelShape, cut: Parallelism) -> None:
    cut = usable(cut, model)
    step = run(chip, model, cut)
    assert all(part >= 0 for part in step.memory)
    assert step.memory_bytes == pytest.approx(sum(step.memory))
    assert step.memory_bytes == memory_bytes(chip, model, cut)
    assert step.memory == memory_of(chip, model, cuts_of(cut))


def play(seconds: list[float], micro_batches: int) -> tuple[float, list[int]]:
    """1F1B, played through: seconds, and how many micro batches each stage holds at most.

    `seconds`: of each stage, forward and backward; a third of it is forward.
    """
    plans, stages = [], len(seconds)
    for stage in range(stages):
        warm = min(stages - 1 - stage, micro_batches)
        plan = [("f", i) for i in range(warm)]
        for i in range(micro_batches - warm):
            plan += [("f", warm + i), ("b", i)]
        plan += [("b", i) for i in range(micro_batches - warm, micro_batches)]
        plans.append(deque(plan))
    done: dict[tuple[str, int, int], float] = {}
    clock, held, most = [0.0] * stages, [0] * stages, [0] * stages
    while any(plans):
        for stage, plan in enumerate(plans):
            while plan:
                kind, i = plan[0]
                after = stage - 1 if kind == "f" else stage + 1
                if 0 <= after < stages and (kind, after, i) not in done:
                    break
                ready = done.get((kind, after, i), 0.0)
                clock[stage] = max(clock[stage], ready) + seconds[stage] * (1 if kind == "f" else 2) / 3
                done[kind, stage, i] = clock[stage]
                held[stage] += 1 if kind == "f" else -1
                most[stage] = max(most[stage], held[stage])
                plan.popleft()
    return max(clock), most


@given(st.sampled_from([2, 4, 8]), st.integers(1, 24), st.integers(14, 16), st.sampled_from([1, 2]), st.booleans())
@settings(deadline=None)
def test_a_pipeline_takes_and_holds_what_one_played_through_does(
    stages: int, micro_batches: int, layers: int, tensor: int, large: bool
) -> None:
    chip = CHIPS[2]
    # Embedding and output layer make stages unequal, and so do layers that don't fill them.
    model = replace(DENSE, layers=layers, vocabulary_size=32000 if large else 64)
    cut = Parallelism(tensor, pipeline=stages, global_batch_size=micro_batches)
    cuts_ = cuts_of(cut)
    levels = levels_for(chip, [("node", 1e18, 0.0)])
    wiring = regular_wiring(levels, (stages * tensor,), cut)
    layer = layer_cost(chip, model, cuts_, wiring).seconds
    first, last = end_costs(chip, model, cuts_, wiring)
    most_layers = -(-layers // stages)
    spare = most_layers * stages - layers
    assume(spare <= 2)
    of_stage = [layer * most_layers] * stages
    of_stage[0] += first.seconds - layer * (spare == 2)
    of_stage[-1] += last.seconds - layer * (spare >= 1)
    seconds, most = play(of_stage, micro_batches)
    step = predict(chip, model, cut, wiring)
    sends = 2 * (micro_batches + stages - 1) * send_seconds(model, cuts_, wiring)
    table = shared_seconds(model, cuts_, wiring, most_layers)[1]
    assert table > 0
    idle = step.parts.compute + step.parts.tensor + step.parts.pipeline - sends - table
    if of_stage[-1] >= max(of_stage) * (1 - 1e-9):
        assert idle == pytest.approx(seconds)
    else:  # a slower stage before the last can begin early, by less than it takes for one micro batch
        assert seconds * (1 - 1e-9) <= idle <= seconds + max(of_stage)
    assert [in_flight(cuts_, index) for index in range(stages)] == most


def test_a_step_is_the_sum_of_its_pieces() -> None:
    # Put together by hand from the pieces that pipelines over different chips use.
    chip, cut = CHIPS[2], Parallelism(4, 4, 2, 1, 1, 1, 64, 2, True, "None", 1)
    wiring = regular_wiring(levels_for(chip, [("network", 50e9, 8e-6), ("node", 450e9, 1e-6)]), (4, 8), cut)
    cuts_ = cuts_of(cut)
    step = predict(chip, DENSE, cut, wiring)
    layer, (first, last) = layer_cost(chip, DENSE, cuts_, wiring), end_costs(chip, DENSE, cuts_, wiring)
    assert 0 < first.seconds < last.seconds
    assert step.parts.compute == pytest.approx(32 * (4 * layer.compute + last.compute))
    rows, table = shared_seconds(DENSE, cuts_, wiring, 4)
    assert step.parts.tensor == pytest.approx(32 * (4 * layer.tensor + last.tensor) + rows)
    sends = 2 * (32 * 2 + 3) * send_seconds(DENSE, cuts_, wiring)
    assert step.parts.pipeline == pytest.approx(3 / 2 * 4 * layer.seconds + first.seconds + sends + table)
    weights = stage_weights(DENSE, cuts_, 4, edge=True)
    assert step.parts.optimizer == pytest.approx(optimizer_seconds(chip, DENSE, cuts_, weights))
    memory = stage_memory(chip, DENSE, cuts_, weights, 4 * in_flight(cuts_, 0))
    assert step.memory == memory


def test_ranks_that_share_experts_lie_next_to_each_other() -> None:
    levels = levels_for(CHIPS[2], [("network", 50e9, 8e-6), ("node", 450e9, 1e-6)])
    for tensor, expert in ((1, 8), (2, 4), (4, 2)):
        cut = Parallelism(tensor=tensor, pipeline=4, data=8, expert=expert)
        wiring = regular_wiring(levels, (cut.devices // 8, 8), cut)
        assert wiring.expert.sizes == (1, expert)
        assert wiring.pipeline.sizes == (2, 1)  # stages meet between nodes
        assert regular_wiring(levels, (cut.devices // 8, 8), replace(cut, expert=1)).data.sizes[0] > 1


def test_tensor_traffic_hides_as_stated_and_only_in_pieces() -> None:
    chip = CHIPS[2]
    share = family_of(chip.name).tensor_overlap
    assert 0 < share < 1
    levels = levels_for(chip, [("node", 450e9, 1e-6)])

    def tensor(sequence_parallel: bool) -> float:
        cut = Parallelism(tensor=8, sequence_parallel=sequence_parallel)
        return predict(chip, DENSE, cut, regular_wiring(levels, (8,), cut)).parts.tensor

    nbytes, kinds = 4096 * 4096 * 2.0, ("all_gather", "reduce_scatter")
    group = regular_links(levels, (8,))
    pieces, empty = (sum(collective_seconds(kind, n, group) for kind in kinds) for n in (nbytes, 0.0))
    loss = sum(collective_seconds("all_reduce", n * 4096, group) for n in (4, 8))
    # Two borders each way in 16 layers, and one of the output layer, run beside products, but for what a message
    # without bytes takes; the embedding's does not. Once a step gradients of norms and biases are summed, 6 rows each.
    rows = collective_seconds("all_reduce", 16 * 6 * 4096 * 4, group)
    assert tensor(True) == pytest.approx(65 * (pieces - share * (pieces - empty)) + pieces + loss + rows)
    assert tensor(False) == pytest.approx(66 * collective_seconds("all_reduce", nbytes, group) + loss)


def test_without_recomputation_ampere_keeps_no_scores() -> None:
    a100, v100 = CHIPS[0], CHIPS[1]
    longer = replace(DENSE, sequence_length=8192)

    def kept(chip: Chip, recompute: str) -> float:
        cuts_ = cuts_of(Parallelism(recompute=recompute))
        return float(memory_of(chip, longer, cuts_).activations / memory_of(chip, DENSE, cuts_).activations)

    assert kept(a100, "None") == pytest.approx(2)
    assert kept(v100, "None") > 2.5  # no fused kernel: the scores grow with the square of the sequence
    assert kept(v100, "Selective") == pytest.approx(2)
    plain, fused = (run(a100, DENSE, Parallelism(data=8, recompute="Full", zero_stage=stage)) for stage in (1, 3))
    assert fused.parts.compute < 0.95 * plain.parts.compute


def test_every_constant_has_a_source() -> None:
    for family in FAMILIES:
        given = {"gemm_peak", "node_links", "network_links"} | ({"attention"} if family.attention else set())
        missing = given - set(family.sources)
        assert not missing or not family.calibrated, (family.name, missing)
        assert set(family.sources) <= set(type(family).__slots__), family.name


def test_fp8_is_a_format_of_products_only() -> None:
    # What is kept, sent and added has 16 bits, and attention and the output layer run at the 16-bit rate.
    chip, cut = CHIPS[2], Parallelism(tensor=8, sequence_parallel=True)
    wide, narrow = (run(chip, replace(DENSE, dtype=dtype), cut) for dtype in ("bf16", "fp8"))
    assert narrow.memory == wide.memory
    assert narrow.parts.tensor == wide.parts.tensor
    assert 0.5 * wide.parts.compute < narrow.parts.compute < 0.9 * wide.parts.compute


def test_tokens_on_their_way_to_experts_are_kept() -> None:
    chip, one = CHIPS[2], replace(EXPERTS, experts_per_token=1)
    kept = [float(memory_of(chip, model, cuts_of(Parallelism())).activations) for model in (one, EXPERTS)]
    tokens, layers = 2048, 16
    # Two inner activations of 4096, and the token itself there and back, in 2 bytes, for the second expert.
    assert kept[1] - kept[0] == pytest.approx(layers * tokens * 2 * (2 * 4096 + 2 * 2048))
