"""Layer norm and RMS norm over the last axis, with their gradients.

Flows in: activations, gain, bias. Flows out: normalised activations, and mean and reciprocal deviation per row in f32
(f64 of f64) for the backward kernel. Not here: softmax (`activation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.parallel import WORTH, row_blocks, share
from supernode.emulator.kernels.rules import (
    known_dtype,
    narrow,
    need,
    rows_of,
    same_dtype,
    streaming,
    wide_dtype,
    widen,
)
from supernode.emulator.kernels.table import LARGEST, AnyArray, Attributes, Bound, Draw, Kernel, Spec, example
from supernode.emulator.rounding import widen_into


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
    x, wide = _matrix(inputs[0]), wide_dtype(outputs[0].dtype)
    gain, bias = widen(inputs[1]), widen(inputs[2])
    out = np.empty(x.shape, inputs[0].dtype)
    mean, rstd = np.empty((len(x), 1), wide), np.empty((len(x), 1), wide)
    count, epsilon = wide.type(max(x.shape[1], 1)), wide.type(attributes["epsilon"])

    def block(rows: slice) -> None:
        part = out[rows] if out.dtype == wide else np.empty(out[rows].shape, wide)
        values = _wide_block(x[rows], part)
        np.add.reduce(values, axis=1, keepdims=True, out=mean[rows])
        mean[rows] /= count
        np.subtract(values, mean[rows], out=part)
        _deviation(part, rstd[rows], count, epsilon)
        part *= rstd[rows]
        part *= gain
        part += bias
        _put(out, rows, part)

    share(block, _blocks(x), worth=x.size >= WORTH)
    return out.reshape(outputs[0].shape), mean.reshape(outputs[1].shape), rstd.reshape(outputs[2].shape)


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
    grad, x = _matrix(inputs[0]), _matrix(inputs[1])
    gain, mean, rstd = widen(inputs[2]), inputs[3].reshape(-1, 1), inputs[4].reshape(-1, 1)
    wide = wide_dtype(outputs[0].dtype)
    out = np.empty(x.shape, inputs[1].dtype)
    pieces = _blocks(x)
    d_gain, d_bias = np.zeros((len(pieces), x.shape[1]), wide), np.zeros((len(pieces), x.shape[1]), wide)
    count = wide.type(max(x.shape[1], 1))

    def block(piece: tuple[int, slice]) -> None:
        number, rows = piece
        normal = np.empty(x[rows].shape, wide)
        np.subtract(_wide_block(x[rows], normal), mean[rows], out=normal)
        normal *= rstd[rows]
        given = _wide_block(grad[rows], None)
        np.add.reduce(given, axis=0, out=d_bias[number])
        np.einsum("ri,ri->i", given, normal, out=d_gain[number])
        weighted = given * gain
        # dx = rstd (w - mean(w) - normal mean(w normal)), w = grad * gain
        shift = np.add.reduce(weighted, axis=1, keepdims=True) / count
        slope = np.einsum("ri,ri->r", weighted, normal)[:, None] / count
        normal *= slope
        weighted -= shift
        weighted -= normal
        weighted *= rstd[rows]
        _put(out, rows, weighted)

    share(block, list(enumerate(pieces)), worth=x.size >= WORTH)
    sums = (narrow(part.sum(axis=0), spec) for part, spec in zip((d_gain, d_bias), outputs[1:], strict=True))
    return (out.reshape(outputs[0].shape), *sums)


def _rms_norm_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, gain = specs
    need(gain, "gain", dtype=(x.dtype, "f32"), shape=(rows_of(x.shape)[1],))
    float(attributes["epsilon"])
    return (x, Spec(_statistics(x.dtype), x.shape[:-1]))


def _rms_norm(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, gain, wide = _matrix(inputs[0]), widen(inputs[1]), wide_dtype(outputs[0].dtype)
    out, rstd = np.empty(x.shape, inputs[0].dtype), np.empty((len(x), 1), wide)
    count, epsilon = wide.type(max(x.shape[1], 1)), wide.type(attributes["epsilon"])

    def block(rows: slice) -> None:
        values = _wide_block(x[rows], None)
        _deviation(values, rstd[rows], count, epsilon)
        part = values * rstd[rows]
        part *= gain
        _put(out, rows, part)

    share(block, _blocks(x), worth=x.size >= WORTH)
    return out.reshape(outputs[0].shape), rstd.reshape(outputs[1].shape)


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
    grad, x, gain, rstd = _matrix(inputs[0]), _matrix(inputs[1]), widen(inputs[2]), inputs[3].reshape(-1, 1)
    wide = wide_dtype(outputs[0].dtype)
    out = np.empty(x.shape, inputs[1].dtype)
    pieces = _blocks(x)
    d_gain = np.zeros((len(pieces), x.shape[1]), wide)
    count = wide.type(max(x.shape[1], 1))

    def block(piece: tuple[int, slice]) -> None:
        number, rows = piece
        normal = _wide_block(x[rows], None) * rstd[rows]
        given = _wide_block(grad[rows], None)
        np.einsum("ri,ri->i", given, normal, out=d_gain[number])
        weighted = given * gain
        normal *= np.einsum("ri,ri->r", weighted, normal)[:, None] / count
        weighted -= normal
        weighted *= rstd[rows]
        _put(out, rows, weighted)

    share(block, list(enumerate(pieces)), worth=x.size >= WORTH)
    return out.reshape(outputs[0].shape), narrow(d_gain.sum(axis=0), outputs[1])


# --- blocks of rows ------------------------------------------------------------------------------------------------


def _matrix(array: AnyArray) -> AnyArray:
    return array.reshape(rows_of(array.shape))


def _blocks(x: AnyArray) -> list[slice]:
    return row_blocks(len(x), x.shape[1], 8 if x.dtype.itemsize == 8 else 4)


def _wide_block(part: AnyArray, scratch: AnyArray | None) -> AnyArray:
    """A block in the arithmetic's type; narrow floats are widened into `scratch`, if there is one."""
    if part.dtype.itemsize > 2:
        return part
    out = np.empty(part.shape, np.float32) if scratch is None else scratch
    widen_into(part, out)
    return out


