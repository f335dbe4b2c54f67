"""Manipulation functions: joining, shapes, order of axes and elements, triangles, differences.

Flows in and out: arrays. Not here: selection (`indexing`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from supernode.emulator.array_api.array import Array, convert, is_bool, launch, need_array, upload
from supernode.emulator.array_api.types import SIGNED, UNSIGNED, need_kind, result_type
from supernode.errors import KernelIndexError

Axes = int | tuple[int, ...]


def normal(axis: int, ndim: int) -> int:
    """An axis counted from the front.

    Raises:
        IndexError: no such axis.
    """
    number = operator.index(axis)
    if not -ndim <= number < ndim:
        raise KernelIndexError(f"axis {number} is not in an array with {ndim} axes")
    return number % ndim


def _axes(axis: Axes, ndim: int) -> list[int]:
    found = [normal(item, ndim) for item in (axis if isinstance(axis, tuple | list) else (axis,))]
    if len(set(found)) != len(found):
        raise ValueError(f"axis {axis} names one twice")
    return found


def view(x: Array, shape: Sequence[int]) -> Array:
    """The same elements in another shape, in memory of their own."""
    return launch("copy", Array(x._handle.reshape(list(shape))))


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that arrays of these shapes broadcast to; ValueError if they do not."""
    return np.broadcast_shapes(*shapes)


def broadcast_to(x: Array, /, shape: tuple[int, ...]) -> Array:
    """The array repeated to a shape."""
    if broadcast_shapes(need_array(x).shape, tuple(shape)) != tuple(shape):
        raise ValueError(f"{x.shape} does not broadcast to {tuple(shape)}")
    return launch("broadcast_to", x, shape=list(shape))


def broadcast_arrays(*arrays: Array) -> list[Array]:
    """The arrays, each repeated to their common shape."""
    shape = broadcast_shapes(*(need_array(array).shape for array in arrays))
    return [broadcast_to(array, shape) for array in arrays]


def concat(arrays: tuple[Array, ...] | list[Array], /, *, axis: int | None = 0) -> Array:
    """Arrays one after the other along an axis, in their common dtype; without an axis: flat."""
    if not arrays:
        raise ValueError("concat needs an array")
    dtype = result_type(*(need_array(array) for array in arrays))
    parts = [convert(array, dtype) for array in arrays]
    if axis is None:
        parts, axis = [Array(part._handle.reshape(-1)) for part in parts], 0
    return launch("concatenate", *parts, axis=normal(axis, parts[0].ndim))


def stack(arrays: tuple[Array, ...] | list[Array], /, *, axis: int = 0) -> Array:
    """Arrays of one shape along a new axis."""
    if not arrays:
        raise ValueError("stack needs an array")
    place = normal(axis, need_array(arrays[0], "stack").ndim + 1)
    if any(need_array(array, "stack").shape != arrays[0].shape for array in arrays):
        raise ValueError("the shapes differ")
    return concat([expand_dims(array, place) for array in arrays], axis=place)


def unstack(x: Array, /, *, axis: int = 0) -> tuple[Array, ...]:
    """The arrays that lie side by side along an axis."""
    place = normal(axis, need_array(x).ndim)
    before: list[list[object]] = [["slice", None, None, None]] * place
    return tuple(launch("index", x, key=[*before, ["number", n]]) for n in range(x.shape[place]))


def expand_dims(x: Array, /, axis: int) -> Array:
    """A new axis of size 1.

    Raises:
        IndexError: no such place.
    """
    place = normal(axis, need_array(x).ndim + 1)
    return view(x, (*x.shape[:place], 1, *x.shape[place:]))


def squeeze(x: Array, /, axis: Axes) -> Array:
    """Axes of size 1 taken away.

    Raises:
        ValueError: an axis of another size.
    """
    gone = _axes(axis, need_array(x).ndim)
    if any(x.shape[place] != 1 for place in gone):
        raise ValueError(f"axes {gone} of shape {x.shape} are not all of size 1")
    return view(x, [n for i, n in enumerate(x.shape) if i not in gone])


def reshape(x: Array, /, shape: tuple[int, ...], *, copy: bool | None = None) -> Array:
    """The same elements in another shape; one size may be -1."""
    sizes = [operator.index(n) for n in shape]
    found = Array(need_array(x)._handle.reshape(sizes))
    return found if copy is False else launch("copy", found)


