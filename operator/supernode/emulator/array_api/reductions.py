"""Statistical, searching, sorting, set and utility functions.

Flows in: arrays. Flows out: arrays; the set functions and `nonzero` wait for the number of elements that they give.
Not here: linear algebra.
"""

from __future__ import annotations

from typing import NamedTuple

from supernode.emulator.array_api.array import Array, convert, launch, launch_several, need_array, scalar, together
from supernode.emulator.array_api.indexing import places
from supernode.emulator.array_api.manipulation import normal
from supernode.emulator.array_api.types import (
    BOOL,
    COMPLEX,
    REAL,
    SIGNED,
    UNSIGNED,
    DType,
    Scalar,
    chosen,
    need_kind,
    promote_scalar,
    result_type,
)

Axes = int | tuple[int, ...] | None
_REALS = (SIGNED, UNSIGNED, REAL)
_NUMBERS = (*_REALS, COMPLEX)


def _listed(axis: Axes, ndim: int) -> int | list[int] | None:
    if axis is None:
        return None
    return [normal(item, ndim) for item in (axis if isinstance(axis, tuple | list) else (axis,))]


def _reduce(kernel: str, x: Array, axis: Axes, keepdims: bool, **attributes: object) -> Array:
    return launch(kernel, x, axis=_listed(axis, x.ndim), keepdims=bool(keepdims), **attributes)


def sum(x: Array, /, *, axis: Axes = None, dtype: DType | None = None, keepdims: bool = False) -> Array:
    """Sum along axes; integers give 64 bits."""
    need_kind("sum", need_array(x, "sum").dtype, *_NUMBERS)
    source = convert(x, chosen(dtype, x.dtype))
    return _reduce("sum", source, axis, keepdims, dtype=dtype and dtype.short)


def prod(x: Array, /, *, axis: Axes = None, dtype: DType | None = None, keepdims: bool = False) -> Array:
    """Product along axes; integers give 64 bits."""
    need_kind("prod", need_array(x, "prod").dtype, *_NUMBERS)
    source = convert(x, chosen(dtype, x.dtype))
    return _reduce("prod", source, axis, keepdims, dtype=dtype and dtype.short)


