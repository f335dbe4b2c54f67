"""Kernels against independent formulas in NumPy and f64, over every float dtype they have; and the special values.

That f64 is kept in other types test_emulator_kernels_bound holds for all of them; here it is held that f64 is right.
The bound is `steps` units in the last place of the output dtype, relative to the reference or to `scale`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from supernode.emulator.dtypes import DTYPES, FLOATS
from supernode.emulator.kernels import TABLE

F64 = np.ndarray[Any, np.dtype[np.float64]]
RNG = np.random.default_rng(7)
# Units in the last place: distance of 1.0 to the next number.
ULP = {"f16": 2.0**-10, "bf16": 2.0**-7, "f32": 2.0**-23, "f64": 2.0**-52}


class Case(NamedTuple):
    """Inputs (f64, converted to the dtype at hand; integers stay), attributes, the reference, and the bound."""

    inputs: tuple[Any, ...]
    reference: Callable[..., Any]
    attributes: dict[str, Any] = {}  # noqa: RUF012 - never changed
    steps: float = 0.5
    scale: float = 0.0
    # f32 functions of NumPy are not correctly rounded: a few units in the last place of f32.
    function_steps: float = 4.0


def normal(*shape: int) -> F64:
    return RNG.standard_normal(shape)


def positive(*shape: int) -> F64:
    return np.exp(RNG.standard_normal(shape))


def gelu(x: F64) -> F64:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x: F64, axis: int = -1) -> F64:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def layer_norm(x: F64, gain: F64, bias: F64) -> tuple[F64, F64, F64]:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    rstd = 1 / np.sqrt(var + 1e-5)
    return (x - mean) * rstd * gain + bias, mean[..., 0], rstd[..., 0]


def rms_norm(x: F64, gain: F64) -> tuple[F64, F64]:
    rstd = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    return x * rstd * gain, rstd[..., 0]


def attention(q: F64, k: F64, v: F64, causal: bool = True) -> tuple[F64, F64]:
    s = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        t, n = s.shape[-2:]
        s = np.where(np.arange(n)[None, :] > np.arange(t)[:, None] + n - t, -np.inf, s)
    top = s.max(-1, keepdims=True)
    e = np.exp(s - top)
    return e @ v / e.sum(-1, keepdims=True), (np.log(e.sum(-1, keepdims=True)) + top)[..., 0]


def cross_entropy(logits: F64, targets: Any) -> tuple[Any, F64]:
    lse = np.log(np.exp(logits).sum(1))
    return np.asarray((lse - logits[np.arange(len(targets)), targets]).mean()), lse


TOKENS = RNG.integers(0, 6, (4, 5))
TARGETS = RNG.integers(0, 11, 9)
BOOLS = RNG.random((3, 5)) < 0.5
A, B = normal(3, 5), normal(3, 5)

CASES: dict[str, list[Case]] = {
    "add": [
        Case((A, B), np.add),
        Case((normal(4, 1, 3), normal(5, 1)), np.add),
        Case((A,), lambda a: a + 2, {"value": 2}),
    ],
    "subtract": [Case((A, B), np.subtract), Case((A, normal(5)), np.subtract)],
    "multiply": [Case((A, B), np.multiply), Case((A, normal()), np.multiply)],
    "divide": [Case((A, B), np.divide)],
    "floor_divide": [Case((A * 8, positive(3, 5)), np.floor_divide)],
    "remainder": [Case((A * 8, positive(3, 5)), np.remainder, scale=64)],
    "power": [Case((positive(3, 5), B), np.power, function_steps=8), Case((A,), lambda a: a**3, {"value": 3})],
    "maximum": [Case((A, B), np.maximum)],
    "minimum": [Case((A, B), np.minimum)],
    "negative": [Case((A,), np.negative)],
    "absolute": [Case((A,), np.abs)],
    "sign": [Case((A,), np.sign)],
    "square": [Case((A,), np.square)],
    "sqrt": [Case((positive(3, 5),), np.sqrt)],
    "rsqrt": [Case((positive(3, 5),), lambda x: 1 / np.sqrt(x))],
    "reciprocal": [Case((A,), np.reciprocal)],
    "exp": [Case((A,), np.exp)],
    "log": [Case((positive(3, 5),), np.log, scale=1)],
    "tanh": [Case((A,), np.tanh)],
    "sigmoid": [Case((A * 4,), lambda x: 1 / (1 + np.exp(-x)))],
    "relu": [Case((A,), lambda x: np.maximum(x, 0))],
    "floor": [Case((A * 9,), np.floor)],
    "ceil": [Case((A * 9,), np.ceil)],
    "round": [Case((np.array([0.5, 1.5, 2.5, -0.5, 2.4]),), np.rint)],
    "scale": [Case((A,), lambda x: x * 3 + 1, {"factor": 3.0, "offset": 1.0}, scale=8)],
    "clip": [Case((A,), lambda x: np.clip(x, -0.5, 0.25), {"low": -0.5, "high": 0.25}), Case((A,), lambda x: x)],
    "copy": [Case((A,), lambda x: x)],
    "where": [Case((BOOLS, A, normal(5)), np.where)],
    "gelu": [
        Case((A * 3,), gelu, scale=4),
        Case(
            (A * 3,),
            lambda x: x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2,
            {"approximate": "none"},
            scale=4,
            function_steps=16,
        ),
    ],
    "gelu_backward": [Case((A, B * 3), lambda g, x: g * gelu_slope(x), scale=1)],
    "silu": [Case((A * 3,), lambda x: x / (1 + np.exp(-x)), scale=4)],
    "swiglu": [Case((A * 3, B), lambda x, y: x / (1 + np.exp(-x)) * y, scale=4)],
    "softmax": [
        Case((normal(4, 9) * 4,), softmax, function_steps=24),
        Case((normal(4, 9),), lambda x: softmax(x, 0), {"axis": 0}),
    ],
    "softmax_backward": [
        Case((normal(4, 9), softmax(normal(4, 9))), lambda g, y: y * (g - (g * y).sum(-1, keepdims=True)), scale=1)
    ],
    "relu_backward": [Case((A, B), lambda g, x: np.where(x > 0, g, 0))],
    "tanh_backward": [Case((A, np.tanh(B)), lambda g, y: g * (1 - y * y), scale=2)],
    "sum": [
        Case((normal(300, 7),), np.sum, scale=100),
        Case((normal(300, 7),), lambda x: x.sum(0), {"axis": 0}, scale=50),
        Case((normal(3, 4, 5),), lambda x: x.sum((0, 2), keepdims=True), {"axis": [0, -1], "keepdims": True}, scale=8),
    ],
    "mean": [
        Case((normal(300, 7),), np.mean, scale=1),
        Case((normal(300, 7),), lambda x: x.mean(1), {"axis": 1}, scale=1),
    ],
    "prod": [Case((normal(3, 5),), lambda x: x.prod(0), {"axis": 0})],
    "max": [Case((normal(9, 7),), lambda x: x.max(0), {"axis": 0})],
    "min": [Case((normal(9, 7),), np.min)],
    "matmul": [
        Case((normal(9, 17), normal(17, 5)), np.matmul, scale=8),
        Case(
            (normal(17, 9), normal(5, 17)), lambda a, b: a.T @ b.T, {"transpose_a": True, "transpose_b": True}, scale=8
        ),
        Case((normal(2, 3, 4, 6), normal(3, 6, 5)), np.matmul, scale=8),
        Case((normal(2, 4, 6), normal(5, 6), normal(5)), lambda a, b, c: a @ b.T + c, {"transpose_b": True}, scale=8),
        Case((normal(2, 6, 4), normal(6, 5)), lambda a, b: a.swapaxes(1, 2) @ b, {"transpose_a": True}, scale=8),
        Case((normal(0, 4), normal(4, 3)), np.matmul),
    ],
    "layer_norm": [Case((normal(4, 3, 16), normal(16), normal(16)), layer_norm, scale=4)],
    "rms_norm": [Case((normal(4, 16), normal(16)), rms_norm, scale=2)],
    "attention": [
        Case((normal(2, 3, 8, 4), normal(2, 3, 8, 4), normal(2, 3, 8, 4)), attention, scale=2),
        Case((normal(5, 4), normal(9, 4), normal(9, 4)), attention, scale=2),
        Case(
            (normal(2, 7, 4), normal(2, 5, 4), normal(2, 5, 4)),
            lambda *a: attention(*a, causal=False),
            {"causal": False},
            scale=2,
        ),
        Case((normal(1, 600, 4), normal(1, 600, 4), normal(1, 600, 4)), attention, scale=4),
    ],
    "softmax_cross_entropy": [Case((normal(9, 11), TARGETS), cross_entropy, scale=4)],
    "embedding": [Case((normal(6, 3), TOKENS), lambda t, i: t[i])],
    "embedding_backward": [
        Case((normal(4, 5, 3), TOKENS), lambda g, i: scatter(g, i, 7), {"rows": 7}, scale=4),
    ],
    "transpose": [
        Case((normal(2, 3, 4),), np.transpose),
        Case((normal(2, 3, 4),), lambda x: x.transpose(1, 2, 0), {"axes": [1, 2, 0]}),
    ],
    "concatenate": [Case((normal(2, 3), normal(2, 4), normal(2, 1)), lambda *a: np.concatenate(a, 1), {"axis": 1})],
    "split": [Case((normal(4, 6),), lambda x: tuple(np.split(x, 3, 1)), {"sections": 3, "axis": 1})],
    "slice": [Case((normal(4, 6),), lambda x: x[:, 2:5], {"start": 2, "stop": 5, "axis": 1})],
    "broadcast_to": [Case((normal(3, 1),), lambda x: np.broadcast_to(x, (2, 3, 4)), {"shape": [2, 3, 4]})],
    "take": [Case((normal(4, 6), TOKENS), lambda x, i: np.take(x, i, 1), {"axis": 1})],
}


def gelu_slope(x: F64) -> F64:
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)


def scatter(grad: F64, tokens: Any, rows: int) -> F64:
    out = np.zeros((rows, grad.shape[-1]))
    np.add.at(out, tokens, grad)
    return out


def convert(value: Any, dtype: str) -> Any:
    array = np.asarray(value)
    return array.astype(DTYPES[dtype]) if array.dtype == np.float64 else array


# What has a result in floats that an independent formula here can be held against.
FAMILIES = ("elementwise", "activation", "reduce", "matmul", "normalise", "attention", "loss", "embedding", "layout")


def test_every_kernel_of_these_families_has_a_reference() -> None:
    entries = [kernel for family in FAMILIES for kernel in TABLE.families[family]]
    floats = [k.name for k in entries if set(k.dtypes) & set(FLOATS) and k.bound.steps]
    forward = {name for name in floats if not name.endswith("_backward")}
    assert forward - set(CASES) <= {"sum_of_squares", "attention_packed"}
    assert set(CASES) <= set(TABLE.kernels)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if cases])
def test_within_bound_of_f64(kernel: Any, name: str, dtype: str) -> None:
    if dtype not in TABLE.kernels[name].dtypes and name != "where":
        pytest.skip(f"{name} has no {dtype} version")
    for case in CASES[name]:
        inputs = [convert(value, dtype) for value in case.inputs]
        wide = [x.astype(np.float64) if x.dtype in map(DTYPES.get, FLOATS) else x for x in inputs]
        with np.errstate(all="ignore"):
            expected = case.reference(*wide)
        results = kernel(name, *inputs, **case.attributes)
        for result, reference in zip(results, expected if isinstance(expected, tuple) else (expected,), strict=True):
            out = {v: k for k, v in DTYPES.items()}[result.dtype]
            # Rounding of the output, plus the arithmetic before it in f32 (f64 for f64).
            inner = ULP["f64" if dtype == "f64" else "f32"] * case.function_steps * (np.abs(reference) + case.scale)
            bound = case.steps * ULP[out] * np.abs(reference) * 1.001 + inner + (2.0**-25 if out == "f16" else 0)
            error = np.abs(result.astype(np.float64) - reference)
            assert (error <= bound).all(), (
                f"{name} {dtype}: {(error / np.maximum(bound, 1e-300)).max():.2f} of the bound"
            )


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values_follow_ieee(kernel: Any, dtype: str) -> None:
    inf, nan = math.inf, math.nan
    x = np.array([inf, -inf, nan, 0.0, -0.0, 1.0]).astype(DTYPES[dtype])
    (total,) = kernel("add", x, x[::-1].copy())
    assert np.isnan(total.astype(float)).tolist() == [False, False, True, True, False, False]
    (product,) = kernel("multiply", x, np.zeros(6, DTYPES[dtype]))
    assert np.isnan(product.astype(float)).tolist() == [True, True, True, False, False, False]
    (quotient,) = kernel("divide", np.ones(6, DTYPES[dtype]), x)
    assert quotient.astype(float).tolist()[:2] == [0.0, -0.0]
    assert quotient.astype(float)[3:5].tolist() == [inf, -inf]
    assert np.isnan(kernel("maximum", x, np.ones(6, DTYPES[dtype]))[0].astype(float)).tolist()[2]
    assert np.isnan(kernel("max", x)[0].astype(float))
    activated = kernel("gelu", x)[0].astype(float)
    assert activated[0] == inf
    assert activated[1] == 0
    assert math.isnan(activated[2])
    far = np.array([-3e4, 3e4, -inf, inf]).astype(DTYPES[dtype])
    assert kernel("gelu_backward", np.ones(4, DTYPES[dtype]), far)[0].astype(float).tolist() == [0, 1, 0, 1]
    assert kernel("sigmoid", x)[0].astype(float)[:2].tolist() == [1.0, 0.0]


def test_bf16_rounds_once_to_nearest_even(kernel: Any) -> None:
    # 1 + 2^-8 lies half-way between two bf16 numbers: to even is down, just above is up.
    bf16 = DTYPES["bf16"]
    x = np.array([1.0, 1.0, 1.0078125], bf16)
    y = np.array([2.0**-8, 2.0**-8 + 2.0**-15, 2.0**-8], bf16)
    assert kernel("add", x, y)[0].astype(float).tolist() == [1.0, 1.0078125, 1.015625]
    # A bf16 product of many terms accumulates in f32: 256 + 256 * 2^-8 would be lost in bf16.
    row = np.concatenate([[256.0], np.full(256, 2.0**-8)]).astype(bf16)[None, :]
    (product,) = kernel("matmul", row, np.ones((257, 1), bf16), dtype="f32")
    assert product.item() == 257.0


def test_sum_of_squares_is_wide(kernel: Any) -> None:
    x = np.full((1000,), 0.1, DTYPES["bf16"])
    (total,) = kernel("sum_of_squares", x)
    assert total.dtype == np.float32
    assert abs(float(total) - 1000 * float(x[0]) ** 2) < 1e-4
    assert kernel("sum_of_squares", x.astype(np.float64))[0].dtype == np.float64
    (rows,) = kernel("sum_of_squares", np.ones((3, 4), np.float32), axis=1)
    assert rows.tolist() == [4, 4, 4]


def test_long_columns_do_not_drift(kernel: Any) -> None:
    x = np.full((200_000, 2), 0.1, np.float32)
    (total,) = kernel("sum", x, axis=0)
    assert np.abs(total - 200_000 * np.float64(np.float32(0.1))).max() < 0.05


def test_comparisons_and_logic(kernel: Any) -> None:
    a, b = np.array([1, 2, 3], np.int32), np.array([3, 2, 1], np.int32)
    found = {name: kernel(name, a, b)[0].tolist() for name in ("equal", "not_equal", "less", "less_equal", "greater")}
    assert found == {
        "equal": [False, True, False],
        "not_equal": [True, False, True],
        "less": [True, False, False],
        "less_equal": [True, True, False],
        "greater": [False, False, True],
    }
    assert kernel("greater_equal", a, value=2)[0].tolist() == [False, True, True]
    p, q = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert kernel("logical_and", p, q)[0].tolist() == [True, False, False, False]
    assert kernel("logical_or", p, q)[0].tolist() == [True, True, True, False]
    assert kernel("logical_xor", p, q)[0].tolist() == [False, True, True, False]
    assert kernel("logical_not", p)[0].tolist() == [False, False, True, True]
    assert kernel("bitwise_and", a, b)[0].tolist() == [1, 2, 1]
    assert kernel("bitwise_or", a, b)[0].tolist() == [3, 2, 3]
    assert kernel("bitwise_xor", a, b)[0].tolist() == [2, 0, 2]
    x = np.array([1.0, math.nan, math.inf], np.float32)
    assert kernel("isnan", x)[0].tolist() == [False, True, False]
    assert kernel("isfinite", x)[0].tolist() == [True, False, False]
    assert kernel("all", p, axis=0)[0].item() is False
    assert kernel("any", np.stack([p, q]), axis=1, keepdims=True)[0].tolist() == [[True], [True]]


def test_integers_wrap_and_widen(kernel: Any) -> None:
    x = np.array([120, -128], np.int8)
    assert kernel("add", x, np.array([10, -1], np.int8))[0].tolist() == [-126, 127]
    (total,) = kernel("sum", np.full(1000, 100, np.int8))
    assert total.item() == 100_000
    assert total.dtype == np.int64
    assert kernel("sum", np.full(3, 200, np.uint8))[0].dtype == np.uint64
    assert kernel("floor_divide", np.array([7, -7, 5], np.int32), np.array([2, 2, 0], np.int32))[0].tolist() == [
        3,
        -4,
        0,
    ]
    assert kernel("power", np.array([2, -1, 3], np.int32), np.array([3, -3, -1], np.int32))[0].tolist() == [8, -1, 0]
    a = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert kernel("matmul", a, a.T.copy())[0].tolist() == [[5, 14], [14, 50]]


def test_casts(kernel: Any) -> None:
    x = np.array([1.9, -1.9, 300.0, -300.0, math.nan, math.inf, -math.inf], np.float32)
    assert kernel("cast", x, dtype="i8")[0].tolist() == [1, -1, 127, -128, 0, 127, -128]
    assert kernel("cast", x, dtype="u8")[0].tolist() == [1, 0, 255, 0, 0, 255, 0]
    assert kernel("cast", x * 1e30, dtype="i64")[0].tolist()[:4] == [2**63 - 1, -(2**63), 2**63 - 1, -(2**63)]
    assert kernel("cast", np.array([2.0**40], np.float64), dtype="u64")[0].tolist() == [2**40]
    assert kernel("cast", np.array([0, 3], np.int32), dtype="bool")[0].tolist() == [False, True]
    assert kernel("cast", np.array([True]), dtype="bf16")[0].astype(float).tolist() == [1.0]
    assert kernel("cast", np.array([7.0], DTYPES["bf16"]), dtype="i32")[0].tolist() == [7]


def test_places_of_extremes(kernel: Any) -> None:
    x = np.array([[1, 5, 5], [9, 0, 9]], np.float32)
    assert kernel("argmax", x)[0].item() == 3
    assert kernel("argmax", x, axis=1)[0].tolist() == [1, 0]
    assert kernel("argmin", x, axis=0)[0].tolist() == [0, 1, 0]
    assert kernel("argmax", x.astype(DTYPES["bf16"]), axis=-1)[0].tolist() == [1, 0]


def test_creation(kernel: Any) -> None:
    assert kernel("full", shape=[2, 2], value=1.5, dtype="bf16")[0].astype(float).tolist() == [[1.5, 1.5]] * 2
    assert math.copysign(1, kernel("full", shape=[], value=-0.0)[0].item()) == -1
    assert not kernel("empty", shape=[3], dtype="i64")[0].any()
    assert not kernel("zeros", shape=[3], dtype="bf16")[0].astype(bool).any()
    assert kernel("arange", stop=5)[0].tolist() == [0, 1, 2, 3, 4]
    assert kernel("arange", start=1, stop=2, step=0.25, dtype="f32")[0].tolist() == [1, 1.25, 1.5, 1.75]
    assert kernel("arange", start=5, stop=0, step=-2)[0].tolist() == [5, 3, 1]
    (x,) = kernel("random_normal", shape=[20_000], seed=3, mean=2.0, deviation=0.5)
    assert abs(x.mean() - 2) < 0.02
    assert abs(x.std() - 0.5) < 0.02
    assert (x == kernel("random_normal", shape=[20_000], seed=3, mean=2.0, deviation=0.5)[0]).all()
    assert (x != kernel("random_normal", shape=[20_000], seed=4, mean=2.0, deviation=0.5)[0]).any()
    (u,) = kernel("random_uniform", shape=[20_000], seed=1, low=-1.0, high=3.0)
    assert u.min() >= -1
    assert u.max() <= 3
    assert abs(u.mean() - 1) < 0.05


def test_tokens_outside_are_seen(kernel: Any) -> None:
    table = np.ones((4, 2), np.float32)
    out = kernel("embedding", table, np.array([0, 4, -1], np.int64))[0]
    assert np.isnan(out).tolist() == [[False] * 2, [True] * 2, [True] * 2]
    grad = kernel("embedding_backward", np.ones((3, 2), np.float32), np.array([0, 4, -1]), rows=4)[0]
    assert grad.sum() == 2
    loss, _ = kernel("softmax_cross_entropy", np.zeros((2, 3), np.float32), np.array([0, 7]))
    assert math.isnan(loss.item())


def test_gradients_add_up_in_the_order_of_the_tokens(kernel: Any) -> None:
    grad, tokens = normal(4096, 8).astype(np.float32), RNG.integers(0, 5, 4096)
    # One sum per row over its tokens as they come; another order would round differently.
    order = np.concatenate([np.flatnonzero(tokens == row) for row in range(5)])
    starts = np.searchsorted(tokens[order], np.arange(5))
    expected = np.add.reduceat(grad[order], starts, axis=0)
    assert (kernel("embedding_backward", grad, tokens, rows=5)[0] == expected).all()
