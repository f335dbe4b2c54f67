"""Elementwise kernels: arithmetic, comparison, logic, selection, conversion.

Flows in: arrays (or an array and a number). Flows out: arrays of the broadcast shape. 16-bit floats compute in f32 and
round once; integers wrap around; division by zero, NaN and infinity follow IEEE 754. Not here: activations with a
backward kernel (`activation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import (
    ALL,
    DTYPES,
    FIELDS,
    FLOATS,
    INEXACT,
    INTEGERS,
    NARROW,
    NUMBERS,
    REAL_OF,
    STORED,
)
from supernode.emulator.kernels.philox import random_bits
from supernode.emulator.kernels.rules import broadcast, choice, known_dtype, narrow, same_dtype, streaming, whole, widen
from supernode.emulator.kernels.table import REQUIRED, AnyArray, Attributes, Kernel, Spec
from supernode.emulator.rounding import convert, stochastic
from supernode.errors import KernelError

Function = Callable[..., Any]
#: As `out`: the result is real where the input is complex.
REAL: Final = "real"
# Operations of one value of a function; 1 for the rest.
_FUNCTION_FLOPS: Final = {"sqrt": 4, "rsqrt": 4, "exp": 8, "log": 8, "tanh": 10, "sigmoid": 10}


def _binary_specs(specs: Sequence[Spec], attributes: Attributes) -> Spec:
    value = attributes["value"]
    if len(specs) == 2:
        if value is not None:
            raise KernelError("takes a second array or a value, not both")
        return Spec(same_dtype(specs), broadcast(specs[0].shape, specs[1].shape))
    if isinstance(value, bool) and specs[0].dtype == "bool":
        return specs[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise KernelError(f"needs a second array or a number as value, not {value!r}")
    if specs[0].dtype not in INEXACT and not isinstance(value, int):
        raise KernelError(f"value {value!r} does not fit {specs[0].dtype}; cast the array first")
    if specs[0].dtype in INTEGERS and not _fits(value, specs[0].dtype):
        raise KernelError(f"value {value} is out of range for {specs[0].dtype}")
    return specs[0]


def _fits(value: float, dtype: str) -> bool:
    limits = np.iinfo(DTYPES[dtype])
    return bool(limits.min <= value <= limits.max)


def _operands(inputs: Sequence[AnyArray], attributes: Attributes) -> tuple[AnyArray, Any]:
    first = widen(inputs[0])
    if len(inputs) == 2:
        return first, (first if inputs[1] is inputs[0] else widen(inputs[1]))
    # A number takes the type the arithmetic runs in, so f32 arithmetic stays f32.
    return first, first.dtype.type(attributes["value"])


def binary(
    name: str, function: Function, dtypes: tuple[str, ...], summary: str, *, out: str = "", backward: str = ""
) -> Kernel:
    """An entry for a function of two arrays of one dtype, or of an array and a number; `out` is the result's dtype."""

    def shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
        spec = _binary_specs(specs, attributes)
        return (Spec(out or spec.dtype, spec.shape),)

    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        a, b = _operands(inputs, attributes)
        return (narrow(function(a, b), outputs[0]),)

    return Kernel(
        name,
        ("a", "b"),
        dtypes,
        shape,
        streaming(1),
        run,
        summary,
        {"value": None},
        optional=1,
        backward=backward,
        elementwise=True,
        ufunc=function if isinstance(function, np.ufunc) else None,
    )


def unary(
    name: str, function: Function, dtypes: tuple[str, ...], summary: str, *, out: str = "", backward: str = ""
) -> Kernel:
    """An entry for a function of one array; `out` is the result's dtype, or `REAL`."""

    def shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
        dtype = REAL_OF[specs[0].dtype] if out == REAL else out or specs[0].dtype
        return (Spec(dtype, specs[0].shape),)

    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        return (narrow(function(widen(inputs[0])), outputs[0]),)

    cost = streaming(_FUNCTION_FLOPS.get(name, 1))
    ufunc = function if isinstance(function, np.ufunc) else None
    return Kernel(name, ("x",), dtypes, shape, cost, run, summary, backward=backward, elementwise=True, ufunc=ufunc)


