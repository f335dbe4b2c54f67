"""The operator's metrics: one table, on a registry that the caller owns.

Flows in: counts and seconds. Flows out: Prometheus text. Nothing is registered at import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# The content type that Prometheus' text format has.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_CYCLE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WAIT_BUCKETS: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    `kind` is counter, gauge or histogram; a counter's name gets `_total` when shown. `unit` is what is counted or
    measured; seconds, bytes and ratio (0 to 1) end the name too, as Prometheus has it.
    """

    name: str
    kind: str
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


OPERATOR_METRICS: Final[tuple[Metric, ...]] = (
    Metric("supernode_leader", "gauge", "yes or no", "1 while this operator leads, 0 while it stands by."),
    Metric("supernode_jobs", "gauge", "jobs", "Training jobs by state.", ("state",)),
    Metric("supernode_queue_length", "gauge", "gangs", "Gangs that wait for a place."),
    Metric("supernode_cycles", "counter", "cycles", "Scheduling cycles."),
    Metric(
        "supernode_cycle_seconds", "histogram", "seconds", "Seconds that one scheduling cycle took.", (), _CYCLE_BUCKETS
    ),
    Metric("supernode_placements", "counter", "gangs", "Gangs placed, by pool.", ("pool",)),
    Metric(
        "supernode_unplaceable",
        "counter",
        "decisions",
        "Decisions that a gang can't be placed now, by reason.",
        ("reason",),
    ),
    Metric(
        "supernode_wait_seconds",
        "histogram",
        "seconds",
        "Seconds from a job's creation to its first place.",
        (),
        _WAIT_BUCKETS,
    ),
    Metric("supernode_restarts", "counter", "gangs", "Gangs that restarted, or replaced workers, after a failure."),
    Metric(
        "supernode_disruptions", "counter", "gangs", "Gangs that were told to give way, move or change size.", ("kind",)
    ),
    Metric("supernode_pods_created", "counter", "pods", "Pods created."),
    Metric("supernode_pods_deleted", "counter", "pods", "Pods deleted."),
    Metric(
        "supernode_reconcile_errors",
        "counter",
        "attempts",
        "Objects that could not be dealt with, tried again later.",
        ("kind",),
    ),
    Metric(
        "supernode_api_requests",
        "counter",
        "requests",
        "Requests to the API server; code 0 is no answer.",
        ("verb", "code"),
    ),
    Metric("supernode_watch_restarts", "counter", "watches", "Watches begun again, by reason.", ("resource", "reason")),
    Metric(
        "supernode_pool_devices",
        "gauge",
        "accelerators",
        "Accelerators of a pool: capacity, allocated, free, unhealthy.",
        ("pool", "state"),
    ),
    Metric(
        "supernode_pool_effective_tflops",
        "gauge",
        "TFLOPS",
        "TFLOPS that a pool's running jobs use: peak of their devices, predicted at placement, and observed.",
        ("pool", "kind"),
    ),
    Metric(
        "supernode_pool_fragmentation_ratio",
        "gauge",
        "ratio",
        "Share of the largest gang that free accelerators could make, were they together, that fits no domain: 0 to 1.",
        ("pool", "group", "level"),
    ),
    Metric(
        "supernode_quota_devices",
        "gauge",
        "accelerators",
        "Accelerators of a pool by namespace (* is all without a quota): used, guaranteed, limit if any, borrowed.",
        ("pool", "namespace", "kind"),
    ),
    Metric(
        "supernode_quota_tflops",
        "gauge",
        "TFLOPS",
        "Effective TFLOPS of a pool by namespace, as places promised them: used, guaranteed, limit if any, borrowed.",
        ("pool", "namespace", "kind"),
    ),
    Metric(
        "supernode_job_mfu_ratio",
        "gauge",
        "ratio",
        "Model FLOP/s utilisation of a running job: useful FLOP/s divided by peak FLOP/s, 0 to 1.",
        ("namespace", "job"),
    ),
    Metric(
        "supernode_job_goodput_ratio",
        "gauge",
        "ratio",
        "Share of a running job's time since its creation in which it computed steps for the first time, 0 to 1.",
        ("namespace", "job"),
    ),
    Metric(
        "supernode_job_lost_seconds",
        "gauge",
        "seconds",
        "Seconds that a running job has lost so far: waiting, starting, recomputation, stragglers, communication.",
        ("namespace", "job", "cause"),
    ),
    Metric(
        "supernode_job_remaining_seconds",
        "gauge",
        "seconds",
        "Seconds until a running job's last step, where the worker says how many there are.",
        ("namespace", "job"),
    ),
    Metric("supernode_stragglers", "counter", "workers", "Workers found to be slower than others with the same work."),
    Metric(
        "supernode_job_step_seconds",
        "gauge",
        "seconds",
        "Seconds per training step of a running job.",
        ("namespace", "job"),
    ),
)


class OperatorMetrics:
    """The operator's metrics on one registry. `count`, `gauge` and `observe` take names from the table."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._before_text: list[Callable[[], None]] = []
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in OPERATOR_METRICS:
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(metric.name, metric.help, metric.labels, registry=registry)
            elif metric.kind == "gauge":
                self._gauges[metric.name] = Gauge(metric.name, metric.help, metric.labels, registry=registry)
            else:
                self._histograms[metric.name] = Histogram(
                    metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry
                )

    def count(self, name: str, *labels: str, amount: float = 1) -> None:
        """Add to a counter."""
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(amount)

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def forget(self, name: str, *labels: str) -> None:
        """Take one labelled gauge out, when what it speaks of is gone."""
        gauge = self._gauges[name]
        try:
            gauge.remove(*labels)
        except KeyError:
            return

    def clear(self, name: str) -> None:
        """Take all labelled values of a gauge out, before they are set again."""
        self._gauges[name].clear()

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram."""
        self._histograms[name].observe(value)

    def before_text(self, refresh: Callable[[], None]) -> None:
        """Have `refresh` called each time before the metrics are shown, for gauges that change with time alone."""
        self._before_text.append(refresh)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        for refresh in self._before_text:
            refresh()
        return generate_latest(self._registry)
