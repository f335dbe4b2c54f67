"""Seconds per training step, with their parts, memory per device and MFU.

Flows in: a chip, a model, its parallelism and the wiring of the place. Flows out: a `StepTime`, or `StepTimes` for a
batch. Not here: where the job goes, and what it waits for before it trains.

The schedule is 1F1B, interleaved if asked for: with M micro batches, P stages and v chunks per stage a step takes
(M + (P - 1) / v) times the fullest stage's micro batch, then gradients are reduced, then weights are updated. What
overlaps is the family's `overlap` of the data-parallel traffic, as far as one micro batch is long enough to hide it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from supernode.chips import Chip
from supernode.steptime.arithmetic import Num, choose, largest, several, smallest
from supernode.steptime.calibration import DEFAULT, SHARDED_OVERLAP, family_of
from supernode.steptime.cuts import Cuts, check_cuts, cuts_of
from supernode.steptime.family import Family
from supernode.steptime.memory import Memory, memory_of, stage_layers, stage_weights
from supernode.steptime.model import ModelShape, Parallelism, check, flops_per_step
from supernode.steptime.stage import (
    Cost,
    data_seconds,
    early_share,
    end_costs,
    layer_cost,
    optimizer_seconds,
    send_seconds,
    shared_seconds,
)
from supernode.steptime.storage import Storage
from supernode.steptime.wiring import Wiring


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the seconds of a step go; they add up to the step.

    Attributes:
        compute: kernels of forward and backward, recomputation included.
        tensor: collectives between tensor ranks that nothing hides, those of embedding, output layer and loss included.
        context: exchange of keys and values between context ranks.
        pipeline: idle time while the pipeline fills and drains, sends between stages, and the sum of the gradients of
            the token table, which the first and the last stage share.
        data: gradients (and sharded weights) between data ranks.
        expert: token exchange between expert ranks.
        optimizer: the update of the weights.
        storage: waiting for samples, and writing checkpoints.
    """

    compute: float
    tensor: float
    context: float
    pipeline: float
    data: float
    expert: float
    optimizer: float
    storage: float = 0.0


#: Names of the parts, in the order of the rows of `StepTimes.parts`.
PARTS: Final = tuple(Parts.__slots__)
_NO_STORAGE: Final = Storage()


@dataclass(frozen=True, slots=True)
class StepTime:
    """A predicted step.

    Attributes:
        seconds: of one step.
        parts: that add up to `seconds`.
        memory_bytes: needed on the fullest device.
        memory: the same, in parts.
        memory_limit: bytes that the chip has; None = unknown.
        fits: False if the need is known to be above the limit.
        mfu: useful FLOP/s over peak FLOP/s of all devices, 0 to 1.
        calibrated: the constants are measurements of this chip's family and every link figure was given.
        notes: assumptions that were made, one short sentence each.
    """

    seconds: float
    parts: Parts
    memory_bytes: int
    memory: Memory
    memory_limit: int | None
    fits: bool
    mfu: float
    calibrated: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepTimes:
    """A batch of predicted steps; every array is read-only.

    Attributes:
        seconds: float64 (n,).
        parts: float64 (len(PARTS), n), in the order of `PARTS`; the sum of a column is the step.
        memory_bytes: float64 (n,).
        memory_limit: bytes that the chip has; None = unknown.
        fits: bool (n,).
        mfu: float64 (n,).
        calibrated: of the chip's family.
        notes: as in `StepTime`.
    """

    seconds: NDArray[np.float64]
    parts: NDArray[np.float64]
    memory_bytes: NDArray[np.float64]
    memory_limit: int | None
    fits: NDArray[np.bool_]
    mfu: NDArray[np.float64]
    calibrated: bool
    notes: tuple[str, ...] = ()


@lru_cache(maxsize=16384)
def predict(
    chip: Chip, model: ModelShape, parallelism: Parallelism, wiring: Wiring, storage: Storage = _NO_STORAGE
) -> StepTime:
    """The step time of a job on these links.

    Args:
        chip: data sheet of every device of the job.
        model: what is trained.
        parallelism: how it is cut.
        wiring: the links of each kind of group (`wiring.wiring_of`).
        storage: what the job reads and writes; by default nothing is waited for.

    Raises:
        ChipError: a figure of the chip is missing; says what to write into chipSpec.
        ModelError: the model can't be cut like that; names the field.
    """
    check(model, parallelism)
    cuts = cuts_of(parallelism)
    values = _parts(chip, model, cuts, wiring, storage)
    seconds = float(sum(values))
    memory = Memory(*(float(part) for part in memory_of(chip, model, cuts)))
    needed = round(memory.total)
    family = family_of(chip.name)
    useful = flops_per_step(model, parallelism.batch)
    return StepTime(
        seconds=seconds,
        parts=Parts(*values),
        memory_bytes=needed,
        memory=memory,
        memory_limit=chip.memory_bytes,
        fits=chip.memory_bytes is None or needed <= chip.memory_bytes,
        mfu=useful / (seconds * parallelism.devices * chip.peak_flops(model.dtype)),
        calibrated=family.calibrated,
        notes=notes_of(family),
    )


