"""The connection of this process to the pod's sidecar, made when the first array is.

Flows in: $SUPERNODE_EMULATOR_SOCKET. Flows out: devices. One connection per process; a forked child makes its own.
Not here: the wire (`client`).
"""

from __future__ import annotations

import os
import threading

from supernode.emulator.client import Device, Emulator, connect
from supernode.errors import EmulatorError

_lock = threading.Lock()
_open: dict[int, Emulator] = {}


def emulator() -> Emulator:
    """The connection; made at the first call.

    Raises:
        EmulatorError: no sidecar answers.
    """
    process = os.getpid()
    with _lock:
        found = _open.get(process)
        if found is None or found.connection.closed:
            found = _open[process] = connect()
        return found


def use(connection: Emulator) -> None:
    """Let arrays be made on this connection from now on, instead of the one that the environment names."""
    with _lock:
        _open[os.getpid()] = connection


def device(wanted: Device | None = None) -> Device:
    """A device to make arrays on: the wanted one, or the first.

    Raises:
        EmulatorError: there is none.
        ValueError: what was given is no device.
    """
    if wanted is not None:
        if not isinstance(wanted, Device):
            raise ValueError(f"{wanted!r} is no device; __array_namespace_info__().devices() lists them")
        return wanted
    devices = emulator().devices
    if not devices:
        raise EmulatorError("no device is visible; $HIP_VISIBLE_DEVICES leaves none")
    return devices[0]
