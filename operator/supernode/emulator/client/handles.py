"""What a collective that runs beside the program's other work gives back.

Flows in: events at its end. Flows out: waiting, on the device or on the host. Not here: the calls (`members`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from supernode.emulator.client.devices import Event, Stream

Result = TypeVar("Result")


class Handle(Generic[Result]):
    """A collective on its way.

    Attributes:
        result: what the call gives; None for calls in place. It may be used at once: what reads it waits by itself.
    """

    def __init__(self, result: Result, events: Sequence[Event], streams: Sequence[Stream]) -> None:
        self.result = result
        self._events = tuple(events)
        self._streams = tuple(streams)

    def wait(self, stream: Stream | None = None) -> None:
        """Let a stream wait for the end, on the device: the program goes on. Default: the devices' default streams."""
        for own, event in zip(self._streams, self._events, strict=True):
            (own.device.default if stream is None else stream).wait(event)

    def done(self) -> bool:
        """Whether it has ended, without waiting; what went wrong is told by the next call that waits."""
        return all(event.done for event in self._events)

    def synchronize(self) -> float:
        """Wait for the end on the host; gives the device time of the last.

        Raises:
            EmulatorError: the earliest failure of a call since the last wait.
        """
        return max((event.seconds for event in self._events), default=0.0)
