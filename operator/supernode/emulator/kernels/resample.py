"""Values between the elements of an array: weighted places along an axis, samples on a grid, pooled regions.

Flows in: arrays, and where to look. Flows out: interpolated arrays, computed in f32 (f64 of f64) and rounded once. Not
here: how coordinates follow from sizes (whoever launches computes the few numbers per axis).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS, INTEGERS, NUMBERS
from supernode.emulator.kernels.rules import moved, narrow, need, normal_axis, widen
from supernode.emulator.kernels.table import (
    INPUTS,
    MAGNITUDES,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Draw,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelIndexError, KernelValueError

_FILLS: Final = ("zeros", "border", "reflection")
_MODES: Final = ("linear", "nearest", "cubic")
#: Keys' cubic convolution with this coefficient is what grid sampling means by cubic.
_CUBIC: Final = -0.75


def _weighted_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, places, weights = specs
    need(places, "places", dtype=INTEGERS)
    need(weights, "weights", dtype=("f32", "f64"), shape=places.shape)
    axis = normal_axis(attributes["axis"], len(x.shape))
    if len(places.shape) != 2:
        raise KernelValueError(f"places must have two axes (results, neighbours), not {places}")
    return (Spec(x.dtype, (*x.shape[:axis], places.shape[0], *x.shape[axis + 1 :])),)


def _weighted_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return Cost(2.0 * outputs[0].size * specs[1].shape[1], moved(specs, outputs))


def _weighted(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, places, weights = inputs[0], inputs[1].astype(np.int64), inputs[2]
    axis = normal_axis(attributes["axis"], x.ndim)
    size = x.shape[axis]
    if places.size and not (places.min() >= 0 and places.max() < size):
        raise KernelIndexError(f"places from {places.min()} to {places.max()} are not all in an axis of size {size}")
    source = x.astype(np.float64) if x.dtype.kind in "iu" else widen(x)
    wide = source.dtype
    column = [-1] + [1] * (x.ndim - 1 - axis)
    out = np.zeros(outputs[0].shape, wide)
    for neighbour in range(places.shape[1]):
        part = np.take(source, places[:, neighbour], axis)
        part *= weights[:, neighbour].astype(wide).reshape(column)
        out += part
    if x.dtype.kind in "iu":
        limits = np.iinfo(x.dtype)
        # Towards zero, as a cast; what overshoots saturates.
        out = np.clip(np.trunc(out), float(limits.min), float(limits.max))
    return (narrow(out, outputs[0]),)


def _grid_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, grid = specs
    need(grid, "grid", dtype=FLOATS)
    axes = len(x.shape) - 2
    if axes < 1 or len(grid.shape) != axes + 2 or grid.shape[-1] != axes or grid.shape[0] != x.shape[0]:
        raise KernelValueError(f"{grid} is no grid of samples of {x}")
    if attributes["mode"] not in _MODES or attributes["fill"] not in _FILLS:
        raise KernelValueError(f"mode {attributes['mode']!r} or fill {attributes['fill']!r} is unknown")
    return (Spec(x.dtype, (*x.shape[:2], *grid.shape[1:-1])),)


def _grid_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    axes = len(specs[0].shape) - 2
    neighbours = {"nearest": 1, "linear": 2, "cubic": 4}[attributes["mode"]] ** axes
    return Cost(2.0 * outputs[0].size * neighbours, moved(specs, outputs))


def _reflected(place: AnyArray, low: float, high: float) -> AnyArray:
    """Coordinates mirrored into [low, high]."""
    span = high - low
    if span <= 0:
        return np.zeros_like(place)
    away = np.abs(place - low)
    turns, rest = np.floor(away / span), np.mod(away, span)
    return np.asarray(np.where(turns % 2 == 0, low + rest, high - rest))


def _fit(place: AnyArray, size: int, fill: str, *, align: bool) -> AnyArray:
    """Coordinates where an array has something to show (`zeros` leaves them)."""
    if fill == "border":
        return np.clip(place, 0, size - 1)
    if fill == "reflection":
        low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
        return np.clip(_reflected(place, low, high), 0, size - 1)
    return place


def _cubic_weights(part: AnyArray) -> list[AnyArray]:
    """Weights of the neighbours at -1, 0, 1 and 2."""

    def near(t: AnyArray) -> AnyArray:
        return np.asarray(((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1)

    def far(t: AnyArray) -> AnyArray:
        return np.asarray(((_CUBIC * t - 5 * _CUBIC) * t + 8 * _CUBIC) * t - 4 * _CUBIC)

    return [far(part + 1), near(part), near(1 - part), far(2 - part)]


def _taps(place: AnyArray, mode: str) -> list[tuple[AnyArray, AnyArray]]:
    """Neighbours of coordinates along one axis, with weights."""
    if mode == "nearest":
        return [(np.rint(place), np.ones_like(place))]
    start = np.floor(place)
    part = place - start
    if mode == "linear":
        return [(start, 1 - part), (start + 1, part)]
    return [(start + shift - 1, weight) for shift, weight in enumerate(_cubic_weights(part))]


def _grid(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, grid = widen(inputs[0]), inputs[1].astype(np.float64)
    mode, fill, align = attributes["mode"], attributes["fill"], bool(attributes["align"])
    sizes = x.shape[2:]
    if not outputs[0].size or not x.size:
        return (narrow(np.zeros(outputs[0].shape), outputs[0]),)
    taps = []
    for axis, size in enumerate(sizes):
        # The last number of a sample is its place along the first axis.
        at = grid[..., len(sizes) - 1 - axis]
        place = (at + 1) / 2 * (size - 1) if align else ((at + 1) * size - 1) / 2
        place = np.nan_to_num(place, nan=-1e9, posinf=1e9, neginf=-1e9)
        if fill != "zeros" and mode != "cubic":
            place = _fit(place, size, fill, align=align)
        taps.append(_taps(place, mode))
    out = np.zeros(outputs[0].shape, x.dtype)
    batch = np.arange(x.shape[0]).reshape([-1] + [1] * len(sizes))
    for choice in np.ndindex(*(len(axis) for axis in taps)):
        weight: Any = 1.0
        key = []
        for size, line, tap in zip(sizes, taps, choice, strict=True):
            place, share = line[tap]
            weight = weight * share
            if fill == "zeros":
                weight = weight * ((place >= 0) & (place < size))
            else:
                place = _fit(place, size, fill, align=align)
            key.append(np.clip(np.rint(place), 0, size - 1).astype(np.int64))
        found = x[(batch, slice(None), *key)]  # (batch, *samples, channels)
        out += np.moveaxis(found * weight[..., None], -1, 1)
    return (narrow(out, outputs[0]),)


def _regions_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, regions, batch = specs
    height, width = (operator.index(n) for n in attributes["size"])
    need(regions, "regions", dtype=FLOATS, shape=(batch.size, 4))
    need(batch, "batch", dtype=INTEGERS)
    if len(x.shape) != 4 or min(height, width) < 1 or attributes["mode"] not in ("mean", "max"):
        raise KernelValueError(f"regions of {height} by {width} ({attributes['mode']!r}) of {x} are not possible")
    float(attributes["scale"]), operator.index(attributes["samples"])
    return (Spec(x.dtype, (regions.shape[0], x.shape[1], height, width)),)


def _region_samples(extent: float, count: int, samples: int) -> int:
    return samples if samples > 0 else max(math.ceil(extent / count), 1)


def _regions_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    samples = max(operator.index(attributes["samples"]), 2)
    return Cost(8.0 * outputs[0].size * samples**2, moved(specs, outputs))


def _line(start: float, extent: float, count: int, samples: int, size: int) -> tuple[AnyArray, ...]:
    """Samples along one side of a region: lower and upper neighbour, share of the upper one, inside or not."""
    places = start + (np.arange(count * samples) + 0.5) * (extent / (count * samples))
    inside = (places >= -1.0) & (places <= size)
    places = np.clip(places, 0.0, None)
    low = np.floor(places).astype(np.int64)
    edge = low >= size - 1
    low = np.where(edge, size - 1, low)
    high = np.where(edge, size - 1, low + 1)
    return low, high, np.where(edge, 0.0, places - low), inside


def _regions(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, regions, batch = widen(inputs[0]), inputs[1].astype(np.float64), inputs[2].reshape(-1).astype(np.int64)
    if batch.size and not (batch.min() >= 0 and batch.max() < x.shape[0]):
        raise KernelValueError(f"batch from {batch.min()} to {batch.max()} is not all in {x.shape[0]}")
    height, width = attributes["size"]
    scale, shift = float(attributes["scale"]), 0.5 if attributes["half_pixel"] else 0.0
    out = np.zeros(outputs[0].shape, x.dtype)
    for number, (region, image) in enumerate(zip(regions, batch, strict=True)):
        left, top, right, bottom = region * scale - shift
        wide, high = right - left, bottom - top
        if not attributes["half_pixel"]:
            wide, high = max(wide, 1.0), max(high, 1.0)
        rows = _region_samples(high, height, attributes["samples"])
        columns = _region_samples(wide, width, attributes["samples"])
        y0, y1, dy, row_in = _line(top, high, height, rows, x.shape[2])
        x0, x1, dx, column_in = _line(left, wide, width, columns, x.shape[3])
        plane = x[image]
        upper, lower = plane[:, y0], plane[:, y1]
        dy, dx = dy[:, None], dx[None, :]
        parts = [
            upper[:, :, x0] * ((1 - dy) * (1 - dx)),
            upper[:, :, x1] * ((1 - dy) * dx),
            lower[:, :, x0] * (dy * (1 - dx)),
            lower[:, :, x1] * (dy * dx),
        ]
        inside = row_in[:, None] & column_in[None, :]
        shape = (plane.shape[0], height, rows, width, columns)
        if attributes["mode"] == "mean":
            out[number] = np.where(inside, sum(parts), 0).reshape(shape).mean(axis=(2, 4))
        else:
            # The largest of the weighted neighbours, as ONNX defines it.
            largest = np.where(inside, np.maximum.reduce(parts), 0)
            out[number] = largest.reshape(shape).max(axis=(2, 4))
    return (narrow(out, outputs[0]),)


KERNELS: Final = (
    Kernel(
        "interpolate",
        ("x", "places", "weights"),
        NUMBERS,
        _weighted_shape,
        _weighted_cost,
        _weighted,
        "sums of elements along axis by place (results, neighbours) times weights; integers truncate and saturate",
        {"axis": REQUIRED},
        bound=Bound(16, MAGNITUDES),
        examples=(example((3, 5), Draw((4, 2), "below 5", "i64"), Draw((4, 2), "unit", "f32"), axis=1),),
    ),
    Kernel(
        "grid_sample",
        ("x", "grid"),
        FLOATS,
        _grid_shape,
        _grid_cost,
        _grid,
        "x (batch, channels, *sizes) at the places of grid (batch, *samples, axes), which are -1 to 1",
        {"mode": "linear", "fill": "zeros", "align": False},
        bound=Bound(32, INPUTS),
        examples=(
            example((2, 3, 4, 5), Draw((2, 3, 2, 2), "unit")),
            example((2, 3, 4, 5), Draw((2, 3, 2, 2), "unit"), mode="cubic", fill="reflection"),
        ),
    ),
    Kernel(
        "pool_regions",
        ("x", "regions", "batch"),
        FLOATS,
        _regions_shape,
        _regions_cost,
        _regions,
        "mean or max of interpolated samples in parts of regions (left, top, right, bottom) of x (batch, c, h, w)",
        {"size": REQUIRED, "scale": 1.0, "samples": 0, "mode": "mean", "half_pixel": True},
        bound=Bound(32, INPUTS),
        examples=(example((2, 3, 4, 5), Draw((2, 4), "unit"), Draw((2,), "below 2", "i64"), size=[2, 2], scale=4.0),),
    ),
)
