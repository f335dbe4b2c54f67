"""The wire format between pods: a fixed header with an authentication code, then a body of a known, bounded length.

    offset  bytes  field
    0       4      magic "SNf1"
    4       1      kind of frame
    5       3      zero
    8       8      length of the body
    16      8      number of the frame on this connection and direction, from 0
    24      8      tag: meaning depends on the kind (position in a group's channel)
    32      32     HMAC-SHA256 of bytes 0..31, and of the body unless it is bulk, under this direction's session key

Bulk data (tensors) is covered by the code of its header only: TCP keeps it in order and the header fixes its length,
but whoever can rewrite a TCP stream in the cluster's network could alter values. Everything that is parsed is covered.
A number out of order, a wrong code or an impossible length ends the connection: nothing of the body is looked at.
"""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from supernode.errors import AuthenticationError, ProtocolError

MAGIC: Final = b"SNf1"
HEADER: Final = struct.Struct("<4sB3sQQQ")
CODE_BYTES: Final = 32
HEADER_BYTES: Final = HEADER.size + CODE_BYTES
# Largest body that is read into memory and parsed: the table of a job of a few thousand workers.
MAX_MESSAGE: Final = 1 << 20
# Largest tensor part in one frame; its length is also compared with what the receiver expects.
MAX_BULK: Final = 1 << 42

NOTHING: Final[Mapping[bytes, dict[str, Any]]] = MappingProxyType({})

MESSAGE: Final = 1
BULK: Final = 2


@dataclass(frozen=True, slots=True)
class Header:
    """A verified header."""

    kind: int
    length: int
    tag: int


def encode(words: dict[str, Any]) -> bytes:
    """The body of a message."""
    return json.dumps(words, separators=(",", ":")).encode()


class Seal:
    """One direction of one connection: numbers and signs frames, or checks them. Not safe for several threads."""

    def __init__(self, key: bytes) -> None:
        # Copies of a keyed state cost a fraction of setting it up for each frame.
        self._keyed = hmac.new(key, None, "sha256")
        self._number = 0

    def header(self, kind: int, length: int, tag: int = 0, body: bytes = b"") -> bytes:
        """A header for a body of `length` bytes; `body` itself unless it is bulk."""
        head = HEADER.pack(MAGIC, kind, b"\0\0\0", length, self._number, tag)
        self._number += 1
        return head + self._code(head + body)

    def message(self, words: dict[str, Any], tag: int = 0) -> bytes:
        """A whole frame that carries a JSON object."""
        return self.signed(encode(words), tag)

    def signed(self, body: bytes, tag: int = 0) -> bytes:
        """A whole frame of an object that has been encoded."""
        if len(body) > MAX_MESSAGE:
            raise ProtocolError(f"a message of {len(body)} bytes is over the fabric's limit of {MAX_MESSAGE}")
        return self.header(MESSAGE, len(body), tag, body) + body

    def open(self, raw: bytes) -> Header:
        """Look at a received header as far as its length; the code is checked here for bulk, by `check` for the rest.

        Raises:
            ProtocolError: not our magic, an unknown kind, an impossible length.
            AuthenticationError: a bulk header that was not made with this connection's key, or replayed.
        """
        magic, kind, _, length, number, tag = HEADER.unpack_from(raw)
        if magic != MAGIC or kind not in (MESSAGE, BULK):
            raise ProtocolError(f"not a frame of the fabric: it starts with {raw[:8]!r}")
        limit = MAX_MESSAGE if kind == MESSAGE else MAX_BULK
        if length > limit:
            raise ProtocolError(f"a frame says it has {length} bytes; the limit is {limit}")
        if number != self._number:
            raise AuthenticationError(f"frame number {number} came where {self._number} was due")
        if kind == BULK:
            self._verify(raw, b"")
        return Header(kind, length, tag)

    def check(self, raw: bytes, body: bytes, known: Mapping[bytes, dict[str, Any]] = NOTHING) -> dict[str, Any]:
        """Check the code of a message against its body, then read it, or take what is known to be in such a body.

        Raises:
            AuthenticationError: header or body was not made with this connection's key.
            ProtocolError: the body is not a JSON object.
        """
        self._verify(raw, body)
        if body in known:
            return known[body]
        try:
            words = json.loads(body)
        except ValueError as exc:
            raise ProtocolError(f"a message is not JSON: {exc}") from exc
        if not isinstance(words, dict):
            raise ProtocolError("a message is not a JSON object")
        return words

    def _verify(self, raw: bytes, body: bytes) -> None:
        expected = self._code(raw[: HEADER.size] + body)
        if not hmac.compare_digest(expected, raw[HEADER.size : HEADER_BYTES]):
            raise AuthenticationError("a frame was not signed with this connection's key")
        self._number += 1

    def _code(self, signed: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(signed)
        return keyed.digest()
