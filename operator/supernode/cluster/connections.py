"""Plain HTTP/1.1 requests to one server over connections that stay open, with as little work per request as possible.

Flows in: requests as bytes. Flows out: answers as bytes, whatever their status. A gang of a thousand workers is a
thousand requests in a second, beside an API server on the same cores: a general HTTP client costs three times as much.
httptools reads the answers (RFC 9112); nothing is ever compressed, because nothing asks for it.

Not here: proxies (aiohttp does those), streams without an end (watches, logs), what an answer means.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

# Bytes that the head of an answer may have.
LONGEST_HEAD: Final = 1 << 16
# Seconds to connect, TLS included.
CONNECT_TIMEOUT: Final = 10.0
# Seconds for which a TLS session is taken up: then the server's certificate is verified again.
SESSION_SECONDS: Final = 600.0
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
        self._tls = _Tls(context) if context is not None and parts.scheme == "https" else None
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
        if self._tls is not None and connection.answers == 1:
            self._tls.remember(connection.secured)
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
                    ssl=cast(ssl.SSLContext | None, self._tls),
                    server_hostname=self._server_name if self._tls is not None else None,
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


class _Tls:
    """TLS that takes up the session of an earlier connection (RFC 8446, 2.2): nothing is signed and verified again.

    A gang's pods go over two dozen connections, and each whole handshake costs the server as much as a pod. asyncio has
    no way to name a session, but all that it wants of a context is this method.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._session: ssl.SSLSession | None = None
        self._until = 0.0

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
    ) -> ssl.SSLObject:
        """As the context's own."""
        session = self._session if time.monotonic() < self._until else None
        return self._context.wrap_bio(
            incoming, outgoing, server_side=server_side, server_hostname=server_hostname, session=session
        )

    def remember(self, secured: ssl.SSLObject | None) -> None:
        """Keep the session of a connection on which an answer has come: the server sends its ticket with that."""
        if secured is not None and not secured.session_reused and secured.session is not None:
            self._session, self._until = secured.session, time.monotonic() + SESSION_SECONDS


class _Connection(asyncio.Protocol):
    """One request at a time, and its answer as it comes; httptools reads it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._last = False
        self.answers = 0
        self._reset()

    def _reset(self) -> None:
        self._reading_body = False
        self._head_bytes = 0
        self._framed = False
        self._retry_after: str | None = None
        self._body: list[bytes] = []

    @property
    def secured(self) -> ssl.SSLObject | None:
        """Its TLS."""
        if self._transport is None:
            return None
        found: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        return found

    @property
    def reusable(self) -> bool:
        """Whether another request can be sent on it."""
        return not (self._last or self._transport is None or self._transport.is_closing())

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
        if not self._reading_body:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            # What a callback of ours raised stands behind it.
            self._fail(ValueError(f"not an HTTP answer: {exc.__context__ or exc}"))
            return
        if not self._reading_body and self._head_bytes > LONGEST_HEAD:
            self._fail(ValueError(f"the head of the answer has more than {LONGEST_HEAD} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and self._reading_body and not self._framed and exc is None:
            self._finish()  # without a length the end of the connection is the end of the answer
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("the server closed the connection"))

    # --- httptools' calls --------------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._waiter is None:
            self._last = True  # nobody asked for this answer: who asks next must not get it

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"retry-after":
            self._retry_after = value.decode("latin-1")
        elif name == b"content-length":
            self._framed = True
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise ValueError(f"transfer encoding {value[:80]!r} was not asked for")
            self._framed = True

    def on_headers_complete(self) -> None:
        self._reading_body = True

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if 100 <= self._parser.get_status_code() < 200:
            self._reset()  # an interim answer: the real one follows
        else:
            self._finish()

    # --- the end -----------------------------------------------------------------------------------------------------
    def _finish(self) -> None:
        waiter, self._waiter = self._waiter, None
        self.answers += 1
        answer = Answer(self._parser.get_status_code(), b"".join(self._body), self._retry_after)
        self._last = self._last or not self._parser.should_keep_alive()
        self._reset()
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def _fail(self, exc: Exception) -> None:
        waiter, self._waiter, self._last = self._waiter, None, True
        if waiter is not None and not waiter.done():
            waiter.set_exception(exc)
        if self._transport is not None:
            self._transport.close()
