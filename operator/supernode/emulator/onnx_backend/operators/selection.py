"""Elements by number or by value: gather, scatter, the largest ones, those that are not zero, reversed sequences.

Flows in: tensors and whole numbers that say which elements. Flows out: tensors. Where the size of a result depends on
the data (NonZero, Compress), the host asks the device for the count first. Not here: ranges (`layout`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from supernode.emulator.client import Array
from supernode.emulator.dtypes import NUMBERS
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.emulator.onnx_backend.operators.layout import axis_of, moving
from supernode.emulator.onnx_backend.values import STRING, storage


def _gather(call: Call, x: Array) -> Array:
    out: Array = call.launch("take", x, call.array(1), axis=axis_of(call, len(x.shape), 0))
    return out


def _gather_elements(call: Call, x: Array) -> Array:
    axis = axis_of(call, len(x.shape), 0)
    indices = call.array(1)
    # Other axes may be shorter in the indices: elements at those places only.
    for other, (size, wanted) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if other != axis and wanted < size:
            x = call.launch("slice", x, start=0, stop=wanted, axis=other)
    out: Array = call.launch("take_along_axis", x, indices, axis=axis)
    return out


def _gather_nd(call: Call, x: Array) -> Array:
    out: Array = call.launch("gather_nd", x, call.array(1), batch=int(call.get("batch_dims", 0)))
    return out


def _scatter_elements(call: Call, x: Array) -> Any:
    reduction = call.get("reduction", "none")
    if reduction != "none" and x.dtype not in NUMBERS:
        return NotImplemented
    axis = axis_of(call, len(x.shape), 0)
    return call.launch("scatter_elements", x, call.array(1), call.array(2), axis=axis, reduction=reduction)


def _scatter_nd(call: Call, x: Array) -> Any:
    reduction = call.get("reduction", "none")
    if reduction != "none" and x.dtype not in NUMBERS:
        return NotImplemented
    return call.launch("scatter_nd", x, call.array(1), call.array(2), reduction=reduction)


def _one_hot(call: Call) -> Any:
    values = call.tensor(2)
    if values.dtype == STRING:
        return NotImplemented
    indices = call.array(0)
    if indices.dtype not in NUMBERS:
        return NotImplemented
    depth = int(call.scalar(1))
    axis = axis_of(call, len(indices.shape) + 1, -1)
    whole = call.cast(indices, "i64")
    return call.out(call.launch("one_hot", whole, values.on(call.device), depth=depth, axis=axis), values.dtype)


def _top_k(call: Call) -> Any:
    x = call.array(0)
    if x.dtype not in NUMBERS:
        return NotImplemented
    count = int(call.get("k")) if call.version < 10 else int(call.scalar(1))
    axis = axis_of(call, len(x.shape), -1)
    values, places = call.launch("top_k", x, k=count, axis=axis, largest=bool(call.get("largest", 1)))
    return call.out(values), call.out(places)


def _non_zero(call: Call) -> Any:
    x = call.array(0)
    if not x.shape or not call.computes(x.dtype):
        return NotImplemented
    count = int(call.launch("count_nonzero", x).item())
    places = call.launch("nonzero", x, count=count)
    rows = [place.reshape([1, count]) for place in (places if isinstance(places, tuple) else (places,))]
    return call.out(call.launch("concatenate", *rows, axis=0) if len(rows) > 1 else rows[0])


def _compress(call: Call, x: Array) -> Array:
    chosen = np.flatnonzero(call.value(1).reshape(-1))
    axis = call.get("axis")
    flat = x if axis is not None else x.reshape([x.size])
    out: Array = call.launch("take", flat, call.constant(chosen, np.dtype(np.int64)), axis=axis or 0)
    return out


def _reverse_sequence(call: Call, x: Array) -> Array:
    time, batch = int(call.get("time_axis", 0)), int(call.get("batch_axis", 1))
    out: Array = call.launch("reverse_sequence", x, call.array(1), time=time, batch=batch)
    return out


def _unique(call: Call) -> Any:
    x = call.array(0)
    if x.dtype not in NUMBERS or call.get("axis") is not None or not call.get("sorted", 1):
        return NotImplemented
    flat = x.reshape([x.size])
    count = int(call.launch("count_unique", flat).item())
    return [call.out(found) for found in call.launch("unique", flat, count=count)]


def _tensor_scatter(call: Call) -> Any:
    """A cache of keys or values with new ones written where each sequence of the batch ends."""
    cache, update = call.array(0), call.array(1)
    if storage(call.dtype) != cache.dtype:
        return NotImplemented
    axis = axis_of(call, len(cache.shape), -2)
    starts = [0] * cache.shape[0] if not call.has(2) else [int(n) for n in call.value(2).reshape(-1)]
    circular = call.get("mode", "linear") == "circular"
    size, count = cache.shape[axis], update.shape[axis]
    places = np.asarray(starts)[:, None] + np.arange(count)
    places = places % size if circular else places
    shape = [1] * len(update.shape)
    shape[0], shape[axis] = len(starts), count
    indices = np.broadcast_to(places.reshape(shape), update.shape)
    whole = call.constant(np.ascontiguousarray(indices), np.dtype(np.int64))
    return call.out(call.launch("scatter_elements", cache, whole, update, axis=axis, reduction="none"), call.dtype)


OPERATORS: Final[Mapping[str, Lowering]] = {
    "Gather": moving(_gather),
    "GatherElements": moving(_gather_elements),
    "GatherND": moving(_gather_nd),
    "ScatterElements": moving(_scatter_elements),
    "Scatter": moving(_scatter_elements),
    "ScatterND": moving(_scatter_nd),
    "OneHot": _one_hot,
    "TopK": _top_k,
    "NonZero": _non_zero,
    "Compress": moving(_compress),
    "ReverseSequence": moving(_reverse_sequence),
    "Unique": _unique,
    "TensorScatter": _tensor_scatter,
}
