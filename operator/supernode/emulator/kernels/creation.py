"""Kernels that make arrays from nothing: constants, ranges, random numbers.

Flows in: attributes alone. Flows out: arrays. Random numbers are counter-based (Philox): seed, shape and dtype say
everything, so every device and every run gives the same. Not here: copies from the host (`client`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import DTYPES, FLOATS, INTEGERS, NARROW, NUMBERS, STORED
from supernode.emulator.kernels.rules import known_dtype, narrow, normal_shape, streaming
from supernode.emulator.kernels.table import (
    EXACT,
    MAX_BYTES,
    REQUIRED,
    AnyArray,
    Attributes,
    Cost,
    Kernel,
    Spec,
    example,
    not_compared,
)
from supernode.emulator.rounding import convert
from supernode.errors import KernelTypeError, KernelValueError


def _shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (Spec(known_dtype(attributes["dtype"]), normal_shape(attributes["shape"])),)


def _full_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (spec,) = _shape(specs, attributes)
    value = attributes["value"]
    if not isinstance(value, bool | int | float):
        raise KernelTypeError(f"value must be a number, not {value!r}")
    if spec.dtype in INTEGERS:
        limits = np.iinfo(DTYPES[spec.dtype])
        if not isinstance(value, int) or not limits.min <= value <= limits.max:
            raise KernelValueError(f"value {value!r} does not fit {spec.dtype}")
    return (spec,)


def _full(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    dtype = DTYPES[outputs[0].dtype]
    value = attributes["value"]
    if outputs[0].dtype in NARROW:
        value = convert(np.asarray(value, np.float64), dtype)
    return (np.full(outputs[0].shape, value, dtype),)


def _zeros(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    # The host gives zero pages, and only when they are touched.
    return (np.zeros(outputs[0].shape, DTYPES[outputs[0].dtype]),)


def _arange_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    start, stop, step = (attributes[name] for name in ("start", "stop", "step"))
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (start, stop, step)) or step == 0:
        raise KernelValueError(f"no range from {start!r} to {stop!r} by {step!r}")
    length = max(math.ceil((stop - start) / step), 0)
    if length > MAX_BYTES:
        raise KernelValueError(f"a range of {length} elements is not possible")
    return (Spec(known_dtype(attributes["dtype"]), (length,)),)


def _arange(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    whole = all(isinstance(attributes[name], int) for name in ("start", "step"))
    places = np.arange(outputs[0].shape[0], dtype=np.int64 if whole else np.float64)
    return (narrow(places * attributes["step"] + attributes["start"], outputs[0]),)


def _seed(attributes: Attributes) -> int:
    seed = attributes["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 128:
        raise KernelValueError(f"seed must be a whole number of 0 or more, below 2^128, not {seed!r}")
    return seed


def _random_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _seed(attributes)
    for name in ("mean", "deviation", "low", "high"):
        float(attributes.get(name, 0.0))
    return _shape(specs, attributes)


def _normal(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    generator = np.random.Generator(np.random.Philox(key=_seed(attributes)))
    wide = np.float64 if outputs[0].dtype == "f64" else np.float32
    out = generator.standard_normal(outputs[0].shape, dtype=wide)
    out *= wide(attributes["deviation"])
    out += wide(attributes["mean"])
    return (narrow(out, outputs[0]),)


def _uniform(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    generator = np.random.Generator(np.random.Philox(key=_seed(attributes)))
    wide = np.float64 if outputs[0].dtype == "f64" else np.float32
    low, high = attributes["low"], attributes["high"]
    out = generator.random(outputs[0].shape, dtype=wide)
    out *= wide(high - low)
    out += wide(low)
    return (narrow(out, outputs[0]),)


def _nothing(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """Memory is set aside; the device does nothing."""
    return Cost(0.0, 0.0)


KERNELS: Final = (
    Kernel(
        "full",
        (),
        STORED,
        _full_shape,
        streaming(0),
        _full,
        "an array of one value",
        {"shape": REQUIRED, "value": REQUIRED, "dtype": "f32"},
        bound=EXACT,
        examples=(example(shape=[2, 2], value=1.5),),
    ),
    Kernel(
        "empty",
        (),
        STORED,
        _shape,
        _nothing,
        _zeros,
        "an array to be written; it holds zeros, never another's data",
        {"shape": REQUIRED, "dtype": "f32"},
        lazy=True,
        bound=EXACT,
        examples=(example(shape=[3]),),
    ),
    Kernel(
        "zeros",
        (),
        STORED,
        _shape,
        streaming(0),
        _zeros,
        "an array of zeros",
        {"shape": REQUIRED, "dtype": "f32"},
        lazy=True,
        bound=EXACT,
        examples=(example(shape=[3]),),
    ),
    Kernel(
        "arange",
        (),
        NUMBERS,
        _arange_shape,
        streaming(1),
        _arange,
        "start, start + step, ... below stop",
        {"start": 0, "stop": REQUIRED, "step": 1, "dtype": "i32"},
        bound=EXACT,
        examples=(example(start=1, stop=9, step=2),),
    ),
    Kernel(
        "random_normal",
        (),
        FLOATS,
        _random_shape,
        streaming(20),
        _normal,
        "normally distributed numbers, the same for the same seed",
        {"shape": REQUIRED, "seed": REQUIRED, "dtype": "f32", "mean": 0.0, "deviation": 1.0},
        bound=not_compared("random numbers are drawn in the type they are asked for"),
        examples=(example(shape=[64], seed=3),),
    ),
    Kernel(
        "random_uniform",
        (),
        FLOATS,
        _random_shape,
        streaming(12),
        _uniform,
        "evenly distributed numbers from low (included) to high, the same for the same seed",
        {"shape": REQUIRED, "seed": REQUIRED, "dtype": "f32", "low": 0.0, "high": 1.0},
        bound=not_compared("random numbers are drawn in the type they are asked for"),
        examples=(example(shape=[64], seed=3),),
    ),
)
