"""Indexing: what stands in brackets becomes the key of the kernels `index` and `set_index`; `take`, `take_along_axis`.

Flows in: an array and a key of integers, slices, Ellipsis, None, integer arrays and boolean arrays. Flows out: an
array in memory of its own, or the array changed. The number of elements that a boolean array selects is read back
first. Not here: the selection itself (the kernels).
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from supernode.emulator.array_api.array import (
    Array,
    convert,
    is_bool,
    launch,
    launch_several,
    need_array,
    operand,
    scalar,
)
from supernode.emulator.array_api.types import (
    COMPLEX,
    REAL,
    SIGNED,
    UNSIGNED,
    Scalar,
    need_kind,
    promote,
    promote_scalar,
)
from supernode.errors import KernelError, KernelIndexError


def places(mask: Array) -> tuple[Array, ...]:
    """Places of the true elements, one integer array per axis; waits for their number."""
    count = int(launch("count_nonzero", mask))
    return launch_several("nonzero", mask, count=count)


def translate(x: Array, key: Any) -> tuple[Array, list[list[Any]], list[Array]]:
    """The array to index (with an axis more for each boolean scalar), the kernel's key, and its integer arrays.

    Raises:
        IndexError: too many items, a number outside its axis, a mask of another shape, or an item of another type.
    """
    items = list(key) if isinstance(key, tuple) else [key]
    items = [item if not isinstance(item, list | np.ndarray) else _host(x, item) for item in items]
    taken = sum(_axes(item) for item in items)
    ellipses = sum(item is Ellipsis for item in items)
    if ellipses > 1 or taken > x.ndim:
        raise IndexError(f"{key!r} has too many items for shape {x.shape}")
    if not ellipses:
        items.append(Ellipsis)
    out: list[list[Any]] = []
    arrays: list[Array] = []
    rest = x.ndim - taken  # axes that the ellipsis stands for
    shape, axis = list(x.shape), 0
    for item in items:
        if item is None:
            out.append(["new"])
        elif item is Ellipsis:
            # Also where it stands for no axis, arrays on both sides of it are apart.
            out += [["slice", None, None, None]] * rest or [["apart"]]
            axis += rest
        elif isinstance(item, slice):
            out.append(["slice", *(_whole(part) for part in (item.start, item.stop, item.step))])
            axis += 1
        elif isinstance(item, bool) or (isinstance(item, Array) and is_bool(item)):
            mask = item if isinstance(item, Array) else scalar(item, _bool(), x.device)
            covered = shape[axis : axis + mask.ndim]
            # A mask may be empty where the array is not: it selects nothing.
            if any(size not in (own, 0) for size, own in zip(mask.shape, covered, strict=True)):
                raise IndexError(f"a mask of shape {mask.shape} does not go with axes {axis}... of {x.shape}")
            if not mask.ndim:
                shape.insert(axis, 1)
                x = Array(x._handle.reshape(shape))
                mask = Array(mask._handle.reshape(1))
            found = places(mask)
            out += [["array"]] * len(found)
            arrays += found
            axis += len(found)
        elif isinstance(item, Array) and item.ndim:
            need_kind("an index", item.dtype, SIGNED, UNSIGNED)
            out.append(["array"])
            arrays.append(item)
            axis += 1
        else:
            try:
                number = operator.index(item)
            except TypeError as exc:
                raise IndexError(f"{item!r} is no index") from exc
            if not -shape[axis] <= number < shape[axis]:
                raise IndexError(f"index {number} is outside axis {axis} of size {shape[axis]}")
            out.append(["number", number])
            axis += 1
    return x, out, arrays


def _bool() -> Any:
    from supernode.emulator.array_api.types import bool_

    return bool_


def _host(x: Array, item: Any) -> Array:
    from supernode.emulator.array_api.creation import asarray

    return asarray(item, device=x.device)


def _axes(item: Any) -> int:
    """How many axes of the array an item stands for."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.ndim if isinstance(item, Array) and is_bool(item) else 1


def _whole(part: Any) -> int | None:
    return None if part is None else operator.index(part)


def get(x: Array, key: Any) -> Array:
    """What a key selects, in memory of its own."""
    base, items, arrays = translate(x, key)
    try:
        return launch("index", base, *arrays, key=items)
    except KernelError as exc:
        raise KernelIndexError(str(exc)) from exc


def put(x: Array, key: Any, value: Array | Scalar) -> None:
    """Let a value become what a key selects.

    Raises:
        TypeError: the value's dtype is not promoted to that of the array.
    """
    if not operand(value):
        raise TypeError(f"an array or a number can be assigned, not {type(value).__name__}")
    wanted = x.dtype
    given = value.dtype if isinstance(value, Array) else None
    both = promote(wanted, given) if given else promote_scalar(wanted, value)  # type: ignore[arg-type]
    if both is not wanted and not (both.kind == wanted.kind and wanted.kind in (REAL, COMPLEX, SIGNED, UNSIGNED)):
        raise TypeError(f"{both.name} cannot be assigned to elements of {wanted.name}")
    new = convert(value, wanted) if isinstance(value, Array) else scalar(value, wanted, x.device)
    base, items, arrays = translate(x, key)
    try:
        launch_several("set_index", base, new, *arrays, key=items)
    except KernelError as exc:
        raise KernelIndexError(str(exc)) from exc


def take(x: Array, indices: Array, /, *, axis: int | None = None) -> Array:
    """Elements along an axis by number.

    Raises:
        ValueError: no axis where there are several.
    """
    if axis is None:
        if need_array(x, "take").ndim != 1:
            raise ValueError("take needs an axis where there is not just one")
        axis = 0
    return launch("take", x, indices, axis=axis)


def take_along_axis(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
    """Elements along an axis by the number that stands at their place in `indices`."""
    return launch("take_along_axis", x, indices, axis=axis)
