"""The front of the client: connects, lists the devices, copies data, reports progress.

Flows in: a socket path, NumPy arrays. Flows out: `Device`s, `Group`s, NumPy arrays. Not here: the wire (`connection`).
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, SupportsFloat

import numpy as np

from supernode.emulator.client.arrays import Array
from supernode.emulator.client.connection import Connection
from supernode.emulator.client.devices import Device, Stream
from supernode.emulator.client.groups import Group
from supernode.emulator.client.staging import LARGE, LARGEST, Files, Staging
from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import Spec
from supernode.emulator.progress import checked
from supernode.emulator.rounding import convert
from supernode.emulator.wire import MAX_SIGNATURES
from supernode.errors import EmulatorError, InputError, ProtocolError
from supernode.names import EMULATOR_SOCKET, ENV_SOCKET, ENV_VISIBLE_DEVICES

#: Copies up to this many bytes travel in the frame; a copy of their own through shared memory costs more.
_INLINE: Final = 32 << 10


def connect(
    path: str | Path | None = None,
    *,
    transfer: str = "shared",
    timeout: float = 30.0,
    environment: Mapping[str, str] | None = None,
) -> Emulator:
    """Connect to the pod's sidecar.

    Args:
        path: of its socket; default: $SUPERNODE_EMULATOR_SOCKET, else the usual place in a pod.
        transfer: `shared`: large copies go through shared memory; `inline`: everything goes through the socket.
        timeout: seconds to wait for the connection.
        environment: where variables are read from; default: the process's.

    Raises:
        EmulatorError: nobody answers there.
        InputError: $HIP_VISIBLE_DEVICES names a device that is not there.
    """
    if transfer not in ("shared", "inline"):
        raise InputError(f"transfer is {transfer!r}; it can be shared or inline")
    environment = os.environ if environment is None else environment
    place = Path(path or environment.get(ENV_SOCKET) or EMULATOR_SOCKET)
    return Emulator(
        Connection(place, timeout=timeout), shared=transfer == "shared", visible=environment.get(ENV_VISIBLE_DEVICES)
    )


class Emulator:
    """A connection with its devices.

    Attributes:
        devices: those that $HIP_VISIBLE_DEVICES leaves, in its order.
        rank, workers: of this pod.
        local_devices: of the sidecar, visible or not.
        world_size: devices of the whole job.
    """

    def __init__(self, connection: Connection, *, shared: bool, visible: str | None) -> None:
        self.connection = connection
        self._staging = Staging(connection) if shared else None
        self._files = Files(connection) if shared else None
        self._groups: dict[tuple[tuple[int, ...], int], Group] = {}
        self._lock = threading.RLock()
        self._signatures = itertools.count()
        hello = connection.hello
        properties = hello["devices"]
        self.rank = int(hello["rank"])
        self.workers = int(hello["workers"])
        self.local_devices = len(properties)
        self.world_size = self.workers * self.local_devices
        try:
            chosen = visible_devices(visible, self.local_devices)
        except InputError:
            connection.close()
            raise
        self.devices: tuple[Device, ...] = tuple(Device(self, i, properties[n]) for i, n in enumerate(chosen))

    def group(self, ranks: Sequence[int] | None = None, *, channel: int = 0) -> Group:
        """Devices that do something together; the same ranks and channel give the same group.

        Args:
            ranks: global device ranks in order; default: all devices of the job.
            channel: keeps groups of the same ranks apart whose collectives run on different streams at one time.
        """
        members = tuple(range(self.world_size)) if ranks is None else tuple(int(rank) for rank in ranks)
        with self._lock:
            found = self._groups.get((members, channel))
            if found is None:
                if not members or len(set(members)) != len(members) or not set(members) <= set(range(self.world_size)):
                    raise InputError(f"a group needs ranks of 0 to {self.world_size - 1}, each once, not {members}")
                found = self._groups[members, channel] = Group(self, members, channel)
            return found

    def new_signature(self) -> int:
        """A number for launches that have a kernel and specs in common. When all are in use, all begin anew."""
        number = next(self._signatures)
        if number >= MAX_SIGNATURES:
            self._signatures = itertools.count(1)
            number = 0
            for device in self.devices:
                device.forget_signatures()
        return number

    def replace_group(self, group: Group) -> None:
        """From now on `group` gives this one for its ranks and channel."""
        with self._lock:
            self._groups[group.ranks, group.channel] = group

    def report(
        self,
        step: int,
        *,
        loss: SupportsFloat | None = None,
        tokens: int | None = None,
        digest: str | None = None,
        steps: int | None = None,
        checkpoint: int | None = None,
        **extra: float | str | bool | None,
    ) -> None:
        """Publish how far the training is; returns at once.

        The device time between two reports, divided by the steps between them, is the step time.

        Args:
            step: steps done.
            loss: of the step.
            tokens: trained on since the start of the job.
            digest: of the parameters, such as a sha256.
            steps: that the training has in all, so that the time left can be told.
            checkpoint: steps done when the last checkpoint was saved; it counts as saved now when the number is new.
            extra: other figures to publish.

        Raises:
            InputError: a figure of the wrong type.
        """
        if isinstance(loss, SupportsFloat) and not isinstance(loss, bool | int | float | np.generic):
            loss = float(loss)  # an array without axes: waits for it
        fields: dict[str, Any] = {"step": step, "loss": loss, "tokens": tokens, "digest": digest}
        fields |= {"steps": steps, "checkpoint": checkpoint, **extra}
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in fields.items()}
        try:
            checked(plain)
        except (ProtocolError, TypeError) as exc:
            raise InputError(str(exc)) from None
        self.connection.record(["report", plain])
        self.connection.flush()

    def synchronize(self) -> float:
        """Wait for all streams of all devices; gives the device time.

        Raises:
            EmulatorError: the earliest failure of a call since the last wait.
        """
        header, _, _ = self.connection.request("synchronize", None)
        return float(header["seconds"])

    def flush(self) -> None:
        """Send what is recorded, without waiting for anything."""
        self.connection.flush()

    def close(self) -> None:
        """Close the connection; the sidecar frees everything of this client."""
        self.connection.close()
        if self._staging is not None:
            self._staging.close()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, device: Device, data: np.ndarray[Any, Any], dtype: str, stream: Stream | None) -> Array:
        """Copy to a device; see `Device.array`."""
        spec = Spec(dtype, data.shape)
        handle = self.connection.handle()
        order = device.ordinal if stream is None else stream.handle
        with self._lock:
            if spec.nbytes <= _INLINE or self._staging is None:
                copy = np.array(convert(data, DTYPES[dtype]), order="C", copy=True)
                self.connection.record_upload(
                    ["upload", order, handle, dtype, list(data.shape), -1], copy.reshape(-1).view(np.uint8).data
                )
                return Array(device, spec, handle)
            if spec.nbytes >= LARGE and self._files is not None:
                number = self._files.send(np.ascontiguousarray(convert(data, DTYPES[dtype])))
                if number is not None:
                    self.connection.record(["adopt", order, handle, dtype, list(data.shape), number])
                    return Array(device, spec, handle)
            place = self._staging.place(spec.nbytes)
            np.copyto(np.frombuffer(place.memory, DTYPES[dtype]).reshape(data.shape), convert(data, DTYPES[dtype]))
            self.connection.record(["upload", order, handle, dtype, list(data.shape), place.segment, place.offset])
        return Array(device, spec, handle)

    def read(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy from a device; see `Array.numpy`."""
        # Before the lock: in a forked process it may be held by a thread that is not there.
        self.connection.usable()
        dtype = DTYPES[array.dtype]
        with self._lock:
            if array.nbytes <= _INLINE or self._staging is None:
                _, body, _ = self.connection.request("read", array.handle, -1, 0)
                if len(body) != array.nbytes:
                    raise EmulatorError(f"the sidecar sent {len(body)} bytes for {array.spec}")
                return np.frombuffer(body, dtype).reshape(array.shape)
            if array.nbytes >= LARGE and self._files is not None:
                found = self._files.receive(array.handle, dtype, array.shape)
                if found is not None:
                    return found
            if array.nbytes > LARGEST:
                self.synchronize()  # what made it fail, if something did, says more than its size
            place = self._staging.place(array.nbytes)
            self.connection.request("read", array.handle, place.segment, place.offset)
            return np.frombuffer(place.memory, dtype).reshape(array.shape).copy()


def visible_devices(text: str | None, count: int) -> list[int]:
    """The devices that $HIP_VISIBLE_DEVICES leaves of `count`; unset: all, empty: none; -1 ends the list.

    Raises:
        InputError: not a list of numbers, or a device that is not there, or one named twice.
    """
    if text is None:
        return list(range(count))
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if "-1" in parts:
        del parts[parts.index("-1") :]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"{ENV_VISIBLE_DEVICES}={text!r} is not a list of device numbers such as 0,1")
    numbers = [int(part) for part in parts]
    if any(number >= count for number in numbers) or len(set(numbers)) != len(numbers):
        raise InputError(f"{ENV_VISIBLE_DEVICES}={text!r}: the sidecar has devices 0 to {count - 1}, each once")
    return numbers
