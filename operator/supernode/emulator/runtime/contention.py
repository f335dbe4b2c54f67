"""Streams of unequal priority on one device: the lower one runs where the higher ones leave the device free.

Flows in: when launches ran on a stream, and up to which of them a launch elsewhere has to make room. Flows out: device
times. A launch makes room for what the program has issued on higher streams before it, and for nothing later, so that
times are the same however the threads run. Streams of one priority run side by side, as if the device had room for
both; so do copies and collectives, which do not take its compute units. Not here: queues and threads (`stream`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from supernode.emulator.runtime.stream import Stream

#: Launches whose times are kept; a stream that is further behind than these does not see the oldest.
KEPT: Final = 1 << 14


class Busy:
    """When launches ran on a stream: in order, one after the other. Written by the stream's thread alone.

    Args:
        since: position after which launches count: earlier ones may or may not have run when somebody began to ask.
    """

    def __init__(self, since: int) -> None:
        self._since = since
        self._positions: list[int] = []
        self._starts: list[float] = []
        self._ends: list[float] = []

    def add(self, position: int, start: float, end: float) -> None:
        """A launch at a position of the stream."""
        if position <= self._since:
            return
        self._positions.append(position)
        self._starts.append(start)
        self._ends.append(end)
        if len(self._ends) > 2 * KEPT:
            for kept in (self._positions, self._starts, self._ends):
                del kept[:KEPT]

    def after(self, moment: float, position: int) -> Sequence[tuple[float, float]]:
        """Times that end after a moment, of launches up to a position."""
        first = bisect_right(self._ends, moment)
        last = bisect_right(self._positions, position)
        return list(zip(self._starts[first:last], self._ends[first:last], strict=True))


def end_of(start: float, seconds: float, higher: Sequence[tuple[Busy, int]]) -> float:
    """When work that may start at `start` is done, in the time that higher streams leave."""
    if not seconds:
        return start
    taken = sorted(interval for busy, position in higher for interval in busy.after(start, position))
    moment = start
    for begin, end in taken:
        if end <= moment:
            continue
        if begin >= moment + seconds:
            break
        seconds -= max(0.0, begin - moment)
        moment = end
    return moment + seconds


class MakeRoom:
    """From here on a stream's launches make room for what has been issued on higher streams."""

    __slots__ = ("higher",)

    def __init__(self, higher: Sequence[tuple[Stream, int]]) -> None:
        self.higher = higher

    def run(self, stream: Stream) -> None:
        """Wait until the times of those launches are known (on the host only)."""
        if stream.aborted:
            return
        for other, position in self.higher:
            other.wait_for(position)
        stream.higher = [(other.busy, position) for other, position in self.higher if other.busy is not None]
