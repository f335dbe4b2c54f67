"""Predictions against what others measured: step times, FLOPs, parameters, memory, bus bandwidth.

Rows used for fitting, or to choose between usual figures (`python -m tests.bench.fit_steptime`): Korthikanti et al. for
Ampere, and their 530B row with data parallelism for CROWD; the V100 rows of 1, 2 and 8 devices for Volta; three matrix
products and the 1 GiB all-reduces for BW1000; rows of allreduce_busbw.csv for the links of Hopper. large_runs.csv
was in view when usual figures were chosen, but nothing was computed from it. Not used: Megatron-LM 2020 on A100. The
bounds are the model's goals where it has them.
"""

from __future__ import annotations

import pytest
from tests.unit.steptime.published import (
    A100,
    V100,
    all_reduces,
    bw1000_bus,
    bw1000_products,
    expert_exchanges,
    korthikanti,
    korthikanti_layers,
    korthikanti_steps,
    large_runs,
    megatron,
    odd,
    rows,
    step,
)

from supernode.steptime.memory import memory_bytes
from supernode.steptime.model import ModelShape, Parallelism, flops_per_step

# Parameters as the paper counts them, in 10^9.
SIZES = {"22B": 22.0, "GPT-3 175B": 175.0, "MT-NLG 530B": 530.0, "1T": 1000.0}


def test_a100_runs_of_korthikanti_within_three_percent_on_average() -> None:
    errors = []
    for name, model, cut, measured in korthikanti():
        predicted = step(A100, model, cut, 8, 25e9)
        errors.append(abs(predicted.seconds / measured - 1))
        assert errors[-1] < 0.05, f"{name} {cut.recompute}: {predicted.seconds:.2f} s, measured {measured} s"
        assert predicted.fits, f"{name}: it ran, but {predicted.memory_bytes / 2**30:.0f} GiB are predicted"
        assert predicted.calibrated
    _, predicted_s, measured = korthikanti_steps()[-1]
    errors.append(abs(predicted_s / measured - 1))
    assert len(errors) == 9
    assert sum(errors) / len(errors) <= 0.03
    assert errors[-1] < 0.05


def test_without_recomputation_those_runs_do_not_fit() -> None:
    # The paper's reason to recompute: no model but the 22B fits on 80 GiB without (section 1, figure 1).
    for name, model, cut, _ in korthikanti():
        if cut.recompute == "Full":
            plain = Parallelism(cut.tensor, cut.pipeline, interleave=cut.interleave, global_batch_size=cut.batch)
            assert not step(A100, model, plain, 8, 25e9).fits or name == "22B", name


def test_layer_times_of_22b() -> None:
    errors = []
    for name, predicted, measured in korthikanti_layers():
        errors.append(abs(predicted / measured - 1))
        assert errors[-1] < 0.11, f"{name}: {predicted:.1f} ms, measured {measured} ms"
    assert sum(errors) / len(errors) < 0.06


def test_v100_within_fifteen_percent() -> None:
    errors = [abs(predicted / measured - 1) for _, _, predicted, measured in megatron("V100")]
    assert sum(errors) / len(errors) <= 0.15
    assert max(errors) < 0.15


def test_older_software_on_a100() -> None:
    # Not a goal: the 2020 runs lack the fused kernels of 2022, from which the constants come.
    errors = [abs(predicted / measured - 1) for _, _, predicted, measured in megatron("A100")]
    assert sum(errors) / len(errors) < 0.16


@pytest.mark.parametrize(
    ("source", "mean", "most"),
    [
        ("narayanan2021", 0.05, 0.08),
        ("megascale", 0.06, 0.12),
        ("llama3", 0.08, 0.09),
        ("megatron-h100", 0.08, 0.14),
        ("mpt-h100", 0.07, 0.14),
        ("mpt-a100", 0.07, 0.09),
        ("moe-folding", 0.08, 0.16),
        ("pangu-ultra", 0.10, 0.14),
        ("mindspeed", 0.07, 0.11),
        ("bridge-fp8", 0.07, 0.10),
    ],
)
def test_large_runs(source: str, mean: float, most: float) -> None:
    errors = {}
    for row, measured, predicted in large_runs():
        if row["source"] == source:
            errors[row["case"]] = predicted.seconds / measured - 1
            assert predicted.fits, f"{row['case']} ran, but {predicted.memory_bytes / 2**30:.0f} GiB are predicted"
    assert max(map(abs, errors.values())) < most, errors
    assert sum(map(abs, errors.values())) / len(errors) < mean, errors


def test_rows_that_were_held_out_are_as_good_as_those_fitted() -> None:
    def mean(use: str) -> float:
        errors = [abs(found.seconds / measured - 1) for _, measured, found in large_runs(use)]
        assert len(errors) > 12
        return sum(errors) / len(errors)

    assert mean("held out") < 0.07
    assert mean("held out") < mean("fitted") + 0.02


