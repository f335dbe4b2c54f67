"""What the metrics say of all jobs together. Flows in: the stores. Flows out: gauges."""

from __future__ import annotations

from typing import Final

from supernode.handlers.context import Context
from supernode.handlers.facts import state_of
from supernode.handlers.goodput import CAUSES
from supernode.handlers.life import State

_PER_JOB: Final = (
    "supernode_job_mfu_ratio",
    "supernode_job_step_seconds",
    "supernode_job_goodput_ratio",
    "supernode_job_lost_seconds",
    "supernode_job_remaining_seconds",
)


def measure_jobs(context: Context) -> None:
    """Count jobs by state, and tell how fast the running ones are."""
    metrics = context.metrics
    counts = dict.fromkeys(map(str, State), 0)
    for name in _PER_JOB:
        metrics.clear(name)
    for (namespace, name), obj in context.stores.jobs.objects().items():
        status = obj.get("status") or {}
        state = state_of(status)
        counts[str(state)] += 1
        if state is State.RUNNING:
            seconds = (status.get("progress") or {}).get("stepSeconds")
            if seconds is not None:
                metrics.gauge("supernode_job_step_seconds", seconds, namespace, name)
            if status.get("mfu") is not None:
                metrics.gauge("supernode_job_mfu_ratio", status["mfu"], namespace, name)
            left = (status.get("progress") or {}).get("remainingSeconds")
            if left is not None:
                metrics.gauge("supernode_job_remaining_seconds", left, namespace, name)
            counted = status.get("goodput") or {}
            if counted.get("share") is not None:
                metrics.gauge("supernode_job_goodput_ratio", counted["share"], namespace, name)
                for cause, field in CAUSES.items():
                    metrics.gauge("supernode_job_lost_seconds", counted.get(field, 0), namespace, name, cause)
    for state_name, number in counts.items():
        metrics.gauge("supernode_jobs", number, state_name)
