"""Pooling over windows and over whole images.

Flows in: tensors (batch, channels, *sizes) and how windows lie. Flows out: pooled tensors, and for MaxPool the places
of the maxima. Not here: the pooling of regions (`vision`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from supernode.emulator.dtypes import FLOATS, NUMBERS
from supernode.emulator.onnx_backend.call import Call, Lowering


def padding(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[list[int]]:
    """How much is added before and after each axis, as the node says or as `auto_pad` works it out."""
    axes = len(sizes)
    mode = call.get("auto_pad", "NOTSET")
    if mode == "VALID":
        return [[0, 0] for _ in sizes]
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        out = []
        for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            more = max((math.ceil(size / stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
            small, large = more // 2, more - more // 2
            out.append([small, large] if mode == "SAME_UPPER" else [large, small])
        return out
    pads = call.get("pads") or [0] * (2 * axes)
    return [[int(pads[i]), int(pads[i + axes])] for i in range(axes)]


def _geometry(call: Call) -> dict[str, Any]:
    sizes = call.tensor(0).shape[2:]
    kernel = [int(n) for n in call.get("kernel_shape")]
    strides = call.get("strides") or [1] * len(kernel)
    dilations = call.get("dilations") or [1] * len(kernel)
    return {
        "size": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": padding(call, sizes, kernel, strides, dilations),
        "ceil": bool(call.get("ceil_mode", 0)),
    }


def _max_pool(call: Call) -> Any:
    if not call.computes(*NUMBERS):
        return NotImplemented
    x = call.array(0)
    if len(call.node.outputs) < 2 or not call.node.outputs[1]:
        return call.out(call.launch("max_pool", x, **_geometry(call)))
    column_major = bool(call.get("storage_order", 0))
    values, places = call.launch("max_pool_places", x, column_major=column_major, **_geometry(call))
    return call.out(values), call.out(places)


def _average_pool(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    counted = bool(call.get("count_include_pad", 0))
    return call.out(call.launch("mean_pool", call.array(0), count_padding=counted, **_geometry(call)))


def _lp_pool(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    return call.out(call.launch("norm_pool", call.array(0), p=float(call.get("p", 2)), **_geometry(call)))


def _global(kernel: str) -> Lowering:
    def lower(call: Call) -> Any:
        if not call.computes(*FLOATS):
            return NotImplemented
        x = call.array(0)
        axes = list(range(2, len(x.shape)))
        return call.out(call.launch(kernel, x, axis=axes, keepdims=True))

    return lower


def _global_lp(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    x = call.array(0)
    ones = [1] * (len(x.shape) - 2)
    found = call.launch(
        "norm_pool",
        x,
        p=float(call.get("p", 2)),
        size=list(x.shape[2:]),
        strides=ones,
        dilations=ones,
        pads=[[0, 0] for _ in ones],
    )
    return call.out(found)


def _max_unpool(call: Call) -> Any:
    x, places = call.array(0), call.array(1)
    kernel = call.get("kernel_shape")
    strides = call.get("strides") or [1] * len(kernel)
    pads = call.get("pads") or [0] * (2 * len(kernel))
    sizes = [
        (n - 1) * stride - pads[i] - pads[i + len(kernel)] + size
        for i, (n, stride, size) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    shape = [*x.shape[:2], *sizes]
    wanted = call.ints(2) if call.has(2) else shape
    empty = call.launch("zeros", shape=[math.prod(shape)], dtype=x.dtype)
    full = call.launch("scatter_nd", empty, places.reshape([x.size, 1]), x.reshape([x.size]))
    full = full.reshape(shape)
    if wanted != shape:
        widths = [[0, more - own] for own, more in zip(shape, wanted or shape, strict=True)]
        full = call.launch("pad", full, widths=widths)
    return call.out(full)


def _col2im(call: Call) -> Any:
    if not call.computes(*NUMBERS):
        return NotImplemented
    sizes, block = call.ints(1) or [], call.ints(2) or []
    axes = len(sizes)
    pads = call.get("pads") or [0] * (2 * axes)
    found = call.launch(
        "fold",
        call.array(0),
        sizes=sizes,
        size=block,
        strides=call.get("strides") or [1] * axes,
        dilations=call.get("dilations") or [1] * axes,
        pads=[[pads[i], pads[i + axes]] for i in range(axes)],
    )
    return call.out(found)


OPERATORS: Final[Mapping[str, Lowering]] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("max"),
    "GlobalLpPool": _global_lp,
    "MaxUnpool": _max_unpool,
    "Col2Im": _col2im,
}
