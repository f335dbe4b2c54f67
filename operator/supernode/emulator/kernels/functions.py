"""More elementwise kernels: trigonometry, logarithms, shifts, parts of complex numbers, parts of floats.

Flows in: arrays (or an array and a number). Flows out: arrays of the broadcast shape. Rounding as in `elementwise`;
special values follow the Array API standard 2024.12. Not here: arithmetic and comparison (`elementwise`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import COMPLEX, FIELDS, FLOATS, INEXACT, INTEGERS, NUMBERS
from supernode.emulator.kernels.elementwise import FUNCTION, REAL, binary, unary
from supernode.emulator.kernels.table import EXACT, AnyArray, Attributes, Bound, not_compared


def _shift_left(a: AnyArray, b: Any) -> Any:
    # NumPy gives 0 for shifts by as many bits as there are, which C leaves open.
    return np.left_shift(a, b)


def _floor_quotient(a: AnyArray, b: Any) -> Any:
    """Largest whole number <= a / b, but a / b itself where a or b is infinite: infinity, or a zero with the sign."""
    out = np.floor_divide(a, b)
    if a.dtype.kind != "f":
        return out
    quotient = np.true_divide(a, b)
    return np.where((np.isinf(a) | np.isinf(b)) & ~np.isnan(quotient), quotient, out)


def _exponential_less_one(x: AnyArray) -> Any:
    out = np.expm1(x)
    if x.dtype.kind != "c":
        return out
    # Beyond the finite numbers exp has the special values that the standard asks for; NumPy's expm1 has not.
    beyond = np.asarray(np.exp(x))
    beyond.real -= 1
    # Of zeros of either sign it asks for a real part of +0.
    out = np.where(np.isfinite(x), out, beyond)
    np.copyto(out.real, 0.0, where=x == 0)
    return out


def _log1p(x: AnyArray) -> Any:
    out = np.log1p(x)
    if x.dtype.kind != "c":
        return out
    # NumPy's takes the logarithm of 1 + x, which has forgotten most of a small x; |1 + x|^2 - 1 has not.
    above = x.real * (2 + x.real)
    above = np.where(x.imag == 0, above, above + np.square(x.imag))  # (keeps the sign of a zero)
    near = np.empty_like(out)
    near.real, near.imag = np.log1p(above) / 2, np.arctan2(x.imag, 1 + x.real)
    return np.where(np.abs(x) < 0.5, near, out)


def _imaginary(x: AnyArray) -> Any:
    return np.imag(x).copy()


def _log_terms(inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]) -> Sequence[AnyArray]:
    """The larger of the two, and a logarithm up to log(2)."""
    return [1 + sum((np.abs(x) for x in inputs), np.asarray(abs(attributes["value"] or 0)))]


_FUNCTIONS: Final = (
    ("acos", np.arccos, "inverse cosine"),
    ("acosh", np.arccosh, "inverse hyperbolic cosine"),
    ("asin", np.arcsin, "inverse sine"),
    ("asinh", np.arcsinh, "inverse hyperbolic sine"),
    ("atan", np.arctan, "inverse tangent"),
    ("atanh", np.arctanh, "inverse hyperbolic tangent"),
    ("cos", np.cos, "cosine"),
    ("cosh", np.cosh, "hyperbolic cosine"),
    ("sin", np.sin, "sine"),
    ("sinh", np.sinh, "hyperbolic sine"),
    ("tan", np.tan, "tangent"),
    ("expm1", _exponential_less_one, "exp(x) - 1, exact near 0"),
    ("log1p", _log1p, "log(1 + x), exact near 0"),
    ("log2", np.log2, "logarithm to base 2"),
    ("log10", np.log10, "logarithm to base 10"),
)

KERNELS: Final = (
    *(unary(name, function, INEXACT, text) for name, function, text in _FUNCTIONS),
    unary("trunc", np.trunc, FLOATS, "nearest whole number towards 0", bound=EXACT),
    unary("signbit", np.signbit, FLOATS, "the sign bit is set", out="bool", bound=EXACT),
    unary("isinf", np.isinf, INEXACT, "x is infinite", out="bool", bound=EXACT),
    unary("conj", np.conjugate, FIELDS, "complex conjugate", bound=EXACT),
    unary("real", lambda x: np.real(x).copy(), FIELDS, "real part", out=REAL, bound=EXACT),
    unary("imag", _imaginary, COMPLEX, "imaginary part", out=REAL, bound=EXACT),
    unary("bitwise_invert", np.invert, ("bool", *INTEGERS), "every bit the other way round", bound=EXACT),
    binary("bitwise_left_shift", _shift_left, INTEGERS, "a * 2^b, wrapping around", bound=EXACT),
    binary("bitwise_right_shift", np.right_shift, INTEGERS, "floor(a / 2^b)", bound=EXACT),
    binary("atan2", np.arctan2, FLOATS, "angle of the point (b, a)", bound=FUNCTION),
    binary("hypot", np.hypot, FLOATS, "sqrt(a^2 + b^2), without overflow in between", bound=Bound(2)),
    binary("copysign", np.copysign, FLOATS, "|a| with the sign of b", bound=EXACT),
    binary(
        "nextafter",
        np.nextafter,
        ("f32", "f64"),
        "next number after a towards b",
        bound=not_compared("the next number is another one in each type"),
    ),
    binary(
        "logaddexp",
        np.logaddexp,
        FLOATS,
        "log(exp(a) + exp(b)), without overflow in between",
        bound=Bound(4, _log_terms),
    ),
    binary(
        "floor_quotient",
        _floor_quotient,
        NUMBERS,
        "floor_divide, but a / b where one of the two is infinite",
        bound=Bound(2),
    ),
)
