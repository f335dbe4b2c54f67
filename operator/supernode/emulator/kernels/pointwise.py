"""Activations of inference models, erf, and whole division as C has it: element by element.

Flows in: arrays of one dtype. Flows out: arrays of the broadcast shape. 16-bit floats compute in f32 and round once.
The error function is W. J. Cody's rational approximation (Mathematics of Computation 23, 1969). Not here: activations
with a backward kernel (`activation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS, INTEGERS, NUMBERS
from supernode.emulator.kernels.elementwise import binary, unary
from supernode.emulator.kernels.rules import broadcast, narrow, normal_axes, normal_axis, same_dtype, streaming, widen
from supernode.emulator.kernels.table import (
    EXACT,
    MAGNITUDES,
    ROUNDED,
    AnyArray,
    Attributes,
    Bound,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelValueError

# Highest power first; below `_INNER` erf is x P(x^2) / Q(x^2), above it 1 - exp(-x^2) P(x) / Q(x).
_INNER: Final = 0.46875
_INNER_P: Final = (
    1.85777706184603153e-1,
    3.16112374387056560e0,
    1.13864154151050156e2,
    3.77485237685302021e2,
    3.20937758913846947e3,
)
_INNER_Q: Final = (
    1.0,
    2.36012909523441209e1,
    2.44024637934444173e2,
    1.28261652607737228e3,
    2.84423683343917062e3,
)
_OUTER_P: Final = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594e0,
    6.61191906371416295e1,
    2.98635138197400131e2,
    8.81952221241769090e2,
    1.71204761263407058e3,
    2.05107837782607147e3,
    1.23033935479799725e3,
)
_OUTER_Q: Final = (
    1.0,
    1.57449261107098347e1,
    1.17693950891312499e2,
    5.37181101862009858e2,
    1.62138957456669019e3,
    3.29079923573345963e3,
    4.36261909014324716e3,
    3.43936767414372164e3,
    1.23033935480374942e3,
)
#: From here on erf is 1 in f64.
_END: Final = 6.0
_BLOCK: Final = 1 << 14


def _polynomial(coefficients: Sequence[float], x: AnyArray) -> AnyArray:
    kind = x.dtype.type
    out = np.full_like(x, kind(coefficients[0]))
    for coefficient in coefficients[1:]:
        out *= x
        out += kind(coefficient)
    return out


def _erf_block(x: AnyArray) -> AnyArray:
    size = np.minimum(np.abs(x), x.dtype.type(_END))
    square = size * size
    tail = np.exp(-square)
    tail *= _polynomial(_OUTER_P, size)
    tail /= _polynomial(_OUTER_Q, size)
    out: AnyArray = np.copysign(1 - tail, x)
    near = size <= _INNER
    if near.any():
        small, square = x[near], square[near]
        out[near] = small * _polynomial(_INNER_P, square) / _polynomial(_INNER_Q, square)
    return out


def erf(x: AnyArray) -> AnyArray:
    """The error function in the type of x (f32 or f64), in blocks that stay in the cache."""
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty_like(flat)
    for start in range(0, flat.size, _BLOCK):
        out[start : start + _BLOCK] = _erf_block(flat[start : start + _BLOCK])
    return out.reshape(x.shape)


def softplus(x: AnyArray) -> AnyArray:
    """log(1 + exp(x)), without overflow."""
    out: AnyArray = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return out


def _mish(x: AnyArray) -> Any:
    return np.where(np.isneginf(x), x.dtype.type(0), x * np.tanh(softplus(x)))


def _sigmoid_of(x: AnyArray) -> AnyArray:
    small = np.exp(-np.abs(x))
    out: AnyArray = np.where(x >= 0, x.dtype.type(1), small) / (1 + small)
    return out


def _swish(x: AnyArray, alpha: float) -> Any:
    out = x * _sigmoid_of(x * x.dtype.type(alpha))
    return np.where(np.isneginf(x) & (alpha > 0), x.dtype.type(0), out)


def _hard_swish(x: AnyArray) -> Any:
    return x * np.clip(x * x.dtype.type(1 / 6) + x.dtype.type(0.5), 0, 1)


def _divide_whole(a: AnyArray, b: Any) -> Any:
    """Towards zero; whole a / 0 is 0."""
    quotient = np.floor_divide(a, b)
    if a.dtype.kind == "u":
        return quotient
    inexact = (quotient * b != a) & ((a < 0) != (np.asarray(b) < 0)) & (np.asarray(b) != 0)
    return quotient + inexact.astype(a.dtype)


def with_numbers(
    name: str, function: Callable[..., Any], summary: str, flops: float, bound: Bound, **attributes: float | bool
) -> Kernel:
    """An entry for a function of one array of floats and numbers, which are given as keywords."""

    def shape(specs: Sequence[Spec], given: Attributes) -> tuple[Spec, ...]:
        for value in given.values():
            float(value)
        return (specs[0],)

    def run(inputs: Sequence[AnyArray], given: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        x = widen(inputs[0])
        return (narrow(function(x, **{key: x.dtype.type(value) for key, value in given.items()}), outputs[0]),)

    cost = streaming(flops)
    return Kernel(
        name,
        ("x",),
        FLOATS,
        shape,
        cost,
        run,
        summary,
        attributes,
        elementwise=True,
        bound=bound,
        examples=(example((3, 5)),),
    )


def _isinf_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (Spec("bool", specs[0].shape),)


def _isinf(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    found = np.zeros(x.shape, np.bool_)
    if attributes["positive"]:
        found |= x == np.inf
    if attributes["negative"]:
        found |= x == -np.inf
    return (found,)


def _prelu_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shape = broadcast(specs[0].shape, specs[1].shape)
    if shape != specs[0].shape:
        raise KernelValueError(f"slope {specs[1]} does not broadcast to {specs[0]}")
    return (Spec(same_dtype(specs), shape),)


def _prelu(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, slope = (widen(array) for array in inputs)
    return (narrow(np.where(x < 0, x * slope, x), outputs[0]),)


def _axis_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    normal_axis(attributes["axis"], len(specs[0].shape))
    return (specs[0],)


def _log_softmax(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, axis = widen(inputs[0]), attributes["axis"]
    if not x.size:
        return (narrow(x.copy(), outputs[0]),)
    out = x - x.max(axis=axis, keepdims=True)
    out -= np.log(np.exp(out).sum(axis=axis, keepdims=True))
    return (narrow(out, outputs[0]),)


def _hardmax(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, axis = widen(inputs[0]), attributes["axis"]
    out = np.zeros_like(x)
    if x.size:
        np.put_along_axis(out, np.expand_dims(x.argmax(axis=axis), axis), 1, axis)
    return (narrow(out, outputs[0]),)


def _log_sum_exp_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shape, axes = specs[0].shape, normal_axes(attributes["axis"], len(specs[0].shape))
    keep = attributes["keepdims"]
    out = tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)
    return (Spec(specs[0].dtype, out),)


def _log_sum_exp(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    axes = normal_axes(attributes["axis"], x.ndim)
    top = x.max(axis=axes, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, x.dtype.type(0))
    total = np.exp(x - top).sum(axis=axes, keepdims=True)
    return (narrow(np.log(total) + top, outputs[0]),)


def _log_sizes(inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]) -> Sequence[AnyArray]:
    """The largest element, and the logarithm beside it."""
    return [np.abs(np.nan_to_num(inputs[0])).max(initial=0.0) + np.abs(np.nan_to_num(results[0])) + 1]


_AXIS: Final = {"axis": -1}

KERNELS: Final = (
    unary("erf", erf, FLOATS, "error function", bound=Bound(6)),
    unary("softplus", softplus, FLOATS, "log(1 + exp(x)), without overflow", bound=Bound(4)),
    unary("softsign", lambda x: x / (1 + np.abs(x)), FLOATS, "x / (1 + |x|)", bound=Bound(2)),
    unary("mish", _mish, FLOATS, "x tanh(softplus(x))", bound=Bound(16)),
    unary("hard_swish", _hard_swish, FLOATS, "x clip(x/6 + 1/2, 0, 1)", bound=Bound(4, MAGNITUDES)),
    binary("divide_whole", _divide_whole, INTEGERS, "a / b without the fraction (towards 0); a / 0 is 0", bound=EXACT),
    binary("fmod", np.fmod, NUMBERS, "a - b * trunc(a / b): the sign of a; whole a % 0 is 0", bound=ROUNDED),
    Kernel(
        "isinf_of",
        ("x",),
        FLOATS,
        _isinf_shape,
        streaming(1),
        _isinf,
        "x is infinite, with a sign that counts",
        {"positive": True, "negative": True},
        elementwise=True,
        bound=EXACT,
        examples=(example((3, 5)),),
    ),
    with_numbers(
        "leaky_relu", lambda x, slope: np.where(x < 0, x * slope, x), "x, times slope below 0", 2, Bound(2), slope=0.01
    ),
    with_numbers(
        "elu",
        lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
        "x, below 0 alpha (exp(x) - 1)",
        9,
        Bound(4),
        alpha=1.0,
    ),
    with_numbers(
        "selu",
        lambda x, alpha, gamma: gamma * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
        "gamma elu(x)",
        10,
        Bound(8),
        alpha=1.67326319217681884765625,
        gamma=1.05070102214813232421875,
    ),
    with_numbers(
        "celu",
        lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0) / alpha), x),
        "x, below 0 alpha (exp(x / alpha) - 1)",
        10,
        Bound(8),
        alpha=1.0,
    ),
    with_numbers(
        "hard_sigmoid",
        lambda x, alpha, beta: np.clip(x * alpha + beta, 0, 1),
        "clip(alpha x + beta, 0, 1)",
        3,
        Bound(4, MAGNITUDES),
        alpha=0.2,
        beta=0.5,
    ),
    with_numbers("swish", _swish, "x sigmoid(alpha x)", 12, Bound(16), alpha=1.0),
    with_numbers(
        "thresholded_relu",
        lambda x, alpha: np.where(x > alpha, x, x.dtype.type(0)),
        "x above alpha, else 0",
        1,
        EXACT,
        alpha=1.0,
    ),
    with_numbers(
        "shrink",
        lambda x, bias, lambd: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, x.dtype.type(0))),
        "x moved towards 0 by bias, 0 between -lambd and lambd",
        3,
        ROUNDED,
        bias=0.0,
        lambd=0.5,
    ),
    Kernel(
        "prelu",
        ("x", "slope"),
        FLOATS,
        _prelu_shape,
        streaming(2),
        _prelu,
        "x, times slope below 0",
        bound=Bound(2, degree=2),
        examples=(example((2, 3, 4), (3, 1)),),
    ),
    Kernel(
        "log_softmax",
        ("x",),
        FLOATS,
        _axis_shape,
        streaming(12),
        _log_softmax,
        "logarithm of softmax, along axis",
        _AXIS,
        bound=Bound(16, _log_sizes),
        examples=(example((5, 7)), example((3, 4, 5), axis=1)),
    ),
    Kernel(
        "hardmax",
        ("x",),
        FLOATS,
        _axis_shape,
        streaming(2),
        _hardmax,
        "1 at the (first) largest element along axis, else 0",
        _AXIS,
        bound=EXACT,
        examples=(example((5, 7)),),
    ),
    Kernel(
        "log_sum_exp",
        ("x",),
        FLOATS,
        _log_sum_exp_shape,
        streaming(10),
        _log_sum_exp,
        "log(sum(exp(x))) along axis, without overflow",
        {"axis": None, "keepdims": False},
        bound=Bound(16, _log_sizes),
        examples=(example((5, 7), axis=[1], keepdims=True),),
    ),
)
