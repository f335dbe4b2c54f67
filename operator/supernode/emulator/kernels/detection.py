"""Choosing among overlapping boxes.

Flows in: boxes (batch, boxes, 4) and scores (batch, classes, boxes). Flows out: for each class the numbers of the boxes
that are kept, best first, and -1 where there are no more: how many there are only the data says. Not here: pooling of
regions (`resample`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.rules import moved, need, widen
from supernode.emulator.kernels.table import EXACT, REQUIRED, AnyArray, Attributes, Cost, Draw, Kernel, Spec, example
from supernode.errors import KernelValueError

#: Operations of one comparison of two boxes.
_COMPARISON: Final = 16


def _shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    boxes, scores = specs
    limit = operator.index(attributes["limit"])
    if len(boxes.shape) != 3 or boxes.shape[2] != 4 or len(scores.shape) != 3 or limit < 0:
        raise KernelValueError(f"needs boxes (batch, boxes, 4), scores (batch, classes, boxes) a limit, not {boxes}")
    need(scores, "scores", dtype=boxes.dtype, shape=(boxes.shape[0], scores.shape[1], boxes.shape[1]))
    float(attributes["overlap"])
    if attributes["score"] is not None:
        float(attributes["score"])
    return (Spec("i64", (boxes.shape[0], scores.shape[1], min(limit, boxes.shape[1]))),)


def _cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """Every box is compared with every one that is kept."""
    return Cost(float(_COMPARISON * specs[0].shape[1] * outputs[0].size), moved(specs, outputs))


def _corners(boxes: AnyArray, *, centers: bool) -> AnyArray:
    """Boxes as (least, most) of both axes: (boxes, 4)."""
    if centers:
        half = boxes[:, 2:] / 2
        return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


def _overlaps(one: AnyArray, others: AnyArray) -> AnyArray:
    """What two boxes share, as a part of what both cover."""
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    area, areas = np.prod(one[2:] - one[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1)
    whole = area + areas - shared
    real = (shared > 0) & (area > 0) & (areas > 0) & (whole > 0)
    return np.asarray(np.where(real, shared / np.where(real, whole, 1), 0))


def _run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    boxes, scores = (widen(array) for array in inputs)
    out = np.full(outputs[0].shape, -1, np.int64)
    least, limit = attributes["score"], out.shape[2]
    for batch, class_ in np.ndindex(*out.shape[:2]):
        corners = _corners(boxes[batch], centers=bool(attributes["centers"]))
        row = scores[batch, class_]
        left = np.argsort(-row, kind="stable")  # of equal scores the first box comes first
        if least is not None:
            left = left[row[left] > row.dtype.type(least)]
        kept = 0
        while left.size and kept < limit:
            best, left = left[0], left[1:]
            out[batch, class_, kept] = best
            kept += 1
            left = left[~(_overlaps(corners[best], corners[left]) > attributes["overlap"])]
    return (out,)


KERNELS: Final = (
    Kernel(
        "suppress_overlaps",
        ("boxes", "scores"),
        FLOATS,
        _shape,
        _cost,
        _run,
        "numbers of up to limit boxes by falling score, without those that overlap a better one by more than overlap "
        "(shared / covered area) or score no more than score; -1 behind the last",
        {"limit": REQUIRED, "overlap": 0.0, "score": None, "centers": False},
        bound=EXACT,
        examples=(example(Draw((2, 9, 4), "unit"), Draw((2, 3, 9), "unit"), limit=5, overlap=1.0, score=0.0),),
    ),
)
