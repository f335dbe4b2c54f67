"""What the metrics say of all jobs together. Flows in: the stores. Flows out: gauges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.handlers.context import Context
from supernode.handlers.facts import state_of
from supernode.handlers.goodput import CAUSES, counted_until
from supernode.handlers.life import State

# Values of gauges, by (metric, its labels).
Values = Mapping[tuple[str, ...], float]


class _Told(NamedTuple):
    """What was told of a job, in the version that it had."""

    obj: Json
    state: str
    values: Values


class JobGauges:
    """Counts jobs by state and tells how fast the running ones are; only a job that has changed is told of anew.

    Args:
        context: what handlers share.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._told: dict[Key, _Told] = {}
        context.metrics.before_text(self._age)

    def tell(self) -> None:
        """Make the gauges equal to what the stores hold."""
        metrics, jobs = self._context.metrics, self._context.stores.jobs.objects()
        for key in self._told.keys() - jobs.keys():
            self._replace(self._told.pop(key).values, {})
        counts = dict.fromkeys(map(str, State), 0)
        for key, obj in jobs.items():
            told = self._told.get(key)
            if told is None or told.obj is not obj:
                state = state_of(obj.get("status") or {})
                values = values_of(key, obj, self._context.now()) if state is State.RUNNING else {}
                self._replace(told.values if told is not None else {}, values)
                told = self._told[key] = _Told(obj, str(state), values)
            counts[told.state] += 1
        for state_name, number in counts.items():
            metrics.gauge("supernode_jobs", number, state_name)

    def _age(self) -> None:
        """Goodput changes with time alone, and is counted when somebody looks."""
        now = self._context.now()
        for key, told in self._told.items():
            if told.values:
                values = values_of(key, told.obj, now)
                self._replace(told.values, values)
                self._told[key] = told._replace(values=values)

    def _replace(self, before: Values, after: Values) -> None:
        metrics = self._context.metrics
        for name, *labels in before.keys() - after.keys():
            metrics.forget(name, *labels)
        for (name, *labels), value in after.items():
            metrics.gauge(name, value, *labels)


def values_of(key: Key, obj: Json, now: float) -> dict[tuple[str, ...], float]:
    """The gauges of a running job at `now` (seconds since the epoch)."""
    status = obj.get("status") or {}
    progress = status.get("progress") or {}
    counted = counted_until(status, obj["metadata"].get("creationTimestamp"), now)
    found: dict[tuple[str, ...], float | None] = {
        ("supernode_job_step_seconds", *key): progress.get("stepSeconds"),
        ("supernode_job_mfu_ratio", *key): status.get("mfu"),
        ("supernode_job_remaining_seconds", *key): progress.get("remainingSeconds"),
        ("supernode_job_goodput_ratio", *key): counted.get("share"),
    }
    if counted.get("share") is not None:
        found |= {("supernode_job_lost_seconds", *key, cause): counted.get(field, 0) for cause, field in CAUSES.items()}
    return {place: value for place, value in found.items() if value is not None}
