"""Windows and discrete Fourier transforms of signals whose real and imaginary parts are the last axis.

Flows in: signals (..., 1) or (..., 2). Flows out: spectra (..., 2), or what was real (..., 1), computed in f32 (f64 of
f64) and rounded once. Not here: transforms of complex dtypes (`fourier`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.rules import known_dtype, moved, narrow, normal_axis, streaming, widen
from supernode.emulator.kernels.table import LARGEST, REQUIRED, AnyArray, Attributes, Bound, Cost, Kernel, Spec, example
from supernode.errors import KernelValueError

#: kind -> weights of cos(0), cos(x), cos(2x); x goes once around.
_WINDOWS: Final = {"hann": (0.5, -0.5, 0.0), "hamming": (25 / 46, -21 / 46, 0.0), "blackman": (0.42, -0.5, 0.08)}


def _window_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    size = operator.index(attributes["size"])
    if attributes["kind"] not in _WINDOWS or size < 0:
        raise KernelValueError(f"a window {attributes['kind']!r} of {size} is none; there are {', '.join(_WINDOWS)}")
    return (Spec(known_dtype(attributes["dtype"]), (size,)),)


def _window(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    size = attributes["size"]
    around = size if attributes["periodic"] else max(size - 1, 1)
    angle = 2 * np.pi * np.arange(size, dtype=np.float64) / max(around, 1)
    a, b, c = _WINDOWS[attributes["kind"]]
    return (narrow(a + b * np.cos(angle) + c * np.cos(2 * angle), outputs[0]),)


def _dft_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (x,) = specs
    ndim = len(x.shape)
    length = operator.index(attributes["length"])
    if ndim < 2 or x.shape[-1] not in (1, 2) or length < 1:
        raise KernelValueError(f"{x} is no signal with real (and imaginary) parts last, or {length} is no length")
    axis = normal_axis(attributes["axis"], ndim)
    if axis == ndim - 1:
        raise KernelValueError("the last axis holds the parts of the numbers")
    if attributes["inverse"] and attributes["onesided"]:
        return (Spec(x.dtype, (*x.shape[:axis], length, *x.shape[axis + 1 : -1], 1)),)
    count = length // 2 + 1 if attributes["onesided"] else length
    return (Spec(x.dtype, (*x.shape[:axis], count, *x.shape[axis + 1 : -1], 2)),)


def _complex(x: AnyArray) -> Any:
    wide = widen(x)
    if x.shape[-1] == 1:
        return wide[..., 0]
    out = np.empty(x.shape[:-1], np.complex64 if wide.dtype == np.float32 else np.complex128)
    out.real, out.imag = wide[..., 0], wide[..., 1]
    return out


def _dft(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    signal, n = _complex(inputs[0]), attributes["length"]
    axis = normal_axis(attributes["axis"], inputs[0].ndim)
    if attributes["inverse"] and attributes["onesided"]:
        return (narrow(np.fft.irfft(signal, n, axis)[..., None], outputs[0]),)
    if attributes["inverse"]:
        found = np.fft.ifft(signal, n, axis)
    elif attributes["onesided"]:
        found = np.fft.rfft(np.real(signal), n, axis)
    else:
        found = np.fft.fft(signal, n, axis)
    return (narrow(np.stack([found.real, found.imag], axis=-1), outputs[0]),)


def _transform_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """5 n log2(n) operations per transform of n points."""
    length = max(int(attributes["length"]), 2)
    points = max(outputs[0].size // 2, specs[0].size // specs[0].shape[-1])
    return Cost(5.0 * points * np.log2(length), moved(specs, outputs))


def _frames(specs: Sequence[Spec], attributes: Attributes) -> tuple[int, int]:
    """(frames, points of a spectrum)."""
    x = specs[0]
    length, step = operator.index(attributes["length"]), operator.index(attributes["step"])
    if len(x.shape) != 3 or x.shape[-1] not in (1, 2) or step < 1 or not 1 <= length <= x.shape[1]:
        raise KernelValueError(f"{x} has no frames of {length} every {step}")
    if len(specs) > 1 and specs[1].shape != (length,):
        raise KernelValueError(f"the window must have {length} numbers, not {specs[1]}")
    return (x.shape[1] - length) // step + 1, length // 2 + 1 if attributes["onesided"] else length


def _stft_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    frames, points = _frames(specs, attributes)
    return (Spec(specs[0].dtype, (specs[0].shape[0], frames, points, 2)),)


def _stft(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    signal, length, step = _complex(inputs[0]), attributes["length"], attributes["step"]
    frames = np.lib.stride_tricks.sliding_window_view(signal, length, axis=1)[:, ::step]
    if len(inputs) > 1:
        frames = frames * widen(inputs[1])
    if attributes["onesided"]:
        found = np.fft.rfft(np.real(frames), axis=-1)
    else:
        found = np.fft.fft(frames, axis=-1)
    return (narrow(np.stack([found.real, found.imag], axis=-1), outputs[0]),)


KERNELS: Final = (
    Kernel(
        "window",
        (),
        FLOATS,
        _window_shape,
        streaming(4),
        _window,
        "a window of size numbers: hann, hamming or blackman",
        {"size": REQUIRED, "kind": REQUIRED, "periodic": True, "dtype": "f32"},
        bound=Bound(1),
        examples=(
            example(size=9, kind="hann"),
            example(size=8, kind="blackman", periodic=False),
        ),
    ),
    Kernel(
        "dft",
        ("x",),
        FLOATS,
        _dft_shape,
        _transform_cost,
        _dft,
        "discrete Fourier transform along axis of length points; onesided: of (inverse: to) real numbers",
        {"axis": REQUIRED, "length": REQUIRED, "inverse": False, "onesided": False},
        bound=Bound(64, LARGEST),
        examples=(
            example((2, 8, 2), axis=1, length=8),
            example((2, 9, 1), axis=1, length=9, onesided=True),
        ),
    ),
    Kernel(
        "stft",
        ("x", "window"),
        FLOATS,
        _stft_shape,
        _transform_cost,
        _stft,
        "spectra of frames of length points, step apart, of x (batch, points, 1 or 2), each times window",
        {"length": REQUIRED, "step": REQUIRED, "onesided": True},
        optional=1,
        bound=Bound(64, LARGEST, degree=2),
        examples=(example((2, 16, 1), (8,), length=8, step=4),),
    ),
)
