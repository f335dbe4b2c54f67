"""Conversion between element types: to nearest even once, saturating where a card saturates, or stochastic.

Flows in: arrays. Flows out: arrays of another type. Every conversion rounds once, whatever lies between the two types.
Floats of 8 bits saturate (largest number instead of infinity; NaN stays), unless the caller wants IEEE 754's overflow;
float to integer truncates and saturates, NaN gives 0. Not here: arithmetic (`kernels`).
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np

from supernode.emulator.dtypes import DTYPES, FP8, NARROW

AnyArray = np.ndarray[Any, Any]

_finfo: Final[Any] = ml_dtypes.finfo
_BF16: Final = DTYPES["bf16"]
_FP8_TYPES: Final = tuple(DTYPES[name] for name in FP8)
_NARROW_TYPES: Final = tuple(DTYPES[name] for name in NARROW)
_WIDENED: Final = {dtype: np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32) for dtype in _FP8_TYPES}
_LARGEST: Final = {dtype: np.float32(_finfo(dtype).max) for dtype in _FP8_TYPES}
#: type -> (bits of the fraction, smallest exponent of a normal number, largest number)
_FORMATS: Final = {
    dtype: (int(info.nmant), int(info.minexp), float(info.max))
    for dtype, info in ((dtype, _finfo(dtype)) for dtype in (*_NARROW_TYPES, DTYPES["f32"]))
}
_TF32_DROPPED: Final = 13


def widen(array: AnyArray) -> AnyArray:
    """Floats of 8 and 16 bits as f32 (exact), everything else as it is."""
    dtype = array.dtype
    if dtype == _BF16:
        if array.ndim and array.flags.c_contiguous:
            wide = np.empty(array.shape, np.uint32)
            np.left_shift(array.view(np.uint16), 16, out=wide, dtype=np.uint32, casting="unsafe")
            return wide.view(np.float32)
        return array.astype(np.float32)
    if dtype in _WIDENED:
        return _WIDENED[dtype][array.view(np.uint8)] if array.ndim else array.astype(np.float32)
    return array.astype(np.float32) if dtype == np.float16 else array


def widen_into(array: AnyArray, out: AnyArray) -> None:
    """`widen` into an f32 array that is there already; any type of real number may come."""
    if array.dtype == _BF16 and array.ndim:
        np.left_shift(array.view(np.uint16), 16, out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
    else:
        np.copyto(out, array, casting="unsafe")


def convert(array: AnyArray, dtype: np.dtype[Any], *, saturate: bool = True) -> AnyArray:
    """An array in another type: a new array, unless it has that type already.

    Args:
        array: any type of the device.
        dtype: NumPy type of the result.
        saturate: what does not fit a float of 8 bits becomes its largest number; otherwise infinity (NaN in e4m3).
    """
    source = array.dtype
    if source == dtype:
        return array
    if dtype.kind in "iu" and source.kind not in "iub":
        return _to_integers(array, dtype)
    if dtype not in _NARROW_TYPES:
        return np.asarray(array.astype(dtype))
    array = _single_rounding(array, dtype)
    if saturate and dtype in _LARGEST:
        array = np.clip(array, -_LARGEST[dtype], _LARGEST[dtype])  # NaN stays
    return np.asarray(array.astype(dtype))


def _single_rounding(array: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    """A type from which NumPy's conversion to a narrow one rounds correctly: f32, or f64 for f16."""
    if array.dtype.kind in "iu":
        if array.dtype.itemsize <= 2:
            return array.astype(np.float32)
        if array.dtype.itemsize == 8:
            # Bits that no narrow type sees are gathered in one, so that f64 holds the number.
            rest = array & array.dtype.type(0xFFFFF)
            large = (array - rest) | ((rest != 0).astype(array.dtype) << array.dtype.type(20))
            array = np.where(np.abs(array.astype(np.float64)) < 2.0**52, array, large)
        array = array.astype(np.float64)
    if array.dtype.kind == "c":
        array = array.real
    if array.dtype == np.float64:
        return array if dtype == np.float16 else _to_odd(array)
    return array if array.dtype == np.float32 else array.astype(np.float32)


def _to_odd(array: AnyArray) -> AnyArray:
    """f64 as f32, inexact numbers to the neighbour with an odd last bit: rounding that again gives the right number."""
    near = np.asarray(array.astype(np.float32))
    back = near.astype(np.float64)
    bits = near.view(np.uint32)
    even = (back != array) & ((bits & 1) == 0) & np.isfinite(near)
    if not even.any():
        return near
    outwards = np.abs(array) > np.abs(back)
    # The neighbour away from zero is one more in the bits, the one towards zero one less.
    odd = np.where(outwards, bits + np.uint32(1), bits - np.uint32(1))
    return np.asarray(np.where(even, odd, bits).astype(np.uint32).view(np.float32))


def _to_integers(array: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    # Saturating, NaN to 0: what devices do, and unlike a C cast it is the same everywhere.
    limits = np.iinfo(dtype)
    wide = np.asarray(array.real if array.dtype.kind == "c" else array).astype(np.float64)
    whole = np.trunc(np.nan_to_num(wide, nan=0.0, posinf=np.inf, neginf=-np.inf))
    inside = np.clip(whole, float(limits.min), np.nextafter(float(limits.max) + 1.0, 0.0))
    out = np.asarray(inside.astype(dtype))
    out[whole > float(limits.max)] = limits.max
    return out.reshape(array.shape)


def tf32(array: AnyArray) -> AnyArray:
    """f32 numbers rounded to the 10 bits of fraction that tf32 has, to nearest even, as f32; a new array."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    out = bits >> np.uint32(_TF32_DROPPED)
    out &= np.uint32(1)
    out += np.uint32((1 << (_TF32_DROPPED - 1)) - 1)
    out += bits
    out &= np.uint32(0xFFFFFFFF << _TF32_DROPPED & 0xFFFFFFFF)
    special = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    np.copyto(out, bits, where=special)
    return out.view(np.float32).reshape(array.shape)


def stochastic(array: AnyArray, dtype: np.dtype[Any], bits: AnyArray) -> AnyArray:
    """An array in a narrower float type, rounded up or down with the probability of the distance.

    Args:
        array: f32 or f64; NaN and infinity stay (largest number in 8 bits).
        dtype: f16, bf16, f32 or a float of 8 bits.
        bits: uint32 random numbers, one per element.
    """
    fraction, least, top = _FORMATS[dtype]
    wide = array.astype(np.float64)
    _, exponent = np.frexp(wide)
    quantum = np.maximum(exponent - 1, least) - fraction
    steps = np.ldexp(wide, -quantum)
    whole = np.floor(steps)
    # The random number is in the middle of its 2^-32: exact numbers never move, and none is favoured.
    whole += steps - whole > (bits.reshape(array.shape) + 0.5) * 2.0**-32
    out = np.ldexp(whole, quantum)
    out = np.where(np.isfinite(wide), out, wide)
    if dtype in _LARGEST:
        out = np.clip(out, -top, top)
    elif not np.isfinite(out).all() or np.abs(out).max(initial=0.0) > top:
        out = np.where(np.abs(out) > top, np.copysign(np.inf, out), out)
    return np.asarray(out.astype(np.float32).astype(dtype))
