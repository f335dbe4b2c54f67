"""The ONNX operators that run on the device: one table, one module per family, one entry per operator.

An entry is a name and a function of a `Call` that launches kernels and gives the node's results. It serves every
version of the operator set; where versions differ, it asks for the call's. An entry may give `NotImplemented` for
inputs without a kernel: then the host computes (see `host`). To add an operator, add an entry to the `OPERATORS` of a
family's module. Not here: the kernels themselves (`supernode.emulator.kernels`).
"""

from collections.abc import Mapping
from typing import Final

from supernode.emulator.onnx_backend.call import Lowering
from supernode.emulator.onnx_backend.operators import (
    activation,
    attention,
    control,
    conversion,
    convolution,
    creation,
    elementwise,
    layout,
    linear,
    loss,
    normalise,
    pooling,
    quantised,
    recurrent,
    reduction,
    resize,
    selection,
    sequence,
    spectral,
    vision,
)

_FAMILIES: Final[Mapping[str, Mapping[str, Lowering]]] = {
    "elementwise": elementwise.OPERATORS,
    "activation": activation.OPERATORS,
    "reduction": reduction.OPERATORS,
    "linear": linear.OPERATORS,
    "convolution": convolution.OPERATORS,
    "quantised": quantised.OPERATORS,
    "attention": attention.OPERATORS,
    "recurrent": recurrent.OPERATORS,
    "normalise": normalise.OPERATORS,
    "pooling": pooling.OPERATORS,
    "resize": resize.OPERATORS,
    "vision": vision.OPERATORS,
    "spectral": spectral.OPERATORS,
    "loss": loss.OPERATORS,
    "layout": layout.OPERATORS,
    "selection": selection.OPERATORS,
    "creation": creation.OPERATORS,
    "conversion": conversion.OPERATORS,
    "sequence": sequence.OPERATORS,
    "control": control.OPERATORS,
}

#: (domain, operator) -> its way onto the device.
OPERATORS: Final[Mapping[tuple[str, str], Lowering]] = {
    ("", name): lower for family in _FAMILIES.values() for name, lower in family.items()
}
#: Family -> its operators, for the documentation.
FAMILIES: Final[Mapping[str, tuple[str, ...]]] = {name: tuple(family) for name, family in _FAMILIES.items()}

__all__ = ["FAMILIES", "OPERATORS"]
