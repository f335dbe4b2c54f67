"""What a step waits for storage: samples that come too late, and checkpoints.

Flows in: the rates of the storage of a domain, what is read and written. Flows out: seconds per step. Not here: which
storage is close to which domain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from supernode.errors import ModelError
from supernode.steptime.arithmetic import Num, largest
from supernode.steptime.model import ModelShape

#: Bytes per weight of a checkpoint in mixed precision: 16-bit weights, f32 master copy, two f32 moments.
CHECKPOINT_BYTES = 14


@dataclass(frozen=True, slots=True)
class Storage:
    """The storage that a job uses.

    Attributes:
        read: bytes/s that the whole job may read; math.inf = never in the way.
        write: bytes/s that the whole job may write.
        every_steps: steps from one checkpoint to the next; 0 = no checkpoints.
        checkpoint_bytes: of one checkpoint; None = weights, master copy and optimizer state of the model.
        token_bytes: read per token of the data set.
        hidden: share of a checkpoint's writing that goes on behind the next steps (asynchronous checkpoints).

    Raises:
        ModelError: a rate that is not positive, or a negative amount; names the field.
    """

    read: float = math.inf
    write: float = math.inf
    every_steps: int = 0
    checkpoint_bytes: float | None = None
    token_bytes: float = 4.0
    hidden: float = 0.0

    def __post_init__(self) -> None:
        for name in ("read", "write"):
            if not getattr(self, name) > 0:
                raise ModelError(f"must be above 0 bytes/s, not {getattr(self, name)!r}", field=f"storage.{name}")
        for name in ("every_steps", "token_bytes", "checkpoint_bytes"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ModelError(f"must be 0 or more, not {value!r}", field=f"storage.{name}")
        if not 0 <= self.hidden <= 1:
            raise ModelError(f"must be a share from 0 to 1, not {self.hidden!r}", field="storage.hidden")

    def wait(self, model: ModelShape, batch: Num, step: Num) -> Num:
        """Seconds per step on top of `step`: samples are read ahead, so only a slower stream is waited for."""
        reading = largest(batch * model.sequence_length * self.token_bytes / self.read - step, 0.0)
        if not self.every_steps:
            return reading
        nbytes = CHECKPOINT_BYTES * model.parameters if self.checkpoint_bytes is None else self.checkpoint_bytes
        return reading + (1 - self.hidden) * nbytes / self.write / self.every_steps
