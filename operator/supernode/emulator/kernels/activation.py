"""Activations with a backward kernel: gelu, softmax, and the backward kernels of relu and tanh.

Flows in and out: arrays of one float dtype; 16-bit floats compute in f32 and round once. Not here: plain functions
(`elementwise`) and the softmax inside attention (`attention`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.rules import narrow, normal_axis, same_dtype, same_shape, streaming, widen
from supernode.emulator.kernels.table import AnyArray, Attributes, Kernel, Spec

_C: Final = math.sqrt(2.0 / math.pi)
_CUBIC: Final = 0.044715


def _one(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (specs[0],)


def _pair(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (Spec(same_dtype(specs), same_shape(*specs)),)


def _gelu_tanh(x: AnyArray) -> tuple[AnyArray, AnyArray]:
    """tanh(c (x + 0.044715 x^3)) and x^2, in the type of x."""
    kind = x.dtype.type
    square = x * x
    inner = np.asarray(square * kind(_C * _CUBIC))  # stays an array where it has no axes
    inner += kind(_C)
    inner *= x
    np.tanh(inner, out=inner)
    return inner, square


def _gelu(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    out, _ = _gelu_tanh(x)
    out += x.dtype.type(1)
    out *= x
    out *= x.dtype.type(0.5)
    # x^3 overflows far out on the left where the result is 0, and 0 * -inf is not.
    if not np.isfinite(x).all():
        out = np.where(x == -np.inf, x.dtype.type(0), out)
    return (narrow(out, outputs[0]),)


def _gelu_backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    grad, x = widen(inputs[0]), widen(inputs[1])
    kind = x.dtype.type
    # Beyond 30 the slope is 0 or 1 exactly; clipping keeps x^3 from overflowing to inf * 0.
    x = np.clip(x, kind(-30), kind(30))
    tanh, square = _gelu_tanh(x)
    # d/dx = (1 + t)/2 + x (1 - t^2)/2 * c (1 + 3 * 0.044715 x^2)
    slope = square
    slope *= kind(3 * _CUBIC * _C)
    slope += kind(_C)
    slope *= x
    slope *= kind(1) - tanh * tanh
    slope += tanh
    slope += kind(1)
    slope *= kind(0.5)
    slope *= grad
    return (narrow(slope, outputs[0]),)


def _softmax_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    normal_axis(attributes["axis"], len(specs[0].shape))
    return _pair(specs, attributes)


def _softmax(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, axis = widen(inputs[0]), attributes["axis"]
    if not x.size:
        return (narrow(x.copy(), outputs[0]),)
    out = np.exp(x - x.max(axis=axis, keepdims=True))
    out /= out.sum(axis=axis, keepdims=True)
    return (narrow(out, outputs[0]),)


def _softmax_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    grad, y = widen(inputs[0]), widen(inputs[1])
    product = grad * y
    product -= y * product.sum(axis=attributes["axis"], keepdims=True)
    return (narrow(product, outputs[0]),)


def _relu_backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    grad, x = inputs
    return (narrow(np.where(x > 0, grad, grad.dtype.type(0)), outputs[0]),)


def _tanh_backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    grad, y = widen(inputs[0]), widen(inputs[1])
    return (narrow(grad * (1 - y * y), outputs[0]),)


KERNELS: Final = (
    Kernel(
        "gelu",
        ("x",),
        FLOATS,
        _one,
        streaming(16),
        _gelu,
        "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
        backward="gelu_backward",
        elementwise=True,
    ),
    Kernel(
        "gelu_backward",
        ("grad", "x"),
        FLOATS,
        _pair,
        streaming(24),
        _gelu_backward,
        "gradient of gelu",
        elementwise=True,
    ),
    Kernel(
        "softmax",
        ("x",),
        FLOATS,
        _softmax_shape,
        streaming(12),
        _softmax,
        "exp(x - max) / sum of it, along axis",
        {"axis": -1},
        backward="softmax_backward",
    ),
    Kernel(
        "softmax_backward",
        ("grad", "y"),
        FLOATS,
        _softmax_shape,
        streaming(4),
        _softmax_backward,
        "y (grad - sum(grad y)), y being the result of softmax",
        {"axis": -1},
    ),
    Kernel(
        "relu_backward",
        ("grad", "x"),
        FLOATS,
        _pair,
        streaming(1),
        _relu_backward,
        "grad where x > 0, else 0",
        elementwise=True,
    ),
    Kernel(
        "tanh_backward",
        ("grad", "y"),
        FLOATS,
        _pair,
        streaming(3),
        _tanh_backward,
        "grad (1 - y^2), y being the result of tanh",
        elementwise=True,
    ),
)
