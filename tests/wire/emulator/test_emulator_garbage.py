"""A live sidecar against hostile clients: garbage, half frames, wrong versions, bad commands, other clients' handles.

After each, the sidecar still serves a well-behaved client, and nothing stays allocated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.wire.emulator.hostile import PREFIX, frame, live_sidecar, say, still_serves

from supernode.emulator.client.connection import Connection
from supernode.emulator.kernels import TABLE
from supernode.emulator.server import Server
from supernode.errors import EmulatorError, ProtocolError, SupernodeError


@pytest.fixture(scope="module")
def live() -> Iterator[Server]:
    with live_sidecar() as server:
        yield server


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 64,
        b"SNE1",
        PREFIX.pack(b"SNE1", 1 << 31, 1 << 62),
        PREFIX.pack(b"SNE1", 100, 0) + b"{}",
        frame([]),
        frame({"hello": 999}),
        frame({"hello": [[[]]]}),
        frame({}),
        frame({"hello": 2, "pad": "x" * 5000}),
        frame({"hello": 2}, b"body"),
        os.urandom(3000),
    ],
)
def test_strangers(live: Server, data: bytes) -> None:
    came = say(live, data, hello=False)
    if data:
        assert b"ProtocolError" in came or came == b""
    still_serves(live)


def test_another_version_is_told_so(live: Server) -> None:
    came = say(live, frame({"hello": 999}), hello=False)
    assert b"speaks version 999 of the protocol, the sidecar 2" in came


plain = st.none() | st.booleans() | st.integers(-3, 9) | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
handles = st.integers(0, 4)
numbers = st.lists(st.integers(0, 3), max_size=3)
kernels = st.sampled_from(sorted(TABLE.kernels))
dtypes = st.sampled_from(["f32", "bf16", "bool", "i8", "f99"])
attributes = st.dictionaries(
    st.sampled_from(["shape", "value", "dtype", "axis", "stop", "seed", "sections"]),
    plain | numbers | dtypes,
    max_size=3,
)
some = st.lists(handles, max_size=3)
# Commands that are nearly right reach deeper than noise does.
commands = st.one_of(
    st.tuples(st.sampled_from(["launch", "into"]), handles, kernels, some, some, attributes),
    st.tuples(st.just("upload"), handles, handles, dtypes, numbers, st.integers(-2, 1), st.integers(-1, 40)),
    st.tuples(st.just("view"), handles, handles, numbers, st.integers(-1, 9)),
    st.tuples(st.just("move"), handles, handles, handles),
    st.tuples(st.just("free"), st.lists(handles, max_size=3)),
    st.tuples(st.just("stream"), handles, st.integers(-1, 3)),
    st.tuples(st.just("close"), handles),
    st.tuples(st.sampled_from(["record", "wait"]), handles, handles),
    st.tuples(st.just("forget"), st.lists(handles, max_size=3)),
    st.tuples(
        st.just("collective"), handles, st.sampled_from(["all_reduce", "barrier", "x"]), st.just([0]),
        st.integers(0, 2), dtypes, st.integers(-1, 9), st.sampled_from(["sum", "max", "y"]),
        st.integers(-1, 2), st.just(0),
        st.none() | handles, st.none() | handles, st.none() | numbers,
    ),
    st.tuples(st.just("report"), values),
    st.lists(values, max_size=6),
    values,
)  # fmt: skip
requests = st.one_of(
    st.tuples(st.just("read"), handles, st.integers(-2, 1), st.integers(-1, 9)),
    st.tuples(st.just("synchronize"), st.none() | st.lists(handles, max_size=2)),
    st.tuples(st.sampled_from(["event", "memory", "discard"]), handles),
    st.tuples(st.just("segment"), handles, st.integers(-1, 9000)),
    st.just(("drain",)),
    values,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(st.lists(commands, max_size=8), requests, st.binary(max_size=40)), max_size=4))
@example([([["launch", 0, "add", [[]], [1], {}]], ["drain"], b"")])
@example([([["upload", 0, 1, "f32", [1 << 40], -1, 0]], ["read", 1, -1, 0], b"")])
@example([([["free", 7]], ["drain"], b"")])
@example([([], [[]], b"")])
@example([([["launch", 0, "full", [], [1], {"shape": [1 << 17], "value": 1.0}]] * 5, ["synchronize", None], b"")])
def test_wrong_commands_never_break_the_sidecar(live: Server, conversation: list[tuple[Any, Any, bytes]]) -> None:
    data = b"".join(frame({"commands": batch, "request": request}, body) for batch, request, body in conversation)
    came = say(live, data)
    assert b"fault of the sidecar" not in came
    assert b"has a fault" not in came
    still_serves(live)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_noise_after_the_hello(live: Server, data: bytes) -> None:
    say(live, data)
    still_serves(live)


def refused(server: Server, command: list[Any] | None = None, request: list[Any] | None = None) -> str:
    connection = Connection(server.config.socket, timeout=10)
    try:
        if command is not None:
            connection.record(command)
        with pytest.raises(SupernodeError) as caught:
            connection.request(*(request or ["synchronize", None]))
        return f"{type(caught.value).__name__}: {caught.value}"
    finally:
        connection.close()


def test_each_refusal_has_its_words(live: Server) -> None:
    assert "ProtocolError: command 1 is not understood" in refused(live, ["launch"])
    assert "ProtocolError: command 1 is not understood" in refused(live, ["open", "/etc/passwd"])
    assert "InvalidHandleError: call 1, free() on device 0" in refused(live, ["free", [5]])
    assert "InvalidHandleError" in refused(live, ["launch", 99, "full", [], [1], {"shape": [1], "value": 1}])
    assert "InvalidHandleError: array 5 does not exist" in refused(live, None, ["read", 5, -1, 0])
    assert "ProtocolError: no such request" in refused(live, None, ["exec", "true"])
    assert "InvalidHandleError: there is no device 7" in refused(live, None, ["memory", 7])
    assert "ProtocolError" in refused(live, None, ["segment", 0, 1 << 60])
    assert "KernelValueError: call 1" in refused(live, ["upload", 0, 1, "f32", [1 << 50], -1, 0])
    assert "is not inside a body of 0 bytes" in refused(live, ["upload", 0, 1, "f32", [4], -1, 0])
    still_serves(live)


def test_a_handle_cannot_be_taken_twice(live: Server) -> None:
    make = ["launch", 0, "full", [], [1], {"shape": [1], "value": 1}]
    connection = Connection(live.config.socket, timeout=10)
    connection.record(make)
    connection.record(make)
    with pytest.raises(ProtocolError, match="not a new handle"):
        connection.request("drain")
    with pytest.raises(EmulatorError, match="cannot be used"):
        connection.request("drain")
    still_serves(live)


def test_a_shrunk_segment_is_an_error_not_a_signal(live: Server) -> None:
    connection = Connection(live.config.socket, timeout=10)
    _, _, (descriptor,) = connection.request("segment", 0, 4096, descriptors=1)
    os.ftruncate(descriptor, 16)
    os.close(descriptor)
    connection.record(["upload", 0, 1, "f32", [512], 0, 0])
    with pytest.raises(ProtocolError, match="the client has shrunk it"):
        connection.request("synchronize", None)
    still_serves(live)


@pytest.mark.parametrize("offset", [-1, 1, 4097, 1 << 62])
def test_copies_stay_inside_their_segment(live: Server, offset: int) -> None:
    words = rf"4096 bytes at {offset} are not inside segment 0"
    for command, request in (
        (["launch", 0, "full", [], [1], {"shape": [1024], "value": 1.0}], ["read", 1, 0, offset]),
        (["upload", 0, 1, "f32", [1024], 0, offset], ["drain"]),
    ):
        connection = Connection(live.config.socket, timeout=10)
        _, _, (descriptor,) = connection.request("segment", 0, 4096, descriptors=1)
        connection.record(command)
        with pytest.raises(ProtocolError, match=words):
            connection.request(*request)
        assert os.fstat(descriptor).st_size == 4096
        os.close(descriptor)
        connection.close()


def test_segments_leave_no_file(live: Server) -> None:
    connection = Connection(live.config.socket, timeout=10)
    _, _, (descriptor,) = connection.request("segment", 0, 4096, descriptors=1)
    assert os.fstat(descriptor).st_mode & 0o777 == 0o600
    assert os.fstat(descriptor).st_nlink == 0
    assert [path.name for path in live.config.socket.parent.iterdir()] == ["e.sock"]
    os.close(descriptor)
    connection.close()


def test_the_socket_is_private(live: Server) -> None:
    assert live.config.socket.stat().st_mode & 0o777 == 0o600
