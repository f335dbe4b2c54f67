"""Activations as plain NumPy functions, and their slopes: what products and convolutions fuse, and kernels stand on.

Flows in: arrays of f32 or f64. Flows out: arrays, or the same array changed in place. Not here: kernels (`activation`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from supernode.emulator.kernels.error_function import normal_distribution

AnyArray = np.ndarray[Any, Any]

_C: Final = math.sqrt(2.0 / math.pi)
_CUBIC: Final = 0.044715
_DENSITY: Final = 1.0 / math.sqrt(2.0 * math.pi)
# Elements that are worked on at once: an array and its temporaries stay in a core's cache.
_BLOCK: Final = 1 << 15


def sigmoid(x: AnyArray) -> AnyArray:
    """1 / (1 + exp(-x)), without overflow on either side."""
    # exp(min(x, 0)) / (1 + exp(-|x|)): one more exponential costs far less than a choice between two quotients.
    kind = x.dtype.type
    below = np.asarray(np.abs(x))  # stays an array where it has no axes
    np.negative(below, out=below)
    np.exp(below, out=below)
    below += kind(1)
    out = np.asarray(np.minimum(x, kind(0)))
    np.exp(out, out=out)
    out /= below
    return out


def gelu_inner(x: AnyArray) -> tuple[AnyArray, AnyArray]:
    """tanh(c (x + 0.044715 x^3)) and x^2, in the type of x."""
    kind = x.dtype.type
    square = x * x
    inner = np.asarray(square * kind(_C * _CUBIC))  # stays an array where it has no axes
    inner += kind(_C)
    inner *= x
    np.tanh(inner, out=inner)
    return inner, square


def gelu_tanh(x: AnyArray) -> AnyArray:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    out, _ = gelu_inner(x)
    out += x.dtype.type(1)
    out *= x
    out *= x.dtype.type(0.5)
    # x^3 overflows far out on the left where the result is 0, and 0 * -inf is not.
    if not np.isfinite(x).all():
        out = np.where(x == -np.inf, x.dtype.type(0), out)
    return out


def gelu_tanh_slope(x: AnyArray) -> AnyArray:
    """Its slope."""
    kind = x.dtype.type
    # Beyond 30 the slope is 0 or 1 exactly; clipping keeps x^3 from overflowing to inf * 0.
    x = np.clip(x, kind(-30), kind(30))
    tanh, square = gelu_inner(x)
    # d/dx = (1 + t)/2 + x (1 - t^2)/2 * c (1 + 3 * 0.044715 x^2)
    out = square
    out *= kind(3 * _CUBIC * _C)
    out += kind(_C)
    out *= x
    out *= kind(1) - tanh * tanh
    out += tanh
    out += kind(1)
    out *= kind(0.5)
    return out


def gelu_exact(x: AnyArray) -> AnyArray:
    """x times the normal distribution at x: x/2 (1 + erf(x / sqrt(2)))."""
    out = normal_distribution(x)
    out *= _above_infinity(x)
    return out


def gelu_exact_slope(x: AnyArray) -> AnyArray:
    """Its slope."""
    kind = x.dtype.type
    near = np.clip(x, kind(-40), kind(40))
    density = np.exp(kind(-0.5) * near * near) * kind(_DENSITY)
    return np.asarray(normal_distribution(x) + near * density)


def _above_infinity(x: AnyArray) -> AnyArray:
    """x, or the lowest finite number instead of -infinity: 0 times that is 0."""
    return np.asarray(np.maximum(x, np.finfo(x.dtype).min))


def silu(x: AnyArray) -> AnyArray:
    """x sigmoid(x)."""
    out = sigmoid(x)
    out *= _above_infinity(x)
    return out


def silu_slope(x: AnyArray) -> AnyArray:
    """Its slope."""
    kind = x.dtype.type
    near = sigmoid(x)
    out = np.asarray(kind(1) - near)
    out *= np.clip(x, kind(-1000), kind(1000))
    out += kind(1)
    out *= near
    return out


def _relu(x: AnyArray) -> AnyArray:
    return np.asarray(np.maximum(x, x.dtype.type(0)))


def _relu_slope(x: AnyArray) -> AnyArray:
    return np.asarray((x > 0).astype(x.dtype))


def _sigmoid_slope(x: AnyArray) -> AnyArray:
    near = sigmoid(x)
    near *= 1 - near
    return near


class Activation(NamedTuple):
    """A function and its slope, both of the input."""

    function: Callable[[AnyArray], AnyArray]
    slope: Callable[[AnyArray], AnyArray]


ACTIVATIONS: Final[Mapping[str, Activation]] = MappingProxyType(
    {
        "relu": Activation(_relu, _relu_slope),
        "gelu": Activation(gelu_tanh, gelu_tanh_slope),
        "gelu_exact": Activation(gelu_exact, gelu_exact_slope),
        "silu": Activation(silu, silu_slope),
        "sigmoid": Activation(sigmoid, _sigmoid_slope),
        "tanh": Activation(lambda x: np.asarray(np.tanh(x)), lambda x: np.asarray(1 - np.square(np.tanh(x)))),
    }
)


def in_blocks(function: Callable[[AnyArray], AnyArray], x: AnyArray, out: AnyArray | None = None) -> AnyArray:
    """A function of one array, block by block, so that its temporaries stay in the cache; `out` may be x."""
    if x.size <= _BLOCK or not x.flags.c_contiguous:
        found = function(x)
        if out is None:
            return found
        np.copyto(out, found)
        return out
    made = np.empty(x.shape, x.dtype) if out is None else out
    flat, into = x.reshape(-1), made.reshape(-1)
    for start in range(0, x.size, _BLOCK):
        into[start : start + _BLOCK] = function(flat[start : start + _BLOCK])
    return made


def activate(name: str, x: AnyArray) -> None:
    """Apply an activation in place."""
    in_blocks(ACTIVATIONS[name].function, x, x)


def slope(name: str, x: AnyArray) -> AnyArray:
    """Slope of an activation at x."""
    return in_blocks(ACTIVATIONS[name].slope, x)
