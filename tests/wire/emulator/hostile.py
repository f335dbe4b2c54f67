"""What tests of hostile clients share: raw bytes to a live sidecar, and whether it is none the worse for them."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from supernode.chips import find_chip
from supernode.emulator import wire
from supernode.emulator.client import connect
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.server import Server, ServerConfig

CHIP = find_chip("hygon-bw1000")
PREFIX = struct.Struct("<4sIQ")


@contextlib.contextmanager
def live_sidecar() -> Iterator[Server]:
    """Two devices of 1 MiB, of which nothing is taken at the end."""
    with TemporaryDirectory(prefix="sn-") as path:
        fabric = FabricConfig(rank=0, workers=1, devices_per_worker=2, chip=CHIP, timeout=0.2)
        server = Server(ServerConfig(CHIP, 2, Path(path) / "e.sock", fabric, memory_bytes=1 << 20))
        server.start()
        try:
            yield server
        finally:
            server.stop()
        uses = [device.memory.use() for device in server.devices]
        assert [(use.in_use, use.reserved) for use in uses] == [(0, 0), (0, 0)]


def still_serves(server: Server) -> None:
    """A well-behaved client gets its numbers."""
    with connect(server.config.socket, environment={}) as emulator:
        assert emulator.devices[-1].full(3, 2.0).numpy().tolist() == [2, 2, 2]


def say(server: Server, data: bytes, *, hello: bool = True) -> bytes:
    """Send raw bytes, close our side, and take what comes until the sidecar closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(20)
        raw.connect(str(server.config.socket))
        if hello:
            wire.send(raw, wire.encode({"hello": wire.VERSION}))
            assert wire.receive(raw) is not None
        came = b""
        try:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while part := raw.recv(65536):
                came += part
        except (BrokenPipeError, ConnectionResetError):
            pass
        return came


def frame(header: Any, body: bytes = b"") -> bytes:
    """A frame whose header may be anything."""
    text = json.dumps(header).encode()
    return PREFIX.pack(b"SNE1", len(text), len(body)) + text + body
