"""The client's end of the socket: commands are recorded and sent in batches, requests wait for an answer.

Flows in: commands and requests as plain lists. Flows out: frames; replies; errors rebuilt as types of
`supernode.errors`. May be used from several threads. Not here: what the commands mean (`devices`, `arrays`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections import deque
from pathlib import Path
from typing import Any, Final

from supernode import errors
from supernode.emulator import wire
from supernode.errors import EmulatorError, ProtocolError, SupernodeError

#: Commands and bytes that are recorded before a batch is sent.
BATCH: Final = 64
_BATCH_BYTES: Final = 4 << 20
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
        self._body: list[memoryview] = []
        self._body_bytes = 0
        self._number = 0
        self._handles = itertools.count(1)
        self._closed = ""
        self._drained = 0  # counts answers: whatever was sent before one has been read
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
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

    def handle(self) -> int:
        """A new number for an array, stream or event."""
        return next(self._handles)

    def record(self, command: list[Any]) -> int:
        """Add a command to the batch; gives its number, the one that error messages name."""
        with self._lock:
            if self.dead or self.forgotten:
                self._free()
            self._commands.append(command)
            self._number += 1
            number = self._number
            if len(self._commands) >= BATCH:
                self._send()
        return number

    def record_upload(self, command: list[Any], data: memoryview) -> None:
        """Add an upload whose bytes travel in the frame; the command's offset is filled in.

        `data` must not change any more.
        """
        with self._lock:
            if self._body_bytes + data.nbytes > _BATCH_BYTES and self._commands:
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
            if self._commands:
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
        for name, gone in (("free", self.dead), ("forget", self.forgotten)):
            handles = []
            while gone:
                handles.append(gone.popleft())
            if handles:
                self._commands.append([name, handles])
                self._number += 1

    def _send(self, request: list[Any] | None = None) -> None:
        if self._closed:
            raise EmulatorError(f"the emulator at {self.path} cannot be used: {self._closed}")
        header: dict[str, Any] = {"commands": self._commands}
        if request is not None:
            header["request"] = request
        body, self._commands, self._body, self._body_bytes = self._body, [], [], 0
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
        raise kind(str(error.get("message")))

    def _lost(self, exc: OSError) -> EmulatorError:
        self._closed = f"the sidecar is gone ({exc})"
        self._socket.close()
        return EmulatorError(f"the emulator at {self.path} is gone: {exc}; all its arrays are lost")
