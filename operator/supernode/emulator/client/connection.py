"""The client's end of the socket: commands are recorded and sent in batches, requests wait for an answer.

Most of a batch is a row of numbers (launches by signature, frees, views); the rest are commands in words. Batches start
small after each answer, so that the sidecar begins early, and grow while the client runs ahead.

Flows in: numbers, and commands and requests as plain lists. Flows out: frames; replies; errors rebuilt as types of
`supernode.errors`. May be used from several threads. Not here: what the commands mean (`devices`, `arrays`).
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from supernode import errors
from supernode.emulator import wire
from supernode.errors import EmulatorError, ProtocolError, SupernodeError

#: Commands that are recorded before the first batch after an answer is sent, and at most before any.
_FIRST_BATCH: Final = 16
BATCH: Final = 256
#: Places of calls in the client's program that are kept for error messages.
_PLACES: Final = 1 << 14
_BATCH_BYTES: Final = 4 << 20
# The package whose frames are not the client's program.
_OURS: Final = "supernode.emulator."
_getframe: Final = sys._getframe
_KINDS: Final[dict[str, type[SupernodeError]]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SupernodeError)
}


class Connection:
    """A connection to a sidecar.

    Args:
        path: of the socket.
        timeout: seconds to wait for the connection and the hello; answers later are waited for as long as it takes,
            because the sidecar itself bounds what can take long.

    Attributes:
        hello: what the sidecar says about itself.
        dead, forgotten: handles of arrays and events that were garbage-collected; any thread may append.
    """

    def __init__(self, path: Path, *, timeout: float) -> None:
        self.path = path
        self.dead: deque[int] = deque()
        self.forgotten: deque[int] = deque()
        self._lock = threading.RLock()
        self._commands: list[list[Any]] = []
        self._codes: list[int] = []
        self._waiting = 0  # calls since the last batch
        self._limit = _FIRST_BATCH
        self._places: deque[tuple[int, Any, int]] = deque(maxlen=_PLACES)
        self._body: list[memoryview] = []
        self._body_bytes = 0
        self._number = 0
        self._handles: Iterator[int] = itertools.count(1)
        self._closed = ""
        self._drained = 0  # counts answers: whatever was sent before one has been read
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
            # A sidecar that has no room says so, and closes before it is asked: its answer is there all the same.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                wire.send(self._socket, wire.encode({"hello": wire.VERSION}))
            self.hello, _, _ = self._answer(0)
            self._socket.settimeout(None)
        except OSError as exc:
            self._socket.close()
            raise EmulatorError(
                f"no emulator answers on {path}: {exc}; in a pod the sidecar makes the socket, elsewhere use "
                "`supernode emulator exec -- COMMAND`"
            ) from exc
        except SupernodeError:
            self._socket.close()
            raise

        _connected.add(self)

    def forked(self) -> None:
        """Be unusable: this is a copy of the process that is connected, and two would garble what one socket says."""
        self._closed = "it is the connection of the process that this one was forked from; connect anew"
        self._lock = threading.RLock()  # another thread may have held it
        self._socket.close()
        self._handles = iter(self._refuse, 0)

    def usable(self) -> None:
        """Raise EmulatorError if nothing can be sent any more."""
        if self._closed:
            self._refuse()

    def _refuse(self) -> int:
        raise EmulatorError(f"the emulator at {self.path} cannot be used: {self._closed}")

    def handle(self) -> int:
        """A new number for an array, stream or event."""
        return next(self._handles)

    def record(self, command: list[Any], *, counts: bool = True) -> int:
        """Add a command in words to the batch; gives its number, the one that error messages name.

        Args:
            command: its name and arguments.
            counts: it is a call of the program, and not said on behalf of one.
        """
        with self._lock:
            if self.dead or self.forgotten:
                self._free()
            self._codes.append(wire.WORDS)
            self._commands.append(command)
            if counts:
                self._called(_getframe(1))
            return self._number

    def record_codes(self, codes: Sequence[int], frame: FrameType) -> None:
        """Add a call that is said in numbers.

        Args:
            codes: see `supernode.emulator.launches`.
            frame: of the function of this package that was called; the program's own is found from it.
        """
        with self._lock:
            if self.dead or self.forgotten:
                self._free()
            self._codes += codes
            self._called(frame)

    def _called(self, frame: FrameType | None) -> None:
        self._number += 1
        while frame is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
            frame = frame.f_back
        if frame is not None:
            self._places.append((self._number, frame.f_code, frame.f_lasti))
        self._waiting += 1
        if self._waiting >= self._limit:
            self._send()
            self._limit = min(2 * self._limit, BATCH)

    def place(self, number: int) -> str:
        """Where in the client's program a call was made, as ``file:line``; empty if that is no longer known."""
        for called, code, last in reversed(self._places):
            if called == number:
                lines = [line for first, stop, line in code.co_lines() if first <= last < stop]
                return f"{code.co_filename}:{lines[0] if lines and lines[0] else code.co_firstlineno}"
        return ""

    def record_upload(self, command: list[Any], data: memoryview) -> None:
        """Add an upload whose bytes travel in the frame; the command's offset is filled in.

        `data` must not change any more.
        """
        with self._lock:
            if self._body_bytes + data.nbytes > _BATCH_BYTES and self._codes:
                self._send()
            command.append(self._body_bytes)
            self._body.append(data)
            self._body_bytes += data.nbytes
            self.record(command)

    def flush(self) -> None:
        """Send what is recorded."""
        with self._lock:
            if self.dead or self.forgotten:
                self._free()
            if self._codes:
                self._send()

    def request(self, *request: Any, descriptors: int = 0) -> tuple[dict[str, Any], bytearray, list[int]]:
        """Send what is recorded and a request, and wait for its answer.

        Raises:
            SupernodeError: the earliest failure of an earlier call, or of this one.
        """
        with self._lock:
            if self.dead or self.forgotten:
                self._free()
            self._send(list(request))
            try:
                return self._answer(descriptors)
            except OSError as exc:
                raise self._lost(exc) from exc

    @property
    def calls(self) -> int:
        """The number of the call that was made last; `call` of an error is such a number."""
        return self._number

    @property
    def answers(self) -> int:
        """Answers so far: what was sent before the latest has been read by the sidecar."""
        return self._drained

    def close(self) -> None:
        """Send what is recorded and close; the sidecar frees everything of this client."""
        with self._lock:
            if not self._closed:
                with contextlib.suppress(EmulatorError):
                    self.flush()
                self._closed = "the connection was closed"
                self._socket.close()

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return bool(self._closed)

    def _free(self) -> None:
        if len(self.dead) == 1 and not self.forgotten:
            self._codes += (wire.FREE, 1, self.dead.popleft())
            return
        for code, gone in ((wire.FREE, self.dead), (wire.FORGET, self.forgotten)):
            handles = []
            while gone:
                handles.append(gone.popleft())
            if handles:
                self._codes += (code, len(handles), *handles)

    def _send(self, request: list[Any] | None = None) -> None:
        self.usable()
        codes = array.array("q", self._codes)
        if sys.byteorder == "big":
            codes.byteswap()
        header: dict[str, Any] = {"codes": len(codes)}
        if self._commands:
            header["commands"] = self._commands
        if request is not None:
            header["request"] = request
        body = [memoryview(codes.tobytes()), *self._body]
        self._codes, self._commands, self._body, self._body_bytes, self._waiting = [], [], [], 0, 0
        try:
            wire.send(self._socket, wire.encode(header, body))
        except OSError as exc:
            # The sidecar may have said why before it closed.
            with contextlib.suppress(OSError):
                self._socket.settimeout(1.0)
                self._answer(0)
            raise self._lost(exc) from exc

    def _answer(self, descriptors: int) -> tuple[dict[str, Any], bytearray, list[int]]:
        came = wire.receive(self._socket, descriptors=descriptors)
        if came is None:
            raise self._lost(ConnectionResetError("it closed the connection"))
        self._drained += 1
        self._limit = _FIRST_BATCH
        (header, body), got = came
        error = header.get("error")
        if error is None:
            return header, body, got
        for descriptor in got:
            os.close(descriptor)
        kind = _KINDS.get(str(error.get("type")), EmulatorError)
        if kind is ProtocolError:
            self._closed = str(error.get("message"))
            self._socket.close()
        message = str(error.get("message"))
        call = error.get("call")
        place = self.place(call) if call else ""
        raised = kind(f"{message} (called at {place})" if place else message)
        raised.call = call or 0
        raise raised

    def _lost(self, exc: OSError) -> EmulatorError:
        self._closed = f"the sidecar is gone ({exc})"
        self._socket.close()
        return EmulatorError(f"the emulator at {self.path} is gone: {exc}; all its arrays are lost")


_connected: Final[weakref.WeakSet[Connection]] = weakref.WeakSet()


def _forked() -> None:
    for connection in list(_connected):
        connection.forked()


os.register_at_fork(after_in_child=_forked)
