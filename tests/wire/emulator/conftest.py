"""Fixtures: a sidecar inside the test's process (its socket and threads are real), and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from supernode.chips import find_chip
from supernode.emulator.client import Emulator, connect
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.server import Server, ServerConfig

CHIP = find_chip("hygon-bw1000")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, because the path of a Unix socket has about 100 bytes."""
    with TemporaryDirectory(prefix="sn-") as path:
        yield Path(path)


@pytest.fixture
def sidecar(directory: Path) -> Iterator[Callable[..., Server]]:
    """Starts sidecars; all are stopped after the test."""
    started: list[Server] = []

    def start(devices: int = 2, memory_bytes: int | None = 1 << 20, cores: int = 100) -> Server:
        fabric = FabricConfig(rank=0, workers=1, devices_per_worker=devices, chip=CHIP, timeout=2.0)
        path = directory / f"{len(started)}.sock"
        server = Server(ServerConfig(CHIP, devices, path, fabric, memory_bytes=memory_bytes, cores=cores))
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(sidecar: Callable[..., Server]) -> Server:
    """Two devices of 1 MiB."""
    return sidecar()


@pytest.fixture
def emulator(server: Server) -> Iterator[Emulator]:
    with connect(server.config.socket, environment={}) as connected:
        yield connected
