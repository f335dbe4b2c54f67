"""A byte-level GPT: token and position embedding, pre-norm blocks, a final norm, and a head tied to the embedding.

Flows in: tokens and targets on a device. Flows out: the loss (mean cross-entropy in nats per byte), and after
`backward` the gradients of all parameters in f32. The weights themselves belong to the optimizer (`adamw`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from supernode.demo.layers import Block, LayerNorm, Parameters
from supernode.emulator.client import Array, Device
from supernode.errors import ModelError

VOCABULARY: Final = 256
DEVIATION: Final = 0.02


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the model; `dtype` is that of parameters and activations (bf16, f16 or f32)."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    sequence: int = 64
    vocabulary: int = VOCABULARY
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "sequence", "vocabulary"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name} is {getattr(self, name)}; it must be 1 or more", field=name)
        if self.hidden % self.heads:
            raise ModelError(f"hidden {self.hidden} does not divide into {self.heads} heads", field="heads")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter by name, in the order in which they lie in the flat buffer."""
        h = self.hidden
        shapes: dict[str, tuple[int, ...]] = {"token": (self.vocabulary, h), "position": (self.sequence, h)}

        def linear(name: str, inputs: int, outputs: int) -> None:
            shapes[f"{name}.weight"] = (inputs, outputs)
            shapes[f"{name}.bias"] = (outputs,)

        def norm(name: str) -> None:
            shapes[f"{name}.gain"] = (h,)
            shapes[f"{name}.bias"] = (h,)

        for layer in range(self.layers):
            norm(f"{layer}.norm1")
            linear(f"{layer}.attention.qkv", h, 3 * h)
            linear(f"{layer}.attention.out", h, h)
            norm(f"{layer}.norm2")
            linear(f"{layer}.mlp.up", h, 4 * h)
            linear(f"{layer}.mlp.down", 4 * h, h)
        norm("norm")
        return shapes

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes().values())


def initial_parameters(device: Device, config: GPTConfig, seed: int) -> Array:
    """All parameters as one flat f32 array: weights normal, gains 1, biases 0, as in GPT-2.

    The matrices that end a residual branch start smaller, so that the sum over the layers keeps its size.
    """
    parts = []
    for number, (name, shape) in enumerate(config.shapes().items()):
        count = (math.prod(shape),)
        if name.endswith(".gain"):
            parts.append(device.full(count, 1.0, dtype="f32"))
        elif name.endswith(".bias"):
            parts.append(device.zeros(count, dtype="f32"))
        else:
            ends_branch = name.endswith(("out.weight", "down.weight"))
            deviation = DEVIATION / math.sqrt(2 * config.layers) if ends_branch else DEVIATION
            parts.append(
                device.launch("random_normal", shape=count, dtype="f32", seed=seed * 1000 + number, deviation=deviation)
            )
    flat: Array = device.launch("concatenate", *parts)
    return flat


class GPT:
    """One replica of the model on one device."""

    def __init__(self, device: Device, config: GPTConfig) -> None:
        self.device = device
        self.config = config
        self.parameters = Parameters(device)
        self.blocks = [
            Block(self.parameters, str(layer), heads=config.heads, sequence=config.sequence)
            for layer in range(config.layers)
        ]
        self.norm = LayerNorm(self.parameters, "norm")

    def load(self, flat: Array) -> None:
        """Take the weights out of one flat array of the model's dtype."""
        start = 0
        for name, shape in self.config.shapes().items():
            stop = start + math.prod(shape)
            part = self.device.launch("slice", flat, start=start, stop=stop)
            self.parameters.weights[name] = part.reshape(shape)
            start = stop

    def forward(self, tokens: Array, targets: Array) -> Array:
        """Mean loss, f32, of tokens (batch, sequence) against the next bytes."""
        launch, weights = self.device.launch, self.parameters.weights
        self.tokens = tokens
        x = launch("add", launch("embedding", weights["token"], tokens), weights["position"])
        x = x.reshape((-1, self.config.hidden))
        for block in self.blocks:
            x = block.forward(x)
        self.x = self.norm.forward(x)
        self.logits = launch("matmul", self.x, weights["token"], transpose_b=True)
        self.targets = targets.reshape((-1,))
        loss: Array
        loss, self.logsumexp = launch("softmax_cross_entropy", self.logits, self.targets)
        return loss

    def backward(self) -> None:
        """Gradients of the loss of the last `forward`."""
        launch, parameters = self.device.launch, self.parameters
        parameters.gradients.clear()
        dlogits = launch("softmax_cross_entropy_backward", self.logits, self.targets, self.logsumexp)
        parameters.add_gradient("token", launch("matmul", dlogits, self.x, transpose_a=True, dtype="f32"))
        grad = self.norm.backward(launch("matmul", dlogits, parameters.weights["token"]))
        for block in reversed(self.blocks):
            grad = block.backward(grad)
        grad = grad.reshape((*self.tokens.shape, self.config.hidden))
        rows = self.config.vocabulary
        parameters.add_gradient("token", launch("embedding_backward", grad, self.tokens, rows=rows, dtype="f32"))
        parameters.add_gradient("position", launch("sum", grad, axis=0, dtype="f32"))

    def flat_gradients(self) -> Array:
        """All gradients as one flat f32 array, in the order of the parameters."""
        gradients = self.parameters.gradients
        parts = [gradients[name].reshape((-1,)) for name in self.config.shapes()]
        flat: Array = self.device.launch("concatenate", *parts)
        return flat
