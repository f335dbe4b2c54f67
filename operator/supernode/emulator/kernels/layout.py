"""Kernels that move elements without changing them: transpose, concatenate, split, slice, broadcast, take.

Flows in: arrays. Flows out: contiguous arrays in memory of their own. Not here: reshape, which moves nothing (a view,
see `session`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import INTEGERS, STORED
from supernode.emulator.kernels.rules import (
    broadcast,
    moved,
    need,
    normal_axes,
    normal_axis,
    normal_shape,
    same_dtype,
    streaming,
)
from supernode.emulator.kernels.table import EXACT, REQUIRED, AnyArray, Attributes, Cost, Draw, Kernel, Spec, example
from supernode.errors import KernelIndexError, KernelValueError


def _permutation(attributes: Attributes, ndim: int) -> tuple[int, ...]:
    if attributes["axes"] is None:
        return tuple(reversed(range(ndim)))
    axes = normal_axes(attributes["axes"], ndim)
    if len(axes) != ndim:
        raise KernelValueError(f"axes {attributes['axes']} do not name each of {ndim} axes")
    return axes


def _transpose_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shape = specs[0].shape
    return (Spec(specs[0].dtype, tuple(shape[axis] for axis in _permutation(attributes, len(shape)))),)


def _transpose(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (inputs[0].transpose(_permutation(attributes, inputs[0].ndim)).copy(order="C"),)


def _concatenate_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    first = specs[0].shape
    axis = normal_axis(attributes["axis"], len(first))
    dtype = same_dtype(specs)
    for spec in specs:
        if len(spec.shape) != len(first) or any(
            a != b for i, (a, b) in enumerate(zip(spec.shape, first, strict=True)) if i != axis
        ):
            raise KernelValueError(f"{spec} and {specs[0]} differ outside axis {axis}")
    return (Spec(dtype, (*first[:axis], sum(spec.shape[axis] for spec in specs), *first[axis + 1 :])),)


def _concatenate(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (np.concatenate(inputs, axis=attributes["axis"]),)


def _split_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shape, sections = specs[0].shape, operator.index(attributes["sections"])
    axis = normal_axis(attributes["axis"], len(shape))
    if not 1 <= sections <= 4096 or shape[axis] % sections:
        raise KernelValueError(f"axis {axis} of {specs[0]} does not divide into {sections} equal sections")
    part = Spec(specs[0].dtype, (*shape[:axis], shape[axis] // sections, *shape[axis + 1 :]))
    return (part,) * sections


def _split(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return tuple(part.copy(order="C") for part in np.split(inputs[0], len(outputs), axis=attributes["axis"]))


def _slice_bounds(spec_shape: tuple[int, ...], attributes: Attributes) -> tuple[int, slice]:
    axis = normal_axis(attributes["axis"], len(spec_shape))
    start, stop = operator.index(attributes["start"]), operator.index(attributes["stop"])
    if not 0 <= start <= stop <= spec_shape[axis]:
        raise KernelIndexError(f"[{start}:{stop}] is not inside axis {axis} of size {spec_shape[axis]}")
    return axis, slice(start, stop)


def _slice_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shape = specs[0].shape
    axis, bounds = _slice_bounds(shape, attributes)
    return (Spec(specs[0].dtype, (*shape[:axis], bounds.stop - bounds.start, *shape[axis + 1 :])),)


def _slice(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    axis, bounds = _slice_bounds(inputs[0].shape, attributes)
    return (inputs[0][(slice(None),) * axis + (bounds,)].copy(order="C"),)


def _written_only(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """Cost of a kernel that reads only what it writes."""
    return Cost(0.0, 2 * moved((), outputs))


def _broadcast_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shape = normal_shape(attributes["shape"])
    if broadcast(specs[0].shape, shape) != shape:
        raise KernelValueError(f"{specs[0]} does not broadcast to {list(shape)}")
    return (Spec(specs[0].dtype, shape),)


def _broadcast(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (np.broadcast_to(inputs[0], outputs[0].shape).copy(order="C"),)


def _take_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, indices = specs
    need(indices, "indices", dtype=INTEGERS)
    axis = normal_axis(attributes["axis"], len(x.shape))
    if x.shape[axis] == 0 and indices.size:
        raise KernelValueError(f"nothing to take: axis {axis} has size 0")
    return (Spec(x.dtype, x.shape[:axis] + indices.shape + x.shape[axis + 1 :]),)


def _take(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, indices = inputs[0], inputs[1].astype(np.int64, copy=False)
    size = x.shape[attributes["axis"]]
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        raise KernelIndexError(f"indices from {indices.min()} to {indices.max()} are not all in an axis of size {size}")
    return (np.ascontiguousarray(np.take(x, indices, axis=attributes["axis"])),)


KERNELS: Final = (
    Kernel(
        "transpose",
        ("x",),
        STORED,
        _transpose_shape,
        streaming(0),
        _transpose,
        "axes in another order (default: reversed)",
        {"axes": None},
        bound=EXACT,
        examples=(
            example((2, 3, 4)),
            example((2, 3, 4), axes=[1, 2, 0]),
        ),
    ),
    Kernel(
        "concatenate",
        ("x", "..."),
        STORED,
        _concatenate_shape,
        streaming(0),
        _concatenate,
        "arrays one after the other along axis",
        {"axis": 0},
        bound=EXACT,
        examples=(example((2, 3), (2, 4), (2, 1), axis=1),),
    ),
    Kernel(
        "split",
        ("x",),
        STORED,
        _split_shape,
        streaming(0),
        _split,
        "as many equal parts along axis as sections says",
        {"sections": REQUIRED, "axis": 0},
        outputs=("...",),
        bound=EXACT,
        examples=(example((4, 6), sections=3, axis=1),),
    ),
    Kernel(
        "slice",
        ("x",),
        STORED,
        _slice_shape,
        _written_only,
        _slice,
        "elements start to stop (excluded) along axis",
        {"start": REQUIRED, "stop": REQUIRED, "axis": 0},
        bound=EXACT,
        examples=(example((4, 6), start=2, stop=5, axis=1),),
    ),
    Kernel(
        "broadcast_to",
        ("x",),
        STORED,
        _broadcast_shape,
        streaming(0),
        _broadcast,
        "x repeated to a shape",
        {"shape": REQUIRED},
        bound=EXACT,
        examples=(example((3, 1), shape=[2, 3, 4]),),
    ),
    Kernel(
        "take",
        ("x", "indices"),
        STORED,
        _take_shape,
        _written_only,
        _take,
        "elements of x along axis by number; a number outside is an error",
        {"axis": 0},
        bound=EXACT,
        examples=(example((4, 6), Draw((2, 5), "below 6", "i64"), axis=1),),
    ),
)
