"""Memory shared with the sidecar, for copies.

Small copies: one mapped file, filled from the front, used again after each answer. Large ones: a file for each, which
one side writes and the other maps once nobody can change it any more. The sidecar makes the files and passes their
descriptors; no path is opened here. Flows in: sizes, data. Flows out: places in the file, arrays. Not here: what is
copied (`emulator`).
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from typing import Any, Final, NamedTuple

import numpy as np

from supernode.emulator.client.connection import Connection
from supernode.errors import EmulatorError

_FIRST: Final = 8 << 20
_ALIGNMENT: Final = 64
#: Bytes from which a copy has a file of its own; below, new pages cost more than they save.
LARGE: Final = 4 << 20
# Bytes written at a time; MADV_POPULATE_READ of Linux, which Python has no name for.
_CHUNK: Final = 64 << 20
_POPULATE_READ: Final = 22
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


class Files:
    """Files of large copies. Used under the emulator's lock."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def send(self, data: np.ndarray[Any, Any]) -> int | None:
        """Write contiguous data to a file that the sidecar then takes; gives its number, None where there is none.

        Raises:
            EmulatorError: the host has no room.
        """
        number = next(self._numbers)
        view = data.reshape(-1).view(np.uint8).data
        _, _, descriptors = self._connection.request("file", number, view.nbytes, descriptors=1)
        if not descriptors:
            return None
        place = 0
        try:
            while place < view.nbytes:
                place += os.pwrite(descriptors[0], view[place : place + _CHUNK], place)
        except OSError as exc:
            raise EmulatorError(f"no room on the host for a copy of {view.nbytes} bytes: {exc}") from exc
        finally:
            os.close(descriptors[0])
        return number

    def receive(self, handle: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any] | None:
        """An array of the device in the file's own memory, private and writable; None where there is none."""
        _, _, descriptors = self._connection.request("fetch", handle, descriptors=1)
        if not descriptors:
            return None
        size = os.fstat(descriptors[0]).st_size
        try:
            mapping = mmap.mmap(descriptors[0], size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError:  # too many mappings or descriptors
            out = np.empty(shape, dtype)
            view, place = out.reshape(-1).view(np.uint8).data, 0
            while place < size and (count := os.preadv(descriptors[0], [view[place:]], place)):
                place += count
            return out
        finally:
            os.close(descriptors[0])
        with contextlib.suppress(OSError):
            mapping.madvise(_POPULATE_READ)
        return np.frombuffer(mapping, dtype).reshape(shape)
