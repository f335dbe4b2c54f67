"""Congestion control of connections: none that paces between pods of one machine, the system's own elsewhere.

On one machine there is no network to be careful with, and a control that paces what is sent (BBR) only sets timers,
which costs up to half of the processor time of a transfer. Pacing that a connection has begun with never ends, so a
socket gets its control before it is connected; who turns out to be far gets the system's.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

# Every kernel of Linux has it, and lets everyone use it unless it was told not to. It does not pace.
_PLAIN: Final = b"reno"
_NAME_BYTES: Final = 16


def unpaced(sock: socket.socket) -> None:
    """Let a socket that is not connected yet, and whatever it accepts, send without pacing."""
    if hasattr(socket, "TCP_CONGESTION"):
        with suppress(OSError):  # the system does not allow it: then it stays as it is
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _PLAIN)


def as_usual(sock: socket.socket) -> None:
    """Give a connection the congestion control of the system."""
    if hasattr(socket, "TCP_CONGESTION"):
        with suppress(OSError), socket.socket(sock.family, socket.SOCK_STREAM) as fresh:
            usual = fresh.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, usual.rstrip(b"\0"))
