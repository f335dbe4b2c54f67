"""What gradients and optimizers promise beyond being the slope (test_emulator_kernels_gradient)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from supernode.emulator.dtypes import DTYPES

RNG = np.random.default_rng(11)
Array = np.ndarray[Any, Any]


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def close(found: Array, expected: Array) -> None:
    assert np.abs(found - expected).max() <= 1e-7 * max(1.0, np.abs(expected).max())


def test_attention_in_blocks_equals_one_block(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [normal(5, 37, 4) for _ in range(3)]
    grad = normal(5, 37, 4)
    whole = kernel("attention", *inputs)
    whole_back = kernel("attention_backward", grad, *inputs, *whole)
    monkeypatch.setattr("supernode.emulator.kernels.tiles._ROWS", 8)
    monkeypatch.setattr("supernode.emulator.kernels.tiles._LEAST_ROWS", 8)
    monkeypatch.setattr("supernode.emulator.kernels.tiles._KEYS", 5)
    monkeypatch.setattr("supernode.emulator.kernels.tiles._SCORE_BYTES", 8 * 5 * 8 * 2)
    parts = kernel("attention", *inputs)
    for found, expected in zip(
        (*parts, *kernel("attention_backward", grad, *inputs, *parts)), (*whole, *whole_back), strict=True
    ):
        close(found, expected)


def test_parameter_gradients_may_be_wider(kernel: Any) -> None:
    bf16 = DTYPES["bf16"]
    x, gain = normal(4, 8).astype(bf16), np.ones(8, bf16)
    _, mean, rstd = kernel("layer_norm", x, gain, gain)
    dx, d_gain, d_bias = kernel("layer_norm_backward", x, x, gain, mean, rstd, dtype="f32")
    assert (dx.dtype, d_gain.dtype, d_bias.dtype) == (bf16, np.float32, np.float32)
    assert kernel("embedding_backward", x, np.zeros(4, np.int32), rows=2, dtype="f32")[0].dtype == np.float32


def test_adamw(kernel: Any) -> None:
    """Three steps against the formula (decoupled decay) in f64; the bf16 parameter is the rounded master."""
    size = 20_000  # more than one block
    master, grads = normal(size).astype(np.float32), [normal(size).astype(np.float32) for _ in range(3)]
    param = master.astype(DTYPES["bf16"])
    m, v = np.zeros(size, np.float32), np.zeros(size, np.float32)
    p64, m64, v64 = master.astype(np.float64), np.zeros(size), np.zeros(size)
    for step, grad in enumerate(grads, 1):
        kernel("adamw", param, grad, master, m, v, learning_rate=1e-2, step=step, weight_decay=0.1, gradient_scale=0.5)
        g = grad.astype(np.float64) * 0.5
        m64, v64 = 0.9 * m64 + 0.1 * g, 0.999 * v64 + 0.001 * g * g
        p64 -= 1e-2 * 0.1 * p64
        p64 -= 1e-2 * (m64 / (1 - 0.9**step)) / (np.sqrt(v64 / (1 - 0.999**step)) + 1e-8)
    assert np.abs(master - p64).max() < 1e-5
    assert (param == master.astype(DTYPES["bf16"])).all()
    before = [x.copy() for x in (param, master, m, v)]
    one, none = np.ones((), np.float32), np.zeros((), np.float32)
    kernel("adamw", param, grads[0], master, m, v, one, learning_rate=1e-2, step=4)
    assert all((x == y).all() for x, y in zip(before, (param, master, m, v), strict=True))  # skipped
    kernel("adamw", param, grads[0], master, m, v, none, learning_rate=1e-2, step=4)
    assert (master != before[1]).any()


def test_parameters_may_be_rounded_at_random(kernel: Any) -> None:
    """Steps too small for bf16 move its parameters all the same, as often as is right, and the same every time."""
    size = 40_000
    master, param = np.ones(size, np.float32), np.ones(size, DTYPES["bf16"])
    step = 2.0**-10  # a quarter of the distance to the next number below 1
    state = [np.zeros(size, np.float32)]
    given = {"learning_rate": step, "rounding": "stochastic", "seed": 5}
    kernel("sgd", param, np.ones(size, np.float32), master, *state, **given)
    lower = param.astype(np.float64) == 1 - 2.0**-8
    assert (lower | (param.astype(np.float64) == 1.0)).all()
    assert abs(lower.mean() - 0.25) < 0.01
    again = np.ones(size, DTYPES["bf16"])
    kernel("sgd", again, np.ones(size, np.float32), np.ones(size, np.float32), np.zeros(size, np.float32), **given)
    assert (again == param).all()


def test_adamw_on_its_own_master(kernel: Any) -> None:
    param, m, v = (np.ones(4, np.float32), np.zeros(4, np.float32), np.zeros(4, np.float32))
    kernel("adamw", param, np.ones(4, np.float32), param, m, v, learning_rate=0.1, step=1)
    assert np.abs(param - 0.9).max() < 1e-6


def test_sgd(kernel: Any) -> None:
    param, momentum = np.array([1.0, 2.0], np.float32), np.zeros(2, np.float32)
    for _ in range(2):
        kernel("sgd", param, np.array([1.0, 1.0], np.float32), param, momentum, learning_rate=0.1, momentum_factor=0.5)
    assert np.abs(param - [1 - 0.1 - 0.15, 2 - 0.1 - 0.15]).max() < 1e-6
    assert math.isclose(momentum[0], 1.5)


def test_sgd_with_nesterov_momentum_and_decay(kernel: Any) -> None:
    param, momentum = np.array([2.0]), np.zeros(1)
    p, m = 2.0, 0.0
    for grad in (1.0, -0.5, 0.25):
        kernel(
            "sgd", param, np.array([grad]), param, momentum,
            learning_rate=0.1, momentum_factor=0.9, weight_decay=0.01, nesterov=True,
        )  # fmt: skip
        g = grad + 0.01 * p
        m = 0.9 * m + g
        p -= 0.1 * (g + 0.9 * m)
    assert math.isclose(param[0], p, rel_tol=1e-12)
