"""Which devices of a job share which links, from SUPERNODE_TOPOLOGY or, without it, from the chip's own figures.

    {"levels": [{"name": "spine", "bandwidthGBps": 50, "latencyMicroseconds": 10}, ..., {"name": "node", ...}],
     "domains": [[domain of worker 0, of worker 1, ...], ... one list per level]}

Levels outermost first, the last is the node; equal numbers in one list mean the same domain. Pods are visited in the
order of their domains, so that a ring crosses each boundary as few times as possible.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from supernode.chips import Chip
from supernode.errors import FabricError, ModelError
from supernode.names import ENV_TOPOLOGY
from supernode.steptime.calibration import DEFAULT
from supernode.steptime.collectives import LinkLevel, Links, levels_for, links_of

# Used where neither a topology nor the chip says: PCIe 4.0 x16 inside a node, one 200 Gbit/s port between nodes.
NODE_BANDWIDTH = 32e9
NETWORK_BANDWIDTH = 25e9
NODE_LATENCY = 2e-6
NETWORK_LATENCY = 10e-6


@dataclass(frozen=True)
class Topology:
    """The wiring of one job.

    Attributes:
        levels: outermost first, the node last.
        domains: int64 (levels, workers), read-only.
        devices: per worker.
    """

    levels: tuple[LinkLevel, ...]
    domains: np.ndarray[Any, np.dtype[np.int64]]
    devices: int

    def links(self, group: tuple[int, ...]) -> Links:
        """The links between the global device ranks of `group`."""
        workers = np.asarray(group, dtype=np.int64) // self.devices
        return links_of(self.levels, self.domains[:, workers])

    def ring(self, workers: tuple[int, ...]) -> tuple[int, ...]:
        """Workers in the order of their domains, outermost level first, then by number."""
        keys = [np.asarray(workers), *(domains[list(workers)] for domains in self.domains[::-1])]
        return tuple(workers[int(i)] for i in np.lexsort(keys))

    @property
    def digest(self) -> str:
        """Tells whether two sidecars were given the same wiring."""
        said = [[level.name, level.bandwidth, level.latency] for level in self.levels]
        return hashlib.sha256(json.dumps([said, self.domains.tolist(), self.devices]).encode()).hexdigest()[:16]


def read_topology(text: str | None, *, workers: int, devices: int, chip: Chip | None = None) -> Topology:
    """The wiring from the text of SUPERNODE_TOPOLOGY; from the chip's figures when there is none.

    Raises:
        FabricError: the text is not as described above; it names the part.
    """
    if not text:
        return _by_default(workers, devices, chip)
    try:
        said = json.loads(text)
        figures = [
            (str(level["name"]), float(level["bandwidthGBps"]) * 1e9, float(level["latencyMicroseconds"]) * 1e-6)
            for level in said["levels"]
        ]
        domains = np.array(said["domains"], dtype=np.int64)
    except (ValueError, KeyError, TypeError, OverflowError) as exc:
        raise FabricError(f"{ENV_TOPOLOGY} cannot be read: {type(exc).__name__} {exc}") from exc
    if not figures or domains.shape != (len(figures), workers):
        raise FabricError(
            f"{ENV_TOPOLOGY}: domains must be {len(figures)} lists (one per level) of {workers} numbers "
            f"(one per worker), got shape {domains.shape}"
        )
    return _build(figures, domains, devices, chip)


def _by_default(workers: int, devices: int, chip: Chip | None) -> Topology:
    node = (chip.link_bandwidth if chip else None) or NODE_BANDWIDTH
    network = (chip.scale_out_bandwidth if chip else None) or NETWORK_BANDWIDTH
    figures = [("network", network, NETWORK_LATENCY), ("node", node, NODE_LATENCY)]
    domains = np.stack([np.zeros(workers, dtype=np.int64), np.arange(workers, dtype=np.int64)])
    return _build(figures, domains, devices, chip)


def _build(
    figures: list[tuple[str, float, float]],
    domains: np.ndarray[Any, np.dtype[np.int64]],
    devices: int,
    chip: Chip | None,
) -> Topology:
    try:
        if chip is not None:
            levels = levels_for(chip, figures)
        else:
            last = len(figures) - 1
            levels = tuple(
                LinkLevel(name, bandwidth, latency, DEFAULT.node_links if i == last else DEFAULT.network_links)
                for i, (name, bandwidth, latency) in enumerate(figures)
            )
    except ModelError as exc:
        raise FabricError(f"{ENV_TOPOLOGY}: {exc}") from exc
    domains.setflags(write=False)
    return Topology(levels, domains, devices)
