"""The complementary error function and the normal distribution, with a small relative error on both sides.

Flows in: arrays of f32 or f64. Flows out: arrays of the same type. erfc(x) = exp(-x^2) g(x) / (1 + 2 x), where g lies
between 1 and 1.3 for x >= 0 and is a Chebyshev series in t = (k - x) / (k + x); its coefficients are computed here
once, from a continued fraction and the host's erfc. Not here: kernels.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final

import numpy as np

AnyArray = np.ndarray[Any, Any]

_K: Final = 3.75
_NODES: Final = 64
# Terms of the series that count in each type.
_TERMS: Final = {np.dtype(np.float32): 16, np.dtype(np.float64): 34}
#: From here on erfc is 0 in f64.
_END: Final = 30.0
_ROOT_HALF: Final = math.sqrt(0.5)


def _scaled(x: float) -> float:
    """exp(x^2) erfc(x) (1 + 2 x) for x >= 0, to the last few bits of f64."""
    if x < 2.0:
        return math.exp(x * x) * math.erfc(x) * (1.0 + 2.0 * x)
    # Continued fraction (Abramowitz and Stegun 7.1.14), from the inside out.
    out = 0.0
    for n in range(200, 0, -1):
        out = 0.5 * n / (x + out)
    return (1.0 + 2.0 * x) / (math.sqrt(math.pi) * (x + out))


@cache
def _coefficients() -> tuple[float, ...]:
    """Chebyshev coefficients of g as a function of t in [-1, 1]."""
    angles = [math.pi * (i + 0.5) / _NODES for i in range(_NODES)]
    values = [_scaled(_K * (1 - math.cos(a)) / (1 + math.cos(a))) for a in angles]
    return tuple(
        2.0 / _NODES * math.fsum(v * math.cos(j * a) for v, a in zip(values, angles, strict=True))
        for j in range(_NODES)
    )


def scaled_erfc(x: AnyArray) -> AnyArray:
    """exp(x^2) erfc(x) for finite x >= 0."""
    kind = x.dtype.type
    count = _TERMS.get(x.dtype, _NODES)
    terms = _coefficients()[:count]
    t = np.asarray((kind(_K) - x) / (kind(_K) + x))
    double = t + t
    last, one = np.zeros_like(t), np.zeros_like(t)
    for term in terms[:0:-1]:
        last, one = one, double * one - last + kind(term)
    return np.asarray((t * one - last + kind(0.5 * terms[0])) / (kind(1) + kind(2) * x))


def erfc(x: AnyArray) -> AnyArray:
    """1 - erf(x), with a small relative error also where it is nearly 0."""
    kind = x.dtype.type
    size = np.minimum(np.abs(x), kind(_END))
    # exp(-size^2), with the rounding error of the square taken out: the upper half of the bits squares exactly.
    high = size * kind(4097.0 if x.dtype == np.float32 else 134217729.0)
    high -= high - size
    out = np.exp(-high * high) * np.exp((high - size) * (size + high)) * scaled_erfc(size)
    # Below 0 it is 2 - erfc(-x).
    left = np.signbit(x)
    out = np.copysign(out, x)
    out += left * kind(2)
    return np.asarray(out)


def normal_distribution(x: AnyArray) -> AnyArray:
    """The share of a normal distribution below x: erfc(-x / sqrt(2)) / 2, in the type of x."""
    out = erfc(x * x.dtype.type(-_ROOT_HALF))
    out *= x.dtype.type(0.5)
    return out
