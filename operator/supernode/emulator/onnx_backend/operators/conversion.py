"""Conversion between element types, and quantisation with a scale and a zero point.

Flows in: numbers. Flows out: numbers of another type, rounded once. Formats that the device only stores (8-bit floats,
4 bits ...) are encoded and decoded by kernels. Strings are the host's. Not here: quantised products (`quantised`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from onnx import TensorProto

from supernode.emulator.client import Array
from supernode.emulator.dtypes import FLOATS
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.emulator.onnx_backend.operators.creation import element_type
from supernode.emulator.onnx_backend.values import STRING, DType, Tensor, native, storage

_SCALE: Final = "float8_e8m0fnu"
#: Formats of integers, by name of NumPy's type.
_RANGES: Final = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}


def decode(call: Call, tensor: Tensor, dtype: str) -> Array:
    """A tensor of any number format in a dtype of the device."""
    array = tensor.on(call.device)
    if native(tensor.dtype):
        return call.cast(array, dtype)
    out: Array = call.launch("decode", array, format=tensor.dtype.name, dtype=dtype)
    return out


def encode(call: Call, array: Array, dtype: DType, *, saturate: bool = True, rounding: str = "nearest") -> Tensor:
    """An array of the device in any number format."""
    if native(dtype):
        return call.out(call.cast(array, storage(dtype)))
    made = call.launch("encode", array, format=dtype.name, saturate=saturate, rounding=rounding)
    return call.out(made, dtype)


def _convert(call: Call, target: DType) -> Any:
    source = call.tensor(0)
    if STRING in (source.dtype, target):
        return NotImplemented
    if source.dtype == target:
        return source
    array = source.on(call.device)
    if not native(source.dtype):
        # Every format fits f32 exactly; integers of few bits stay whole.
        wide = storage(target) if native(target) else "f32"
        array = decode(call, source, wide)
    saturate = bool(call.get("saturate", 1))
    rounding = call.get("round_mode", "up") if target.name == _SCALE else "nearest"
    return encode(call, array, target, saturate=saturate, rounding=rounding)


def _cast(call: Call) -> Any:
    number = call.get("to")
    if isinstance(number, str):  # operator sets before 6
        number = TensorProto.DataType.Value(number)
    return _convert(call, STRING if number == TensorProto.STRING else element_type(number))


def _cast_like(call: Call) -> Any:
    return _convert(call, call.tensor(1).dtype)


def _bit_cast(call: Call) -> Any:
    target = element_type(call.get("to"))
    source = call.tensor(0)
    if source.dtype == STRING or np.dtype(bool) in (source.dtype, target):
        return NotImplemented
    array = source.on(call.device)
    if storage(target) == array.dtype:
        return call.out(array, target)
    return call.out(call.launch("bitcast", array, dtype=storage(target)), target)


def _spread(call: Call, values: Array, shape: tuple[int, ...]) -> Array:
    """A scale or zero point as it broadcasts: one for all, one per place of an axis, or one per block along it."""
    block = int(call.get("block_size", 0))
    if values.size == 1 and not (block and len(values.shape) > 1):
        return values.reshape([])
    axis = int(call.get("axis", 1))
    axis += len(shape) if axis < 0 else 0
    if not block:
        sizes = [1] * len(shape)
        sizes[axis] = values.size
        return values.reshape(sizes)
    parts = values.shape[axis]
    apart = values.reshape([*values.shape[: axis + 1], 1, *values.shape[axis + 1 :]])
    wide = [*values.shape[: axis + 1], block, *values.shape[axis + 1 :]]
    spread: Array = call.launch("broadcast_to", apart, shape=wide)
    spread = spread.reshape([*values.shape[:axis], parts * block, *values.shape[axis + 1 :]])
    if spread.shape[axis] > shape[axis]:
        spread = call.launch("slice", spread, start=0, stop=shape[axis], axis=axis)
    return spread


def _quantize(call: Call) -> Any:
    x, scale = call.array(0), call.array(1)
    zero = call.tensor(2) if call.has(2) else None
    target = element_type(call.get("output_dtype")) if call.get("output_dtype") else np.dtype(np.uint8)
    target = target if zero is None else zero.dtype
    precision = call.get("precision")
    wide = storage(element_type(precision)) if precision else ("f64" if "f64" in (x.dtype, scale.dtype) else "f32")
    if wide not in FLOATS:
        return NotImplemented
    ratio_of = _spread(call, call.cast(scale, wide), x.shape)
    if target.kind in "iu" or target.name in _RANGES:
        limits = _RANGES.get(target.name)
        low, high = (int(n) for n in (limits or (np.iinfo(target).min, np.iinfo(target).max)))
        short = storage(target) if native(target) else "i8"
        given = [call.cast(x, wide), ratio_of]
        if zero is not None:
            given.append(_spread(call, decode(call, zero, "i32"), x.shape))
        made = call.launch("quantise_with_zero", *given, dtype=short, low=low, high=high)
        return call.out(made) if native(target) else encode(call, made, target)
    ratio = call.launch("divide", call.cast(x, wide), ratio_of)
    if zero is not None and "float8" not in target.name:
        ratio = call.launch("add", ratio, _spread(call, decode(call, zero, wide), x.shape))
    return encode(call, ratio, target, saturate=bool(call.get("saturate", 1)))


def _dequantize(call: Call) -> Any:
    x, scale = call.tensor(0), call.tensor(1)
    target = element_type(call.get("output_dtype")) if call.get("output_dtype") else scale.dtype
    if storage(target) not in FLOATS or not native(target):
        return NotImplemented
    if call.has(2) and x.dtype.name == "int32":
        exact = call.launch("subtract", call.array(0), _spread(call, call.array(2), x.shape))
        out = call.cast(exact, "f32")
    else:
        out = decode(call, x, "f32")
        if call.has(2) and "float8" not in x.dtype.name:
            out = call.launch("subtract", out, _spread(call, decode(call, call.tensor(2), "f32"), x.shape))
    out = call.launch("multiply", out, _spread(call, decode(call, scale, "f32"), x.shape))
    return call.out(call.cast(out, storage(target)))


OPERATORS: Final[Mapping[str, Lowering]] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "BitCast": _bit_cast,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
