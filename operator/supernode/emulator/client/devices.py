"""Devices, streams and events as training code sees them.

Flows in: launches. Flows out: recorded commands and arrays whose shape and dtype are known at once, by the same kernel
table that the sidecar uses. Not here: groups of devices (`groups`), the socket (`connection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from supernode.emulator.client.arrays import Array
from supernode.emulator.dtypes import dtype_name
from supernode.emulator.kernels import TABLE, Spec
from supernode.emulator.kernels.table import MAX_AXES
from supernode.errors import KernelError

if TYPE_CHECKING:
    from supernode.emulator.client.emulator import Emulator


class MemoryUse(NamedTuple):
    """Bytes in use on a device, the most there ever were, the limit, and the number of allocations."""

    in_use: int
    peak: int
    limit: int
    allocations: int


class Event:
    """A point in a stream. Made by `record`."""

    def __init__(self, emulator: Emulator, handle: int) -> None:
        self._emulator = emulator
        self.handle = handle
        self._forgotten = emulator.connection.forgotten

    @property
    def seconds(self) -> float:
        """Device time at this point, on the virtual clock; waits until it is reached."""
        header, _, _ = self._emulator.connection.request("event", self.handle)
        return float(header["seconds"])

    def __del__(self) -> None:
        if hasattr(self, "_forgotten"):
            self._forgotten.append(self.handle)


class Stream:
    """An in-order queue of a device; streams of a device run side by side."""

    def __init__(self, device: Device, handle: int) -> None:
        self.device = device
        self.handle = handle

    def record(self) -> Event:
        """An event after everything that was launched here so far."""
        connection = self.device.emulator.connection
        event = Event(self.device.emulator, connection.handle())
        connection.record(["record", self.handle, event.handle])
        return event

    def wait(self, event: Event) -> None:
        """Let what is launched here from now on wait for an event of any device of the pod."""
        self.device.emulator.connection.record(["wait", self.handle, event.handle])

    def synchronize(self) -> float:
        """Wait until everything launched here is done; gives the device time.

        Raises:
            EmulatorError: the earliest failure of a call since the last wait.
        """
        header, _, _ = self.device.emulator.connection.request("synchronize", [self.handle])
        return float(header["seconds"])

    def close(self) -> None:
        """Give the stream back once its work is done. A default stream stays."""
        if self.handle >= self.device.emulator.local_devices:
            self.device.emulator.connection.record(["close", self.handle])


class Device:
    """An emulated accelerator.

    Attributes:
        index: among the visible devices.
        ordinal: in the sidecar.
        rank: in the whole job.
        chip: catalogue name.
        properties: what the sidecar says: memoryBytes, tflops by dtype, ...
        default: the stream that is used where none is named.
    """

    def __init__(self, emulator: Emulator, index: int, properties: dict[str, Any]) -> None:
        self.emulator = emulator
        self.index = index
        self.properties = properties
        self.ordinal = int(properties["ordinal"])
        self.rank = int(properties["rank"])
        self.chip = str(properties["chip"])
        self.default = Stream(self, self.ordinal)
        self._connection = emulator.connection

    def __repr__(self) -> str:
        return f"<Device {self.index}: {self.chip}, rank {self.rank}>"

    def launch(
        self,
        kernel: str,
        *arrays: Array | float,
        out: Array | Sequence[Array] | None = None,
        stream: Stream | None = None,
        **attributes: Any,
    ) -> Any:
        """Launch a kernel; returns at once.

        Args:
            kernel: name in the kernel table.
            arrays: inputs, all on this device; a number as the last one becomes the attribute `value`.
            out: write the result into these arrays instead of new ones.
            stream: of this device; default: its default stream.
            attributes: of the kernel.

        Returns:
            The result, an `Array`; a tuple if the kernel has several or none.

        Raises:
            KernelError: the kernel table refuses the call.
            InvalidHandleError: an input was freed.
        """
        if arrays and not isinstance(arrays[-1], Array):
            attributes["value"] = arrays[-1]
            arrays = arrays[:-1]
        if attributes:
            attributes = {name: _plain(name, value) for name, value in attributes.items()}
        try:
            specs = tuple([array.spec for array in arrays])  # type: ignore[union-attr]
            handles = [array.handle for array in arrays]  # type: ignore[union-attr]
        except AttributeError:
            kinds = ", ".join(type(array).__name__ for array in arrays)
            raise KernelError(f"{kernel} needs arrays of this device, not ({kinds}); use device.array") from None
        plan = TABLE.plan(kernel, specs, attributes)
        for array in arrays:
            if array.device is not self:  # type: ignore[union-attr]
                raise KernelError(f"{kernel}: {array!r} is not on device {self.index}; copy it with .to(device)")
        handle = self.ordinal if stream is None else self._own(stream)
        if out is not None:
            return self._launch_into(handle, kernel, handles, plan.outputs, out, attributes)
        connection = self._connection
        results = [Array(self, spec, connection.handle()) for spec in plan.outputs]
        # `arrays` keeps the inputs alive until the command is recorded: their memory is freed after it, not before.
        connection.record(["launch", handle, kernel, handles, [result._handle for result in results], attributes])
        return results[0] if len(results) == 1 else tuple(results)

    def array(self, data: Any, dtype: object = None, *, stream: Stream | None = None) -> Array:
        """Copy data of the host to the device.

        Args:
            data: anything NumPy makes an array of; it may change after the call.
            dtype: converted to it on the host, rounding to nearest even; default: its own (Python floats: f32).
            stream: in whose order the copy happens.
        """
        given = np.asarray(data)
        if dtype is None and not hasattr(data, "dtype") and given.dtype == np.float64:
            given = given.astype(np.float32)
        return self.emulator.write(self, given, dtype_name(given.dtype if dtype is None else dtype), stream)

    def full(self, shape: int | Sequence[int], value: float, dtype: object = "f32") -> Array:
        """An array of one value, made on the device."""
        made: Array = self.launch("full", shape=_shape(shape), value=value, dtype=dtype)
        return made

    def zeros(self, shape: int | Sequence[int], dtype: object = "f32") -> Array:
        """An array of zeros, made on the device."""
        made: Array = self.launch("zeros", shape=_shape(shape), dtype=dtype)
        return made

    def empty(self, shape: int | Sequence[int], dtype: object = "f32") -> Array:
        """An array to be written (into, in place or by a collective)."""
        made: Array = self.launch("empty", shape=_shape(shape), dtype=dtype)
        return made

    def stream(self) -> Stream:
        """A new stream."""
        handle = self.emulator.local_devices + self._connection.handle()
        self._connection.record(["stream", handle, self.ordinal])
        return Stream(self, handle)

    def record(self) -> Event:
        """An event in the default stream."""
        return self.default.record()

    def synchronize(self) -> float:
        """Wait for the default stream; gives its device time. `Emulator.synchronize` waits for all streams."""
        return self.default.synchronize()

    def memory(self) -> MemoryUse:
        """Memory of the device now, as the sidecar counts it (other clients included)."""
        header, _, _ = self._connection.request("memory", self.ordinal)
        return MemoryUse(header["inUse"], header["peak"], header["limit"], header["allocations"])

    def _own(self, stream: Stream) -> int:
        if stream.device is not self:
            raise KernelError(f"the stream belongs to device {stream.device.index}, not {self.index}")
        return stream.handle

    def _launch_into(
        self,
        stream: int,
        kernel: str,
        inputs: list[int],
        outputs: tuple[Spec, ...],
        out: Array | Sequence[Array],
        attributes: dict[str, Any],
    ) -> Any:
        targets = [out] if isinstance(out, Array) else list(out)
        if [target.spec for target in targets] != list(outputs) or any(t.device is not self for t in targets):
            wanted = ", ".join(map(str, outputs))
            raise KernelError(f"{kernel} gives {wanted}, but out is {', '.join(map(repr, targets))}")
        self._connection.record(["into", stream, kernel, inputs, [t.handle for t in targets], attributes])
        return out if isinstance(out, Array) or len(targets) != 1 else targets[0]


def _shape(shape: int | Sequence[int]) -> list[int]:
    sizes = [int(n) for n in shape] if isinstance(shape, Sequence) else [int(shape)]
    if len(sizes) > MAX_AXES:
        raise KernelError(f"{len(sizes)} axes are too many; {MAX_AXES} are possible")
    return sizes


def _plain(name: str, value: Any) -> Any:
    if name == "dtype":
        return None if value is None else dtype_name(value)
    if isinstance(value, np.generic):
        return value.item()
    return value
