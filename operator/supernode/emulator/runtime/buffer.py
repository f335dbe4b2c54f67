"""An array on a device: its spec, its share of the memory, and its data once a kernel has written it.

Who may change what: the session makes and releases buffers in program order; the stream that runs the writing work
item sets `data`, `error` and `ready_seconds`. Not here: who may see which buffer (`session`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supernode.emulator.kernels import Spec
from supernode.emulator.kernels.table import AnyArray
from supernode.emulator.runtime.memory import Allocation
from supernode.errors import SupernodeError

if TYPE_CHECKING:
    from supernode.emulator.runtime.stream import Stream


class Buffer:
    """One array.

    Attributes:
        spec: dtype and shape, known from the start.
        stream, position: where it was last written, in program order.
        allocation: its bytes on the device; None for an array that never came to be.
        data: contiguous; None until written.
        error: why there is no usable data: the failure of the call that should have written it, or of one before.
        ready_seconds: device time at which the data was written.
    """

    __slots__ = ("allocation", "data", "error", "position", "ready_seconds", "spec", "stream")

    def __init__(self, spec: Spec, stream: Stream, allocation: Allocation | None) -> None:
        self.spec = spec
        self.stream = stream
        self.allocation = allocation
        self.data: AnyArray | None = None
        self.error: SupernodeError | None = None
        self.position = 0
        self.ready_seconds = 0.0

    def release(self) -> None:
        """Give the device memory back (the data lives until running work is done with it)."""
        allocation, self.allocation = self.allocation, None
        if allocation is not None:
            allocation.memory.release(allocation)
