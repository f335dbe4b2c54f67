"""Arithmetic that works alike on one number and on an array: so that each formula is written once.

A `Num` is a Python number (one prediction: no numpy overhead) or a float64 array (n,) (a batch). Sizes in arrays are
floats too; all of them are whole and below 2^53, where floats are exact. Operators need nothing from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

#: A number, or an array of numbers, one per prediction.
Num: TypeAlias = Any

_Array = np.ndarray


def largest(one: Num, other: Num) -> Num:
    """The larger of two, element by element."""
    if type(one) is _Array or type(other) is _Array:
        return np.maximum(one, other)
    return one if one >= other else other


def smallest(one: Num, other: Num) -> Num:
    """The smaller of two, element by element."""
    if type(one) is _Array or type(other) is _Array:
        return np.minimum(one, other)
    return one if one <= other else other


def choose(condition: Num, one: Num, other: Num) -> Num:
    """`one` where the condition holds, `other` elsewhere."""
    if type(condition) is _Array:
        return np.where(condition, one, other)
    return one if condition else other


def either(condition: Num, one: Callable[[], Num], other: Callable[[], Num]) -> Num:
    """`choose`, but what nothing needs is not computed."""
    if type(condition) is not _Array:
        return one() if condition else other()
    if condition.all():
        return one()
    return np.where(condition, one(), other()) if condition.any() else other()


def several(
    condition: Num, one: Callable[[], tuple[Num, ...]], other: Callable[[], tuple[Num, ...]]
) -> tuple[Num, ...]:
    """`either` for several numbers that belong together."""
    if type(condition) is not _Array:
        return one() if condition else other()
    if condition.all():
        return one()
    if not condition.any():
        return other()
    return tuple(np.where(condition, first, second) for first, second in zip(one(), other(), strict=True))


def root(value: Num) -> Num:
    """The square root."""
    return np.sqrt(value) if type(value) is _Array else math.sqrt(value)


def split(size: Num, ranks: Num) -> Num:
    """The largest share when `size` things are split over `ranks`."""
    return -(-size // ranks)


def doublings(size: Num) -> Num:
    """Depth of a binary tree over `size` parts; 0 for one part."""
    if type(size) is _Array:
        return np.ceil(np.log2(size))
    return (int(size) - 1).bit_length()
