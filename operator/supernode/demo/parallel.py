"""Data parallelism: one replica per device, gradients averaged over all devices of all workers of the job.

All replicas start from rank 0's weights and take the same averaged gradients, so their weights stay the same bit by
bit; `digests` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supernode.demo.adamw import AdamW, AdamWConfig
from supernode.demo.corpus import Bytes
from supernode.demo.gpt import GPT, GPTConfig, initial_parameters
from supernode.emulator.client import Array, Emulator
from supernode.errors import InputError


class DataParallel:
    """The replicas of this worker's devices, and the group of all devices of the job."""

    def __init__(self, emulator: Emulator, model: GPTConfig, optimizer: AdamWConfig, *, seed: int) -> None:
        self.group = emulator.group()
        self.devices = self.group.local
        masters = [initial_parameters(device, model, seed) for device in self.devices]
        self.group.broadcast(masters, root=0)
        self.replicas = [GPT(device, model) for device in self.devices]
        self.optimizers = [AdamW(master, model.dtype, optimizer) for master in masters]

    def check_same(self, what: str, digest: str) -> None:
        """InputError unless all ranks give the same digest."""
        number = np.array([int(digest[:12], 16)], dtype=np.int64)
        low, high = ([device.array(number) for device in self.devices] for _ in range(2))
        self.group.all_reduce(low, op="min")
        self.group.all_reduce(high, op="max")
        if low[0].item() != high[0].item():
            raise InputError(f"the ranks do not have the same {what}: here its sha256 starts with {digest[:12]}")

    def step(self, batches: Sequence[tuple[Bytes, Bytes]], *, step: int, learning_rate: float) -> Array:
        """One training step, one batch per local device; the mean loss over all ranks (on the first device)."""
        losses, gradients = [], []
        for device, model, optimizer, (tokens, targets) in zip(
            self.devices, self.replicas, self.optimizers, batches, strict=True
        ):
            model.load(optimizer.parameters)
            losses.append(model.forward(device.array(tokens), device.array(targets)))
            model.backward()
            gradients.append(model.flat_gradients())
        self.group.all_reduce(gradients, op="average")
        self.group.all_reduce(losses, op="average")
        for optimizer, gradient in zip(self.optimizers, gradients, strict=True):
            optimizer.step(gradient, step=step, learning_rate=learning_rate)
        return losses[0]

    def digests(self) -> list[str]:
        """sha256 of the weights of each local device."""
        return [optimizer.digest() for optimizer in self.optimizers]