def permute_dims(x: Array, /, axes: tuple[int, ...]) -> Array:
    """The axes in another order."""
    return launch("transpose", x, axes=_axes(tuple(axes), need_array(x).ndim))


def matrix_transpose(x: Array, /) -> Array:
    """The last two axes swapped."""
    return need_array(x).mT


def moveaxis(x: Array, source: Axes, destination: Axes, /) -> Array:
    """Axes moved to other places; the rest keep their order."""
    old, new = _axes(source, need_array(x).ndim), _axes(destination, x.ndim)
    if len(old) != len(new):
        raise ValueError(f"{len(old)} axes cannot be moved to {len(new)} places")
    order = [axis for axis in range(x.ndim) if axis not in old]
    for place, axis in sorted(zip(new, old, strict=True)):
        order.insert(place, axis)
    return launch("transpose", x, axes=order)


def flip(x: Array, /, *, axis: Axes | None = None) -> Array:
    """The elements along axes (default: all) in reverse."""
    places = list(range(need_array(x).ndim)) if axis is None else _axes(axis, x.ndim)
    return launch("flip", x, axis=places)


def roll(x: Array, /, shift: Axes, *, axis: Axes | None = None) -> Array:
    """Elements moved along axes, around the end; without an axis: in the flat array."""
    shifts = list(shift) if isinstance(shift, tuple | list) else [shift]
    if axis is None:
        flat = Array(need_array(x)._handle.reshape(-1))
        rolled = launch("roll", flat, shift=[sum(shifts)], axis=[0])
        return Array(rolled._handle.reshape(list(x.shape)))
    places = [normal(item, need_array(x).ndim) for item in (axis if isinstance(axis, tuple | list) else (axis,))]
    if len(shifts) == 1:
        shifts *= len(places)
    return launch("roll", x, shift=shifts, axis=places)


def repeat(x: Array, repeats: int | Array, /, *, axis: int | None = None) -> Array:
    """Each element along an axis as often as `repeats` says; without an axis: of the flat array."""
    if axis is None:
        x, axis = Array(need_array(x)._handle.reshape(-1)), 0
    place = normal(axis, x.ndim)
    if isinstance(repeats, Array):
        need_kind("repeats", repeats.dtype, SIGNED, UNSIGNED)
        counts = launch("broadcast_to", repeats, shape=[x.shape[place]])
        length = int(launch("sum", counts))
    else:
        counts = upload(np.full(x.shape[place], repeats, np.int64), x.device)
        length = repeats * x.shape[place]
    return launch("repeat", x, counts, axis=place, length=length)


def tile(x: Array, repetitions: tuple[int, ...], /) -> Array:
    """The array side by side, as often as `repetitions` says along each axis."""
    ndim = max(need_array(x).ndim, len(repetitions))
    shape = [1] * (ndim - x.ndim) + list(x.shape)
    counts = [1] * (ndim - len(repetitions)) + [operator.index(n) for n in repetitions]
    return launch("tile", Array(x._handle.reshape(shape)), repetitions=counts)


def tril(x: Array, /, *, k: int = 0) -> Array:
    """The part of each matrix on and below diagonal `k`, else 0."""
    return launch("triangle", x, upper=False, k=k)


def triu(x: Array, /, *, k: int = 0) -> Array:
    """The part of each matrix on and above diagonal `k`, else 0."""
    return launch("triangle", x, upper=True, k=k)


def diff(
    x: Array, /, *, axis: int = -1, n: int = 1, prepend: Array | None = None, append: Array | None = None
) -> Array:
    """Differences of neighbours along an axis, `n` times; booleans: whether they differ.

    Raises:
        ValueError: a negative `n`.
    """
    if n < 0:
        raise ValueError(f"n is {n}; it must be 0 or more")
    place = normal(axis, need_array(x).ndim)
    parts = [part for part in (prepend, x, append) if part is not None]
    out = concat(parts, axis=place) if len(parts) > 1 else x
    for _ in range(n):
        size = out.shape[place]
        low = launch("slice", out, start=0, stop=max(size - 1, 0), axis=place)
        high = launch("slice", out, start=min(1, size), stop=size, axis=place)
        out = launch("not_equal" if is_bool(out) else "subtract", high, low)
    return launch("copy", out) if out is x else out
