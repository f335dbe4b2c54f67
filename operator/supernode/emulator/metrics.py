"""The sidecar's metrics: one table of names, labels and help, read from the runtime when Prometheus asks.

Flows in: devices, progress, counts of the server. Flows out: metric families on an explicit registry. The hot path
counts in plain numbers; nothing here is called while a kernel runs. Not here: HTTP (`observe`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from supernode.emulator.progress import Progress
from supernode.emulator.runtime.device import Device


class Figure(NamedTuple):
    """One metric: kind (`counter` or `gauge`), unit (what is counted or measured), labels, help."""

    kind: str
    unit: str
    labels: tuple[str, ...]
    help: str


class ServerCounts(NamedTuple):
    """What the server counts itself; `turned_away` by reason."""

    clients: int
    refused: int
    connected: bool
    lost_workers: int
    turned_away: Mapping[str, int]


_DEVICE: Final = ("device",)
#: name -> what it is. Counters get `_total` when they are shown.
METRICS: Final[Mapping[str, Figure]] = {
    "supernode_emulator_info": Figure("gauge", "always 1", ("chip", "rank"), "Chip and worker rank; always 1"),
    "supernode_emulator_clients": Figure("gauge", "connections", (), "Clients connected now"),
    "supernode_emulator_refused_connections": Figure(
        "counter", "connections", (), "Connections closed for speaking another protocol"
    ),
    "supernode_emulator_fabric_connected": Figure(
        "gauge", "yes or no", (), "1 once all pods of the job have found each other"
    ),
    "supernode_emulator_fabric_lost_workers": Figure("gauge", "workers", (), "Workers of the job that are gone"),
    "supernode_emulator_fabric_refused_connections": Figure(
        "counter", "connections", ("reason",), "Connections to the fabric that were turned away"
    ),
    "supernode_emulator_kernels_launched": Figure("counter", "kernels", ("device", "kernel"), "Kernels that ran"),
    "supernode_emulator_collectives": Figure(
        "counter", "collectives", ("device", "kind"), "Collectives that were completed"
    ),
    "supernode_emulator_flops": Figure("counter", "FLOP", _DEVICE, "Floating-point operations of the kernels that ran"),
    "supernode_emulator_copied_bytes": Figure("counter", "bytes", _DEVICE, "Bytes copied to the device"),
    "supernode_emulator_device_busy_seconds": Figure(
        "counter", "seconds", _DEVICE, "Device time spent in work, virtual clock"
    ),
    "supernode_emulator_device_seconds": Figure("counter", "seconds", _DEVICE, "Device time reached, virtual clock"),
    "supernode_emulator_memory_used_bytes": Figure("gauge", "bytes", _DEVICE, "Device memory in use"),
    "supernode_emulator_memory_peak_bytes": Figure("gauge", "bytes", _DEVICE, "Most device memory ever in use"),
    "supernode_emulator_memory_limit_bytes": Figure("gauge", "bytes", _DEVICE, "Device memory of the card"),
    "supernode_emulator_memory_reserved_bytes": Figure(
        "gauge", "bytes", _DEVICE, "Device memory that the clients' allocators hold, in use or kept for arrays to come"
    ),
    "supernode_emulator_memory_largest_free_bytes": Figure(
        "gauge",
        "bytes",
        _DEVICE,
        "Device memory that no client holds: the largest array of a client that has nothing yet",
    ),
    "supernode_emulator_allocations": Figure("gauge", "allocations", _DEVICE, "Allocations on the device"),
    "supernode_training_step": Figure("gauge", "steps", (), "Last step that the worker reported"),
    "supernode_training_loss": Figure("gauge", "loss", (), "Last loss that the worker reported"),
    "supernode_training_tokens": Figure("counter", "tokens", (), "Tokens that the worker has trained on"),
    "supernode_training_step_seconds": Figure("gauge", "seconds", (), "Median device time of a step, virtual clock"),
}


class RuntimeCollector(Collector):
    """Reads the runtime's own numbers at each scrape.

    Args:
        devices: of the sidecar.
        rank: of the worker.
        progress: of the training.
        counts: gives the counts of the server.
    """

    def __init__(
        self, devices: Sequence[Device], rank: int, progress: Progress, counts: Callable[[], ServerCounts]
    ) -> None:
        self._devices = devices
        self._rank = rank
        self._progress = progress
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """The metric families, in the order of the table."""
        families = {name: _family(name, figure) for name, figure in METRICS.items()}

        def put(name: str, value: float | None, *labels: str) -> None:
            if value is not None:
                families[f"supernode_{name}"].add_metric(labels, value)

        counts = self._counts()
        put("emulator_clients", counts.clients)
        put("emulator_refused_connections", counts.refused)
        put("emulator_fabric_connected", int(counts.connected))
        put("emulator_fabric_lost_workers", counts.lost_workers)
        for reason, count in sorted(counts.turned_away.items()):
            put("emulator_fabric_refused_connections", count, reason)
        if self._devices:
            put("emulator_info", 1, self._devices[0].chip.name, str(self._rank))
        for device in self._devices:
            label = str(device.ordinal)
            memory = device.memory.use()
            figures = device.figures()
            for kernel, count in sorted(figures.launches.items()):
                put("emulator_kernels_launched", count, label, kernel)
            for kind, count in sorted(figures.collectives.items()):
                put("emulator_collectives", count, label, kind)
            put("emulator_flops", figures.flops, label)
            put("emulator_copied_bytes", figures.copied_bytes, label)
            put("emulator_device_busy_seconds", figures.busy_seconds, label)
            put("emulator_device_seconds", figures.seconds, label)
            put("emulator_memory_used_bytes", memory.in_use, label)
            put("emulator_memory_peak_bytes", memory.peak, label)
            put("emulator_memory_limit_bytes", memory.limit, label)
            put("emulator_memory_reserved_bytes", memory.reserved, label)
            put("emulator_memory_largest_free_bytes", memory.largest, label)
            put("emulator_allocations", memory.allocations, label)
        training = self._progress.snapshot()
        put("training_step", training["step"])
        put("training_loss", training["loss"])
        put("training_tokens", training["tokens"])
        put("training_step_seconds", training["stepSeconds"])
        return families.values()


def _family(name: str, figure: Figure) -> Any:
    kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    return kind(name, figure.help, labels=figure.labels)


def registry(collector: RuntimeCollector) -> CollectorRegistry:
    """A registry of its own with the collector on it."""
    made = CollectorRegistry(auto_describe=False)
    made.register(collector)
    return made
