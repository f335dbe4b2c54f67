"""Seconds per training step, with their parts, and bytes per device."""

from __future__ import annotations

from dataclasses import dataclass


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
