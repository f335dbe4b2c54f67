"""The parameters of one device: what shape, what start, which part of it; all of them lie in flat buffers.

Flows in: a table of parameters. Flows out: named views of one flat array of weights and one of gradients, so that the
optimizer and the collectives between replicas work on one array each. The start values depend on seed and name
alone, not on how the model is cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from supernode.emulator.client import Array, Device


@dataclass(frozen=True)
class Parameter:
    """One parameter of the whole model.

    Attributes:
        number: of the parameter in the whole model; what its random start values come from.
        shape: of all of it.
        cut: the axis that tensor ranks share; None: every rank holds all of it.
        start: `normal`, `one` or `zero`.
        deviation: standard deviation of normal start values.
        rows: it acts on rows of tokens one by one, so that ranks that share the rows have a part of its gradient each.
    """

    number: int
    shape: tuple[int, ...]
    cut: int | None = None
    start: str = "zero"
    deviation: float = 0.0
    rows: bool = False

    def part(self, ranks: int) -> tuple[int, ...]:
        """Shape of one tensor rank's part."""
        if self.cut is None:
            return self.shape
        return tuple(n // ranks if axis == self.cut else n for axis, n in enumerate(self.shape))


def start_values(device: Device, table: Mapping[str, Parameter], seed: int, *, rank: int = 0, ranks: int = 1) -> Array:
    """A tensor rank's parameters as one flat f32 array: weights normal, gains 1, biases 0, as in GPT-2."""
    parts = []
    for parameter in table.values():
        count = (math.prod(parameter.shape),)
        if parameter.start == "normal":
            part = device.launch(
                "random_normal",
                shape=count,
                dtype="f32",
                seed=seed * 1000 + parameter.number,
                deviation=parameter.deviation,
            )
        else:
            part = device.full(count, float(parameter.start == "one"), dtype="f32")
        if parameter.cut is not None and ranks > 1:
            size = parameter.shape[parameter.cut] // ranks
            whole = part.reshape(parameter.shape)
            part = device.launch("slice", whole, start=rank * size, stop=(rank + 1) * size, axis=parameter.cut)
            part = part.reshape((-1,))
        parts.append(part)
    flat: Array = device.launch("concatenate", *parts)
    return flat


@dataclass
class Parameters:
    """Weights and gradients of one device by name, as views of two flat arrays.

    Attributes:
        gradient: f32 (n,), all gradients in the order of the table.
    """

    device: Device
    table: Mapping[str, Parameter]
    ranks: int = 1
    weights: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gradient = self.device.zeros((self.size,))
        self.gradients = self.views(self.gradient)
        # The second micro batch and later ones write here, so that one launch adds all they give.
        self._more: Array | None = None
        self._views_of_more: dict[str, Array] = {}
        self._written = self.gradients
        self._fresh = set(self.table)

    @property
    def size(self) -> int:
        """Number of elements."""
        return sum(math.prod(parameter.part(self.ranks)) for parameter in self.table.values())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter as the layers see it, in the order in which they lie in the flat arrays.

        A cut in three (queries, keys, values) is one matrix to its layer.
        """
        shapes = {}
        for name, parameter in self.table.items():
            part = parameter.part(self.ranks)
            if name.endswith("qkv.weight"):
                part = (part[0], part[1] * part[2])
            elif name.endswith("qkv.bias"):
                part = (part[0] * part[1],)
            shapes[name] = part
        return shapes

    def views(self, flat: Array) -> dict[str, Array]:
        """The parts of a flat array, by name."""
        views, start = {}, 0
        for name, shape in self.shapes().items():
            views[name] = flat.part(start, shape)
            start += math.prod(shape)
        return views

    def load(self, flat: Array) -> None:
        """Take the weights out of a flat array of the model's dtype; they share its memory."""
        self.weights = self.views(flat)

    def forget_gradients(self) -> None:
        """Start a new sum over micro batches."""
        self._written = self.gradients
        self._fresh = set(self.table)

    def end_micro_batch(self, *, last: bool) -> None:
        """Add what the micro batch gave to the sum; `last`: none follows."""
        if self._more is not None and self._written is not self.gradients:
            if self._fresh:  # a gradient that did not come is no zero there, but what came before
                for name in self._written.keys() - self._fresh:
                    self.device.launch("add", self.gradients[name], self._written[name], out=self.gradients[name])
            else:
                self.device.launch("add", self.gradient, self._more, out=self.gradient)
        if last:
            return
        if self._more is None:
            self._more = self.device.empty((self.size,))
            self._views_of_more = self.views(self._more)
        self._written = self._views_of_more
        self._fresh = set(self.table)

    def add_gradients(
        self, names: Sequence[str], kernel: str, *inputs: Array, also: Sequence[Array] = (), **attributes: Any
    ) -> None:
        """Add what a kernel gives to the micro batch's gradients of weights; the first time it is written in place.

        Args:
            names: of the weights, in the order of the kernel's results.
            kernel: with `inputs` and `attributes`.
            also: arrays for the results that come before those of the weights.
        """
        gradients = [self._written[name] for name in names]
        fresh = self._fresh.issuperset(names)
        targets = gradients if fresh else [self.device.empty(gradient.shape) for gradient in gradients]
        self.device.launch(kernel, *inputs, out=(*also, *targets), dtype="f32", **attributes)
        self._fresh.difference_update(names)
        if not fresh:
            for gradient, more in zip(gradients, targets, strict=True):
                self.device.launch("add", gradient, more, out=gradient)
