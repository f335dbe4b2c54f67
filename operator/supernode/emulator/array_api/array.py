"""The array object: operators, attributes, conversion to Python numbers, exchange through DLPack.

Flows in: handles of the client. Flows out: new arrays (operators launch kernels and return at once) and host data
(whatever gives a Python number waits). An operator in place makes a new array and takes its place, so views never
share memory. Not here: functions (one module per family); what operators do (`elementwise`).
"""

from __future__ import annotations

import enum
import operator
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from supernode.emulator import client
from supernode.emulator.array_api import session
from supernode.emulator.array_api.types import (
    BOOL,
    COMPLEX,
    DEFAULT_COMPLEX,
    DEFAULT_INTEGER,
    DEFAULT_REAL,
    OF_SHORT,
    SIGNED,
    UNSIGNED,
    DType,
    Scalar,
    bool_,
    chosen,
    promote_scalar,
)

if TYPE_CHECKING:
    from supernode.emulator.client import Device

_VERSIONS: Final = ("2022.12", "2023.12", "2024.12")


class DLDeviceType(enum.IntEnum):
    """DLPack's numbers of device types that arrays are handed over on."""

    CPU = 1


class Array:
    """An array on an emulated device. Made by the namespace's functions only."""

    __slots__ = ("__weakref__", "_handle")
    # NumPy leaves mixed operators to this class.
    __array_ufunc__ = None

    def __init__(self, handle: client.Array) -> None:
        self._handle = handle

    @property
    def dtype(self) -> DType:
        """Element type."""
        return OF_SHORT[self._handle.dtype]

    @property
    def device(self) -> Device:
        """The device that it lies on."""
        return self._handle.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self._handle.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._handle.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._handle.size

    @property
    def mT(self) -> Array:  # noqa: N802 - the standard's name
        """The last two axes swapped."""
        if self.ndim < 2:
            raise ValueError(f"mT needs two axes or more, not shape {self.shape}")
        return launch("transpose", self, axes=[*range(self.ndim - 2), self.ndim - 1, self.ndim - 2])

    @property
    def T(self) -> Array:  # noqa: N802 - the standard's name
        """The two axes swapped."""
        if self.ndim != 2:
            raise ValueError(f"T needs two axes, not shape {self.shape}; permute_dims takes any number")
        return launch("transpose", self)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy on the host; waits for it."""
        return self._handle.numpy()

    def to_device(self, device: Device, /, *, stream: object = None) -> Array:
        """A copy on another device of the pod (the array itself if it is there).

        Raises:
            ValueError: a stream was given; copies go through the devices' default streams.
        """
        if stream is not None:
            raise ValueError("streams cannot be chosen")
        return Array(self._handle.to(session.device(device)))

    def __array_namespace__(self, *, api_version: str | None = None) -> ModuleType:
        if api_version is not None and api_version not in _VERSIONS:
            raise ValueError(f"version {api_version!r} of the standard is none of {', '.join(_VERSIONS)}")
        return sys.modules[__package__ or ""]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """For `numpy.asarray`: a copy on the host; waits for it.

        Raises:
            ValueError: it is to be no copy.
        """
        if copy is False:
            raise ValueError("the data is on an emulated device: a NumPy array of it is a copy")
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[enum.Enum, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if stream is not None:
            raise ValueError("the data is handed over in host memory, which has no streams")
        if dl_device is not None and (
            int(dl_device[0].value if isinstance(dl_device[0], enum.Enum) else dl_device[0]),
            dl_device[1],
        ) != (1, 0):
            raise BufferError(f"the data is handed over in host memory (1, 0), not {dl_device}")
        if copy is False:
            raise BufferError("the data is on an emulated device: handing it over copies it")
        return self.numpy().__dlpack__(max_version=max_version)

    def __dlpack_device__(self) -> tuple[enum.Enum, int]:
        return DLDeviceType.CPU, 0

    def _single(self, what: str) -> Any:
        if self.ndim:
            raise TypeError(f"{what} needs an array without axes, not shape {self.shape}")
        return self._handle.item()

    def __bool__(self) -> bool:
        return bool(self._single("bool()"))

    def __int__(self) -> int:
        if self.dtype.kind == COMPLEX:
            raise TypeError("int() of a complex number")
        return int(self._single("int()"))

    def __float__(self) -> float:
        if self.dtype.kind == COMPLEX:
            raise TypeError("float() of a complex number")
        return float(self._single("float()"))

    def __complex__(self) -> complex:
        return complex(self._single("complex()"))

    def __index__(self) -> int:
        if self.dtype.kind not in (SIGNED, UNSIGNED):
            raise TypeError(f"only whole numbers are an index, not {self.dtype.name}")
        return operator.index(self._single("index()"))

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> Array:
        from supernode.emulator.array_api import indexing

        return indexing.get(self, key)

    def __setitem__(self, key: Any, value: Array | Scalar, /) -> None:
        from supernode.emulator.array_api import indexing

        indexing.put(self, key, value)

    def __repr__(self) -> str:
        if self.size > 1000:
            return f"<Array {self.dtype.name}{list(self.shape)} on device {self.device.index}>"
        text = np.array2string(self.numpy(), separator=", ", prefix="Array(")
        return f"Array({text}, dtype={self.dtype.name}, device={self.device.index})"

    def __format__(self, spec: str) -> str:
        return format(self._handle.item(), spec) if spec and not self.ndim else format(repr(self), spec)

    def __copy__(self) -> Array:
        return launch("copy", self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Array:
        return launch("copy", self)

    def __reduce__(self) -> Any:
        raise TypeError("an array on a device is not pickled; numpy() gives a copy on the host")

    __hash__ = None  # type: ignore[assignment]

    def _binary(self, name: str, other: Any) -> Array:
        return _function(name)(self, other) if operand(other) else NotImplemented

    def _reflected(self, name: str, other: Any) -> Array:
        return _function(name)(other, self) if operand(other) else NotImplemented

    def _place(self, name: str, other: Any) -> Array:
        if not operand(other):
            return cast(Array, NotImplemented)
        found = _function(name)(self, other)
        if found.dtype is not self.dtype or found.shape != self.shape:
            raise TypeError(
                f"{name} in place would make {found.dtype.name}{list(found.shape)} of "
                f"{self.dtype.name}{list(self.shape)}"
            )
        self._handle = found._handle
        return self

    def __abs__(self) -> Array:
        return _function("abs")(self)

    def __neg__(self) -> Array:
        return _function("negative")(self)

    def __pos__(self) -> Array:
        return _function("positive")(self)

    def __invert__(self) -> Array:
        return _function("bitwise_invert")(self)

    def __eq__(self, other: object, /) -> Array:  # type: ignore[override]
        return self._binary("equal", other)

    def __ne__(self, other: object, /) -> Array:  # type: ignore[override]
        return self._binary("not_equal", other)


def _function(name: str) -> Callable[..., Array]:
    from supernode.emulator.array_api import elementwise, linear_algebra

    return linear_algebra.matmul if name == "matmul" else elementwise.FUNCTIONS[name]


#: Operator -> function; each has three forms, the comparisons one.
OPERATORS: Final = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "pow",
    "matmul": "matmul",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift",
}
COMPARISONS: Final = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}


def _add_operators() -> None:
    def form(method: str, function: str, name: str) -> None:
        apply = getattr(Array, method)

        def run(self: Array, other: Any, /) -> Array:
            found: Array = apply(self, function, other)
            return found

        run.__name__ = name
        run.__qualname__ = f"Array.{name}"
        setattr(Array, name, run)

    for name, function in OPERATORS.items():
        form("_binary", function, f"__{name}__")
        form("_reflected", function, f"__r{name}__")
        form("_place", function, f"__i{name}__")
    for name, function in COMPARISONS.items():
        form("_binary", function, f"__{name}__")


_add_operators()


def operand(value: object) -> bool:
    """Whether operators take it: an array or a Python number."""
    return isinstance(value, Array | bool | int | float | complex) and not isinstance(value, np.generic)


def need_array(value: object, function: str = "the function") -> Array:
    """The value, if it is an array.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, Array):
        raise TypeError(f"{function} needs arrays of this namespace, not {type(value).__name__}")
    return value


