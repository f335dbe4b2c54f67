"""Handles to arrays on a device.

Flows in: a handle with its dtype and shape, which are known before the sidecar has done anything. Flows out: the data,
when it is asked for. A handle that is garbage-collected frees its device memory with the next batch. Not here:
launches (`devices`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import Spec
from supernode.emulator.wire import VIEW
from supernode.errors import InvalidHandleError, KernelTypeError, KernelValueError

if TYPE_CHECKING:
    from supernode.emulator.client.devices import Device


class Array:
    """An array on a device. Made by `Device` methods only.

    Attributes:
        device: where it is.
        spec: dtype (short name) and shape.
    """

    __slots__ = ("__weakref__", "_dead", "_handle", "device", "spec")

    def __init__(self, device: Device, spec: Spec, handle: int) -> None:
        self.device = device
        self.spec = spec
        self._handle = handle
        self._dead = device.emulator.connection.dead

    @property
    def handle(self) -> int:
        """The number that the sidecar knows it by; InvalidHandleError after `free`."""
        if self._handle < 0:
            raise InvalidHandleError(f"this array ({self.spec}) was freed")
        return self._handle

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.spec.shape

    @property
    def dtype(self) -> str:
        """Short name of the element type."""
        return self.spec.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.spec.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.spec.size

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.spec.nbytes

    def numpy(self) -> np.ndarray[Any, Any]:
        """The data, copied to the host; waits for it.

        Raises:
            EmulatorError: the earliest failure of a call since the last wait, or why this array was never written.
        """
        return self.device.emulator.read(self)

    def item(self) -> Any:
        """The only element as a Python number; waits for it.

        Raises:
            KernelError: there is more than one element, or none.
        """
        if self.size != 1:
            raise KernelValueError(f"item() needs an array of one element, not {self.spec}")
        value = self.numpy().reshape(())
        kind = DTYPES[self.dtype].kind
        return value.item() if kind in "iubc" else float(value)

    def reshape(self, *shape: int | Sequence[int]) -> Array:
        """The same memory seen in another shape; one size may be -1.

        Raises:
            KernelError: the numbers of elements differ.
        """
        sizes = [int(n) for part in shape for n in (part if isinstance(part, Sequence) else (part,))]
        if sizes.count(-1) == 1:
            known = math.prod(n for n in sizes if n != -1)
            sizes[sizes.index(-1)] = self.size // known if known else 0
        if min(sizes, default=0) < 0 or math.prod(sizes) != self.size:
            raise KernelValueError(f"{self.spec} cannot be reshaped to {list(sizes)}")
        return self._view(sizes, 0)

    def part(self, start: int, shape: Sequence[int]) -> Array:
        """A run of elements of this array, in the order of memory, seen in a shape of its own; the memory is shared.

        Flat buffers of parameters and gradients are used by their parts this way: no copy, no launch.

        Args:
            start: number of the first element.
            shape: of the part.

        Raises:
            KernelError: the part does not lie inside.
        """
        sizes = [int(n) for n in shape]
        if min(sizes, default=0) < 0 or start < 0 or start + math.prod(sizes) > self.size:
            raise KernelValueError(f"{self.spec} has no part of shape {sizes} from element {start}")
        return self._view(sizes, int(start))

    def _view(self, sizes: list[int], start: int) -> Array:
        connection = self.device.emulator.connection
        handle = connection.handle()
        connection.record_codes([VIEW, self.handle, handle, start, len(sizes), *sizes], sys._getframe(0))
        return Array(self.device, Spec(self.dtype, tuple(sizes)), handle)

    def to(self, device: Device) -> Array:
        """A copy on another device of the pod (the array itself if it is there).

        Raises:
            KernelTypeError: that is no device of this connection.
        """
        if device is self.device:
            return self
        if device not in self.device.emulator.devices:
            raise KernelTypeError(
                f"{device!r} is none of {list(self.device.emulator.devices)}; numpy() copies to the host"
            )
        connection = self.device.emulator.connection
        handle = connection.handle()
        connection.record(["move", device.ordinal, self.handle, handle])
        return Array(device, self.spec, handle)

    def free(self) -> None:
        """Give the device memory back now; views keep it. Later use is an InvalidHandleError."""
        if self._handle >= 0:
            self._dead.append(self._handle)
            self._handle = -1

    def __del__(self) -> None:
        # Only appends: this may run in any thread and at any moment.
        if getattr(self, "_handle", -1) >= 0:
            self._dead.append(self._handle)

    def __repr__(self) -> str:
        return f"<Array {self.spec} on device {self.device.index}>"
