"""Matrix products.

Flows in: matrices or batches of them (NumPy's broadcasting of the leading axes), optionally a bias per column. Flows
out: the product. 16-bit inputs are converted to f32 exactly, multiplied and accumulated in f32, and rounded once at
the end, bias included. Integers wrap around. Not here: fused activations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from supernode.emulator.dtypes import FIELDS, FLOATS, INEXACT, WIDE
from supernode.emulator.kernels.rules import broadcast, known_dtype, moved, narrow, need, same_dtype, widen
from supernode.emulator.kernels.table import AnyArray, Attributes, Cost, Gemm, Kernel, Spec
from supernode.errors import KernelError

# dtype -> the format whose peak rate a product runs at; other integers are limited by memory alone.
_RATES: Final = {"f16": "f16", "bf16": "bf16", "f32": "f32", "f64": "f64", "i8": "int8"}


def _sizes(specs: Sequence[Spec], attributes: Attributes) -> tuple[int, int, int]:
    """(m, n, k)."""
    a, b = specs[0].shape, specs[1].shape
    if len(a) < 2 or len(b) < 2:
        raise KernelError("both inputs need two axes or more")
    m, k = (a[-1], a[-2]) if attributes["transpose_a"] else (a[-2], a[-1])
    inner, n = (b[-1], b[-2]) if attributes["transpose_b"] else (b[-2], b[-1])
    if k != inner:
        raise KernelError(f"inner sizes differ: {k} of the first input, {inner} of the second")
    return m, n, k


def _shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    m, n, _ = _sizes(specs, attributes)
    dtype = same_dtype(specs[:2])
    if len(specs) > 2:
        need(specs[2], "bias", dtype=(dtype, "f32") if dtype in FLOATS else dtype, shape=(n,))
    out = dtype if attributes["dtype"] is None else known_dtype(attributes["dtype"])
    return (Spec(out, (*broadcast(specs[0].shape[:-2], specs[1].shape[:-2]), m, n)),)


def _cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    m, n, k = _sizes(specs, attributes)
    batch = math.prod(outputs[0].shape[:-2])
    shared = len(specs[1].shape) == 2 and not attributes["transpose_a"]
    if shared:  # one weight for the whole batch is one tall product
        m, batch = m * batch, 1
    rate = _RATES.get(specs[0].dtype)
    gemm = Gemm(m, n, k, batch, rate) if rate else None
    return Cost(2.0 * m * n * k * batch, moved(specs, outputs), gemm)


def _run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    out = outputs[0]
    a, b = widen(inputs[0]), widen(inputs[1])
    if out.dtype in FIELDS and WIDE[out.dtype].itemsize > a.dtype.itemsize:
        a, b = a.astype(WIDE[out.dtype]), b.astype(WIDE[out.dtype])
    if attributes["transpose_a"]:
        a = a.swapaxes(-1, -2)
    if attributes["transpose_b"]:
        b = b.swapaxes(-1, -2)
    if b.ndim == 2 and a.ndim > 2 and not attributes["transpose_a"]:
        # One call of the BLAS instead of one per matrix of the batch.
        product = (a.reshape(-1, a.shape[-1]) @ b).reshape(out.shape)
    else:
        product = a @ b
    if len(inputs) > 2:
        product += widen(inputs[2])
    return (narrow(product, out),)


def _product_dtypes(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    out = _shape(specs, attributes)
    if (out[0].dtype in INEXACT) != (specs[0].dtype in INEXACT) or out[0].dtype == "bool":
        raise KernelError(f"a product of {specs[0].dtype} cannot be {out[0].dtype}; cast it afterwards")
    return out


KERNELS: Final = (
    Kernel(
        "matmul",
        ("a", "b", "bias"),
        FIELDS,
        _product_dtypes,
        _cost,
        _run,
        "a b (+ bias); 16-bit floats accumulate in f32 and round once",
        {"transpose_a": False, "transpose_b": False, "dtype": None},
        optional=1,
    ),
)
