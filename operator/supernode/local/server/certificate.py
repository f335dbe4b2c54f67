"""A self-signed certificate, made when the server starts: kubectl sends no token over plain HTTP.

Written out in DER with the standard library alone: an ECDSA key on P-256 (FIPS 186-4), an X.509 version 3 certificate
(RFC 5280) for loopback addresses. It protects a server on this machine for as long as the process runs; the private
key is written to a file only for the moment in which `ssl` reads it. Not constant-time; not meant to be kept.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import secrets
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

# The curve: y^2 = x^3 - 3x + b over the field of P, base point G of order N.
_P: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G: Final = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_LIFETIME: Final = timedelta(days=365)
# Object identifiers, in DER.
_EC_KEY: Final = bytes.fromhex("06072a8648ce3d0201")
_CURVE: Final = bytes.fromhex("06082a8648ce3d030107")
_ECDSA_SHA256: Final = bytes.fromhex("06082a8648ce3d040302")
_COMMON_NAME: Final = bytes.fromhex("0603550403")
_SERVER_AUTH: Final = bytes.fromhex("06082b06010505070301")

Point = tuple[int, int] | None


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, both as PEM text."""

    pem: str
    key_pem: str

    def context(self) -> ssl.SSLContext:
        """What a server listens with."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "both.pem"
            path.touch(mode=0o600)
            path.write_text(self.key_pem + self.pem)
            context.load_cert_chain(path)
        return context


def _add(left: Point, right: Point) -> Point:
    if left is None or right is None:
        return left or right
    if left[0] == right[0]:
        if (left[1] + right[1]) % _P == 0:
            return None
        slope = (3 * left[0] * left[0] - 3) * pow(2 * left[1], -1, _P) % _P
    else:
        slope = (right[1] - left[1]) * pow(right[0] - left[0], -1, _P) % _P
    x = (slope * slope - left[0] - right[0]) % _P
    return x, (slope * (left[0] - x) - left[1]) % _P


def _times(scalar: int, point: Point) -> tuple[int, int]:
    result: Point = None
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    if result is None:
        raise ValueError("the scalar is a multiple of the group's order")
    return result


def _sign(key: int, message: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    while True:
        nonce = 1 + secrets.randbelow(_N - 1)
        r = _times(nonce, _G)[0] % _N
        s = pow(nonce, -1, _N) * (digest + r * key) % _N
        if r and s:
            return _sequence(_integer(r), _integer(s))


def _tag(kind: int, body: bytes) -> bytes:
    if len(body) < 128:
        return bytes([kind, len(body)]) + body
    size = (len(body).bit_length() + 7) // 8
    return bytes([kind, 128 + size]) + len(body).to_bytes(size, "big") + body


def _sequence(*parts: bytes) -> bytes:
    return _tag(0x30, b"".join(parts))


def _integer(value: int) -> bytes:
    return _tag(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _bits(value: bytes) -> bytes:
    return _tag(3, b"\0" + value)


def _time(moment: datetime) -> bytes:
    return _tag(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())


def _extension(identifier: str, critical: bool, body: bytes) -> bytes:
    mark = bytes.fromhex("0101ff") if critical else b""
    return _sequence(bytes.fromhex(identifier), mark, _tag(4, body))


def _alternative(host: str) -> bytes:
    try:
        return _tag(0x87, ipaddress.ip_address(host).packed)
    except ValueError:
        return _tag(0x82, host.encode())


def _pem(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def make_certificate(hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> Certificate:
    """A fresh certificate for the named hosts (addresses or names), its own authority."""
    key = 1 + secrets.randbelow(_N - 1)
    x, y = _times(key, _G)
    point = b"\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    name = _sequence(_tag(0x31, _sequence(_COMMON_NAME, _tag(0x0C, b"supernode-local"))))
    now = datetime.now(UTC)
    identifier = hashlib.sha1(point, usedforsecurity=False).digest()
    extensions = _sequence(
        _extension("0603551d13", True, _sequence(bytes.fromhex("0101ff"))),  # basic constraints: an authority
        _extension("0603551d0f", True, bytes.fromhex("03020284")),  # key usage: sign, sign certificates
        _extension("0603551d25", False, _sequence(_SERVER_AUTH)),
        _extension("0603551d0e", False, _tag(4, identifier)),
        _extension("0603551d23", False, _sequence(_tag(0x80, identifier))),
        _extension("0603551d11", False, _sequence(*map(_alternative, hosts))),
    )
    body = _sequence(
        _tag(0xA0, _integer(2)),
        _integer(1 + secrets.randbits(120)),
        _sequence(_ECDSA_SHA256),
        name,
        _sequence(_time(now - timedelta(hours=1)), _time(now + _LIFETIME)),
        name,
        _sequence(_sequence(_EC_KEY, _CURVE), _bits(point)),
        _tag(0xA3, extensions),
    )
    whole = _sequence(body, _sequence(_ECDSA_SHA256), _bits(_sign(key, body)))
    private = _sequence(_integer(1), _tag(4, key.to_bytes(32, "big")), _tag(0xA0, _CURVE), _tag(0xA1, _bits(point)))
    return Certificate(_pem("CERTIFICATE", whole), _pem("EC PRIVATE KEY", private))
