"""Every backward kernel against finite differences of its forward kernel, in f64; optimizers against their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import TABLE

RNG = np.random.default_rng(11)
Array = np.ndarray[Any, Any]


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def differences(function: Callable[..., Array], inputs: Sequence[Array], place: int, weight: Array) -> Array:
    """d sum(weight * function(inputs)) / d inputs[place], by central differences."""
    x = inputs[place]
    out = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = 1e-6 * max(1.0, abs(float(x[index])))
        sides = []
        for sign in (1, -1):
            moved = x.copy()
            moved[index] += sign * step
            arguments = [moved if i == place else a for i, a in enumerate(inputs)]
            sides.append(float((weight * function(*arguments)).sum()))
        out[index] = (sides[0] - sides[1]) / (2 * step)
    return out


def close(found: Array, expected: Array) -> None:
    assert np.abs(found - expected).max() <= 1e-7 * max(1.0, np.abs(expected).max())


def test_every_backward_kernel_is_checked_here() -> None:
    named = {kernel.backward for kernel in TABLE.kernels.values() if kernel.backward}
    assert named == {name for name in TABLE.kernels if name.endswith("_backward")} == CHECKED


CHECKED = {
    "gelu_backward",
    "relu_backward",
    "tanh_backward",
    "softmax_backward",
    "layer_norm_backward",
    "rms_norm_backward",
    "attention_backward",
    "softmax_cross_entropy_backward",
    "embedding_backward",
}


@pytest.mark.parametrize(("name", "from_result"), [("gelu", False), ("relu", False), ("tanh", True), ("softmax", True)])
def test_activations(kernel: Any, name: str, from_result: bool) -> None:
    x, grad = normal(3, 7), normal(3, 7)
    forward = lambda x: kernel(name, x)[0]  # noqa: E731
    (found,) = kernel(f"{name}_backward", grad, forward(x) if from_result else x)
    close(found, differences(forward, [x], 0, grad))


def test_layer_norm(kernel: Any) -> None:
    inputs = [normal(2, 3, 8), normal(8), normal(8)]
    grad = normal(2, 3, 8)
    forward = lambda *a: kernel("layer_norm", *a)[0]  # noqa: E731
    _, mean, rstd = kernel("layer_norm", *inputs)
    found = kernel("layer_norm_backward", grad, inputs[0], inputs[1], mean, rstd)
    for place in range(3):
        close(found[place], differences(forward, inputs, place, grad))


def test_rms_norm(kernel: Any) -> None:
    inputs = [normal(3, 8), normal(8)]
    grad = normal(3, 8)
    _, rstd = kernel("rms_norm", *inputs)
    found = kernel("rms_norm_backward", grad, *inputs, rstd)
    for place in range(2):
        close(found[place], differences(lambda *a: kernel("rms_norm", *a)[0], inputs, place, grad))


@pytest.mark.parametrize(
    ("tokens", "keys", "attributes"),
    [(5, 5, {}), (3, 6, {}), (4, 6, {"causal": False}), (4, 4, {"scale": 0.3})],
)
def test_attention(kernel: Any, tokens: int, keys: int, attributes: dict[str, Any]) -> None:
    inputs = [normal(2, 2, tokens, 3), normal(2, 2, keys, 3), normal(2, 2, keys, 3)]
    grad = normal(2, 2, tokens, 3)
    out, logsumexp = kernel("attention", *inputs, **attributes)
    found = kernel("attention_backward", grad, *inputs, out, logsumexp, **attributes)
    for place in range(3):
        close(found[place], differences(lambda *a: kernel("attention", *a, **attributes)[0], inputs, place, grad))


def test_attention_in_blocks_equals_one_block(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [normal(5, 37, 4) for _ in range(3)]
    grad = normal(5, 37, 4)
    whole = kernel("attention", *inputs)
    whole_back = kernel("attention_backward", grad, *inputs, *whole)
    monkeypatch.setattr("supernode.emulator.kernels.attention._ROWS", 8)
    monkeypatch.setattr("supernode.emulator.kernels.attention._SCORE_BYTES", 8 * 37 * 8 * 2)
    parts = kernel("attention", *inputs)
    for found, expected in zip(
        (*parts, *kernel("attention_backward", grad, *inputs, *parts)), (*whole, *whole_back), strict=True
    ):
        close(found, expected)


def test_cross_entropy(kernel: Any) -> None:
    logits, targets = normal(5, 7), RNG.integers(0, 7, 5)
    _, logsumexp = kernel("softmax_cross_entropy", logits, targets)
    (found,) = kernel("softmax_cross_entropy_backward", logits, targets, logsumexp, scale=2.0)
    close(found, differences(lambda x: kernel("softmax_cross_entropy", x, targets)[0], [logits], 0, np.asarray(2.0)))


def test_embedding(kernel: Any) -> None:
    table, tokens = normal(4, 3), np.array([[0, 2, 2], [3, 2, 0]])
    grad = normal(2, 3, 3)
    (found,) = kernel("embedding_backward", grad, tokens, rows=4)
    close(found, differences(lambda t: kernel("embedding", t, tokens)[0], [table], 0, grad))


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
