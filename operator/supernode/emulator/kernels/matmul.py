"""Matrix products, with what a card fuses behind them, and their gradients.

Flows in: matrices or batches of them (NumPy's broadcasting of the leading axes), optionally a bias per column. Flows
out: activation(a b + bias). Floats of 8 and 16 bits are converted to f32 exactly, multiplied and accumulated in f32,
and rounded once at the end; f32 may round its inputs to tf32 first. Integers wrap around; int8 accumulates exactly.
Not here: scales of quantised numbers (`quantise`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import COMPLEX, DTYPES, FIELDS, FLOATS, FP8, INEXACT, RATES, WIDE
from supernode.emulator.kernels.epilogue import ACTIVATIONS, activate, slope
from supernode.emulator.kernels.rules import broadcast, choice, known_dtype, moved, narrow, need, same_dtype, widen
from supernode.emulator.kernels.table import (
    LARGEST,
    MAGNITUDES,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Gemm,
    Kernel,
    Spec,
    example,
)
from supernode.emulator.rounding import tf32
from supernode.errors import KernelTypeError, KernelValueError

# Largest sums of products that f32 and f64 hold exactly: int8 products then run at the speed of the BLAS.
_EXACT_F32: Final = 1 << 24
_EXACT_F64: Final = 1 << 53


def sizes_of(a: Spec, b: Spec, attributes: Attributes) -> tuple[int, int, int]:
    """(m, n, k) of a product.

    Raises:
        KernelError: the inner sizes differ, or an input is no matrix.
    """
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise KernelValueError("both inputs need two axes or more")
    m, k = (a.shape[-1], a.shape[-2]) if attributes["transpose_a"] else (a.shape[-2], a.shape[-1])
    inner, n = (b.shape[-1], b.shape[-2]) if attributes["transpose_b"] else (b.shape[-2], b.shape[-1])
    if k != inner:
        raise KernelValueError(f"inner sizes differ: {k} of the first input, {inner} of the second")
    return m, n, k


def check_precision(attributes: Attributes, dtype: str) -> None:
    """Refuse tf32 for anything but f32.

    Raises:
        KernelError: says so.
    """
    if choice(attributes, "precision", "f32", "tf32") == "tf32" and dtype != "f32":
        raise KernelTypeError(f"precision tf32 is for f32, not {dtype}")


def rate_of(dtype: str, attributes: Attributes) -> str | None:
    """The chip figure that a product of a dtype runs at; None: memory alone is the limit."""
    return "tf32" if attributes["precision"] == "tf32" else RATES.get(dtype)


def _operands(specs: Sequence[Spec]) -> str:
    """The dtype of both inputs; of two 8-bit floats, which may differ, the first's."""
    if all(spec.dtype in FP8 for spec in specs[:2]):
        return specs[0].dtype
    return same_dtype(specs[:2])


def _shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    m, n, _ = sizes_of(specs[0], specs[1], attributes)
    dtype = _operands(specs)
    check_precision(attributes, dtype)
    given = attributes["dtype"]
    out = ("f32" if dtype in FP8 else dtype) if given is None else known_dtype(given)
    if attributes["activation"] is not None:
        choice(attributes, "activation", *ACTIVATIONS)
        if out not in FLOATS:
            raise KernelTypeError(f"an activation is for floats, not {out}")
    if len(specs) > 2:
        floats = dtype in (*FLOATS, *FP8)
        need(specs[2], "bias", dtype=(dtype, out, "f32") if floats else (dtype, out), shape=(n,))
    inexact = (*INEXACT, *FP8)
    if (out in inexact) != (dtype in inexact) or out == "bool" or (dtype in COMPLEX and out not in COMPLEX):
        raise KernelTypeError(f"a product of {dtype} cannot be {out}; cast it afterwards")
    return (Spec(out, (*broadcast(specs[0].shape[:-2], specs[1].shape[:-2]), m, n)),)


def gemm_cost(a: Spec, b: Spec, out: Spec, attributes: Attributes, nbytes: float) -> Cost:
    """Cost of one product; one weight for the whole batch is one tall product."""
    m, n, k = sizes_of(a, b, attributes)
    batch = math.prod(out.shape[:-2])
    if len(b.shape) == 2 and not attributes["transpose_a"]:
        m, batch = m * batch, 1
    rate = rate_of(a.dtype, attributes)
    return Cost(2.0 * m * n * k * batch, nbytes, Gemm(m, n, k, batch, rate) if rate else None)


def _cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return gemm_cost(specs[0], specs[1], outputs[0], attributes, moved(specs, outputs))


def multiply(a: AnyArray, b: AnyArray) -> AnyArray:
    """a b as NumPy's matmul has it, with one call of the BLAS where b is one matrix for a whole batch of a."""
    if b.ndim == 2 and a.ndim > 2 and a.flags.c_contiguous:
        flat: AnyArray = a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) @ b
        return flat.reshape(*a.shape[:-1], b.shape[-1])
    product: AnyArray = a @ b
    return product


def multiply_integers(a: AnyArray, b: AnyArray, out: AnyArray | None = None) -> AnyArray:
    """Exact sums of products of 8-bit integers, as i32 (wrapping around beyond it)."""
    reach = a.shape[-1] * (1 << 16)
    wide = np.float32 if reach <= _EXACT_F32 else np.float64
    if reach > _EXACT_F64:
        return np.asarray(a.astype(np.int32) @ b.astype(np.int32))
    product = multiply(a.astype(wide), b.astype(wide))
    return product.astype(np.int32) if reach < 1 << 31 else product.astype(np.int64).astype(np.int32)


def _turned(array: AnyArray, turned: bool) -> AnyArray:
    return array.swapaxes(-1, -2) if turned else array