def predict_batch(
    chip: Chip, model: ModelShape, cuts: Cuts, wiring: Wiring, storage: Storage = _NO_STORAGE
) -> StepTimes:
    """`predict` for n cuts or places of one model on one kind of chip at once; the figures are the same.

    Args:
        chip: data sheet of every device.
        model: what is trained.
        cuts: n parallelisms as arrays (`cuts.stack_cuts`).
        wiring: the links of each, sizes and lanes as arrays (n,) per level (`batch.stack_wirings`,
            `batch.regular_wirings`).
        storage: as for `predict`, the same for all.

    Raises:
        ChipError: a figure of the chip is missing.
        ModelError: a row that the model does not allow; names the row and the field.
    """
    check_cuts(model, cuts)
    rows = np.shape(cuts.tensor)
    parts = np.empty((len(PARTS), *rows))
    for index, value in enumerate(_parts(chip, model, cuts, wiring, storage)):
        parts[index] = value
    seconds = parts.sum(axis=0)
    needed = np.broadcast_to(memory_of(chip, model, cuts).total, rows)
    useful = flops_per_step(model, 1) * cuts.batch
    mfu = useful / (seconds * cuts.devices * chip.peak_flops(model.dtype))
    fits = needed <= (np.inf if chip.memory_bytes is None else chip.memory_bytes)
    for array in (seconds, parts, mfu, fits):
        array.setflags(write=False)
    family = family_of(chip.name)
    return StepTimes(seconds, parts, needed, chip.memory_bytes, fits, mfu, family.calibrated, notes_of(family))


def _parts(chip: Chip, model: ModelShape, cuts: Cuts, wiring: Wiring, storage: Storage) -> tuple[Num, ...]:
    """Seconds of each part, in the order of `PARTS`."""
    layers = stage_layers(model, cuts)
    layer = layer_cost(chip, model, cuts, wiring)
    stage = layer.times(layers)
    around, before, others = _ends(chip, model, cuts, wiring, layer, layers)
    compute = stage.compute + around.compute
    micro_batches = cuts.micro_batches
    # A micro batch passes the other stages once.
    bubble = (cuts.pipeline - 1) / cuts.interleave * stage.seconds + others
    # What a stage waits for activations and gradients of its neighbours.
    waits = (micro_batches * cuts.interleave + cuts.pipeline - 1) * (cuts.pipeline > 1)
    sends = 2 * waits * send_seconds(model, cuts, wiring)
    # Split gradients alone travel with every micro batch; all else waits for the last one (and fetches for the first).
    alone = (cuts.zero_stage >= 2) & (cuts.pipeline == 1)
    weights = stage_weights(model, cuts, layers, edge=True)
    data = data_seconds(model, cuts, wiring, weights, layers, alone)
    # Time to hide behind on the first stage, which ends last, as far as traffic between tensor ranks leaves it: the
    # last micro batch, and with chunks also those that other chunks still work on.
    chunks = 1 + cuts.pipeline * (cuts.interleave - 1) / cuts.interleave
    window = (stage.compute + before.compute - stage.hidden - before.hidden) * choose(
        alone, micro_batches, smallest(micro_batches, chunks)
    )
    overlap = choose(alone, SHARDED_OVERLAP, family_of(chip.name).overlap * early_share(cuts, weights))
    hidden = smallest(data * overlap, window)
    rows, table = shared_seconds(model, cuts, wiring, layers)
    values = (
        micro_batches * compute,
        micro_batches * (stage.tensor + around.tensor) + rows,
        micro_batches * stage.context,
        bubble + sends + table,
        data - hidden,
        micro_batches * stage.expert,
        optimizer_seconds(chip, model, cuts, weights),
    )
    return (*values, storage.wait(model, cuts.batch, sum(values)))


def _ends(
    chip: Chip, model: ModelShape, cuts: Cuts, wiring: Wiring, layer: Cost, layers: Num
) -> tuple[Cost, Cost, Num]:
    """What embedding and output layer add to the slowest stage and to the first, and the seconds of those not slowest.

    Where the layers don't fill all stages, the stage with the output layer has one less, then that with the embedding.
    """
    first, last = end_costs(chip, model, cuts, wiring)

    def apart() -> tuple[Num, ...]:
        spare = layers * cuts.pipeline - model.layers
        one, two = first.plus(layer.times(-1.0 * (spare >= 2))), last.plus(layer.times(-1.0 * (spare >= 1)))
        # A stage between them may be the slowest.
        slowest = _slower(_slower(one, two), Cost(0.0))
        others = one.seconds + two.seconds - slowest.seconds
        # With chunks the layer that is missing is that of one chunk, which nobody waits for.
        return *slowest, *one, choose(cuts.interleave > 1, largest(others, 0.0), others)

    both = first.plus(last)
    found = several(cuts.pipeline > 1, apart, lambda: (*both, *both, 0.0))
    return Cost(*found[:5]), Cost(*found[5:10]), found[10]


def _slower(one: Cost, other: Cost) -> Cost:
    """The one that takes longer."""
    ahead = one.seconds >= other.seconds
    return Cost(*(choose(ahead, part, another) for part, another in zip(one, other, strict=True)))


def notes_of(family: Family) -> tuple[str, ...]:
    """What must be said of the constants that were used."""
    if family.calibrated:
        return ()
    if family is DEFAULT:
        return ("default constants: nobody has measured this chip's family",)
    return (f"constants of family {family.name} are usual figures, not fitted to its own step times",)
