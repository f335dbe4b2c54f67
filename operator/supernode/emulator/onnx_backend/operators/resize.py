"""Resizing by interpolation: which elements make up each new one, and with which weights.

Flows in: sizes or scales, and how coordinates are meant. Flows out: the resized tensor, axis by axis, which is the same
as all at once. The host works out the few numbers per axis; the device does the rest. Not here: sampling on a grid
(`vision`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from supernode.emulator.client import Array
from supernode.emulator.dtypes import NUMBERS
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.emulator.onnx_backend.values import AnyArray
from supernode.errors import ModelError


class Way(NamedTuple):
    """How an operator interpolates.

    Attributes:
        mode: nearest, linear or cubic.
        coordinates: what a place in the result means in the input.
        rounding: of nearest.
        cubic: coefficient of the cubic filter.
        antialias: widen the filter where the result is smaller.
        exclude: elements outside the input do not count.
    """

    mode: str
    coordinates: str
    rounding: str
    cubic: float
    antialias: bool
    exclude: bool


class Axis(NamedTuple):
    """One axis to resize: sizes before and after, the scale, and the region of `tf_crop_and_resize`."""

    size: int
    new: int
    scale: float
    start: float
    end: float


def sources(axis: Axis, way: Way) -> AnyArray:
    """Where each new element lies in the input."""
    place = np.arange(axis.new, dtype=np.float64)
    exact = axis.scale * axis.size
    if way.coordinates == "align_corners":
        return place * (axis.size - 1) / (exact - 1) if exact != 1 else np.zeros(axis.new)
    if way.coordinates == "asymmetric":
        return place / axis.scale
    if way.coordinates == "tf_crop_and_resize":
        span = (axis.end - axis.start) * (axis.size - 1)
        inside = place * span / (exact - 1) if exact != 1 else np.full(axis.new, span / 2)
        return np.asarray(inside + axis.start * (axis.size - 1))
    if way.coordinates == "pytorch_half_pixel" and exact == 1:
        return np.full(axis.new, -0.5)
    out = (place + 0.5) / axis.scale - 0.5
    if way.coordinates == "half_pixel_symmetric":
        out += axis.size / 2 * (1 - axis.new / exact)
    elif way.coordinates not in ("half_pixel", "pytorch_half_pixel"):
        raise ModelError(f"coordinate_transformation_mode {way.coordinates!r} is unknown")
    return np.asarray(out)


def _nearest(at: AnyArray, rounding: str) -> AnyArray:
    if rounding == "round_prefer_floor":
        return np.asarray(np.ceil(at - 0.5))
    if rounding == "round_prefer_ceil":
        return np.asarray(np.floor(at + 0.5))
    if rounding in ("floor", "ceil"):
        return np.asarray(np.floor(at) if rounding == "floor" else np.ceil(at))
    raise ModelError(f"nearest_mode {rounding!r} is unknown")


def _filter(away: AnyArray, way: Way) -> AnyArray:
    """Weight of an element by its distance."""
    away = np.abs(away)
    if way.mode == "linear":
        return np.asarray(np.clip(1 - away, 0, 1))
    a = way.cubic
    near = ((a + 2) * away - (a + 3)) * away * away + 1
    far = ((a * away - 5 * a) * away + 8 * a) * away - 4 * a
    return np.asarray(np.where(away <= 1, near, np.where(away < 2, far, 0.0)))


def taps(axis: Axis, way: Way) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Places (new, neighbours) and their weights, and which new elements lie outside the region."""
    at = sources(axis, way)
    outside = (at < 0) | (at > axis.size - 1) if way.coordinates == "tf_crop_and_resize" else np.zeros(axis.new, bool)
    if way.mode == "nearest":
        places = _nearest(at, way.rounding)[:, None]
        weights = np.ones_like(places)
    else:
        squeeze = min(axis.scale, 1.0) if way.antialias else 1.0
        reach = (1 if way.mode == "linear" else 2) / squeeze
        base = np.floor(at)
        steps = np.arange(np.floor(-reach) + 1, np.ceil(reach) + 1)
        places = base[:, None] + steps
        weights = _filter((places - at[:, None]) * squeeze, way)
        if way.exclude:
            weights = np.where((places < 0) | (places >= axis.size), 0.0, weights)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    return np.clip(places, 0, axis.size - 1).astype(np.int64), weights, outside


