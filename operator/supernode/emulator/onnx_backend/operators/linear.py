"""Matrix products.

Flows in: matrices or batches of them. Flows out: the product, accumulated in f32 (f64 of f64) and rounded once. Not
here: convolutions (`convolution`), quantised products (`quantised`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supernode.emulator.client import Array
from supernode.emulator.dtypes import FLOATS, NUMBERS
from supernode.emulator.onnx_backend.call import Call, Lowering


def product(call: Call, a: Array, b: Array, kernel: str = "matmul", **attributes: Any) -> Array:
    """A matrix product as NumPy's: an input with one axis is a row or a column, which the result does not keep."""
    row, column = len(a.shape) == 1, len(b.shape) == 1
    a = a.reshape([1, a.shape[0]]) if row else a
    b = b.reshape([b.shape[0], 1]) if column else b
    out: Array = call.launch(kernel, a, b, **attributes)
    shape = list(out.shape)
    if column:
        del shape[-1]
    if row:
        del shape[-1 if column else -2]
    return out.reshape(shape) if row or column else out


def _matmul(call: Call) -> Any:
    return call.out(product(call, call.array(0), call.array(1))) if call.computes(*NUMBERS) else NotImplemented


def _gemm(call: Call) -> Any:
    if not call.computes(*NUMBERS):
        return NotImplemented
    a, b = call.array(0), call.array(1)
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    ways = {"transpose_a": bool(call.get("transA", 0)), "transpose_b": bool(call.get("transB", 0))}
    columns = b.shape[0] if ways["transpose_b"] else b.shape[1]
    with_bias = call.has(2) and beta != 0
    if with_bias and alpha == 1 and beta == 1 and call.tensor(2).shape in ((columns,), (1, columns)):
        return call.out(call.launch("matmul", a, b, call.array(2).reshape([columns]), **ways))
    if a.dtype not in FLOATS:
        return NotImplemented
    # What is scaled or added afterwards must not round in between.
    wide = "f32" if a.dtype in ("f16", "bf16") and (alpha != 1 or with_bias) else a.dtype
    out = call.launch("matmul", a, b, dtype=wide, **ways)
    if alpha != 1:
        out = call.launch("scale", out, factor=alpha)
    if with_bias:
        c = call.cast(call.array(2), wide)
        if call.version < 7 and len(c.shape) == 1 and c.shape != (columns,) and c.shape == (out.shape[0],):
            c = c.reshape([c.shape[0], 1])
        out = call.launch("add", out, c if beta == 1 else call.launch("scale", c, factor=beta))
    return call.out(call.cast(out, a.dtype))


OPERATORS: Final[Mapping[str, Lowering]] = {"MatMul": _matmul, "Gemm": _gemm}
