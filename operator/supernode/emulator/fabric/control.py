"""The control connections: one to every other pod of the job, all read by one thread.

They carry small messages (aborts, questions and answers, goodbyes) and, by breaking, the news that a pod is gone.
Callbacks run on the control thread and must not block.
"""

from __future__ import annotations

import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from supernode.emulator.fabric.frames import HEADER_BYTES, MESSAGE, Header
from supernode.emulator.fabric.link import keep_alive
from supernode.emulator.fabric.reception import Connection
from supernode.errors import EmulatorError, ProtocolError

# A control message is a few hundred bytes: a pod whose buffer stays full this long does not read any more.
SEND_SECONDS: Final = 1.0


class _Line:
    """One control connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lock = threading.Lock()
        self.buffer = bytearray()
        self.header: Header | None = None


class Control:
    """Control connections by pod number."""

    def __init__(self, on_message: Callable[[int, dict[str, Any]], None], on_lost: Callable[[int, str], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._lines: dict[int, _Line] = {}
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._waker, self._bell = socket.socketpair()
        self._waker.setblocking(False)
        self._selector.register(self._waker, selectors.EVENT_READ, None)
        self._open = True
        self._thread = threading.Thread(target=self._read, name="fabric-control", daemon=True)
        self._thread.start()

    def add(self, pod: int, connection: Connection) -> None:
        """Take over the connection to a pod; a second one for the same pod is closed."""
        connection.sock.setblocking(False)
        keep_alive(connection.sock)
        with self._changed:
            if not self._open or pod in self._lines:
                connection.close()
                return
            self._lines[pod] = _Line(connection)
            self._changed.notify_all()
        # From here on the control thread registers it itself: selectors are not safe across threads.
        self._ring()

    def wait_for(self, pods: set[int], deadline: float) -> set[int]:
        """Wait until all `pods` are connected; those that are not by the deadline."""
        with self._changed:
            while missing := pods - set(self._lines):
                left = deadline - time.monotonic()
                if left <= 0 or not self._open:
                    return missing
                self._changed.wait(left)
            return set()

    def send(self, pods: Iterable[int], words: dict[str, Any]) -> None:
        """Send a message to several pods; one that cannot take it is treated as lost."""
        for pod in pods:
            line = self._lines.get(pod)
            if line is None:
                continue
            try:
                with line.lock:
                    _write(line.connection.sock, line.connection.outward.message(words))
            except OSError:
                # Breaks the connection: the reader then reports the loss, once.
                with suppress(OSError):
                    line.connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Say goodbye to everyone and close all connections."""
        with self._changed:
            if not self._open:
                return
            self._open = False
            self._changed.notify_all()
        self.send(list(self._lines), {"do": "goodbye"})
        self._ring()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)
        for line in self._lines.values():
            line.connection.close()
        self._selector.close()
        self._waker.close()
        self._bell.close()

    def _ring(self) -> None:
        with suppress(OSError):
            self._bell.send(b"!")

    def _read(self) -> None:
        known: set[int] = set()
        while self._open:
            for key, _ in self._selector.select():
                if key.data is None:
                    with suppress(OSError):
                        self._waker.recv(4096)
                else:
                    self._take(key.data)
            with self._changed:
                new = [(pod, line) for pod, line in self._lines.items() if pod not in known]
            for pod, line in new:
                known.add(pod)
                with suppress(OSError, ValueError):
                    self._selector.register(line.connection.sock, selectors.EVENT_READ, pod)
                # What arrived before it was registered.
                self._take(pod)

    def _take(self, pod: int) -> None:
        line = self._lines[pod]
        try:
            while True:
                data = line.connection.sock.recv(65536)
                if not data:
                    raise ConnectionError("connection closed")
                line.buffer += data
                for words in _messages(line):
                    self._on_message(pod, words)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, EmulatorError) as exc:
            with suppress(KeyError, ValueError):
                self._selector.unregister(line.connection.sock)
            if self._open:
                line.connection.close()
                self._on_lost(pod, str(exc) or type(exc).__name__)


def _messages(line: _Line) -> list[dict[str, Any]]:
    """The complete messages at the front of the buffer."""
    messages = []
    while len(line.buffer) >= HEADER_BYTES:
        head = bytes(line.buffer[:HEADER_BYTES])
        if line.header is None:
            line.header = line.connection.inward.open(head)
            if line.header.kind != MESSAGE:
                raise ProtocolError("a tensor came on a control connection")
        size = HEADER_BYTES + line.header.length
        if len(line.buffer) < size:
            break
        messages.append(line.connection.inward.check(head, bytes(line.buffer[HEADER_BYTES:size])))
        del line.buffer[:size]
        line.header = None
    return messages


def _write(sock: socket.socket, frame: bytes) -> None:
    view = memoryview(frame)
    deadline = time.monotonic() + SEND_SECONDS
    while view:
        try:
            view = view[sock.send(view) :]
        except (BlockingIOError, InterruptedError):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("it does not read its control connection") from None
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            poll.poll(left * 1000)
