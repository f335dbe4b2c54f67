"""Sequences and optionals: lists that the host keeps, of tensors that stay on the device.

Flows in: lists and tensors. Flows out: lists and tensors. Joining and splitting are launches. Not here: loops over
sequences (`control`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from supernode.emulator.onnx_backend.call import Call, Lowering, known
from supernode.emulator.onnx_backend.operators.layout import axis_of, part
from supernode.emulator.onnx_backend.values import STRING, Tensor, Value
from supernode.errors import ModelError


def items(call: Call, place: int = 0) -> list[Value]:
    """An input that is a sequence.

    Raises:
        ModelError: it is not.
    """
    value = call.inputs[place] if place < len(call.inputs) else None
    if not isinstance(value, list):
        raise ModelError(f"input {place} must be a sequence, but is {value!r}")
    return value


def _position(call: Call, place: int, length: int, default: int) -> int:
    position = int(call.scalar(place, default))
    if not -length <= position <= length:
        raise ModelError(f"position {position} is not in a sequence of {length}")
    return position + length if position < 0 else position


def _construct(call: Call) -> Any:
    return [list(call.inputs)]


def _empty(call: Call) -> Any:
    return [[]]


def _at(call: Call) -> Any:
    found = items(call)
    position = _position(call, 1, len(found), 0)
    if position == len(found):
        raise ModelError(f"position {position} is not in a sequence of {len(found)}")
    return [found[position]]


def _insert(call: Call) -> Any:
    found = items(call)
    position = _position(call, 2, len(found), len(found))
    return [[*found[:position], call.inputs[1], *found[position:]]]


def _erase(call: Call) -> Any:
    found = items(call)
    position = _position(call, 1, len(found), len(found) - 1)
    return [[*found[:position], *found[position + 1 :]]]


def _length(call: Call) -> Any:
    return known(np.asarray(len(items(call)), np.int64), shapely=True)


def _concat_from(call: Call) -> Any:
    found = items(call)
    if not found or any(not isinstance(item, Tensor) or item.dtype == STRING for item in found):
        return NotImplemented
    arrays = [item.on(call.device) for item in found]
    axis = int(call.get("axis", 0))
    if call.get("new_axis", 0):
        ndim = len(arrays[0].shape) + 1
        axis += ndim if axis < 0 else 0
        arrays = [a.reshape([*a.shape[:axis], 1, *a.shape[axis:]]) for a in arrays]
    return call.out(call.launch("concatenate", *arrays, axis=axis), found[0].dtype)


def _split_to(call: Call) -> Any:
    if call.dtype == STRING:
        return NotImplemented
    x = call.array(0)
    axis = axis_of(call, len(x.shape), 0)
    size = x.shape[axis]
    keep = bool(call.get("keepdims", 1)) or call.has(1)
    if not call.has(1):
        sizes = [1] * size
    elif call.tensor(1).shape == ():
        each = int(call.scalar(1))
        sizes = [min(each, size - start) for start in range(0, size, each)]
    else:
        sizes = call.ints(1) or []
    out, start = [], 0
    for length in sizes:
        found = part(call, x, axis, start, start + length)
        if not keep:
            found = found.reshape([*x.shape[:axis], *x.shape[axis + 1 :]])
        out.append(call.out(found, call.dtype))
        start += length
    return [out]


def _optional(call: Call) -> Any:
    return [call.inputs[0] if call.has(0) else None]


def _has_element(call: Call) -> Any:
    return known(np.asarray(call.has(0)), shapely=True)


def _get_element(call: Call) -> Any:
    if not call.has(0):
        raise ModelError("the optional has no element")
    return [call.inputs[0]]


OPERATORS: Final[Mapping[str, Lowering]] = {
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceAt": _at,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceLength": _length,
    "ConcatFromSequence": _concat_from,
    "SplitToSequence": _split_to,
    "Optional": _optional,
    "OptionalHasElement": _has_element,
    "OptionalGetElement": _get_element,
}
