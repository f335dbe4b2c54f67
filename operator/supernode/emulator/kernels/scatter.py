"""Gather and scatter by tuples of places, the largest elements, one-hot rows, padding, reversed sequences.

Flows in: arrays and whole numbers, negative ones counted from the end. Flows out: arrays in memory of their own. Where
several elements go to one place, they are applied in the order of the array, so the result is always the same. Not
here: slices and single axes (`indexing`, `layout`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import ALL, INTEGERS, NUMBERS
from supernode.emulator.kernels.rules import moved, narrow, need, normal_axis, same_dtype, streaming, whole, widen
from supernode.emulator.kernels.table import EXACT, REQUIRED, AnyArray, Attributes, Cost, Draw, Kernel, Spec, example
from supernode.errors import KernelIndexError, KernelTypeError, KernelValueError

_REDUCTIONS: Final[dict[str, Callable[..., Any] | None]] = {
    "none": None,
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}
_MODES: Final = ("constant", "reflect", "edge", "wrap")


def _places(indices: AnyArray, sizes: Sequence[int]) -> tuple[AnyArray, ...]:
    """Columns of `indices` (last axis) as places in axes of these sizes.

    Raises:
        KernelError: one lies outside.
    """
    out = []
    for column, size in enumerate(sizes):
        place = indices[..., column].astype(np.int64)
        if place.size and not (-size <= place.min() and place.max() < size):
            raise KernelIndexError(f"indices from {place.min()} to {place.max()} are not all in an axis of size {size}")
        out.append(np.where(place < 0, place + size, place))
    return tuple(out)


def _selected(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """Bytes of the places and of the elements that are read and written."""
    return Cost(0.0, moved(specs[1:], outputs) + moved((), outputs))


def _written(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """A copy, then reading and writing of the elements that change."""
    return Cost(float(specs[-1].size), moved(specs[:1], outputs) + moved(specs[1:], specs[-1:]))


def _gather_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, places = specs
    need(places, "indices", dtype=INTEGERS)
    batch = operator.index(attributes["batch"])
    if not places.shape or not 0 <= batch < len(places.shape) or x.shape[:batch] != places.shape[:batch]:
        raise KernelValueError(f"{places} does not hold places in {x} behind {batch} batch axes")
    depth = places.shape[-1]
    if batch + depth > len(x.shape):
        raise KernelValueError(f"{places} names {depth} axes of {x} behind {batch} batch axes")
    return (Spec(x.dtype, places.shape[:-1] + x.shape[batch + depth :]),)


def _gather(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, indices, batch = inputs[0], inputs[1], attributes["batch"]
    depth = indices.shape[-1]
    places = _places(indices, x.shape[batch : batch + depth])
    between = indices.ndim - 1 - batch
    front = tuple(
        np.arange(n).reshape([1] * i + [n] + [1] * (batch - 1 - i + between)) for i, n in enumerate(x.shape[:batch])
    )
    found = x[front + places] if front + places else np.broadcast_to(x, outputs[0].shape)
    return (narrow(np.array(found, order="C"), outputs[0]),)


def _reduction(attributes: Attributes, dtype: str) -> Callable[..., Any] | None:
    name = attributes["reduction"]
    if name not in _REDUCTIONS:
        raise KernelValueError(f"reduction {name!r} is none of {', '.join(_REDUCTIONS)}")
    if name != "none" and dtype not in NUMBERS:
        raise KernelTypeError(f"reduction {name} of {dtype} is not possible")
    return _REDUCTIONS[name]


def _apply(x: AnyArray, key: tuple[AnyArray, ...], update: AnyArray, reduction: Callable[..., Any] | None) -> AnyArray:
    """`x` with elements replaced, or combined with what is there already; 16-bit floats combine in f32."""
    if reduction is None:
        out = x.copy()
        out[key] = update
        return out
    out = widen(x).copy() if widen(x) is x else widen(x)
    reduction.at(out, key, widen(update))  # type: ignore[attr-defined]
    return out


def _scatter_nd_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, places, update = specs
    need(places, "indices", dtype=INTEGERS)
    same_dtype((x, update))
    _reduction(attributes, x.dtype)
    if not places.shape or places.shape[-1] > len(x.shape):
        raise KernelValueError(f"{places} does not hold places in {x}")
    need(update, "update", shape=places.shape[:-1] + x.shape[places.shape[-1] :])
    return (x,)


def _scatter_nd(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, indices, update = inputs
    key = _places(indices, x.shape[: indices.shape[-1]])
    return (narrow(_apply(x, key, update, _reduction(attributes, outputs[0].dtype)), outputs[0]),)


def _scatter_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, places, update = specs
    need(places, "indices", dtype=INTEGERS)
    same_dtype((x, update))
    _reduction(attributes, x.dtype)
    axis = normal_axis(attributes["axis"], len(x.shape))
    need(update, "update", shape=places.shape)
    if len(places.shape) != len(x.shape) or any(
        wanted > size for i, (size, wanted) in enumerate(zip(x.shape, places.shape, strict=True)) if i != axis
    ):
        raise KernelValueError(f"{places} is larger than {x} outside axis {axis}")
    return (x,)


def _scatter(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, indices, update = inputs
    axis = normal_axis(attributes["axis"], x.ndim)
    (place,) = _places(indices[..., None], x.shape[axis : axis + 1])
    key = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    key[axis] = place
    return (narrow(_apply(x, tuple(key), update, _reduction(attributes, outputs[0].dtype)), outputs[0]),)


def _one_hot_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    indices, values = specs
    need(indices, "indices", dtype=INTEGERS)
    need(values, "values", shape=(2,))
    depth = whole(attributes, "depth")
    axis = normal_axis(attributes["axis"], len(indices.shape) + 1)
    if depth < 0:
        raise KernelValueError(f"depth {depth} is negative")
    return (Spec(values.dtype, (*indices.shape[:axis], depth, *indices.shape[axis:])),)


def _one_hot(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    indices, (off, on) = inputs[0].astype(np.int64), inputs[1]
    depth, axis = attributes["depth"], normal_axis(attributes["axis"], inputs[0].ndim + 1)
    wanted = np.where(indices < 0, indices + depth, indices)
    classes = np.arange(depth).reshape([depth] + [1] * (indices.ndim - axis))
    return (narrow(np.where(np.expand_dims(wanted, axis) == classes, on, off), outputs[0]),)


def _top_k_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (x,) = specs
    axis, k = normal_axis(attributes["axis"], len(x.shape)), operator.index(attributes["k"])
    if not 0 <= k <= x.shape[axis]:
        raise KernelValueError(f"k is {k}, but axis {axis} of {x} has size {x.shape[axis]}")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return Spec(x.dtype, shape), Spec("i64", shape)


def _top_k(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    axis, k = attributes["axis"], attributes["k"]
    x = widen(inputs[0])
    if attributes["largest"]:
        # Backwards, so that of equal elements the first comes first.
        last = x.shape[axis] - 1
        places = last - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        places = np.argsort(x, axis=axis, kind="stable")
    places = np.take(places, np.arange(k), axis=axis)
    return narrow(np.take_along_axis(inputs[0], places, axis), outputs[0]), narrow(places, outputs[1])


def _passes(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """A pass over the data per bit of the number of elements kept."""
    k = outputs[0].shape[normal_axis(attributes["axis"], len(outputs[0].shape))]
    return Cost(0.0, moved(specs, outputs) * max(math.ceil(math.log2(k + 1)), 1))


def _widths(attributes: Attributes, ndim: int) -> list[tuple[int, int]]:
    widths = [(operator.index(before), operator.index(after)) for before, after in attributes["widths"]]
    if len(widths) != ndim or min((min(pair) for pair in widths), default=0) < 0:
        raise KernelValueError(f"widths {attributes['widths']} are not two sizes for each of {ndim} axes")
    return widths


def _pad_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x = specs[0]
    widths = _widths(attributes, len(x.shape))
    mode = attributes["mode"]
    if mode not in _MODES:
        raise KernelValueError(f"mode {mode!r} is none of {', '.join(_MODES)}")
    if len(specs) > 1:
        need(specs[1], "value", dtype=x.dtype, shape=())
    for size, width in zip(x.shape, widths, strict=True):
        if mode != "constant" and size == 0 and max(width):
            raise KernelValueError(f"nothing of {x} can be repeated")
    return (Spec(x.dtype, tuple(n + sum(pair) for n, pair in zip(x.shape, widths, strict=True))),)


def _pad(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, mode = inputs[0], attributes["mode"]
    widths = _widths(attributes, x.ndim)
    if mode != "constant":
        return (narrow(np.pad(x, widths, mode), outputs[0]),)
    out = np.zeros(outputs[0].shape, x.dtype)
    if len(inputs) > 1:
        out[...] = inputs[1]
    out[tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True))] = x
    return (out,)


def _reverse_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, lengths = specs
    time, batch = (normal_axis(attributes[name], len(x.shape)) for name in ("time", "batch"))
    if time == batch:
        raise KernelValueError(f"time and batch are both axis {time}")
    need(lengths, "lengths", dtype=INTEGERS, shape=(x.shape[batch],))
    return (x,)


def _reverse(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, lengths = inputs[0], inputs[1].astype(np.int64)
    time, batch = (normal_axis(attributes[name], x.ndim) for name in ("time", "batch"))
    size = x.shape[time]
    if lengths.size and not (lengths.min() >= 0 and lengths.max() <= size):
        raise KernelValueError(f"lengths from {lengths.min()} to {lengths.max()} are not all in an axis of size {size}")
    steps = np.arange(size)
    places = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)  # (batch, time)
    if time < batch:
        places = places.T
    shape = [1] * x.ndim
    shape[time], shape[batch] = size, x.shape[batch]
    return (narrow(np.take_along_axis(x, places.reshape(shape), time), outputs[0]),)


KERNELS: Final = (
    Kernel(
        "gather_nd",
        ("x", "indices"),
        ALL,
        _gather_shape,
        _selected,
        _gather,
        "the parts of x at the places that the last axis of indices names, behind batch common axes",
        {"batch": 0},
        bound=EXACT,
        examples=(example((3, 4), Draw((5, 2), "below 3", "i64")),),
    ),
    Kernel(
        "scatter_nd",
        ("x", "indices", "update"),
        ALL,
        _scatter_nd_shape,
        _written,
        _scatter_nd,
        "x with the parts at the places that indices names replaced, or combined (add, mul, max, min)",
        {"reduction": "none"},
        bound=EXACT,
        examples=(
            example((3, 4), Draw((5, 2), "below 3", "i64"), (5,)),
            example((3, 4), Draw((5, 1), "below 3", "i64"), (5, 4), reduction="max"),
        ),
    ),
    Kernel(
        "scatter_elements",
        ("x", "indices", "update"),
        ALL,
        _scatter_shape,
        _written,
        _scatter,
        "x with elements along axis replaced, or combined (add, mul, max, min), at the places of indices",
        {"axis": 0, "reduction": "none"},
        bound=EXACT,
        examples=(
            example((3, 4), Draw((2, 4), "below 3", "i64"), (2, 4)),
            example((3, 4), Draw((2, 4), "below 3", "i64"), (2, 4), reduction="min"),
        ),
    ),
    Kernel(
        "one_hot",
        ("indices", "values"),
        INTEGERS,
        _one_hot_shape,
        streaming(1),
        _one_hot,
        "values[1] at the place that indices says along a new axis, values[0] elsewhere",
        {"depth": REQUIRED, "axis": -1},
        bound=EXACT,
        examples=(example(Draw((4,), "below 3", "i64"), (2,), depth=3),),
    ),
    Kernel(
        "top_k",
        ("x",),
        NUMBERS,
        _top_k_shape,
        _passes,
        _top_k,
        "the k largest (or smallest) elements along axis in order, and their places; equal ones in theirs",
        {"k": REQUIRED, "axis": -1, "largest": True},
        outputs=("values", "places"),
        bound=EXACT,
        examples=(example((5, 7), k=3),),
    ),
    Kernel(
        "pad",
        ("x", "value"),
        ALL,
        _pad_shape,
        streaming(0),
        _pad,
        "x with elements added at the ends of its axes: value (or 0), reflected, the edge's, or from the other end",
        {"widths": REQUIRED, "mode": "constant"},
        optional=1,
        bound=EXACT,
        examples=(
            example((3, 4), (), widths=[[1, 2], [0, 3]]),
            example((3, 4), widths=[[1, 2], [0, 3]], mode="reflect"),
        ),
    ),
    Kernel(
        "reverse_sequence",
        ("x", "lengths"),
        ALL,
        _reverse_shape,
        streaming(0),
        _reverse,
        "the first lengths elements along axis time in reverse, for each place of axis batch",
        {"time": 0, "batch": 1},
        bound=EXACT,
        examples=(example((5, 4), Draw((4,), "below 5", "i64")),),
    ),
)
