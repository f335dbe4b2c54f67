"""Pooling: the largest element, the mean or the p-norm of windows that move over all axes behind the second.

Flows in: `x` of shape (batch, channels, *sizes). Flows out: (batch, channels, *windows); with `places`, for each
maximum its place in its channel and batch, counted over the whole array. Windows are pooled axis by axis, which is the
same and takes the sum of their sides, not the product. Not here: pooling over whole axes (`reduce`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from supernode.emulator.dtypes import FLOATS, NUMBERS
from supernode.emulator.kernels.rules import moved, narrow, need, widen
from supernode.emulator.kernels.table import (
    EXACT,
    MAGNITUDES,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelValueError


class Windows(NamedTuple):
    """How windows lie along one axis.

    Attributes:
        size: elements of a window, `dilation` apart.
        stride: from one window to the next.
        before, after: elements of padding.
        beyond: elements that the last window may reach past the padding.
        number: of windows.
    """

    size: int
    stride: int
    dilation: int
    before: int
    after: int
    beyond: int
    number: int


def windows_of(sizes: Sequence[int], attributes: Attributes) -> list[Windows]:
    """The windows along each axis.

    Raises:
        KernelError: they do not fit.
    """
    out = []
    ceil = bool(attributes["ceil"])
    rows = zip(
        sizes, attributes["size"], attributes["strides"], attributes["dilations"], attributes["pads"], strict=True
    )
    for length, size, stride, dilation, (before, after) in rows:
        numbers = [operator.index(n) for n in (size, stride, dilation, before, after)]
        if min(numbers[:3]) < 1 or min(numbers[3:]) < 0:
            raise KernelValueError(f"windows of {size} by {stride}, {dilation} apart, padded {before} and {after}")
        span = (size - 1) * dilation + 1
        room = length + before + after - span
        if room < 0:
            raise KernelValueError(f"a window of {span} does not fit {length} elements padded by {before} and {after}")
        count = room // stride + 1
        if ceil and room % stride and count * stride < length + before:
            count += 1  # a last window that is not whole, but begins inside
        beyond = max((count - 1) * stride + span - length - before - after, 0)
        out.append(Windows(size, stride, dilation, before, after, beyond, count))
    return out


def _pool_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (x,) = specs
    spatial = x.shape[2:]
    lengths = {len(attributes[name]) for name in ("size", "strides", "dilations", "pads")}
    if not spatial or lengths != {len(spatial)}:
        raise KernelValueError(f"windows need numbers for {len(spatial)} axes of {x}")
    return (Spec(x.dtype, (*x.shape[:2], *(axis.number for axis in windows_of(spatial, attributes)))),)


def _max_places_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (spec,) = _pool_shape(specs, attributes)
    return spec, Spec("i64", spec.shape)


def _cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return Cost(float(outputs[0].size * math.prod(attributes["size"])), moved(specs, outputs))


def _padded(x: AnyArray, axis: int, windows: Windows, fill: Any) -> AnyArray:
    if not (windows.before or windows.after or windows.beyond):
        return x
    shape = list(x.shape)
    shape[axis] += windows.before + windows.after + windows.beyond
    out = np.full(shape, fill, x.dtype)
    out[(slice(None),) * axis + (slice(windows.before, windows.before + x.shape[axis]),)] = x
    return out


def _shifted(x: AnyArray, axis: int, windows: Windows, step: int) -> AnyArray:
    """Element `step` of every window along an axis, as a view."""
    start = step * windows.dilation
    stop = start + (windows.number - 1) * windows.stride + 1
    return x[(slice(None),) * axis + (slice(start, stop, windows.stride),)]


def _along(x: AnyArray, axis: int, windows: Windows, function: Callable[..., Any], fill: Any) -> AnyArray:
    padded = _padded(x, axis, windows, fill)
    out = np.array(_shifted(padded, axis, windows, 0), order="C")
    for step in range(1, windows.size):
        function(out, _shifted(padded, axis, windows, step), out=out)
    return out


def lowest(dtype: np.dtype[Any]) -> Any:
    """The smallest number of a type."""
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _max(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    out = widen(inputs[0])
    # The last axis first: what is left of it is small when the others are pooled.
    for axis, windows in reversed(list(enumerate(windows_of(out.shape[2:], attributes), 2))):
        out = _along(out, axis, windows, np.maximum, lowest(out.dtype))
    return (narrow(out, outputs[0]),)


def _max_places(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    sizes = x.shape[2:]
    order = "F" if attributes["column_major"] else "C"
    flat = np.arange(math.prod(sizes), dtype=np.int64).reshape(sizes, order=order)  # type: ignore[call-overload]
    planes = np.arange(math.prod(x.shape[:2]), dtype=np.int64) * math.prod(sizes)
    places = planes.reshape([*x.shape[:2], *[1] * len(sizes)]) + flat
    # Of equal elements the first in row order is kept: the last axis must be decided first.
    for axis, windows in reversed(list(enumerate(windows_of(sizes, attributes), 2))):
        values, numbers = _padded(x, axis, windows, lowest(x.dtype)), _padded(places, axis, windows, -1)
        x = np.array(_shifted(values, axis, windows, 0), order="C")
        places = np.array(_shifted(numbers, axis, windows, 0), order="C")
        for step in range(1, windows.size):
            other, number = _shifted(values, axis, windows, step), _shifted(numbers, axis, windows, step)
            better = (other > x) | ((places < 0) & (number >= 0))
            np.copyto(x, other, where=better)
            np.copyto(places, number, where=better)
    return narrow(x, outputs[0]), narrow(places, outputs[1])


def _sums(x: AnyArray, attributes: Attributes) -> AnyArray:
    for axis, windows in reversed(list(enumerate(windows_of(x.shape[2:], attributes), 2))):
        x = _along(x, axis, windows, np.add, 0)
    return x


def _mean(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    total = _sums(x, attributes)
    for axis, windows in enumerate(windows_of(x.shape[2:], attributes), 2):
        # How many elements of each window count: those of the array, with or without its padding.
        inside = np.zeros(x.shape[axis] + windows.before + windows.after + windows.beyond, x.dtype)
        if attributes["count_padding"]:
            inside[: x.shape[axis] + windows.before + windows.after] = 1
        else:
            inside[windows.before : windows.before + x.shape[axis]] = 1
        whole = windows._replace(before=0, after=0, beyond=0)
        counts = _along(inside, 0, whole, np.add, 0)
        total /= counts.reshape([-1] + [1] * (x.ndim - 1 - axis))
    return (narrow(total, outputs[0]),)


def _norm_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    if not 0 < float(attributes["p"]) < math.inf:
        raise KernelValueError(f"p is {attributes['p']}; it must be a number above 0")
    return _pool_shape(specs, attributes)


def _norm(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = np.abs(widen(inputs[0]))
    p = x.dtype.type(attributes["p"])
    return (narrow(_sums(x**p, attributes) ** (1 / p), outputs[0]),)


def _fold_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (x,) = specs
    need(x, "x", dtype=NUMBERS)
    sizes, block = attributes["sizes"], attributes["size"]
    windows = windows_of(sizes, {**attributes, "ceil": False})
    count = math.prod(axis.number for axis in windows)
    if len(x.shape) != 3 or x.shape[1] % math.prod(block) or x.shape[2] != count:
        raise KernelValueError(f"{x} does not hold {count} blocks of {block}")
    return (Spec(x.dtype, (x.shape[0], x.shape[1] // math.prod(block), *sizes)),)


def _fold(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    sizes, block = tuple(attributes["sizes"]), tuple(attributes["size"])
    windows = windows_of(sizes, {**attributes, "ceil": False})
    x = widen(inputs[0])
    counts = [axis.number for axis in windows]
    blocks = x.reshape([x.shape[0], x.shape[1] // math.prod(block), *block, *counts])
    padded = [n + axis.before + axis.after for n, axis in zip(sizes, windows, strict=True)]
    out = np.zeros((x.shape[0], blocks.shape[1], *padded), x.dtype)
    for steps in np.ndindex(*block):
        where = tuple(
            slice(step * axis.dilation, step * axis.dilation + (axis.number - 1) * axis.stride + 1, axis.stride)
            for step, axis in zip(steps, windows, strict=True)
        )
        out[(slice(None), slice(None), *where)] += blocks[(slice(None), slice(None), *steps)]
    inner = tuple(slice(axis.before, axis.before + n) for n, axis in zip(sizes, windows, strict=True))
    return (narrow(out[(slice(None), slice(None), *inner)], outputs[0]),)


_WINDOWS: Final = {"size": REQUIRED, "strides": REQUIRED, "dilations": REQUIRED, "pads": REQUIRED}
_COMMON: Final = {**_WINDOWS, "ceil": False}
_EXAMPLE: Final[dict[str, Any]] = {
    "size": [2, 3],
    "strides": [1, 2],
    "dilations": [2, 1],
    "pads": [[0, 1], [1, 0]],
}

KERNELS: Final = (
    Kernel(
        "max_pool",
        ("x",),
        NUMBERS,
        _pool_shape,
        _cost,
        _max,
        "largest element of each window; ceil: a last window may reach beyond the end",
        _COMMON,
        bound=EXACT,
        examples=(example((2, 3, 6, 7), **_EXAMPLE),),
    ),
    Kernel(
        "max_pool_places",
        ("x",),
        NUMBERS,
        _max_places_shape,
        _cost,
        _max_places,
        "max_pool, and the place of each (first) maximum in the whole array, in row or column order",
        {**_COMMON, "column_major": False},
        outputs=("values", "places"),
        bound=EXACT,
        examples=(example((2, 3, 6, 7), **_EXAMPLE),),
    ),
    Kernel(
        "mean_pool",
        ("x",),
        FLOATS,
        _pool_shape,
        _cost,
        _mean,
        "mean of each window; padding counts as zeros, or not at all",
        {**_COMMON, "count_padding": False},
        bound=Bound(16, MAGNITUDES),
        examples=(example((2, 3, 6, 7), **_EXAMPLE),),
    ),
    Kernel(
        "norm_pool",
        ("x",),
        FLOATS,
        _norm_shape,
        _cost,
        _norm,
        "(sum |x|^p)^(1/p) of each window",
        {**_COMMON, "p": 2.0},
        bound=Bound(32, degree=2),
        examples=(example((2, 3, 6, 7), **_EXAMPLE),),
    ),
    Kernel(
        "fold",
        ("x",),
        NUMBERS,
        _fold_shape,
        _cost,
        _fold,
        "blocks (batch, channels * block, count) added up where they overlap in an array of sizes",
        {"sizes": REQUIRED, **_WINDOWS},
        bound=Bound(16, MAGNITUDES),
        examples=(example((1, 8, 20), sizes=[5, 6], size=[2, 2], strides=[1, 1], dilations=[1, 1], pads=[[0, 0]] * 2),),
    ),
)
