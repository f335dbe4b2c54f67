"""A parallelism as the numbers that formulas need: one, or a whole batch as arrays.

Flows in: `Parallelism` values. Flows out: `Cuts`. Not here: what is done with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernode.errors import ModelError
from supernode.steptime.arithmetic import Num
from supernode.steptime.model import SPARE_CHUNKS, ModelShape, Parallelism, check


@dataclass(frozen=True, slots=True)
class Cuts:
    """Fields of `Parallelism`; each a number, or a float64 array (n,) with one element per prediction.

    `sequence_parallel`, `full` and `selective` are 1 or 0; `micro_batches` and `batch` are worked out. Build it with
    `cuts_of` or `stack_cuts`.
    """

    tensor: Num
    pipeline: Num
    data: Num
    context: Num
    expert: Num
    micro_batch_size: Num
    interleave: Num
    zero_stage: Num
    sequence_parallel: Num
    full: Num
    selective: Num
    micro_batches: Num
    batch: Num

    @property
    def devices(self) -> Num:
        """Devices of each job."""
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def replicas(self) -> Num:
        """Ranks that hold the same weights: data and context ranks."""
        return self.data * self.context

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Cuts:
        """The cuts of a batch at these rows."""
        return Cuts(*(getattr(self, name)[rows] for name in Cuts.__slots__))


def cuts_of(p: Parallelism) -> Cuts:
    """One parallelism as numbers."""
    batch = p.batch
    return Cuts(
        p.tensor,
        p.pipeline,
        p.data,
        p.context,
        p.expert,
        p.micro_batch_size,
        p.interleave,
        p.zero_stage,
        int(p.sequence_parallel),
        int(p.recompute == "Full"),
        int(p.recompute == "Selective"),
        batch // (p.data * p.micro_batch_size),
        batch,
    )


def stack_cuts(parallelisms: Sequence[Parallelism]) -> Cuts:
    """Many parallelisms as arrays (n,); n may be 0."""
    numbers = [cuts_of(p) for p in parallelisms]
    return Cuts(*(np.array([getattr(one, name) for one in numbers], dtype=np.float64) for name in Cuts.__slots__))


def allowed(model: ModelShape, cuts: Cuts) -> NDArray[np.bool_]:
    """Which cuts of a batch the model allows; bool (n,). The rules are those of `model.check` and `Parallelism`."""
    chunks = cuts.pipeline * cuts.interleave
    rows = (
        (model.attention_heads % cuts.tensor == 0)
        & (model.sequence_length % cuts.context == 0)
        & (model.experts % cuts.expert == 0)
        & (model.layers + SPARE_CHUNKS >= chunks)
        & (cuts.replicas % cuts.expert == 0)
        & (cuts.batch % (cuts.data * cuts.micro_batch_size) == 0)
        & ((cuts.interleave == 1) | (cuts.pipeline > 1))
    )
    return np.asarray(rows, dtype=np.bool_)


def check_cuts(model: ModelShape, cuts: Cuts) -> None:
    """Refuse a batch in which a cut is not allowed.

    Raises:
        ModelError: the first such row, and why.
    """
    rows = allowed(model, cuts)
    if rows.all():
        return
    row = int(np.flatnonzero(~rows)[0])
    one = parallelism_at(cuts, row)  # raises where the cut itself is wrong
    try:
        check(model, one)
    except ModelError as exc:
        raise ModelError(f"row {row} of the batch: {exc}") from exc


def parallelism_at(cuts: Cuts, row: int) -> Parallelism:
    """One row of a batch as a `Parallelism`."""

    def whole(name: str) -> int:
        return int(getattr(cuts, name)[row])

    return Parallelism(
        tensor=whole("tensor"),
        pipeline=whole("pipeline"),
        data=whole("data"),
        context=whole("context"),
        expert=whole("expert"),
        micro_batch_size=whole("micro_batch_size"),
        global_batch_size=whole("batch"),
        interleave=whole("interleave"),
        sequence_parallel=bool(cuts.sequence_parallel[row]),
        recompute="Full" if cuts.full[row] else "Selective" if cuts.selective[row] else "None",
        zero_stage=whole("zero_stage"),
    )
