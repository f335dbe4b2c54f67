"""One data connection between two pods, and the moving of messages and tensors over several of them at once.

`move` drives any number of sends and receives from one thread, so two pods that send to each other cannot block each
other. It ends when all are done, when nothing moved for `patience` seconds, when a connection breaks, or when the
channel is aborted (its waker becomes readable).
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np

from supernode.emulator.fabric.frames import BULK, HEADER_BYTES, MESSAGE, Seal
from supernode.errors import EmulatorError

# What one system call may move: large enough to be cheap, small enough to keep both directions busy.
STRIDE: Final = 1 << 20
SOCKET_BUFFER: Final = 4 << 20


class LinkDown(Exception):  # noqa: N818  (not an error of ours yet: the channel names the ranks)
    """The connection to a pod broke or said something impossible."""

    def __init__(self, pod: int, reason: str) -> None:
        super().__init__(reason)
        self.pod = pod
        self.reason = reason


class Stalled(Exception):  # noqa: N818
    """Nothing moved for too long; `pods` are those that were waited for."""

    def __init__(self, pods: set[int]) -> None:
        super().__init__(f"nothing moved between this pod and pods {sorted(pods)}")
        self.pods = pods


class Interrupted(Exception):  # noqa: N818
    """The channel was aborted while bytes were moving."""


class Link:
    """An authenticated connection to `pod` that belongs to one channel; used by one thread at a time."""

    def __init__(self, pod: int, sock: socket.socket, outward: Seal, inward: Seal) -> None:
        self.pod = pod
        self.sock = sock
        self.outward = outward
        self.inward = inward
        tune(sock)
        sock.setblocking(False)

    def close(self) -> None:
        """Break the connection, at once for both sides."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def tune(sock: socket.socket) -> None:
    """Small messages at once, dead machines noticed, buffers that let both directions run."""
    keep_alive(sock)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)


def keep_alive(sock: socket.socket) -> None:
    """Small messages at once; a machine that went away without a word is noticed within half a minute."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Not every system has these; elsewhere its own, longer times hold.
    for name, seconds in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)


class Outgoing:
    """A frame on its way out."""

    def __init__(self, link: Link, frame: bytes, body: memoryview | None = None) -> None:
        self.link = link
        self._parts = [memoryview(frame)] if body is None else [memoryview(frame), body]

    @classmethod
    def message(cls, link: Link, words: dict[str, Any]) -> Outgoing:
        """A JSON object."""
        return cls(link, link.outward.message(words))

    @classmethod
    def tensor(cls, link: Link, values: np.ndarray[Any, Any]) -> Outgoing:
        """A flat contiguous array; it must not change until `move` returns."""
        return cls(link, link.outward.header(BULK, values.nbytes), values.view(np.uint8).data)

    @property
    def done(self) -> bool:
        """True when everything is in the kernel's hands."""
        return not self._parts

    def step(self) -> bool:
        """Send what fits now; True if something moved."""
        moved = False
        while self._parts:
            try:
                sent = self.link.sock.send(self._parts[0][:STRIDE])
            except (BlockingIOError, InterruptedError):
                return moved
            moved = True
            rest = self._parts[0][sent:]
            if len(rest):
                self._parts[0] = rest
                if sent < STRIDE:
                    return True
            else:
                del self._parts[0]
        return moved


class Incoming:
    """A frame that is due: a message (`words` afterwards) or a tensor into `target`."""

    def __init__(
        self, link: Link, target: np.ndarray[Any, Any] | None = None, taken: Callable[[int, int], None] | None = None
    ) -> None:
        self.link = link
        self.words: dict[str, Any] = {}
        self.done = False
        self._bulk = target is not None
        self._size = 0 if target is None else target.nbytes
        self._width = 1 if target is None else target.itemsize
        self._body = memoryview(bytearray()) if target is None else target.view(np.uint8).data
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._got = 0
        self._opened = False
        self._taken = taken
        self._told = 0

    def step(self) -> bool:
        """Receive what is there; True if something moved. Raises EmulatorError on a frame that is not due."""
        moved = False
        while not self.done:
            space = (self._body if self._opened else self._head)[self._got :]
            try:
                got = self.link.sock.recv_into(space[:STRIDE])
            except (BlockingIOError, InterruptedError):
                return moved
            if got == 0:
                raise LinkDown(self.link.pod, "connection closed")
            moved = True
            self._got += got
            if not self._opened:
                if self._got == HEADER_BYTES:
                    self._open()
            elif self._got == self._size:
                self._finish()
            elif self._taken:
                self._tell(self._got // self._width)
        return moved

    def _open(self) -> None:
        header = self.link.inward.open(bytes(self._head))
        if header.kind != (BULK if self._bulk else MESSAGE) or (self._bulk and header.length != self._size):
            raise LinkDown(
                self.link.pod, f"a frame of kind {header.kind}, {header.length} bytes came, not what was due"
            )
        if not self._bulk:
            self._size = header.length
            self._body = memoryview(bytearray(self._size))
        self._opened, self._got = True, 0
        if self._size == 0:
            self._finish()

    def _finish(self) -> None:
        if self._bulk:
            if self._taken:
                self._tell(self._size // self._width)
        else:
            self.words = self.link.inward.check(bytes(self._head), bytes(self._body))
        self.done = True

    def _tell(self, elements: int) -> None:
        # The reduction of what has come overlaps with the kernel receiving the next part.
        if self._taken and elements > self._told:
            self._taken(self._told, elements)
            self._told = elements


def move(transfers: Sequence[Outgoing | Incoming], waker: int, patience: float) -> None:
    """Complete all transfers.

    Args:
        transfers: at most one Outgoing and one Incoming per link.
        waker: file descriptor that becomes readable when the channel is aborted.
        patience: seconds without any progress after which it gives up.

    Raises:
        LinkDown: a connection broke, or a frame was not what was due.
        Stalled: nothing moved for `patience` seconds.
        Interrupted: the channel was aborted.
    """
    waiting = [transfer for transfer in transfers if not _step(transfer)[1]]
    while waiting:
        poll = select.poll()
        poll.register(waker, select.POLLIN)
        events: dict[int, int] = {}
        for transfer in waiting:
            fd = transfer.link.sock.fileno()
            if fd < 0:
                raise LinkDown(transfer.link.pod, "connection closed on this side")
            events[fd] = events.get(fd, 0) | (select.POLLOUT if isinstance(transfer, Outgoing) else select.POLLIN)
        for fd, mask in events.items():
            poll.register(fd, mask)
        ready = {fd for fd, _ in poll.poll(patience * 1000)}
        if waker in ready:
            raise Interrupted
        if not ready:
            raise Stalled({transfer.link.pod for transfer in waiting})
        still = []
        for transfer in waiting:
            if transfer.link.sock.fileno() in ready and _step(transfer)[1]:
                continue
            still.append(transfer)
        waiting = still


def _step(transfer: Outgoing | Incoming) -> tuple[bool, bool]:
    """One step; (moved, done). Foreign errors become LinkDown with the pod's number."""
    try:
        moved = transfer.step()
    except OSError as exc:
        raise LinkDown(transfer.link.pod, str(exc) or type(exc).__name__) from exc
    except EmulatorError as exc:
        raise LinkDown(transfer.link.pod, str(exc)) from exc
    return moved, transfer.done
