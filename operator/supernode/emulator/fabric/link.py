"""One data connection between two pods, and the moving of messages and tensors over several of them at once.

`Link` moves bytes over TCP; `memory_link.MemoryLink` through memory that both pods see. Both hand out transfers.

`move` drives any number of sends and receives from one thread, so two pods that send to each other cannot block each
other. It ends when all are done, when nothing moved for `patience` seconds, when a connection breaks, or when the
channel is aborted (its waker becomes readable).
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import numpy as np

from supernode.emulator.fabric.congestion import as_usual
from supernode.emulator.fabric.frames import BULK, HEADER_BYTES, MESSAGE, NOTHING, Seal, encode
from supernode.errors import EmulatorError

# What one system call may move: large enough to be cheap, small enough to keep both directions busy.
STRIDE: Final = 1 << 20
# What may wait on its way to a process on the same machine, payload (Linux takes twice that with its own overhead):
# measured best of 48 KiB to 2 MiB, and best by far where other processes want the cores, too.
NEAR_BUFFER: Final = 384 << 10


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


class Transfer(Protocol):
    """Something on its way over a link."""

    @property
    def link(self) -> Link:
        """What it goes over."""

    @property
    def done(self) -> bool:
        """True when nothing is left to do on this side."""

    def step(self) -> bool:
        """Do what is possible now; True if something moved."""

    def watch(self) -> list[tuple[int, int]]:
        """(descriptor, poll mask) of everything that makes another step worth while."""


# (first element, values): takes a stretch of elements that has come; the values' memory is used again afterwards.
Take = Callable[[int, "np.ndarray[Any, Any]"], None]


class Link:
    """An authenticated connection to `pod` that belongs to one channel; used by one thread at a time."""

    def __init__(self, pod: int, sock: socket.socket, outward: Seal, inward: Seal) -> None:
        self.pod = pod
        self.sock = sock
        self.outward = outward
        self.inward = inward
        tune(sock)
        sock.setblocking(False)

    def outgoing(self, values: np.ndarray[Any, Any]) -> Transfer:
        """Send a flat contiguous array; it must not change until `move` returns."""
        return Outgoing.tensor(self, values)

    def incoming(self, target: np.ndarray[Any, Any]) -> Transfer:
        """Receive a flat contiguous array."""
        return Incoming(self, target)

    def taking(self, size: int, landing: np.ndarray[Any, Any], take: Take) -> Transfer:
        """Receive `size` elements of `landing`'s type stretch by stretch; `landing` holds one at a time."""
        return Taking(self, size, landing, take)

    def close(self) -> None:
        """Break the connection, at once for both sides."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def tune(sock: socket.socket) -> None:
    """Small messages at once, dead machines noticed."""
    if sock.family == socket.AF_UNIX:
        return  # carries small messages only, and the kernel says at once when the other side is gone
    keep_alive(sock)
    if near(sock):
        # On one machine bytes that wait fall out of the cores' caches. Between machines the kernel knows best: a size
        # that is asked for is capped (net.core.wmem_max), and no longer grows with the way's length.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NEAR_BUFFER)


def near(sock: socket.socket) -> bool:
    """Whether both ends are on one machine."""
    return bool(sock.getsockname()[0] == sock.getpeername()[0])


def keep_alive(sock: socket.socket) -> None:
    """Small messages at once; a machine that went away without a word is noticed within half a minute."""
    if not near(sock):
        as_usual(sock)
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
        self._parts = [memoryview(frame)] if frame else []
        if body is not None:
            self._parts.append(body)

    @classmethod
    def message(cls, link: Link, words: dict[str, Any], values: np.ndarray[Any, Any] | None = None) -> Outgoing:
        """A JSON object, and the bytes that it announces, a flat contiguous array, right after it."""
        return cls.encoded(link, encode(words), values)

    @classmethod
    def encoded(cls, link: Link, body: bytes, values: np.ndarray[Any, Any] | None = None) -> Outgoing:
        """The same of an object that is encoded already."""
        return cls(link, link.outward.signed(body), None if values is None else values.view(np.uint8).data)

    @classmethod
    def announced(cls, link: Link, values: np.ndarray[Any, Any]) -> Outgoing:
        """A flat contiguous array of which the other side knows that it comes, without a header."""
        return cls(link, b"", values.view(np.uint8).data)

    @classmethod
    def tensor(cls, link: Link, values: np.ndarray[Any, Any]) -> Outgoing:
        """A flat contiguous array; it must not change until `move` returns."""
        return cls(link, link.outward.header(BULK, values.nbytes), values.view(np.uint8).data)

    @property
    def done(self) -> bool:
        """True when everything is in the kernel's hands."""
        return not self._parts

    def watch(self) -> list[tuple[int, int]]:
        """Room in the kernel's buffer."""
        return [(self.link.sock.fileno(), select.POLLOUT)]

    def step(self) -> bool:
        """Send what fits now; True if something moved."""
        moved = False
        while self._parts:
            try:
                # Header and body together: the other side is woken once.
                sent = self.link.sock.sendmsg(self._parts)
            except (BlockingIOError, InterruptedError):
                return moved
            moved = True
            while self._parts and sent >= len(self._parts[0]):
                sent -= len(self._parts[0])
                del self._parts[0]
            if sent:
                self._parts[0] = self._parts[0][sent:]
        return moved