def _power(a: AnyArray, b: Any) -> Any:
    if a.dtype.kind == "i":
        # Negative whole exponents have no whole result; as on a device without traps, they give what truncation gives.
        whole = np.asarray(b)
        safe = np.power(a, np.maximum(whole, 0).astype(a.dtype))
        inverse = np.where(a == 1, 1, np.where(a == -1, np.where(whole % 2 == 0, 1, -1), 0))
        return np.where(whole < 0, inverse, safe)
    return np.power(a, b)


def _tanh(x: AnyArray) -> Any:
    out = np.tanh(x)
    if x.dtype.kind != "c":
        return out
    # At infinity C leaves the sign of the imaginary zero to sin(2 y); the Array API standard takes that of y.
    ends = np.empty_like(out)
    ends.real, ends.imag = np.copysign(1, x.real), np.copysign(0, x.imag)
    return np.where(np.isinf(x.real) & np.isfinite(x.imag), ends, out)


def sigmoid(x: AnyArray) -> AnyArray:
    """1 / (1 + exp(-x)), without overflow on either side."""
    small = np.exp(-np.abs(x))
    out: AnyArray = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return out


def _where_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (Spec(same_dtype(specs[1:]), broadcast(*(spec.shape for spec in specs))),)


def _where(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(np.where(inputs[0], inputs[1], inputs[2]), outputs[0]),)


def _scale_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    float(attributes["factor"]), float(attributes["offset"])
    return (specs[0],)


