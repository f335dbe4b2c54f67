"""Activations, softmax and its relatives.

Flows in: one tensor of floats (and slopes or bounds). Flows out: a tensor of the same shape. Not here: attention
(`attention`) and norms (`normalise`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from supernode.emulator.client import Array
from supernode.emulator.dtypes import FLOATS, NUMBERS
from supernode.emulator.onnx_backend.call import Call, Lowering


def pointwise(kernel: str, **attributes: tuple[str, Any]) -> Lowering:
    """An operator that is a kernel; each attribute of the kernel comes from one of the node, with its default."""

    def lower(call: Call) -> Any:
        if not call.computes(*FLOATS):
            return NotImplemented
        given = {name: call.get(source, default) for name, (source, default) in attributes.items()}
        return call.out(call.launch(kernel, call.array(0), **given))

    return lower


def _relu(call: Call) -> Any:
    return call.out(call.launch("relu", call.array(0))) if call.computes(*NUMBERS) else NotImplemented


def _gelu(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    return call.out(call.launch("gelu", call.array(0), approximate=call.get("approximate", "none")))


def _clip(call: Call) -> Any:
    if not call.computes(*NUMBERS):
        return NotImplemented
    x = call.array(0)
    if call.version < 11:
        low, high = call.get("min"), call.get("max")
        attributes = {name: value for name, value in (("low", low), ("high", high)) if value is not None}
        return call.out(call.launch("clip", x, **attributes)) if attributes else call.tensor(0)
    if call.has(1):
        x = call.launch("maximum", x, call.array(1))
    if call.has(2):
        x = call.launch("minimum", x, call.array(2))
    return call.out(x)


def _prelu(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    x, slope = call.array(0), call.array(1)
    if call.version < 7 and len(slope.shape) == 1 and len(x.shape) > 2 and slope.size > 1:
        slope = slope.reshape([slope.size, *[1] * (len(x.shape) - 2)])
    return call.out(call.launch("prelu", x, slope))


def over_axis(kernel: str) -> Lowering:
    """Softmax and its relatives: along an axis, in operator sets before 13 over all axes from there on."""

    def lower(call: Call) -> Any:
        if not call.computes(*FLOATS):
            return NotImplemented
        x = call.array(0)
        if call.version >= 13:
            return call.out(call.launch(kernel, x, axis=call.get("axis", -1)))
        axis = call.get("axis", 1)
        axis += len(x.shape) if axis < 0 else 0
        flat = x.reshape([math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])
        found: Array = call.launch(kernel, flat, axis=-1)
        return call.out(found.reshape(x.shape))

    return lower


def _dropout(call: Call) -> Any:
    training = bool(call.scalar(2, False)) if call.version >= 12 else False
    ratio = call.scalar(1, 0.5) if call.version >= 12 else call.get("ratio", 0.5)
    x = call.tensor(0)
    if not training or ratio == 0:
        if len(call.node.outputs) < 2 or not call.node.outputs[1]:
            return x
        return x, call.out(call.launch("full", shape=list(x.shape), value=True, dtype="bool"))
    return NotImplemented


def _swiglu(call: Call) -> Any:
    gate, up = call.tensor(0), call.tensor(1)
    if not call.computes(*FLOATS) or gate.shape != up.shape or gate.dtype != up.dtype:
        return NotImplemented
    if call.get("alpha", 1.0) == 1:
        return call.out(call.launch("swiglu", call.array(0), call.array(1)))
    bent = call.launch("swish", call.array(0), alpha=call.get("alpha"))
    return call.out(call.launch("multiply", bent, call.array(1)))


OPERATORS: Final[Mapping[str, Lowering]] = {
    "Relu": _relu,
    "LeakyRelu": pointwise("leaky_relu", slope=("alpha", 0.01)),
    "PRelu": _prelu,
    "Elu": pointwise("elu", alpha=("alpha", 1.0)),
    "Selu": pointwise("selu", alpha=("alpha", 1.67326319217681884765625), gamma=("gamma", 1.05070102214813232421875)),
    "Celu": pointwise("celu", alpha=("alpha", 1.0)),
    "Gelu": _gelu,
    "HardSigmoid": pointwise("hard_sigmoid", alpha=("alpha", 0.2), beta=("beta", 0.5)),
    "HardSwish": pointwise("hard_swish"),
    "Mish": pointwise("mish"),
    "Softplus": pointwise("softplus"),
    "Softsign": pointwise("softsign"),
    "Swish": pointwise("swish", alpha=("alpha", 1.0)),
    "SwiGLU": _swiglu,
    "ThresholdedRelu": pointwise("thresholded_relu", alpha=("alpha", 1.0)),
    "Shrink": pointwise("shrink", bias=("bias", 0.0), lambd=("lambd", 0.5)),
    "Clip": _clip,
    "Softmax": over_axis("softmax"),
    "LogSoftmax": over_axis("log_softmax"),
    "Hardmax": over_axis("hardmax"),
    "Dropout": _dropout,
}
