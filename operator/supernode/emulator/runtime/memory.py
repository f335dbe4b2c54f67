"""Device memory as a budget: what is in use, by whom, and the error with numbers when it does not fit.

Flows in: sizes in the order of the clients' programs, so that the same program always fails at the same call. Flows
out: allocations. Host memory is only taken when a kernel writes its result; a 64 GiB card costs nothing until then.
Not here: the data (`buffer`).
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final, NamedTuple

from supernode.errors import InputError, OutOfDeviceMemoryError

#: Allocations are rounded up to this many bytes, as allocators of cards do.
GRANULE: Final = 256


def human_bytes(count: float) -> str:
    """``1536`` as ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _words(label: object) -> str:
    return " ".join(map(str, label)) if isinstance(label, tuple) else str(label)


class Allocation:
    """Bytes taken from a device; shared by an array and its views, given back when the last one goes."""

    __slots__ = ("label", "memory", "nbytes", "references")

    def __init__(self, memory: Memory, nbytes: int, label: object) -> None:
        self.memory = memory
        self.nbytes = nbytes
        self.label = label
        self.references = 1


class MemoryUse(NamedTuple):
    """Bytes: in use now, most ever in use, limit; and the number of allocations."""

    in_use: int
    peak: int
    limit: int
    allocations: int


class Memory:
    """The memory of one device. All methods may be called from any thread.

    Args:
        limit: bytes of the card.
        name: of the device, for messages.
    """

    def __init__(self, limit: int, name: str) -> None:
        if limit < GRANULE:
            raise InputError(f"{name} cannot have {limit} bytes of memory")
        self.limit = limit
        self.name = name
        self._in_use = 0
        self._peak = 0
        self._live: set[Allocation] = set()
        self._lock = threading.Lock()

    def allocate(self, nbytes: int, label: object) -> Allocation:
        """Take memory.

        Args:
            nbytes: size of the data; rounded up to the granule.
            label: who holds it, for the message of a later failure: words, or a pair of a kernel and a spec, such as
                ``("matmul", f32[1024,1024])``, which is put into words only then.

        Raises:
            OutOfDeviceMemoryError: says what was asked, in use, the limit and the largest holders.
        """
        size = (nbytes + GRANULE - 1) // GRANULE * GRANULE
        with self._lock:
            if self._in_use + size > self.limit:
                raise OutOfDeviceMemoryError(self._explain(size, label))
            self._in_use += size
            if self._in_use > self._peak:
                self._peak = self._in_use
            allocation = Allocation(self, size, label)
            self._live.add(allocation)
        return allocation

    def release(self, allocation: Allocation) -> None:
        """Drop one reference; the last one gives the bytes back."""
        with self._lock:
            allocation.references -= 1
            if allocation.references:
                return
            self._in_use -= allocation.nbytes
            self._live.discard(allocation)

    def share(self, allocation: Allocation) -> Allocation:
        """Add a reference."""
        with self._lock:
            allocation.references += 1
        return allocation

    def use(self) -> MemoryUse:
        """The figures now."""
        with self._lock:
            return MemoryUse(self._in_use, self._peak, self.limit, len(self._live))

    def _explain(self, size: int, label: object) -> str:
        free = self.limit - self._in_use
        by_label: Counter[str] = Counter()
        for allocation in self._live:
            by_label[_words(allocation.label)] += allocation.nbytes
        ranked = sorted(by_label.items(), key=lambda pair: (-pair[1], pair[0]))
        largest = ", ".join(f"{name} {human_bytes(held)}" for name, held in ranked[:3])
        return (
            f"{self.name}: asked {human_bytes(size)} ({size} bytes) for {_words(label)}, but "
            f"{human_bytes(self._in_use)} of {human_bytes(self.limit)} are in use ({human_bytes(free)} free) in "
            f"{len(self._live)} allocations; largest holders: {largest or 'none'}; "
            "use smaller batches, free arrays, or spread over more devices"
        )
