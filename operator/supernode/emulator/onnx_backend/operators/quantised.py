"""Products and convolutions of quantised numbers.

Flows in: bytes with zero points and scales. Flows out: exact sums (i32), or bytes again. Not here: quantisation itself
(`conversion`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from supernode.emulator.client import Array
from supernode.emulator.dtypes import DTYPES
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.emulator.onnx_backend.operators.layout import pad
from supernode.emulator.onnx_backend.operators.pooling import padding

_BYTES: Final = ("i8", "u8")


def _zero(call: Call, place: int, dtype: str) -> Array:
    made: Array = call.array(place) if call.has(place) else call.launch("zeros", shape=[], dtype=dtype)
    return made.reshape([]) if made.size == 1 else made


def _rows(zero: Array, ndim: int) -> Array:
    """Zero points of the rows of a matrix."""
    return zero.reshape([zero.size, 1]) if len(zero.shape) == 1 and ndim > 1 else zero


def _integer_product(call: Call, a: Array, b: Array, a_zero: Array, b_zero: Array) -> Array:
    row, column = len(a.shape) == 1, len(b.shape) == 1
    a_matrix = a.reshape([1, a.shape[0]]) if row else a
    b_matrix = b.reshape([b.shape[0], 1]) if column else b
    out: Array = call.launch("integer_matmul", a_matrix, b_matrix, _rows(a_zero, len(a.shape)), b_zero)
    shape = list(out.shape)
    if column:
        del shape[-1]
    if row:
        del shape[-1 if column else -2]
    return out.reshape(shape) if row or column else out


def _matmul_integer(call: Call) -> Any:
    a, b = call.array(0), call.array(1)
    if {a.dtype, b.dtype} - set(_BYTES):
        return NotImplemented
    return call.out(_integer_product(call, a, b, _zero(call, 2, a.dtype), _zero(call, 3, b.dtype)))


def _requantized(call: Call, whole: Array, scales: tuple[Array, Array, Array], zero: Array) -> Any:
    """Exact sums as bytes: times both scales, divided by that of the result."""
    a, b, y = scales
    factor = call.launch("divide", y, call.launch("multiply", a, b))
    limits = np.iinfo(DTYPES[zero.dtype])
    made = call.launch(
        "quantise_with_zero",
        call.cast(whole, "f32"),
        call.cast(factor, "f32"),
        zero,
        dtype=zero.dtype,
        low=int(limits.min),
        high=int(limits.max),
    )
    return call.out(made)


def _one(array: Array) -> Array:
    return array.reshape([]) if array.size == 1 else array


def _qlinear_matmul(call: Call) -> Any:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (call.array(place) for place in range(8))
    if {a.dtype, b.dtype} - set(_BYTES):
        return NotImplemented
    whole = _integer_product(call, a, b, _one(a_zero), _one(b_zero))
    scales = (_rows(_one(a_scale), len(a.shape)), _one(b_scale), _rows(_one(y_scale), len(a.shape)))
    return _requantized(call, whole, scales, _rows(_one(y_zero), len(a.shape)))


def _convolution(call: Call, x: Array, w: Array, x_zero: Array, w_zero: Array) -> Array:
    """Exact sums of a convolution of bytes; padding is as if x were zero there."""
    axes = len(x.shape) - 2
    kernel = list(w.shape[2:])
    strides = call.get("strides") or [1] * axes
    dilations = call.get("dilations") or [1] * axes
    groups = int(call.get("group", 1))
    pads = padding(call, x.shape[2:], kernel, strides, dilations)
    x = pad(call, x, [(0, 0), (0, 0), *((before, after) for before, after in pads)], "constant", x_zero)
    sizes = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(x.shape[2:], kernel, dilations, strides, strict=True)]
    columns = call.launch("unfold", x, size=kernel, strides=strides, dilations=dilations, groups=groups)
    weights = w.reshape([groups, w.shape[0] // groups, columns.shape[2]])
    if w_zero.size > 1:
        w_zero = w_zero.reshape([groups, w.shape[0] // groups, 1])
    out: Array = call.launch("integer_matmul", weights, columns, w_zero, x_zero)
    return out.reshape([x.shape[0], w.shape[0], *sizes])


def _conv_integer(call: Call) -> Any:
    x, w = call.array(0), call.array(1)
    if {x.dtype, w.dtype} - set(_BYTES):
        return NotImplemented
    return call.out(_convolution(call, x, w, _zero(call, 2, x.dtype), _zero(call, 3, w.dtype)))


def _qlinear_conv(call: Call) -> Any:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (call.array(place) for place in range(8))
    if {x.dtype, w.dtype} - set(_BYTES):
        return NotImplemented
    whole = _convolution(call, x, w, _one(x_zero), _one(w_zero))
    channels = [-1, *[1] * (len(x.shape) - 2)]
    if call.has(8):
        whole = call.launch("add", whole, call.array(8).reshape(channels))
    per_channel = w_scale.reshape(channels) if w_scale.size > 1 else _one(w_scale)
    return _requantized(call, whole, (_one(x_scale), per_channel, _one(y_scale)), _one(y_zero))


def _dynamic_quantize(call: Call) -> Any:
    x = call.array(0)
    if x.dtype != "f32" or not x.size:
        return NotImplemented
    none = call.launch("zeros", shape=[], dtype="f32")
    high = call.launch("maximum", call.launch("max", x), none)
    low = call.launch("minimum", call.launch("min", x), none)
    scale = call.launch("divide", call.launch("subtract", high, low), value=255.0)
    one = call.launch("full", shape=[], value=1.0, dtype="f32")
    safe = call.launch("where", call.launch("greater", scale, none), scale, one)
    # 0 - low / scale, not low * (1 / scale): one rounding.
    zero = call.launch("round", call.launch("subtract", none, call.launch("divide", low, safe)))
    zero = call.cast(call.launch("clip", zero, low=0.0, high=255.0), "u8")
    y = call.launch("quantise_with_zero", x, safe, zero, dtype="u8", low=0, high=255)
    return call.out(y), call.out(scale), call.out(zero)


OPERATORS: Final[Mapping[str, Lowering]] = {
    "MatMulInteger": _matmul_integer,
    "QLinearMatMul": _qlinear_matmul,
    "ConvInteger": _conv_integer,
    "QLinearConv": _qlinear_conv,
    "DynamicQuantizeLinear": _dynamic_quantize,
}
