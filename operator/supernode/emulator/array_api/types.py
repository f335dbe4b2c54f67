"""Data types of the namespace, and how they are promoted.

Flows in: dtypes, arrays, Python numbers. Flows out: dtypes. Promotion is the standard's table: integers of different
signs, integers and floats, and bool and numbers do not mix by themselves. Beside the standard's types there are the
device's 16-bit floats, float16 and bfloat16, and its 8-bit ones, which are promoted to nothing. Not here: rounding (the
kernels').
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import ml_dtypes
import numpy as np

from supernode.emulator.dtypes import DTYPES, REAL_OF

if TYPE_CHECKING:
    from supernode.emulator.array_api.array import Array


class DType:
    """An element type.

    Attributes:
        name: in the standard, such as `float32`.
        short: on the device, such as `f32`.
        kind: bool, signed integer, unsigned integer, real floating or complex floating.
        bits: of one element.
    """

    __slots__ = ("bits", "kind", "name", "short")

    def __init__(self, name: str, short: str, kind: str) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.bits = DTYPES[short].itemsize * 8

    @property
    def numpy(self) -> np.dtype[Any]:
        """The same type on the host."""
        return DTYPES[self.short]

    def __repr__(self) -> str:
        return f"supernode.emulator.array_api.{self.name}"


BOOL, SIGNED, UNSIGNED = "bool", "signed integer", "unsigned integer"
REAL, COMPLEX = "real floating", "complex floating"
#: Not of the standard, and of none of its kinds: what can be stored and converted, but not computed with.
EIGHT = "8-bit floating"
bool_ = DType("bool", "bool", BOOL)
int8, int16, int32, int64 = (DType(f"int{n}", f"i{n}", SIGNED) for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (DType(f"uint{n}", f"u{n}", UNSIGNED) for n in (8, 16, 32, 64))
float16, bfloat16 = DType("float16", "f16", REAL), DType("bfloat16", "bf16", REAL)
float8_e4m3fn, float8_e5m2 = DType("float8_e4m3fn", "f8e4m3", EIGHT), DType("float8_e5m2", "f8e5m2", EIGHT)
float32, float64 = DType("float32", "f32", REAL), DType("float64", "f64", REAL)
complex64, complex128 = DType("complex64", "c64", COMPLEX), DType("complex128", "c128", COMPLEX)

#: The standard's types, in its order.
STANDARD: Final = (
    *(bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64),
    *(float32, float64, complex64, complex128),
)
EVERY: Final = (*STANDARD, float16, bfloat16, float8_e4m3fn, float8_e5m2)
OF_SHORT: Final = {dtype.short: dtype for dtype in EVERY}
KINDS: Final = {
    "bool": (BOOL,),
    "signed integer": (SIGNED,),
    "unsigned integer": (UNSIGNED,),
    "integral": (SIGNED, UNSIGNED),
    "real floating": (REAL,),
    "complex floating": (COMPLEX,),
    "numeric": (SIGNED, UNSIGNED, REAL, COMPLEX),
}
#: float64 keeps what Python's numbers are.
DEFAULT_REAL, DEFAULT_COMPLEX, DEFAULT_INTEGER = float64, complex128, int64

#: Kinds of dtypes that functions take, by the words of their errors.
Scalar = bool | int | float | complex


class finfo_object(NamedTuple):  # noqa: N801 - the standard's name
    """Limits of a floating-point type."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


class iinfo_object(NamedTuple):  # noqa: N801 - the standard's name
    """Limits of an integer type."""

    bits: int
    max: int
    min: int
    dtype: DType


def dtype_of(value: DType | Array) -> DType:
    """The dtype of an array, or the dtype itself.

    Raises:
        TypeError: neither.
    """
    found = value if isinstance(value, DType) else getattr(value, "dtype", None)
    if not isinstance(found, DType):
        raise TypeError(f"expected a dtype or an array of {DType.__module__}, not {type(value).__name__}")
    return found


def chosen(dtype: DType | None, default: DType) -> DType:
    """The dtype that a caller asks for, or the default.

    Raises:
        TypeError: something else, such as a name or a type of another library.
    """
    if dtype is None:
        return default
    if not isinstance(dtype, DType):
        raise TypeError(f"dtype must be one of supernode.emulator.array_api, such as float32, not {dtype!r}")
    return dtype


