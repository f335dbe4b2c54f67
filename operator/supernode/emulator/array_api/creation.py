"""Creation functions, conversion between dtypes, and exchange with other libraries.

Flows in: Python numbers and lists, host arrays, DLPack capsules (through host memory). Flows out: arrays on a device.
Not here: triangles and copies of shape (`manipulation`).
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from supernode.emulator.array_api.array import (
    Array,
    convert,
    default_dtype,
    launch,
    make,
    need_array,
    operand,
    scalar,
    upload,
)
from supernode.emulator.array_api.types import (
    COMPLEX,
    DEFAULT_COMPLEX,
    DEFAULT_REAL,
    OF_SHORT,
    REAL,
    DType,
    Scalar,
    chosen,
    need_kind,
)
from supernode.emulator.dtypes import dtype_name
from supernode.emulator.rounding import convert as rounded

if TYPE_CHECKING:
    from supernode.emulator.client import Device

Shape = int | tuple[int, ...]


def asarray(
    obj: Any, /, *, dtype: DType | None = None, device: Device | None = None, copy: bool | None = None
) -> Array:
    """An array of a Python number, nested sequences of numbers, an array, or an object with DLPack or a buffer.

    Raises:
        OverflowError: an integer does not fit.
        TypeError: elements of mixed kinds that have no common dtype, or of a type that is no number.
        ValueError: a copy is needed but `copy` is False.
    """
    if isinstance(obj, Array):
        moved = obj if device is None else obj.to_device(device)
        out = moved if dtype is None else astype(moved, dtype, copy=False)
        if copy is False and out is not obj:
            raise ValueError("another dtype or device needs a copy")
        return launch("copy", out) if copy and out is obj else out
    if copy is False:
        raise ValueError("host data is copied to the device; copy=False is not possible")
    data = _host(obj)
    wanted = OF_SHORT[dtype_name(data.dtype)] if dtype is None else chosen(dtype, DEFAULT_REAL)
    return upload(_converted(data, wanted), device)


def _host(obj: Any) -> np.ndarray[Any, Any]:
    """The object as host data; Python numbers in the namespace's default dtypes."""
    if isinstance(obj, list | tuple):
        leaves: list[Any] = []
        shape = _nested(obj, leaves)
        if any(isinstance(leaf, Array) for leaf in leaves):
            leaves = [leaf._single("an element") if isinstance(leaf, Array) else leaf for leaf in leaves]
        if all(isinstance(leaf, bool | int | float | complex) for leaf in leaves):
            return _leaves(leaves, shape)
        return np.asarray(obj)
    if type(obj) in (bool, int, float, complex):
        return _leaves([obj], ())
    if not isinstance(obj, np.ndarray | np.generic) and hasattr(obj, "__dlpack__"):
        return np.from_dlpack(obj)
    return np.asarray(obj)


def _nested(obj: Any, leaves: list[Any]) -> tuple[int, ...]:
    if not isinstance(obj, list | tuple):
        leaves.append(obj)
        return ()
    shapes = {_nested(item, leaves) for item in obj}
    if len(shapes) > 1:
        raise ValueError("the sequences have different lengths")
    return (len(obj), *(shapes.pop() if shapes else ()))


