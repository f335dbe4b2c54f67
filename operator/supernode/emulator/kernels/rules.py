"""Shape and cost rules that several families share, and the conversions at a kernel's borders.

Flows in: specs and attributes. Flows out: specs, costs, arrays in the type that arithmetic runs in. Not here: kernels.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from supernode.emulator.dtypes import DTYPES, NARROW, WIDE
from supernode.emulator.kernels.table import AnyArray, Attributes, Cost, CostRule, Spec
from supernode.emulator.rounding import convert, widen
from supernode.errors import KernelIndexError, KernelTypeError, KernelValueError

__all__ = [
    "broadcast",
    "choice",
    "known_dtype",
    "moved",
    "narrow",
    "need",
    "normal_axes",
    "normal_axis",
    "normal_shape",
    "number",
    "rows_of",
    "same_dtype",
    "same_shape",
    "streaming",
    "whole",
    "wide_dtype",
    "widen",
]


def narrow(array: Any, spec: Spec) -> AnyArray:
    """A result in its output type (rounded once, to nearest even; 8-bit floats saturate) and shape, contiguous."""
    out = np.asarray(array)
    dtype = DTYPES[spec.dtype]
    if out.dtype != dtype:
        out = convert(out, dtype) if spec.dtype in NARROW else out.astype(dtype)
    if out.shape != spec.shape:
        out = out.reshape(spec.shape)
    return out if out.flags.c_contiguous else np.ascontiguousarray(out)


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's broadcasting.

    Raises:
        KernelError: the shapes do not go together.
    """
    if len(shapes) == 2 and shapes[0] == shapes[1]:
        return shapes[0]
    out: list[int] = []
    for axis in range(-max((len(s) for s in shapes), default=0), 0):
        sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(sizes) > 1:
            raise KernelValueError(f"shapes {', '.join(str(list(s)) for s in shapes)} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


def normal_axis(axis: object, ndim: int) -> int:
    """An axis counted from the front.

    Raises:
        KernelError: not an axis of an array with `ndim` axes.
    """
    try:
        if isinstance(axis, bool):
            raise TypeError(axis)
        number = operator.index(axis)  # type: ignore[arg-type]
    except TypeError:
        raise KernelTypeError(f"axis {axis!r} is not a whole number") from None
    if not -ndim <= number < ndim:
        raise KernelIndexError(f"axis {number} is not in an array with {ndim} axes")
    return number % ndim


def normal_axes(axis: object, ndim: int) -> tuple[int, ...]:
    """Axes of a reduction from None (all), a number or a list.

    Raises:
        KernelError: an axis that is not there, or twice.
    """
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(normal_axis(item, ndim) for item in (axis if isinstance(axis, list | tuple) else (axis,)))
    if len(set(axes)) != len(axes):
        raise KernelValueError(f"axis {axis} names one twice")
    return axes


def normal_shape(shape: object) -> tuple[int, ...]:
    """A shape from a number or a list of numbers.

    Raises:
        KernelError: something else, or negative.
    """
    items = shape if isinstance(shape, list | tuple) else (shape,)
    try:
        sizes = tuple(operator.index(item) for item in items)
    except TypeError:
        raise KernelTypeError(f"shape {shape!r} is not a list of whole numbers") from None
    if min(sizes, default=0) < 0:
        raise KernelValueError(f"shape {list(sizes)} has a negative size")
    return sizes


def known_dtype(value: object) -> str:
    """A dtype given as attribute.

    Raises:
        KernelError: not a dtype of the device.
    """
    if not isinstance(value, str) or value not in DTYPES:
        raise KernelTypeError(f"dtype {value!r} is none of {', '.join(DTYPES)}")
    return value


def number(attributes: Attributes, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """An attribute that is a number from low to high.

    Raises:
        KernelError: it is not.
    """
    value = attributes[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise KernelValueError(f"{name} must be from {low:g} to {high:g}, not {value!r}")
    return value


def whole(attributes: Attributes, name: str, low: int = 0, high: int = 1 << 62) -> int:
    """An attribute that is a whole number from low to high.

    Raises:
        KernelError: it is not.
    """
    value = attributes[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise KernelValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
    return value


def choice(attributes: Attributes, name: str, *words: str) -> str:
    """An attribute that is one of some words.

    Raises:
        KernelError: it is not.
    """
    value = attributes[name]
    if not isinstance(value, str) or value not in words:
        raise KernelValueError(f"{name} must be one of {', '.join(words)}, not {value!r}")
    return value


def same_dtype(specs: Sequence[Spec]) -> str:
    """The one dtype of all inputs.

    Raises:
        KernelError: there are several; nothing is converted silently.
    """
    dtype = specs[0].dtype
    for spec in specs:
        if spec.dtype != dtype:
            names = ", ".join(s.dtype for s in specs)
            raise KernelTypeError(f"inputs have several dtypes ({names}); cast them to one")
    return dtype


def same_shape(*specs: Spec) -> tuple[int, ...]:
    """The one shape of all inputs.

    Raises:
        KernelError: there are several.
    """
    if any(spec.shape != specs[0].shape for spec in specs):
        raise KernelValueError(f"shapes differ: {', '.join(map(str, specs))}")
    return specs[0].shape


def need(spec: Spec, what: str, *, dtype: str | tuple[str, ...] = (), shape: tuple[int, ...] | None = None) -> None:
    """Refuse an input that is not as the kernel needs it.

    Raises:
        KernelError: says what was needed and what came.
    """
    allowed = (dtype,) if isinstance(dtype, str) else dtype
    if (allowed and spec.dtype not in allowed) or (shape is not None and spec.shape != shape):
        wanted = "|".join(allowed) or spec.dtype
        sizes = spec.shape if shape is None else shape
        kind = KernelTypeError if allowed and spec.dtype not in allowed else KernelValueError
        raise kind(f"{what} must be {wanted}[{','.join(map(str, sizes))}], not {spec}")


def moved(specs: Sequence[Spec], outputs: Sequence[Spec]) -> float:
    """Bytes of a kernel that reads each input and writes each output once."""
    return float(sum(spec.nbytes for spec in specs) + sum(spec.nbytes for spec in outputs))


def streaming(flops_per_element: float) -> CostRule:
    """Cost of a kernel that passes over its data once, with so many operations per element of its largest array."""

    def cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
        elements = max((spec.size for spec in (*specs, *outputs)), default=0)
        return Cost(flops_per_element * elements, moved(specs, outputs))

    return cost


def wide_dtype(dtype: str) -> np.dtype[Any]:
    """Type that arithmetic on `dtype` runs in."""
    return WIDE[dtype]


def rows_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of an array seen as a matrix over its last axis.

    Raises:
        KernelError: an array without axes.
    """
    if not shape:
        raise KernelValueError("needs at least one axis")
    return math.prod(shape[:-1]), shape[-1]
