"""Fourier transforms, spectra of frames, and products by index letters.

Flows in: signals. Flows out: spectra. Not here: windows (`creation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supernode.emulator.dtypes import FLOATS, NUMBERS
from supernode.emulator.onnx_backend.call import Call, Lowering


def _dft(call: Call) -> Any:
    x = call.array(0)
    if x.dtype not in FLOATS:
        return NotImplemented
    if call.version < 20:
        axis = int(call.get("axis", 1))
    else:
        axis = int(call.scalar(2, -2))
    axis += len(x.shape) if axis < 0 else 0
    inverse, onesided = bool(call.get("inverse", 0)), bool(call.get("onesided", 0))
    length = x.shape[axis]
    if inverse and onesided:
        length = 2 * (length - 1)
    length = int(call.scalar(1, length))
    return call.out(call.launch("dft", x, axis=axis, length=length, inverse=inverse, onesided=onesided))


def _stft(call: Call) -> Any:
    x = call.array(0)
    if x.dtype not in FLOATS:
        return NotImplemented
    if len(x.shape) == 2:
        x = x.reshape([*x.shape, 1])
    window = [call.cast(call.array(2), x.dtype)] if call.has(2) else []
    length = int(call.scalar(3)) if call.has(3) else (window[0].shape[0] if window else x.shape[1])
    onesided = bool(call.get("onesided", 1)) and x.shape[-1] == 1
    return call.out(call.launch("stft", x, *window, length=length, step=int(call.scalar(1)), onesided=onesided))


def _einsum(call: Call) -> Any:
    if not call.computes(*NUMBERS):
        return NotImplemented
    arrays = [call.array(place) for place in range(len(call.inputs))]
    return call.out(call.launch("einsum", *arrays, equation=call.get("equation")))


def _det(call: Call) -> Any:
    if not call.computes("f32", "f64"):
        return NotImplemented
    return call.out(call.launch("determinant", call.array(0)))


OPERATORS: Final[Mapping[str, Lowering]] = {"DFT": _dft, "STFT": _stft, "Einsum": _einsum, "Det": _det}
