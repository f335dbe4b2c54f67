"""A stream: work items run one after the other by a thread of their own, on a virtual timeline of their own.

Flows in: work items, put by one session in program order. Flows out: what the items do; the device's counters.
Streams of a device run side by side, on the host's cores as on the virtual clock; they take device time from each other
where their priorities differ (`contention`). Not here: what the items do (`work`).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from supernode.emulator.runtime.contention import Busy, MakeRoom, end_of
from supernode.emulator.runtime.device import Device
from supernode.emulator.runtime.fuse import Fused, collect
from supernode.emulator.runtime.launch import Launch, Signature
from supernode.emulator.trace import COPY

_LOG: Final = logging.getLogger("supernode.emulator")
#: Work items that may wait in a stream before the session that puts them is held back.
DEPTH: Final = 4096


class Work(Protocol):
    """One work item. `run` must not raise; what fails is kept where the client will ask for it."""

    def run(self, stream: Stream) -> None:
        """Do it, on the stream's thread."""


class Stream:
    """An in-order queue of a device.

    Attributes:
        seconds: device time at which the last item ended; written by the stream's thread alone.
        position: items put so far; written by the session alone.
        completed: items done so far; written by the stream's thread alone.
        priority: lower numbers go first (-1, 0 or 1).
        above: streams of the device that go first, and up to where they have been made room for; the session's.
        busy: when its launches ran, where lower streams must know; `higher`: the same of those above.
        contends: one of the two is there.
        ahead: launches of one pass that come before the one that is being counted.
        aborted: items do nothing any more, except `work.Marker`, which others wait for.
        trace, lane: where what it does is remembered, if anywhere, and under which number.
        launched, copied, collectives: done since the last `publish`; written by the stream's thread alone.
    """

    def __init__(self, device: Device, name: str, *, seconds: float = 0.0, priority: int = 0) -> None:
        self.device = device
        self.trace = device.trace if device.trace.capacity else None
        self.lane = device.trace.lane(name.removeprefix(f"{device.name} "))
        self.priority = priority
        self.above: dict[Stream, int] = {}
        self.busy: Busy | None = None
        self.higher: Sequence[tuple[Busy, int]] = ()
        self.contends = False
        self.ahead = 0
        self.name = name
        self.seconds = seconds
        self.position = 0
        self.completed = 0
        self.aborted = False
        self.launched: dict[Signature, int] = {}
        self.copied = 0
        self.collectives: Counter[str] = Counter()
        self._busy = 0.0
        self._collective = 0.0
        self._pending: list[Work] = []
        self._queue: queue.SimpleQueue[Sequence[Work] | None] = queue.SimpleQueue()
        self._waiters = 0
        self._moved = threading.Condition()
        self._thread: threading.Thread | None = None

    # --- on the session's thread ----------------------------------------------------------------------------------

    def add(self, item: Work) -> int:
        """Add an item to those of the next `flush`; gives its position."""
        self._pending.append(item)
        self.position += 1
        return self.position

    def flush(self) -> None:
        """Hand the added items to the stream's thread; returns at once."""
        if not self._pending:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
            self._thread.start()
        self._queue.put(self._pending)
        self._pending = []

    def goes_before(self, lower: Stream) -> None:
        """From now on a stream of lower priority makes room for this one."""
        if self.busy is None:
            self.busy = Busy(self.position)
        lower.above[self] = self.position
        self.contends = lower.contends = True

    def make_room(self) -> None:
        """Let the next launch make room for what has been issued on streams above since the last."""
        if any(other.position > known for other, known in self.above.items()):
            for other in self.above:
                self.above[other] = other.position
            self.add(MakeRoom(list(self.above.items())))

    def throttle(self) -> None:
        """Wait until at most `DEPTH` items wait: a client cannot fill the sidecar's memory with commands."""
        if self.position - self.completed > DEPTH:
            self.wait_for(self.position - DEPTH)

    def close(self) -> None:
        """Drop what waits, end the thread, wait for the item that is running."""
        self.aborted = True
        self.flush()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    # --- on any other thread --------------------------------------------------------------------------------------

    def wait_for(self, position: int) -> None:
        """Wait until the item at a position is done."""
        if self.completed >= position:
            return
        with self._moved:
            self._waiters += 1
            self._moved.wait_for(lambda: self.completed >= position)
            self._waiters -= 1

    # --- on the stream's thread -------------------------------------------------------------------------------------

    def advance(self, start: float, seconds: float, copy: str = "copy", nbytes: int | None = None) -> float:
        """Spend device time of a copy from `start` or the end of the item before, whichever is later; gives the end."""
        start = max(self.seconds, start)
        self.seconds = end = start + seconds
        self._busy += seconds
        if self.trace is not None:
            self.trace.add(self.lane, COPY, copy, start, end, nbytes)
        return end

    def contend(self, start: float, seconds: float) -> float:
        """When a launch ends that may start at `start`, among streams of other priorities."""
        end = end_of(start, seconds, self.higher)
        if self.busy is not None:
            self.busy.add(self.completed + 1 + self.ahead, start, end)
        return end

    def reach(self, end: float, *, busy: float) -> None:
        """Move to a device time that was computed elsewhere (a collective)."""
        self.seconds = max(self.seconds, end)
        self._busy += busy
        self._collective += busy

    def publish(self) -> None:
        """Add what was done to the device's counters."""
        flops, busy = 0.0, self._busy
        launches: Counter[str] = Counter()
        for signature, count in self.launched.items():
            launches[signature.name] += count
            busy += count * signature.seconds
            flops += count * signature.flops
        self.device.progress(
            self.seconds,
            busy=busy,
            collective=self._collective,
            flops=flops,
            copied=self.copied,
            launches=launches,
            collectives=self.collectives,
        )
        self._busy = 0.0
        self._collective = 0.0
        self.copied = 0
        self.launched.clear()
        self.collectives.clear()

    def _work(self) -> None:
        # NaN and infinity are results like any other here.
        with np.errstate(all="ignore"):
            while self._batch():
                self.publish()

    def _batch(self) -> bool:
        """Do the items of one flush; a function of its own, so that none is kept while the stream waits for more."""
        items = self._queue.get()
        if items is None:
            return False
        place = 0
        while place < len(items):
            item = items[place]
            count = 1
            try:
                if type(item) is Launch and item.signature.fusable:
                    group = collect(items, place)
                    if len(group) > 1:
                        count = len(group)
                        item = Fused(group)
                item.run(self)
            except Exception as exc:
                # Items keep their own failures; this is a fault of ours, and nobody may wait for ever for it.
                _LOG.exception("a fault of the sidecar on %s", self.name)
                for launch in items[place : place + count]:
                    if isinstance(launch, Launch):
                        launch.fail(self, exc)
            place += count
            self.completed += count
            # A waiter raises the number before it looks at `completed`, so none is missed.
            if self._waiters:
                with self._moved:
                    self._moved.notify_all()
        return True
