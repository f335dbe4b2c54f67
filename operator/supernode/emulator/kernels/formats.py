"""Number formats that the device stores as bytes: 8-bit floats of several makers, 6-, 4- and 2-bit numbers.

Flows in: floats or integers, or the bytes (`u8`, one element each). Flows out: the other one. Rounding is to nearest
even, once; where a format has no infinity, saturation gives its largest number, else NaN. Also here: quantisation with
a scale and a zero point, and bits seen as another type. Not here: arithmetic in these formats (nothing computes in
them; cards decode first, too).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np

from supernode.emulator.dtypes import ALL, DTYPES, FLOATS, ITEM_BYTES, NUMBERS
from supernode.emulator.kernels.rules import broadcast, known_dtype, narrow, need, streaming, widen
from supernode.emulator.kernels.table import (
    EXACT,
    REQUIRED,
    AnyArray,
    Attributes,
    Draw,
    Kernel,
    Spec,
    example,
    not_compared,
)
from supernode.errors import KernelTypeError, KernelValueError

#: name -> NumPy's type of the bytes.
FORMATS: Final[dict[str, np.dtype[Any]]] = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in (
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "float6_e2m3fn",
        "float6_e3m2fn",
        "float4_e2m1fn",
        "int4",
        "uint4",
        "int2",
        "uint2",
    )
}
_WHOLE: Final = ("int4", "uint4", "int2", "uint2")
_ROUNDINGS: Final = ("nearest", "up", "down")


def _format(attributes: Attributes) -> str:
    name = attributes["format"]
    if name not in FORMATS:
        raise KernelValueError(f"format {name!r} is none of {', '.join(FORMATS)}")
    return str(name)


def _encode_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _format(attributes)
    if attributes["rounding"] not in _ROUNDINGS:
        raise KernelValueError(f"rounding {attributes['rounding']!r} is none of {', '.join(_ROUNDINGS)}")
    return (Spec("u8", specs[0].shape),)


def _power_of_two(x: AnyArray, rounding: str, *, saturate: bool) -> AnyArray:
    """Bytes of e8m0: the exponent of |x|, biased by 127; 255 is NaN. Halves (of the significand) go up."""
    size = np.abs(x.astype(np.float64))
    with np.errstate(all="ignore"):
        part, exponent = np.frexp(size)  # size = part 2^exponent, part in [1/2, 1)
    exponent = exponent - 1
    if rounding == "up":
        exponent += part > 0.5
    elif rounding == "nearest":
        exponent += part >= 0.75
    top = 254 if saturate else 255
    out = np.clip(exponent + 127, 0, top)
    out = np.where(size == 0, 0, out)
    return np.asarray(np.where(np.isfinite(size), out, 255), np.uint8)


def to_format(x: AnyArray, name: str, *, saturate: bool = True, rounding: str = "nearest") -> AnyArray:
    """Numbers as the bytes of a format."""
    if name == "float8_e8m0fnu":
        return _power_of_two(x, rounding, saturate=saturate)
    dtype = FORMATS[name]
    if name in _WHOLE:
        limits: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
        whole = np.trunc(x) if x.dtype.kind not in "iub" else x
        # Beyond the range the low bits count, as for the device's integers.
        bits = int(limits.bits)
        low = np.asarray(np.nan_to_num(whole.astype(np.float64), posinf=0, neginf=0)).astype(np.int64) % (1 << bits)
        signed = np.where(low > limits.max, low - (1 << bits), low)
        return np.asarray(signed.astype(np.int8).astype(dtype)).view(np.uint8)
    if x.dtype.kind in "iub":
        x = x.astype(np.float64 if x.dtype.itemsize > 2 else np.float32)
    if saturate:
        top = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
        x = np.clip(x, x.dtype.type(-top), x.dtype.type(top))
    return np.asarray(x.astype(dtype)).view(np.uint8)


def from_format(codes: AnyArray, name: str) -> AnyArray:
    """The bytes of a format as f32 (exact)."""
    return _DECODED[name][codes]


_DECODED: Final = {
    name: np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32) for name, dtype in FORMATS.items()
}


def _encode(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    saturate, rounding = bool(attributes["saturate"]), attributes["rounding"]
    return (narrow(to_format(widen(inputs[0]), _format(attributes), saturate=saturate, rounding=rounding), outputs[0]),)


def _decode_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _format(attributes)
    return (Spec(known_dtype(attributes["dtype"]), specs[0].shape),)


def _decode(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(from_format(inputs[0], _format(attributes)), outputs[0]),)


def _bitcast_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    dtype = known_dtype(attributes["dtype"])
    if ITEM_BYTES[dtype] != ITEM_BYTES[specs[0].dtype] or "bool" in (dtype, specs[0].dtype):
        raise KernelTypeError(f"the bits of {specs[0].dtype} cannot be seen as {dtype}")
    return (Spec(dtype, specs[0].shape),)


def _bitcast(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (inputs[0].copy().view(DTYPES[outputs[0].dtype]),)


def _quantize_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, scale = specs[0], specs[1]
    for spec in specs[1:]:
        if broadcast(x.shape, spec.shape) != x.shape:
            raise KernelValueError(f"{spec} does not broadcast to {x}")
    need(scale, "scale", dtype=FLOATS)
    dtype = known_dtype(attributes["dtype"])
    if dtype not in ("i8", "u8", "i16", "u16", "i32"):
        raise KernelTypeError(f"quantised numbers are i8, u8, i16, u16 or i32, not {dtype}")
    low, high = attributes["low"], attributes["high"]
    limits = np.iinfo(DTYPES[dtype])
    if not (limits.min <= int(low) <= int(high) <= limits.max):
        raise KernelValueError(f"{dtype} has no range from {low} to {high}")
    return (Spec(dtype, x.shape),)


def _quantize(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, scale = widen(inputs[0]), widen(inputs[1])
    whole = np.rint(x.astype(np.result_type(x, scale), copy=False) / scale)
    # An f32 has no more whole numbers than the formats' zero points need; f64 has them all.
    whole = whole.astype(np.float64)
    if len(inputs) > 2:
        whole += inputs[2].astype(np.float64)
    whole = np.clip(np.nan_to_num(whole, nan=0.0, posinf=np.inf, neginf=-np.inf), attributes["low"], attributes["high"])
    return (narrow(whole, outputs[0]),)


KERNELS: Final = (
    Kernel(
        "encode",
        ("x",),
        ("bool", *NUMBERS),
        _encode_shape,
        streaming(2),
        _encode,
        "numbers as bytes of a format (float8_e4m3fnuz, float4_e2m1fn, int4 ...)",
        {"format": REQUIRED, "saturate": True, "rounding": "nearest"},
        bound=EXACT,
        examples=(
            example((3, 5), format="float8_e4m3fn"),
            example((3, 5), format="float4_e2m1fn"),
        ),
    ),
    Kernel(
        "decode",
        ("x",),
        ("u8",),
        _decode_shape,
        streaming(1),
        _decode,
        "bytes of a format as numbers",
        {"format": REQUIRED, "dtype": "f32"},
        bound=EXACT,
        examples=(example(Draw((3, 5), "below 256", "u8"), format="float8_e5m2"),),
    ),
    Kernel(
        "bitcast",
        ("x",),
        ALL,
        _bitcast_shape,
        streaming(0),
        _bitcast,
        "the bits of x as another dtype of as many bytes",
        {"dtype": REQUIRED},
        bound=not_compared("the bits of another type are others"),
        examples=(example((3, 5), dtype="i32"),),
    ),
    Kernel(
        "quantise_with_zero",
        ("x", "scale", "zero"),
        NUMBERS,
        _quantize_shape,
        streaming(4),
        _quantize,
        "round(x / scale) + zero, kept between low and high; halves to even",
        {"dtype": REQUIRED, "low": REQUIRED, "high": REQUIRED},
        optional=1,
        bound=not_compared("a quotient near a half goes up or down, as the type it is computed in says"),
        examples=(example((3, 5), Draw((), "positive"), dtype="i8", low=-128, high=127),),
    ),
)
