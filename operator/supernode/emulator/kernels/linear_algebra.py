"""Factorisations, solutions, determinants, norms and products of matrices and vectors, in f32, f64 and complex.

Flows in: matrices or batches of them (the last two axes). Flows out: factors, in the input's dtype (eigenvalues and
singular values are real). A matrix without a solution is an error of the call. Not here: matrix products (`matmul`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import COMPLEX, REAL_OF
from supernode.emulator.kernels.rules import broadcast, moved, narrow, need, same_dtype
from supernode.emulator.kernels.table import (
    LARGEST,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Draw,
    Example,
    Kernel,
    Spec,
    example,
    not_compared,
)
from supernode.errors import KernelValueError

#: What is factorised.
MATRIX: Final = ("f32", "f64", *COMPLEX)
Shapes = Callable[[tuple[int, ...], int, int, Attributes], tuple[tuple[int, ...], ...]]


def matrix_of(spec: Spec, *, square: bool) -> tuple[tuple[int, ...], int, int]:
    """(batch, rows, columns).

    Raises:
        KernelError: not a matrix, or not a square one where one is needed.
    """
    if len(spec.shape) < 2 or (square and spec.shape[-1] != spec.shape[-2]):
        raise KernelValueError(f"needs {'square ' if square else ''}matrices, not {spec}")
    return spec.shape[:-2], spec.shape[-2], spec.shape[-1]


def cubic(factor: float) -> Callable[[Sequence[Spec], Attributes, Sequence[Spec]], Cost]:
    """Cost of a factorisation: `factor` operations for each (shorter side squared times longer side)."""

    def cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
        shape = specs[0].shape
        batch, sides = math.prod(shape[:-2]), sorted(shape[-2:])
        return Cost(factor * batch * sides[0] ** 2 * sides[-1], moved(specs, outputs))

    return cost


def _factor(
    name: str,
    function: Callable[[AnyArray, Attributes], Any],
    shapes: Shapes,
    summary: str,
    *,
    real: tuple[int, ...] = (),
    square: bool = True,
    bound: Bound,
    examples: tuple[Example, ...],
    outputs: tuple[str, ...] = ("out",),
    **attributes: Any,
) -> Kernel:
    """An entry for a function of one matrix; outputs in `real` are real."""

    def shape(specs: Sequence[Spec], given: Attributes) -> tuple[Spec, ...]:
        own = specs[0].dtype
        sizes = shapes(*matrix_of(specs[0], square=square), given)
        return tuple(Spec(REAL_OF[own] if i in real else own, size) for i, size in enumerate(sizes))

    def run(inputs: Sequence[AnyArray], given: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        try:
            found = function(inputs[0], given)
        except np.linalg.LinAlgError as exc:
            raise KernelValueError(str(exc)) from exc
        parts = tuple(found) if isinstance(found, tuple) else (found,)
        return tuple(narrow(np.array(part), spec) for part, spec in zip(parts, outputs, strict=True))

    return Kernel(
        name,
        ("x",),
        MATRIX,
        shape,
        cubic(10.0),
        run,
        summary,
        attributes,
        outputs=outputs,
        bound=bound,
        examples=examples,
    )


def _solve_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    batch, n, _ = matrix_of(specs[0], square=True)
    dtype, right = same_dtype(specs), specs[1].shape
    if right == (n,):
        return (Spec(dtype, (*batch, n)),)
    if len(right) < 2 or right[-2] != n:
        raise KernelValueError(f"{specs[1]} has no {n} rows")
    return (Spec(dtype, (*broadcast(batch, right[:-2]), n, right[-1])),)


def _solve(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    try:
        return (narrow(np.linalg.solve(*inputs), outputs[0]),)
    except np.linalg.LinAlgError as exc:
        raise KernelValueError(str(exc)) from exc


def _tolerance(x: AnyArray, given: Sequence[AnyArray]) -> Any:
    """Share of the largest singular value under which one counts as 0."""
    if given:
        return given[0]
    return max(x.shape[-2:]) * np.finfo(x.dtype).eps


def _cutoff(specs: Sequence[Spec]) -> tuple[tuple[int, ...], int, int]:
    batch, rows, columns = matrix_of(specs[0], square=False)
    if len(specs) > 1:
        need(specs[1], "rtol", dtype=("f32", "f64"))
        if broadcast(specs[1].shape, batch) != batch:
            raise KernelValueError(f"rtol {specs[1]} does not go with {specs[0]}")
    return batch, rows, columns


def _pinv_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    batch, rows, columns = _cutoff(specs)
    return (Spec(specs[0].dtype, (*batch, columns, rows)),)


def _pinv(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(np.linalg.pinv(inputs[0], rtol=_tolerance(inputs[0], inputs[1:])), outputs[0]),)


def _rank_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    batch, _, _ = _cutoff(specs)
    return (Spec("i64", batch),)


def _rank(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    if 0 in inputs[0].shape[-2:]:
        return (np.zeros(outputs[0].shape, np.int64),)
    values = np.linalg.svd(inputs[0], compute_uv=False)
    floor = values.max(axis=-1) * _tolerance(inputs[0], inputs[1:])
    return (narrow(np.count_nonzero(values > floor[..., None], axis=-1), outputs[0]),)


def _qr_shapes(batch: tuple[int, ...], m: int, n: int, given: Attributes) -> tuple[tuple[int, ...], ...]:
    if given["mode"] not in ("reduced", "complete"):
        raise KernelValueError(f"mode {given['mode']!r} is neither reduced nor complete")
    k = m if given["mode"] == "complete" else min(m, n)
    return (*batch, m, k), (*batch, k, n)


def _svd_shapes(batch: tuple[int, ...], m: int, n: int, given: Attributes) -> tuple[tuple[int, ...], ...]:
    k = min(m, n)
    left, right = (m, n) if given["full_matrices"] else (k, k)
    return (*batch, m, left), (*batch, k), (*batch, right, n)


LAPACK: Final = "errors grow with the condition of the matrix; held over matrices that are far from singular"
_FREE: Final = "the factors are free up to signs; a test multiplies them back"

KERNELS: Final = (
    _factor(
        "cholesky",
        lambda x, a: np.linalg.cholesky(x, upper=a["upper"]),
        lambda b, m, n, a: ((*b, m, n),),
        "triangle L with x = L L^H (upper: U^H U)",
        upper=False,
        bound=Bound(256, LARGEST, special=LAPACK),
        examples=(example(Draw((2, 4, 4), "definite")),),
    ),
    _factor(
        "determinant",
        lambda x, a: np.linalg.det(x),
        lambda b, m, n, a: (b,),
        "determinant",
        bound=Bound(256, LARGEST, special=LAPACK),
        examples=(example(Draw((2, 4, 4), "regular")),),
    ),
    _factor(
        "sign_log_determinant",
        lambda x, a: tuple(np.linalg.slogdet(x)),
        lambda b, m, n, a: (b, b),
        "sign, and logarithm of the absolute value, of the determinant",
        real=(1,),
        outputs=("sign", "logarithm"),
        bound=Bound(256, LARGEST, special=LAPACK),
        examples=(example(Draw((2, 4, 4), "regular")),),
    ),
    _factor(
        "eigh",
        lambda x, a: tuple(np.linalg.eigh(x)),
        lambda b, m, n, a: ((*b, n), (*b, n, n)),
        "eigenvalues (rising) and eigenvectors of a symmetric or Hermitian matrix",
        real=(0,),
        outputs=("values", "vectors"),
        bound=not_compared(_FREE),
        examples=(example(Draw((2, 4, 4), "definite")),),
    ),
    _factor(
        "eigvalsh",
        lambda x, a: np.linalg.eigvalsh(x),
        lambda b, m, n, a: ((*b, n),),
        "eigenvalues (rising) of a symmetric or Hermitian matrix",
        real=(0,),
        bound=Bound(256, LARGEST, special=LAPACK),
        examples=(example(Draw((2, 4, 4), "definite")),),
    ),
    _factor(
        "inverse",
        lambda x, a: np.linalg.inv(x),
        lambda b, m, n, a: ((*b, m, n),),
        "inverse matrix",
        bound=Bound(256, LARGEST, special=LAPACK),
        examples=(example(Draw((2, 4, 4), "regular")),),
    ),
    _factor(
        "qr",
        lambda x, a: tuple(np.linalg.qr(x, a["mode"])),
        _qr_shapes,
        "orthogonal Q and triangle R with x = Q R",
        square=False,
        mode="reduced",
        outputs=("q", "r"),
        bound=not_compared(_FREE),
        examples=(example((4, 3)),),
    ),
    _factor(
        "svd",
        lambda x, a: tuple(np.linalg.svd(x, full_matrices=a["full_matrices"])),
        _svd_shapes,
        "U, singular values (falling) and V^H",
        real=(1,),
        square=False,
        full_matrices=True,
        outputs=("u", "s", "vh"),
        bound=not_compared(_FREE),
        examples=(example((4, 3)),),
    ),
    _factor(
        "svdvals",
        lambda x, a: np.linalg.svd(x, compute_uv=False),
        lambda b, m, n, a: ((*b, min(m, n)),),
        "singular values, falling",
        real=(0,),
        square=False,
        bound=Bound(256, LARGEST, special=LAPACK),
        examples=(example((2, 4, 3)),),
    ),
    Kernel(
        "solve",
        ("a", "b"),
        MATRIX,
        _solve_shape,
        cubic(2.0),
        _solve,
        "x with a x = b",
        bound=Bound(256, LARGEST, special=LAPACK),
        examples=(
            example(Draw((2, 4, 4), "regular"), (4, 2)),
            example(Draw((3, 3), "regular"), (3,)),
        ),
    ),
    Kernel(
        "pinv",
        ("x", "rtol"),
        MATRIX,
        _pinv_shape,
        cubic(20.0),
        _pinv,
        "pseudo-inverse; singular values up to rtol of the largest count as 0",
        optional=1,
        bound=Bound(256, LARGEST, special=LAPACK),
        examples=(example(Draw((2, 4, 3), "regular")),),
    ),
    Kernel(
        "matrix_rank",
        ("x", "rtol"),
        MATRIX,
        _rank_shape,
        cubic(10.0),
        _rank,
        "number of singular values above rtol of the largest",
        optional=1,
        bound=Bound(0, special=LAPACK),
        examples=(example(Draw((2, 4, 4), "regular")),),
    ),
)
