"""Operators that move elements without changing them: reshapes, transposes, parts, joins, padding.

Flows in: tensors of any element type but strings. Flows out: views where no byte has to move, else copies. Not here:
elements by number (`selection`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from supernode.emulator.client import Array
from supernode.emulator.kernels.rules import broadcast
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.emulator.onnx_backend.values import STRING
from supernode.errors import ModelError


def moving(function: Any) -> Lowering:
    """An operator that gives one array with the elements of its first input; strings stay on the host."""

    def lower(call: Call) -> Any:
        if call.dtype == STRING:
            return NotImplemented
        found = function(call, call.array(0))
        return found if found is NotImplemented else call.out(found, call.dtype)

    return lower


def axis_of(call: Call, ndim: int, default: int, name: str = "axis") -> int:
    """An attribute that names an axis, counted from the front."""
    axis = int(call.get(name, default))
    return axis + ndim if axis < 0 else axis


def _reshape(call: Call, x: Array) -> Array:
    sizes = call.ints(1, "shape") or []
    if not call.get("allowzero", 0):
        sizes = [x.shape[i] if n == 0 and i < len(x.shape) else n for i, n in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(call: Call, x: Array) -> Array:
    axis = axis_of(call, len(x.shape), 1)
    return x.reshape([math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


def _squeeze(call: Call, x: Array) -> Array:
    axes = call.ints(1, "axes")
    ndim = len(x.shape)
    gone = {i for i, n in enumerate(x.shape) if n == 1} if axes is None else {axis % ndim for axis in axes if ndim}
    if any(x.shape[axis] != 1 for axis in gone):
        raise ModelError(f"axes {sorted(gone)} of {list(x.shape)} are not all of size 1")
    return x.reshape([n for i, n in enumerate(x.shape) if i not in gone])


def _unsqueeze(call: Call, x: Array) -> Array:
    axes = call.ints(1, "axes") or []
    ndim = len(x.shape) + len(axes)
    new = {axis + ndim if axis < 0 else axis for axis in axes}
    old = iter(x.shape)
    return x.reshape([1 if i in new else next(old) for i in range(ndim)])


def _transpose(call: Call, x: Array) -> Array:
    axes = call.get("perm")
    out: Array = call.launch("transpose", x, axes=axes)
    return out


def _concat(call: Call) -> Any:
    if call.dtype == STRING:
        return NotImplemented
    arrays = [call.array(i) for i in range(len(call.inputs))]
    return call.out(call.launch("concatenate", *arrays, axis=call.get("axis", 1)), call.dtype)


def part(call: Call, x: Array, axis: int, start: int, stop: int) -> Array:
    """Elements from start to stop along an axis (the array itself if that is all of it)."""
    if (start, stop) == (0, x.shape[axis]):
        return x
    out: Array = call.launch("slice", x, start=start, stop=stop, axis=axis)
    return out


def split_sizes(call: Call, size: int, count: int) -> list[int]:
    """How long the parts of a split are."""
    sizes = call.ints(1, "split")
    if sizes is not None:
        return sizes
    count = int(call.get("num_outputs", count))
    each = -(-size // count)
    return [max(min(each, size - i * each), 0) for i in range(count)]


def _split(call: Call) -> Any:
    if call.dtype == STRING:
        return NotImplemented
    x = call.array(0)
    axis = axis_of(call, len(x.shape), 0)
    sizes = split_sizes(call, x.shape[axis], len(call.node.outputs))
    if sum(sizes) != x.shape[axis]:
        raise ModelError(f"parts of {sizes} do not make up axis {axis} of size {x.shape[axis]}")
    if len(set(sizes)) == 1 and len(sizes) > 1:
        return [call.out(found, call.dtype) for found in call.launch("split", x, sections=len(sizes), axis=axis)]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [call.out(part(call, x, axis, end - size, end), call.dtype) for size, end in zip(sizes, ends, strict=True)]


def _bounds(first: int, last: int, step: int, size: int) -> tuple[int, int]:
    """Where a slice begins and ends (backwards: -1 is before the first element), both brought inside the axis.

    As the standard says it, and not quite as Python does: backwards, a start before the first element is the first.
    """
    first, last = (n + size if n < 0 else n for n in (first, last))
    if step > 0:
        start = min(max(first, 0), size)
        return start, max(min(max(last, 0), size), start)
    start = min(max(first, 0), size - 1)
    stop = min(max(last, -1), size - 1)
    return (start, stop) if size and stop < start else (0, 0)


def _slice(call: Call, x: Array) -> Array:
    ndim = len(x.shape)
    if call.version < 10:
        starts, ends, axes, steps = call.get("starts"), call.get("ends"), call.get("axes"), None
    else:
        starts, ends, axes, steps = call.ints(1), call.ints(2), call.ints(3), call.ints(4)
    starts, ends = starts or [], ends or []
    axes = list(range(len(starts))) if axes is None else [axis % ndim for axis in axes]
    steps = steps or [1] * len(starts)
    key: list[list[Any]] = [["slice", None, None, None] for _ in range(ndim)]
    plain = []
    for axis, first, last, step in zip(axes, starts, ends, steps, strict=True):
        start, stop = _bounds(first, last, step, x.shape[axis])
        key[axis] = ["slice", start, None if stop < 0 else stop, step]
        if (start, stop, step) != (0, x.shape[axis], 1):
            plain.append((axis, start, stop, step))
    if not plain:
        return x
    if len(plain) == 1 and plain[0][3] == 1:
        return part(call, x, *plain[0][:3])
    out: Array = call.launch("index", x, key=key)
    return out


def _expand(call: Call, x: Array) -> Array:
    shape = broadcast(x.shape, tuple(call.ints(1) or ()))
    if shape == x.shape:
        return x
    out: Array = call.launch("broadcast_to", x, shape=list(shape))
    return out


def _tile(call: Call, x: Array) -> Any:
    if call.version < 6:
        return NotImplemented
    out: Array = call.launch("tile", x, repetitions=call.ints(1))
    return out


def _pad_widths(call: Call, ndim: int) -> list[tuple[int, int]]:
    pads = call.get("pads", call.get("paddings")) if call.version < 11 else call.ints(1)
    pads = [int(n) for n in pads or []]
    axes = [axis % ndim for axis in call.ints(3) or []] if call.has(3) else list(range(ndim))
    widths = [(0, 0)] * ndim
    for place, axis in enumerate(axes):
        widths[axis] = (pads[place], pads[place + len(axes)])
    return widths


def pad(call: Call, x: Array, widths: Sequence[tuple[int, int]], mode: str, value: Array | None) -> Array:
    """An array with elements added at the ends of its axes, or taken away where a width is negative."""
    for axis, (before, after) in enumerate(widths):
        size = x.shape[axis]
        if before < 0 or after < 0:
            x = part(call, x, axis, max(-before, 0), max(size + min(after, 0), 0))
    widths = [(max(before, 0), max(after, 0)) for before, after in widths]
    if not any(max(width) for width in widths):
        return x
    given = () if value is None else (value,)
    out: Array = call.launch("pad", x, *given, widths=[list(width) for width in widths], mode=mode)
    return out


def _pad(call: Call, x: Array) -> Array:
    widths = _pad_widths(call, len(x.shape))
    value: Array | None = None
    if call.version < 11:
        if call.get("value", 0.0):
            value = call.constant(call.get("value"), call.dtype)
    elif call.has(2):
        value = call.array(2).reshape([])
    mode = call.get("mode", "constant")
    return pad(call, x, widths, mode, value if mode == "constant" else None)


def _depth_to_space(call: Call, x: Array) -> Array:
    n, c, h, w = x.shape
    block = int(call.get("blocksize"))
    if call.get("mode", "DCR") == "DCR":
        apart, axes = [n, block, block, c // block**2, h, w], [0, 3, 4, 1, 5, 2]
    else:
        apart, axes = [n, c // block**2, block, block, h, w], [0, 1, 4, 2, 5, 3]
    moved: Array = call.launch("transpose", x.reshape(apart), axes=axes)
    return moved.reshape([n, c // block**2, h * block, w * block])


def _space_to_depth(call: Call, x: Array) -> Array:
    n, c, h, w = x.shape
    block = int(call.get("blocksize"))
    apart = x.reshape([n, c, h // block, block, w // block, block])
    axes = [0, 3, 5, 1, 2, 4] if call.get("mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    moved: Array = call.launch("transpose", apart, axes=axes)
    return moved.reshape([n, c * block**2, h // block, w // block])


def _trilu(call: Call, x: Array) -> Array:
    k = int(call.scalar(1, 0))
    rows, columns = x.shape[-2:]
    out: Array = call.launch("triangle", x, upper=bool(call.get("upper", 1)), k=max(-rows - 1, min(k, columns + 1)))
    return out


def _center_crop_pad(call: Call, x: Array) -> Array:
    ndim = len(x.shape)
    axes = [axis % ndim for axis in call.get("axes", range(ndim))]
    widths = [(0, 0)] * ndim
    for axis, target in zip(axes, call.ints(1) or [], strict=True):
        more = target - x.shape[axis]
        # The extra element of an odd difference is added, or taken away, at the end.
        before = more // 2 if more >= 0 else -(-more // 2)
        widths[axis] = (before, more - before)
    return pad(call, x, widths, "constant", None)


OPERATORS: Final[Mapping[str, Lowering]] = {
    "Reshape": moving(_reshape),
    "Flatten": moving(_flatten),
    "Squeeze": moving(_squeeze),
    "Unsqueeze": moving(_unsqueeze),
    "Transpose": moving(_transpose),
    "Concat": _concat,
    "Split": _split,
    "Slice": moving(_slice),
    "Expand": moving(_expand),
    "Tile": moving(_tile),
    "Pad": moving(_pad),
    "DepthToSpace": moving(_depth_to_space),
    "SpaceToDepth": moving(_space_to_depth),
    "Trilu": moving(_trilu),
    "CenterCropPad": moving(_center_crop_pad),
}