def _product(inputs: Sequence[AnyArray], attributes: Attributes, out: Spec) -> AnyArray:
    a, b = _turned(inputs[0], attributes["transpose_a"]), _turned(inputs[1], attributes["transpose_b"])
    if a.dtype.kind in "iu" and a.dtype.itemsize == 1 and out.dtype != "i64" and out.dtype != "u64":
        product = multiply_integers(a, b).astype(DTYPES[out.dtype])
        return product + inputs[2].astype(product.dtype) if len(inputs) > 2 else product
    a, b = widen(a), widen(b)
    if out.dtype in FIELDS and WIDE[out.dtype].itemsize > a.dtype.itemsize:
        a, b = a.astype(WIDE[out.dtype]), b.astype(WIDE[out.dtype])
    if attributes["precision"] == "tf32":
        a, b = tf32(a), tf32(b)
    product = multiply(a, b)
    if len(inputs) > 2:
        product += widen(inputs[2])
    return product


def _run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    product = _product(inputs, attributes, outputs[0])
    if attributes["activation"] is not None:
        activate(attributes["activation"], product)
    return (narrow(product, outputs[0]),)


# --- gradients -----------------------------------------------------------------------------------------------------


def _backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, a = specs[:2]
    (out,) = _shape(specs[1:], {**attributes, "dtype": None})
    if a.dtype not in FLOATS:
        raise KernelTypeError(f"no gradients of {a.dtype}")
    need(grad, "grad", dtype=FLOATS, shape=out.shape)
    given = attributes["dtype"]
    kinds = [spec.dtype if given is None else known_dtype(given) for spec in specs[1:]]
    if any(kind not in FLOATS for kind in kinds):
        raise KernelTypeError(f"gradients cannot be {kinds[0]}")
    return tuple(Spec(kind, spec.shape) for kind, spec in zip(kinds, specs[1:], strict=True))


def _backward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """Two products (three if the activation's input is made again), as one launch of the same shape and more of it."""
    products = 2 if attributes["activation"] is None else 3
    one = gemm_cost(specs[1], specs[2], specs[0], attributes, moved(specs, outputs))
    if one.gemm is None:
        return one
    gemm = one.gemm._replace(batch=one.gemm.batch * products)
    return Cost(products * one.flops, one.bytes_moved, gemm)


def _summed(array: AnyArray, shape: tuple[int, ...]) -> AnyArray:
    """Summed over the axes that broadcasting made."""
    extra = array.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        extra + i for i, size in enumerate(shape[:-2]) if size == 1 and array.shape[extra + i] != 1
    )
    return array.sum(axis=axes).reshape(shape) if axes else array


def _backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    grad, a, b = widen(inputs[0]), widen(inputs[1]), widen(inputs[2])
    if grad.dtype != a.dtype:
        grad = grad.astype(a.dtype)
    if attributes["activation"] is not None:
        full = Spec("f64" if a.dtype == np.float64 else "f32", grad.shape)
        before = _product(inputs[1:], attributes, full)
        grad = grad * slope(attributes["activation"], before)
    turned_a, turned_b = attributes["transpose_a"], attributes["transpose_b"]
    left, right = _turned(a, turned_a), _turned(b, turned_b)
    g = grad
    if attributes["precision"] == "tf32":
        left, right, g = tf32(left), tf32(right), tf32(g)
    d_left = multiply(g, right.swapaxes(-1, -2))
    if b.ndim == 2 and a.ndim > 2:
        columns = (-1, left.shape[-1]) if left.size else (0, left.shape[-1])
        d_right = left.reshape(columns).T @ g.reshape(columns[0], g.shape[-1])
    else:
        d_right = _summed(left.swapaxes(-1, -2) @ g, (*b.shape[:-2], *right.shape[-2:]))
    d_left = _summed(d_left, (*a.shape[:-2], *left.shape[-2:]))
    found = [_turned(d_left, turned_a), _turned(d_right, turned_b)]
    if len(inputs) > 3:
        found.append(grad.reshape(-1, grad.shape[-1]).sum(axis=0))
    return tuple(narrow(part, spec) for part, spec in zip(found, outputs, strict=True))


_ATTRIBUTES: Final = {
    "transpose_a": False,
    "transpose_b": False,
    "dtype": None,
    "precision": "f32",
    "activation": None,
}

KERNELS: Final = (
    Kernel(
        "matmul",
        ("a", "b", "bias"),
        (*FIELDS, *FP8),
        _shape,
        _cost,
        _run,
        "activation(a b + bias); 8 and 16-bit floats accumulate in f32 and round once, 8-bit ones give f32, int8 "
        f"accumulates in i32; precision f32 or tf32; activation one of {', '.join(ACTIVATIONS)}",
        _ATTRIBUTES,
        optional=1,
        backward="matmul_backward",
        bound=Bound(32, MAGNITUDES, 2),
        examples=(
            example((9, 17), (17, 5)),
            example((2, 4, 6), (5, 6), (5,), transpose_b=True),
            example((2, 3, 4, 6), (3, 6, 5)),
            example((6, 4), (6, 5), (5,), transpose_a=True, activation="gelu"),
        ),
    ),
    Kernel(
        "matmul_backward",
        ("grad", "a", "b", "bias"),
        FLOATS,
        _backward_shape,
        _backward_cost,
        _backward,
        "gradients of a, b and bias, in dtype (default: their own); the activation's input is computed again",
        _ATTRIBUTES,
        optional=1,
        outputs=("grad_a", "grad_b", "grad_bias"),
        bound=Bound(64, LARGEST, special="sums of terms of both signs; held over finite numbers of ordinary size"),
        examples=(example((9, 5), (9, 17), (17, 5)),),
    ),
)
