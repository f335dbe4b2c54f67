"""Memory shared with the sidecar, for copies: one mapped file, filled from the front, used again after each answer.

Flows in: sizes. Flows out: places in the file. The sidecar makes the file and passes its descriptor; no path is
opened here. Not here: what is copied (`arrays`).
"""

from __future__ import annotations

import mmap
import os
from typing import Final, NamedTuple

from supernode.emulator.client.connection import Connection
from supernode.errors import EmulatorError

_FIRST: Final = 8 << 20
_ALIGNMENT: Final = 64
#: Bytes that one copy may have (the sidecar allows no larger segment).
LARGEST: Final = 1 << 30


class Place(NamedTuple):
    """Where an array may lie: the segment's number, the offset in it, and the memory."""

    segment: int
    offset: int
    memory: memoryview


class Staging:
    """The shared memory of one connection. Used under the emulator's lock."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._number = -1
        self._size = 0
        self._map: mmap.mmap | None = None
        self._next = 0
        self._answers = 0

    def place(self, nbytes: int) -> Place:
        """Room for `nbytes`, until the next answer of the sidecar.

        Raises:
            EmulatorError: more than one copy may have, or the host has no room.
        """
        if nbytes > LARGEST:
            raise EmulatorError(f"one copy may have {LARGEST} bytes, not {nbytes}; copy in parts")
        if self._answers != self._connection.answers:
            self._next = 0
        if self._map is None or nbytes > self._size:
            self._grow(nbytes)
        elif self._next + nbytes > self._size:
            self._connection.request("drain")
            self._next = 0
        self._answers = self._connection.answers
        offset = self._next
        self._next = -(-(offset + nbytes) // _ALIGNMENT) * _ALIGNMENT
        memory = memoryview(self._map)[offset : offset + nbytes]  # type: ignore[arg-type]
        return Place(self._number, offset, memory)

    def close(self) -> None:
        """Unmap (once nothing refers to it)."""
        self._map = None
        self._size = 0

    def _grow(self, nbytes: int) -> None:
        size = max(_FIRST, 1 << (nbytes - 1).bit_length())
        if self._map is not None:
            self._connection.request("discard", self._number)
            self._map = None
        self._number += 1
        _, _, descriptors = self._connection.request("segment", self._number, size, descriptors=1)
        if len(descriptors) != 1:
            raise EmulatorError("the sidecar passed no shared memory")
        try:
            self._map = mmap.mmap(descriptors[0], size)
        finally:
            os.close(descriptors[0])
        self._size = size
        self._next = 0
