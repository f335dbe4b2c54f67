"""AdamW on flat arrays: f32 master weights and moments, parameters in the model's dtype, all on the device.

Where replicas share the optimizer's state (ZeRO 1; Rajbhandari et al., 2020) each has one share of it: gradients come
in as this replica's share, and the updated shares are gathered into everyone's parameters.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from supernode.emulator.client import Array, Member


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
    """The optimizer's state for one replica, or its share of it.

    Args:
        start: f32 (n,), where the weights begin; becomes the master weights where nothing is shared.
        dtype: of the parameters.
        config: rates.
        replicas: those that share the state; None: this one has all of it.

    Attributes:
        parameters: (n,) in the model's dtype, rounded from the master weights.
        master: f32, all of them or this replica's share.
    """

    def __init__(self, start: Array, dtype: str, config: AdamWConfig, replicas: Member | None = None) -> None:
        device = start.device
        self.config = config
        self.replicas = replicas
        if replicas is None:
            self.parameters = device.launch("cast", start, dtype=dtype)
            self.master, self._share = start, self.parameters
        else:
            # Equal shares: what is missing at the end is filled up with zeros, which stay zeros.
            share = -(-start.size // replicas.size)
            self._padding = share * replicas.size - start.size
            start = self._padded(start)
            self.parameters = device.launch("cast", start, dtype=dtype)
            self.master = device.launch("copy", start.part(replicas.place * share, (share,)))
            self._share = self.parameters.part(replicas.place * share, (share,))
        self.mean = device.zeros(self.master.shape, dtype="f32")
        self.variance = device.zeros(self.master.shape, dtype="f32")

    def _padded(self, array: Array) -> Array:
        if not self._padding:
            return array
        padded: Array = array.device.launch("concatenate", array, array.device.zeros((self._padding,), dtype="f32"))
        return padded

    def reduce(self, gradients: Array, replicas: Member | None) -> Array:
        """The mean of all replicas' gradients, or this replica's share of it."""
        if self.replicas is not None:
            return self.replicas.reduce_scatter(self._padded(gradients), op="average")
        if replicas is not None:
            replicas.all_reduce(gradients, op="average")
        return gradients

    def step(self, gradients: Array, *, step: int, learning_rate: float) -> None:
        """One update in place; `parameters` becomes the rounded master."""
        self.master.device.launch(
            "adamw",
            self._share,
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
        if self.replicas is not None:
            self.replicas.all_gather(self._share, out=self.parameters)

    def digest(self) -> str:
        """sha256 of the parameters and, where this replica has all of them, of the master weights, bit by bit."""
        total = hashlib.sha256(self.parameters.numpy().tobytes())
        if self.replicas is None:
            total.update(self.master.numpy().tobytes())
        return total.hexdigest()
