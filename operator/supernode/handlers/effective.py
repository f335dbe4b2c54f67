"""Effective compute of each pool: what its running jobs really get out of it, beside the peak of the data sheet.

Flows in: running jobs with placements and reports. Flows out: TFLOPS per pool and group, predicted at placement and
observed, and gauges of both. Useful FLOP/s of the model only, without recomputation.
"""

from __future__ import annotations

from dataclasses import dataclass

from supernode.api.job import TrainingJob
from supernode.cluster import nodes
from supernode.cluster.assignment import workers_of
from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.cluster.observe import View
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


# Parts of a job's compute, by ("pool" or "group", name).
Parts = dict[tuple[str, str], Effective]


class Wired:
    """The groups that a node is in, found once per node until nodes or groups change.

    Args:
        context: what handlers share.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found: dict[str, tuple[str, ...]] = {}
        # What each job was counted with, in the version that it had, and in which view of pools and groups: of
        # thousands of workers only those of jobs that have changed are counted again.
        self.counted: dict[Key, tuple[Json, Parts]] = {}
        self.view: View | None = None

    def forget(self) -> None:
        """Nodes or groups have changed."""
        self._found.clear()
        self.counted = {}

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
    now = effective_json(effective)
    if said is None:
        return any(now.values())  # a pool on which nothing has run tells nothing
    return any(abs(value - said.get(kind, 0.0)) > 0.05 * max(value, said.get(kind, 0.0)) for kind, value in now.items())


def effective_compute(context: Context, readings: Readings, wired: Wired) -> Effectives:
    """A gang over several pools, or groups, counts in each by its devices' share of the peak."""
    view = context.observer.view
    found = Effectives({name: Effective() for name in view.specs}, {name: Effective() for name in view.groups})
    known = wired.counted if wired.view is view else {}
    wired.view, wired.counted = view, {}
    for key, obj in context.stores.jobs.objects().items():
        before = known.get(key)
        parts = before[1] if before is not None and before[0] is obj else _of_job(context, readings, wired, key)
        wired.counted[key] = (obj, parts)
        for (kind, name), part in parts.items():
            its = (found.pools if kind == "pool" else found.groups).setdefault(name, Effective())
            its.peak += part.peak
            its.predicted += part.predicted
            its.observed += part.observed
    return found


def _of_job(context: Context, readings: Readings, wired: Wired, key: Key) -> Parts:
    obj = context.stores.jobs.get(key) or {}
    status = obj.get("status") or {}
    placement = status.get("placement") or {}
    if state_of(status) is not State.RUNNING or not placement:
        return {}
    model = readings.read(key, obj).model
    return {} if model is None else _parts(context, wired, model, status, placement)


def _parts(context: Context, wired: Wired, model: TrainingJob, status: Json, placement: Json) -> Parts:
    shape = model_shape(model.spec)
    peaks: dict[tuple[str, str], float] = {}
    for worker in workers_of(placement):
        name = worker.pool
        spec = context.observer.view.specs.get(name)
        if spec is None or shape is None:
            return {}
        try:
            peak = spec.chip.peak_flops(shape.dtype) * len(worker.devices)
        except InputError:
            return {}
        peaks["pool", name] = peaks.get(("pool", name), 0.0) + peak
        for group in wired.groups_of(worker.node):
            peaks["group", group] = peaks.get(("group", group), 0.0) + peak
    seconds = placement.get("predictedStepSeconds")
    predicted = utilisation(model, seconds, context.observer, placement) if seconds else None
    observed = status.get("mfu") or 0.0
    return {
        place: Effective(peak / TERA, (predicted or 0.0) * peak / TERA, observed * peak / TERA)
        for place, peak in peaks.items()
    }


def measure_pools(context: Context, found: dict[str, Effective]) -> None:
    """Tell the metrics."""
    context.metrics.clear("supernode_pool_effective_tflops")
    for name, effective in found.items():
        for kind in ("peak", "predicted", "observed"):
            context.metrics.gauge("supernode_pool_effective_tflops", getattr(effective, kind), name, kind)
