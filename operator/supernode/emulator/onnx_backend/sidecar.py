"""The devices that models run on: the pod's sidecar where there is one, else one inside this process.

$SUPERNODE_EMULATOR_SOCKET set: that sidecar, whose chip is what it is. Not set, or a chip or a memory size is asked for
by name: a sidecar in this process, one per chip and memory size, with one device of $SUPERNODE_CHIP (or the chip of
`DEFAULT_CHIP`), from its first use until the process ends. Not here: models.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Final

from supernode import names
from supernode.chips import Chip, find_chip
from supernode.emulator.client import Device, Emulator, connect
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.server import Server, ServerConfig
from supernode.errors import InputError

DEFAULT_CHIP: Final = "hygon-bw1000"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a directory of its own there

_lock = threading.Lock()
_running: dict[tuple[int, str, int | None], _Own] = {}
_connected: dict[tuple[int, str], Emulator] = {}


class _Own:
    """A sidecar in this process, with a client."""

    def __init__(self, chip: Chip, memory_bytes: int | None) -> None:
        self._owner = os.getpid()
        place = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        self._directory = Path(tempfile.mkdtemp(prefix="supernode-", dir=place))
        with contextlib.ExitStack() as ended:
            ended.callback(shutil.rmtree, self._directory, ignore_errors=True)
            fabric = FabricConfig(rank=0, workers=1, devices_per_worker=1, chip=chip)
            path = self._directory / "emulator.sock"
            server = Server(ServerConfig(chip, 1, path, fabric, http_port=None, memory_bytes=memory_bytes))
            server.start()
            ended.callback(server.stop)
            self.emulator = connect(path, environment={})
            ended.callback(self.emulator.close)
            # Until here an error undoes what was done; from here on the end of the process does.
            self._ended = ended.pop_all()
        atexit.register(self.stop)

    def stop(self) -> None:
        """End it; in a copy of the process (fork) it is not this one's to end."""
        if os.getpid() == self._owner:
            self._ended.close()


def find_device(index: int = 0, *, chip: str | Chip | None = None, memory_bytes: int | None = None) -> Device:
    """A device to run on.

    Args:
        index: among the visible devices.
        chip: asks for a sidecar of this process with this chip.
        memory_bytes: asks for one whose device has so much memory.

    Raises:
        InputError: there is no such device.
    """
    socket = os.environ.get(names.ENV_SOCKET)
    with _lock:
        if socket and chip is None and memory_bytes is None:
            emulator = _connect(socket)
        else:
            emulator = _start(chip or os.environ.get(names.ENV_CHIP) or DEFAULT_CHIP, memory_bytes)
    if not 0 <= index < len(emulator.devices):
        raise InputError(f"there is no device {index}; the emulator has {len(emulator.devices)}")
    return emulator.devices[index]


def _connect(socket: str) -> Emulator:
    key = (os.getpid(), socket)
    found = _connected.get(key)
    if found is None or found.connection.closed:
        found = _connected[key] = connect(socket)
        atexit.register(found.close)
    return found


def _start(chip: str | Chip, memory_bytes: int | None) -> Emulator:
    sheet = find_chip(chip) if isinstance(chip, str) else chip
    key = (os.getpid(), repr(sheet), memory_bytes)
    found = _running.get(key)
    if found is None or found.emulator.connection.closed:
        found = _running[key] = _Own(sheet, memory_bytes)
    return found.emulator
