"""Element types of the emulated device: the short names on the wire and their NumPy types.

Flows in: names or NumPy types. Flows out: the other one. Not here: rounding rules (each kernel states its own).
The names follow the chip figures' (`bf16`, `f32` ...), so a kernel's dtype is also the key of its peak rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import ml_dtypes
import numpy as np

from supernode.errors import KernelError

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
        "f16": np.dtype(np.float16),
        "bf16": np.dtype(ml_dtypes.bfloat16),
        "f32": np.dtype(np.float32),
        "f64": np.dtype(np.float64),
        "c64": np.dtype(np.complex64),
        "c128": np.dtype(np.complex128),
    }
)
FLOATS: Final = ("f16", "bf16", "f32", "f64")
SIGNED: Final = ("i8", "i16", "i32", "i64")
UNSIGNED: Final = ("u8", "u16", "u32", "u64")
INTEGERS: Final = (*SIGNED, *UNSIGNED)
NUMBERS: Final = (*FLOATS, *INTEGERS)
COMPLEX: Final = ("c64", "c128")
INEXACT: Final = (*FLOATS, *COMPLEX)
FIELDS: Final = (*NUMBERS, *COMPLEX)
ALL: Final = ("bool", *FIELDS)
#: dtype -> that of its real and imaginary part (complex) or itself.
REAL_OF: Final[Mapping[str, str]] = MappingProxyType({name: name for name in DTYPES} | {"c64": "f32", "c128": "f64"})

ITEM_BYTES: Final[Mapping[str, int]] = MappingProxyType({name: dtype.itemsize for name, dtype in DTYPES.items()})

#: dtype -> the type its arithmetic runs in: 16-bit floats compute and accumulate in f32.
WIDE: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {name: DTYPES["f32"] if name in ("f16", "bf16") else dtype for name, dtype in DTYPES.items()}
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
        return _NAMES[np.dtype(dtype)]  # type: ignore[call-overload]
    except (KeyError, TypeError, ValueError):
        raise KernelError(f"the device has no dtype {dtype!r}; it has {', '.join(DTYPES)}") from None
