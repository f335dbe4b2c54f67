"""Softmax cross-entropy with its gradient.

Flows in: logits [n, classes] and targets [n] (integers). Flows out: the mean loss (f32; f64 of f64) and
log(sum(exp)) per row for the backward kernel. A target outside the classes makes its row's loss NaN and its gradient
NaN, as a device without traps would: a wrong label is seen in the loss, not hidden. Not here: classes that are spread
over ranks (`sharded_loss`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS, INTEGERS
from supernode.emulator.kernels.parallel import WORTH, row_blocks, share
from supernode.emulator.kernels.rules import narrow, need, streaming, wide_dtype, widen
from supernode.emulator.kernels.table import INPUTS, LARGEST, AnyArray, Attributes, Bound, Draw, Kernel, Spec, example
from supernode.errors import KernelValueError


def _check(logits: Spec, targets: Spec) -> str:
    if len(logits.shape) != 2 or 0 in logits.shape:
        raise KernelValueError(f"logits must be [rows, classes] with at least one of each, not {logits}")
    need(targets, "targets", dtype=INTEGERS, shape=logits.shape[:1])
    return "f64" if logits.dtype == "f64" else "f32"


def _forward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    dtype = _check(specs[0], specs[1])
    return (Spec(dtype, ()), Spec(dtype, specs[0].shape[:1]))


def _forward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    logits, targets = inputs
    rows, classes = logits.shape
    logsumexp = np.empty(rows, wide_dtype(outputs[1].dtype))
    loss = np.empty_like(logsumexp)
    valid = (targets >= 0) & (targets < classes)
    columns = np.where(valid, targets, 0).astype(np.int64)

    def block(part: slice) -> None:
        some = widen(logits[part])
        chosen = some[np.arange(len(some)), columns[part]]
        top = some.max(axis=1)
        shifted = some - top[:, None]
        np.exp(shifted, out=shifted)
        logs = np.log(shifted.sum(axis=1))
        np.add(logs, top, out=logsumexp[part])
        np.subtract(logs, chosen - top, out=loss[part])

    share(block, row_blocks(rows, classes, logsumexp.itemsize), worth=logits.size >= WORTH)
    loss[~valid] = np.nan
    return narrow(loss.mean(), outputs[0]), narrow(logsumexp, outputs[1])


def _backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    logits, targets, logsumexp = specs
    need(logsumexp, "logsumexp", dtype=_check(logits, targets), shape=logits.shape[:1])
    float(attributes["scale"])
    return (logits,)


def _backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    logits, targets, logsumexp = inputs
    rows, classes = logits.shape
    out = np.empty(logits.shape, logits.dtype)
    valid = (targets >= 0) & (targets < classes)
    columns = np.where(valid, targets, 0).astype(np.int64)
    scale = logsumexp.dtype.type(attributes["scale"] / rows)

    def block(part: slice) -> None:
        slope = widen(logits[part]) - logsumexp[part, None]
        np.exp(slope, out=slope)
        slope[np.arange(len(slope)), columns[part]] -= 1
        slope *= scale
        slope[~valid[part]] = np.nan
        np.copyto(out[part], slope, casting="unsafe")

    share(block, row_blocks(rows, classes, logsumexp.itemsize), worth=logits.size >= WORTH)
    return (out,)


KERNELS: Final = (
    Kernel(
        "softmax_cross_entropy",
        ("logits", "targets"),
        FLOATS,
        _forward_shape,
        streaming(12),
        _forward,
        "mean over the rows of log(sum(exp(logits))) - logits[target]; also gives log(sum(exp)) per row",
        backward="softmax_cross_entropy_backward",
        outputs=("loss", "logsumexp"),
        bound=Bound(32, INPUTS),
        examples=(example((9, 11), Draw((9,), "below 11", "i64")),),
    ),
    Kernel(
        "softmax_cross_entropy_backward",
        ("logits", "targets", "logsumexp"),
        FLOATS,
        _backward_shape,
        streaming(10),
        _backward,
        "gradient of scale times the mean loss",
        {"scale": 1.0},
        outputs=("grad_logits",),
        bound=Bound(400, LARGEST, special="rows of weights are held to log(sum(exp)) that is given"),
        examples=(example((9, 11), Draw((9,), "below 11", "i64"), Draw((9,), "constant 3", "wide")),),
    ),
)
