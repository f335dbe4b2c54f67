"""Scaled numbers of 8 bits: scales, conversion to and fro, and products of them.

Flows in: floats, or 8-bit integers or floats with their scales (one, or one per row or column). Flows out: the same the
other way, or products: int8 is added up exactly in i32, 8-bit floats in f32; scales, bias and activation come after it,
in f32, and the result rounds once. Not here: zero points (products of integers are symmetric).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np

from supernode.emulator.dtypes import DTYPES, FLOATS, FP8
from supernode.emulator.kernels.epilogue import ACTIVATIONS, activate
from supernode.emulator.kernels.matmul import gemm_cost, multiply, multiply_integers, sizes_of
from supernode.emulator.kernels.rules import (
    broadcast,
    choice,
    known_dtype,
    moved,
    narrow,
    need,
    normal_axis,
    streaming,
    widen,
)
from supernode.emulator.kernels.table import (
    MAGNITUDES,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Draw,
    Kernel,
    Spec,
    example,
)
from supernode.emulator.rounding import convert

_EIGHT: Final = ("i8", "u8", *FP8)
_finfo: Final[Any] = ml_dtypes.finfo
#: Largest number of a type that scales are made for.
_TOP: Final = {"i8": 127.0, "u8": 255.0, **{name: float(_finfo(DTYPES[name]).max) for name in FP8}}


def _target(attributes: Attributes) -> str:
    return choice(attributes, "dtype", *_EIGHT)


def _along(x: Spec, attributes: Attributes) -> tuple[int, ...]:
    """Shape of the scales: one, or one per place of axis."""
    if attributes["axis"] is None:
        return ()
    return (x.shape[normal_axis(attributes["axis"], len(x.shape))],)


def _spread(scale: AnyArray, x: AnyArray, attributes: Attributes) -> AnyArray:
    if attributes["axis"] is None:
        return scale
    axis = attributes["axis"] % x.ndim
    return scale.reshape((1,) * axis + (-1,) + (1,) * (x.ndim - axis - 1))


def _scale_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _target(attributes)
    return (Spec("f32", _along(specs[0], attributes)),)


def _scale(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    axes = None if attributes["axis"] is None else tuple(i for i in range(x.ndim) if i != attributes["axis"] % x.ndim)
    largest = np.asarray(np.abs(x).max(axis=axes, initial=0))
    out = largest / largest.dtype.type(_TOP[attributes["dtype"]])
    return (narrow(np.where(out == 0, 1, out), outputs[0]),)


def _quantise_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    need(specs[1], "scale", dtype="f32", shape=_along(specs[0], attributes))
    return (Spec(_target(attributes), specs[0].shape),)


def _quantise(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = widen(inputs[0])
    steps = np.asarray(x / _spread(inputs[1], x, attributes).astype(x.dtype, copy=False))
    if attributes["dtype"] not in FP8:
        np.rint(steps, out=steps)
    return (convert(steps, DTYPES[attributes["dtype"]]),)


def _dequantise_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    need(specs[1], "scale", dtype="f32", shape=_along(specs[0], attributes))
    return (Spec(choice(attributes, "dtype", *FLOATS), specs[0].shape),)


def _dequantise(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = inputs[0]
    wide = np.float64 if attributes["dtype"] == "f64" else np.float32
    return (narrow(widen(x).astype(wide) * _spread(inputs[1], x, attributes), outputs[0]),)


def _product_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    a, b, scale_a, scale_b = specs[:4]
    m, n, _ = sizes_of(a, b, attributes)
    need(b, "b", dtype=FP8 if a.dtype in FP8 else ("i8", "u8"))
    for name, spec, size in (("scale_a", scale_a, m), ("scale_b", scale_b, n)):
        need(spec, name, dtype="f32", shape=(size,) if spec.shape else ())
    out = choice({"dtype": known_dtype(attributes["dtype"])}, "dtype", *FLOATS)
    if len(specs) > 4:
        need(specs[4], "bias", dtype=(out, "f32"), shape=(n,))
    if attributes["activation"] is not None:
        choice(attributes, "activation", *ACTIVATIONS)
    return (Spec(out, (*broadcast(a.shape[:-2], b.shape[:-2]), m, n)),)


def _product_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return gemm_cost(specs[0], specs[1], outputs[0], {**attributes, "precision": "f32"}, moved(specs, outputs))


def _product(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    a = inputs[0].swapaxes(-1, -2) if attributes["transpose_a"] else inputs[0]
    b = inputs[1].swapaxes(-1, -2) if attributes["transpose_b"] else inputs[1]
    wide = np.float64 if outputs[0].dtype == "f64" else np.float32
    sums = multiply_integers(a, b) if a.dtype.kind in "iu" else multiply(widen(a), widen(b))
    product: Any = sums.astype(wide, copy=False)
    scale_a, scale_b = inputs[2], inputs[3]
    product *= scale_a[:, None] if scale_a.ndim else scale_a
    product *= scale_b
    if len(inputs) > 4:
        product += widen(inputs[4])
    if attributes["activation"] is not None:
        activate(attributes["activation"], product)
    return (narrow(product, outputs[0]),)


KERNELS: Final = (
    Kernel(
        "quantisation_scale",
        ("x",),
        FLOATS,
        _scale_shape,
        streaming(2),
        _scale,
        "max |x| / largest number of dtype (i8, u8, f8e4m3, f8e5m2), over all or per place of axis; 1 where x is 0",
        {"dtype": REQUIRED, "axis": None},
        bound=Bound(1),
        examples=(example((4, 6), dtype="i8"), example((4, 6), dtype="f8e4m3", axis=1)),
    ),
    Kernel(
        "quantise",
        ("x", "scale"),
        FLOATS,
        _quantise_shape,
        streaming(3),
        _quantise,
        "x / scale as dtype, rounded to nearest even, saturating",
        {"dtype": REQUIRED, "axis": None},
        bound=Bound(
            0, special="a quotient may round to the middle of two numbers; held over a scale that divides exactly"
        ),
        examples=(example((4, 6), Draw((), "constant 0.125", "f32"), dtype="f8e5m2"),),
    ),
    Kernel(
        "dequantise",
        ("x", "scale"),
        _EIGHT,
        _dequantise_shape,
        streaming(1),
        _dequantise,
        "x scale, in dtype",
        {"dtype": "f32", "axis": None},
        bound=Bound(0.5, degree=2),
        examples=(example((4, 6), Draw((6,), "positive", "f32"), axis=1),),
    ),
    Kernel(
        "quantised_matmul",
        ("a", "b", "scale_a", "scale_b", "bias"),
        _EIGHT,
        _product_shape,
        _product_cost,
        _product,
        "activation(scale_a scale_b (a b) + bias) of 8-bit integers (exact in i32) or floats (f32), in dtype; scale_a "
        "is one number or one per row of a, scale_b one or one per column of b",
        {"transpose_a": False, "transpose_b": False, "dtype": "f32", "activation": None},
        optional=1,
        bound=Bound(32, MAGNITUDES, 2),
        examples=(
            example((4, 6), (6, 5), Draw((), "positive", "f32"), Draw((), "positive", "f32")),
            example(
                (2, 4, 6),
                (5, 6),
                Draw((4,), "positive", "f32"),
                Draw((5,), "positive", "f32"),
                Draw((5,), "positive", "f32"),
                transpose_b=True,
            ),
        ),
    ),
)
