"""Requests over open connections, against a server that cuts its answers anywhere, ends them in every way, or lies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.cluster.connections import LONGEST_HEAD, Answer, Connections

# What the server does with the n-th request: gives the pieces of its answer; None closes the connection.
Script = Callable[[int, bytes], list[bytes | None]]


@contextlib.asynccontextmanager
async def server(script: Script) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answers by the script; gives its URL, and the requests that came, by connection: `connection number, body`."""
    seen: list[bytes] = []
    connections = 0
    serving: set[asyncio.Task[object]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = connections
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((x for x in head.split(b"\r\n") if x.startswith(b"Content-Length: ")), b": 0")
                body = await reader.readexactly(int(length.partition(b": ")[2]))
                seen.append(b"%d " % number + head.split(b"\r\n")[0] + b" " + body)
                for piece in script(len(seen) - 1, body):
                    if piece is None:
                        await _closed(writer)
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        await _closed(writer)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", seen
    finally:
        listening.close()
        await asyncio.wait_for(asyncio.gather(*serving), 20)
        await listening.wait_closed()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def sized(body: bytes, status: int = 200, *lines: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *lines])
    return head.encode() + b"\r\n\r\n" + body


def chunked(body: bytes, sizes: list[int], trailer: bytes = b"") -> bytes:
    parts, at = [], 0
    for size in [*sizes, len(body)]:
        part = body[at : at + size]
        at += size
        if part:
            parts.append(b"%x;name=value\r\n" % len(part) + part + b"\r\n")
    return b"HTTP/1.1 201 X\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n" + trailer + b"\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes | None]:
    places = sorted({place % len(data) for place in places} - {0})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


async def ask(connections: Connections, body: bytes | None = None, method: str = "POST") -> Answer:
    async with asyncio.timeout(20):
        return await connections.request(method, "/path?x=1", b"A: b\r\n", body)


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(
        st.tuples(
            # Bodies that look like the end of a chunked answer, too.
            st.lists(st.sampled_from([b"0\r\n\r\n", b"\r\n", b"abc", b"5\r\n", bytes(300)]), max_size=6),
            st.lists(st.integers(1, 400), max_size=5),
            st.lists(st.integers(0, 3000), max_size=8),
            st.sampled_from(["sized", "chunked", "trailer", "interim"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_an_answer_is_the_same_however_it_is_framed_and_cut(
    answers: list[tuple[list[bytes], list[int], list[int], str]],
) -> None:
    bodies = [b"".join(parts) for parts, *_ in answers]

    def script(index: int, _: bytes) -> list[bytes | None]:
        body, (_, sizes, places, way) = bodies[index], answers[index]
        if way == "sized":
            return cut(sized(body, 201), places)
        if way == "interim":
            return cut(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + sized(body, 201), places)
        return cut(chunked(body, sizes, b"Checksum: 1\r\n" if way == "trailer" else b""), places)

    async def run() -> None:
        async with server(script) as (url, seen):
            connections = Connections(url)
            for body in bodies:
                assert await ask(connections, body) == Answer(201, body)
            connections.close()
        # All over one connection, and each request as it was sent.
        assert seen == [b"1 POST /path?x=1 HTTP/1.1 " + body for body in bodies]

    asyncio.run(run())


async def test_a_connection_that_the_server_ends_is_not_used_again() -> None:
    bare = b"HTTP/1.1 200 X\r\n\r\nuntil the end"
    old = b"HTTP/1.0 200 X\r\nContent-Length: 3\r\n\r\nold"
    pieces: list[list[bytes | None]] = [
        [sized(b"bye", 429, "Retry-After: 7", "Connection: close"), None],
        [bare, None],
        [old],
        [sized(b"", 204)],
        [sized(b"last")],
    ]
    async with server(lambda index, _: pieces[index]) as (url, seen):
        connections = Connections(url)
        assert await ask(connections) == Answer(429, b"bye", "7")
        assert await ask(connections) == Answer(200, b"until the end")
        assert await ask(connections) == Answer(200, b"old")
        assert await ask(connections) == Answer(204, b"")
        assert await ask(connections, method="GET") == Answer(200, b"last")
        connections.close()
    assert [line[:1] for line in seen] == [b"1", b"2", b"3", b"4", b"4"]


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([None], OSError),
        ([b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nshort", None], OSError),
        ([b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", None], OSError),
        ([b"SSH-2.0-x\r\n\r\n"], ValueError),
        ([b"HTTP/1.1 abc\r\n\r\n"], ValueError),
        ([b"HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n"], ValueError),
        ([b"HTTP/1.1 200 X\r\nTransfer-Encoding: gzip\r\n\r\n"], ValueError),
        ([b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], ValueError),
        ([b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n"], ValueError),
        ([b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nabc\r\n"], ValueError),
        ([b"HTTP/1.1 200 X\r\nA: " + bytes(LONGEST_HEAD)], ValueError),
    ],
)
async def test_what_is_no_whole_answer_is_an_error(pieces: list[bytes | None], error: type[Exception]) -> None:
    async with server(lambda index, _: pieces if index == 0 else [sized(b"well")]) as (url, seen):
        connections = Connections(url)
        with pytest.raises(error):
            await ask(connections)
        assert await ask(connections) == Answer(200, b"well")
        connections.close()
    assert [line[:1] for line in seen] == [b"1", b"2"]


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async with server(lambda i, _: [sized(b"one") + sized(b"more")] if i == 0 else [sized(b"two")]) as (url, seen):
        connections = Connections(url)
        assert (await ask(connections)).body == b"one"
        assert (await ask(connections)).body == b"two"
        connections.close()
    assert [line[:1] for line in seen] == [b"1", b"2"]


async def test_an_answer_that_nobody_waits_for_any_more_is_nobody_elses() -> None:
    held = asyncio.Event()

    def script(index: int, _: bytes) -> list[bytes | None]:
        held.set()
        return [] if index == 0 else [sized(b"second")]

    async with server(script) as (url, _):
        connections = Connections(url, limit=1)
        first = asyncio.create_task(ask(connections, b"one"))
        await held.wait()
        second = asyncio.create_task(ask(connections, b"two"))
        third = asyncio.create_task(ask(connections, b"three"))
        await asyncio.sleep(0)
        third.cancel()
        first.cancel()
        assert (await second).body == b"second"
        assert (await ask(connections)).body == b"second"
        connections.close()


async def test_no_more_connections_are_open_than_allowed_and_all_requests_are_answered() -> None:
    async with server(lambda index, body: [sized(body)]) as (url, seen):
        connections = Connections(url, limit=3)
        answers = await asyncio.gather(*(ask(connections, b"%d" % number) for number in range(40)))
        assert [answer.body for answer in answers] == [b"%d" % number for number in range(40)]
        connections.close()
    assert {line[:2] for line in seen} <= {b"1 ", b"2 ", b"3 "}


async def test_nobody_waits_for_ever_where_no_connection_can_be_made() -> None:
    async with server(lambda index, body: [sized(body)]) as (url, _):
        pass
    connections = Connections(url, limit=1)
    results = await asyncio.gather(*(ask(connections) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, OSError) for result in results)
