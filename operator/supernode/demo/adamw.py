"""AdamW on flat arrays: f32 master weights and moments, parameters in the model's dtype, all on the device."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from supernode.emulator.client import Array


@dataclass(frozen=True)
class AdamWConfig:
    """What the optimizer is told; the learning rate warms up linearly and then falls along a cosine to a tenth."""

    learning_rate: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    warmup: int = 20

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 1."""
        if step <= self.warmup:
            return self.learning_rate * step / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class AdamW:
    """The optimizer's state for one replica."""

    def __init__(self, master: Array, dtype: str, config: AdamWConfig) -> None:
        device = master.device
        self.config = config
        self.master = master
        self.parameters = device.launch("cast", master, dtype=dtype)
        self.mean = device.zeros(master.shape, dtype="f32")
        self.variance = device.zeros(master.shape, dtype="f32")

    def step(self, gradients: Array, *, step: int, learning_rate: float) -> None:
        """One update in place; `parameters` becomes the rounded master."""
        self.master.device.launch(
            "adamw",
            self.parameters,
            gradients,
            self.master,
            self.mean,
            self.variance,
            learning_rate=learning_rate,
            step=step,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            epsilon=self.config.epsilon,
            weight_decay=self.config.weight_decay,
        )

    def digest(self) -> str:
        """sha256 of parameters and master weights, bit by bit."""
        total = hashlib.sha256(self.parameters.numpy().tobytes())
        total.update(self.master.numpy().tobytes())
        return total.hexdigest()