def apply(call: Call, x: Array, axes: Mapping[int, Axis], way: Way, beyond: float = 0.0) -> Array:
    """Resize the axes of an array."""
    own, outside = x.dtype, {}
    # Several roundings to 16 bits, one per axis, would add up; whole numbers are truncated at the end alone.
    wide = "f32" if own in ("f16", "bf16", "i8", "u8") else own
    x = call.cast(x, wide) if way.mode != "nearest" else x
    for number, axis in axes.items():
        places, weights, away = taps(axis, way)
        if away.any():
            outside[number] = away
        where = call.constant(np.ascontiguousarray(places), np.dtype(np.int64))
        if way.mode == "nearest":
            x = call.launch("take", x, where.reshape([axis.new]), axis=number)
        else:
            shares = call.constant(np.ascontiguousarray(weights), np.dtype(np.float64))
            x = call.launch("interpolate", x, where, shares, axis=number)
    for number, away in outside.items():
        shape = [1] * len(x.shape)
        shape[number] = away.size
        flags = call.constant(away, np.dtype(bool)).reshape(shape)
        x = call.launch("where", flags, call.launch("full", shape=[], value=beyond, dtype=x.dtype), x)
    return call.cast(x, own)


def _scaled(shape: Sequence[int], scales: Sequence[float], axes: Sequence[int]) -> dict[int, Axis]:
    return {
        number: Axis(shape[number], int(np.floor(np.float64(scale) * shape[number])), float(scale), 0.0, 1.0)
        for number, scale in zip(axes, scales, strict=True)
    }


def _sized(shape: Sequence[int], sizes: Sequence[int], axes: Sequence[int], policy: str) -> dict[int, Axis]:
    scales = [new / shape[number] for number, new in zip(axes, sizes, strict=True)]
    if policy == "stretch":
        return {
            number: Axis(shape[number], new, scale, 0.0, 1.0)
            for number, new, scale in zip(axes, sizes, scales, strict=True)
        }
    scale = min(scales) if policy == "not_larger" else max(scales)
    return {number: Axis(shape[number], int(scale * shape[number] + 0.5), scale, 0.0, 1.0) for number in axes}


def _resize(call: Call) -> Any:
    x = call.array(0)
    if x.dtype not in NUMBERS:
        return NotImplemented
    old = call.version < 11
    ndim = len(x.shape)
    axes = [axis % ndim for axis in call.get("axes") or range(ndim)]
    scale_place, size_place = (1, 9) if old else (2, 3)
    if call.has(size_place) and call.tensor(size_place).size:
        sizes = call.ints(size_place) or []
        plan = _sized(x.shape, sizes, axes, call.get("keep_aspect_ratio_policy", "stretch"))
    else:
        plan = _scaled(x.shape, [float(s) for s in call.value(scale_place).reshape(-1)], axes)
    if not old and call.has(1) and call.tensor(1).size:
        region = [float(n) for n in call.value(1).reshape(-1)]
        for i, number in enumerate(axes):
            plan[number] = plan[number]._replace(start=region[i], end=region[i + len(axes)])
    way = Way(
        call.get("mode", "nearest"),
        "asymmetric" if old else call.get("coordinate_transformation_mode", "half_pixel"),
        "floor" if old else call.get("nearest_mode", "round_prefer_floor"),
        float(call.get("cubic_coeff_a", -0.75)),
        bool(call.get("antialias", 0)),
        bool(call.get("exclude_outside", 0)),
    )
    crop = way.coordinates == "tf_crop_and_resize"
    plan = {n: axis for n, axis in plan.items() if axis.size != axis.new or axis.scale != 1 or crop}
    return call.out(apply(call, x, plan, way, float(call.get("extrapolation_value", 0.0))))


def _upsample(call: Call) -> Any:
    x = call.array(0)
    if x.dtype not in NUMBERS:
        return NotImplemented
    if call.version >= 9:
        scales = [float(s) for s in call.value(1).reshape(-1)]
    elif call.get("scales"):
        scales = call.get("scales")
    else:
        scales = [1.0, 1.0, call.get("height_scale", 1.0), call.get("width_scale", 1.0)]
    mode = {"bilinear": "linear"}.get(call.get("mode", "nearest"), call.get("mode", "nearest"))
    way = Way(mode, "asymmetric", "floor", -0.75, antialias=False, exclude=False)
    plan = {n: axis for n, axis in _scaled(x.shape, scales, range(len(x.shape))).items() if axis.scale != 1}
    return call.out(apply(call, x, plan, way))


OPERATORS: Final[Mapping[str, Lowering]] = {"Resize": _resize, "Upsample": _upsample}
