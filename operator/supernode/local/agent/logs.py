"""Container logs: one file per run of a container, each line with its time, rotated when large.

In: the bytes that a container writes. Out: files, and the lines that a `kubectl logs` asks for. A stored line is
``<RFC 3339 time with nanoseconds> F <text>``; P instead of F marks a piece without end of line. Not here: HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

# As a kubelet's containerLogMaxSize; one older file of each run is kept.
_ROTATE_BYTES: Final = 10 * 1024 * 1024
_READ_BYTES: Final = 1 << 16
# Longest wait of a follower for news, seconds; it normally is woken at once.
_FOLLOW_SECONDS: Final = 1.0


class LogWriter:
    """Writes one run's log. `closed` says that no more will come; `changed` is set at each write.

    Args:
        path: the file; its directory is made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.closed = False
        self.changed = asyncio.Event()
        self._file = path.open("ab", buffering=0)
        self._size = 0
        self._tail: deque[bytes] = deque(maxlen=80)
        self._partial = b""

    def write(self, data: bytes) -> None:
        """Store a chunk as it came from the container."""
        stamp = _stamp()
        *lines, rest = (self._partial + data).split(b"\n")
        self._partial = b""
        stored = [b"%s F %s\n" % (stamp, line) for line in lines]
        self._tail.extend(line + b"\n" for line in lines)
        if len(rest) >= _READ_BYTES:
            stored.append(b"%s P %s\n" % (stamp, rest))
        else:
            self._partial = rest
        self._store(b"".join(stored))

    def close(self) -> None:
        """Store what is left of an unfinished line; the log is complete."""
        if self._partial:
            self._tail.append(self._partial)
            self._store(b"%s P %s\n" % (_stamp(), self._partial))
            self._partial = b""
        self.closed = True
        self._file.close()
        self._wake()

    def tail(self, limit: int) -> str:
        """The last lines, at most `limit` bytes (for termination messages)."""
        return b"".join(self._tail)[-limit:].decode(errors="replace")

    def _store(self, data: bytes) -> None:
        if not data:
            return
        if self._size + len(data) > _ROTATE_BYTES and self._size:
            self._file.close()
            self.path.replace(rotated(self.path))
            self._file = self.path.open("ab", buffering=0)
            self._size = 0
        self._file.write(data)
        self._size += len(data)
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


def rotated(path: Path) -> Path:
    """Where the older part of a log goes."""
    return path.with_suffix(".old")


def _stamp() -> bytes:
    nanoseconds = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanoseconds // 10**9))
    return f"{seconds}.{nanoseconds % 10**9:09d}Z".encode()


class LogPump(asyncio.Protocol):
    """Moves a container's output from a pipe into its log."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Store a chunk."""
        self._writer.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """All holders of the pipe's other end are gone."""
        self._writer.close()
        if not self.finished.done():
            self.finished.set_result(None)


async def open_pipe(writer: LogWriter) -> tuple[int, asyncio.ReadTransport, LogPump]:
    """A pipe into the log: the descriptor to give to a process (close it afterwards), and the reading side."""
    reading, writing = os.pipe()
    try:
        source = os.fdopen(reading, "rb", buffering=0)
        transport, pump = await asyncio.get_running_loop().connect_read_pipe(lambda: LogPump(writer), source)
    except BaseException:
        os.close(writing)
        raise
    return writing, transport, pump


@dataclass(frozen=True)
class LogQuery:
    """What a reader wants, in the words of the kubelet's endpoint."""

    follow: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None


async def read_log(path: Path, query: LogQuery, writer: LogWriter | None) -> AsyncIterator[bytes]:
    """The wanted lines; with `follow`, new ones until the run ends (`writer` is the run's, None if it is over)."""
    left = query.limit_bytes if query.limit_bytes is not None else 1 << 62
    position = _size(path)
    for line in _select(path, query, position):
        left -= len(line)
        yield line if left >= 0 else line[:left]
        if left <= 0:
            return
    held = b""
    while query.follow and writer is not None:
        changed, over = writer.changed, writer.closed
        data, position = await asyncio.to_thread(_read_from, path, position)
        *lines, held = (held + data).split(b"\n")
        text = b"".join(_present(line, query) for line in lines)
        if text:
            left -= len(text)
            yield text if left >= 0 else text[:left]
            if left <= 0:
                return
        elif over:
            return
        if not data and not over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FOLLOW_SECONDS):
                    await changed.wait()


def _select(path: Path, query: LogQuery, end: int) -> Iterator[bytes]:
    lines = _stored(path, end)
    if query.since is not None:
        oldest = query.since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").encode()
        lines = (line for line in lines if line.split(b" ", 1)[0] >= oldest)
    if query.tail_lines is not None:
        lines = iter(deque(lines, maxlen=query.tail_lines))
    for line in lines:
        yield _present(line, query)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _stored(path: Path, end: int) -> Iterator[bytes]:
    for part, limit in ((rotated(path), None), (path, end)):
        if not part.exists():
            continue
        with part.open("rb") as file:
            for line in file:
                yield line.rstrip(b"\n")
                if limit is not None and file.tell() >= limit:
                    break


def _present(line: bytes, query: LogQuery) -> bytes:
    if not line:
        return b""
    stamp, kind, text = line.split(b" ", 2)
    shown = b"%s %s" % (stamp, text) if query.timestamps else text
    return shown + (b"\n" if kind == b"F" else b"")


def _read_from(path: Path, position: int) -> tuple[bytes, int]:
    """What was written after `position`; a rotated log is read to its end first."""
    size = path.stat().st_size
    if size < position:
        old = rotated(path)
        with old.open("rb") as file:
            file.seek(position)
            rest = file.read()
        return rest + path.read_bytes(), path.stat().st_size
    with path.open("rb") as file:
        file.seek(position)
        data = file.read(1 << 20)
    return data, position + len(data)
