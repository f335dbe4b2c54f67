"""The effective compute that a gang counts with in quotas: what its place promises, in MFLOP/s (10^6).

With a model that is the useful FLOPs of a step over the predicted step time. A gang whose step can't be predicted
counts with the peak of its devices, so that leaving the model out gains nothing; it promises nothing by itself (an
empty tuple). Flows in: demands, step times, pools. Flows out: whole numbers. Not here: who may hold how much (`quota`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from supernode.chips import Chip
from supernode.errors import ChipError
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.placement import WorkerPlacement
from supernode.scheduling.snapshot import PoolInfo, Snapshot
from supernode.steptime.model import Parallelism, flops_per_step
from supernode.steptime.predict import StepTime

MEGA: Final = 1e6
#: MFLOP/s of a TFLOPS, as people write quotas.
PER_TFLOPS: Final = 10**6
# Formats by whose peak a gang counts that does not say what it computes in, the first that the chip has.
_FORMATS: Final = ("bf16", "f16", "f32")


def peak_of(chip: Chip) -> int:
    """MFLOP/s of one device for a gang whose step can't be predicted; 0 if no figure is known."""
    for dtype in _FORMATS:
        try:
            return round(chip.peak_flops(dtype) / MEGA)
        except ChipError:
            continue
    return 0


def promised(
    demand: GangDemand, seconds: float | None, devices: Iterable[tuple[PoolInfo, int]]
) -> tuple[tuple[str, int], ...]:
    """(pool, MFLOP/s) that a place promises; empty where no step can be predicted.

    Args:
        demand: of the gang, with as many workers as are placed.
        seconds: predicted step time; None = not known.
        devices: of each pool that the place takes some of. Pools share the whole by the peaks of these.
    """
    if demand.model is None or seconds is None or not seconds > 0:
        return ()
    cut = demand.parallelism or Parallelism(data=demand.workers * demand.devices)
    whole = flops_per_step(demand.model, cut.batch) / seconds / MEGA
    weights = [(pool.name, _peak(pool.chip, demand.model.dtype) * count) for pool, count in devices]
    total = sum(weight for _, weight in weights)
    if not total or not math.isfinite(whole):
        return ()
    return tuple((name, math.ceil(whole * weight / total)) for name, weight in weights)


def _peak(chip: Chip, dtype: str) -> float:
    try:
        return chip.peak_flops(dtype)
    except ChipError:
        return float(peak_of(chip)) * MEGA


def promised_at(
    snapshot: Snapshot, demand: GangDemand, workers: Iterable[WorkerPlacement], predicted: StepTime | None
) -> tuple[tuple[str, int], ...]:
    """The same for workers in places that are known one by one."""
    counts: dict[str, int] = {}
    for worker in workers:
        counts[worker.pool] = counts.get(worker.pool, 0) + len(worker.devices)
    pools = [(pool, count) for name, count in counts.items() if (pool := snapshot.pool(name)) is not None]
    return promised(demand, None if predicted is None else predicted.seconds, pools)
