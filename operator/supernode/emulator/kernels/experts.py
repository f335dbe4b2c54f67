"""Mixture of experts: top-k gating, the loss that balances the load, tokens in the order of experts, grouped products.

Flows in: logits of a router [tokens, experts], tokens [tokens, columns]. Flows out: weights and numbers of the chosen
experts, tokens sorted by expert and back, products with each expert's own matrix. Equal logits: the lower number wins.
Tokens of one expert stay in their order, so every sum has one order. Not here: sending tokens to other ranks
(all-to-all: `counts` are its sizes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

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
from supernode.errors import KernelError


def _wide(dtype: str) -> str:
    return "f64" if dtype == "f64" else "f32"


# --- gating --------------------------------------------------------------------------------------------------------


def _gating_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (logits,) = specs
    if len(logits.shape) != 2:
        raise KernelError(f"logits must be [tokens, experts], not {logits}")
    k = whole(attributes, "k", 1, logits.shape[1])
    dtype = _wide(logits.dtype)
    tokens = logits.shape[0]
    return (Spec(dtype, (tokens, k)), Spec("i32", (tokens, k)), Spec(dtype, logits.shape))


def _gating(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    logits = widen(inputs[0])
    k = attributes["k"]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    shares /= shares.sum(axis=1, keepdims=True)
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    weights = np.take_along_axis(shares, chosen, axis=1)
    if attributes["renormalise"]:
        weights /= weights.sum(axis=1, keepdims=True)
    return narrow(weights, outputs[0]), chosen.astype(np.int32), narrow(shares, outputs[2])


def _gating_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad_weights, grad_shares, logits, weights, experts, shares = specs
    found = _gating_shape((logits,), {**attributes, "k": weights.shape[-1] if weights.shape else 0})
    for name, spec, wanted in zip(
        ("grad_weights", "grad_shares", "weights", "experts", "shares"),
        (grad_weights, grad_shares, weights, experts, shares),
        (found[0], found[2], found[0], found[1], found[2]),
        strict=True,
    ):
        need(spec, name, dtype=wanted.dtype, shape=wanted.shape)
    return (logits,)


def _gating_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    grad_weights, grad_shares, _, weights, experts, shares = inputs
    slope = grad_weights
    if attributes["renormalise"]:
        # The weights are the chosen shares over their sum.
        total = np.take_along_axis(shares, experts, axis=1).sum(axis=1, keepdims=True)
        slope = (slope - (slope * weights).sum(axis=1, keepdims=True)) / total
    grad = grad_shares.copy()
    np.put_along_axis(grad, experts, np.take_along_axis(grad, experts, axis=1) + slope, axis=1)
    grad -= (grad * shares).sum(axis=1, keepdims=True)
    grad *= shares
    return (narrow(grad, outputs[0]),)


# --- balance of the load ---------------------------------------------------------------------------------------------


def _balance_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    shares, experts = specs
    if len(shares.shape) != 2 or 0 in shares.shape or len(experts.shape) != 2 or 0 in experts.shape:
        raise KernelError(f"shares must be [tokens, experts] and experts [tokens, k], not {shares} and {experts}")
    need(experts, "experts", dtype="i32", shape=(shares.shape[0], experts.shape[1]))
    return (Spec(shares.dtype, ()),)


def _loads(experts: AnyArray, count: int) -> AnyArray:
    """Share of all choices that fell on each expert; f64."""
    _check_experts(experts, count)
    return np.bincount(experts.reshape(-1), minlength=count) / experts.size


def _balance(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    shares, experts = inputs
    count = shares.shape[1]
    mean = shares.mean(axis=0, dtype=np.float64)
    return (narrow(count * np.dot(_loads(experts, count), mean), outputs[0]),)


def _balance_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, shares, experts = specs
    (loss,) = _balance_shape((shares, experts), attributes)
    need(grad, "grad", dtype=loss.dtype, shape=())
    return (shares,)


def _balance_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    grad, shares, experts = inputs
    tokens, count = shares.shape
    row = _loads(experts, count) * (float(grad) * count / tokens)
    return (narrow(np.broadcast_to(row, shares.shape), outputs[0]),)


# --- order of tokens -------------------------------------------------------------------------------------------------


def _check_experts(experts: AnyArray, count: int) -> None:
    if experts.size and not 0 <= int(experts.min()) <= int(experts.max()) < count:
        raise KernelError(f"experts are 0 to {count - 1}, but {int(experts.min())} to {int(experts.max())} were chosen")


def _permute_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, experts = specs
    if len(x.shape) != 2 or len(experts.shape) != 2 or 0 in experts.shape[1:]:
        raise KernelError(f"x must be [tokens, columns] and experts [tokens, k], not {x} and {experts}")
    need(experts, "experts", dtype="i32", shape=(x.shape[0], experts.shape[1]))
    count = whole(attributes, "count", 1, 1 << 20)
    slots = experts.size
    return (Spec(x.dtype, (slots, x.shape[1])), Spec("i64", (slots,)), Spec("i64", (count,)))


def _permute(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, experts = inputs
    _check_experts(experts, attributes["count"])
    flat = experts.reshape(-1)
    order = np.argsort(flat, kind="stable").astype(np.int64)
    counts = np.bincount(flat, minlength=attributes["count"]).astype(np.int64)
    return x[order // experts.shape[1]], order, counts


def _check_order(order: AnyArray, slots: int) -> None:
    if slots and not (np.bincount(order, minlength=slots) == 1).all():
        raise KernelError(f"order does not name each of {slots} places once")


def _slots(rows: Spec, order: Spec, k: int) -> int:
    """Tokens of sorted rows."""
    if len(rows.shape) != 2 or rows.shape[0] % k:
        raise KernelError(f"rows {rows} are no tokens of {k} experts each")
    need(order, "order", dtype="i64", shape=rows.shape[:1])
    return rows.shape[0] // k


def _permute_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, experts, order = specs
    if len(experts.shape) != 2 or 0 in experts.shape[1:]:
        raise KernelError(f"experts must be [tokens, k], not {experts}")
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
        raise KernelError(f"weights must be [tokens, k], not {weights}")
    tokens = _slots(rows, order, weights.shape[1])
    need(weights, "weights", dtype=_wide(rows.dtype), shape=(tokens, weights.shape[1]))
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
        raise KernelError(f"rows {rows} must be [rows, inner] and weights {weights} [experts, inner, columns]")
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
        raise KernelError(f"counts add up to {int(counts.sum())}, but there are {rows} rows")
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
_CLOSE: Final = "the order of logits that lie close together decides; held over finite numbers of ordinary size"
_SIGNS: Final = "sums of terms of both signs; held over finite numbers of ordinary size"
_GATING: Final[dict[str, Any]] = {"renormalise": True}

KERNELS: Final = (
    Kernel(
        "top_k_gating",
        ("logits",),
        FLOATS,
        _gating_shape,
        streaming(16),
        _gating,
        "softmax over experts, the k largest of each token (renormalised to 1) and their numbers, and all shares",
        {"k": REQUIRED, "renormalise": True},
        backward="top_k_gating_backward",
        outputs=("weights", "experts", "shares"),
        bound=Bound(400, special=_CLOSE),
        examples=(example((6, 4), k=2), example((6, 4), k=3, renormalise=False)),
    ),
    Kernel(
        "top_k_gating_backward",
        ("grad_weights", "grad_shares", "logits", "weights", "experts", "shares"),
        ("f32", "f64"),
        _gating_backward_shape,
        streaming(10),
        _gating_backward,
        "gradient of the logits, from those of weights and shares",
        _GATING,
        outputs=("grad_logits",),
        bound=Bound(64, LARGEST, special=_SIGNS),
        examples=(example((6, 2), (6, 4), (6, 4), _WEIGHTS, _CHOICES, Draw((6, 4), "unit", "wide")),),
    ),
    Kernel(
        "load_balance_loss",
        ("shares", "experts"),
        ("f32", "f64"),
        _balance_shape,
        streaming(2),
        _balance,
        "experts * sum of (share of the choices * mean share) over the experts: 1 where the load is even",
        backward="load_balance_loss_backward",
        outputs=("loss",),
        bound=Bound(4),
        examples=(example(Draw((6, 4), "unit"), _CHOICES),),
    ),
    Kernel(
        "load_balance_loss_backward",
        ("grad", "shares", "experts"),
        ("f32", "f64"),
        _balance_backward_shape,
        streaming(1),
        _balance_backward,
        "gradient of the shares",
        outputs=("grad_shares",),
        bound=Bound(4),
        examples=(example((), Draw((6, 4), "unit"), _CHOICES),),
    ),
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
