"""What the clock takes for products: the peak rate of their format, from the catalogue; or an error that says why."""

from __future__ import annotations

from typing import Any

import pytest

from supernode.chips import find_chip
from supernode.emulator.kernels import TABLE, Spec
from supernode.emulator.runtime.clock import CostModel
from supernode.errors import ChipError
from supernode.steptime.roofline import gemm_seconds

SIZE = 4096
SQUARE = (SIZE, SIZE)
# A product large enough to be limited by arithmetic; its rate by the name of the chip's figure.
PRODUCTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("matmul", "bf16", {}, "bf16"),
    ("matmul", "f16", {}, "f16"),
    ("matmul", "f32", {}, "f32"),
    ("matmul", "f32", {"precision": "tf32"}, "tf32"),
    ("matmul", "i8", {}, "int8"),
    ("quantised_matmul", "i8", {}, "int8"),
]


def specs(name: str, dtype: str) -> tuple[Spec, ...]:
    scales = (Spec("f32", ()), Spec("f32", (SIZE,))) if name == "quantised_matmul" else ()
    return (Spec(dtype, SQUARE), Spec(dtype, SQUARE), *scales)


@pytest.mark.parametrize(("name", "dtype", "attributes", "rate"), PRODUCTS)
def test_products_run_at_the_rate_of_their_format(name: str, dtype: str, attributes: dict[str, Any], rate: str) -> None:
    chip = find_chip("hygon-k100-ai")
    cost = TABLE.plan(name, specs(name, dtype), attributes).cost
    seconds = CostModel(chip).seconds(cost)
    assert seconds == gemm_seconds(chip, SIZE, SIZE, SIZE, rate)
    arithmetic = 2 * SIZE**3 / chip.peak_flops(rate)
    assert arithmetic < seconds < 3 * arithmetic


def test_eight_bit_floats_run_at_theirs() -> None:
    chip = find_chip("metax-c600")
    for name in ("matmul", "quantised_matmul"):
        cost = TABLE.plan(name, specs(name, "f8e4m3"), {}).cost
        assert cost.gemm is not None
        assert cost.gemm.dtype == "fp8"
        assert chip.peak_flops("fp8") == 1e15


def test_a_rate_that_the_sheet_lacks_is_an_error_that_says_what_to_write() -> None:
    costs = CostModel(find_chip("hygon-bw1000"))
    products = TABLE.plan("matmul", specs("matmul", "f32"), {"precision": "tf32"}).cost
    heads = (Spec("f32", (4, 64, 16)),) * 3
    for cost in (products, TABLE.plan("attention", heads, {"precision": "tf32"}).cost):
        with pytest.raises(ChipError, match=r"tf32 peak of chip hygon-bw1000 is not known.*tflops: \{tf32"):
            costs.seconds(cost)


def test_convolutions_and_experts_are_the_products_they_are_made_of() -> None:
    image, weight = Spec("bf16", (2, 8, 10, 10)), Spec("bf16", (16, 4, 3, 3))
    cost = TABLE.plan("convolution", (image, weight), {"groups": 2, "padding": 1}).cost
    assert cost.gemm == (200, 8, 36, 2, "bf16")
    assert cost.flops == 2 * 200 * 16 * 36
    back = TABLE.plan(
        "convolution_backward", (Spec("bf16", (2, 16, 10, 10)), image, weight), {"groups": 2, "padding": 1}
    )
    assert back.cost.flops == 2 * cost.flops
    grouped = (Spec("bf16", (64, 8)), Spec("bf16", (4, 8, 16)), Spec("i64", (4,)))
    assert TABLE.plan("grouped_matmul", grouped, {}).cost.gemm == (16, 16, 8, 4, "bf16")


def test_hidden_pairs_of_attention_cost_nothing() -> None:
    x = Spec("bf16", (2, 64, 16))
    flops = {window: TABLE.plan("attention", (x, x, x), {"window": window}).cost.flops for window in (0, 8)}
    assert flops[0] == 2 * 2 * 2 * 16 * (64 * 65 // 2)
    assert flops[8] == 2 * 2 * 2 * 16 * (8 * 9 // 2 + 56 * 8)
    grouped = Spec("bf16", (1, 64, 16))
    assert TABLE.plan("attention", (x, grouped, grouped), {}).cost.flops == flops[0]
