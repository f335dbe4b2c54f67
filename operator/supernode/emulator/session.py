"""One client's connection: its handles, its streams, its failures. Commands come in, work items go to streams.

Flows in: decoded frames (commands without an answer, then at most one request with one). Flows out: replies. Every
handle is looked up in this session's own tables, so no client can name what belongs to another. Device memory is
taken and given back here, in the order of the client's program. Not here: what each command does (`dispatch`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from supernode.emulator.fabric.participant import Participant
from supernode.emulator.kernels import Spec
from supernode.emulator.progress import Progress
from supernode.emulator.runtime.buffer import Buffer, Storage
from supernode.emulator.runtime.call import Call, Failures
from supernode.emulator.runtime.device import Device
from supernode.emulator.runtime.launch import Signature
from supernode.emulator.runtime.memory import Block
from supernode.emulator.runtime.stream import Stream
from supernode.emulator.runtime.work import After, Marker
from supernode.emulator.sealed import Hand
from supernode.emulator.segments import Segments
from supernode.errors import EmulatorError, InvalidHandleError, ProtocolError, SupernodeError

#: Handles that one client may hold.
MAX_ARRAYS: Final = 1 << 20
MAX_STREAMS: Final = 64
MAX_EVENTS: Final = 1 << 16
#: Seconds between looks at whether a client that waits is still there.
_LOOK: Final = 0.5


class ClientGoneError(EmulatorError):
    """The client went away: nobody needs the answer. Not PeerLostError, which a client must hear about."""


class Session:
    """The state of one client.

    Args:
        devices: of the sidecar; shared with other sessions.
        program: the client's place in the fabric, which carries its collectives; left when the session closes.
        progress: takes the client's reports.
        directory: for shared-memory segments.
        alive: whether the client is still connected; asked while it waits.
        owner: the client's name, for messages.

    Attributes:
        arrays, streams, events, signatures: by the client's numbers. Stream i is the default stream of device i.
        pools: the client's share of each device's memory.
        number: commands so far; the client counts the same.
        host_seconds: device time that the client's program has seen by waiting; what it issues next starts no earlier.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        program: Participant,
        progress: Progress,
        directory: Path,
        *,
        alive: Callable[[], bool] = lambda: True,
        owner: str = "the client",
    ) -> None:
        self.devices = devices
        self.program = program
        self.progress = progress
        self.segments = Segments(directory)
        self.hand = Hand()
        self.arrays: dict[int, Buffer] = {}
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, Marker] = {}
        self.signatures: dict[int, Signature] = {}
        self.failures = Failures()
        self.number = 0
        # A client that comes later (a worker that was started again) begins when the devices are done with the past.
        self.host_seconds = max((device.seconds for device in devices), default=0.0)
        self._alive = alive
        self.pools = [device.memory.pool(owner) for device in devices]
        for pool in self.pools:
            pool.holders = self._blocks
        for device in devices:
            self.add_stream(device.ordinal, device.ordinal)

    # --- handles --------------------------------------------------------------------------------------------------

    def add_stream(self, handle: int, ordinal: int, priority: int = 0) -> None:
        """A new stream of a device; lower numbers of priority go first."""
        if handle in self.streams or len(self.streams) >= MAX_STREAMS + len(self.devices):
            raise ProtocolError(f"stream {handle} exists, or there are too many ({len(self.streams)})")
        if not 0 <= ordinal < len(self.devices):
            raise InvalidHandleError(f"there is no device {ordinal}; the sidecar has {len(self.devices)}")
        device = self.devices[ordinal]
        made = Stream(device, f"{device.name} stream {handle}", seconds=self.host_seconds, priority=priority)
        for other in self.streams.values():
            if other.device is device and other.priority != priority:
                first, second = (made, other) if priority < other.priority else (other, made)
                first.goes_before(second)
        self.streams[handle] = made

    def stream(self, handle: int) -> Stream:
        """A stream by handle; InvalidHandleError if it is not there."""
        found = self.streams.get(handle)
        if found is None:
            raise InvalidHandleError(f"stream {handle} does not exist or is closed")
        return found

    def array(self, handle: int) -> Buffer:
        """An array by handle; InvalidHandleError if it is not there."""
        found = self.arrays.get(handle)
        if found is None:
            raise InvalidHandleError(f"array {handle} does not exist or was freed")
        return found

    def event(self, handle: int) -> Marker:
        """An event by handle; InvalidHandleError if it is not there."""
        found = self.events.get(handle)
        if found is None:
            raise InvalidHandleError(f"event {handle} was never recorded, or is gone")
        return found

    def new_array(self, handle: int, spec: Spec, stream: Stream, label: str, nbytes: int = -1) -> Buffer:
        """An array that `stream` will write, with its device memory.

        Args:
            handle: the client's number for it.
            spec: dtype and shape.
            stream: that will write it.
            label: what makes it, for the message when memory runs out later.
            nbytes: of the spec, if known.

        Raises:
            OutOfDeviceMemoryError: the device has no room.
            ProtocolError: the handle is taken.
        """
        self.check_new(handle)
        size = spec.nbytes if nbytes < 0 else nbytes
        block = self.pools[stream.device.ordinal].take(size, (label, spec))
        buffer = self.arrays[handle] = Buffer(spec, Storage(stream, block))
        return buffer

    def check_new(self, handle: object) -> None:
        """Refuse a handle that is not a new number."""
        if type(handle) is not int or handle < 0 or handle in self.arrays or len(self.arrays) >= MAX_ARRAYS:
            raise ProtocolError(f"{handle!r} is not a new handle (there are {len(self.arrays)} arrays)")

    def _blocks(self) -> Iterable[Block]:
        storages = (buffer.storage for buffer in list(self.arrays.values()))
        return (storage.allocation for storage in storages if storage.allocation is not None)

    def failed(self, call: Call, exc: Exception, handles: Iterable[int], stream: Stream) -> None:
        """Keep a call's failure; the handles it should have made stand for nothing, with that reason."""
        self.stand_for_nothing(handles, call.failed(exc, stream.device.name), stream)

    def stand_for_nothing(self, handles: Iterable[int], error: SupernodeError, stream: Stream) -> None:
        """Handles that a failed call should have made: whatever uses them fails for the same reason."""
        for handle in handles:
            old = self.arrays.get(handle)
            if old is not None:
                old.release()
            buffer = Buffer(Spec("f32", ()), Storage(stream, None))
            buffer.error = error
            self.arrays[handle] = buffer

    # --- order ----------------------------------------------------------------------------------------------------

    @staticmethod
    def order_read(stream: Stream, storage: Storage) -> None:
        """Let the next item of a stream see what another stream writes."""
        if storage.stream is not stream and storage.stream.completed < storage.position:
            stream.add(After(storage.stream, storage.position))

    @staticmethod
    def order_write(stream: Stream, storage: Storage) -> None:
        """Let the next item of a stream write what others have written and read before."""
        writer = storage.stream
        if writer is not stream and writer.completed < writer.position:
            # Not for its write alone: the stream that wrote the memory may read it since, which nobody notes.
            stream.add(After(writer, writer.position))
        for other, position in (storage.readers or {}).items():
            if other is not stream and other.completed < position:
                stream.add(After(other, position))

    def flush(self) -> None:
        """Hand everything to the streams; hold the client back if they are far behind."""
        for stream in self.streams.values():
            stream.flush()
        for stream in self.streams.values():
            stream.throttle()

    def wait(self, markers: Sequence[Marker]) -> float:
        """Wait until markers are reached; gives the device time of the last.

        Raises:
            ClientGoneError: the client went away meanwhile; nobody needs the answer.
        """
        self.flush()
        for marker in markers:
            while not marker.done.wait(_LOOK):
                if not self._alive():
                    raise ClientGoneError("the client went away while it waited")
        return max((marker.seconds for marker in markers), default=self.host_seconds)

    def mark(self, streams: Iterable[Stream], *, spend: float = 0.0) -> list[Marker]:
        """A marker at the end of each stream."""
        markers = []
        for stream in streams:
            marker = Marker(spend=spend, issued=self.host_seconds)
            stream.add(marker)
            markers.append(marker)
        return markers

    def synchronise(self, streams: Iterable[Stream], *, spend: float = 0.0) -> float:
        """Wait for streams as the client does: its time moves on, and it hears of failures.

        Raises:
            EmulatorError: the earliest failure since the last time.
        """
        self.host_seconds = max(self.host_seconds, self.wait(self.mark(streams, spend=spend)))
        self.raise_failure()
        return self.host_seconds

    def raise_failure(self) -> None:
        """Raise the earliest failure that the client has not heard of."""
        error = self.failures.take()
        if error is not None:
            raise error

    def close(self) -> None:
        """Give everything back: memory at once, threads when their running item is done."""
        for stream in self.streams.values():
            stream.aborted = True
        self.arrays.clear()
        for pool in self.pools:
            pool.close()
        self.segments.close()
        self.hand.close()
        for stream in self.streams.values():
            stream.close()
        self.program.leave()
        self.streams.clear()
        self.events.clear()
