"""Kernels that put elements elsewhere, cut triangles and make simple matrices: flip, roll, tile, triangle, eye...

Flows in: an array, or attributes alone. Flows out: contiguous arrays in memory of their own. Not here: transposing,
joining, cutting (`layout`), selection (`indexing`).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import DTYPES, INEXACT, STORED
from supernode.emulator.kernels.rules import (
    known_dtype,
    narrow,
    normal_axes,
    normal_axis,
    normal_shape,
    streaming,
    whole,
)
from supernode.emulator.kernels.table import EXACT, REQUIRED, TERMS, AnyArray, Attributes, Bound, Kernel, Spec, example
from supernode.errors import KernelTypeError, KernelValueError


def _flip_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    normal_axes(attributes["axis"], len(specs[0].shape))
    return (specs[0],)


def _flip(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (np.flip(inputs[0], normal_axes(attributes["axis"], inputs[0].ndim)).copy(order="C"),)


def _roll_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shifts = [operator.index(n) for n in attributes["shift"]]
    axes = [normal_axis(axis, len(specs[0].shape)) for axis in attributes["axis"]]
    if len(shifts) != len(axes):
        raise KernelValueError(f"{len(shifts)} shifts for {len(axes)} axes")
    return (specs[0],)


def _roll(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    rolled = np.roll(inputs[0], tuple(attributes["shift"]), tuple(attributes["axis"]))
    return (rolled.copy(order="C"),)


def _tile_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    repeats = normal_shape(attributes["repetitions"])
    if len(repeats) != len(specs[0].shape):
        raise KernelValueError(f"{len(repeats)} repetitions for {len(specs[0].shape)} axes")
    return (Spec(specs[0].dtype, tuple(n * r for n, r in zip(specs[0].shape, repeats, strict=True))),)


def _tile(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(np.tile(inputs[0], attributes["repetitions"]).copy(), outputs[0]),)


def _triangle_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    operator.index(attributes["k"])
    if len(specs[0].shape) < 2:
        raise KernelValueError("needs two axes or more")
    return (specs[0],)


def _triangle(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    function = np.triu if attributes["upper"] else np.tril
    return (narrow(function(inputs[0], attributes["k"]), outputs[0]),)


def _eye_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    operator.index(attributes["k"])
    return (Spec(known_dtype(attributes["dtype"]), normal_shape([attributes["rows"], attributes["columns"]])),)


def _eye(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    rows, columns = outputs[0].shape
    out = np.zeros((rows, columns), DTYPES[outputs[0].dtype])
    k = attributes["k"]
    length = min(rows + min(k, 0), columns - max(k, 0))
    if length > 0:
        places = np.arange(length)
        out[places - min(k, 0), places + max(k, 0)] = 1
    return (out,)


def _linspace_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    start, stop = specs
    if start.shape or stop.shape or start.dtype != stop.dtype:
        raise KernelTypeError(f"start and stop must be single numbers of one dtype, not {start} and {stop}")
    return (Spec(start.dtype, (whole(attributes, "num"),)),)


def _linspace(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    start, stop = (value.astype(np.complex128 if value.dtype.kind == "c" else np.float64) for value in inputs)
    return (narrow(np.linspace(start, stop, outputs[0].shape[0], endpoint=attributes["endpoint"]), outputs[0]),)


KERNELS: Final = (
    Kernel(
        "flip",
        ("x",),
        STORED,
        _flip_shape,
        streaming(0),
        _flip,
        "elements along axis in reverse",
        {"axis": None},
        bound=EXACT,
        examples=(
            example((3, 4)),
            example((3, 4), axis=[1]),
        ),
    ),
    Kernel(
        "roll",
        ("x",),
        STORED,
        _roll_shape,
        streaming(0),
        _roll,
        "elements moved along each axis by its shift; what leaves at the end comes in at the front",
        {"shift": REQUIRED, "axis": REQUIRED},
        bound=EXACT,
        examples=(example((3, 4), shift=[1, -2], axis=[0, 1]),),
    ),
    Kernel(
        "tile",
        ("x",),
        STORED,
        _tile_shape,
        streaming(0),
        _tile,
        "x side by side, as often as repetitions says per axis",
        {"repetitions": REQUIRED},
        bound=EXACT,
        examples=(example((3, 4), repetitions=[2, 3]),),
    ),
    Kernel(
        "triangle",
        ("x",),
        STORED,
        _triangle_shape,
        streaming(0),
        _triangle,
        "the part of each matrix on and below (upper: above) diagonal k, else 0",
        {"upper": False, "k": 0},
        bound=EXACT,
        examples=(
            example((3, 4), k=-1),
            example((3, 4), k=1, upper=True),
        ),
    ),
    Kernel(
        "eye",
        (),
        STORED,
        _eye_shape,
        streaming(0),
        _eye,
        "1 on diagonal k, else 0",
        {"rows": REQUIRED, "columns": REQUIRED, "k": 0, "dtype": "f32"},
        bound=EXACT,
        examples=(example(rows=3, columns=4, k=1),),
    ),
    Kernel(
        "linspace",
        ("start", "stop"),
        INEXACT,
        _linspace_shape,
        streaming(2),
        _linspace,
        "num evenly spaced numbers from start to stop; computed in f64 and rounded once",
        {"num": REQUIRED, "endpoint": True},
        bound=Bound(2, TERMS),
        examples=(example((), (), num=7),),
    ),
)
