"""Large copies that the sidecar need not copy: memory files that nobody can change any more once it uses them.

To the device: the sidecar makes an anonymous memory file of a fixed size and passes the descriptor; the client writes
the data and says so; the sidecar seals the file against writing, which the kernel refuses while anybody could still
write to it, checks that all of it is there, and maps it privately. So no client can change, shrink or empty what a
kernel reads, and what a kernel writes goes to pages of its own. From the device: the data is written to such a file
(or is still in the one it came in), sealed, and the client maps it privately.

Flows in: sizes, arrays. Flows out: descriptors, arrays. Where the system has no sealed files there are none, and copies
go through `segments`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import weakref
from typing import Final

import numpy as np

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import Spec
from supernode.emulator.kernels.table import AnyArray
from supernode.emulator.runtime.buffer import Storage
from supernode.emulator.runtime.memory import Block, human_bytes
from supernode.emulator.runtime.stream import Stream
from supernode.emulator.segments import raw
from supernode.errors import EmulatorError, ProtocolError

if sys.platform == "linux":
    import fcntl

    _CLOSED: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    _SEALED: Final = _CLOSED | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

#: Files of one client that wait to be written, and arrays of one client in such memory.
_MAX_WAITING: Final = 16
_MAX_ARRAYS: Final = 128
_CHUNK: Final = 64 << 20


class Sealed:
    """A file that cannot change any more; closed with the last who knows it."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        weakref.finalize(self, os.close, descriptor)


class SealedStorage(Storage):
    """Memory of an array that lies in a sealed file until it is written for the first time."""

    __slots__ = ("file",)

    def __init__(self, stream: Stream, allocation: Block, file: Sealed) -> None:
        super().__init__(stream, allocation)
        self.file: Sealed | None = file

    def written(self, stream: Stream, position: int) -> None:
        """From now on the file is not what the array is."""
        super().written(stream, position)
        self.file = None


class Hand:
    """The memory files of one client."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[int, int]] = {}
        self._mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    def create(self, number: int, size: int, limit: int) -> int | None:
        """A file for the client to fill; gives its descriptor, None where there can be none.

        Raises:
            ProtocolError: the number is taken, or the size is none.
        """
        if type(number) is not int or number in self._waiting or len(self._waiting) >= _MAX_WAITING:
            raise ProtocolError(f"file {number!r} cannot be made: {len(self._waiting)} wait to be written")
        if type(size) is not int or size <= 0:
            raise ProtocolError(f"a file of {size!r} bytes cannot be made")
        if size > limit or len(self._mapped) >= _MAX_ARRAYS:
            return None
        descriptor = _file(size)
        if descriptor is not None:
            self._waiting[number] = (descriptor, size)
        return descriptor

    def take(self, number: int, spec: Spec) -> tuple[AnyArray, Sealed]:
        """The array that the client has written to a file, in the file's own memory.

        Raises:
            ProtocolError: no such file, of another size, not written in full, or the client could still write to it.
        """
        descriptor, size = self._waiting.pop(number, (-1, 0))
        if descriptor < 0:
            raise ProtocolError(f"there is no file {number!r}")
        file = Sealed(descriptor, size)
        if size != spec.nbytes:
            raise ProtocolError(f"{spec} does not fill a file of {size} bytes")
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALED)
        except OSError as exc:
            raise ProtocolError(f"file {number} can still be written to: unmap it first ({exc})") from None
        state = os.fstat(descriptor)
        # A page that was never written would be made when a kernel looks at it, where a lack of memory is a signal.
        if state.st_size != size or state.st_blocks * 512 < size:
            raise ProtocolError(f"file {number} was not written in full")
        try:
            mapping = mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as exc:
            raise EmulatorError(f"{human_bytes(size)} cannot be mapped: {exc}") from exc
        self._mapped.add(mapping)
        return np.frombuffer(mapping, DTYPES[spec.dtype]).reshape(spec.shape), file

    def close(self) -> None:
        """Nobody will fill the files that wait."""
        for descriptor, _ in self._waiting.values():
            os.close(descriptor)
        self._waiting.clear()


def give(data: AnyArray) -> Sealed | None:
    """A sealed file with an array's data; None where there can be none."""
    descriptor = _file(data.nbytes)
    if descriptor is None:
        return None
    file = Sealed(descriptor, data.nbytes)
    try:
        view, place = raw(data), 0
        while place < data.nbytes:
            place += os.pwrite(descriptor, view[place : place + _CHUNK], place)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALED)
    except OSError:
        return None
    return file


def _file(size: int) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        descriptor = os.memfd_create("supernode", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        return None
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _CLOSED)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        return None
    return descriptor
