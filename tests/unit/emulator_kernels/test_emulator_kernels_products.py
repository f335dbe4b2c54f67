"""Products, quantised ones and convolutions beside their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.emulator_kernels.arrays import RNG, Array, close, launch, normal

from supernode.errors import KernelError


def test_what_is_fused_behind_a_product_is_what_follows_it(kernel: Any) -> None:
    a, b, bias = normal(3, 4, 5), normal(5, 6), normal(6)
    product = a @ b + bias
    for name in ("relu", "gelu", "silu", "sigmoid", "tanh"):
        close(kernel("matmul", a, b, bias, activation=name)[0], kernel(name, product)[0])
    close(kernel("matmul", a, b, bias, activation="gelu_exact")[0], kernel("gelu", product, approximate="none")[0])
    with pytest.raises(KernelError, match="activation must be one of"):
        kernel("matmul", a, b, activation="cos")


def test_tf32_products_round_their_inputs(kernel: Any) -> None:
    one = np.array([[1 + 2.0**-10, 1.0]], np.float32)
    low = np.array([[1 + 2.0**-11 + 2.0**-20], [0.0]], np.float32)
    assert kernel("matmul", one, low, precision="tf32")[0].item() == (1 + 2.0**-10) ** 2
    assert kernel("matmul", one, low)[0].item() == np.float32((1 + 2.0**-10) * (1 + 2.0**-11 + 2.0**-20))
    with pytest.raises(KernelError, match="tf32 is for f32"):
        kernel("matmul", one.astype(np.float64), low.astype(np.float64), precision="tf32")


def test_products_of_bytes_are_exact(kernel: Any) -> None:
    a, b = RNG.integers(-128, 128, (7, 2000)).astype(np.int8), RNG.integers(-128, 128, (2000, 5)).astype(np.int8)
    whole = a.astype(np.int64) @ b.astype(np.int64)
    assert (kernel("matmul", a, b, dtype="i32")[0] == whole).all()
    assert (kernel("matmul", a, b)[0] == whole.astype(np.int8)).all()  # wraps around
    more = np.array([3, -3, 100, 0, 7], np.int8)
    assert (kernel("matmul", a, b, more)[0] == (whole + more).astype(np.int8)).all()
    assert (
        kernel("matmul", a.astype(np.int16), b.astype(np.int16), more.astype(np.int16))[0]
        == (whole + more).astype(np.int16)
    ).all()
    ends = np.full((1, 2000), -128, np.int8)
    assert kernel("matmul", ends, ends.T.copy(), dtype="i32")[0].item() == 2000 << 14
    rows, columns = np.abs(normal(7)).astype(np.float32), np.abs(normal(5)).astype(np.float32)
    found = kernel("quantised_matmul", a, b, rows, columns, dtype="f64")[0]
    close(found, whole * rows.astype(float)[:, None] * columns.astype(float), 1e-12)
    one = np.float32(0.5).reshape(())
    bias = normal(5).astype(np.float32)
    fused = kernel("quantised_matmul", a, b, one, one, bias, activation="relu")[0]
    close(fused, np.maximum(whole * 0.25 + bias, 0), 1e-6)


@pytest.mark.parametrize("dtype", ["i8", "u8", "f8e4m3", "f8e5m2"])
def test_quantising_there_and_back(kernel: Any, dtype: str) -> None:
    x = (normal(6, 40) * np.exp(normal(6, 1) * 3)).astype(np.float32)
    x = np.abs(x) if dtype == "u8" else x
    for axis in (None, 0):
        (scale,) = kernel("quantisation_scale", x, dtype=dtype, axis=axis)
        (q,) = kernel("quantise", x, scale, dtype=dtype, axis=axis)
        back = kernel("dequantise", q, scale, axis=axis)[0]
        spread = scale if axis is None else scale[:, None]
        step = {"f8e4m3": 2.0**-4, "f8e5m2": 2.0**-3}.get(dtype)
        # Half a step of a whole number; of a float, half a unit in its last place, or half of the smallest number.
        least = {"f8e4m3": 2.0**-10, "f8e5m2": 2.0**-17}.get(dtype, 0.5)
        limit = spread * least + (0 if step is None else np.abs(x) * step)
        assert (np.abs(back - x) <= limit * 1.0001).all()
        assert np.abs(q.astype(float)).max() == {"i8": 127, "u8": 255, "f8e4m3": 448, "f8e5m2": 57344}[dtype]


def direct(x: Array, w: Array, stride: list[int], pads: list[list[int]], dilation: list[int], groups: int) -> Array:
    """Convolution by its definition, place by place."""
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    axes, per = w.ndim - 2, w.shape[0] // groups
    sizes = [(x.shape[2 + i] - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in range(axes)]
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    for place in np.ndindex(*sizes):
        for offset in np.ndindex(*w.shape[2:]):
            at = tuple(p * s + o * d for p, s, o, d in zip(place, stride, offset, dilation, strict=True))
            for o in range(w.shape[0]):
                channels = slice(o // per * w.shape[1], (o // per + 1) * w.shape[1])
                out[(slice(None), o, *place)] += x[(slice(None), channels, *at)] @ w[(o, slice(None), *offset)]
    return out


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolution_is_its_definition(data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))
    groups = data.draw(st.sampled_from([1, 2]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    few = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, stride, dilation = few(1, 3), few(1, 2), few(1, 2)
    pads = [[data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))] for _ in range(axes)]
    sizes = [d * (k - 1) + 1 + data.draw(st.integers(0, 3)) for k, d in zip(kernel, dilation, strict=True)]
    x = rng.standard_normal((2, groups * data.draw(st.integers(1, 2)), *sizes))
    w = rng.standard_normal((groups * data.draw(st.integers(1, 2)), x.shape[1] // groups, *kernel))
    attributes = {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}
    expected = direct(x, w, stride, pads, dilation, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supernode.emulator.kernels.windows._COLUMN_BYTES", data.draw(st.sampled_from([1, 1 << 22])))
        close(launch("convolution", x, w, **attributes)[0], expected)
        # The transpose is the adjoint: <conv(x), y> = <x, transpose(y)>.
        y = rng.standard_normal(expected.shape)
        wanted = [
            n + low + high - d * (k - 1) - 1 for n, k, d, (low, high) in zip(sizes, kernel, dilation, pads, strict=True)
        ]
        more = [n % s for n, s in zip(wanted, stride, strict=True)]
        if all(m < max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
            (back,) = launch("convolution_transpose", y, w, **attributes, output_padding=more)
            assert math.isclose((expected * y).sum(), (x * back).sum(), rel_tol=1e-9, abs_tol=1e-9)
