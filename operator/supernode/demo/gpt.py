"""A byte-level GPT: token and position embedding, pre-norm blocks, a final norm, and a head tied to the embedding.

One `GPT` is what one device has of it: all of it, or the blocks of its pipeline stage and of those its tensor rank's
part. Flows in: tokens and targets, or the activations of the stage before. Flows out: the loss (mean cross-entropy in
nats per byte), or the activations for the stage after; after `backward` the gradients of all its parameters in f32. The
weights themselves belong to the optimizer (`adamw`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from supernode.demo.cut import Cut, Place
from supernode.demo.layers import Block, Border, LayerNorm
from supernode.demo.parameters import Parameter, Parameters
from supernode.demo.schedule import even_stages
from supernode.demo.tape import Tape
from supernode.demo.vocabulary import Embedding, Head
from supernode.emulator.client import Array, Device, Member
from supernode.errors import ModelError

VOCABULARY: Final = 256


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

    def check(self, cut: Cut) -> None:
        """ModelError where the model cannot be cut this way."""
        for name, size in (("heads", self.heads), ("vocabulary", self.vocabulary)):
            if size % cut.tensor:
                raise ModelError(f"{name} {size} does not divide into {cut.tensor} tensor ranks", field=name)
        if cut.layers and (len(cut.layers) != cut.pipeline or sum(cut.layers) != self.layers):
            raise ModelError(f"stages of {cut.layers} layers are not {self.layers} in {cut.pipeline}", field="layers")
        if self.layers < cut.pipeline:
            raise ModelError(f"{self.layers} layers are too few for {cut.pipeline} pipeline stages", field="layers")

    def table(self, layers: range | None = None, *, first: bool = True, last: bool = True) -> dict[str, Parameter]:
        """The parameters of some layers, in the order in which they lie in the flat arrays.

        Args:
            layers: of a stage; default: all.
            first: with the embeddings.
            last: with the final norm; the head is the token embedding.
        """
        h, table = self.hidden, dict[str, Parameter]()
        # "Small init" of Nguyen and Salazar (2019): GPT-2's 0.02 is meant for widths near 1,000; with it a
        # narrow model stays for long where it knows only how often each byte occurs.
        small = math.sqrt(2 / (5 * h))
        ends_branch = small / math.sqrt(2 * self.layers)  # the sum over the layers keeps its size
        number = 0

        def have(wanted: bool, name: str, parameter: Parameter) -> None:
            nonlocal number
            number += 1
            if wanted:
                table[name] = parameter

        have(first or last, "token", Parameter(number, (self.vocabulary, h), cut=0, start="normal", deviation=small))
        have(first, "position", Parameter(number, (self.sequence, h), start="normal", deviation=small))
        for layer in range(self.layers):
            here = layers is None or layer in layers
            for norm, one, two in (
                ("norm1", ("attention.qkv", (h, 3, h), 2), ("attention.out", (h, h), 0)),
                ("norm2", ("mlp.up", (h, 4 * h), 1), ("mlp.down", (4 * h, h), 0)),
            ):
                have(here, f"{layer}.{norm}.gain", Parameter(number, (h,), start="one", rows=True))
                have(here, f"{layer}.{norm}.bias", Parameter(number, (h,), rows=True))
                name, shape, axis = one
                have(here, f"{layer}.{name}.weight", Parameter(number, shape, axis, "normal", small))
                have(here, f"{layer}.{name}.bias", Parameter(number, shape[1:], cut=axis - 1))
                name, shape, axis = two
                have(here, f"{layer}.{name}.weight", Parameter(number, shape, axis, "normal", ends_branch))
                have(here, f"{layer}.{name}.bias", Parameter(number, (h,), rows=True))
        have(last, "norm.gain", Parameter(number, (h,), start="one", rows=True))
        have(last, "norm.bias", Parameter(number, (h,), rows=True))
        # What tensor ranks that share rows have to add up lies together, at the end.
        return dict(sorted(table.items(), key=lambda item: item[1].rows))

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(math.prod(parameter.shape) for parameter in self.table().values())


class GPT:
    """What one device has of the model.

    Args:
        device: where it is.
        config: of the whole model.
        cut: how it is cut.
        place: of the device.
        tensor: the group of the tensor ranks, if there are several.
    """

    def __init__(
        self,
        device: Device,
        config: GPTConfig,
        cut: Cut | None = None,
        place: Place | None = None,
        tensor: Member | None = None,
    ) -> None:
        cut, place = cut or Cut(), place or Place(0, 0, 0)
        config.check(cut)
        counts = cut.layers or even_stages(config.layers, cut.pipeline)
        start = sum(counts[: place.pipeline])
        layers = range(start, start + counts[place.pipeline])
        self.device = device
        self.config = config
        self.first, self.last = place.pipeline == 0, place.pipeline == cut.pipeline - 1
        table = config.table(layers, first=self.first, last=self.last)
        self.parameters = Parameters(device, table, ranks=cut.tensor)
        self.border = Border(tensor, rows=cut.sequence_parallel)
        self.embedding = Embedding(self.parameters, self.border)
        self.blocks = [
            Block(
                self.parameters,
                str(layer),
                self.border,
                heads=config.heads // cut.tensor,
                sequence=config.sequence,
                recompute=cut.recompute,
            )
            for layer in layers
        ]
        self.norm = LayerNorm(self.parameters, "norm")
        self.head = Head(self.parameters, self.border)

    def forward(self, x: Array, targets: Array | None, tape: Tape) -> Array:
        """Activations of tokens (batch, sequence) or of the stage before; in the last stage the mean loss, f32."""
        if self.first:
            x = self.embedding.forward(x, tape)
        for block in self.blocks:
            x = block.forward(x, tape)
        if targets is None:
            return x
        return self.head.forward(self.norm.forward(x, tape), targets.reshape((-1,)), tape)

    def backward(self, grad: Array | None, tape: Tape, *, scale: float = 1.0) -> Array | None:
        """Gradients of `scale` times the loss of a forward pass.

        Args:
            grad: of the activations that went to the stage after; None in the last stage.
            tape: of the forward pass.
            scale: a share of the loss, where several micro batches make one step.

        Returns:
            The gradient for the stage before; None in the first stage.
        """
        if grad is None:
            grad = self.norm.backward(self.head.backward(tape, scale=scale), tape)
        for block in reversed(self.blocks):
            grad = block.backward(grad, tape)
        if not self.first:
            return grad
        self.embedding.backward(grad, tape)
        return None

    def activations(self, micro_batch: int) -> tuple[int, int]:
        """Shape of what goes from stage to stage."""
        rows = micro_batch * self.config.sequence
        if self.border.ranks is not None and self.border.rows:
            rows //= self.border.ranks.size
        return rows, self.config.hidden

    def reduce_shared_rows(self) -> None:
        """Add up the gradients of what acts on rows, where tensor ranks share the rows."""
        if self.border.ranks is None or not self.border.rows:
            return
        table, ranks = self.parameters.table, self.border.ranks.size
        count = sum(math.prod(parameter.part(ranks)) for parameter in table.values() if parameter.rows)
        self.border.ranks.all_reduce(self.parameters.gradient.part(self.parameters.size - count, (count,)))
