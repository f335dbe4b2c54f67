"""The Fourier transform extension of the standard.

Flows in: arrays. Flows out: transforms in the same precision. Not here: the transforms themselves (the kernels of
family `fourier`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from supernode.emulator.array_api.array import Array, convert, launch, need_array, upload
from supernode.emulator.array_api.manipulation import normal
from supernode.emulator.array_api.types import COMPLEX, DEFAULT_REAL, REAL, DType, chosen, need_kind

if TYPE_CHECKING:
    from supernode.emulator.client import Device

__all__ = [
    "fft",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "ifft",
    "ifftn",
    "ifftshift",
    "ihfft",
    "irfft",
    "irfftn",
    "rfft",
    "rfftfreq",
    "rfftn",
]


def _one(kernel: str, x: Array, n: int | None, axis: int, norm: str, *kinds: str) -> Array:
    need_kind(kernel, need_array(x, kernel).dtype, *kinds)
    return launch(kernel, x, axes=[normal(axis, x.ndim)], lengths=None if n is None else [n], norm=norm)


def _several(
    kernel: str, x: Array, s: Sequence[int] | None, axes: Sequence[int] | None, norm: str, *kinds: str
) -> Array:
    need_kind(kernel, need_array(x, kernel).dtype, *kinds)
    if axes is None:
        axes = range(x.ndim) if s is None else range(x.ndim - len(s), x.ndim)
    places = [normal(axis, x.ndim) for axis in axes]
    return launch(kernel, x, axes=places, lengths=None if s is None else list(s), norm=norm)


def fft(x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """Fourier transform along an axis."""
    return _one("fft", x, n, axis, norm, REAL, COMPLEX)


def ifft(x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """Inverse of `fft`."""
    return _one("ifft", x, n, axis, norm, REAL, COMPLEX)


def fftn(
    x: Array, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
) -> Array:
    """Fourier transform along several axes."""
    return _several("fft", x, s, axes, norm, REAL, COMPLEX)


def ifftn(
    x: Array, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
) -> Array:
    """Inverse of `fftn`."""
    return _several("ifft", x, s, axes, norm, REAL, COMPLEX)


def rfft(x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """Fourier transform of real numbers."""
    return _one("rfft", x, n, axis, norm, REAL)


def irfft(x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """Inverse of `rfft`."""
    return _one("irfft", x, n, axis, norm, REAL, COMPLEX)


def rfftn(
    x: Array, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
) -> Array:
    """Fourier transform of real numbers along several axes."""
    return _several("rfft", x, s, axes, norm, REAL)


def irfftn(
    x: Array, /, *, s: Sequence[int] | None = None, axes: Sequence[int] | None = None, norm: str = "backward"
) -> Array:
    """Inverse of `rfftn`."""
    return _several("irfft", x, s, axes, norm, REAL, COMPLEX)


def hfft(x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """Fourier transform of a Hermitian half."""
    return _one("hfft", x, n, axis, norm, REAL, COMPLEX)


def ihfft(x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Array:
    """Inverse of `hfft`."""
    return _one("ihfft", x, n, axis, norm, REAL)


def fftfreq(n: int, /, *, d: float = 1.0, dtype: DType | None = None, device: Device | None = None) -> Array:
    """Sample frequencies of `fft`."""
    return convert(upload(np.fft.fftfreq(n, d), device), chosen(dtype, DEFAULT_REAL))


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: DType | None = None, device: Device | None = None) -> Array:
    """Sample frequencies of `rfft`."""
    return convert(upload(np.fft.rfftfreq(n, d), device), chosen(dtype, DEFAULT_REAL))


def _shifted(x: Array, axes: int | Sequence[int] | None, sign: int) -> Array:
    need_kind("fftshift", need_array(x, "fftshift").dtype, REAL, COMPLEX)
    given = range(x.ndim) if axes is None else (axes,) if isinstance(axes, int) else axes
    places = [normal(axis, x.ndim) for axis in given]
    shifts = [x.shape[axis] // 2 if sign > 0 else -(x.shape[axis] // 2) for axis in places]
    return launch("roll", x, shift=shifts, axis=places)


def fftshift(x: Array, /, *, axes: int | Sequence[int] | None = None) -> Array:
    """Frequency 0 moved to the middle."""
    return _shifted(x, axes, 1)


def ifftshift(x: Array, /, *, axes: int | Sequence[int] | None = None) -> Array:
    """Inverse of `fftshift`."""
    return _shifted(x, axes, -1)