def _scale(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    out = x * x.dtype.type(attributes["factor"])
    if attributes["offset"]:
        out += x.dtype.type(attributes["offset"])
    return (narrow(out, outputs[0]),)


def _clip_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    for side in ("low", "high"):
        if attributes[side] is not None:
            _binary_specs(specs, {"value": attributes[side]})
    return (specs[0],)


def _clip(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    out = widen(inputs[0])
    for side, function in (("low", np.maximum), ("high", np.minimum)):
        if attributes[side] is not None:
            out = function(out, out.dtype.type(attributes[side]))
    return (narrow(out if out is not inputs[0] else out.copy(), outputs[0]),)


def _cast_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    out = known_dtype(attributes["dtype"])
    if choice(attributes, "rounding", "nearest", "stochastic") == "stochastic":
        if specs[0].dtype not in ("f32", "f64", *NARROW) or out not in ("f32", *NARROW):
            raise KernelError(f"stochastic rounding is from floats to narrower floats, not {specs[0].dtype} to {out}")
        whole(attributes, "seed", 0, (1 << 64) - 1)
        whole(attributes, "offset")
    return (Spec(out, specs[0].shape),)


def _cast(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, dtype = inputs[0], DTYPES[outputs[0].dtype]
    if attributes["rounding"] == "stochastic":
        bits = random_bits(x.size, seed=attributes["seed"], offset=attributes["offset"])
        return (stochastic(widen(x), dtype, bits),)
    out = convert(x, dtype, saturate=bool(attributes["saturate"]))
    return (out if out is not x else x.copy(),)


def _copy(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (inputs[0].copy(),)


def _copy_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (specs[0],)


_COMPARISONS: Final = (
    ("equal", np.equal, ALL, "a == b"),
    ("not_equal", np.not_equal, ALL, "a != b"),
    ("less", np.less, NUMBERS, "a < b"),
    ("less_equal", np.less_equal, NUMBERS, "a <= b"),
    ("greater", np.greater, NUMBERS, "a > b"),
    ("greater_equal", np.greater_equal, NUMBERS, "a >= b"),
    ("logical_and", np.logical_and, ALL, "both are not zero"),
    ("logical_or", np.logical_or, ALL, "one of the two is not zero"),
    ("logical_xor", np.logical_xor, ALL, "just one of the two is not zero"),
)
_WHOLE: Final = ("bool", *INTEGERS)

KERNELS: Final = (
    binary("add", np.add, FIELDS, "a + b"),
    binary("subtract", np.subtract, FIELDS, "a - b"),
    binary("multiply", np.multiply, FIELDS, "a * b"),
    binary("divide", np.divide, INEXACT, "a / b"),
    binary("floor_divide", np.floor_divide, NUMBERS, "largest whole number <= a / b; whole a / 0 is 0"),
    binary("remainder", np.remainder, NUMBERS, "a - b * floor(a / b); whole a % 0 is 0"),
    binary("power", _power, FIELDS, "a to the power of b"),
    binary("maximum", np.maximum, NUMBERS, "the larger; NaN if either is"),
    binary("minimum", np.minimum, NUMBERS, "the smaller; NaN if either is"),
    binary("bitwise_and", np.bitwise_and, _WHOLE, "a & b"),
    binary("bitwise_or", np.bitwise_or, _WHOLE, "a | b"),
    binary("bitwise_xor", np.bitwise_xor, _WHOLE, "a ^ b"),
    *(binary(name, function, dtypes, text, out="bool") for name, function, dtypes, text in _COMPARISONS),
    unary("negative", np.negative, FIELDS, "-x"),
    unary("absolute", np.absolute, FIELDS, "|x|; real of complex numbers", out=REAL),
    unary("sign", np.sign, FIELDS, "-1, 0 or 1; NaN of NaN"),
    unary("square", np.square, FIELDS, "x * x"),
    unary("sqrt", np.sqrt, INEXACT, "square root; NaN below 0"),
    unary("rsqrt", lambda x: 1 / np.sqrt(x), FLOATS, "1 / sqrt(x)"),
    unary("reciprocal", np.reciprocal, INEXACT, "1 / x"),
    unary("exp", np.exp, INEXACT, "e to the power of x"),
    unary("log", np.log, INEXACT, "natural logarithm; NaN below 0"),
    unary("tanh", _tanh, INEXACT, "hyperbolic tangent", backward="tanh_backward"),
    unary("sigmoid", sigmoid, FLOATS, "1 / (1 + exp(-x))"),
    unary("relu", lambda x: np.maximum(x, x.dtype.type(0)), NUMBERS, "max(x, 0)", backward="relu_backward"),
    unary("floor", np.floor, FLOATS, "largest whole number <= x"),
    unary("ceil", np.ceil, FLOATS, "smallest whole number >= x"),
    unary("round", np.rint, INEXACT, "nearest whole number, halves to even"),
    unary("logical_not", np.logical_not, ALL, "x is zero", out="bool"),
    unary("isnan", np.isnan, INEXACT, "x is NaN", out="bool"),
    unary("isfinite", np.isfinite, INEXACT, "x is neither NaN nor infinite", out="bool"),
    Kernel(
        "where",
        ("condition", "a", "b"),
        ("bool",),
        _where_shape,
        streaming(1),
        _where,
        "a where condition, else b",
        elementwise=True,
    ),
    Kernel(
        "scale",
        ("x",),
        FLOATS,
        _scale_shape,
        streaming(2),
        _scale,
        "x * factor + offset",
        {"factor": 1.0, "offset": 0.0},
        elementwise=True,
    ),
    Kernel(
        "clip",
        ("x",),
        NUMBERS,
        _clip_shape,
        streaming(2),
        _clip,
        "min(max(x, low), high)",
        {"low": None, "high": None},
        elementwise=True,
    ),
    Kernel(
        "cast",
        ("x",),
        STORED,
        _cast_shape,
        streaming(1),
        _cast,
        "x in another dtype, rounded once, to nearest even or at random (Philox numbers of seed from offset on); float "
        "to integer truncates and saturates, NaN gives 0; 8-bit floats saturate unless told not to",
        {"dtype": REQUIRED, "saturate": True, "rounding": "nearest", "seed": 0, "offset": 0},
        elementwise=True,
    ),
    Kernel("copy", ("x",), STORED, _copy_shape, streaming(0), _copy, "x in memory of its own", elementwise=True),
)
