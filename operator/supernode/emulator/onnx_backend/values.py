"""What flows between the nodes of a model: tensors on the device or known to the host, lists, nothing.

Flows in: NumPy arrays. Flows out: `Tensor`s, whose data lies on the device, on the host, or on both. ONNX has element
types that the device has not (8-bit floats of other makers, 4-bit and 2-bit numbers): those lie on the device as the
bytes NumPy gives them, one per element, type `u8`; moving them is moving bytes, and arithmetic begins with a
`decode`. Strings never leave the host. Not here: who computes (`execute`).
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np

from supernode.emulator.client import Array, Device
from supernode.emulator.dtypes import ALL, DTYPES

AnyArray: TypeAlias = np.ndarray[Any, Any]
DType: TypeAlias = np.dtype[Any]

_NATIVE: Final = {DTYPES[name]: name for name in ALL}
#: What stands for an element type of one byte that the device cannot compute with.
BYTES: Final = "u8"
STRING: Final = np.dtype(object)


def storage(dtype: DType) -> str:
    """The device's dtype that holds elements of a NumPy type."""
    return _NATIVE.get(dtype, BYTES)


def native(dtype: DType) -> bool:
    """Whether the device computes with this type itself."""
    return dtype in _NATIVE


class Tensor:
    """An array of a model.

    Attributes:
        dtype: NumPy's, `object` for strings.
        shape: sizes of the axes.
        array: on the device; None: not there (yet).
        host: the value, where the host knows it without asking the device; nobody writes into it.
        shapely: the result of host arithmetic on shapes and constants (see `execute`).
    """

    __slots__ = ("array", "dtype", "host", "shape", "shapely")

    def __init__(
        self, dtype: DType, shape: tuple[int, ...], array: Array | None, host: AnyArray | None, shapely: bool = False
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.array = array
        self.host = host
        self.shapely = shapely

    def on(self, device: Device) -> Array:
        """The data on the device; copied there at the first use."""
        if self.array is None:
            self.array = upload(device, self.host)  # type: ignore[arg-type]
        return self.array

    def value(self) -> AnyArray:
        """The data on the host; waits for the device if only it knows. Read only."""
        if self.host is None:
            found = self.array.numpy()  # type: ignore[union-attr]
            self.host = found if found.dtype == self.dtype else found.view(self.dtype)
        return self.host

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __repr__(self) -> str:
        return f"{self.dtype.name}{list(self.shape)}"


#: A tensor, a sequence, an optional without a value, or what only the host has a name for (maps).
Value: TypeAlias = Any


def upload(device: Device, data: AnyArray) -> Array:
    """Copy to the device, as it is or as bytes."""
    return device.array(data if native(data.dtype) else np.ascontiguousarray(data).view(np.uint8).reshape(data.shape))


def from_host(value: Any) -> Value:
    """A value of the host as one of a model: arrays become tensors, lists sequences."""
    if isinstance(value, np.ndarray | np.generic | int | float | bool | str):
        array = np.asarray(value)
        if array.dtype.kind in "US":
            array = array.astype(object)
        return Tensor(array.dtype, array.shape, None, array)
    if isinstance(value, list | tuple):
        return [from_host(item) for item in value]
    return value


def to_host(value: Value) -> Any:
    """The other way round; waits for the device."""
    if isinstance(value, Tensor):
        return value.value()
    if isinstance(value, list):
        return [to_host(item) for item in value]
    return value


def describe(value: Value) -> str:
    """A value's type for messages."""
    if isinstance(value, list):
        return f"sequence of {len(value)}"
    return repr(value) if isinstance(value, Tensor) else type(value).__name__