def mean(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Mean along axes."""
    need_kind("mean", need_array(x, "mean").dtype, REAL, COMPLEX)
    return _reduce("mean", x, axis, keepdims)


def var(x: Array, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False) -> Array:
    """Variance along axes; the sum of squares is divided by the number of elements minus `correction`."""
    need_kind("var", need_array(x, "var").dtype, REAL)
    return _reduce("variance", x, axis, keepdims, correction=float(correction))


def std(x: Array, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False) -> Array:
    """Square root of the variance."""
    return launch("sqrt", var(x, axis=axis, correction=correction, keepdims=keepdims))


def max(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Largest element along axes."""
    need_kind("max", need_array(x, "max").dtype, *_REALS)
    return _reduce("max", x, axis, keepdims)


def min(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Smallest element along axes."""
    need_kind("min", need_array(x, "min").dtype, *_REALS)
    return _reduce("min", x, axis, keepdims)


def all(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Whether every element along axes is not zero."""
    return _reduce("all", need_array(x, "all"), axis, keepdims)


def any(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Whether some element along axes is not zero."""
    return _reduce("any", need_array(x, "any"), axis, keepdims)


def count_nonzero(x: Array, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Number of elements along axes that are not zero."""
    return _reduce("count_nonzero", need_array(x, "count_nonzero"), axis, keepdims)


def _scan(kernel: str, x: Array, axis: int | None, dtype: DType | None, initial: bool) -> Array:
    need_kind(kernel, need_array(x, kernel).dtype, *_NUMBERS)
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"{kernel} needs an axis where there is not just one")
        axis = 0
    source = convert(x, chosen(dtype, x.dtype))
    given = None if dtype is None else dtype.short
    return launch(kernel, source, axis=normal(axis, x.ndim), dtype=given, initial=bool(initial))


def cumulative_sum(
    x: Array, /, *, axis: int | None = None, dtype: DType | None = None, include_initial: bool = False
) -> Array:
    """Sum of the elements up to each."""
    return _scan("cumulative_sum", x, axis, dtype, include_initial)


def cumulative_prod(
    x: Array, /, *, axis: int | None = None, dtype: DType | None = None, include_initial: bool = False
) -> Array:
    """Product of the elements up to each."""
    return _scan("cumulative_prod", x, axis, dtype, include_initial)


def _argument(kernel: str, x: Array, axis: int | None, keepdims: bool) -> Array:
    need_kind(kernel, need_array(x, kernel).dtype, *_REALS)
    place = None if axis is None else normal(axis, x.ndim)
    found = launch(kernel, x, axis=place)
    if not keepdims:
        return found
    return Array(found._handle.reshape([1 if place in (None, i) else n for i, n in enumerate(x.shape)]))


def argmax(x: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """Place of the first largest element."""
    return _argument("argmax", x, axis, keepdims)


def argmin(x: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """Place of the first smallest element."""
    return _argument("argmin", x, axis, keepdims)


def nonzero(x: Array, /) -> tuple[Array, ...]:
    """Places of the elements that are not zero, one array per axis.

    Raises:
        ValueError: an array without axes.
    """
    if not need_array(x, "nonzero").ndim:
        raise ValueError("nonzero needs an array with axes")
    return places(x)


def where(condition: Array, x1: Array | Scalar, x2: Array | Scalar, /) -> Array:
    """Elements of `x1` where the condition holds, else of `x2`."""
    need_kind("the condition of where", need_array(condition, "where").dtype, BOOL)
    if isinstance(x1, Array) or isinstance(x2, Array):
        a, b = together(x1, x2)
    else:
        from supernode.emulator.array_api.array import default_dtype

        dtype = result_type(default_dtype(x1), default_dtype(x2))
        a, b = (scalar(value, dtype, condition.device) for value in (x1, x2))
    return launch("where", condition, a, b)


def searchsorted(x1: Array, x2: Array | Scalar, /, *, side: str = "left", sorter: Array | None = None) -> Array:
    """Where each element of `x2` would have to go in `x1` to keep its order."""
    need_kind("searchsorted", need_array(x1, "searchsorted").dtype, *_REALS)
    if not isinstance(x2, Array):
        x2 = scalar(x2, promote_scalar(x1.dtype, x2), x1.device)
    a, b = together(x1, x2)
    return launch("searchsorted", a, b, *(() if sorter is None else (sorter,)), side=side)


def sort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """The elements in order along an axis; always stable."""
    need_kind("sort", need_array(x, "sort").dtype, *_REALS)
    return launch("sort", x, axis=normal(axis, x.ndim), descending=bool(descending))


def argsort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """The places that put the elements in order along an axis; always stable."""
    need_kind("argsort", need_array(x, "argsort").dtype, *_REALS)
    return launch("argsort", x, axis=normal(axis, x.ndim), descending=bool(descending))


class UniqueAll(NamedTuple):
    """Result of `unique_all`."""

    values: Array
    indices: Array
    inverse_indices: Array
    counts: Array


class UniqueCounts(NamedTuple):
    """Result of `unique_counts`."""

    values: Array
    counts: Array


class UniqueInverse(NamedTuple):
    """Result of `unique_inverse`."""

    values: Array
    inverse_indices: Array


def unique_all(x: Array, /) -> UniqueAll:
    """The different elements, their first places, each element's number among them, and how often each is there."""
    count = int(launch("count_unique", need_array(x, "unique_all")))
    return UniqueAll(*launch_several("unique", x, count=count))


def unique_counts(x: Array, /) -> UniqueCounts:
    """The different elements, and how often each is there."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Array, /) -> UniqueInverse:
    """The different elements, and each element's number among them."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Array, /) -> Array:
    """The different elements."""
    return unique_all(x).values
