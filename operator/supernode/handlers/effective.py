"""Effective compute of each pool: what its running jobs really get out of it, beside the peak of the data sheet.

Flows in: running jobs with placements and reports. Flows out: TFLOPS per pool, predicted at placement and observed,
and gauges of both. Useful FLOP/s of the model only, without recomputation.
"""

from __future__ import annotations

from dataclasses import dataclass

from supernode.api.job import TrainingJob
from supernode.cluster.kinds import Json
from supernode.cluster.translate import model_shape
from supernode.errors import InputError
from supernode.handlers.context import Context
from supernode.handlers.facts import state_of
from supernode.handlers.life import State
from supernode.handlers.progress import utilisation
from supernode.handlers.reading import Readings

TERA = 1e12


@dataclass(slots=True)
class Effective:
    """TFLOPS of a pool.

    Attributes:
        peak: of the devices that running jobs hold, in each job's number format.
        predicted: by the step times that jobs were placed with.
        observed: by the step times that jobs report.
    """

    peak: float = 0.0
    predicted: float = 0.0
    observed: float = 0.0


def effective_of_pools(context: Context, readings: Readings) -> dict[str, Effective]:
    """By name of the pool; a gang over several pools counts in each by its devices' share of the peak."""
    found: dict[str, Effective] = {name: Effective() for name in context.observer.view.specs}
    for key, obj in context.stores.jobs.objects().items():
        status = obj.get("status") or {}
        placement = status.get("placement") or {}
        if state_of(status) is not State.RUNNING or not placement:
            continue
        model = readings.read(key, obj).model
        if model is not None:
            _add(context, found, model, status, placement)
    return found


def _add(context: Context, found: dict[str, Effective], model: TrainingJob, status: Json, placement: Json) -> None:
    shape = model_shape(model.spec)
    peaks: dict[str, float] = {}
    for worker in placement.get("workers") or []:
        name = worker.get("pool") or placement.get("pool") or ""
        spec = context.observer.view.specs.get(name)
        if spec is None or shape is None:
            return
        try:
            peaks[name] = peaks.get(name, 0.0) + spec.chip.peak_flops(shape.dtype) * len(worker.get("devices") or [])
        except InputError:
            return
    seconds = placement.get("predictedStepSeconds")
    predicted = utilisation(model, seconds, context.observer, placement) if seconds else None
    for name, peak in peaks.items():
        of_pool = found.setdefault(name, Effective())
        of_pool.peak += peak / TERA
        of_pool.predicted += (predicted or 0.0) * peak / TERA
        of_pool.observed += (status.get("mfu") or 0.0) * peak / TERA


def measure_pools(context: Context, found: dict[str, Effective]) -> None:
    """Tell the metrics."""
    context.metrics.clear("supernode_pool_effective_tflops")
    for name, effective in found.items():
        for kind in ("peak", "predicted", "observed"):
            context.metrics.gauge("supernode_pool_effective_tflops", getattr(effective, kind), name, kind)
