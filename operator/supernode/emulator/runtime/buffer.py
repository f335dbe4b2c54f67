"""An array on a device: its spec, the storage it shares with its views, and its data once a kernel has written it.

Who may change what: the session makes and releases buffers in program order and keeps the order of writes and reads;
the stream that runs the writing work item sets `data`, `error` and `ready_seconds`, those that send set `sent_seconds`.
Not here: who may see which buffer (`session`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from supernode.emulator.kernels import Spec
from supernode.emulator.kernels.table import AnyArray
from supernode.emulator.runtime.memory import Block
from supernode.errors import SupernodeError

if TYPE_CHECKING:
    from supernode.emulator.runtime.stream import Stream

# Several streams may send from the same memory at once.
_SENDING: Final = threading.Lock()


class Storage:
    """Memory that an array and its views share, and who touched it last in program order.

    Attributes:
        allocation: its bytes on the device; None for an array that never came to be.
        stream, position: where it was last written.
        readers: per other stream, where it was last read since; None where there is none.
        ready_seconds: device time at which it was last written.
        sent_seconds: device time at which the last transfer that read it ended.
    """

    __slots__ = ("allocation", "position", "readers", "ready_seconds", "sent_seconds", "stream")

    def __init__(self, stream: Stream, allocation: Block | None) -> None:
        self.allocation = allocation
        self.stream = stream
        self.position = 0
        self.readers: dict[Stream, int] | None = None
        self.ready_seconds = 0.0
        self.sent_seconds = 0.0

    @property
    def free_seconds(self) -> float:
        """Device time from which it may be written again: earlier writes and transfers are done."""
        return max(self.ready_seconds, self.sent_seconds)

    def sent(self, end: float) -> None:
        """A transfer that read it has ended. Whoever else reads it need not wait for that, so `ready_seconds` stays."""
        with _SENDING:
            self.sent_seconds = max(self.sent_seconds, end)

    def written(self, stream: Stream, position: int) -> None:
        """A work item writes it; what read it before has been waited for."""
        self.stream = stream
        self.position = position
        self.readers = None

    def read(self, stream: Stream, position: int) -> None:
        """A work item of a stream other than the writer's reads it."""
        if self.readers is None:
            self.readers = {}
        self.readers[stream] = position


class Buffer:
    """One array.

    Attributes:
        spec: dtype and shape, known from the start.
        storage: shared with views.
        data: contiguous; None until written.
        error: why there is no usable data: the failure of the call that should have written it, or of one before.
        uses: work items so far that read it; counted by the session.
        held: the client still has it.
    """

    __slots__ = ("data", "error", "held", "spec", "storage", "uses")

    def __init__(self, spec: Spec, storage: Storage) -> None:
        self.spec = spec
        self.storage = storage
        self.data: AnyArray | None = None
        self.error: SupernodeError | None = None
        self.uses = 0
        self.held = storage.allocation is not None

    @property
    def never_made(self) -> bool:
        """It stands for nothing: the call that should have made it was refused."""
        return self.storage.allocation is None

    def release(self) -> None:
        """Give the device memory back (the data lives until running work is done with it)."""
        allocation = self.storage.allocation
        if self.held and allocation is not None:
            self.held = False
            allocation.pool.release(allocation)
