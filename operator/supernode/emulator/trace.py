"""What each device did when, on the virtual clock: the last so many kernels, copies and collectives.

Flows in: one entry per piece of work, from the stream that does it. Flows out: Chrome's trace events (JSON), which
Perfetto and chrome://tracing show: a process per device, by its rank in the job, and a thread per stream. An entry is a
tuple in a bounded queue, so recording is always on; what is old goes first. Not here: files of several sidecars
(`trace_files`).

The format: "Trace Event Format" of the Chromium project; complete events (ph X) and metadata (ph M), microseconds.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

#: Entries that a device keeps unless told otherwise; about 3 MB.
EVENTS: Final = 16384
#: Streams of a device whose names are kept.
_LANES: Final = 1024
KERNEL: Final = "kernel"
COPY: Final = "copy"
COLLECTIVE: Final = "collective"


class Entry(NamedTuple):
    """One piece of work.

    Attributes:
        lane: number of the stream.
        kind: `KERNEL`, `COPY` or `COLLECTIVE`.
        name: of the kernel or collective.
        start, end: device seconds.
        detail: what its arguments were: put into words when the trace is read.
    """

    lane: int
    kind: str
    name: str
    start: float
    end: float
    detail: Any


class Trace:
    """The last entries of one device; added to by its streams' threads.

    Args:
        capacity: entries that are kept; 0: none.
    """

    def __init__(self, capacity: int = EVENTS) -> None:
        self.capacity = capacity
        self._entries: deque[tuple[Any, ...]] = deque(maxlen=capacity)
        self._numbers = itertools.count(1)
        self._lane_numbers = itertools.count(1)
        self._added = 0
        self._lanes: dict[int, str] = {}

    def lane(self, name: str) -> int:
        """A number for a new stream; the names of the latest are kept."""
        number = next(self._lane_numbers)
        self._lanes[number] = name
        self._lanes.pop(number - _LANES, None)
        return number

    def name_of(self, lane: int) -> str:
        """Name of a stream."""
        return self._lanes.get(lane, "an earlier stream")

    def add(self, lane: int, kind: str, name: str, start: float, end: float, detail: Any = None) -> None:
        """Remember a piece of work; see `Entry`."""
        self._entries.append((lane, kind, name, start, end, detail))
        self._added = next(self._numbers)

    def entries(self) -> list[Entry]:
        """What is kept, oldest first."""
        while True:
            try:
                return [Entry(*entry) for entry in list(self._entries)]
            except RuntimeError:  # a stream added one meanwhile
                continue

    @property
    def dropped(self) -> int:
        """Entries that were kept no longer."""
        return max(0, self._added - self.capacity)


def chrome_trace(
    devices: Iterable[tuple[int, str, Trace]], *, worker: int, attempt: int, now: Mapping[int, float]
) -> dict[str, Any]:
    """Trace events of a sidecar's devices.

    Args:
        devices: (rank in the job, chip, trace).
        worker, attempt: of the sidecar.
        now: device seconds by rank.
    """
    events: list[dict[str, Any]] = []
    dropped = {}
    for rank, chip, trace in devices:
        label = f"rank {rank}: {chip} (worker {worker})"
        events.append(_meta("process_name", rank, 0, {"name": label}))
        events.append(_meta("process_sort_index", rank, 0, {"sort_index": rank}))
        seen = set()
        for entry in trace.entries():
            if entry.lane not in seen:
                seen.add(entry.lane)
                events.append(_meta("thread_name", rank, entry.lane, {"name": trace.name_of(entry.lane)}))
            events.append(
                {
                    "ph": "X",
                    "name": entry.name,
                    "cat": entry.kind,
                    "pid": rank,
                    "tid": entry.lane,
                    "ts": entry.start * 1e6,
                    "dur": max(0.0, entry.end - entry.start) * 1e6,
                    "args": _arguments(entry.detail),
                }
            )
        if trace.dropped:
            dropped[str(rank)] = trace.dropped
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {
            "producer": "supernode emulator",
            "clock": "virtual device time",
            "worker": worker,
            "attempt": attempt,
            "droppedEvents": dropped,
            "deviceSeconds": {str(rank): seconds for rank, seconds in now.items()},
        },
    }


def _meta(name: str, pid: int, tid: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": pid, "tid": tid, "ts": 0, "args": args}


def _arguments(detail: Any) -> dict[str, Any]:
    """Words of an entry: a mapping, bytes of a copy, or a launch's signature with specs and costs."""
    if detail is None:
        return {}
    if isinstance(detail, Mapping):
        return dict(detail)
    if isinstance(detail, int):
        return {"bytes": detail}
    said: dict[str, Any] = {"inputs": ", ".join(map(str, detail.specs))}
    if detail.flops:
        said["flops"] = detail.flops
    return said