def promote(one: DType, two: DType) -> DType:
    """The dtype that holds the values of two others, as the standard's table has it.

    Raises:
        TypeError: the table has no such pair.
    """
    if one is two:
        return one
    floating = (REAL, COMPLEX)
    if one.kind in floating and two.kind in floating:
        bits = max(OF_SHORT[REAL_OF[dtype.short]].bits for dtype in (one, two))
        if COMPLEX in (one.kind, two.kind):
            return complex128 if bits > 32 else complex64
        if one.bits == two.bits:  # float16 and bfloat16 hold different values
            return float32
        return one if one.bits > two.bits else two
    if one.kind == two.kind != EIGHT:
        return one if one.bits > two.bits else two
    if {one.kind, two.kind} == {SIGNED, UNSIGNED}:
        signed, unsigned = (one, two) if one.kind == SIGNED else (two, one)
        if unsigned.bits < 64:
            bits = max(signed.bits, 2 * unsigned.bits)
            return OF_SHORT[f"i{bits}"]
    raise TypeError(f"{one.name} and {two.name} are not promoted to a common dtype; convert one with astype")


def promote_scalar(dtype: DType, value: Scalar) -> DType:
    """The dtype that an operation of an array and a Python number computes in.

    Raises:
        TypeError: the number's kind does not go with the array's.
    """
    kind = dtype.kind
    if isinstance(value, bool):
        allowed = kind == BOOL
    elif isinstance(value, int):
        allowed = kind not in (BOOL, EIGHT)
    elif isinstance(value, float):
        allowed = kind in (REAL, COMPLEX)
    else:
        allowed = kind in (REAL, COMPLEX)
        if kind == REAL:
            return complex128 if dtype is float64 else complex64
    if not allowed:
        raise TypeError(f"a Python {type(value).__name__} does not go with an array of {dtype.name}")
    return dtype


def result_type(*arrays_and_dtypes: Array | DType | Scalar) -> DType:
    """The dtype that an operation of these gives.

    Raises:
        TypeError: they have no common dtype.
    """
    scalars = [item for item in arrays_and_dtypes if isinstance(item, bool | int | float | complex)]
    dtypes = [dtype_of(item) for item in arrays_and_dtypes if not isinstance(item, bool | int | float | complex)]
    if not dtypes:
        raise TypeError("result_type needs an array or a dtype")
    out = dtypes[0]
    for dtype in dtypes[1:]:
        out = promote(out, dtype)
    for value in scalars:
        out = promote(out, promote_scalar(out, value))
    return out


def can_cast(from_: DType | Array, to: DType, /) -> bool:
    """Whether a dtype (or an array's) can be converted to another by promotion."""
    try:
        return promote(dtype_of(from_), to) is to
    except TypeError:
        return False


def isdtype(dtype: DType, kind: DType | str | tuple[DType | str, ...]) -> bool:
    """Whether a dtype is of a kind (or of one of several).

    Raises:
        ValueError: no such kind.
    """
    if isinstance(kind, tuple):
        return any(isdtype(dtype, item) for item in kind)
    if isinstance(kind, DType):
        return dtype is kind
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    return dtype_of(dtype).kind in KINDS[kind]


def finfo(type: DType | Array, /) -> finfo_object:
    """Limits of a floating-point type; of a complex one: of its parts.

    Raises:
        TypeError: not a floating-point type.
    """
    dtype = dtype_of(type)
    if dtype.kind not in (REAL, COMPLEX, EIGHT):
        raise TypeError(f"finfo needs a floating-point dtype, not {dtype.name}")
    real = OF_SHORT[REAL_OF[dtype.short]]
    numbers: Any = ml_dtypes.finfo if real is bfloat16 or real.kind == EIGHT else np.finfo
    found = numbers(real.numpy)
    return finfo_object(
        real.bits, float(found.eps), float(found.max), float(found.min), float(found.smallest_normal), real
    )


def iinfo(type: DType | Array, /) -> iinfo_object:
    """Limits of an integer type.

    Raises:
        TypeError: not an integer type.
    """
    dtype = dtype_of(type)
    if dtype.kind not in (SIGNED, UNSIGNED):
        raise TypeError(f"iinfo needs an integer dtype, not {dtype.name}")
    found = np.iinfo(dtype.numpy)
    return iinfo_object(dtype.bits, int(found.max), int(found.min), dtype)


def need_kind(function: str, dtype: DType, *kinds: str) -> None:
    """Refuse a dtype that a function does not take.

    Raises:
        TypeError: says which kinds it takes.
    """
    if dtype.kind not in kinds:
        raise TypeError(f"{function} takes arrays of {', '.join(kinds)} dtype, not {dtype.name}")
