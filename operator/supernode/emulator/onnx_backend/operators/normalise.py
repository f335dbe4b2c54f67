"""Norms: by batch, layer, group, instance, root mean square, length, neighbours.

Flows in: tensors with scales and biases. Flows out: tensors of the same shape; LayerNormalization also the mean and the
reciprocal deviation. Not here: softmax (`activation`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from supernode.emulator.client import Array
from supernode.emulator.dtypes import FLOATS
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.emulator.onnx_backend.operators.layout import axis_of


def _training(call: Call) -> Any:
    """By the batch's own statistics; the running ones move towards them."""
    x, scale, bias, mean, variance = (call.array(place) for place in range(5))
    wide = "f32" if x.dtype in ("f16", "bf16") else x.dtype
    axes = [axis for axis in range(len(x.shape)) if axis != 1]
    own_mean = call.launch("mean", call.cast(x, wide), axis=axes)
    own_variance = call.launch("variance", call.cast(x, wide), axis=axes)
    y = call.launch("batch_normalise", x, scale, bias, own_mean, own_variance, epsilon=call.get("epsilon", 1e-5))
    momentum = float(call.get("momentum", 0.9))
    results = [call.out(y)]
    for before, new in ((mean, own_mean), (variance, own_variance)):
        old = call.launch("scale", call.cast(before, wide), factor=momentum)
        moved = call.launch("add", old, call.launch("scale", new, factor=1 - momentum))
        results.append(call.out(call.cast(moved, before.dtype)))
    return results


def _batch(call: Call) -> Any:
    outputs = [name for name in call.node.outputs[1:] if name]
    if call.version >= 14 and call.get("training_mode", 0) and call.computes(*FLOATS):
        return _training(call)
    if not call.computes(*FLOATS) or outputs:
        return NotImplemented
    if call.version < 7 and not call.get("is_test", 0):
        return NotImplemented
    if call.version < 9 and not call.get("spatial", 1):
        return NotImplemented
    arrays = [call.array(place) for place in range(5)]
    return call.out(call.launch("batch_normalise", *arrays, epsilon=call.get("epsilon", 1e-5)))


def _group(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    x, scale, bias = (call.array(place) for place in range(3))
    groups = int(call.get("num_groups", x.shape[1]))
    if scale.size == groups != x.shape[1]:  # operator sets before 21: one number per group
        each = x.shape[1] // groups
        scale, bias = (
            call.launch("broadcast_to", array.reshape([groups, 1]), shape=[groups, each]).reshape([x.shape[1]])
            for array in (scale, bias)
        )
    return call.out(call.launch("group_normalise", x, scale, bias, groups=groups, epsilon=call.get("epsilon", 1e-5)))


def _row(call: Call, place: int, columns: list[int], dtype: str) -> Array:
    """A scale or bias as one row."""
    array = call.cast(call.array(place), dtype)
    if list(array.shape) != columns:
        array = call.launch("broadcast_to", array, shape=columns)
    return array.reshape([math.prod(columns)])


def _layer(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    x = call.array(0)
    axis = axis_of(call, len(x.shape), -1)
    columns = list(x.shape[axis:])
    if any(len(call.tensor(i).shape) > len(columns) for i in (1, 2) if call.has(i)):
        return NotImplemented
    gain = _row(call, 1, columns, x.dtype)
    none: Array = call.launch("zeros", shape=gain.shape, dtype=x.dtype)
    bias = _row(call, 2, columns, x.dtype) if call.has(2) else none
    flat = x.reshape([math.prod(x.shape[:axis]), math.prod(columns)])
    y, mean, deviation = call.launch("layer_norm", flat, gain, bias, epsilon=call.get("epsilon", 1e-5))
    rows = [*x.shape[:axis], *[1] * len(columns)]
    return call.out(y.reshape(x.shape)), call.out(mean.reshape(rows)), call.out(deviation.reshape(rows))


def _rms(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    x = call.array(0)
    axis = axis_of(call, len(x.shape), -1)
    columns = list(x.shape[axis:])
    if len(call.tensor(1).shape) > len(columns):
        return NotImplemented
    flat = x.reshape([math.prod(x.shape[:axis]), math.prod(columns)])
    y, _ = call.launch("rms_norm", flat, _row(call, 1, columns, x.dtype), epsilon=call.get("epsilon", 1e-5))
    return call.out(y.reshape(x.shape))


def _lp(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    return call.out(call.launch("lp_normalise", call.array(0), axis=call.get("axis", -1), p=call.get("p", 2)))


def _local(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    numbers = {name: call.get(name, default) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))}
    return call.out(call.launch("local_response_norm", call.array(0), size=call.get("size"), **numbers))


def _mean_variance(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    return call.out(call.launch("standardise", call.array(0), axis=call.get("axes", [0, 2, 3]), epsilon=1e-18))


OPERATORS: Final[Mapping[str, Lowering]] = {
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "InstanceNormalization": _group,
    "LayerNormalization": _layer,
    "RMSNormalization": _rms,
    "LpNormalization": _lp,
    "LRN": _local,
    "MeanVarianceNormalization": _mean_variance,
}