class Incoming:
    """A frame that is due: a message (`words` afterwards) or a tensor into `target`."""

    def __init__(
        self,
        link: Link,
        target: np.ndarray[Any, Any] | None = None,
        known: Mapping[bytes, dict[str, Any]] = NOTHING,
    ) -> None:
        """`known`: what messages say that need not be read; see `Seal.check`."""
        self.link = link
        self._known = known
        self.words: dict[str, Any] = {}
        self.done = False
        self._bulk = target is not None
        self._size = 0 if target is None else target.nbytes
        self._body = memoryview(bytearray()) if target is None else target.view(np.uint8).data
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._got = 0
        self._opened = False

    @property
    def due(self) -> int:
        """Bytes of the tensor."""
        return self._size

    def announced(self) -> Incoming:
        """No header is due: a message has said what comes."""
        self._opened = True
        return self

    def watch(self) -> list[tuple[int, int]]:
        """Bytes that have come."""
        return [(self.link.sock.fileno(), select.POLLIN)]

    def step(self) -> bool:
        """Receive what is there; True if something moved. Raises EmulatorError on a frame that is not due."""
        moved = False
        while not self.done:
            try:
                got = self.link.sock.recv_into(self._space())
            except (BlockingIOError, InterruptedError):
                return moved
            if got == 0:
                raise LinkDown(self.link.pod, "connection closed")
            moved = True
            self._got += got
            if self._opened:
                self._advance()
            elif self._got == HEADER_BYTES:
                self._open()
        return moved

    def _space(self) -> memoryview:
        return (self._body if self._opened else self._head)[self._got :][:STRIDE]

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
            self._advance()

    def _advance(self) -> None:
        if self._got == self._size:
            if not self._bulk:
                self.words = self.link.inward.check(bytes(self._head), bytes(self._body), self._known)
            self.done = True


class Taking(Incoming):
    """A tensor of `size` elements that lands stretch by stretch in a small array, which stays in the core's cache."""

    def __init__(self, link: Link, size: int, landing: np.ndarray[Any, Any], take: Take) -> None:
        super().__init__(link, landing)
        self._landing = landing
        self._take = take
        self._size = size * landing.itemsize
        self._taken = 0  # bytes

    def _space(self) -> memoryview:
        if not self._opened:
            return super()._space()
        room = min(len(self._body), self._size - self._taken)
        return self._body[self._got - self._taken : room]

    def _advance(self) -> None:
        here = self._got - self._taken
        if here == len(self._body) or self._got == self._size:
            width = self._landing.itemsize
            self._take(self._taken // width, self._landing[: here // width])
            self._taken = self._got
        self.done = self._got == self._size


def move(transfers: Sequence[Transfer], waker: int, patience: float) -> None:
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
    waiting = [transfer for transfer in transfers if not _step(transfer)]
    while waiting:
        poll = select.poll()
        poll.register(waker, select.POLLIN)
        events: dict[int, int] = {}
        for transfer in waiting:
            for fd, mask in transfer.watch():
                if fd < 0:
                    raise LinkDown(transfer.link.pod, "connection closed on this side")
                events[fd] = events.get(fd, 0) | mask
        for fd, mask in events.items():
            poll.register(fd, mask)
        ready = {fd for fd, _ in poll.poll(patience * 1000)}
        if waker in ready:
            raise Interrupted
        if not ready:
            raise Stalled({transfer.link.pod for transfer in waiting})
        waiting = [
            transfer for transfer in waiting if not (any(fd in ready for fd, _ in transfer.watch()) and _step(transfer))
        ]


def _step(transfer: Transfer) -> bool:
    """One step; True when done. Foreign errors become LinkDown with the pod's number."""
    try:
        transfer.step()
    except OSError as exc:
        raise LinkDown(transfer.link.pod, str(exc) or type(exc).__name__) from exc
    except EmulatorError as exc:
        raise LinkDown(transfer.link.pod, str(exc)) from exc
    return transfer.done
