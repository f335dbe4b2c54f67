"""The launch that stands for an operator which the host computed: it makes nothing, and takes the time of a pass.

Flows in: the operator's inputs and results, which lie on the device. Flows out: nothing. Not here: the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from supernode.emulator.dtypes import ALL
from supernode.emulator.kernels.rules import moved
from supernode.emulator.kernels.table import EXACT, AnyArray, Attributes, Cost, Kernel, Spec, example


def _shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return ()


def _cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return Cost(0.0, moved(specs, ()))


def _run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return ()


KERNELS: Final = (
    Kernel(
        "host_operator",
        ("x", "..."),
        ALL,
        _shape,
        _cost,
        _run,
        "nothing: takes the time of one pass over the arrays of an operator that the host computed",
        outputs=(),
        bound=EXACT,
        examples=(example((3, 4), (2,)),),
    ),
)
