"""Convolution over one, two, three or more axes, its transpose, and the gradients of both.

Flows in: x (images, channels, *sizes), weight (outputs, channels / groups, *kernel), bias (outputs). Flows out:
activation(convolution + bias). 16-bit floats compute in f32 and round once; f32 may round its inputs to tf32 first. Not
here: the work on columns (`windows`), pooling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.epilogue import ACTIVATIONS, activate, slope
from supernode.emulator.kernels.matmul import check_precision, rate_of
from supernode.emulator.kernels.rules import choice, known_dtype, moved, narrow, need, same_dtype, whole, widen
from supernode.emulator.kernels.table import (
    LARGEST,
    MAGNITUDES,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Gemm,
    Kernel,
    Spec,
    example,
)
from supernode.emulator.kernels.windows import Geometry, convolve, input_gradient, weight_gradient
from supernode.emulator.rounding import tf32
from supernode.errors import KernelTypeError, KernelValueError


def _per_axis(attributes: Attributes, name: str, axes: int, least: int) -> tuple[int, ...]:
    value = attributes[name]
    items = tuple(value) if isinstance(value, list | tuple) else (value,) * axes
    if len(items) != axes or any(isinstance(n, bool) or not isinstance(n, int) or n < least for n in items):
        raise KernelValueError(f"{name} must be a whole number of {least} or more, or {axes} of them, not {value!r}")
    return items


def _pads(attributes: Attributes, axes: int) -> tuple[tuple[int, int], ...]:
    value = attributes["padding"]
    if isinstance(value, list | tuple) and value and all(isinstance(item, list | tuple) for item in value):
        pairs = tuple(tuple(item) for item in value)
        if len(pairs) != axes or any(len(p) != 2 or not all(isinstance(n, int) and n >= 0 for n in p) for p in pairs):
            raise KernelValueError(f"padding must be {axes} pairs of whole numbers of 0 or more, not {value!r}")
        return tuple((int(low), int(high)) for low, high in pairs)
    return tuple((n, n) for n in _per_axis(attributes, "padding", axes, 0))


def _geometry(x: Spec, weight: Spec, attributes: Attributes) -> Geometry:
    """What a convolution of x with weight looks like; sizes that do not go together are refused."""
    axes = len(x.shape) - 2
    if axes < 1 or len(weight.shape) != axes + 2:
        raise KernelValueError(
            f"x [images, channels, sizes ...] and weight {weight} must have 3 axes or more, as many, not {x}"
        )
    groups = whole(attributes, "groups", 1)
    if weight.shape[1] * groups != x.shape[1] or weight.shape[0] % groups or 0 in weight.shape:
        raise KernelValueError(
            f"weight {weight} must be [outputs, {x.shape[1]} / {groups}, kernel ...], outputs in {groups} groups"
        )
    geometry = Geometry(
        x.shape[2:],
        weight.shape[2:],
        _per_axis(attributes, "stride", axes, 1),
        _pads(attributes, axes),
        _per_axis(attributes, "dilation", axes, 1),
        groups,
    )
    if min(geometry.results) < 1:
        raise KernelValueError(f"a kernel of {list(geometry.kernel)} does not fit {x} with this padding and dilation")
    return geometry


def _check(specs: Sequence[Spec], attributes: Attributes, outputs: int) -> None:
    dtype = same_dtype(specs[:2])
    check_precision(attributes, dtype)
    if attributes["activation"] is not None:
        choice(attributes, "activation", *ACTIVATIONS)
    if len(specs) > 2:
        need(specs[2], "bias", dtype=(dtype, "f32"), shape=(outputs,))


def _shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, weight = specs[:2]
    geometry = _geometry(x, weight, attributes)
    _check(specs, attributes, weight.shape[0])
    return (Spec(x.dtype, (x.shape[0], weight.shape[0], *geometry.results)),)


def _gemm(x: Spec, weight: Spec, out: Spec, attributes: Attributes, nbytes: float) -> Cost:
    """The implicit product: places of all images times outputs, over channels and kernel, per group."""
    groups = attributes["groups"]
    places = x.shape[0] * math.prod(out.shape[2:])
    inner = math.prod(weight.shape[1:])
    rate = rate_of(x.dtype, attributes)
    gemm = Gemm(places, weight.shape[0] // groups, inner, groups, rate) if rate else None
    return Cost(2.0 * places * weight.shape[0] * inner, nbytes, gemm)


def _cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return _gemm(specs[0], specs[1], outputs[0], attributes, moved(specs, outputs))


def _operands(inputs: Sequence[AnyArray], attributes: Attributes) -> tuple[AnyArray, ...]:
    """x and weight (or gradient and one of them) in the type of the arithmetic."""
    wide = tuple(widen(array) for array in inputs)
    return tuple(tf32(array) for array in wide) if attributes["precision"] == "tf32" else wide


def _finish(out: AnyArray, inputs: Sequence[AnyArray], attributes: Attributes) -> AnyArray:
    if len(inputs) > 2:
        out += widen(inputs[2]).reshape(-1, *(1,) * (out.ndim - 2))
    return out


def _run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, weight = _operands(inputs[:2], attributes)
    geometry = _geometry(Spec("f32", x.shape), Spec("f32", weight.shape), attributes)
    out = _finish(convolve(x, weight, geometry), inputs, attributes)
    if attributes["activation"] is not None:
        activate(attributes["activation"], out)
    return (narrow(out, outputs[0]),)


def _gradient_specs(specs: Sequence[Spec], attributes: Attributes, out: Spec) -> tuple[Spec, ...]:
    need(specs[0], "grad", dtype=FLOATS, shape=out.shape)
    given = attributes["dtype"]
    if given is not None and known_dtype(given) not in FLOATS:
        raise KernelTypeError(f"gradients cannot be {given}")
    return (specs[1], *(spec if given is None else Spec(given, spec.shape) for spec in specs[2:]))


def _backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return _gradient_specs(specs, attributes, _shape(specs[1:], attributes)[0])


def _backward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    products = 2 if attributes["activation"] is None else 3
    one = _gemm(specs[1], specs[2], specs[0], attributes, moved(specs, outputs))
    gemm = None if one.gemm is None else one.gemm._replace(batch=one.gemm.batch * products)
    return Cost(products * one.flops, one.bytes_moved, gemm)


def _bias_gradient(grad: AnyArray) -> AnyArray:
    return np.asarray(grad.sum(axis=(0, *range(2, grad.ndim))))


def _backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, weight = _operands(inputs[1:3], attributes)
    grad = widen(inputs[0]).astype(x.dtype, copy=False)
    geometry = _geometry(Spec("f32", x.shape), Spec("f32", weight.shape), attributes)
    if attributes["activation"] is not None:
        before = _finish(convolve(x, weight, geometry), inputs[1:], attributes)
        grad = grad * slope(attributes["activation"], before)
    (g,) = _operands((grad,), attributes)
    found = [input_gradient(g, weight, geometry), weight_gradient(g, x, geometry)]
    if len(inputs) > 3:
        found.append(_bias_gradient(grad))
    return tuple(narrow(part, spec) for part, spec in zip(found, outputs, strict=True))


# --- transposed: what the gradient of the input is to a convolution -----------------------------------------------


def _transposed(x: Spec, weight: Spec, attributes: Attributes) -> tuple[Spec, Geometry]:
    """The result of a transposed convolution, and the convolution that leads from it back to x."""
    axes = len(x.shape) - 2
    if axes < 1 or len(weight.shape) != axes + 2 or 0 in weight.shape or weight.shape[0] != x.shape[1]:
        raise KernelValueError(f"weight {weight} must be [channels of {x}, outputs / groups, kernel ...]")
    groups = whole(attributes, "groups", 1)
    if x.shape[1] % groups:
        raise KernelValueError(f"{x.shape[1]} channels are not {groups} groups")
    stride, dilation = _per_axis(attributes, "stride", axes, 1), _per_axis(attributes, "dilation", axes, 1)
    pads, more = _pads(attributes, axes), _per_axis(attributes, "output_padding", axes, 0)
    sizes = tuple(
        (n - 1) * s - low - high + d * (k - 1) + 1 + extra
        for n, k, s, d, (low, high), extra in zip(
            x.shape[2:], weight.shape[2:], stride, dilation, pads, more, strict=True
        )
    )
    if min(sizes) < 1 or any(e >= max(s, d) for e, s, d in zip(more, stride, dilation, strict=True)):
        raise KernelValueError(f"a result of {list(sizes)} with output_padding {list(more)} is not possible")
    out = Spec(x.dtype, (x.shape[0], weight.shape[1] * groups, *sizes))
    geometry = Geometry(sizes, weight.shape[2:], stride, pads, dilation, groups)
    return out, geometry


def _transpose_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    out, _ = _transposed(specs[0], specs[1], attributes)
    _check(specs, attributes, out.shape[1])
    return (out,)


def _transpose_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    back = Spec(outputs[0].dtype, outputs[0].shape)
    return _gemm(back, specs[1], specs[0], attributes, moved(specs, outputs))


def _transpose(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, weight = _operands(inputs[:2], attributes)
    _, geometry = _transposed(Spec("f32", x.shape), Spec("f32", weight.shape), attributes)
    out = _finish(input_gradient(x, weight, geometry), inputs, attributes)
    if attributes["activation"] is not None:
        activate(attributes["activation"], out)
    return (narrow(out, outputs[0]),)


def _transpose_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return _gradient_specs(specs, attributes, _transpose_shape(specs[1:], attributes)[0])


def _transpose_backward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return _backward_cost((specs[1], specs[0], *specs[2:]), attributes, outputs)


def _transpose_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    x, weight = _operands(inputs[1:3], attributes)
    grad = widen(inputs[0]).astype(x.dtype, copy=False)
    _, geometry = _transposed(Spec("f32", x.shape), Spec("f32", weight.shape), attributes)
    if attributes["activation"] is not None:
        before = _finish(input_gradient(x, weight, geometry), inputs[1:], attributes)
        grad = grad * slope(attributes["activation"], before)
    (g,) = _operands((grad,), attributes)
    found = [convolve(g, weight, geometry), weight_gradient(x, g, geometry)]
    if len(inputs) > 3:
        found.append(_bias_gradient(grad))
    return tuple(narrow(part, spec) for part, spec in zip(found, outputs, strict=True))


_ATTRIBUTES: Final = {
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
    "precision": "f32",
    "activation": None,
}
_SIGNS: Final = "sums of terms of both signs; held over finite numbers of ordinary size"

KERNELS: Final = (
    Kernel(
        "convolution",
        ("x", "weight", "bias"),
        FLOATS,
        _shape,
        _cost,
        _run,
        "activation(sum over channels and kernel of x weight + bias); padding: one number, one per axis, or pairs",
        _ATTRIBUTES,
        optional=1,
        backward="convolution_backward",
        bound=Bound(64, MAGNITUDES, 2),
        examples=(
            example((2, 3, 8), (4, 3, 3), (4,), stride=2, padding=1),
            example((2, 4, 5, 6), (6, 2, 3, 2), (6,), padding=[[1, 0], [0, 2]], dilation=[1, 2], groups=2),
            example((1, 2, 4, 4, 3), (3, 2, 2, 3, 2), stride=[1, 2, 1], padding=1, activation="silu"),
        ),
    ),
    Kernel(
        "convolution_backward",
        ("grad", "x", "weight", "bias"),
        FLOATS,
        _backward_shape,
        _backward_cost,
        _backward,
        "gradients of x, weight and bias; dtype is that of the last two (default: their own)",
        {**_ATTRIBUTES, "dtype": None},
        optional=1,
        outputs=("grad_x", "grad_weight", "grad_bias"),
        bound=Bound(128, LARGEST, special=_SIGNS),
        examples=(example((2, 4, 3), (2, 3, 5), (4, 3, 3)),),
    ),
    Kernel(
        "convolution_transpose",
        ("x", "weight", "bias"),
        FLOATS,
        _transpose_shape,
        _transpose_cost,
        _transpose,
        "the map that the gradient of a convolution's input is, with weight [channels, outputs / groups, kernel ...]",
        {**_ATTRIBUTES, "output_padding": 0},
        optional=1,
        backward="convolution_transpose_backward",
        bound=Bound(64, MAGNITUDES, 2),
        examples=(
            example((2, 3, 5), (3, 4, 3), (4,), stride=2, padding=1, output_padding=1),
            example((1, 4, 3, 4), (4, 2, 3, 2), stride=[2, 1], dilation=[1, 2], groups=2),
        ),
    ),
    Kernel(
        "convolution_transpose_backward",
        ("grad", "x", "weight", "bias"),
        FLOATS,
        _transpose_backward_shape,
        _transpose_backward_cost,
        _transpose_backward,
        "gradients of x, weight and bias; dtype is that of the last two (default: their own)",
        {**_ATTRIBUTES, "output_padding": 0, "dtype": None},
        optional=1,
        outputs=("grad_x", "grad_weight", "grad_bias"),
        bound=Bound(128, LARGEST, special=_SIGNS),
        examples=(example((2, 4, 7), (2, 3, 5), (3, 4, 3)),),
    ),
)
