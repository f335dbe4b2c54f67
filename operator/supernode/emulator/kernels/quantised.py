"""Products of 8-bit integers, and windows as columns for convolutions of them.

Flows in: `i8` or `u8` arrays with zero points. Flows out: `i32`, exact (wrapping around like the device's integers).
Not here: scales (`formats` applies them).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import ALL
from supernode.emulator.kernels.pooling import windows_of
from supernode.emulator.kernels.rules import broadcast, moved, narrow, need
from supernode.emulator.kernels.table import (
    EXACT,
    REQUIRED,
    AnyArray,
    Attributes,
    Cost,
    Draw,
    Gemm,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelValueError

_BYTES: Final = ("i8", "u8")
# Products of two bytes that f64 adds up exactly.
_EXACT: Final = 1 << 36


def _product_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    a, b, a_zero, b_zero = specs
    need(b, "b", dtype=_BYTES)
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        raise KernelValueError(f"{a} and {b} are no matrices that can be multiplied")
    for name, zero, array in (("a_zero", a_zero, a), ("b_zero", b_zero, b)):
        need(zero, name, dtype=array.dtype)
        if broadcast(zero.shape, array.shape) != array.shape:
            raise KernelValueError(f"{name} {zero} does not broadcast to {array}")
    return (Spec("i32", (*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])),)


def _product_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    m, n = outputs[0].shape[-2:]
    k, batch = specs[0].shape[-1], math.prod(outputs[0].shape[:-2])
    return Cost(2.0 * m * n * k * batch, moved(specs, outputs), Gemm(m, n, k, batch, "int8"))


def _product(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    # Differences of bytes are whole numbers below 512: f64 multiplies and adds them without an error, at BLAS's speed.
    a, b = (
        array.astype(np.float64) - zero.astype(np.float64)
        for array, zero in ((inputs[0], inputs[2]), (inputs[1], inputs[3]))
    )
    if a.shape[-1] > _EXACT:
        raise KernelValueError(f"{a.shape[-1]} products are too many for an exact sum")
    whole = np.asarray(a @ b).astype(np.int64)
    return (narrow(whole.astype(np.int32), outputs[0]),)


def _unfold_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (x,) = specs
    sizes = x.shape[2:]
    if not sizes or {len(attributes[name]) for name in ("size", "strides", "dilations")} != {len(sizes)}:
        raise KernelValueError(f"windows need numbers for {len(sizes)} axes of {x}")
    groups = operator.index(attributes["groups"])
    if groups < 1 or x.shape[1] % groups:
        raise KernelValueError(f"{x.shape[1]} channels do not divide into {groups} groups")
    count = math.prod(axis.number for axis in _windows(sizes, attributes))
    rows = x.shape[1] // groups * math.prod(attributes["size"])
    return (Spec(x.dtype, (x.shape[0], groups, rows, count)),)


def _windows(sizes: Sequence[int], attributes: Attributes) -> Any:
    return windows_of(sizes, {**attributes, "ceil": False, "pads": [(0, 0)] * len(sizes)})


def _unfold(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = inputs[0]
    windows = _windows(x.shape[2:], attributes)
    spans = tuple((axis.size - 1) * axis.dilation + 1 for axis in windows)
    axes = tuple(range(2, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=axes)
    steps = tuple(slice(None, None, axis.stride) for axis in windows)
    inner = tuple(slice(None, None, axis.dilation) for axis in windows)
    view = view[(slice(None), slice(None), *steps, *inner)]  # (batch, channels, *windows, *size)
    order = (0, 1, *range(x.ndim, x.ndim + len(windows)), *axes)
    return (narrow(view.transpose(order).copy(), outputs[0]),)


def _unfold_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return Cost(0.0, moved(specs, outputs))


KERNELS: Final = (
    Kernel(
        "integer_matmul",
        ("a", "b", "a_zero", "b_zero"),
        _BYTES,
        _product_shape,
        _product_cost,
        _product,
        "(a - a_zero) (b - b_zero) of bytes, exact in i32",
        bound=EXACT,
        examples=(
            example(Draw((3, 4), "below 99"), Draw((4, 5), "below 99"), Draw((), "below 9"), Draw((), "below 9")),
        ),
    ),
    Kernel(
        "unfold",
        ("x",),
        ALL,
        _unfold_shape,
        _unfold_cost,
        _unfold,
        "the windows of x (batch, channels, *sizes) as columns: (batch, groups, channels / groups * window, count)",
        {"size": REQUIRED, "strides": REQUIRED, "dilations": REQUIRED, "groups": 1},
        bound=EXACT,
        examples=(example((2, 4, 5, 6), size=[2, 3], strides=[1, 2], dilations=[2, 1], groups=2),),
    ),
)
