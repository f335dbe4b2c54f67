"""Elements by position: slices, numbers and integer arrays mixed as in NumPy, reading and writing.

Flows in: an array, integer arrays, and `key`, a list with one item per step through the axes:
`["number", n]`, `["slice", start, stop, step]`, `["new"]` (an axis of size 1), `["array"]` (the next integer input),
`["apart"]` (no axis, but what stands before and behind it is not side by side: an Ellipsis of no axes).
Flows out: an array, or the first input changed in place. Boolean arrays are turned into integer ones by `nonzero`
before. Not here: plain ranges of one axis (`layout`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import INTEGERS, STORED
from supernode.emulator.kernels.rules import broadcast, moved, narrow, need, normal_axis
from supernode.emulator.kernels.table import EXACT, REQUIRED, AnyArray, Attributes, Cost, Draw, Kernel, Spec, example
from supernode.errors import KernelIndexError, KernelTypeError, KernelValueError


def _written_only(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """Bytes of the places and of the elements that are read and written."""
    return Cost(0.0, moved(specs[1:], outputs) + moved((), outputs))


def _given_only(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return Cost(0.0, 2 * moved(specs[1:], ()))


def _item(item: Any) -> tuple[str, tuple[int | None, ...]]:
    kind, *numbers = item
    if kind not in ("number", "slice", "new", "array", "apart") or len(numbers) != {"number": 1, "slice": 3}.get(
        kind, 0
    ):
        raise KernelTypeError(f"key item {item!r} is not understood")
    return kind, tuple(None if number is None else operator.index(number) for number in numbers)


def selected(shape: tuple[int, ...], key: Sequence[Any], places: Sequence[Spec]) -> tuple[int, ...]:
    """Shape of what a key selects.

    Raises:
        KernelError: too many items, a number outside its axis, or arrays that do not broadcast.
    """
    left, axis, out = list(places), 0, []
    advanced: list[tuple[int, ...]] = []
    at: list[int] = []  # positions in the key of what is broadcast together
    where = 0
    items = [_item(item) for item in key]
    arrays = any(kind == "array" for kind, _ in items)
    if sum(kind not in ("new", "apart") for kind, _ in items) > len(shape):
        raise KernelIndexError(f"{len(items)} items are too many for {len(shape)} axes")
    if ("apart", ()) in items and sum(kind not in ("new", "apart") for kind, _ in items) < len(shape):
        raise KernelValueError(f"apart stands for no axis, but {len(items)} items leave some of {len(shape)} axes open")
    for position, (kind, numbers) in enumerate(items):
        if kind in ("new", "apart"):
            out += [1] if kind == "new" else []
            continue
        size = shape[axis]
        axis += 1
        if kind == "slice":
            out.append(len(range(*slice(*numbers).indices(size))))
        elif kind == "number":
            normal_axis_of(numbers[0], size)
        if kind == "array" or (kind == "number" and arrays):
            if not at:
                where = len(out)
            at.append(position)
            if kind == "array":
                if not left:
                    raise KernelValueError("the key names more arrays than there are")
                need(left[0], "places", dtype=INTEGERS)
                advanced.append(left.pop(0).shape)
    if left:
        raise KernelValueError("the key names fewer arrays than there are")
    if advanced:
        together = at[-1] - at[0] + 1 == len(at)
        where = where if together else 0
        out[where:where] = broadcast(*advanced)
    return (*out, *shape[axis:])


def normal_axis_of(number: int | None, size: int) -> int:
    """A position counted from the front.

    Raises:
        KernelError: not inside the axis.
    """
    if number is None or not -size <= number < size:
        raise KernelIndexError(f"index {number} is outside an axis of size {size}")
    return number % size


def _numpy_key(key: Sequence[Any], places: Sequence[AnyArray]) -> tuple[Any, ...]:
    left = iter(places)
    out: list[Any] = []
    for kind, numbers in map(_item, key):
        if kind in ("new", "apart"):
            out.append(None if kind == "new" else Ellipsis)
        elif kind == "slice":
            out.append(slice(*numbers))
        elif kind == "number":
            out.append(numbers[0])
        else:
            out.append(next(left).astype(np.int64, copy=False))
    return tuple(out)


def _index_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (Spec(specs[0].dtype, selected(specs[0].shape, attributes["key"], specs[1:])),)


def _index(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    try:
        found = inputs[0][_numpy_key(attributes["key"], inputs[1:])]
    except IndexError as exc:
        raise KernelIndexError(str(exc)) from exc
    return (np.array(found, order="C").reshape(outputs[0].shape),)


def _set_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    if specs[1].dtype != specs[0].dtype:
        raise KernelTypeError(f"the value must be {specs[0].dtype}, not {specs[1].dtype}")
    target = selected(specs[0].shape, attributes["key"], specs[2:])
    if broadcast(specs[1].shape, target) != target:
        raise KernelValueError(f"{specs[1]} does not broadcast to {list(target)}")
    return ()


def _set(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    try:
        inputs[0][_numpy_key(attributes["key"], inputs[2:])] = inputs[1]
    except IndexError as exc:
        raise KernelIndexError(str(exc)) from exc
    return ()


def _along_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, places = specs
    need(places, "indices", dtype=INTEGERS)
    axis = normal_axis(attributes["axis"], len(x.shape))
    if len(places.shape) != len(x.shape):
        raise KernelValueError(f"{places} and {x} need equally many axes")
    others = broadcast(*((*s.shape[:axis], 1, *s.shape[axis + 1 :]) for s in specs))
    return (Spec(x.dtype, (*others[:axis], places.shape[axis], *others[axis + 1 :])),)


def _along(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, places = inputs[0], inputs[1].astype(np.int64)
    size = x.shape[attributes["axis"]]
    if places.size and not (-size <= places.min() and places.max() < size):
        raise KernelIndexError(f"indices from {places.min()} to {places.max()} are not all in an axis of size {size}")
    return (narrow(np.take_along_axis(x, places, attributes["axis"]), outputs[0]),)


def _repeat_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, repeats = specs
    need(repeats, "repeats", dtype=INTEGERS)
    axis = normal_axis(attributes["axis"], len(x.shape))
    if broadcast(repeats.shape, (x.shape[axis],)) != (x.shape[axis],):
        raise KernelValueError(f"{repeats} does not say how often each of {x.shape[axis]} elements is repeated")
    return (Spec(x.dtype, (*x.shape[:axis], operator.index(attributes["length"]), *x.shape[axis + 1 :])),)


def _repeat(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, axis = inputs[0], normal_axis(attributes["axis"], inputs[0].ndim)
    repeats = np.broadcast_to(inputs[1].astype(np.int64), (x.shape[axis],))
    if (repeats.size and repeats.min() < 0) or repeats.sum() != attributes["length"]:
        raise KernelValueError(f"repeats add up to {repeats.sum()}, not to length {attributes['length']}")
    return (narrow(np.repeat(x, repeats, axis), outputs[0]),)


KERNELS: Final = (
    Kernel(
        "index",
        ("x", "..."),
        STORED,
        _index_shape,
        _written_only,
        _index,
        "the elements that key selects (numbers, slices, new axes, integer arrays)",
        {"key": REQUIRED},
        bound=EXACT,
        examples=(
            example((3, 4), key=[["number", 1], ["slice", None, None, -2]]),
            example((3, 4), Draw((2, 1), "below 3", "i64"), Draw((2,), "below 4", "i64"), key=[["array"], ["array"]]),
        ),
    ),
    Kernel(
        "set_index",
        ("x", "value", "..."),
        STORED,
        _set_shape,
        _given_only,
        _set,
        "value becomes the elements that key selects",
        {"key": REQUIRED},
        writes=(0,),
        outputs=(),
        bound=EXACT,
        examples=(example((3, 4), (2,), Draw((2,), "permutation", "i64"), key=[["array"], ["slice", 1, 3, None]]),),
    ),
    Kernel(
        "take_along_axis",
        ("x", "indices"),
        STORED,
        _along_shape,
        _written_only,
        _along,
        "elements along axis by the number that stands at their place in indices",
        {"axis": -1},
        bound=EXACT,
        examples=(example((3, 4), Draw((3, 4), "below 4", "i64"), axis=1),),
    ),
    Kernel(
        "repeat",
        ("x", "repeats"),
        STORED,
        _repeat_shape,
        _written_only,
        _repeat,
        "each element along axis as often as repeats says; length is their sum",
        {"axis": REQUIRED, "length": REQUIRED},
        bound=EXACT,
        examples=(example((3, 4), Draw((3,), "constant 2", "i64"), axis=0, length=6),),
    ),
)
