"""Both sides of a connection prove that they hold the job's secret, before either reads anything else.

    caller -> listener   magic, version, 32 random bytes                          (fixed size)
    listener -> caller   magic, version, 32 random bytes                          (fixed size)
    caller -> listener   HMAC(secret, "caller" + both hellos)                     (fixed size)
    listener -> caller   HMAC(secret, "listener" + both hellos)                   (fixed size)

The caller proves itself first, so a stranger gets nothing made with the secret. The labels differ, so a proof cannot
be sent back. From the same hellos each direction gets its own session key, so frames of one connection are worthless
on another. Comparison takes constant time. A version that differs ends the connection with both numbers named.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import time
from typing import Final

from supernode.emulator.fabric.frames import Seal
from supernode.errors import AuthenticationError, PeerLostError, ProtocolError

MAGIC: Final = b"SUPERNODEFABRIC\0"
VERSION: Final = 1
_HELLO: Final = struct.Struct("<16sHxx32s")
_PROOF_BYTES: Final = 32
SHORTEST_SECRET: Final = 16


def call(sock: socket.socket, secret: bytes, deadline: float) -> tuple[Seal, Seal]:
    """The caller's side. Returns the seals for (what we send, what we receive).

    `deadline` is on the monotonic clock.

    Raises:
        AuthenticationError: the listener refused our proof or could not give its own.
        ProtocolError: the listener is no fabric, or of another version.
        PeerLostError: it went away or did not answer before the deadline.
    """
    mine = _hello()
    write(sock, mine, deadline)
    theirs = read(sock, _HELLO.size, deadline)
    _check(theirs)
    write(sock, _prove(secret, b"caller", mine, theirs), deadline)
    try:
        answer = read(sock, _PROOF_BYTES, deadline)
    except PeerLostError as exc:
        if time.monotonic() >= deadline:
            raise
        raise AuthenticationError(f"refused: most likely it does not hold the same job secret ({exc})") from exc
    if not hmac.compare_digest(answer, _prove(secret, b"listener", mine, theirs)):
        raise AuthenticationError("the other side does not hold this job's secret")
    return _seals(secret, mine, theirs, caller=True)


def answer(sock: socket.socket, secret: bytes, deadline: float) -> tuple[Seal, Seal]:
    """The listener's side; raises as `call` does."""
    theirs = read(sock, _HELLO.size, deadline)
    mine = _hello()
    magic = theirs[: len(MAGIC)]
    if magic == MAGIC:
        # Said even when the version differs, so that the caller can name both.
        write(sock, mine, deadline)
    _check(theirs)
    proof = read(sock, _PROOF_BYTES, deadline)
    if not hmac.compare_digest(proof, _prove(secret, b"caller", theirs, mine)):
        raise AuthenticationError("the caller does not hold this job's secret")
    write(sock, _prove(secret, b"listener", theirs, mine), deadline)
    return _seals(secret, theirs, mine, caller=False)


def _hello() -> bytes:
    return _HELLO.pack(MAGIC, VERSION, secrets.token_bytes(32))


def _check(hello: bytes) -> None:
    magic, version, _ = _HELLO.unpack(hello)
    if magic != MAGIC:
        raise ProtocolError(f"not a fabric: it says {hello[:16]!r}")
    if version != VERSION:
        raise ProtocolError(f"the other side speaks fabric version {version}, this one {VERSION}; use one image")


def _prove(secret: bytes, label: bytes, caller_hello: bytes, listener_hello: bytes) -> bytes:
    return hmac.digest(secret, label + b"\0" + caller_hello + listener_hello, "sha256")


def _seals(secret: bytes, caller_hello: bytes, listener_hello: bytes, *, caller: bool) -> tuple[Seal, Seal]:
    outward = Seal(_prove(secret, b"key caller to listener", caller_hello, listener_hello))
    inward = Seal(_prove(secret, b"key listener to caller", caller_hello, listener_hello))
    return (outward, inward) if caller else (inward, outward)


class Silent(PeerLostError):  # noqa: N818  (stays inside the fabric)
    """The other side is there and says nothing: it may be frozen, or very busy."""


def write(sock: socket.socket, data: bytes, deadline: float) -> None:
    """Send all of `data`; PeerLostError when it cannot be sent before the deadline (on the monotonic clock)."""
    sock.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        sock.sendall(data)
    except OSError as exc:
        raise PeerLostError(f"connection lost during the handshake: {exc}") from exc


def read(sock: socket.socket, size: int, deadline: float) -> bytes:
    """Exactly `size` bytes; a peer that sends one byte at a time still meets the one deadline."""
    data = b""
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Silent(f"no answer in time ({len(data)} of {size} bytes came)")
        sock.settimeout(left)
        try:
            part = sock.recv(size - len(data))
        except TimeoutError as exc:
            raise Silent(f"no answer in time ({len(data)} of {size} bytes came)") from exc
        except OSError as exc:
            raise PeerLostError(f"connection lost during the handshake: {exc}") from exc
        if not part:
            raise PeerLostError(f"connection closed after {len(data)} of {size} bytes")
        data += part
    return data
