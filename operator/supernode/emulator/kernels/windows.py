"""Convolutions as matrix products of columns, in any number of axes. NumPy in, NumPy out.

Flows in: images (images, channels, *sizes), weights (outputs, channels / groups, *kernel). Flows out: convolutions, or
gradients. The columns of one image at a time exist, a part of it where they would be large. Not here: kernels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from supernode.emulator.kernels.parallel import share

AnyArray = np.ndarray[Any, Any]

# Bytes of the columns that exist at once, per thread.
_COLUMN_BYTES: Final = 1 << 22
# Multiplications below which threads cost more than they bring.
_WORTH: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of the images and of the kernel, and how one moves over the other; one entry per axis."""

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def padded(self) -> tuple[int, ...]:
        """Sizes with padding."""
        return tuple(n + low + high for n, (low, high) in zip(self.sizes, self.pads, strict=True))

    @property
    def results(self) -> tuple[int, ...]:
        """Sizes of the result."""
        return tuple(
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(self.padded, self.kernel, self.stride, self.dilation, strict=True)
        )


def _inside(geometry: Geometry) -> tuple[slice, ...]:
    """Where an image lies within its padding."""
    return (slice(None), *(slice(low, low + n) for n, (low, _) in zip(geometry.sizes, geometry.pads, strict=True)))


def _pad(image: AnyArray, geometry: Geometry) -> AnyArray:
    """One image (channels, *sizes) with zeros around it."""
    if not any(low or high for low, high in geometry.pads):
        return image
    out = np.zeros((image.shape[0], *geometry.padded), image.dtype)
    out[(slice(None), *(slice(low, low + n) for n, (low, _) in zip(geometry.sizes, geometry.pads, strict=True)))] = (
        image
    )
    return out


def _parts(geometry: Geometry, rows: int, itemsize: int) -> Iterator[slice]:
    """The result's first axis in parts whose columns are not too large."""
    first, *others = geometry.results
    step = max(1, _COLUMN_BYTES // max(1, rows * math.prod(others) * itemsize))
    for start in range(0, first, step):
        yield slice(start, min(start + step, first))


def _columns(padded: AnyArray, geometry: Geometry, part: slice) -> AnyArray:
    """(groups, channels * kernel, places): under each place of the result what the kernel lies on."""
    groups, axes = geometry.groups, len(geometry.kernel)
    channels = padded.shape[0] // groups
    places = (part.stop - part.start, *geometry.results[1:])
    strides = padded.strides[1:]
    view = np.lib.stride_tricks.as_strided(
        padded[(slice(None), slice(part.start * geometry.stride[0], None))],
        (groups, channels, *geometry.kernel, *places),
        (
            channels * padded.strides[0],
            padded.strides[0],
            *(strides[i] * geometry.dilation[i] for i in range(axes)),
            *(strides[i] * geometry.stride[i] for i in range(axes)),
        ),
        writeable=False,
    )
    return view.reshape(groups, channels * math.prod(geometry.kernel), math.prod(places))


def _grouped(weight: AnyArray, groups: int) -> AnyArray:
    """(groups, outputs / groups, channels / groups * kernel)."""
    return weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:]))


def _rows(weight: AnyArray, geometry: Geometry) -> int:
    return geometry.groups * math.prod(int(n) for n in weight.shape[1:])


def convolve(x: AnyArray, weight: AnyArray, geometry: Geometry) -> AnyArray:
    """The convolution (images, outputs, *results)."""
    groups, outputs = geometry.groups, weight.shape[0]
    factors = _grouped(weight, groups)
    out = np.empty((len(x), outputs, *geometry.results), x.dtype)

    def image(number: int) -> None:
        padded = _pad(np.ascontiguousarray(x[number]), geometry)
        for part in _parts(geometry, _rows(weight, geometry), x.itemsize):
            product = factors @ _columns(padded, geometry, part)
            out[number, :, part] = product.reshape(outputs, part.stop - part.start, *geometry.results[1:])

    share(image, range(len(x)), worth=out.size * factors.shape[2] >= _WORTH)
    return out


def input_gradient(grad: AnyArray, weight: AnyArray, geometry: Geometry) -> AnyArray:
    """Gradient of x (images, channels, *sizes) from that of the result; the transposed convolution of `grad`."""
    groups = geometry.groups
    factors = _grouped(weight, groups).swapaxes(-1, -2)
    channels = weight.shape[1] * groups
    out = np.empty((len(grad), channels, *geometry.sizes), grad.dtype)
    inside = _inside(geometry)

    def image(number: int) -> None:
        padded = np.zeros((channels, *geometry.padded), grad.dtype)
        for part in _parts(geometry, _rows(weight, geometry), grad.itemsize):
            places = (part.stop - part.start, *geometry.results[1:])
            given = grad[number, :, part].reshape(groups, weight.shape[0] // groups, math.prod(places))
            columns = (factors @ given).reshape(channels, *geometry.kernel, *places)
            for offset in itertools.product(*(range(k) for k in geometry.kernel)):
                starts = [o * d for o, d in zip(offset, geometry.dilation, strict=True)]
                starts[0] += part.start * geometry.stride[0]
                target = tuple(
                    slice(begin, begin + (n - 1) * s + 1, s)
                    for begin, n, s in zip(starts, places, geometry.stride, strict=True)
                )
                place: tuple[Any, ...] = (slice(None), *offset)
                padded[(slice(None), *target)] += columns[place]
        out[number] = padded[inside]

    share(image, range(len(grad)), worth=grad.size * factors.shape[1] >= _WORTH)
    return out


def weight_gradient(grad: AnyArray, x: AnyArray, geometry: Geometry) -> AnyArray:
    """Gradient of the weights (outputs, channels / groups, *kernel): image after image, so that sums have one order."""
    groups, outputs = geometry.groups, grad.shape[1]
    inner = x.shape[1] // groups * math.prod(geometry.kernel)
    out = np.zeros((groups, outputs // groups, inner), grad.dtype)
    for number in range(len(x)):
        padded = _pad(np.ascontiguousarray(x[number]), geometry)
        for part in _parts(geometry, inner * groups, x.itemsize):
            places = (part.stop - part.start) * math.prod(geometry.results[1:])
            given = grad[number, :, part].reshape(groups, outputs // groups, places)
            out += given @ _columns(padded, geometry, part).swapaxes(-1, -2)
    return out.reshape(outputs, x.shape[1] // groups, *geometry.kernel)
