"""Norms of image models: by batch statistics, by group, over chosen axes, by neighbouring channels, by length.

Flows in: `x`, mostly of shape (batch, channels, *sizes), with a scale and a bias per channel. Flows out: an array of
the same shape, computed in f32 (f64 of f64) and rounded once. Not here: norms over the last axis (`normalise`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.rules import narrow, need, normal_axes, normal_axis, streaming, whole, widen
from supernode.emulator.kernels.table import REQUIRED, AnyArray, Attributes, Bound, Draw, Kernel, Spec, example
from supernode.errors import KernelValueError


def _channels(specs: Sequence[Spec], names: Sequence[str]) -> int:
    x = specs[0]
    if len(x.shape) < 2:
        raise KernelValueError(f"needs a batch and channels, not {x}")
    for name, spec in zip(names, specs[1:], strict=True):
        need(spec, name, dtype=FLOATS, shape=(x.shape[1],))
    return x.shape[1]


def _column(values: AnyArray, ndim: int, dtype: np.dtype[Any]) -> AnyArray:
    """One number per channel, as it broadcasts."""
    return values.astype(dtype, copy=False).reshape([-1] + [1] * (ndim - 2))


def _batch_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _channels(specs, ("scale", "bias", "mean", "variance"))
    float(attributes["epsilon"])
    return (specs[0],)


def _batch(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    wide = x.dtype
    scale, bias, mean, variance = (widen(array).astype(wide, copy=False) for array in inputs[1:])
    factor = scale / np.sqrt(variance + wide.type(attributes["epsilon"]))
    out = x - _column(mean, x.ndim, wide)
    out *= _column(factor, x.ndim, wide)
    out += _column(bias, x.ndim, wide)
    return (narrow(out, outputs[0]),)


def _group_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    channels = _channels(specs, ("scale", "bias"))
    groups = whole(attributes, "groups", 1)
    if channels % groups:
        raise KernelValueError(f"{channels} channels do not divide into {groups} groups")
    float(attributes["epsilon"])
    return (specs[0],)


def _standard(x: AnyArray, axes: tuple[int, ...], epsilon: Any) -> AnyArray:
    """(x - mean) / sqrt(variance + epsilon) over axes, in the type of x; a new array."""
    out: AnyArray = x - x.mean(axis=axes, keepdims=True)
    variance = np.square(out).mean(axis=axes, keepdims=True)
    out /= np.sqrt(variance + x.dtype.type(epsilon))
    return out


def _group(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    groups = attributes["groups"]
    flat = x.reshape([x.shape[0], groups, x.shape[1] // groups * math.prod(x.shape[2:])])
    out = _standard(flat, (2,), attributes["epsilon"]).reshape(x.shape)
    out *= _column(widen(inputs[1]), x.ndim, x.dtype)
    out += _column(widen(inputs[2]), x.ndim, x.dtype)
    return (narrow(out, outputs[0]),)


def _axes_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    normal_axes(attributes["axis"], len(specs[0].shape))
    float(attributes["epsilon"])
    return (specs[0],)


def _standardise(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    return (narrow(_standard(x, normal_axes(attributes["axis"], x.ndim), attributes["epsilon"]), outputs[0]),)


def _lp_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    normal_axis(attributes["axis"], len(specs[0].shape))
    if attributes["p"] not in (1, 2):
        raise KernelValueError(f"p is {attributes['p']}; it can be 1 or 2")
    return (specs[0],)


def _lp(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, axis = widen(inputs[0]), attributes["axis"]
    total = np.sum(np.abs(x) if attributes["p"] == 1 else np.square(x), axis=axis, keepdims=True)
    length = total if attributes["p"] == 1 else np.sqrt(total)
    return (narrow(np.where(length == 0, x.dtype.type(0), x / length), outputs[0]),)


def _local_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    if len(specs[0].shape) < 2 or operator.index(attributes["size"]) < 1:
        raise KernelValueError(f"needs a batch, channels and a size of 1 or more, not {specs[0]}, {attributes['size']}")
    for name in ("alpha", "beta", "bias"):
        float(attributes[name])
    return (specs[0],)


def _local(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    size, channels, kind = attributes["size"], x.shape[1], x.dtype.type
    squares = np.square(x)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    total = np.zeros_like(x)
    for shift in range(-before, after + 1):
        low, high = max(0, -shift), min(channels, channels - shift)
        if low < high:
            total[:, low:high] += squares[:, low + shift : high + shift]
    total *= kind(attributes["alpha"] / size)
    total += kind(attributes["bias"])
    return (narrow(x / total ** kind(attributes["beta"]), outputs[0]),)


def _batch_sizes(inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]) -> Sequence[AnyArray]:
    """The distance from the mean is as exact as the larger of the two."""
    x, scale, bias, mean, variance = (np.abs(array) for array in inputs)
    factor = scale / np.sqrt(variance + attributes["epsilon"])
    column = [-1] + [1] * (x.ndim - 2)
    return [(x + mean.reshape(column)) * factor.reshape(column) + bias.reshape(column)]


def _deviation_sizes(
    inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]
) -> Sequence[AnyArray]:
    """Against the largest element: where all are nearly equal, their distances from the mean are nothing but error."""
    return [np.abs(np.nan_to_num(results[0])).max(initial=0.0) + np.ones(1)]


_SMALL: Final = "numbers that are nearly equal, or whose squares overflow, have no distance from their mean"
_PER_CHANNEL: Final = (Draw((3,), "normal"), Draw((3,), "normal"))

KERNELS: Final = (
    Kernel(
        "batch_normalise",
        ("x", "scale", "bias", "mean", "variance"),
        FLOATS,
        _batch_shape,
        streaming(4),
        _batch,
        "(x - mean) / sqrt(variance + epsilon) scale + bias, by channel, with statistics that are given",
        {"epsilon": 1e-5},
        bound=Bound(16, _batch_sizes, degree=3),
        examples=(example((2, 3, 4), *_PER_CHANNEL, (3,), Draw((3,), "positive")),),
    ),
    Kernel(
        "group_normalise",
        ("x", "scale", "bias"),
        FLOATS,
        _group_shape,
        streaming(8),
        _group,
        "each group of channels of each element of the batch standardised, times scale, plus bias, by channel",
        {"groups": REQUIRED, "epsilon": 1e-5},
        bound=Bound(64, _deviation_sizes, special=_SMALL),
        examples=(example((2, 4, 5), *(Draw((4,), "normal"),) * 2, groups=2),),
    ),
    Kernel(
        "standardise",
        ("x",),
        FLOATS,
        _axes_shape,
        streaming(8),
        _standardise,
        "(x - mean) / sqrt(variance + epsilon) over the axes",
        {"axis": None, "epsilon": 1e-9},
        bound=Bound(64, _deviation_sizes, special=_SMALL),
        examples=(example((3, 4, 5), axis=[0, 2], epsilon=1e-5),),
    ),
    Kernel(
        "lp_normalise",
        ("x",),
        FLOATS,
        _lp_shape,
        streaming(4),
        _lp,
        "x divided by its p-norm (p 1 or 2) along axis; 0 where that is 0",
        {"axis": -1, "p": 2},
        bound=Bound(32, degree=2),
        examples=(
            example((3, 5)),
            example((3, 5), axis=0, p=1),
        ),
    ),
    Kernel(
        "local_response_norm",
        ("x",),
        FLOATS,
        _local_shape,
        streaming(20),
        _local,
        "x / (bias + alpha / size sum(x^2))^beta over size neighbouring channels",
        {"size": REQUIRED, "alpha": 0.0001, "beta": 0.75, "bias": 1.0},
        bound=Bound(32, degree=3),
        examples=(example((2, 5, 3), size=3),),
    ),
)
