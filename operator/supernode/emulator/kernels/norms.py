"""Diagonals, norms and cross products of vectors and matrices.

Flows in: arrays, whose last axes are the vectors or matrices where no axis is named. Flows out: arrays. Narrow floats
compute in f32 and round once. Not here: factorisations (`linear_algebra`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import ALL, FIELDS, INEXACT, REAL_OF
from supernode.emulator.kernels.linear_algebra import LAPACK, MATRIX, cubic, matrix_of
from supernode.emulator.kernels.rules import broadcast, narrow, normal_axes, normal_axis, same_dtype, streaming, widen
from supernode.emulator.kernels.table import (
    EXACT,
    LARGEST,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelValueError


def _diagonal_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    batch, rows, columns = matrix_of(specs[0], square=False)
    k = operator.index(attributes["k"])
    return (Spec(specs[0].dtype, (*batch, max(min(rows + min(k, 0), columns - max(k, 0)), 0))),)


def _diagonal(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(np.diagonal(inputs[0], attributes["k"], -2, -1).copy(), outputs[0]),)


def _order(value: object) -> Any:
    """A norm's order; infinity and the names travel as text."""
    if value in ("inf", "-inf"):
        return float(str(value))
    if not isinstance(value, int | float) and value not in ("fro", "nuc"):
        raise KernelValueError(f"a norm of order {value!r} is not possible")
    return value


def _norm_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    axes = normal_axes(attributes["axis"], len(specs[0].shape))
    _order(attributes["ord"])
    keep = attributes["keepdims"]
    out = tuple(1 if i in axes else n for i, n in enumerate(specs[0].shape) if keep or i not in axes)
    return (Spec(REAL_OF[specs[0].dtype], out),)


def _vector_norm(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, order = inputs[0], _order(attributes["ord"])
    # Any: NumPy 2.5 declares at most two axes, but takes as many as there are.
    axes: Any = normal_axes(attributes["axis"], x.ndim)
    found = np.linalg.vector_norm(widen(x), axis=axes, ord=order) if axes or not x.ndim else np.abs(x)
    return (narrow(found, outputs[0]),)


def _matrix_norm_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    batch, _, _ = matrix_of(specs[0], square=False)
    if _order(attributes["ord"]) not in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf):
        raise KernelValueError(f"matrices have no norm of order {attributes['ord']!r}")
    return (Spec(REAL_OF[specs[0].dtype], (*batch, 1, 1) if attributes["keepdims"] else batch),)


def _matrix_norm(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(np.linalg.matrix_norm(inputs[0], ord=_order(attributes["ord"])), outputs[0]),)


def _cross_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shape = broadcast(specs[0].shape, specs[1].shape)
    axis = operator.index(attributes["axis"])
    for spec in specs:
        if spec.shape[normal_axis(axis, len(spec.shape))] != 3:
            raise KernelValueError(f"axis {axis} of {spec} has no 3 elements")
    return (Spec(same_dtype(specs), shape),)


def _cross(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(np.linalg.cross(*map(widen, inputs), axis=attributes["axis"]), outputs[0]),)


KERNELS: Final = (
    Kernel(
        "diagonal",
        ("x",),
        ALL,
        _diagonal_shape,
        streaming(0),
        _diagonal,
        "diagonal k of each matrix",
        {"k": 0},
        bound=EXACT,
        examples=(example((3, 4), k=1),),
    ),
    Kernel(
        "vector_norm",
        ("x",),
        INEXACT,
        _norm_shape,
        streaming(2),
        _vector_norm,
        "norm of order ord over the axes",
        {"axis": None, "keepdims": False, "ord": 2},
        bound=Bound(16, degree=2),
        examples=(
            example((3, 7), axis=[1]),
            example((3, 7), ord="inf"),
        ),
    ),
    Kernel(
        "matrix_norm",
        ("x",),
        MATRIX,
        _matrix_norm_shape,
        cubic(10.0),
        _matrix_norm,
        "norm of each matrix: fro, nuc, 1, -1, 2, -2, inf, -inf",
        {"keepdims": False, "ord": "fro"},
        bound=Bound(64, LARGEST, special=LAPACK),
        examples=(
            example((3, 4)),
            example((3, 3), ord="nuc"),
        ),
    ),
    Kernel(
        "cross",
        ("a", "b"),
        FIELDS,
        _cross_shape,
        streaming(3),
        _cross,
        "cross product of vectors of 3 along axis",
        {"axis": REQUIRED},
        bound=Bound(4, LARGEST, special="terms of both signs"),
        examples=(example((4, 3), (3,), axis=-1),),
    ),
)
