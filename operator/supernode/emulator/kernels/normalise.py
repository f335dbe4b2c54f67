"""Layer norm and RMS norm over the last axis, with their gradients.

Flows in: activations, gain, bias. Flows out: normalised activations, and mean and reciprocal deviation per row in f32
(f64 of f64) for the backward kernel. Not here: softmax (`activation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.reduce import accumulate
from supernode.emulator.kernels.rules import known_dtype, narrow, need, rows_of, same_dtype, streaming, widen
from supernode.emulator.kernels.table import AnyArray, Attributes, Kernel, Spec


def _statistics(dtype: str) -> str:
    return "f64" if dtype == "f64" else "f32"


def _layer_norm_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, gain, bias = specs
    _, columns = rows_of(x.shape)
    same_dtype((gain, bias))
    need(gain, "gain", dtype=(x.dtype, "f32"), shape=(columns,))
    need(bias, "bias", shape=(columns,))
    float(attributes["epsilon"])
    row = Spec(_statistics(x.dtype), x.shape[:-1])
    return (x, row, row)


def _layer_norm(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, gain, bias = (widen(array) for array in inputs)
    mean = x.mean(axis=-1, keepdims=True)
    out = x - mean
    variance = np.einsum("...i,...i->...", out, out)[..., None] / x.dtype.type(max(x.shape[-1], 1))
    rstd = 1 / np.sqrt(variance + x.dtype.type(attributes["epsilon"]))
    out *= rstd
    out *= gain
    out += bias
    return narrow(out, outputs[0]), narrow(mean, outputs[1]), narrow(rstd, outputs[2])


def _layer_norm_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, x, gain, mean, rstd = specs
    need(grad, "grad", dtype=x.dtype, shape=x.shape)
    need(gain, "gain", dtype=(x.dtype, "f32"), shape=(rows_of(x.shape)[1],))
    for name, spec in (("mean", mean), ("rstd", rstd)):
        need(spec, name, dtype=_statistics(x.dtype), shape=x.shape[:-1])
    given = attributes["dtype"]
    parameter = Spec(gain.dtype if given is None else known_dtype(given), gain.shape)
    return (x, parameter, parameter)


def _layer_norm_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    grad, x, gain, mean, rstd = (widen(array) for array in inputs)
    columns = x.shape[-1]
    normal = x - mean[..., None]
    normal *= rstd[..., None]
    rows = (-1, columns) if columns else (0, 0)
    product = grad * normal
    d_gain = accumulate(product.reshape(rows), (0,), x.dtype)
    d_bias = accumulate(grad.reshape(rows), (0,), x.dtype)
    weighted = grad * gain
    # dx = rstd (w - mean(w) - normal mean(w normal)), w = grad * gain
    count = x.dtype.type(max(columns, 1))
    shift = weighted.sum(axis=-1, keepdims=True) / count
    slope = np.einsum("...i,...i->...", weighted, normal)[..., None] / count
    normal *= slope
    weighted -= shift
    weighted -= normal
    weighted *= rstd[..., None]
    return narrow(weighted, outputs[0]), narrow(d_gain, outputs[1]), narrow(d_bias, outputs[2])


def _rms_norm_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, gain = specs
    need(gain, "gain", dtype=(x.dtype, "f32"), shape=(rows_of(x.shape)[1],))
    float(attributes["epsilon"])
    return (x, Spec(_statistics(x.dtype), x.shape[:-1]))


def _rms_norm(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, gain = (widen(array) for array in inputs)
    square = np.einsum("...i,...i->...", x, x)[..., None] / x.dtype.type(max(x.shape[-1], 1))
    rstd = 1 / np.sqrt(square + x.dtype.type(attributes["epsilon"]))
    return narrow(x * rstd * gain, outputs[0]), narrow(rstd, outputs[1])


def _rms_norm_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, x, gain, rstd = specs
    need(grad, "grad", dtype=x.dtype, shape=x.shape)
    need(gain, "gain", dtype=(x.dtype, "f32"), shape=(rows_of(x.shape)[1],))
    need(rstd, "rstd", dtype=_statistics(x.dtype), shape=x.shape[:-1])
    given = attributes["dtype"]
    return (x, Spec(gain.dtype if given is None else known_dtype(given), gain.shape))


def _rms_norm_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    grad, x, gain, rstd = (widen(array) for array in inputs)
    columns = x.shape[-1]
    normal = x * rstd[..., None]
    d_gain = accumulate((grad * normal).reshape((-1, columns) if columns else (0, 0)), (0,), x.dtype)
    weighted = grad * gain
    slope = np.einsum("...i,...i->...", weighted, normal)[..., None] / x.dtype.type(max(columns, 1))
    return narrow((weighted - normal * slope) * rstd[..., None], outputs[0]), narrow(d_gain, outputs[1])


KERNELS: Final = (
    Kernel(
        "layer_norm",
        ("x", "gain", "bias"),
        FLOATS,
        _layer_norm_shape,
        streaming(8),
        _layer_norm,
        "(x - mean) rstd gain + bias over the last axis; also gives mean and rstd = 1/sqrt(variance + epsilon)",
        {"epsilon": 1e-5},
        backward="layer_norm_backward",
    ),
    Kernel(
        "layer_norm_backward",
        ("grad", "x", "gain", "mean", "rstd"),
        FLOATS,
        _layer_norm_backward_shape,
        streaming(14),
        _layer_norm_backward,
        "gradients of x, gain and bias; dtype is that of the last two",
        {"dtype": None},
    ),
    Kernel(
        "rms_norm",
        ("x", "gain"),
        FLOATS,
        _rms_norm_shape,
        streaming(5),
        _rms_norm,
        "x rstd gain over the last axis; also gives rstd = 1/sqrt(mean(x^2) + epsilon)",
        {"epsilon": 1e-5},
        backward="rms_norm_backward",
    ),
    Kernel(
        "rms_norm_backward",
        ("grad", "x", "gain", "rstd"),
        FLOATS,
        _rms_norm_backward_shape,
        streaming(10),
        _rms_norm_backward,
        "gradients of x and gain; dtype is that of the latter",
        {"dtype": None},
    ),
)
