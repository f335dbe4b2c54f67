"""Frames over a socket pair: what is sent comes back; anything else is a ProtocolError, never another exception."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from supernode.emulator import wire
from supernode.errors import ProtocolError

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    right.settimeout(5)
    with left, right:
        yield left, right


def exchange(data: bytes, **limits: int) -> Any:
    left, right = socket.socketpair()
    right.settimeout(5)
    with left, right:
        left.sendall(data)
        left.shutdown(socket.SHUT_WR)
        return wire.receive(right, **limits)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4), st.lists(st.binary(max_size=50), max_size=3))
def test_what_is_sent_comes_back(header: dict[str, Any], parts: list[bytes]) -> None:
    came = exchange(b"".join(bytes(buffer) for buffer in wire.encode(header, parts)))
    assert came is not None
    assert came[0].header == header
    assert came[0].body == b"".join(parts)


PREFIX = struct.Struct("<4sIQ")


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda text: PREFIX.pack(b"SNE1", len(text), 0) + text))
@example(b"SNE1" + b"\xff" * 12)
@example(PREFIX.pack(b"SNE1", 4, 0) + b"null")
@example(PREFIX.pack(b"SNE1", 6000, 0) + b"[" * 6000)
@example(PREFIX.pack(b"SNE1", 3, 9) + b"{} " + b"12345678")
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    try:
        came = exchange(data)
    except ProtocolError:
        return
    # Only nothing at all, or a frame by chance.
    assert came is None if not data else isinstance(came[0].header, dict)


@given(st.integers(0, 60))
def test_a_truncated_frame_is_said_to_be_one(cut: int) -> None:
    data = b"".join(bytes(buffer) for buffer in wire.encode({"a": 1}, [b"x" * 40]))
    if cut == 0:
        assert exchange(b"") is None
    elif cut >= len(data):
        assert exchange(data) is not None
    else:
        with pytest.raises(ProtocolError, match="in the middle of a frame"):
            exchange(data[:cut])


def test_sizes_are_refused_before_they_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    for header, body in ((wire.MAX_HEADER + 1, 0), (2, wire.MAX_BODY + 1), (2, 1 << 62)):
        with pytest.raises(ProtocolError, match="was announced; allowed are"):
            exchange(PREFIX.pack(b"SNE1", header, body) + b"{}")
    with pytest.raises(ProtocolError, match="allowed are 10 and 0"):
        exchange(b"".join(wire.encode({"long": "header"})), max_header=10, max_body=0)
    monkeypatch.setattr(wire, "MAX_BODY", 3)
    with pytest.raises(ProtocolError, match="too large"):
        wire.encode({}, [b"1234"])


def test_descriptors_travel_with_a_frame(pair: tuple[socket.socket, socket.socket]) -> None:
    reading, writing = os.pipe()
    wire.send(pair[0], wire.encode({"a": 1}, [b"xyz"]), [writing])
    os.close(writing)
    came = wire.receive(pair[1], descriptors=1)
    assert came is not None
    (frame, (descriptor,)) = came
    assert (frame.header, bytes(frame.body)) == ({"a": 1}, b"xyz")
    os.write(descriptor, b"!")
    os.close(descriptor)
    assert os.read(reading, 9) == b"!"
    os.close(reading)


def test_descriptors_nobody_asked_for_are_dropped(pair: tuple[socket.socket, socket.socket]) -> None:
    reading, writing = os.pipe()
    wire.send(pair[0], wire.encode({}), [writing])
    os.close(writing)
    assert wire.receive(pair[1]) is not None
    assert os.read(reading, 1) == b""  # no copy of the writing end is left
    os.close(reading)
