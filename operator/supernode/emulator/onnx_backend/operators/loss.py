"""Losses of classifiers.

Flows in: scores or logarithms of probabilities (batch, classes, *places), the right classes, weights per class. Flows
out: the loss, reduced as the node says. Not here: the softmax alone (`activation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from supernode.emulator.client import Array
from supernode.emulator.dtypes import FLOATS, INTEGERS
from supernode.emulator.onnx_backend.call import Call, Lowering


def _loss(call: Call, logs: Array) -> Any:
    labels = call.cast(call.array(1), "i64")
    weights = call.array(2) if call.has(2) else None
    wide = "f32" if logs.dtype in ("f16", "bf16") else logs.dtype
    ignored = call.get("ignore_index")
    kept: Array | None = None
    if ignored is not None:
        kept = call.launch("not_equal", labels, value=int(ignored))
        labels = call.launch("where", kept, labels, call.launch("zeros", shape=labels.shape, dtype="i64"))
    where = labels.reshape([labels.shape[0], 1, *labels.shape[1:]])
    picked: Array = call.launch("take_along_axis", call.cast(logs, wide), where, axis=1)
    loss = call.launch("negative", picked.reshape(labels.shape))
    share: Array | None = None
    if weights is not None:
        share = call.launch("take", call.cast(weights, wide), labels, axis=0)
    if kept is not None:
        counted = call.cast(kept, wide)
        share = counted if share is None else call.launch("multiply", share, counted)
    if share is not None:
        loss = call.launch("multiply", loss, share)
    reduction = call.get("reduction", "mean")
    if reduction != "none":
        if reduction == "mean" and share is None:
            loss = call.launch("mean", loss)
        else:
            loss = call.launch("sum", loss)
            if reduction == "mean":
                loss = call.launch("divide", loss, call.launch("sum", share))  # type: ignore[arg-type]
    return call.out(call.cast(loss, logs.dtype))


def _fits(call: Call) -> bool:
    scores, labels = call.tensor(0), call.tensor(1)
    whole = np.dtype(labels.dtype).kind in "iu"
    same = (scores.shape[0], *scores.shape[2:]) == labels.shape
    return whole and same and call.array(0).dtype in FLOATS and call.array(1).dtype in INTEGERS


def _likelihood(call: Call) -> Any:
    return _loss(call, call.array(0)) if _fits(call) else NotImplemented


def _cross_entropy(call: Call) -> Any:
    if not _fits(call):
        return NotImplemented
    logs = call.launch("log_softmax", call.array(0), axis=1)
    return _loss(call, logs), call.out(logs)


OPERATORS: Final[Mapping[str, Lowering]] = {
    "NegativeLogLikelihoodLoss": _likelihood,
    "SoftmaxCrossEntropyLoss": _cross_entropy,
}
