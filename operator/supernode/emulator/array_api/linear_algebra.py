"""Products of the main namespace: matmul, tensordot, vecdot.

Flows in and out: arrays. Not here: the extension (`linalg`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from supernode.emulator.array_api.array import Array, launch, need_array, together
from supernode.emulator.array_api.manipulation import normal
from supernode.emulator.array_api.types import COMPLEX, REAL, SIGNED, UNSIGNED, need_kind

_NUMBERS = (SIGNED, UNSIGNED, REAL, COMPLEX)


def _both(name: str, x1: Array, x2: Array) -> tuple[Array, Array]:
    need_kind(name, need_array(x1, name).dtype, *_NUMBERS)
    need_kind(name, need_array(x2, name).dtype, *_NUMBERS)
    return together(x1, x2)


def _shaped(x: Array, shape: Sequence[int]) -> Array:
    return Array(x._handle.reshape(list(shape)))


def matmul(x1: Array, x2: Array, /) -> Array:
    """Matrix product of the last two axes; an array with one axis is a row on the left, a column on the right.

    Raises:
        TypeError: not two arrays of numbers.
        ValueError: an array without axes, or inner sizes that differ.
    """
    a, b = _both("matmul", x1, x2)
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(f"shapes {a.shape} and {b.shape} have no matrix product")
    left = _shaped(a, (1, a.size)) if a.ndim == 1 else a
    right = _shaped(b, (b.size, 1)) if b.ndim == 1 else b
    found = launch("matmul", left, right)
    shape = list(found.shape)
    if b.ndim == 1:
        del shape[-1]
    if a.ndim == 1:
        del shape[-1 if b.ndim == 1 else -2]
    return _shaped(found, shape)


def tensordot(x1: Array, x2: Array, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Array:
    """Sum of products over axes: the last of `x1` with the first of `x2`, or those that `axes` names.

    Raises:
        ValueError: axes of different sizes or numbers.
    """
    a, b = _both("tensordot", x1, x2)
    if isinstance(axes, int):
        if not 0 <= axes <= min(a.ndim, b.ndim):
            raise ValueError(f"{axes} axes are not in shapes {a.shape} and {b.shape}")
        ours, theirs = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    else:
        ours, theirs = ([normal(n, x.ndim) for n in given] for x, given in zip((a, b), axes, strict=True))
    if [a.shape[n] for n in ours] != [b.shape[n] for n in theirs]:
        raise ValueError(f"axes {ours} of {a.shape} and {theirs} of {b.shape} differ in size")
    rows = [n for n in range(a.ndim) if n not in ours]
    columns = [n for n in range(b.ndim) if n not in theirs]
    inner = math.prod(a.shape[n] for n in ours)
    outer = [a.shape[n] for n in rows], [b.shape[n] for n in columns]
    left = _shaped(launch("transpose", a, axes=[*rows, *ours]), (math.prod(outer[0]), inner))
    right = _shaped(launch("transpose", b, axes=[*theirs, *columns]), (inner, math.prod(outer[1])))
    return _shaped(launch("matmul", left, right), [*outer[0], *outer[1]])


def vecdot(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """Sum of products of conj(x1) and x2 along an axis.

    Raises:
        ValueError: sizes differ there.
    """
    a, b = _both("vecdot", x1, x2)
    if not a.ndim or not b.ndim or a.shape[axis] != b.shape[axis]:
        raise ValueError(f"axis {axis} of shapes {a.shape} and {b.shape} differ in size")
    if a.dtype.kind == COMPLEX:
        a = launch("conj", a)
    product = launch("multiply", a, b)
    return launch("sum", product, axis=[normal(axis, product.ndim)], dtype=a.dtype.short)
