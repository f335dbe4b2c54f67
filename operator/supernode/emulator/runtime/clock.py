"""The virtual clock: device seconds of a launch, from the chip's figures and the step-time formulas.

Flows in: a kernel's cost. Flows out: seconds, the same on every host and however busy it is. The formulas are
`steptime`'s, so what the predictor says and what the emulator measures come from one source. Not here: collectives
(`fabric`), and who waits for whom (`stream`).
"""

from __future__ import annotations

from typing import Final

from supernode.chips import Chip
from supernode.emulator.kernels import Cost
from supernode.steptime.roofline import gemm_seconds, kernel_seconds

_REMEMBERED: Final = 8192


class CostModel:
    """Seconds of launches on one kind of chip.

    Args:
        chip: data sheet; a figure that a launch needs and the sheet lacks is a ChipError that says what to write.
    """

    def __init__(self, chip: Chip) -> None:
        self.chip = chip
        self._known: dict[int, tuple[Cost, float]] = {}

    def seconds(self, cost: Cost) -> float:
        """Device seconds of a launch.

        Raises:
            ChipError: the chip's sheet lacks a figure.
        """
        known = self._known.get(id(cost))
        if known is not None and known[0] is cost:
            return known[1]
        seconds = self._compute(cost)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[id(cost)] = (cost, seconds)
        return seconds

    def _compute(self, cost: Cost) -> float:
        if cost.gemm is not None:
            m, n, k, batch, dtype = cost.gemm
            return gemm_seconds(self.chip, m, n, k, dtype, batch)
        if cost.flops == 0.0 and cost.bytes_moved == 0.0:
            return 0.0  # nothing to do, nothing is launched
        # Without matrix arithmetic, memory is the limit on every chip of the catalogue: no vector peak is needed.
        flops = cost.flops if cost.dtype is not None else 0.0
        return kernel_seconds(self.chip, flops=flops, bytes_moved=cost.bytes_moved, dtype=cost.dtype or "f32")

    def copy_seconds(self, nbytes: int) -> float:
        """Device seconds of a copy of `nbytes` to, from or inside the device, at memory bandwidth."""
        return kernel_seconds(self.chip, flops=0.0, bytes_moved=float(nbytes), dtype="f32")
