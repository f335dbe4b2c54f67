"""Convolutions and transposed convolutions.

Flows in: images (batch, channels, *sizes), weights, a bias. Flows out: images. Not here: convolutions of quantised
numbers (`quantised`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supernode.emulator.client import Array
from supernode.emulator.dtypes import FLOATS
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.emulator.onnx_backend.operators.layout import pad
from supernode.emulator.onnx_backend.operators.pooling import padding


def _conv(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    x, weight = call.array(0), call.array(1)
    axes = len(x.shape) - 2
    strides = call.get("strides") or [1] * axes
    dilations = call.get("dilations") or [1] * axes
    bias = [call.array(2)] if call.has(2) else []
    pads = padding(call, x.shape[2:], weight.shape[2:], strides, dilations)
    if min(min(pair) for pair in pads) < 0:
        x = pad(call, x, [(0, 0), (0, 0), *((min(a, 0), min(b, 0)) for a, b in pads)], "constant", None)
        pads = [[max(a, 0), max(b, 0)] for a, b in pads]
    found = call.launch(
        "convolution",
        x,
        weight,
        *bias,
        stride=strides,
        padding=pads,
        dilation=dilations,
        groups=int(call.get("group", 1)),
    )
    return call.out(found)


def _transposed_pads(call: Call, full: list[int]) -> list[list[int]]:
    """What is taken away before and after each axis of the whole result; less than 0: added."""
    axes = len(full)
    x = call.tensor(0).shape[2:]
    strides = call.get("strides") or [1] * axes
    more = call.get("output_padding") or [0] * axes
    mode, wanted = call.get("auto_pad", "NOTSET"), call.get("output_shape")
    if mode in ("SAME_UPPER", "SAME_LOWER") or wanted:
        wanted = list(wanted)[-axes:] if wanted else [n * s for n, s in zip(x, strides, strict=True)]
        out = []
        for size, extra, target in zip(full, more, wanted, strict=True):
            total = size + extra - target
            small, large = total // 2, total - total // 2
            # As the standard says: without SAME_UPPER the odd one comes first.
            before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
            out.append([before, after - extra])
        return out
    pads = (call.get("pads") or [0] * (2 * axes)) if mode != "VALID" else [0] * (2 * axes)
    return [[int(pads[i]), int(pads[i + axes]) - int(more[i])] for i in range(axes)]


def _conv_transpose(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    x, weight = call.array(0), call.array(1)
    axes = len(x.shape) - 2
    strides = call.get("strides") or [1] * axes
    dilations = call.get("dilations") or [1] * axes
    groups = int(call.get("group", 1))
    full = [
        (n - 1) * s + (k - 1) * d + 1
        for n, k, s, d in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)
    ]
    pads = _transposed_pads(call, full)
    common = {"stride": strides, "dilation": dilations, "groups": groups}
    bias = [call.array(2)] if call.has(2) else []
    if min(min(pair) for pair in pads) >= 0:
        return call.out(call.launch("convolution_transpose", x, weight, *bias, padding=pads, **common))
    # More than the whole result: zeros around it, and the bias everywhere.
    out: Array = call.launch("convolution_transpose", x, weight, **common)
    out = pad(call, out, [(0, 0), (0, 0), *((-a, -b) for a, b in pads)], "constant", None)
    if bias:
        out = call.launch("add", out, bias[0].reshape([1, bias[0].size, *[1] * axes]))
    return call.out(out)


OPERATORS: Final[Mapping[str, Lowering]] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
