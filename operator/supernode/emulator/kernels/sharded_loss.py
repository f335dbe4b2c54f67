"""Softmax cross-entropy of classes that are spread over ranks: what each rank does between two all-reduces.

Each rank holds logits [n, classes of its own], of which the first is class `start`, and all targets [n].

    top = cross_entropy_top(logits)                            all_reduce(top, "max")
    sums = cross_entropy_sums(logits, targets, top, start=)    all_reduce(sums, "sum")
    loss, logsumexp = cross_entropy_of_sums(sums, top)
    cross_entropy_shard_gradient(logits, targets, logsumexp, start=)

The results are those of `softmax_cross_entropy` over all classes, the same on every rank. A target that no rank holds
gives NaN. Not here: the all-reduces (`fabric`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS, INTEGERS
from supernode.emulator.kernels.rules import narrow, need, number, streaming, whole, widen
from supernode.emulator.kernels.table import (
    EXACT,
    INPUTS,
    LARGEST,
    AnyArray,
    Attributes,
    Bound,
    Draw,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelValueError


def _wide(logits: Spec) -> str:
    if len(logits.shape) != 2 or 0 in logits.shape:
        raise KernelValueError(f"logits must be [rows, classes] with at least one of each, not {logits}")
    return "f64" if logits.dtype == "f64" else "f32"


def _top_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (Spec(_wide(specs[0]), specs[0].shape[:1]),)


def _top(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(widen(inputs[0]).max(axis=1), outputs[0]),)


def _sums_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    logits, targets, top = specs
    dtype = _wide(logits)
    need(targets, "targets", dtype=INTEGERS, shape=logits.shape[:1])
    need(top, "top", dtype=dtype, shape=logits.shape[:1])
    whole(attributes, "start")
    return (Spec(dtype, (3, logits.shape[0])),)


def _own(targets: AnyArray, start: int, classes: int) -> tuple[AnyArray, AnyArray]:
    """Which targets are of this rank, and their columns (0 where they are not)."""
    columns = targets.astype(np.int64) - start
    own = (columns >= 0) & (columns < classes)
    return own, np.where(own, columns, 0)


def _sums(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    logits, targets, top = widen(inputs[0]), inputs[1], inputs[2]
    shifted = logits - top[:, None]
    own, columns = _own(targets, attributes["start"], logits.shape[1])
    out = np.zeros(outputs[0].shape, logits.dtype)
    np.copyto(out[1], shifted[np.arange(len(targets)), columns], where=own)
    out[2] = own
    np.exp(shifted, out=shifted)
    out[0] = shifted.sum(axis=1)
    return (narrow(out, outputs[0]),)


def _loss_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    sums, top = specs
    if len(sums.shape) != 2 or sums.shape[0] != 3 or sums.shape[1] == 0:
        raise KernelValueError(f"sums must be [3, rows], not {sums}")
    need(top, "top", dtype=sums.dtype, shape=sums.shape[1:])
    return (Spec(sums.dtype, ()), Spec(sums.dtype, top.shape))


def _loss(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    (total, target, holders), top = inputs
    logs = np.log(total)
    rows = logs - target
    rows[holders != 1] = np.nan
    return narrow(rows.mean(), outputs[0]), narrow(logs + top, outputs[1])


def _gradient_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    logits, targets, logsumexp = specs
    need(targets, "targets", dtype=INTEGERS, shape=logits.shape[:1])
    need(logsumexp, "logsumexp", dtype=_wide(logits), shape=logits.shape[:1])
    whole(attributes, "start")
    number(attributes, "scale")
    return (logits,)


def _gradient(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    logits, targets, logsumexp = widen(inputs[0]), inputs[1], inputs[2]
    out = logits - logsumexp[:, None]
    np.exp(out, out=out)
    own, columns = _own(targets, attributes["start"], logits.shape[1])
    out[np.arange(len(targets)), columns] -= own
    out *= out.dtype.type(attributes["scale"] / len(targets))
    return (narrow(out, outputs[0]),)


_TARGETS: Final = Draw((9,), "below 11", "i64")

KERNELS: Final = (
    Kernel(
        "cross_entropy_top",
        ("logits",),
        FLOATS,
        _top_shape,
        streaming(1),
        _top,
        "largest logit of each row, in f32 (f64 of f64): to be all-reduced by max",
        outputs=("top",),
        bound=EXACT,
        examples=(example((9, 11)),),
    ),
    Kernel(
        "cross_entropy_sums",
        ("logits", "targets", "top"),
        FLOATS,
        _sums_shape,
        streaming(11),
        _sums,
        "[sum of exp(logits - top), target's logit - top or 0, 1 or 0] for classes from start on: to be all-reduced by "
        "sum",
        {"start": 0},
        outputs=("sums",),
        bound=Bound(400, LARGEST, special="the rows' largest logits are given"),
        examples=(example((9, 11), _TARGETS, Draw((9,), "constant 3", "wide")),),
    ),
    Kernel(
        "cross_entropy_of_sums",
        ("sums", "top"),
        ("f32", "f64"),
        _loss_shape,
        streaming(10),
        _loss,
        "mean loss, and log(sum(exp)) per row, from the all-reduced sums",
        outputs=("loss", "logsumexp"),
        bound=Bound(32, INPUTS),
        examples=(example(Draw((3, 9), "constant 1"), Draw((9,), "normal")),),
    ),
    Kernel(
        "cross_entropy_shard_gradient",
        ("logits", "targets", "logsumexp"),
        FLOATS,
        _gradient_shape,
        streaming(10),
        _gradient,
        "gradient of scale times the mean loss by the logits of the classes from start on",
        {"start": 0, "scale": 1.0},
        outputs=("grad_logits",),
        bound=Bound(400, LARGEST, special="log(sum(exp)) is given"),
        examples=(example((9, 11), _TARGETS, Draw((9,), "constant 3", "wide")),),
    ),
)
