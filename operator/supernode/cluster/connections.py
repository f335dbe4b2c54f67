"""Plain HTTP/1.1 requests to one server over connections that stay open, with as little work per request as possible.

Flows in: requests as bytes. Flows out: answers as bytes, whatever their status. A gang of a thousand workers is a
thousand requests in a second, beside an API server on the same cores: a general HTTP client costs three times as much.
By RFC 9112: answers with a length, in chunks, or up to the connection's end; nothing is ever compressed, because
nothing asks for it.

Not here: proxies (aiohttp does those), streams without an end (watches, logs), what an answer means.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

# Bytes that the head of an answer may have.
LONGEST_HEAD: Final = 1 << 16
# Seconds to connect, TLS included.
CONNECT_TIMEOUT: Final = 10.0
# Seconds between attempts at the addresses of one name (RFC 8305 recommends 0.25).
NEXT_ADDRESS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `retry_after`: the header of that name."""

    status: int
    body: bytes
    retry_after: str | None = None


class Connections:
    """The open connections to one server.

    Args:
        url: of the server, `http` or `https`; its path is left out.
        context: TLS, for `https`.
        server_name: that the certificate must have, where it is not the host's.
        limit: connections at a time; more requests than that wait for their turn.
    """

    def __init__(
        self, url: str, *, context: ssl.SSLContext | None = None, server_name: str | None = None, limit: int = 64
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._context = context if parts.scheme == "https" else None
        self._server_name = server_name
        self._limit = limit
        self._name = f"Host: {parts.netloc.rpartition('@')[2]}\r\n".encode()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening = 0
        self._turns: deque[asyncio.Future[None]] = deque()

    async def request(self, method: str, target: str, headers: bytes, body: bytes | None) -> Answer:
        """One request and its answer.

        Args:
            method: such as `GET`.
            target: path and query, encoded.
            headers: lines that each end with CR LF; `Host` and `Content-Length` come from here.
            body: what to send, if anything.

        Raises:
            OSError: no connection, or it broke before the answer was whole.
            ValueError: an answer that is not HTTP.
        """
        length = b"" if body is None and method == "GET" else b"Content-Length: %d\r\n" % len(body or b"")
        message = b"".join(
            (f"{method} {target} HTTP/1.1\r\n".encode(), self._name, headers, length, b"\r\n", body or b"")
        )
        connection = await self._connection()
        try:
            answer = await connection.exchange(message)
        except BaseException:
            # Also when we are cancelled: the answer to what was sent must not be taken for that to the next request.
            self._drop(connection)
            raise
        if connection.reusable:
            self._idle.append(connection)
            self._next_turn()
        else:
            self._drop(connection)
        return answer

    def close(self) -> None:
        """Close all connections, at once."""
        for connection in list(self._open):
            self._drop(connection)

    async def _connection(self) -> _Connection:
        """One that nobody uses; waits while there are as many as there may be."""
        while True:
            while self._idle:
                # The one used last: it is the least likely to have been closed by the server meanwhile.
                connection = self._idle.pop()
                if connection.reusable:
                    return connection
                self._drop(connection)
            if len(self._open) + self._opening < self._limit:
                return await self._connect()
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next_turn()  # it was ours, and we are gone: somebody else's then
                raise

    async def _connect(self) -> _Connection:
        self._opening += 1
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection,
                    self._host,
                    self._port,
                    ssl=self._context,
                    server_hostname=self._server_name if self._context is not None else None,
                    happy_eyeballs_delay=NEXT_ADDRESS,
                )
            self._open.add(connection)
            return connection
        except BaseException:
            self._next_turn()
            raise
        finally:
            self._opening -= 1

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        connection.close()
        self._next_turn()

    def _next_turn(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class _Connection(asyncio.Protocol):
    """One request at a time, and its answer as it comes."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._lost = False
        self._reset()

    def _reset(self) -> None:
        self._status = 0
        self._retry_after: str | None = None
        self._length: int | None = None
        self._chunked = False
        self._last = False
        self._chunks: list[bytes] = []

    @property
    def reusable(self) -> bool:
        """Whether another request can be sent on it."""
        return not (self._lost or self._last or self._transport is None or self._transport.is_closing())

    def exchange(self, message: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future is its answer."""
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.reusable:
            waiter.set_exception(ConnectionResetError("the connection was closed"))
            return waiter
        self._waiter = waiter
        self._transport.write(message)
        return waiter

    def close(self) -> None:
        """No answer is waited for any more."""
        self._waiter = None
        if self._transport is not None:
            self._transport.close()

    # --- asyncio's calls ---------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            if self._waiter is None:
                raise ValueError("an answer that nobody asked for")
            while not self._status:
                if not self._read_head():
                    return
            if self._read_body():
                self._finish()
        except ValueError as exc:
            self._fail(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._waiter is not None and self._status and self._length is None and not self._chunked and exc is None:
            self._chunks = [bytes(self._buffer)]
            self._finish()  # without a length the end of the connection is the end of the answer
        else:
            self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("the server closed the connection"))

    # --- reading -----------------------------------------------------------------------------------------------------
    def _read_head(self) -> bool:
        """Read the head, once all of it is there; an interim answer (1xx) is passed over."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > LONGEST_HEAD:
                raise ValueError(f"the head of the answer has more than {LONGEST_HEAD} bytes")
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
            raise ValueError(f"not an HTTP answer: {first[:80]!r}")
        status = int(rest[:3])
        if 100 <= status < 200:
            return True
        self._status, self._last = status, version != "HTTP/1.1"
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            if name == "content-length":
                if not value.isdecimal():
                    raise ValueError(f"a content length of {value[:80]!r}")
                self._length = int(value)
            elif name == "transfer-encoding":
                self._chunked = value.lower() == "chunked"
                if not self._chunked:
                    raise ValueError(f"transfer encoding {value[:80]!r} was not asked for")
            elif name == "connection" and value.lower() == "close":
                self._last = True
            elif name == "retry-after":
                self._retry_after = value
        if status in (204, 304):
            self._length, self._chunked = 0, False
        return True

    def _read_body(self) -> bool:
        """Take what is there of the body; True when it is whole."""
        if self._chunked:
            return self._read_chunks()
        if self._length is None:
            self._last = True
            return False
        if len(self._buffer) < self._length:
            return False
        self._chunks.append(bytes(self._buffer[: self._length]))
        del self._buffer[: self._length]
        return True

    def _read_chunks(self) -> bool:
        buffer, at = self._buffer, 0
        try:
            while True:
                line = buffer.find(b"\r\n", at)
                if line < 0:
                    if len(buffer) - at > LONGEST_HEAD:
                        raise ValueError("a chunk without a size")
                    return False
                size = int(bytes(buffer[at:line]).partition(b";")[0], 16)
                if size < 0:
                    raise ValueError(f"a chunk of {size} bytes")
                if size == 0:
                    # Trailers may follow, each a line; an empty line ends it all.
                    end = line + 2 if buffer[line + 2 : line + 4] == b"\r\n" else buffer.find(b"\r\n\r\n", line + 2) + 2
                    if end < line + 2:
                        return False
                    at = end + 2
                    return True
                begin = line + 2
                if len(buffer) < begin + size + 2:
                    return False
                if buffer[begin + size : begin + size + 2] != b"\r\n":
                    raise ValueError("a chunk longer than it says")
                self._chunks.append(bytes(buffer[begin : begin + size]))
                at = begin + size + 2
        finally:
            del buffer[:at]

    def _finish(self) -> None:
        waiter, answer = self._waiter, Answer(self._status, b"".join(self._chunks), self._retry_after)
        last = self._last or bool(self._buffer)
        self._waiter = None
        self._reset()
        self._last = last
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def _fail(self, exc: Exception) -> None:
        waiter, self._waiter, self._last = self._waiter, None, True
        if waiter is not None and not waiter.done():
            waiter.set_exception(exc)
        if self._transport is not None:
            self._transport.close()
