"""Devices, streams and events as training code sees them.

Flows in: launches. Flows out: recorded commands and arrays whose shape and dtype are known at once, by the same kernel
table that the sidecar uses. Not here: groups of devices (`groups`), the socket (`connection`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from supernode.emulator.client.arrays import Array
from supernode.emulator.dtypes import dtype_name
from supernode.emulator.kernels import TABLE, Spec
from supernode.emulator.kernels.table import MAX_AXES
from supernode.errors import KernelTypeError, KernelValueError

if TYPE_CHECKING:
    from supernode.emulator.client.emulator import Emulator


#: Calls with attributes that are remembered as having come once.
_SIGNATURES: Final = 1024
_getframe: Final = sys._getframe


class MemoryUse(NamedTuple):
    """Memory of a device, in bytes.

    Attributes:
        in_use: in arrays of all clients.
        peak: most that ever were.
        limit: of the card.
        allocations: arrays that have memory of their own.
        reserved: what the clients' allocators hold, in use or kept for arrays to come.
        own, own_reserved: of these, what this client has.
        largest: the largest array that this client could make now; less than what is free where memory is fragmented.
    """

    in_use: int
    peak: int
    limit: int
    allocations: int
    reserved: int
    own: int
    own_reserved: int
    largest: int


class _Ready(NamedTuple):
    """A signature that the sidecar knows: its number, the specs of the results, and the only one's."""

    code: int
    outputs: tuple[Spec, ...]
    single: Spec | None


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

    @property
    def done(self) -> bool:
        """Whether this point is reached, without waiting."""
        header, _, _ = self._emulator.connection.request("reached", self.handle)
        return bool(header["reached"])

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
        self._ready: dict[Any, _Ready] = {}
        self._seen: set[Any] = set()

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
        if not attributes and out is None and stream is None:
            # As often before: numbers are all that must be sent.
            try:
                ready = self._ready.get((kernel, *[array.spec for array in arrays]))  # type: ignore[union-attr]
            except AttributeError:
                ready = None
            if ready is not None:
                return self._again(ready, arrays, _getframe(1))  # type: ignore[arg-type]
        if arrays and isinstance(arrays[-1], bool | int | float | complex | np.generic):
            attributes["value"] = arrays[-1]
            arrays = arrays[:-1]
        if attributes:
            attributes = {name: _plain(name, value) for name, value in attributes.items()}
        try:
            specs = tuple([array.spec for array in arrays])  # type: ignore[union-attr]
            handles = [array.handle for array in arrays]  # type: ignore[union-attr]
        except AttributeError:
            kinds = ", ".join(type(array).__name__ for array in arrays)
            raise KernelTypeError(f"{kernel} needs arrays of this device, not ({kinds}); use device.array") from None
        plan = TABLE.plan(kernel, specs, attributes)
        for array in arrays:
            if array.device is not self:  # type: ignore[union-attr]
                raise KernelValueError(f"{kernel}: {array!r} is not on device {self.index}; copy it with .to(device)")
        order = self.ordinal if stream is None else self._own(stream)
        targets = None if out is None else self._targets(kernel, plan.outputs, out)
        connection = self._connection
        ready = self._prepared(order, kernel, specs, attributes, plan.outputs, into=targets is not None)
        # `arrays` keeps the inputs alive until the command is recorded: their memory is freed after it, not before.
        results = targets or [Array(self, spec, connection.handle()) for spec in plan.outputs]
        made = [result._handle for result in results]
        if ready is None:
            word = "launch" if targets is None else "into"
            connection.record([word, order, kernel, handles, made, attributes])
        else:
            connection.record_codes([ready.code, *handles, *made], _getframe(1))
        if isinstance(out, Array):
            return out
        return results[0] if len(results) == 1 else tuple(results)

    def _again(self, ready: _Ready, arrays: Sequence[Array], frame: FrameType) -> Any:
        """Launch what was prepared; `frame` made the call."""
        connection = self._connection
        codes = [ready.code]
        for array in arrays:
            if array.device is not self:
                raise KernelValueError(f"{array!r} is not on device {self.index}; copy it with .to(device)")
            codes.append(array._handle if array._handle >= 0 else array.handle)
        single = ready.single
        if single is not None:
            result = Array(self, single, connection.handle())
            codes.append(result._handle)
            connection.record_codes(codes, frame)
            return result
        results = tuple([Array(self, spec, connection.handle()) for spec in ready.outputs])
        codes += [result._handle for result in results]
        connection.record_codes(codes, frame)
        return results

    def _prepared(
        self,
        order: int,
        kernel: str,
        specs: tuple[Spec, ...],
        attributes: dict[str, Any],
        outputs: tuple[Spec, ...],
        *,
        into: bool,
    ) -> _Ready | None:
        """The signature of such launches; None for a launch that need not have one.

        A call with attributes gets one when it comes a second time: those of an optimizer are new at every step.
        """
        key: Any = (kernel, *specs)
        if attributes or into or order != self.ordinal:
            exact = _exact(attributes)
            if exact is None:
                return None
            key = (order, into, kernel, *specs, exact)
        ready = self._ready.get(key)
        if ready is None:
            if attributes and key not in self._seen:
                if len(self._seen) >= _SIGNATURES:
                    self._seen.clear()
                self._seen.add(key)
                return None
            code = self.emulator.new_signature()
            ready = self._ready[key] = _Ready(code, outputs, outputs[0] if len(outputs) == 1 else None)
            words = [[spec.dtype, list(spec.shape)] for spec in specs]
            command = ["prepare", code, order, kernel, words, len(outputs), attributes, into]
            self._connection.record(command, counts=False)
        return ready

    def forget_signatures(self) -> None:
        """The sidecar will be told anew what launches have in common."""
        self._ready.clear()

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

    def stream(self, priority: int = 0) -> Stream:
        """A new stream.

        Args:
            priority: -1 (first), 0 or 1 (last), as HIP numbers them; others count as the nearest. On the virtual clock
                a launch makes room for what was issued before it on streams that go first.
        """
        handle = self.emulator.local_devices + self._connection.handle()
        self._connection.record(["stream", handle, self.ordinal, int(priority)])
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
        card, own = header["card"], header["own"]
        return MemoryUse(
            card["in_use"],
            card["peak"],
            card["limit"],
            card["allocations"],
            card["reserved"],
            own["in_use"],
            own["reserved"],
            own["largest"],
        )

    def empty_cache(self) -> int:
        """Give memory that no array of this client has back to the card, for other clients; gives its bytes."""
        header, _, _ = self._connection.request("empty", self.ordinal)
        return int(header["given"])

    def _own(self, stream: Stream) -> int:
        if stream.device is not self:
            raise KernelValueError(f"the stream belongs to device {stream.device.index}, not {self.index}")
        return stream.handle

    def _targets(self, kernel: str, outputs: tuple[Spec, ...], out: Array | Sequence[Array]) -> list[Array]:
        targets = [out] if isinstance(out, Array) else list(out)
        if [target.spec for target in targets] != list(outputs) or any(t.device is not self for t in targets):
            wanted = ", ".join(map(str, outputs))
            raise KernelValueError(f"{kernel} gives {wanted}, but out is {', '.join(map(repr, targets))}")
        for target in targets:
            target.handle  # noqa: B018 - raises if it was freed
        return targets


def _shape(shape: int | Sequence[int]) -> list[int]:
    sizes = [int(n) for n in shape] if isinstance(shape, Sequence) else [int(shape)]
    if len(sizes) > MAX_AXES:
        raise KernelValueError(f"{len(sizes)} axes are too many; {MAX_AXES} are possible")
    return sizes


def _exact(attributes: dict[str, Any]) -> tuple[Any, ...] | None:
    """A key that tells apart what equality does not (1, 1.0 and True; 0.0 and -0.0); None where there is none."""
    parts = []
    for name, value in attributes.items():
        kind = type(value)
        if kind is float:
            value = value.hex()
        elif kind in (list, tuple):
            if not all(type(item) is int for item in value):
                return None
            value = tuple(value)
        elif kind not in (int, str, bool, type(None)):
            return None
        parts.append((name, kind is not tuple and kind is not list and kind.__name__, value))
    return tuple(parts)


def _plain(name: str, value: Any) -> Any:
    if name == "dtype":
        return None if value is None else dtype_name(value)
    if isinstance(value, np.generic):
        return value.item()
    return value
