"""Elementwise functions: a table of name, kernel and the kinds of dtypes that the standard names for it.

Flows in: arrays, or an array and a Python number. Flows out: arrays. Not here: the arithmetic (the kernels).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from supernode.emulator.array_api.array import Array, convert, launch, make, need_array, scalar, together
from supernode.emulator.array_api.types import BOOL, COMPLEX, REAL, SIGNED, UNSIGNED, Scalar, need_kind, promote_scalar

_WHOLE: Final = (SIGNED, UNSIGNED)
_REALS: Final = (*_WHOLE, REAL)
_NUMBERS: Final = (*_REALS, COMPLEX)
_INEXACT: Final = (REAL, COMPLEX)
_ANY: Final = (BOOL, *_NUMBERS)
_BITS: Final = (BOOL, *_WHOLE)

#: name -> (kernel, kinds) of functions of two arrays.
BINARY: Final = {
    "add": ("add", _NUMBERS),
    "subtract": ("subtract", _NUMBERS),
    "multiply": ("multiply", _NUMBERS),
    "divide": ("divide", _INEXACT),
    "floor_divide": ("floor_quotient", _REALS),
    "remainder": ("remainder", _REALS),
    "pow": ("power", _NUMBERS),
    "maximum": ("maximum", _REALS),
    "minimum": ("minimum", _REALS),
    "atan2": ("atan2", (REAL,)),
    "hypot": ("hypot", (REAL,)),
    "copysign": ("copysign", (REAL,)),
    "nextafter": ("nextafter", (REAL,)),
    "logaddexp": ("logaddexp", (REAL,)),
    "bitwise_and": ("bitwise_and", _BITS),
    "bitwise_or": ("bitwise_or", _BITS),
    "bitwise_xor": ("bitwise_xor", _BITS),
    "bitwise_left_shift": ("bitwise_left_shift", _WHOLE),
    "bitwise_right_shift": ("bitwise_right_shift", _WHOLE),
    "logical_and": ("logical_and", (BOOL,)),
    "logical_or": ("logical_or", (BOOL,)),
    "logical_xor": ("logical_xor", (BOOL,)),
    "equal": ("equal", _ANY),
    "not_equal": ("not_equal", _ANY),
    "less": ("less", _REALS),
    "less_equal": ("less_equal", _REALS),
    "greater": ("greater", _REALS),
    "greater_equal": ("greater_equal", _REALS),
}

#: name -> (kernel, kinds, kinds whose values it leaves as they are) of functions of one array.
UNARY: Final = {
    "abs": ("absolute", _NUMBERS, ()),
    "negative": ("negative", _NUMBERS, ()),
    "positive": ("copy", _NUMBERS, ()),
    "sign": ("sign", _NUMBERS, ()),
    "square": ("square", _NUMBERS, ()),
    "sqrt": ("sqrt", _INEXACT, ()),
    "reciprocal": ("reciprocal", _INEXACT, ()),
    "exp": ("exp", _INEXACT, ()),
    "expm1": ("expm1", _INEXACT, ()),
    "log": ("log", _INEXACT, ()),
    "log1p": ("log1p", _INEXACT, ()),
    "log2": ("log2", _INEXACT, ()),
    "log10": ("log10", _INEXACT, ()),
    "sin": ("sin", _INEXACT, ()),
    "cos": ("cos", _INEXACT, ()),
    "tan": ("tan", _INEXACT, ()),
    "asin": ("asin", _INEXACT, ()),
    "acos": ("acos", _INEXACT, ()),
    "atan": ("atan", _INEXACT, ()),
    "sinh": ("sinh", _INEXACT, ()),
    "cosh": ("cosh", _INEXACT, ()),
    "tanh": ("tanh", _INEXACT, ()),
    "asinh": ("asinh", _INEXACT, ()),
    "acosh": ("acosh", _INEXACT, ()),
    "atanh": ("atanh", _INEXACT, ()),
    "floor": ("floor", _REALS, _WHOLE),
    "ceil": ("ceil", _REALS, _WHOLE),
    "trunc": ("trunc", _REALS, _WHOLE),
    "round": ("round", _NUMBERS, _WHOLE),
    "conj": ("conj", _NUMBERS, _REALS),
    "real": ("real", _NUMBERS, _REALS),
    "imag": ("imag", (COMPLEX,), ()),
    "signbit": ("signbit", (REAL,), ()),
    "logical_not": ("logical_not", (BOOL,), ()),
    "bitwise_invert": ("bitwise_invert", _BITS, ()),
}
#: name -> answer for integers, which have no such values.
_CLASSES: Final = {"isnan": False, "isinf": False, "isfinite": True}


def _binary(name: str, kernel: str, kinds: tuple[str, ...]) -> Callable[..., Array]:
    def function(x1: Array | Scalar, x2: Array | Scalar, /) -> Array:
        a, b = together(x1, x2)
        need_kind(name, a.dtype, *kinds)
        return launch(kernel, a, b)

    return _named(function, name)


def _unary(name: str, kernel: str, kinds: tuple[str, ...], same: tuple[str, ...]) -> Callable[..., Array]:
    def function(x: Array, /) -> Array:
        kind = need_array(x, name).dtype.kind
        need_kind(name, x.dtype, *kinds)
        return launch("copy" if kind in same else kernel, x)

    return _named(function, name)


def _class(name: str, whole: bool) -> Callable[..., Array]:
    def function(x: Array, /) -> Array:
        need_kind(name, need_array(x, name).dtype, *_NUMBERS)
        if x.dtype.kind in _WHOLE:
            return make("full", x.device, shape=list(x.shape), value=whole, dtype="bool")
        return launch(name, x)

    return _named(function, name)


def _named(function: Any, name: str) -> Callable[..., Array]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`{name}` of the Array API standard, elementwise."
    named: Callable[..., Array] = function
    return named


def clip(x: Array, /, min: Array | Scalar | None = None, max: Array | Scalar | None = None) -> Array:
    """Elements below `min` become it, those above `max` become that; NaN stays. The dtype stays that of `x`."""
    need_kind("clip", need_array(x, "clip").dtype, *_REALS)
    out = launch("copy", x)
    for bound, kernel in ((min, "maximum"), (max, "minimum")):
        if bound is None:
            continue
        if isinstance(bound, Array):
            need_kind("clip", bound.dtype, *_REALS)
            side = convert(bound, x.dtype)
        else:
            side = scalar(bound, promote_scalar(x.dtype, bound), x.device)
        out = launch(kernel, out, side)
    return out


#: Every function of this module by name.
FUNCTIONS: Final[dict[str, Callable[..., Array]]] = {
    **{name: _binary(name, *entry) for name, entry in BINARY.items()},
    **{name: _unary(name, *entry) for name, entry in UNARY.items()},
    **{name: _class(name, whole) for name, whole in _CLASSES.items()},
    "clip": clip,
}
