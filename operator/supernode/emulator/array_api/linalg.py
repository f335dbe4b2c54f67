"""The linear algebra extension of the standard.

Flows in: matrices and vectors (the last axes). Flows out: arrays and named tuples of them. Not here: the numerics (the
kernels of family `linear algebra`).
"""

from __future__ import annotations

import math
import operator
from typing import NamedTuple

from supernode.emulator.array_api.array import Array, convert, launch, launch_several, need_array, scalar, together
from supernode.emulator.array_api.linear_algebra import matmul, tensordot, vecdot
from supernode.emulator.array_api.manipulation import broadcast_shapes, matrix_transpose, normal
from supernode.emulator.array_api.types import COMPLEX, OF_SHORT, REAL, SIGNED, UNSIGNED, DType, chosen, need_kind
from supernode.emulator.dtypes import REAL_OF

__all__ = [
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]

_INEXACT = (REAL, COMPLEX)


class EighResult(NamedTuple):
    """Result of `eigh`."""

    eigenvalues: Array
    eigenvectors: Array


class QRResult(NamedTuple):
    """Result of `qr`."""

    Q: Array
    R: Array


class SlogdetResult(NamedTuple):
    """Result of `slogdet`."""

    sign: Array
    logabsdet: Array


class SVDResult(NamedTuple):
    """Result of `svd`."""

    U: Array
    S: Array
    Vh: Array


def _inexact(name: str, x: Array) -> Array:
    need_kind(name, need_array(x, name).dtype, *_INEXACT)
    return x


def cholesky(x: Array, /, *, upper: bool = False) -> Array:
    """Triangle L with x = L L^H, or with `upper` U with x = U^H U."""
    return launch("cholesky", _inexact("cholesky", x), upper=bool(upper))


def cross(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """Cross product of vectors of 3.

    Raises:
        ValueError: an axis of another size.
    """
    a, b = together(need_array(x1, "cross"), need_array(x2, "cross"))
    shape = broadcast_shapes(a.shape, b.shape)
    if a.shape[axis] != 3 or b.shape[axis] != 3 or not shape:
        raise ValueError(f"axis {axis} of shapes {a.shape} and {b.shape} must have 3 elements")
    return launch("cross", a, b, axis=operator.index(axis))


def det(x: Array, /) -> Array:
    """Determinant."""
    return launch("determinant", _inexact("det", x))


def diagonal(x: Array, /, *, offset: int = 0) -> Array:
    """A diagonal of each matrix."""
    return launch("diagonal", x, k=operator.index(offset))


def eigh(x: Array, /) -> EighResult:
    """Eigenvalues and eigenvectors of a symmetric or Hermitian matrix."""
    return EighResult(*launch_several("eigh", _inexact("eigh", x)))


def eigvalsh(x: Array, /) -> Array:
    """Eigenvalues of a symmetric or Hermitian matrix."""
    return launch("eigvalsh", _inexact("eigvalsh", x))


def inv(x: Array, /) -> Array:
    """Inverse matrix."""
    return launch("inverse", _inexact("inv", x))


def matrix_norm(x: Array, /, *, keepdims: bool = False, ord: float | str | None = "fro") -> Array:
    """Norm of each matrix."""
    return launch("matrix_norm", _inexact("matrix_norm", x), keepdims=bool(keepdims), ord=_order(ord, "fro"))


def _order(value: float | str | None, default: float | str) -> float | str:
    """A norm's order; infinity travels as text."""
    if value is None:
        return default
    return str(float(value)) if isinstance(value, float) and math.isinf(value) else value


def matrix_power(x: Array, n: int, /) -> Array:
    """The matrix times itself, `n` times; a negative `n` takes the inverse."""
    need_kind("matrix_power", need_array(x, "matrix_power").dtype, *_INEXACT)
    exponent = operator.index(n)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"matrix_power needs square matrices, not {x.shape}")
    base = inv(x) if exponent < 0 else x
    out: Array | None = None
    bits = abs(exponent)
    while bits:
        if bits & 1:
            out = base if out is None else launch("matmul", out, base)
        bits >>= 1
        base = launch("matmul", base, base) if bits else base
    if out is None:
        from supernode.emulator.array_api.creation import eye

        one = eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return launch("broadcast_to", one, shape=list(x.shape))
    return launch("copy", out) if out is x else out


def _tolerance(x: Array, rtol: float | Array | None) -> tuple[Array, ...]:
    real = OF_SHORT[REAL_OF[x.dtype.short]]
    if rtol is None:
        return ()
    return (convert(rtol, real) if isinstance(rtol, Array) else scalar(rtol, real, x.device),)


def matrix_rank(x: Array, /, *, rtol: float | Array | None = None) -> Array:
    """Number of singular values above `rtol` of the largest."""
    return launch("matrix_rank", _inexact("matrix_rank", x), *_tolerance(x, rtol))


def pinv(x: Array, /, *, rtol: float | Array | None = None) -> Array:
    """Pseudo-inverse."""
    return launch("pinv", _inexact("pinv", x), *_tolerance(x, rtol))


def outer(x1: Array, x2: Array, /) -> Array:
    """All products of elements of two vectors.

    Raises:
        ValueError: not vectors.
    """
    a, b = together(need_array(x1, "outer"), need_array(x2, "outer"))
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"outer needs two vectors, not shapes {a.shape} and {b.shape}")
    need_kind("outer", a.dtype, SIGNED, UNSIGNED, *_INEXACT)
    return launch("multiply", Array(a._handle.reshape([a.size, 1])), Array(b._handle.reshape([1, b.size])))


def qr(x: Array, /, *, mode: str = "reduced") -> QRResult:
    """Orthogonal Q and triangle R with x = Q R."""
    return QRResult(*launch_several("qr", _inexact("qr", x), mode=mode))


def slogdet(x: Array, /) -> SlogdetResult:
    """Sign, and logarithm of the absolute value, of the determinant."""
    return SlogdetResult(*launch_several("sign_log_determinant", _inexact("slogdet", x)))


def solve(x1: Array, x2: Array, /) -> Array:
    """x with x1 x = x2."""
    a, b = together(_inexact("solve", x1), _inexact("solve", x2))
    return launch("solve", a, b)


def svd(x: Array, /, *, full_matrices: bool = True) -> SVDResult:
    """Singular value decomposition."""
    return SVDResult(*launch_several("svd", _inexact("svd", x), full_matrices=bool(full_matrices)))


def svdvals(x: Array, /) -> Array:
    """Singular values."""
    return launch("svdvals", _inexact("svdvals", x))


def trace(x: Array, /, *, offset: int = 0, dtype: DType | None = None) -> Array:
    """Sum of a diagonal of each matrix."""
    need_kind("trace", need_array(x, "trace").dtype, SIGNED, UNSIGNED, *_INEXACT)
    source = convert(x, chosen(dtype, x.dtype))
    return launch("sum", diagonal(source, offset=offset), axis=[x.ndim - 2], dtype=dtype and dtype.short)


def vector_norm(
    x: Array, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False, ord: float = 2
) -> Array:
    """Norm of order `ord` over axes."""
    _inexact("vector_norm", x)
    given = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    places = [normal(item, x.ndim) for item in given]
    return launch("vector_norm", x, axis=places, keepdims=bool(keepdims), ord=_order(ord, 2))