def _deviation(part: AnyArray, rstd: AnyArray, count: Any, epsilon: Any) -> None:
    """1 / sqrt(mean of squares per row + epsilon)."""
    np.einsum("ri,ri->r", part, part, out=rstd[:, 0])
    rstd /= count
    rstd += epsilon
    np.sqrt(rstd, out=rstd)
    np.divide(1, rstd, out=rstd)


def _put(out: AnyArray, rows: slice, part: AnyArray) -> None:
    if part.base is not out and part is not out:
        np.copyto(out[rows], part, casting="unsafe")


def _normal_sizes(
    inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]
) -> Sequence[AnyArray]:
    """Distances from the mean are as exact as the row's largest element, and then divided by the deviation."""
    x, gain, bias = inputs
    _, mean, rstd = results
    largest = np.abs(x).max(axis=-1, initial=0)
    spread = 1 + largest * rstd
    normal = np.abs((x - mean[..., None]) * rstd[..., None])
    return [spread[..., None] * (normal + 1) * np.abs(gain) + np.abs(bias), largest, spread * rstd]


_SIGNS: Final = "sums of terms of both signs; held over finite numbers of ordinary size"

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
        outputs=("out", "mean", "rstd"),
        bound=Bound(32, _normal_sizes, 2),
        examples=(example((2, 3, 16), Draw((16,), "normal"), Draw((16,), "normal")),),
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
        outputs=("grad_x", "grad_gain", "grad_bias"),
        bound=Bound(256, LARGEST, special=_SIGNS),
        examples=(
            example((2, 3, 16), (2, 3, 16), (16,), Draw((2, 3), "normal", "wide"), Draw((2, 3), "unit", "wide")),
        ),
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
        outputs=("out", "rstd"),
        bound=Bound(32, degree=2),
        examples=(example((4, 16), Draw((16,), "normal")),),
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
        outputs=("grad_x", "grad_gain"),
        bound=Bound(256, LARGEST, special=_SIGNS),
        examples=(example((4, 16), (4, 16), (16,), Draw((4,), "unit", "wide")),),
    ),
)
