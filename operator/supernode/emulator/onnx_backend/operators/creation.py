"""Tensors from nothing: constants, ranges, shapes, random numbers.

Flows in: attributes and small numbers. Flows out: tensors; shapes and small whole constants are known to the host
without asking. Random numbers are counter-based: a node's seed and place say everything; without a seed the host draws
one. Not here: dropout (`activation`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from onnx import helper

from supernode.emulator.client import Array
from supernode.emulator.dtypes import FLOATS, NUMBERS
from supernode.emulator.onnx_backend.call import Call, Lowering, known
from supernode.emulator.onnx_backend.values import DType, native, storage

_FLOAT: Final = 1


def element_type(number: int) -> DType:
    """NumPy's type of an element type of ONNX."""
    found: DType = np.dtype(helper.tensor_dtype_to_np_dtype(number))
    return found


def _constant(call: Call) -> Any:
    given = call.attributes
    for name in ("value", "sparse_value"):
        if name in given:
            value = given[name]
            return known(value, shapely=value.dtype.kind in "iub")
    kinds = {"float": np.float32, "int": np.int64}
    for kind, dtype in kinds.items():
        for name in (f"value_{kind}", f"value_{kind}s"):
            if name in given:
                return known(np.asarray(given[name], dtype), shapely=kind == "int")
    for name in ("value_string", "value_strings"):
        if name in given:
            return known(np.asarray(given[name], dtype=object))
    return NotImplemented


def _shape(call: Call) -> Any:
    shape = call.tensor(0).shape
    start, end = call.get("start", 0), call.get("end")
    return known(np.asarray(shape[start:end], np.int64), shapely=True)


def _size(call: Call) -> Any:
    return known(np.asarray(call.tensor(0).size, np.int64), shapely=True)


def _constant_of_shape(call: Call) -> Any:
    fill = call.get("value")
    value = np.zeros(1, np.float32) if fill is None else np.asarray(fill).reshape(-1)
    shape = call.ints(0)
    if not native(value.dtype):
        value = value.view(np.uint8)
        made = call.launch("full", shape=shape, value=int(value[0]), dtype="u8")
        return call.out(made, np.asarray(fill).dtype)
    return call.out(call.launch("full", shape=shape, value=value[0].item(), dtype=storage(value.dtype)))


def _range(call: Call) -> Any:
    dtype = storage(call.dtype)
    if dtype not in NUMBERS:
        return NotImplemented
    start, limit, step = (call.scalar(place) for place in range(3))
    return call.out(call.launch("arange", start=start, stop=limit, step=step, dtype=dtype))


def _eye_like(call: Call) -> Any:
    dtype = element_type(call.get("dtype")) if call.get("dtype") else call.dtype
    if not native(dtype):
        return NotImplemented
    rows, columns = call.tensor(0).shape
    return call.out(call.launch("eye", rows=rows, columns=columns, k=call.get("k", 0), dtype=storage(dtype)))


def seed_of(call: Call) -> int:
    """Where the random numbers of a node begin: its seed, or a new one."""
    seed = call.get("seed")
    return secrets.randbits(63) if seed is None else abs(hash(float(seed)))


def _random(call: Call, shape: list[int], dtype: DType) -> Any:
    short = storage(dtype)
    if short not in FLOATS:
        return NotImplemented
    common = {"shape": shape, "seed": seed_of(call), "dtype": short}
    if "Normal" in call.node.op_type:
        return call.out(
            call.launch("random_normal", mean=call.get("mean", 0.0), deviation=call.get("scale", 1.0), **common)
        )
    return call.out(call.launch("random_uniform", low=call.get("low", 0.0), high=call.get("high", 1.0), **common))


def _random_shaped(call: Call) -> Any:
    return _random(call, [int(n) for n in call.get("shape")], element_type(call.get("dtype", _FLOAT)))


def _random_like(call: Call) -> Any:
    dtype = element_type(call.get("dtype")) if call.get("dtype") else call.dtype
    return _random(call, list(call.tensor(0).shape), dtype)


def _bernoulli(call: Call) -> Any:
    x = call.array(0)
    if x.dtype not in FLOATS:
        return NotImplemented
    dtype = element_type(call.get("dtype")) if call.get("dtype") else call.dtype
    if not native(dtype):
        return NotImplemented
    wide = "f64" if x.dtype == "f64" else "f32"
    drawn = call.launch("random_uniform", shape=list(x.shape), seed=seed_of(call), dtype=wide)
    return call.out(call.cast(call.launch("less", drawn, call.cast(x, wide)), storage(dtype)))


def _multinomial(call: Call) -> Any:
    logits = call.array(0)
    rows, classes = logits.shape
    count = int(call.get("sample_size", 1))
    chance = call.launch("softmax", call.cast(logits, "f32"), axis=-1)
    limits: Array = call.launch("cumulative_sum", chance, axis=1)
    # The last limit is 1 but for rounding: no number drawn may lie beyond it.
    limits = call.launch("slice", limits, start=0, stop=classes - 1, axis=1)
    drawn = call.launch("random_uniform", shape=[rows, count, 1], seed=seed_of(call), dtype="f32")
    beyond = call.launch("greater_equal", drawn, limits.reshape([rows, 1, classes - 1]))
    dtype = storage(element_type(call.get("dtype", 6)))
    return call.out(call.cast(call.launch("count_nonzero", beyond, axis=[2]), dtype))


def _window(call: Call) -> Any:
    size = int(call.scalar(0))
    dtype = storage(element_type(call.get("output_datatype", _FLOAT)))
    if dtype not in FLOATS:
        return NotImplemented
    kind = call.node.op_type.removesuffix("Window").lower()
    return call.out(call.launch("window", size=size, kind=kind, periodic=bool(call.get("periodic", 1)), dtype=dtype))


OPERATORS: Final[Mapping[str, Lowering]] = {
    "Constant": _constant,
    "Shape": _shape,
    "Size": _size,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "EyeLike": _eye_like,
    "RandomNormal": _random_shaped,
    "RandomUniform": _random_shaped,
    "RandomNormalLike": _random_like,
    "RandomUniformLike": _random_like,
    "Bernoulli": _bernoulli,
    "Multinomial": _multinomial,
    "HannWindow": _window,
    "HammingWindow": _window,
    "BlackmanWindow": _window,
}
