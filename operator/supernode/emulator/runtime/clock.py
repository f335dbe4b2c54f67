"""The virtual clock: device seconds of a launch, from the chip's figures and the step-time formulas.

Flows in: a kernel's cost. Flows out: seconds, the same on every host and however busy it is. The formulas are
`steptime`'s, so what the predictor says and what the emulator measures come from one source. Not here: collectives
(`fabric`), and who waits for whom (`stream`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from supernode.chips import Chip
from supernode.emulator.fabric.topology import read_topology
from supernode.emulator.kernels import Cost
from supernode.emulator.runtime.host_link import host_bandwidth
from supernode.steptime.collectives import collective_seconds
from supernode.steptime.roofline import attention_seconds, gemm_seconds, kernel_seconds

_REMEMBERED: Final = 1024


class CostModel:
    """Seconds of launches on one kind of chip.

    A share of a card runs kernels at that share of its rates: of arithmetic, and of the memory bandwidth that its
    compute units can draw. Launching and copying take what they take on the whole card.

    Args:
        chip: data sheet; a figure that a launch needs and the sheet lacks is a ChipError that says what to write.
        cores: percent of its compute units that there are.
    """

    def __init__(self, chip: Chip, *, cores: int = 100) -> None:
        self.whole = chip
        self.chip = chip if cores == 100 else _share(chip, cores / 100)
        self._host_bandwidth = host_bandwidth(chip.host_link)
        self._peers = read_topology(None, workers=1, devices=2, chip=chip).links((0, 1))
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
            return gemm_seconds(self.chip, m, n, k, self._rate(dtype), batch)
        if cost.flops == 0.0 and cost.bytes_moved == 0.0:
            return 0.0  # nothing to do, nothing is launched
        if cost.keys and cost.dtype is not None:
            return attention_seconds(
                self.chip, flops=cost.flops, bytes_moved=cost.bytes_moved, dtype=cost.dtype, length=cost.keys
            )
        # Without matrix arithmetic, memory is the limit on every chip of the catalogue: no vector peak is needed.
        flops = cost.flops if cost.dtype is not None else 0.0
        return kernel_seconds(self.chip, flops=flops, bytes_moved=cost.bytes_moved, dtype=cost.dtype or "f32")

    def _rate(self, dtype: str) -> str:
        """The format at whose rate products run: 8 bits at that of f16 where the sheet leaves theirs out.

        A card with units for 8 bits is no slower in them than in f16, so the time is one it certainly reaches. Where
        the sheet says that the chip lacks the format, products in it stay an error.
        """
        return "f16" if dtype in ("int8", "fp8") and self.chip.tflops.get(dtype) is None else dtype

    def host_copy_seconds(self, nbytes: int) -> float:
        """Device seconds of a copy of `nbytes` from or to the host: over its link, or as slow as the memory."""
        launch = kernel_seconds(self.whole, flops=0.0, bytes_moved=0.0, dtype="f32")
        memory = kernel_seconds(self.whole, flops=0.0, bytes_moved=float(nbytes), dtype="f32")
        return max(memory, launch + nbytes / self._host_bandwidth)

    def peer_copy_seconds(self, nbytes: int) -> float:
        """Device seconds of a copy of `nbytes` from another device of the node: a message over their link."""
        memory = kernel_seconds(self.whole, flops=0.0, bytes_moved=2.0 * nbytes, dtype="f32")
        return max(memory, float(collective_seconds("send_recv", nbytes, self._peers)))


def _share(chip: Chip, part: float) -> Chip:
    bandwidth = chip.memory_bandwidth
    return replace(
        chip,
        tflops={dtype: peak * part for dtype, peak in chip.tflops.items()},
        memory_bandwidth=None if bandwidth is None else bandwidth * part,
    )
