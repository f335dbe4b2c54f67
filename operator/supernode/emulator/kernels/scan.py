"""Running sums and products, variance, and counts along an axis.

Flows in: one array. Flows out: an array. 16-bit floats accumulate in f32 and round once, integers give 64 bits unless
`dtype` says else. Not here: plain reductions (`reduce`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import ALL, FIELDS, FLOATS, INEXACT, UNSIGNED, WIDE
from supernode.emulator.kernels.rules import known_dtype, narrow, normal_axes, normal_axis, streaming, widen
from supernode.emulator.kernels.table import (
    EXACT,
    MAGNITUDES,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Example,
    Kernel,
    Spec,
    example,
)


def _scan_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shape, own, given = specs[0].shape, specs[0].dtype, attributes["dtype"]
    axis = normal_axis(attributes["axis"], len(shape))
    dtype = own if own in INEXACT else "u64" if own in UNSIGNED else "i64"
    more = int(bool(attributes["initial"]))
    out = (*shape[:axis], shape[axis] + more, *shape[axis + 1 :])
    return (Spec(dtype if given is None else known_dtype(given), out),)


def _scan(
    name: str,
    function: Callable[..., Any],
    neutral: int,
    summary: str,
    *,
    bound: Bound,
    examples: tuple[Example, ...],
) -> Kernel:
    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        axis = normal_axis(attributes["axis"], inputs[0].ndim)
        wide = WIDE[outputs[0].dtype]
        out = np.asarray(function(widen(inputs[0]).astype(wide, copy=False), axis=axis, dtype=wide))
        if attributes["initial"]:
            before = np.full((*out.shape[:axis], 1, *out.shape[axis + 1 :]), neutral, wide)
            out = np.concatenate([before, out], axis=axis)
        return (narrow(out, outputs[0]),)

    attributes = {"axis": REQUIRED, "dtype": None, "initial": False}
    return Kernel(
        name, ("x",), FIELDS, _scan_shape, streaming(1), run, summary, attributes, bound=bound, examples=examples
    )


def _reduced_shape(shape: tuple[int, ...], attributes: Attributes) -> tuple[int, ...]:
    axes = normal_axes(attributes["axis"], len(shape))
    if attributes["keepdims"]:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def _variance_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    float(attributes["correction"])
    return (Spec(specs[0].dtype, _reduced_shape(specs[0].shape, attributes)),)


def _variance(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    axes = normal_axes(attributes["axis"], inputs[0].ndim)
    x = widen(inputs[0])
    keep = {"axis": axes, "keepdims": True}
    count = x.dtype.type(np.prod([x.shape[axis] for axis in axes], dtype=np.int64))
    apart = x - x.sum(**keep) / count  # type: ignore[call-overload]
    degrees = max(float(count) - float(attributes["correction"]), 0.0)
    return (narrow(np.square(apart).sum(axis=axes) / x.dtype.type(degrees), outputs[0]),)


def _count_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (Spec("i64", _reduced_shape(specs[0].shape, attributes)),)


def _count(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = inputs[0]
    return (narrow(np.count_nonzero(x.astype(np.bool_), axis=normal_axes(attributes["axis"], x.ndim)), outputs[0]),)


def _squares(inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]) -> Sequence[AnyArray]:
    """The distances from the mean are as exact as the largest element."""
    axes = normal_axes(attributes["axis"], inputs[0].ndim)
    return [np.square(np.abs(inputs[0]).max(axis=axes, keepdims=attributes["keepdims"], initial=0))]


KERNELS: Final = (
    _scan(
        "cumulative_sum",
        np.cumsum,
        0,
        "sum of the elements up to each; with initial, 0 comes first",
        bound=Bound(32, MAGNITUDES),
        examples=(example((5, 7), axis=1),),
    ),
    _scan(
        "cumulative_prod",
        np.cumprod,
        1,
        "product of the elements up to each; with initial, 1 comes first",
        bound=Bound(8, degree=5),
        examples=(example((7, 5), axis=1, initial=True),),
    ),
    Kernel(
        "variance",
        ("x",),
        FLOATS,
        _variance_shape,
        streaming(4),
        _variance,
        "mean squared distance from the mean, divided by number of elements - correction",
        {"axis": None, "keepdims": False, "correction": 0.0},
        bound=Bound(64, _squares, degree=2),
        examples=(
            example((7, 9)),
            example((7, 9), axis=[1], correction=1.0),
        ),
    ),
    Kernel(
        "count_nonzero",
        ("x",),
        ALL,
        _count_shape,
        streaming(1),
        _count,
        "number of elements that are not zero",
        {"axis": None, "keepdims": False},
        bound=EXACT,
        examples=(example((7, 9)),),
    ),
)
