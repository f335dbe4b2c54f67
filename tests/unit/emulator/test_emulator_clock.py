"""The cost model: device seconds come from the chip's figures, kernel by kernel, and grow with the work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.chips import Chip, chip_from_mapping, find_chip
from supernode.emulator.kernels import TABLE, Spec
from supernode.emulator.runtime.clock import CostModel
from supernode.emulator.runtime.device import Device
from supernode.errors import ChipError, ModelError
from supernode.steptime.calibration import family_of
from supernode.steptime.cuts import cuts_of
from supernode.steptime.layer import layer_passes
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.roofline import attention_seconds, gemm_seconds, kernel_seconds

CHIP = find_chip("hygon-bw1000")


def seconds(chip: Chip, name: str, *specs: Spec, **attributes: Any) -> float:
    return CostModel(chip).seconds(TABLE.plan(name, specs, attributes).cost)


def test_matrix_products_follow_the_roofline() -> None:
    a, b = Spec("bf16", (4096, 1024)), Spec("bf16", (1024, 8192))
    assert seconds(CHIP, "matmul", a, b) == gemm_seconds(CHIP, 4096, 8192, 1024, "bf16")
    batched = Spec("bf16", (16, 64, 128))
    assert seconds(CHIP, "matmul", batched, batched, transpose_b=True) == gemm_seconds(CHIP, 64, 64, 128, "bf16", 16)
    # One weight for a batch of activations is one tall product.
    tall = seconds(CHIP, "matmul", batched, Spec("bf16", (128, 256)))
    assert tall == gemm_seconds(CHIP, 16 * 64, 256, 128, "bf16")


def test_elementwise_kernels_are_limited_by_memory() -> None:
    x = Spec("f32", (1 << 24,))
    assert seconds(CHIP, "add", x, x) == kernel_seconds(CHIP, flops=0, bytes_moved=3 * 4 * (1 << 24), dtype="f32")


def test_attention_counts_half_of_a_causal_matrix() -> None:
    q = Spec("bf16", (8, 1024, 64))
    causal = TABLE.plan("attention", (q, q, q), {}).cost
    full = TABLE.plan("attention", (q, q, q), {"causal": False}).cost
    assert full.flops == 4 * 8 * 1024 * 1024 * 64
    assert causal.flops == 4 * 8 * (1024 * 1025 // 2) * 64


@pytest.mark.parametrize("name", ["hygon-bw1000", "nvidia-a100-80g-sxm", "nvidia-h100-80g-sxm"])
@pytest.mark.parametrize("tokens", [64, 1024, 16384])
def test_attention_takes_what_the_prediction_says(name: str, tokens: int) -> None:
    # One layer with 8 heads of 64: the core of the prediction is the clock's.
    chip, model = find_chip(name), ModelShape(1, 512, 8, 256, tokens)
    qkv, out, rows = Spec("bf16", (4, tokens, 3, 8, 64)), Spec("bf16", (4, tokens, 8, 64)), Spec("f32", (4, 8, tokens))
    core = layer_passes(chip, model, cuts_of(Parallelism(micro_batch_size=4))).again
    forward = seconds(chip, "attention_qkv", qkv)
    assert forward == pytest.approx(core, rel=0.02)
    backward = seconds(chip, "attention_qkv_backward", out, qkv, out, rows)
    launch = family_of(name).launch
    assert backward - launch == pytest.approx(2.5 * (forward - launch), rel=0.02)
    # The other kernels for attention are timed alike.
    q = Spec("bf16", (4, 8, tokens, 64))
    assert seconds(chip, "attention", q, q, q) == pytest.approx(forward, rel=0.02)


def test_attention_needs_keys() -> None:
    with pytest.raises(ModelError, match="0 keys"):
        attention_seconds(CHIP, flops=1.0, bytes_moved=1.0, dtype="bf16", length=0)


def test_a_window_makes_attention_short() -> None:
    q = Spec("bf16", (8, 8192, 64))
    whole, window = (TABLE.plan("attention", (q, q, q), {"window": keys}).cost for keys in (0, 512))
    assert (whole.keys, window.keys) == (8192, 512)
    packed = Spec("bf16", (4096, 8, 64))
    begins = Spec("i64", (5,))
    assert TABLE.plan("attention_packed", (packed, packed, packed, begins, begins), {}).cost.keys == 1024


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096))
def test_more_work_takes_no_less_time(m: int, n: int, k: int) -> None:
    one = seconds(CHIP, "matmul", Spec("bf16", (m, k)), Spec("bf16", (k, n)))
    two = seconds(CHIP, "matmul", Spec("bf16", (2 * m, k)), Spec("bf16", (k, n)))
    assert two >= one > 0


def test_bytes_run_at_the_rate_of_f16_where_the_sheet_is_silent() -> None:
    a, b, zero = Spec("i8", (512, 1024)), Spec("i8", (1024, 256)), Spec("i8", ())
    assert "int8" not in CHIP.tflops
    assert seconds(CHIP, "integer_matmul", a, b, zero, zero) == gemm_seconds(CHIP, 512, 256, 1024, "f16")
    known = find_chip("nvidia-a100-80g-sxm")
    assert known.tflops["int8"] > known.tflops["f16"]
    assert seconds(known, "integer_matmul", a, b, zero, zero) == gemm_seconds(known, 512, 256, 1024, "int8")
    lacks = replace(known, tflops={"f16": 100.0, "int8": 0.0})
    with pytest.raises(ChipError, match="does not compute in int8"):
        seconds(lacks, "integer_matmul", a, b, zero, zero)


def test_a_missing_figure_says_what_to_write() -> None:
    chip = chip_from_mapping({"name": "own", "memoryGiB": 1, "memoryGBps": 100, "tflops": {"bf16": 100}})
    with pytest.raises(ChipError, match=r"f32 peak of chip own.*chipSpec"):
        seconds(chip, "matmul", Spec("f32", (8, 8)), Spec("f32", (8, 8)))
    assert seconds(chip, "add", Spec("f32", (8,)), Spec("f32", (8,))) > 0


def test_a_device_needs_memory_figures() -> None:
    with pytest.raises(ChipError, match="memory bytes of chip own"):
        Device(0, 0, chip_from_mapping({"name": "own", "memoryGBps": 1, "tflops": {"bf16": 1}}))
    assert Device(1, 9, CHIP).properties()["memoryBytes"] == CHIP.memory_bytes
