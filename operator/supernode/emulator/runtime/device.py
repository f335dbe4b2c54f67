"""One emulated device: properties, memory, cost model, and the counters that metrics show.

Flows in: a chip. Flows out: its properties as plain values. Counters are only ever raised, each by the threads of this
device's streams under the device's lock. Not here: streams of a client (`session` makes them).
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, NamedTuple

from supernode.chips import Chip
from supernode.emulator.runtime.clock import CostModel
from supernode.emulator.runtime.memory import Memory
from supernode.emulator.trace import Trace
from supernode.errors import InputError


class Figures(NamedTuple):
    """Counters of a device at one moment; `launches` by kernel, `collectives` by kind.

    `collective_seconds`: the part of `busy_seconds` in collectives, with the wait for others in them.
    """

    seconds: float
    busy_seconds: float
    collective_seconds: float
    flops: float
    copied_bytes: int
    launches: dict[str, int]
    collectives: dict[str, int]


class Device:
    """An emulated accelerator.

    Args:
        ordinal: number inside the sidecar, from 0.
        rank: number in the whole job.
        chip: its data sheet; memory size and bandwidth are needed.
        memory_limit: bytes, to emulate another card or a share of one; None: the chip's.
        cores: percent of the chip's compute units that it has, as a virtual device of the card.
        trace: keeps what the device's streams do.

    Raises:
        InputError: a share that is none.
    """

    def __init__(
        self,
        ordinal: int,
        rank: int,
        chip: Chip,
        *,
        memory_limit: int | None = None,
        cores: int = 100,
        trace: Trace | None = None,
    ) -> None:
        if not 1 <= cores <= 100:
            raise InputError(f"a device has 1 to 100 percent of its chip's compute units, not {cores}", field="--cores")
        self.ordinal = ordinal
        self.rank = rank
        self.chip = chip
        self.cores = cores
        self.trace = Trace() if trace is None else trace
        share = "" if cores == 100 else f", {cores} % of it"
        self.name = f"device {ordinal} ({chip.name}{share})"
        limit = int(chip.figure("memory_bytes")) if memory_limit is None else memory_limit
        chip.figure("memory_bandwidth")
        self.memory = Memory(limit, self.name)
        self.costs = CostModel(chip, cores=cores)
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._busy_seconds = 0.0
        self._collective_seconds = 0.0
        self._launches: Counter[str] = Counter()
        self._collectives: Counter[str] = Counter()
        self._flops = 0.0
        self._copied_bytes = 0

    @property
    def seconds(self) -> float:
        """Device time reached by the furthest of all streams there have been."""
        return self._seconds

    def progress(
        self,
        seconds: float,
        *,
        busy: float,
        collective: float = 0.0,
        flops: float,
        copied: int,
        launches: Counter[str],
        collectives: Counter[str],
    ) -> None:
        """Add what a stream has done since it last said so."""
        with self._lock:
            self._seconds = max(self._seconds, seconds)
            self._busy_seconds += busy
            self._collective_seconds += collective
            self._flops += flops
            self._copied_bytes += copied
            self._launches.update(launches)
            self._collectives.update(collectives)

    def figures(self) -> Figures:
        """The counters now."""
        with self._lock:
            return Figures(
                self._seconds,
                self._busy_seconds,
                self._collective_seconds,
                self._flops,
                self._copied_bytes,
                dict(self._launches),
                dict(self._collectives),
            )

    def properties(self) -> dict[str, Any]:
        """What a client may know about the device: the catalogue's figures, and of rates and units its share."""
        chip, part = self.chip, self.cores / 100
        units = chip.compute_units
        return {
            "ordinal": self.ordinal,
            "rank": self.rank,
            "chip": chip.name,
            "vendor": chip.vendor,
            "model": chip.model,
            "architecture": chip.architecture,
            "cores": self.cores,
            "computeUnits": None if units is None else max(1, round(units * part)),
            "wavefront": chip.wavefront,
            "tflops": {dtype: peak * part for dtype, peak in chip.tflops.items()},
            "memoryBytes": self.memory.limit,
            "memoryBandwidth": chip.memory_bandwidth,
            "linkBandwidth": chip.link_bandwidth,
            "linkDomain": chip.link_domain,
            "scaleOutBandwidth": chip.scale_out_bandwidth,
            "link": chip.link,
        }
