"""Memory that a client and the sidecar share for copies: anonymous files, passed as descriptors.

The sidecar makes a file beside its socket under a name that nobody can guess, with O_EXCL and mode 0600, removes the
name at once and hands the client the descriptor: no path of a peer is ever opened, and a client that dies leaves
nothing behind. The client maps the file; the sidecar reads and writes it by descriptor, so a client that shrinks it
gets an error, and the sidecar no signal. Flows in: sizes, arrays. Flows out: descriptors, arrays.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Final

import numpy as np

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import Spec
from supernode.emulator.kernels.table import AnyArray
from supernode.emulator.runtime.memory import human_bytes
from supernode.errors import EmulatorError, InvalidHandleError, ProtocolError

#: Bytes of one segment, and of all segments of a client.
MAX_SEGMENT: Final = 1 << 30
MAX_TOTAL: Final = 4 << 30
MAX_COUNT: Final = 64


class Segments:
    """The shared files of one client.

    Args:
        directory: where the files live until their name is removed; should be in memory (tmpfs).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: dict[int, int] = {}
        self._descriptors: dict[int, int] = {}

    def create(self, number: int, size: int) -> int:
        """Make a segment under the client's number; gives the descriptor to pass on.

        Raises:
            ProtocolError: the number is taken, or the size is not allowed.
            EmulatorError: the directory has no room.
        """
        total = sum(self._sizes.values())
        if number in self._descriptors or len(self._descriptors) >= MAX_COUNT:
            raise ProtocolError(f"segment {number} cannot be made: the client has {sorted(self._descriptors)[:8]}...")
        if not 0 < size <= MAX_SEGMENT or total + size > MAX_TOTAL:
            raise ProtocolError(
                f"a segment of {human_bytes(size)} beside {human_bytes(total)} is too much; one may have "
                f"{human_bytes(MAX_SEGMENT)}, all together {human_bytes(MAX_TOTAL)}"
            )
        path = self._directory / f".segment-{secrets.token_hex(16)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            path.unlink()
            # Taken now, so that a full disk is an error here and no signal in the client later.
            if sys.platform == "linux":
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        except OSError as exc:
            os.close(descriptor)
            raise EmulatorError(
                f"no room for {human_bytes(size)} of shared memory in {self._directory}: {exc}"
            ) from exc
        self._descriptors[number] = descriptor
        self._sizes[number] = size
        return descriptor

    def read(self, number: int, offset: int, spec: Spec) -> AnyArray:
        """A copy of an array that lies in a segment.

        Raises:
            InvalidHandleError: no such segment.
            ProtocolError: the array is not inside it.
        """
        descriptor = self._place(number, offset, spec.nbytes)
        out = np.empty(spec.shape, DTYPES[spec.dtype])
        view = raw(out)
        while view:
            count = os.preadv(descriptor, [view], offset)
            if not count:
                raise ProtocolError(f"segment {number} ends {len(view)} bytes too early: the client has shrunk it")
            view, offset = view[count:], offset + count
        return out

    def write(self, number: int, offset: int, data: AnyArray) -> None:
        """Copy an array into a segment.

        Raises:
            InvalidHandleError: no such segment.
            ProtocolError: the array does not fit.
        """
        descriptor = self._place(number, offset, data.nbytes)
        view = raw(data)
        while view:
            count = os.pwritev(descriptor, [view], offset)
            view, offset = view[count:], offset + count

    def discard(self, number: int) -> None:
        """Give a segment back; InvalidHandleError if there is none of that number."""
        self._place(number, 0, 0)
        os.close(self._descriptors.pop(number))
        del self._sizes[number]

    def close(self) -> None:
        """Give everything back."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._sizes.clear()

    def _place(self, number: int, offset: int, nbytes: int) -> int:
        if number not in self._descriptors:
            raise InvalidHandleError(f"there is no segment {number}")
        if not 0 <= offset <= self._sizes[number] - nbytes:
            raise ProtocolError(f"{nbytes} bytes at {offset} are not inside segment {number}")
        return self._descriptors[number]


def raw(array: AnyArray) -> memoryview:
    """The bytes of a contiguous array, writable if the array is."""
    return array.reshape(-1).view(np.uint8).data
