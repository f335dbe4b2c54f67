"""Mixture of experts: tokens in the order of experts and back, and products with each expert's own matrix.

Flows in: tokens [tokens, columns] and the numbers of their experts [tokens, k]. Flows out: rows sorted by expert, what
the experts make of them, tokens again. Tokens of one expert stay in their order, so every sum has one order. Not here:
who is chosen (`gating`), sending tokens to other ranks (all-to-all: `counts` are its sizes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS, RATES
from supernode.emulator.kernels.rules import moved, narrow, need, same_dtype, streaming, whole, widen
from supernode.emulator.kernels.table import (
    EXACT,
    LARGEST,
    MAGNITUDES,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Draw,
    Gemm,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelIndexError, KernelValueError


def wide_of(dtype: str) -> str:
    """The type that weights are in."""
    return "f64" if dtype == "f64" else "f32"


# --- order of tokens -------------------------------------------------------------------------------------------------


def check_experts(experts: AnyArray, count: int) -> None:
    """Refuse a choice that is none.

    Raises:
        KernelError: an expert outside 0 to count - 1.
    """
    if experts.size and not 0 <= int(experts.min()) <= int(experts.max()) < count:
        raise KernelIndexError(f"experts are 0 to {count - 1}, but {experts.min()} to {experts.max()} were chosen")


def _permute_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, experts = specs
    if len(x.shape) != 2 or len(experts.shape) != 2 or 0 in experts.shape[1:]:
        raise KernelValueError(f"x must be [tokens, columns] and experts [tokens, k], not {x} and {experts}")
    need(experts, "experts", dtype="i32", shape=(x.shape[0], experts.shape[1]))
    count = whole(attributes, "count", 1, 1 << 20)
    slots = experts.size
    return (Spec(x.dtype, (slots, x.shape[1])), Spec("i64", (slots,)), Spec("i64", (count,)))


def _permute(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, experts = inputs
    check_experts(experts, attributes["count"])
    flat = experts.reshape(-1)
    order = np.argsort(flat, kind="stable").astype(np.int64)
    counts = np.bincount(flat, minlength=attributes["count"]).astype(np.int64)
    return x[order // experts.shape[1]], order, counts


def _check_order(order: AnyArray, slots: int) -> None:
    if slots and not (np.bincount(order, minlength=slots) == 1).all():
        raise KernelValueError(f"order does not name each of {slots} places once")


def _slots(rows: Spec, order: Spec, k: int) -> int:
    """Tokens of sorted rows."""
    if len(rows.shape) != 2 or rows.shape[0] % k:
        raise KernelValueError(f"rows {rows} are no tokens of {k} experts each")
    need(order, "order", dtype="i64", shape=rows.shape[:1])
    return rows.shape[0] // k


def _permute_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, experts, order = specs
    if len(experts.shape) != 2 or 0 in experts.shape[1:]:
        raise KernelValueError(f"experts must be [tokens, k], not {experts}")
    tokens = _slots(grad, order, experts.shape[1])
    need(experts, "experts", dtype="i32", shape=(tokens, experts.shape[1]))
    return (Spec(grad.dtype, (tokens, grad.shape[1])),)


def _unsorted(rows: AnyArray, order: AnyArray, k: int) -> AnyArray:
    """Rows in the order of tokens: [tokens, k, columns]."""
    _check_order(order, len(rows))
    out = np.empty_like(rows)
    out[order] = rows
    return out.reshape(len(rows) // k, k, rows.shape[1])


def _permute_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    grad, experts, order = widen(inputs[0]), inputs[1], inputs[2]
    return (narrow(_unsorted(grad, order, experts.shape[1]).sum(axis=1), outputs[0]),)


def _unpermute_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    rows, order, weights = specs
    if len(weights.shape) != 2 or 0 in weights.shape[1:]:
        raise KernelValueError(f"weights must be [tokens, k], not {weights}")
    tokens = _slots(rows, order, weights.shape[1])
    need(weights, "weights", dtype=wide_of(rows.dtype), shape=(tokens, weights.shape[1]))
    return (Spec(rows.dtype, (tokens, rows.shape[1])),)


def _unpermute(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    rows, order, weights = widen(inputs[0]), inputs[1], inputs[2]
    parts = _unsorted(rows, order, weights.shape[1])
    parts *= weights[:, :, None]
    return (narrow(parts.sum(axis=1), outputs[0]),)


def _unpermute_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, rows, order, weights = specs
    (out,) = _unpermute_shape((rows, order, weights), attributes)
    need(grad, "grad", dtype=out.dtype, shape=out.shape)
    return (rows, weights)


def _unpermute_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    grad, rows, order, weights = widen(inputs[0]), widen(inputs[1]), inputs[2], inputs[3]
    k = weights.shape[1]
    parts = _unsorted(rows, order, k)
    d_rows = grad[order // k] * weights.reshape(-1)[order][:, None]
    return narrow(d_rows, outputs[0]), narrow(np.einsum("tkc,tc->tk", parts, grad), outputs[1])


# --- each expert's own matrix ----------------------------------------------------------------------------------------


def _grouped_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    rows, weights, counts = specs
    same_dtype((rows, weights))
    if len(rows.shape) != 2 or len(weights.shape) != 3 or rows.shape[1] != weights.shape[1]:
        raise KernelValueError(f"rows {rows} must be [rows, inner] and weights {weights} [experts, inner, columns]")
    need(counts, "counts", dtype="i64", shape=weights.shape[:1])
    return (Spec(rows.dtype, (rows.shape[0], weights.shape[2])),)


def _grouped_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """How rows are spread is data; the clock takes them as spread evenly."""
    return _products(specs[0], specs[1], 1, moved(specs, outputs))


def _products(rows: Spec, weights: Spec, products: int, nbytes: float) -> Cost:
    experts, inner, columns = weights.shape
    each = -(-rows.shape[0] // max(experts, 1))
    flops = 2.0 * products * rows.shape[0] * inner * columns
    rate = RATES.get(rows.dtype)
    return Cost(flops, nbytes, Gemm(each, columns, inner, experts * products, rate) if rate else None)


def _parts(counts: AnyArray, rows: int) -> Iterator[tuple[int, slice]]:
    if (counts < 0).any() or int(counts.sum()) != rows:
        raise KernelValueError(f"counts add up to {int(counts.sum())}, but there are {rows} rows")
    start = 0
    for expert, count in enumerate(counts.tolist()):
        yield expert, slice(start, start + count)
        start += count


def _grouped(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    rows, weights, counts = widen(inputs[0]), widen(inputs[1]), inputs[2]
    out = np.empty((len(rows), weights.shape[2]), rows.dtype)
    for expert, part in _parts(counts, len(rows)):
        np.matmul(rows[part], weights[expert], out=out[part])
    return (narrow(out, outputs[0]),)


def _grouped_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, rows, weights, counts = specs
    (out,) = _grouped_shape((rows, weights, counts), attributes)
    need(grad, "grad", dtype=out.dtype, shape=out.shape)
    return (rows, weights)


def _grouped_backward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return _products(specs[1], specs[2], 2, moved(specs, outputs))


def _grouped_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    grad, rows, weights = widen(inputs[0]), widen(inputs[1]), widen(inputs[2])
    d_rows, d_weights = np.empty_like(rows), np.empty_like(weights)
    for expert, part in _parts(inputs[3], len(rows)):
        np.matmul(grad[part], weights[expert].T, out=d_rows[part])
        np.matmul(rows[part].T, grad[part], out=d_weights[expert])
    return narrow(d_rows, outputs[0]), narrow(d_weights, outputs[1])


_CHOICES: Final = Draw((6, 2), "below 4", "i32")
_ORDER: Final = Draw((12,), "permutation", "i64")
_WEIGHTS: Final = Draw((6, 2), "unit", "wide")
_SIGNS: Final = "sums of terms of both signs; held over finite numbers of ordinary size"

KERNELS: Final = (
    Kernel(
        "permute_tokens",
        ("x", "experts"),
        FLOATS,
        _permute_shape,
        streaming(0),
        _permute,
        "tokens sorted by expert, a row for each choice; the order (places among all choices), rows of each of count",
        {"count": REQUIRED},
        backward="permute_tokens_backward",
        outputs=("rows", "order", "counts"),
        bound=EXACT,
        examples=(example((6, 5), _CHOICES, count=4),),
    ),
    Kernel(
        "permute_tokens_backward",
        ("grad", "experts", "order"),
        FLOATS,
        _permute_backward_shape,
        streaming(1),
        _permute_backward,
        "gradient of x: per token the sum over its rows",
        outputs=("grad_x",),
        bound=Bound(4, MAGNITUDES),
        examples=(example((12, 5), _CHOICES, _ORDER),),
    ),
    Kernel(
        "unpermute_tokens",
        ("rows", "order", "weights"),
        FLOATS,
        _unpermute_shape,
        streaming(2),
        _unpermute,
        "per token the sum of its rows times their weights",
        backward="unpermute_tokens_backward",
        bound=Bound(4, MAGNITUDES, 2),
        examples=(example((12, 5), _ORDER, _WEIGHTS),),
    ),
    Kernel(
        "unpermute_tokens_backward",
        ("grad", "rows", "order", "weights"),
        FLOATS,
        _unpermute_backward_shape,
        streaming(4),
        _unpermute_backward,
        "gradients of rows and weights",
        outputs=("grad_rows", "grad_weights"),
        bound=Bound(16, LARGEST, special=_SIGNS),
        examples=(example((6, 5), (12, 5), _ORDER, _WEIGHTS),),
    ),
    Kernel(
        "grouped_matmul",
        ("rows", "weights", "counts"),
        FLOATS,
        _grouped_shape,
        _grouped_cost,
        _grouped,
        "rows of each expert times its matrix; the first counts[0] rows are those of expert 0",
        backward="grouped_matmul_backward",
        bound=Bound(32, MAGNITUDES, 2),
        examples=(example((12, 5), (4, 5, 3), Draw((4,), "constant 3", "i64")),),
    ),
    Kernel(
        "grouped_matmul_backward",
        ("grad", "rows", "weights", "counts"),
        FLOATS,
        _grouped_backward_shape,
        _grouped_backward_cost,
        _grouped_backward,
        "gradients of rows and weights",
        outputs=("grad_rows", "grad_weights"),
        bound=Bound(32, LARGEST, special=_SIGNS),
        examples=(example((12, 3), (12, 5), (4, 5, 3), Draw((4,), "constant 3", "i64")),),
    ),
)
