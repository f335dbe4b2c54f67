"""Seconds per training step, with their parts, memory per device and MFU.

Flows in: a chip, a model, its parallelism and the wiring of the place. Flows out: a `StepTime`. Not here: where the
job goes, and what it waits for before it trains.

The schedule is 1F1B, interleaved if asked for: with M micro batches, P stages and v chunks per stage a step takes
(M + (P - 1) / v) times the fullest stage's micro batch, then gradients are reduced, then weights are updated. Nothing
overlaps but what the family's constants say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from supernode.chips import Chip
from supernode.steptime.calibration import family_of
from supernode.steptime.collectives import collective_seconds
from supernode.steptime.layer import layer_passes, output_passes, tokens_per_device
from supernode.steptime.memory import (
    GRADIENT_BYTES,
    memory_bytes,
    optimizer_bytes,
    stage_layers,
    weights_per_device,
)
from supernode.steptime.model import ModelShape, Parallelism, check, flops_per_step
from supernode.steptime.roofline import dtype_bytes, kernel_seconds
from supernode.steptime.wiring import Wiring

_NOT_CALIBRATED: Final = "default constants: nobody has measured this chip's family"


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the seconds of a step go; they add up to the step.

    Attributes:
        compute: kernels of forward and backward, recomputation included.
        tensor: collectives between tensor ranks that nothing hides.
        context: exchange of keys and values between context ranks.
        pipeline: idle time while the pipeline fills and drains, and sends between stages.
        data: gradients (and sharded weights) between data ranks.
        expert: token exchange between expert ranks.
        optimizer: the update of the weights.
    """

    compute: float
    tensor: float
    context: float
    pipeline: float
    data: float
    expert: float
    optimizer: float


@dataclass(frozen=True, slots=True)
class StepTime:
    """A predicted step.

    Attributes:
        seconds: of one step.
        parts: that add up to `seconds`.
        memory_bytes: needed on the fullest device.
        memory_limit: bytes that the chip has; None = unknown.
        fits: False if the need is known to be above the limit.
        mfu: useful FLOP/s over peak FLOP/s of all devices, 0 to 1.
        calibrated: the constants are measurements of this chip's family and every link figure was given.
        notes: assumptions that were made, one short sentence each.
    """

    seconds: float
    parts: Parts
    memory_bytes: int
    memory_limit: int | None
    fits: bool
    mfu: float
    calibrated: bool
    notes: tuple[str, ...] = ()


@lru_cache(maxsize=16384)
def predict(chip: Chip, model: ModelShape, parallelism: Parallelism, wiring: Wiring) -> StepTime:
    """The step time of a job on these links.

    Args:
        chip: data sheet of every device of the job.
        model: what is trained.
        parallelism: how it is cut.
        wiring: the links of each kind of group (`wiring.wiring_of`).

    Raises:
        ChipError: a figure of the chip is missing; says what to write into chipSpec.
        ModelError: the model can't be cut like that; names the field.
    """
    check(model, parallelism)
    compute, tensor, context, expert = _micro_batch(chip, model, parallelism, wiring)
    micro_batches, stages = parallelism.micro_batches, parallelism.pipeline
    per_micro_batch = compute + tensor + context + expert
    bubble = (stages - 1) / parallelism.interleave * per_micro_batch
    data = _data(model, parallelism, wiring)
    backward_share = 2 / 3
    hidden = min(data * family_of(chip.name).overlap, micro_batches * compute * backward_share)
    parts = Parts(
        compute=micro_batches * compute,
        tensor=micro_batches * tensor,
        context=micro_batches * context,
        pipeline=bubble + _sends(model, parallelism, wiring),
        data=data - hidden,
        expert=micro_batches * expert,
        optimizer=_optimizer(chip, model, parallelism),
    )
    seconds = (
        parts.compute + parts.tensor + parts.context + parts.pipeline + parts.data + parts.expert + parts.optimizer
    )
    needed = memory_bytes(chip, model, parallelism)
    useful = flops_per_step(model, parallelism.batch)
    calibrated = family_of(chip.name).calibrated
    return StepTime(
        seconds=seconds,
        parts=parts,
        memory_bytes=needed,
        memory_limit=chip.memory_bytes,
        fits=chip.memory_bytes is None or needed <= chip.memory_bytes,
        mfu=useful / (seconds * parallelism.devices * chip.peak_flops(model.dtype)),
        calibrated=calibrated,
        notes=() if calibrated else (_NOT_CALIBRATED,),
    )