def _leaves(leaves: list[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    for kind in (complex, float, bool, int):
        if any(isinstance(leaf, kind) for leaf in leaves):
            if kind is bool and not all(isinstance(leaf, bool) for leaf in leaves):
                continue
            dtype = default_dtype(kind(0))
            break
    else:
        dtype = DEFAULT_REAL
    if dtype.kind not in (REAL, COMPLEX) and any(not -(2**63) <= leaf < 2**63 for leaf in leaves):
        # May still fit the dtype that is asked for.
        return np.array(leaves, dtype=np.uint64).reshape(shape)
    return np.array(leaves, dtype=dtype.numpy).reshape(shape)


def _converted(data: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """Host data in a dtype, by the rules of `astype`.

    Raises:
        OverflowError: an integer does not fit.
        TypeError: complex to real.
    """
    if data.dtype == dtype.numpy:
        return data
    if data.dtype.kind == "c" and dtype.kind != COMPLEX:
        raise TypeError(f"complex numbers are not converted to {dtype.name}")
    if data.dtype.kind in "iu" and dtype.numpy.kind in "iu" and data.size:
        limits = np.iinfo(dtype.numpy)
        if int(data.min()) < limits.min or int(data.max()) > limits.max:
            raise OverflowError(f"numbers from {data.min()} to {data.max()} do not fit {dtype.name}")
    with np.errstate(all="ignore"):
        return rounded(data, dtype.numpy)


def astype(x: Array, dtype: DType, /, *, copy: bool = True, device: Device | None = None) -> Array:
    """The array in another dtype; without `copy`, itself where nothing changes.

    Raises:
        TypeError: complex to real.
    """
    if need_array(x, "astype").dtype.kind == COMPLEX and chosen(dtype, x.dtype).kind not in (COMPLEX, "bool"):
        raise TypeError(f"complex numbers are not converted to {dtype.name}; use real or imag")
    moved = x if device is None else x.to_device(device)
    out = convert(moved, dtype)
    return launch("copy", out) if copy and out is x else out


def from_dlpack(x: Any, /, *, device: Device | None = None, copy: bool | None = None) -> Array:
    """An array of another library, or of this one, by DLPack; the data goes through host memory.

    Raises:
        BufferError: a copy is needed but `copy` is False.
    """
    if isinstance(x, Array):
        if copy is False and device is not None and device is not x.device:
            raise BufferError("another device needs a copy")
        moved = x if device is None else x.to_device(device)
        return launch("copy", moved) if copy and moved is x else Array(moved._handle)
    if copy is False:
        raise BufferError("host data is copied to the device")
    return upload(np.from_dlpack(x), device)


def _sizes(shape: Shape) -> list[int]:
    return [operator.index(n) for n in shape] if isinstance(shape, tuple | list) else [operator.index(shape)]


def empty(shape: Shape, *, dtype: DType | None = None, device: Device | None = None) -> Array:
    """An array to be written; it holds zeros."""
    return make("empty", device, shape=_sizes(shape), dtype=chosen(dtype, DEFAULT_REAL).short)


def zeros(shape: Shape, *, dtype: DType | None = None, device: Device | None = None) -> Array:
    """An array of zeros."""
    return make("zeros", device, shape=_sizes(shape), dtype=chosen(dtype, DEFAULT_REAL).short)


def ones(shape: Shape, *, dtype: DType | None = None, device: Device | None = None) -> Array:
    """An array of ones."""
    return make("full", device, shape=_sizes(shape), value=1, dtype=chosen(dtype, DEFAULT_REAL).short)


def full(shape: Shape, fill_value: Scalar, *, dtype: DType | None = None, device: Device | None = None) -> Array:
    """An array of one value."""
    if not operand(fill_value):
        raise TypeError(f"fill_value must be a number, not {type(fill_value).__name__}")
    value = asarray(fill_value, dtype=chosen(dtype, default_dtype(fill_value)), device=device)
    return launch("broadcast_to", value, shape=_sizes(shape))


def empty_like(x: Array, /, *, dtype: DType | None = None, device: Device | None = None) -> Array:
    """An array of the same shape, to be written."""
    return empty(need_array(x).shape, dtype=chosen(dtype, x.dtype), device=device or x.device)


def zeros_like(x: Array, /, *, dtype: DType | None = None, device: Device | None = None) -> Array:
    """An array of the same shape, of zeros."""
    return zeros(need_array(x).shape, dtype=chosen(dtype, x.dtype), device=device or x.device)


def ones_like(x: Array, /, *, dtype: DType | None = None, device: Device | None = None) -> Array:
    """An array of the same shape, of ones."""
    return ones(need_array(x).shape, dtype=chosen(dtype, x.dtype), device=device or x.device)


def full_like(x: Array, /, fill_value: Scalar, *, dtype: DType | None = None, device: Device | None = None) -> Array:
    """An array of the same shape, of one value."""
    return full(need_array(x).shape, fill_value, dtype=chosen(dtype, x.dtype), device=device or x.device)


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: DType | None = None,
    device: Device | None = None,
) -> Array:
    """start, start + step, ... below stop; with one number: 0, 1, ... below it."""
    if stop is None:
        start, stop = 0, start
    whole = all(isinstance(value, int) for value in (start, stop, step))
    short = chosen(dtype, default_dtype(0 if whole else 0.0)).short
    return make("arange", device, start=start, stop=stop, step=step, dtype=short)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: DType | None = None,
    device: Device | None = None,
) -> Array:
    """1 on diagonal `k`, else 0."""
    columns = n_rows if n_cols is None else n_cols
    return make("eye", device, rows=n_rows, columns=columns, k=k, dtype=chosen(dtype, DEFAULT_REAL).short)


def linspace(
    start: complex,
    stop: complex,
    /,
    num: int,
    *,
    dtype: DType | None = None,
    device: Device | None = None,
    endpoint: bool = True,
) -> Array:
    """`num` evenly spaced numbers from start to stop (without it: `endpoint=False`)."""
    dtype = chosen(dtype, DEFAULT_COMPLEX if any(type(end) is complex for end in (start, stop)) else DEFAULT_REAL)
    inexact = dtype if dtype.kind in (REAL, COMPLEX) else DEFAULT_REAL
    # The ends are kept in f64: rounding them first would move what lies between.
    wide = DEFAULT_COMPLEX if inexact.kind == COMPLEX else DEFAULT_REAL
    ends = [scalar(value, wide, device) for value in (start, stop)]
    return convert(launch("linspace", *ends, num=operator.index(num), endpoint=bool(endpoint)), dtype)


def meshgrid(*arrays: Array, indexing: str = "xy") -> list[Array]:
    """Coordinate matrices of coordinate vectors.

    Raises:
        ValueError: another indexing than xy or ij, or an array with more than one axis.
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"indexing {indexing!r} is neither xy nor ij")
    if any(need_array(array, "meshgrid").ndim > 1 for array in arrays):
        raise ValueError("meshgrid takes arrays with one axis")
    for array in arrays[1:]:
        need_kind("meshgrid with arrays of one dtype", array.dtype, arrays[0].dtype.kind)
    places = list(range(len(arrays)))
    if indexing == "xy" and len(arrays) > 1:
        places[:2] = [1, 0]
    shape = [0] * len(arrays)
    for array, place in zip(arrays, places, strict=True):
        shape[place] = array.size
    out = []
    for array, place in zip(arrays, places, strict=True):
        sizes = [1] * len(arrays)
        sizes[place] = array.size
        out.append(launch("broadcast_to", Array(array._handle.reshape(sizes)), shape=shape))
    return out
