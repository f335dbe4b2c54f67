"""Elementwise kernels: arithmetic, comparison, logic, selection, conversion.

Flows in: arrays (or an array and a number). Flows out: arrays of the broadcast shape. 16-bit floats compute in f32 and
round once; integers wrap around; division by zero, NaN and infinity follow IEEE 754. Not here: activations with a
backward kernel (`activation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import ALL, DTYPES, FIELDS, FLOATS, INEXACT, INTEGERS, NARROW, NUMBERS, REAL_OF, STORED
from supernode.emulator.kernels.epilogue import sigmoid as sigmoid
from supernode.emulator.kernels.philox import random_bits
from supernode.emulator.kernels.rules import broadcast, choice, known_dtype, narrow, same_dtype, streaming, whole, widen
from supernode.emulator.kernels.table import (
    EXACT,
    MAGNITUDES,
    REQUIRED,
    ROUNDED,
    TERMS,
    AnyArray,
    Attributes,
    Bound,
    Draw,
    Kernel,
    Spec,
    example,
)
from supernode.emulator.rounding import convert, stochastic
from supernode.errors import KernelTypeError, KernelValueError

Function = Callable[..., Any]
#: Functions of the host's library are not rounded to nearest; a few units in the last place, in the arithmetic's type.
FUNCTION: Final = Bound(4)
_BACKWARD: Final = ("tanh", "relu")
#: As `out`: the result is real where the input is complex.
REAL: Final = "real"
# Operations of one value of a function; 1 for the rest.
_FUNCTION_FLOPS: Final = {"sqrt": 4, "rsqrt": 4, "exp": 8, "log": 8, "tanh": 10, "sigmoid": 10}


def _binary_specs(specs: Sequence[Spec], attributes: Attributes) -> Spec:
    value = attributes["value"]
    if len(specs) == 2:
        if value is not None:
            raise KernelTypeError("takes a second array or a value, not both")
        return Spec(same_dtype(specs), broadcast(specs[0].shape, specs[1].shape))
    if isinstance(value, bool) and specs[0].dtype == "bool":
        return specs[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise KernelTypeError(f"needs a second array or a number as value, not {value!r}")
    if specs[0].dtype not in INEXACT and not isinstance(value, int):
        raise KernelTypeError(f"value {value!r} does not fit {specs[0].dtype}; cast the array first")
    if specs[0].dtype in INTEGERS and not _fits(value, specs[0].dtype):
        raise KernelValueError(f"value {value} is out of range for {specs[0].dtype}")
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
    name: str,
    function: Function,
    dtypes: tuple[str, ...],
    summary: str,
    *,
    out: str = "",
    bound: Bound = ROUNDED,
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
        bound=EXACT if out == "bool" else bound,
        examples=(example((3, 5), (3, 5)), example((4, 1, 3), (5, 1)), example((3, 5), value=2)),
        elementwise=True,
        ufunc=function if isinstance(function, np.ufunc) else None,
    )


def unary(
    name: str,
    function: Function,
    dtypes: tuple[str, ...],
    summary: str,
    *,
    out: str = "",
    bound: Bound = FUNCTION,
    outputs: tuple[str, ...] = ("out",),
) -> Kernel:
    """An entry for a function of one array; `out` is the result's dtype, or `REAL`."""

    def shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
        dtype = REAL_OF[specs[0].dtype] if out == REAL else out or specs[0].dtype
        return (Spec(dtype, specs[0].shape),)

    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        return (narrow(function(widen(inputs[0])), outputs[0]),)

    cost = streaming(_FUNCTION_FLOPS.get(name, 1))
    ufunc = function if isinstance(function, np.ufunc) else None
    return Kernel(
        name,
        ("x",),
        dtypes,
        shape,
        cost,
        run,
        summary,
        backward=f"{name}_backward" if name in _BACKWARD else "",
        elementwise=True,
        ufunc=ufunc,
        outputs=outputs,
        bound=EXACT if out == "bool" else bound,
        examples=(example((3, 5)),),
    )


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
            raise KernelTypeError(f"stochastic rounding is from floats to narrower ones, not {specs[0].dtype} to {out}")
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
    binary("floor_divide", np.floor_divide, NUMBERS, "largest whole number <= a / b; whole a / 0 is 0", bound=Bound(2)),
    binary("remainder", np.remainder, NUMBERS, "a - b * floor(a / b); whole a % 0 is 0", bound=Bound(1, TERMS)),
    binary("power", _power, FIELDS, "a to the power of b", bound=Bound(8)),
    binary("maximum", np.maximum, NUMBERS, "the larger; NaN if either is", bound=EXACT),
    binary("minimum", np.minimum, NUMBERS, "the smaller; NaN if either is", bound=EXACT),
    binary("bitwise_and", np.bitwise_and, _WHOLE, "a & b", bound=EXACT),
    binary("bitwise_or", np.bitwise_or, _WHOLE, "a | b", bound=EXACT),
    binary("bitwise_xor", np.bitwise_xor, _WHOLE, "a ^ b", bound=EXACT),
    *(binary(name, function, dtypes, text, out="bool") for name, function, dtypes, text in _COMPARISONS),
    unary("negative", np.negative, FIELDS, "-x", bound=EXACT),
    unary("absolute", np.absolute, FIELDS, "|x|; real of complex numbers", out=REAL, bound=EXACT),
    unary("sign", np.sign, FIELDS, "-1, 0 or 1; NaN of NaN", bound=EXACT),
    unary("square", np.square, FIELDS, "x * x", bound=ROUNDED),
    unary("sqrt", np.sqrt, INEXACT, "square root; NaN below 0", bound=ROUNDED),
    unary("rsqrt", lambda x: 1 / np.sqrt(x), FLOATS, "1 / sqrt(x)", bound=Bound(2)),
    unary("reciprocal", np.reciprocal, INEXACT, "1 / x", bound=ROUNDED),
    unary("exp", np.exp, INEXACT, "e to the power of x"),
    unary("log", np.log, INEXACT, "natural logarithm; NaN below 0"),
    unary("tanh", _tanh, INEXACT, "hyperbolic tangent", outputs=("y",), bound=Bound(4)),
    unary("sigmoid", sigmoid, FLOATS, "1 / (1 + exp(-x))", bound=Bound(8)),
    unary("relu", lambda x: np.maximum(x, x.dtype.type(0)), NUMBERS, "max(x, 0)", bound=EXACT),
    unary("floor", np.floor, FLOATS, "largest whole number <= x", bound=EXACT),
    unary("ceil", np.ceil, FLOATS, "smallest whole number >= x", bound=EXACT),
    unary("round", np.rint, INEXACT, "nearest whole number, halves to even", bound=EXACT),
    unary("logical_not", np.logical_not, ALL, "x is zero", out="bool", bound=EXACT),
    unary("isnan", np.isnan, INEXACT, "x is NaN", out="bool", bound=EXACT),
    unary("isfinite", np.isfinite, INEXACT, "x is neither NaN nor infinite", out="bool", bound=EXACT),
    Kernel(
        "where",
        ("condition", "a", "b"),
        ("bool",),
        _where_shape,
        streaming(1),
        _where,
        "a where condition, else b",
        elementwise=True,
        bound=EXACT,
        examples=(example(Draw((3, 5), "truth", "bool"), Draw((3, 5), dtype="f32"), Draw((5,), dtype="f32")),),
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
        bound=Bound(1.5, MAGNITUDES),
        examples=(example((3, 5), factor=3.0, offset=1.0),),
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
        bound=EXACT,
        examples=(example((3, 5), low=-0.5, high=0.25),),
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
        bound=EXACT,
        examples=(
            example((3, 5), dtype="bf16"),
            example((3, 5), dtype="f8e4m3"),
            example((3, 5), dtype="i8"),
        ),
    ),
    Kernel(
        "copy",
        ("x",),
        STORED,
        _copy_shape,
        streaming(0),
        _copy,
        "x in memory of its own",
        elementwise=True,
        bound=EXACT,
        examples=(example((3, 5)),),
    ),
)
