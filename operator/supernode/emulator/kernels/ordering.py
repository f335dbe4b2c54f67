"""Sorting, searching and sets.

Flows in: arrays. Flows out: sorted arrays, or places (i64). The length of what `nonzero` and `unique` give depends on
the data: the caller counts first (`count_nonzero`, `count_unique`) and gives the count, so that every shape is known
at launch. NaN sorts last, and each NaN is an element of its own. Not here: extremes (`reduce`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import ALL, INTEGERS, NUMBERS
from supernode.emulator.kernels.rules import moved, narrow, need, normal_axis, same_dtype, streaming, widen
from supernode.emulator.kernels.table import EXACT, REQUIRED, AnyArray, Attributes, Cost, Draw, Kernel, Spec, example
from supernode.errors import KernelValueError


def _passes(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """Cost of a sort: a pass over the data per bit of the number of elements."""
    elements = max(specs[0].size, 2)
    return Cost(0.0, moved(specs, outputs) * math.ceil(math.log2(elements)))


def _sort_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    normal_axis(attributes["axis"], len(specs[0].shape))
    return (specs[0],)


def _argsort_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    normal_axis(attributes["axis"], len(specs[0].shape))
    return (Spec("i64", specs[0].shape),)


def _order(x: AnyArray, attributes: Attributes) -> AnyArray:
    """Places in order; equal elements stay in theirs, also when descending."""
    axis = attributes["axis"]
    if not attributes["descending"]:
        return np.argsort(widen(x), axis=axis, kind="stable")
    backwards = np.argsort(widen(np.flip(x, axis)), axis=axis, kind="stable")
    return np.asarray(x.shape[axis] - 1 - np.flip(backwards, axis))


def _sort(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, axis = inputs[0], attributes["axis"]
    return (narrow(np.take_along_axis(x, _order(x, attributes), axis), outputs[0]),)


def _argsort(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(_order(inputs[0], attributes), outputs[0]),)


def _search_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    if len(specs[0].shape) != 1 or attributes["side"] not in ("left", "right"):
        raise KernelValueError("needs sorted numbers with one axis, and side left or right")
    same_dtype(specs[:2])
    if len(specs) > 2:
        need(specs[2], "sorter", dtype=INTEGERS, shape=specs[0].shape)
    return (Spec("i64", specs[1].shape),)


def _search(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    row = widen(inputs[0])
    if len(inputs) > 2:
        row = row[inputs[2].astype(np.int64)]
    return (narrow(np.searchsorted(row, widen(inputs[1]), side=attributes["side"]), outputs[0]),)


def _length(attributes: Attributes) -> int:
    count = operator.index(attributes["count"])
    if count < 0:
        raise KernelValueError(f"count {count} is negative")
    return count


def _nonzero_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    if not specs[0].shape:
        raise KernelValueError("needs at least one axis")
    return (Spec("i64", (_length(attributes),)),) * len(specs[0].shape)


def _nonzero(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    places = np.nonzero(inputs[0])
    if len(places[0]) != attributes["count"]:
        raise KernelValueError(f"{len(places[0])} elements are not zero, but count is {attributes['count']}")
    # Rows of one matrix: each place gets memory of its own.
    return tuple(place.copy() for place in places)


def _count_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (Spec("i64", ()),)


def _count(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (np.asarray(np.unique(widen(inputs[0]), equal_nan=False).size, np.int64),)


def _unique_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    count = (_length(attributes),)
    return Spec(specs[0].dtype, count), Spec("i64", count), Spec("i64", specs[0].shape), Spec("i64", count)


def _unique(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    found = np.unique(widen(inputs[0]), return_index=True, return_inverse=True, return_counts=True, equal_nan=False)
    if found[0].size != attributes["count"]:
        raise KernelValueError(f"{found[0].size} elements differ, but count is {attributes['count']}")
    return tuple(narrow(array, spec) for array, spec in zip(found, outputs, strict=True))


_ORDER: Final = {"axis": -1, "descending": False}

KERNELS: Final = (
    Kernel(
        "sort",
        ("x",),
        NUMBERS,
        _sort_shape,
        _passes,
        _sort,
        "elements in order along axis; stable",
        _ORDER,
        bound=EXACT,
        examples=(
            example((5, 7), axis=0),
            example((5, 7), axis=1, descending=True),
        ),
    ),
    Kernel(
        "argsort",
        ("x",),
        NUMBERS,
        _argsort_shape,
        _passes,
        _argsort,
        "places that sort along axis; stable",
        _ORDER,
        bound=EXACT,
        examples=(
            example((5, 7), axis=0),
            example((5, 7), axis=1, descending=True),
        ),
    ),
    Kernel(
        "searchsorted",
        ("sorted", "values", "sorter"),
        NUMBERS,
        _search_shape,
        _passes,
        _search,
        "where each value would have to go to keep the order",
        {"side": "left"},
        optional=1,
        bound=EXACT,
        examples=(example(Draw((7,), "rises 7"), (3, 4)),),
    ),
    Kernel(
        "nonzero",
        ("x",),
        ALL,
        _nonzero_shape,
        streaming(1),
        _nonzero,
        "places of the elements that are not zero, one array per axis",
        {"count": REQUIRED},
        outputs=("...",),
        bound=EXACT,
        examples=(example(Draw((2, 3), "positive"), count=6),),
    ),
    Kernel(
        "count_unique",
        ("x",),
        ALL,
        _count_shape,
        _passes,
        _count,
        "number of different elements",
        bound=EXACT,
        examples=(example((7,)),),
    ),
    Kernel(
        "unique",
        ("x",),
        ALL,
        _unique_shape,
        _passes,
        _unique,
        "the different elements, their first places, the number of each element among them, and their counts",
        {"count": REQUIRED},
        outputs=("values", "places", "inverse", "counts"),
        bound=EXACT,
        examples=(example(Draw((7,), "permutation"), count=7),),
    ),
)
