"""Frames on the emulator's Unix socket: a prefix, a JSON header, raw bytes. Never pickle, never a path.

    prefix   4 bytes magic "SNE1", u32 bytes of the header, u64 bytes of the body (little endian)
    header   a JSON object
    body     bytes that the header refers to by offset

Flows in and out: Python values and byte buffers. Sizes are checked before anything is allocated. Not here: what the
headers mean (`session`, `client`).
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from supernode.errors import ProtocolError

VERSION: Final = 2
MAGIC: Final = b"SNE1"
_PREFIX: Final = struct.Struct("<4sIQ")
#: Bytes of a header and of a body that a peer may send at most.
MAX_HEADER: Final = 8 << 20
MAX_BODY: Final = 256 << 20
#: Before the hello, a stranger may send little.
HELLO_BYTES: Final = 4096
#: Numbers in a row of a batch that are not signatures (`launches` says what they mean).
FREE, WORDS, FORGET, VIEW = -1, -2, -3, -4
#: Signatures that one client may hold.
MAX_SIGNATURES: Final = 4096

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    body: bytearray


def encode(header: dict[str, Any], body: Sequence[bytes | bytearray | memoryview] = ()) -> list[Any]:
    """The buffers of a frame, ready to be sent in order.

    Raises:
        ProtocolError: the frame is larger than a peer takes.
    """
    text = _ENCODER.encode(header).encode()
    size = sum(memoryview(part).nbytes for part in body)
    if len(text) > MAX_HEADER or size > MAX_BODY:
        raise ProtocolError(
            f"a frame of {len(text)} header and {size} body bytes is too large; the limits are {MAX_HEADER} and "
            f"{MAX_BODY}"
        )
    return [_PREFIX.pack(MAGIC, len(text), size) + text, *body]


def send(connection: socket.socket, buffers: Sequence[Any], descriptors: Sequence[int] = ()) -> None:
    """Send a frame's buffers; file descriptors travel with the first byte."""
    first, *rest = buffers
    if descriptors:
        sent = socket.send_fds(connection, [first], list(descriptors))
        first = memoryview(first)[sent:]
    connection.sendall(first)
    for buffer in rest:
        connection.sendall(buffer)


def receive(
    connection: socket.socket, *, max_header: int = MAX_HEADER, max_body: int = MAX_BODY, descriptors: int = 0
) -> tuple[Frame, list[int]] | None:
    """The next frame and the descriptors that came with it; None when the peer has closed between frames.

    Args:
        connection: a stream socket; its timeout counts for each read.
        max_header: bytes allowed in the header.
        max_body: bytes allowed in the body.
        descriptors: how many file descriptors to take at most; others that a peer sends are dropped by the kernel.

    Raises:
        ProtocolError: not a frame, too large, or cut off.
        TimeoutError: nothing came in time.
    """
    prefix = bytearray(_PREFIX.size)
    got: list[int] = []
    have = 0
    if descriptors:
        data, got, _, _ = socket.recv_fds(connection, _PREFIX.size, descriptors)
        have = len(data)
        prefix[:have] = data
        if not have:
            return None
    if not have:
        have = connection.recv_into(prefix)
        if not have:
            return None
    _fill(connection, memoryview(prefix)[have:], "prefix")
    magic, header_size, body_size = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise ProtocolError(f"not an emulator frame: it begins with {bytes(magic)!r}, expected {MAGIC!r}")
    if header_size > max_header or body_size > max_body:
        raise ProtocolError(
            f"a frame of {header_size} header and {body_size} body bytes was announced; allowed are {max_header} and "
            f"{max_body}"
        )
    text = bytearray(header_size)
    _fill(connection, memoryview(text), "header")
    header = decode(text)
    body = bytearray(body_size)
    _fill(connection, memoryview(body), "body")
    return Frame(header, body), got


def decode(text: bytes | bytearray) -> dict[str, Any]:
    """The header's JSON object.

    Raises:
        ProtocolError: not JSON, or not an object.
    """
    try:
        header = json.loads(str(text, "utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"a header that is not JSON: {exc}") from None
    if not isinstance(header, dict):
        raise ProtocolError(f"a header must be a JSON object, not {type(header).__name__}")
    return header


def _fill(connection: socket.socket, view: memoryview, what: str) -> None:
    while view:
        count = connection.recv_into(view)
        if not count:
            raise ProtocolError(f"the peer closed in the middle of a frame: {len(view)} bytes of the {what} missing")
        view = view[count:]