def _micro_batch(chip: Chip, model: ModelShape, p: Parallelism, wiring: Wiring) -> tuple[float, float, float, float]:
    """Seconds of compute, tensor, context and expert traffic of one micro batch on the fullest stage."""
    layer = layer_passes(chip, model, p)
    output = output_passes(chip, model, p)
    layers = stage_layers(model, p)
    again = {"None": 0.0, "Selective": layer.again, "Full": layer.forward}[p.recompute]
    compute = layers * (layer.forward + layer.backward + again) + output.forward + output.backward

    width = dtype_bytes(model.dtype)
    tokens = tokens_per_device(model, p)
    activations = float(tokens * model.hidden_size * width)
    passes = 3 if p.recompute == "Full" else 2  # forward, backward, and forward again
    tensor = context = expert = 0.0
    if p.tensor > 1:
        if p.sequence_parallel:
            one = collective_seconds("all_gather", activations, wiring.tensor)
            one += collective_seconds("reduce_scatter", activations, wiring.tensor)
        else:
            one = collective_seconds("all_reduce", activations, wiring.tensor)
        tensor = layers * passes * 2 * one  # behind attention and behind the feed-forward part
    if p.context > 1:
        key_value = 2.0 * tokens * p.context * model.key_value_heads * model.head * width / p.tensor
        one = collective_seconds("all_gather", key_value, wiring.context)
        context = layers * (passes * one + collective_seconds("reduce_scatter", key_value, wiring.context))
    if p.expert > 1:
        visits = activations * model.experts_per_token / (p.tensor if p.sequence_parallel else 1)
        expert = layers * passes * 2 * collective_seconds("all_to_all", visits, wiring.expert)
    return compute, tensor, context, expert


def _sends(model: ModelShape, p: Parallelism, wiring: Wiring) -> float:
    """Seconds that a stage waits for activations and gradients of its neighbours; tensor ranks send a part each."""
    if p.pipeline == 1:
        return 0.0
    nbytes = tokens_per_device(model, p) * model.hidden_size * dtype_bytes(model.dtype) / p.tensor
    one = collective_seconds("send_recv", nbytes, wiring.pipeline)
    return 2 * one * (p.micro_batches * p.interleave + p.pipeline - 1)


def _data(model: ModelShape, p: Parallelism, wiring: Wiring) -> float:
    """Seconds to make gradients equal on all replicas, and to share split weights; without any overlap."""
    replicas = p.data * p.context
    if replicas == 1:
        return 0.0
    dense, experts = weights_per_device(model, p)
    # Experts have fewer replicas, but their ring has the same links at its widest, and its volume is nearly the same.
    weights = dense + (experts if replicas > p.expert else 0.0)
    width = dtype_bytes(model.dtype)
    if p.zero_stage == 0:
        return collective_seconds("all_reduce", weights * GRADIENT_BYTES, wiring.data)
    scatter = collective_seconds("reduce_scatter", weights * GRADIENT_BYTES, wiring.data)
    gather = collective_seconds("all_gather", weights * width, wiring.data)
    if p.zero_stage < 3:
        return scatter + gather
    return p.micro_batches * (2 * gather + scatter)


def _optimizer(chip: Chip, model: ModelShape, p: Parallelism) -> float:
    """Seconds of Adam, which memory alone limits: gradient and weight once, each state read and written."""
    dense, experts = weights_per_device(model, p)
    replicas = p.data * p.context
    if p.zero_stage:
        dense, experts = dense / replicas, experts / (replicas // p.expert)
    per_weight = GRADIENT_BYTES + dtype_bytes(model.dtype) + 2 * optimizer_bytes(model)
    weights = dense + experts
    return kernel_seconds(chip, flops=0.0, bytes_moved=per_weight * weights, dtype="f32")
