"""What a stream can do beside launches: make a view, copy, mark, wait.

Flows in: buffers and a call's description, made by a session from checked commands. Flows out: data in buffers, or
their error; the first failure of a call also goes to the session's `Failures`. Not here: launches (`launch`),
collectives (`emulator.collective`), queues and threads (`stream`).
"""

from __future__ import annotations

import threading

from supernode.emulator.kernels.table import AnyArray
from supernode.emulator.runtime.buffer import Buffer
from supernode.emulator.runtime.call import Call, poison
from supernode.emulator.runtime.host import check_room
from supernode.emulator.runtime.stream import Stream
from supernode.errors import EmulatorError, OutOfDeviceMemoryError


class View:
    """See a buffer's data, or a run of its elements, in another shape; the memory is shared."""

    __slots__ = ("base", "start", "view")

    def __init__(self, base: Buffer, view: Buffer, start: int) -> None:
        self.base = base
        self.start = start
        self.view = view

    def run(self, stream: Stream) -> None:
        """Share the data; takes no device time."""
        if stream.aborted:
            return
        if self.base.error is not None or self.base.data is None:
            poison([self.view], self.base.error or EmulatorError("the array of this view was never written"))
            return
        spec = self.view.spec
        self.view.data = self.base.data.reshape(-1)[self.start : self.start + spec.size].reshape(spec.shape)


class CopyIn:
    """Data from the host becomes an array."""

    __slots__ = ("buffer", "data", "issued")

    def __init__(self, buffer: Buffer, data: AnyArray, issued: float) -> None:
        self.buffer = buffer
        self.data: AnyArray = data
        self.issued = issued

    def run(self, stream: Stream) -> None:
        """Hand the data over and spend the time of a copy."""
        if stream.aborted:
            return
        self.buffer.data = self.data
        nbytes = self.data.nbytes
        self.buffer.storage.ready_seconds = stream.advance(
            self.issued, stream.device.costs.host_copy_seconds(nbytes), "copy from host", nbytes
        )
        stream.copied += nbytes


class CopyAcross:
    """Copy an array from another device of the sidecar; waits (on the virtual clock too) for its data."""

    __slots__ = ("call", "issued", "source", "target")

    def __init__(self, call: Call, source: Buffer, target: Buffer, issued: float) -> None:
        self.call = call
        self.source = source
        self.target = target
        self.issued = issued

    def run(self, stream: Stream) -> None:
        """Copy, and spend the time of a message between the two."""
        if stream.aborted:
            return
        if self.source.error is not None or self.source.data is None:
            poison([self.target], self.source.error or EmulatorError("the copied array was never written"))
            return
        try:
            check_room(self.target.spec.nbytes)
            self.target.data = self.source.data.copy()
        except (MemoryError, OutOfDeviceMemoryError) as exc:
            poison([self.target], self.call.failed(exc, stream.device.name))
            return
        start = max(self.issued, self.source.storage.ready_seconds)
        nbytes = self.target.spec.nbytes
        self.target.storage.ready_seconds = stream.advance(
            start, stream.device.costs.peer_copy_seconds(nbytes), "copy from device", nbytes
        )
        stream.copied += nbytes


class Marker:
    """A point in a stream: set when everything before it is done. Runs even in an aborted stream: others wait for it.

    Args:
        spend: device seconds that reaching the point takes (a copy back to the host).
        issued: earliest device time.
    """

    __slots__ = ("done", "issued", "seconds", "spend")

    def __init__(self, *, spend: float = 0.0, issued: float = 0.0) -> None:
        self.done = threading.Event()
        self.seconds = 0.0
        self.spend = spend
        self.issued = issued

    def run(self, stream: Stream) -> None:
        """Take the time and wake whoever waits."""
        if self.spend:
            stream.advance(self.issued, self.spend, "copy to host")
        self.seconds = max(stream.seconds, self.issued)
        stream.publish()
        self.done.set()


class Wait:
    """Hold a stream until a marker in another one is reached, on the host and on the virtual clock."""

    __slots__ = ("marker",)

    def __init__(self, marker: Marker) -> None:
        self.marker = marker

    def run(self, stream: Stream) -> None:
        """Wait."""
        if stream.aborted:
            return
        self.marker.done.wait()
        stream.reach(self.marker.seconds, busy=0.0)


class After:
    """Hold a stream until another one is done with what the next item reads or writes.

    On the host only: on the virtual clock the item starts when its inputs are ready, and they say when.
    """

    __slots__ = ("other", "position")

    def __init__(self, other: Stream, position: int) -> None:
        self.other = other
        self.position = position

    def run(self, stream: Stream) -> None:
        """Wait."""
        if not stream.aborted:
            self.other.wait_for(self.position)
