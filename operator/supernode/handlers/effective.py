"""Effective compute of each pool: what its running jobs really get out of it, beside the peak of the data sheet.

Flows in: running jobs with placements and reports. Flows out: TFLOPS per pool and group, predicted at placement and
observed, and gauges of both. Useful FLOP/s of the model only, without recomputation.
"""

from __future__ import annotations

from dataclasses import dataclass

from supernode.api.job import TrainingJob
from supernode.cluster import nodes
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


class Wired:
    """The groups that a node is in, found once per node until nodes or groups change.

    Args:
        context: what handlers share.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found: dict[str, tuple[str, ...]] = {}

    def forget(self) -> None:
        """Nodes or groups have changed."""
        self._found.clear()

    def groups_of(self, node: str) -> tuple[str, ...]:
        """Names of the groups that a node is wired into."""
        found = self._found.get(node)
        if found is None:
            observer = self._context.observer
            raw = observer.node(node)
            labels = dict(nodes.labels_of(raw)) if raw is not None else {}
            found = self._found[node] = tuple(
                name
                for name, group in observer.view.groups.items()
                if group.spec.node_selector.matches(labels)
                and all(labels.get(level.node_label) for level in group.spec.levels)
            )
        return found


@dataclass(slots=True)
class Effectives:
    """Of pools and groups, by name."""

    pools: dict[str, Effective]
    groups: dict[str, Effective]


def effective_json(effective: Effective) -> Json:
    """As a status tells it, in three digits: one that says the same need not be written again."""
    return {f"{kind}TFLOPS": float(f"{getattr(effective, kind):.3g}") for kind in ("peak", "predicted", "observed")}


def differ(said: Json | None, effective: Effective) -> bool:
    """Whether a status is more than a twentieth off: no reason to write it every time that a step takes longer."""
    if said is None:
        return True
    now = effective_json(effective)
    return any(abs(value - said.get(kind, 0.0)) > 0.05 * max(value, said.get(kind, 0.0)) for kind, value in now.items())


def effective_compute(context: Context, readings: Readings, wired: Wired) -> Effectives:
    """A gang over several pools, or groups, counts in each by its devices' share of the peak."""
    view = context.observer.view
    found = Effectives({name: Effective() for name in view.specs}, {name: Effective() for name in view.groups})
    for key, obj in context.stores.jobs.objects().items():
        status = obj.get("status") or {}
        placement = status.get("placement") or {}
        if state_of(status) is not State.RUNNING or not placement:
            continue
        model = readings.read(key, obj).model
        if model is not None:
            _add(context, found, wired, model, status, placement)
    return found


def _add(context: Context, found: Effectives, wired: Wired, model: TrainingJob, status: Json, placement: Json) -> None:
    shape = model_shape(model.spec)
    peaks: dict[tuple[str, str], float] = {}
    for worker in placement.get("workers") or []:
        name = worker.get("pool") or placement.get("pool") or ""
        spec = context.observer.view.specs.get(name)
        if spec is None or shape is None:
            return
        try:
            peak = spec.chip.peak_flops(shape.dtype) * len(worker.get("devices") or [])
        except InputError:
            return
        peaks["pool", name] = peaks.get(("pool", name), 0.0) + peak
        for group in wired.groups_of(str(worker.get("node"))):
            peaks["group", group] = peaks.get(("group", group), 0.0) + peak
    seconds = placement.get("predictedStepSeconds")
    predicted = utilisation(model, seconds, context.observer, placement) if seconds else None
    for (kind, name), peak in peaks.items():
        its = (found.pools if kind == "pool" else found.groups).setdefault(name, Effective())
        its.peak += peak / TERA
        its.predicted += (predicted or 0.0) * peak / TERA
        its.observed += (status.get("mfu") or 0.0) * peak / TERA


def measure_pools(context: Context, found: dict[str, Effective]) -> None:
    """Tell the metrics."""
    context.metrics.clear("supernode_pool_effective_tflops")
    for name, effective in found.items():
        for kind in ("peak", "predicted", "observed"):
            context.metrics.gauge("supernode_pool_effective_tflops", getattr(effective, kind), name, kind)
