"""Memory that pods on one host share: each writes a board of its own, the others see it read-only.

What flows in: nothing but descriptors over a connection whose other side has proved the job's secret. What flows out:
boards as byte arrays. A board is an anonymous file of the kernel (memfd) of fixed size: it has no path, so no path of
a peer is ever opened, it needs no room in /dev/shm, and it is gone when the last process that maps it ends. Its seals
forbid shrinking and growing, so a reader never touches a page that is not there, and anyone but its owner to write.

Pods share memory where the kernel itself can hand descriptors from one to the other: in one network namespace of one
running kernel (`place_token`). That is real nearness only: which emulated links the bytes stand for is the topology's
business, so the virtual clock does not see it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import mmap
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from supernode.emulator.fabric.handshake import Silent
from supernode.errors import PeerLostError, ProtocolError

#: Bytes of one of the two halves in which collectives of all pods work. Ranks wait for each other twice a block, which
#: costs most on a busy host; small blocks stay in the cores' caches. So a collective uses an eighth of its buffer.
BLOCK: Final = 8 << 20
SMALLEST_BLOCK: Final = 1 << 20
#: Bytes of one slot, and slots, through which a pod sends to one other.
SLOT: Final = 512 << 10
SLOTS: Final = 2
#: Bytes in which a pod says what it calls; there are two such areas, used in turn.
OPINION: Final = 16 << 10
# Linux's F_SEAL_FUTURE_WRITE: only mappings that exist may write. Python has no name for it.
_SEAL_FUTURE_WRITE: Final = 0x10
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NETWORK: Final = Path("/proc/self/ns/net")

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def place_token() -> str:
    """The same text in all processes that can share memory with each other; empty where that cannot be."""
    if not all(hasattr(os, name) for name in ("memfd_create", "eventfd")) or not hasattr(fcntl, "F_ADD_SEALS"):
        return ""
    try:
        space = _NETWORK.stat()
        said = f"{_BOOT.read_text().strip()} {space.st_dev} {space.st_ino}"
    except OSError:
        return ""
    return hashlib.sha256(said.encode()).hexdigest()[:24]


def door_name(secret: bytes, host: str, port: int) -> bytes:
    """Name of the abstract Unix socket on which the pod at host:port takes those who share memory with it."""
    return b"\0supernode-" + hmac.digest(secret, f"memory {host}:{port}".encode(), "sha256").hex()[:40].encode()


def board_bytes(workers: int) -> int:
    """Bytes of a board in a job of so many workers: both halves, and slots for each; untouched pages cost nothing."""
    return 2 * BLOCK + 2 * OPINION + workers * SLOTS * SLOT


def slot(board: Bytes, reader: int, number: int) -> Bytes:
    """The memory through which a board's owner sends its piece `number` to worker `reader`."""
    start = 2 * BLOCK + 2 * OPINION + (reader * SLOTS + number % SLOTS) * SLOT
    return board[start : start + SLOT]


def half(board: Bytes, number: int) -> Bytes:
    """The half of a board that round `number` of a collective uses."""
    start = number % 2 * BLOCK
    return board[start : start + BLOCK]


def opinion_area(board: Bytes, number: int) -> Bytes:
    """Where a board's owner says what it calls at meeting `number`: written again two later, when all have read it."""
    start = 2 * BLOCK + number % 2 * OPINION
    return board[start : start + OPINION]


def block_bytes(nbytes: int) -> int:
    """How much of a half a collective of `nbytes` uses in each round."""
    return min(BLOCK, max(SMALLEST_BLOCK, nbytes // 8))


class Board:
    """This pod's board of one channel: `bytes` to write to, `descriptor` to hand to the others."""

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("supernode-fabric", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size)
        self.bytes: Bytes = np.frombuffer(mmap.mmap(self.descriptor, size), dtype=np.uint8)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals | _SEAL_FUTURE_WRITE)
        except OSError:  # Linux before 5.1: a reader that holds the job's secret could write
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)

    def close(self) -> None:
        """Give up the descriptor; the memory goes when nobody uses it any more."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self.bytes = np.empty(0, np.uint8)


def see_board(descriptor: int, size: int) -> Bytes:
    """A peer's board, read-only; takes the descriptor over.

    Raises:
        ProtocolError: it is not of the agreed size, or could change it.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        found = os.fstat(descriptor).st_size
        if seals & wanted != wanted or found != size:
            raise ProtocolError(f"a board of {found} bytes with seals {seals:#x} came instead of {size} bytes, sealed")
        return np.frombuffer(mmap.mmap(descriptor, size, prot=mmap.PROT_READ), dtype=np.uint8)
    except OSError as exc:
        raise ProtocolError(f"what came is not a board: {exc}") from exc
    finally:
        os.close(descriptor)


def send_descriptors(sock: socket.socket, descriptors: list[int], deadline: float) -> None:
    """Hand descriptors to the other side; PeerLostError when it is gone."""
    sock.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        socket.send_fds(sock, [b"!"], descriptors)
    except OSError as exc:
        raise PeerLostError(f"connection lost while memory was handed over: {exc}") from exc


def receive_descriptors(sock: socket.socket, count: int, deadline: float) -> list[int]:
    """Exactly `count` descriptors from the other side; PeerLostError, ProtocolError."""
    sock.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        data, descriptors, flags, _ = socket.recv_fds(sock, 1, count)
    except TimeoutError as exc:
        raise Silent("no memory was handed over in time") from exc
    except OSError as exc:
        raise PeerLostError(f"connection lost while memory was handed over: {exc}") from exc
    if data != b"!" or len(descriptors) != count or flags & socket.MSG_CTRUNC:
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)
        raise ProtocolError(f"{len(descriptors)} descriptors came where {count} were due")
    return list(descriptors)
