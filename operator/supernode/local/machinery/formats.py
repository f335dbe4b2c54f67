"""The formats of texts that a structural schema may ask for, each with its test."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import uuid
from collections.abc import Callable
from datetime import date
from typing import Final

from supernode.local.machinery.decode import normal_time

_DURATION: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*|0")
_HOST: Final = re.compile(
    r"([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]{0,61}[A-Za-z0-9])(\.([A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]{0,61}[A-Za-z0-9]))*"
)


def _is_byte(value: str) -> bool:
    try:
        return base64.b64decode(value, validate=True) is not None
    except binascii.Error:
        return False


FORMATS: Final[dict[str, Callable[[str], bool]]] = {
    "date-time": lambda value: bool(normal_time(value)),
    "date": lambda value: bool(date.fromisoformat(value)) and len(value) == 10,
    "duration": lambda value: bool(_DURATION.fullmatch(value)),
    "byte": _is_byte,
    "ipv4": lambda value: bool(ipaddress.IPv4Address(value)),
    "ipv6": lambda value: bool(ipaddress.IPv6Address(value)),
    "cidr": lambda value: "/" in value and bool(ipaddress.ip_network(value, strict=False)),
    "hostname": lambda value: len(value) <= 255 and bool(_HOST.fullmatch(value)),
    "uuid": lambda value: len(value) >= 32 and bool(uuid.UUID(value)),
    "email": lambda value: bool(re.fullmatch(r"[^@\s]+@[^@\s]+", value)),
    "uri": lambda value: bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|/", value)),
}
