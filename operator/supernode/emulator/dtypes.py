"""Element types of the emulated device: the short names on the wire and their NumPy types.

Flows in: names or NumPy types. Flows out: the other one. Not here: conversion and rounding (`rounding`).
tf32 is no element type: it is how products of f32 may be computed (`precision="tf32"`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import ml_dtypes
import numpy as np

from supernode.errors import KernelTypeError

#: name -> NumPy type, in the order of the kernel table.
DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "bool": np.dtype(np.bool_),
        "i8": np.dtype(np.int8),
        "i16": np.dtype(np.int16),
        "i32": np.dtype(np.int32),
        "i64": np.dtype(np.int64),
        "u8": np.dtype(np.uint8),
        "u16": np.dtype(np.uint16),
        "u32": np.dtype(np.uint32),
        "u64": np.dtype(np.uint64),
        "f8e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
        "f8e5m2": np.dtype(ml_dtypes.float8_e5m2),
        "f16": np.dtype(np.float16),
        "bf16": np.dtype(ml_dtypes.bfloat16),
        "f32": np.dtype(np.float32),
        "f64": np.dtype(np.float64),
        "c64": np.dtype(np.complex64),
        "c128": np.dtype(np.complex128),
    }
)
#: What elementwise arithmetic takes. The 8-bit floats (e4m3 without infinity, e5m2: OCP 8-bit floating point, 2023) can
#: be stored, moved, converted and multiplied as matrices, which is what cards do with them.
FLOATS: Final = ("f16", "bf16", "f32", "f64")
FP8: Final = ("f8e4m3", "f8e5m2")
SIGNED: Final = ("i8", "i16", "i32", "i64")
UNSIGNED: Final = ("u8", "u16", "u32", "u64")
INTEGERS: Final = (*SIGNED, *UNSIGNED)
NUMBERS: Final = (*FLOATS, *INTEGERS)
COMPLEX: Final = ("c64", "c128")
INEXACT: Final = (*FLOATS, *COMPLEX)
FIELDS: Final = (*NUMBERS, *COMPLEX)
ALL: Final = ("bool", *FIELDS)
#: What can lie in device memory.
STORED: Final = (*ALL, *FP8)
#: dtype -> that of its real and imaginary part (complex) or itself.
REAL_OF: Final[Mapping[str, str]] = MappingProxyType({name: name for name in DTYPES} | {"c64": "f32", "c128": "f64"})

ITEM_BYTES: Final[Mapping[str, int]] = MappingProxyType({name: dtype.itemsize for name, dtype in DTYPES.items()})

#: Floats of 16 and 8 bits: computed and accumulated in f32.
NARROW: Final = ("f16", "bf16", *FP8)
#: dtype -> the type its arithmetic runs in.
WIDE: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {name: DTYPES["f32"] if name in NARROW else dtype for name, dtype in DTYPES.items()}
)
#: dtype -> the chip figure that is its peak rate in matrix products (`chips.Chip.tflops`).
RATES: Final[Mapping[str, str]] = MappingProxyType(
    {**{name: name for name in FLOATS}, **dict.fromkeys(FP8, "fp8"), "i8": "int8", "u8": "int8"}
)
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


def dtype_name(dtype: object) -> str:
    """The short name of a dtype given as short name, NumPy type or NumPy name.

    Raises:
        KernelError: a type that the device does not have.
    """
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    try:
        # Numbers of the other byte order are the same numbers; they are turned when they are copied.
        return _NAMES[np.dtype(dtype).newbyteorder("=")]  # type: ignore[call-overload]
    except (KeyError, TypeError, ValueError):
        raise KernelTypeError(f"the device has no dtype {dtype!r}; it has {', '.join(DTYPES)}") from None