@pytest.mark.parametrize("name", SIZES)
def test_parameters_as_published(name: str) -> None:
    model = next(model for other, model, _, _ in korthikanti() if other == name)
    assert model.parameters / 1e9 == pytest.approx(SIZES[name], rel=0.01)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (ModelShape(126, 16384, 128, 128256, 8192, feed_forward_size=53248, kv_heads=8, gated=True), 405e9),
        (ModelShape(80, 8192, 64, 128256, 8192, feed_forward_size=28672, kv_heads=8, gated=True), 70.6e9),
        (
            ModelShape(
                32,
                4096,
                32,
                32000,
                8192,
                feed_forward_size=14336,
                kv_heads=8,
                gated=True,
                experts=8,
                experts_per_token=2,
            ),
            46.7e9,
        ),
    ],
    ids=["llama 3 405b", "llama 3 70b", "mixtral 8x7b"],
)
def test_parameters_of_gated_grouped_and_expert_models(model: ModelShape, published: float) -> None:
    # Llama and Mixtral keep the output layer's weights apart from the embedding's; here one table serves both.
    assert model.parameters + model.embedding_parameters == pytest.approx(published, rel=0.01)


def test_flops_are_formula_7_of_korthikanti() -> None:
    for _, model, cut, _ in korthikanti():
        layers, hidden, length = model.layers, model.hidden_size, model.sequence_length
        ratio = 1 + length / (6 * hidden) + model.vocabulary_size / (12 * hidden * layers)
        formula = 72 * cut.batch * layers * length * hidden**2 * ratio
        assert flops_per_step(model, cut.batch) == pytest.approx(formula, rel=1e-12)


def test_mfu_as_published() -> None:
    published = {row["model"]: float(row["mfu_pct"]) / 100 for row in rows("korthikanti_2022_tables_3_5.csv")}
    for name, model, cut, _ in korthikanti():
        if cut.recompute == "Selective":
            assert step(A100, model, cut, 8, 25e9).mfu == pytest.approx(published[name], abs=0.05)


def test_activation_memory_is_the_formula_of_korthikanti() -> None:
    # Table 2: sbh (10 + 24/t + 5as/(ht)) a layer with tensor parallelism; sbh/t (34 + 5as/h) with sequence parallelism;
    # without 5as/h when the core is recomputed. The difference of two jobs leaves weights and workspace out. Without
    # recomputation the scores are only kept where there is no fused attention: on V100.
    model = ModelShape(8, 6144, 64, 51200, 2048, "f16")
    length, hidden, heads, tensor, micro = 2048, 6144, 64, 8, 4
    sbh = length * micro * hidden

    def layers_bytes(sequence_parallel: bool, recompute: str) -> float:
        cut = Parallelism(
            tensor=tensor, micro_batch_size=micro, sequence_parallel=sequence_parallel, recompute=recompute
        )
        half = ModelShape(4, 6144, 64, 51200, 2048, "f16")
        weights = 4 * model.layer_parameters / tensor * 18
        chip = V100 if recompute == "None" else A100
        return memory_bytes(chip, model, cut) - memory_bytes(chip, half, cut) - weights

    scores = 5 * heads * length / hidden
    assert layers_bytes(False, "None") == pytest.approx(4 * sbh * (10 + 24 / tensor + scores / tensor), rel=1e-3)
    assert layers_bytes(True, "None") == pytest.approx(4 * sbh / tensor * (34 + scores), rel=1e-3)
    assert layers_bytes(True, "Selective") == pytest.approx(4 * sbh / tensor * 34, rel=1e-3)
    assert layers_bytes(False, "Full") == pytest.approx(4 * 2 * sbh, rel=1e-3)


def test_bw1000_collectives_of_1_gib_within_ten_percent() -> None:
    errors: dict[str, list[float]] = {}
    for kind, where, predicted, measured in bw1000_bus(2**30):
        error = abs(predicted / measured - 1)
        errors.setdefault(kind, []).append(error)
        if kind == "all_reduce":
            assert error < 0.10, (kind, where, predicted, measured)
    for kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        assert sum(errors[kind]) / len(errors[kind]) < 0.10, (kind, errors[kind])


def test_bw1000_all_reduce_of_1_mib_within_25_percent() -> None:
    for kind, where, predicted, measured in bw1000_bus(2**20):
        assert predicted == pytest.approx(measured, rel=0.25), (kind, where)


def test_all_reduces_of_all_systems() -> None:
    # Every row of every system; those that contradict other rows of their own system are named, and count in the mean.
    large, small, named = [], [], []
    for row, predicted, measured in all_reduces():
        size, error = int(row["size_bytes"]), predicted / measured - 1
        where = f"{row['system']} {row['chip']}, {row['nodes']} nodes, {size >> 20} MiB: {error:+.1%}"
        if size >= 2**26:
            large.append(abs(error))
        elif size == 2**20:
            small.append(abs(error))
        else:
            continue
        if odd(row):
            named.append(where)
        else:
            # 391 and 321 GB/s on the same 64 devices, by settings: 0.11 is what lies between them.
            assert abs(error) <= (0.115 if size >= 2**26 else 0.25), where
    assert len(large) >= 100
    assert len(small) == 9
    assert sum(large) / len(large) <= 0.07
    assert sum(error <= 0.105 for error in large) / len(large) > 0.88
    assert len(named) <= 12, named


def test_all_to_alls_of_experts_on_h100() -> None:
    for ranks, predicted, measured in expert_exchanges():
        assert predicted == pytest.approx(measured, rel=0.12), ranks


def test_bw1000_matrix_products() -> None:
    for predicted, measured in bw1000_products():
        assert predicted == pytest.approx(measured, rel=0.11)
