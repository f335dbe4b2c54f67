"""Reductions: sum, mean, extremes, products, arguments of extremes, sum of squares.

Flows in: one array, an axis (number, list or None for all). Flows out: the reduced array. 16-bit floats accumulate in
f32 and round once; f32 accumulates in f32, always in the same order. Integer sums are 64 bits wide. Extremes give NaN
if one is there. Not here: reductions between devices (`fabric`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import ALL, FIELDS, FLOATS, INEXACT, NUMBERS, UNSIGNED, WIDE
from supernode.emulator.kernels.rules import known_dtype, narrow, normal_axes, normal_axis, streaming, widen
from supernode.emulator.kernels.table import (
    EXACT,
    MAGNITUDES,
    AnyArray,
    Attributes,
    Bound,
    Example,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelTypeError, KernelValueError

# Rows that are added up at once when the reduced axis is not the last one: keeps the rounding error of long columns
# near that of pairwise summation.
_BLOCK: Final = 128


def _reduced(spec: Spec, attributes: Attributes, dtype: str) -> tuple[Spec, ...]:
    axes = normal_axes(attributes["axis"], len(spec.shape))
    if attributes["keepdims"]:
        return (Spec(dtype, tuple(1 if i in axes else n for i, n in enumerate(spec.shape))),)
    return (Spec(dtype, tuple(n for i, n in enumerate(spec.shape) if i not in axes)),)


def _sum_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    given, own = attributes["dtype"], specs[0].dtype
    if given is not None:
        return _reduced(specs[0], attributes, known_dtype(given))
    return _reduced(specs[0], attributes, own if own in INEXACT else "u64" if own in UNSIGNED else "i64")


def _mean_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    given = attributes["dtype"]
    if given is not None and given not in INEXACT:
        raise KernelTypeError(f"a mean of dtype {given!r} is not possible; there are {', '.join(INEXACT)}")
    return _reduced(specs[0], attributes, given or specs[0].dtype)


def _same_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    axes = normal_axes(attributes["axis"], len(specs[0].shape))
    if any(specs[0].shape[axis] == 0 for axis in axes):
        raise KernelValueError("no extreme of nothing: a reduced axis has size 0")
    return _reduced(specs[0], attributes, specs[0].dtype)


def accumulate(x: AnyArray, axes: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    """Sum over `axes` in `dtype`, in a fixed order, with an error that grows slowly with the length.

    NumPy adds pairwise along the last axis only; other axes are added block by block.
    """
    last = x.ndim - 1
    if axes == (0,) and last > 0 and dtype.kind == "f" and x.shape[0] > _BLOCK:
        starts = np.arange(0, x.shape[0], _BLOCK)
        return np.asarray(np.add.reduceat(x, starts, axis=0, dtype=dtype).sum(axis=0, dtype=dtype))
    return np.asarray(x.sum(axis=axes, dtype=dtype))


def _sum(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, out = inputs[0], outputs[0]
    wide = WIDE[out.dtype]
    return (narrow(accumulate(widen(x), normal_axes(attributes["axis"], x.ndim), wide), out),)


def _mean(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, out = inputs[0], outputs[0]
    wide = WIDE[out.dtype]
    axes = normal_axes(attributes["axis"], x.ndim)
    count = wide.type(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))
    return (narrow(accumulate(widen(x), axes, wide) / count, out),)


def _squares_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return _reduced(specs[0], attributes, "f64" if specs[0].dtype == "f64" else "f32")


def _squares(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    squares = np.square(x)
    return (narrow(accumulate(squares, normal_axes(attributes["axis"], x.ndim), squares.dtype), outputs[0]),)


def _extreme(
    name: str, function: Callable[..., Any], summary: str, *, bound: Bound, examples: tuple[Example, ...]
) -> Kernel:
    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        x = inputs[0]
        return (narrow(function(widen(x), axis=normal_axes(attributes["axis"], x.ndim)), outputs[0]),)

    attributes = {"axis": None, "keepdims": False}
    return Kernel(
        name, ("x",), NUMBERS, _same_shape, streaming(1), run, summary, attributes, bound=bound, examples=examples
    )


def _argument_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shape = specs[0].shape
    if attributes["axis"] is None:
        if specs[0].size == 0:
            raise KernelValueError("no extreme of nothing")
        return (Spec("i64", ()),)
    axis = normal_axis(attributes["axis"], len(shape))
    if shape[axis] == 0:
        raise KernelValueError(f"no extreme of nothing: axis {axis} has size 0")
    return (Spec("i64", shape[:axis] + shape[axis + 1 :]),)


def _argument(
    name: str, function: Callable[..., Any], summary: str, *, bound: Bound, examples: tuple[Example, ...]
) -> Kernel:
    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        return (narrow(function(widen(inputs[0]), axis=attributes["axis"]), outputs[0]),)

    return Kernel(
        name,
        ("x",),
        NUMBERS,
        _argument_shape,
        streaming(1),
        run,
        summary,
        {"axis": None},
        bound=bound,
        examples=examples,
    )


def _truth(
    name: str, function: Callable[..., Any], summary: str, *, bound: Bound, examples: tuple[Example, ...]
) -> Kernel:
    def shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
        return _reduced(specs[0], attributes, "bool")

    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        x = inputs[0]
        return (narrow(function(x.astype(np.bool_), axis=normal_axes(attributes["axis"], x.ndim)), outputs[0]),)

    return Kernel(
        name,
        ("x",),
        ALL,
        shape,
        streaming(1),
        run,
        summary,
        {"axis": None, "keepdims": False},
        bound=bound,
        examples=examples,
    )


def _prod(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, out = inputs[0], outputs[0]
    return (narrow(widen(x).prod(axis=normal_axes(attributes["axis"], x.ndim), dtype=WIDE[out.dtype]), out),)


_SUMMING: Final = {"axis": None, "keepdims": False, "dtype": None}

_WHOLE_AND_ALONG = (example((5, 7)), example((5, 7), axis=0))
KERNELS: Final = (
    Kernel(
        "sum",
        ("x",),
        ALL,
        _sum_shape,
        streaming(1),
        _sum,
        "sum along axis; integers give 64 bits",
        _SUMMING,
        bound=Bound(32, MAGNITUDES),
        examples=(
            example((7, 33)),
            example((7, 33), axis=0),
            example((3, 4, 5), axis=[0, -1], keepdims=True),
        ),
    ),
    Kernel(
        "mean",
        ("x",),
        INEXACT,
        _mean_shape,
        streaming(1),
        _mean,
        "sum / number of elements, along axis",
        _SUMMING,
        bound=Bound(32, MAGNITUDES),
        examples=(
            example((7, 33)),
            example((7, 33), axis=0),
            example((3, 4, 5), axis=[0, -1], keepdims=True),
        ),
    ),
    Kernel(
        "prod",
        ("x",),
        FIELDS,
        _sum_shape,
        streaming(1),
        _prod,
        "product along axis",
        _SUMMING,
        bound=Bound(8, degree=5),
        examples=(example((5, 7), axis=0),),
    ),
    Kernel(
        "sum_of_squares",
        ("x",),
        FLOATS,
        _squares_shape,
        streaming(2),
        _squares,
        "sum of x * x along axis, in f32 (f64 of f64)",
        {"axis": None, "keepdims": False},
        bound=Bound(32, degree=2),
        examples=(
            example((7, 33)),
            example((7, 33), axis=0),
        ),
    ),
    _extreme(
        "max",
        np.max,
        "largest element along axis; NaN if one is there",
        bound=EXACT,
        examples=_WHOLE_AND_ALONG,
    ),
    _extreme(
        "min",
        np.min,
        "smallest element along axis; NaN if one is there",
        bound=EXACT,
        examples=_WHOLE_AND_ALONG,
    ),
    _argument(
        "argmax",
        np.argmax,
        "place of the (first) largest element along axis, or in the flat array",
        bound=EXACT,
        examples=_WHOLE_AND_ALONG,
    ),
    _argument(
        "argmin",
        np.argmin,
        "place of the (first) smallest element along axis, or in the flat array",
        bound=EXACT,
        examples=_WHOLE_AND_ALONG,
    ),
    _truth(
        "all",
        np.all,
        "every element along axis is not zero",
        bound=EXACT,
        examples=_WHOLE_AND_ALONG,
    ),
    _truth(
        "any",
        np.any,
        "some element along axis is not zero",
        bound=EXACT,
        examples=_WHOLE_AND_ALONG,
    ),
)