def launch(kernel: str, *arrays: Array, **attributes: Any) -> Array:
    """Run a kernel with one result on the device of its inputs.

    Raises:
        ValueError: the inputs lie on several devices.
    """
    found: client.Array = _launch(kernel, arrays, attributes)
    return Array(found)


def launch_several(kernel: str, *arrays: Array, **attributes: Any) -> tuple[Array, ...]:
    """Run a kernel with several results (or none)."""
    found = _launch(kernel, arrays, attributes)
    return tuple(Array(item) for item in (found if isinstance(found, tuple) else (found,)))


def _launch(kernel: str, arrays: tuple[Array, ...], attributes: dict[str, Any]) -> Any:
    place = need_array(arrays[0], kernel).device
    for array in arrays[1:]:
        if need_array(array, kernel).device is not place:
            raise ValueError(f"{kernel}: the arrays lie on devices {place} and {array.device}; use to_device")
    return place.launch(kernel, *(array._handle for array in arrays), **attributes)


def make(kernel: str, device: Device | None, **attributes: Any) -> Array:
    """Run a kernel without inputs."""
    return Array(session.device(device).launch(kernel, **attributes))


def upload(data: np.ndarray[Any, Any], device: Device | None) -> Array:
    """Copy host data to a device."""
    return Array(session.device(device).array(data, data.dtype))


def scalar(value: Scalar, dtype: DType, device: Device | None) -> Array:
    """A Python number as an array without axes.

    Raises:
        OverflowError: an integer that does not fit.
    """
    return upload(np.asarray(dtype.numpy.type(value)), device)


def convert(x: Array, dtype: DType) -> Array:
    """The array in another dtype (itself if it has it)."""
    return x if x.dtype is dtype else launch("cast", x, dtype=chosen(dtype, x.dtype).short)


def default_dtype(value: Scalar) -> DType:
    """The dtype of an array made of such Python numbers."""
    if isinstance(value, bool):
        return bool_
    return DEFAULT_INTEGER if isinstance(value, int) else DEFAULT_REAL if isinstance(value, float) else DEFAULT_COMPLEX


def together(x1: Array | Scalar, x2: Array | Scalar) -> tuple[Array, Array]:
    """Two operands in their common dtype; one of them may be a Python number.

    Raises:
        TypeError: neither is an array, or they have no common dtype.
    """
    from supernode.emulator.array_api.types import result_type

    if isinstance(x1, Array) and isinstance(x2, Array):
        dtype = result_type(x1, x2)
        return convert(x1, dtype), convert(x2, dtype)
    if isinstance(x1, Array) and operand(x2):
        dtype = promote_scalar(x1.dtype, x2)  # type: ignore[arg-type]
        return convert(x1, dtype), scalar(x2, dtype, x1.device)  # type: ignore[arg-type]
    if isinstance(x2, Array) and operand(x1):
        dtype = promote_scalar(x2.dtype, x1)  # type: ignore[arg-type]
        return scalar(x1, dtype, x2.device), convert(x2, dtype)  # type: ignore[arg-type]
    raise TypeError(f"one of the two must be an array: {type(x1).__name__}, {type(x2).__name__}")


def is_bool(x: Array) -> bool:
    """Whether it holds truth values."""
    return x.dtype.kind == BOOL
