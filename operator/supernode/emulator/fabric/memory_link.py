"""A link through memory: pieces lie in the sender's board, counters of the kernel (eventfd) say that they are there.

Per direction there is one counter of pieces that have come and one of slots that are free again; both sides create
the two that they wait on and hand them over when the link is made. Passing a counter through the kernel also orders
the memory accesses around it, on every processor. The connection itself stays: it carries the messages, and breaks
when the other pod dies.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import Any

import numpy as np

from supernode.emulator.fabric.link import Interrupted, Link, LinkDown, Stalled, Take, Transfer
from supernode.emulator.fabric.memory import (
    SLOT,
    SLOTS,
    Board,
    Bytes,
    receive_descriptors,
    see_board,
    send_descriptors,
    slot,
)
from supernode.emulator.fabric.reception import Connection

_HANGUP = getattr(select, "POLLRDHUP", select.POLLHUP)


class MemoryLink(Link):
    """A link to a pod on the same host.

    Attributes:
        board: of this pod in this channel; theirs: the other pod's, read-only.
        credits: slots that may be written.
        sent, taken: pieces so far.
    """

    def __init__(
        self, pod: int, connection: Connection, board: Board, workers_of: tuple[int, int], deadline: float
    ) -> None:
        """Exchange memory with the other side.

        Args:
            pod: its number.
            connection: to it, a Unix socket.
            board: of this pod.
            workers_of: (this pod's number, bytes of a board in this job).
            deadline: on the monotonic clock.

        Raises:
            PeerLostError, ProtocolError: the other side is gone, or hands over something else.
        """
        super().__init__(pod, connection.sock, connection.outward, connection.inward)
        me, size = workers_of
        self.board = board.bytes
        self.credits = SLOTS
        self.sent = 0
        self.taken = 0
        self._rings = 0
        self._me = me
        self._closed = False
        self._poll: select.poll | None = None
        self._came = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._free = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._descriptors = [self._came, self._free]
        try:
            send_descriptors(self.sock, [board.descriptor, self._came, self._free], deadline)
            view, self._their_came, self._their_free = receive_descriptors(self.sock, 3, deadline)
            self._descriptors += [self._their_came, self._their_free]
            self.theirs = see_board(view, size)
            for descriptor in (self._their_came, self._their_free):
                os.set_blocking(descriptor, False)
        except BaseException:
            self.close()
            raise
        self.sock.setblocking(False)

    def outgoing(self, values: np.ndarray[Any, Any]) -> Transfer:
        """Send a flat contiguous array through this pod's slots."""
        return _Out(self, values)

    def incoming(self, target: np.ndarray[Any, Any]) -> Transfer:
        """Receive a flat contiguous array."""

        def take(start: int, values: np.ndarray[Any, Any]) -> None:
            np.copyto(target[start : start + values.size], values)

        return _In(self, target.size, target.dtype, take)

    def taking(self, size: int, landing: np.ndarray[Any, Any], take: Take) -> Transfer:
        """Receive an array piece by piece; pieces are taken where they lie, `landing` only says their type."""
        return _In(self, size, landing.dtype, take)

    def ring(self) -> None:
        """Tell the other pod that something is there."""
        os.eventfd_write(self._their_came, 1)

    def wait_ring(self, waker: int, patience: float) -> None:
        """Wait until the other pod has rung once more than was waited for; raises as `link.move` does."""
        while not self.rung():
            if self._poll is None:
                self._poll = select.poll()
                self._poll.register(waker, select.POLLIN)  # a link is one channel's, so it is always the same
                self._poll.register(self._came, select.POLLIN)
                self._poll.register(self.sock, _HANGUP)
            ready = {fd for fd, _ in self._poll.poll(patience * 1000)}
            if waker in ready:
                raise Interrupted
            if not ready:
                raise Stalled({self.pod})
            # What it rang before it went still counts.
            if self._came not in ready and not self._rings and not self._look():
                raise LinkDown(self.pod, "connection closed")

    def rung(self) -> bool:
        """Take one ring, if there is one."""
        if not self._rings and not self._look():
            return False
        self._rings -= 1
        return True

    def _look(self) -> bool:
        try:
            self._rings = os.eventfd_read(self._came)
        except BlockingIOError:
            return False
        return True

    def free_slot(self) -> bool:
        """Take the right to write one slot, if there is one."""
        if not self.credits:
            try:
                self.credits = os.eventfd_read(self._free)
            except BlockingIOError:
                return False
        self.credits -= 1
        return True

    def give_back(self) -> None:
        """Tell the other pod that the slot that was read is free."""
        os.eventfd_write(self._their_free, 1)

    def my_slot(self) -> Bytes:
        """Where the next piece for the other pod goes."""
        return slot(self.board, self.pod, self.sent)

    def their_slot(self) -> Bytes:
        """Where the other pod's next piece is."""
        return slot(self.theirs, self._me, self.taken)

    def waits_for(self, *, free: bool) -> list[tuple[int, int]]:
        """What to poll for a free slot, or for a piece."""
        return [(self._free if free else self._came, select.POLLIN), (self.sock.fileno(), _HANGUP)]

    def hung_up(self) -> bool:
        """Whether the other side is gone."""
        poll = select.poll()
        poll.register(self.sock, _HANGUP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Break the connection and give up the counters; the memory goes with the last view of it."""
        super().close()
        if not self._closed:
            self._closed = True
            self.theirs = self.board = np.empty(0, np.uint8)  # unmapped when nobody reads them any more
            for descriptor in self._descriptors:
                with suppress(OSError):
                    os.close(descriptor)


class _Out:
    """An array on its way through slots."""

    def __init__(self, link: MemoryLink, values: np.ndarray[Any, Any]) -> None:
        self.link = link
        self._values = values
        self._width = SLOT // values.itemsize
        self._start = 0

    @property
    def done(self) -> bool:
        """True when the last piece lies in a slot."""
        return self._start >= self._values.size

    def watch(self) -> list[tuple[int, int]]:
        return self.link.waits_for(free=True)

    def step(self) -> bool:
        link, moved = self.link, False
        while not self.done:
            if not link.free_slot():
                if not moved and link.hung_up():
                    raise LinkDown(link.pod, "connection closed")
                return moved
            piece = self._values[self._start : self._start + self._width]
            np.copyto(link.my_slot()[: piece.nbytes].view(piece.dtype), piece)
            link.sent += 1
            link.ring()
            self._start += piece.size
            moved = True
        return moved


class _In:
    """An array that comes through slots, taken piece by piece where it lies."""

    def __init__(self, link: MemoryLink, size: int, dtype: np.dtype[Any], take: Take) -> None:
        self.link = link
        self._size = size
        self._dtype = dtype
        self._take = take
        self._width = SLOT // dtype.itemsize
        self._start = 0

    @property
    def done(self) -> bool:
        """True when the last piece has been taken."""
        return self._start >= self._size

    def watch(self) -> list[tuple[int, int]]:
        return self.link.waits_for(free=False)

    def step(self) -> bool:
        link, moved = self.link, False
        while not self.done:
            if not link.rung():
                if moved or not link.hung_up():
                    return moved
                # What it rang before it went still counts.
                if not link.rung():
                    raise LinkDown(link.pod, "connection closed")
            count = min(self._width, self._size - self._start)
            self._take(self._start, link.their_slot()[: count * self._dtype.itemsize].view(self._dtype))
            link.taken += 1
            link.give_back()
            self._start += count
            moved = True
        return moved
