"""Scaled dot-product attention and its gradient, in tiles: the matrix of all scores never exists.

Flows in: q (..., tokens, head), k and v (..., keys, head); q may have several heads for each one of k and v (grouped
queries: the axis before the last two). Packed: q (tokens, heads, head), k and v alike, and where each sequence begins
(cu_seqlens). Flows out: the weighted values and, per query, log(sum(exp)) (f32; f64 of f64), from which the backward
kernel makes the weights again. 16-bit inputs compute in f32 and round once. Not here: the tiles (`tiles`), projections.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels import tiles
from supernode.emulator.kernels.rules import choice, moved, narrow, need, number, same_dtype, whole, widen
from supernode.emulator.kernels.table import (
    INPUTS,
    LARGEST,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Draw,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelTypeError, KernelValueError


def _row_dtype(dtype: str) -> str:
    return "f64" if dtype == "f64" else "f32"


def _check_mask(q: Spec, attributes: Attributes) -> None:
    if attributes["scale"] is not None:
        number(attributes, "scale")
    whole(attributes, "window")
    if choice(attributes, "precision", "f32", "tf32") == "tf32" and q.dtype != "f32":
        raise KernelTypeError(f"precision tf32 is for f32, not {q.dtype}")


def _check(q: Spec, k: Spec, v: Spec, attributes: Attributes) -> int:
    """Refuse shapes that do not go together; gives the queries' heads per head of k."""
    if len(q.shape) < 2:
        raise KernelValueError("q needs two axes or more: [..., tokens, head]")
    same_dtype((q, k, v))
    per = _grouped(q.shape[:-2], k.shape[:-2])
    if len(k.shape) != len(q.shape) or not per or k.shape[-1] != q.shape[-1]:
        raise KernelValueError(
            f"k {k} does not go with q {q}: leading axes (heads may be a multiple) and head size must be the same"
        )
    need(v, "v", shape=(*k.shape[:-1], v.shape[-1] if v.shape else 0))
    if q.shape[-1] == 0 or v.shape[-1] == 0:
        raise KernelValueError("the head size is 0")
    if k.shape[-2] == 0 or (attributes["causal"] and q.shape[-2] > k.shape[-2]):
        raise KernelValueError(f"{q.shape[-2]} queries but {k.shape[-2]} keys: some query would see none")
    _check_mask(q, attributes)
    return per


def _grouped(queries: tuple[int, ...], keys: tuple[int, ...]) -> int:
    """How many heads of q share one of k; 0 if the leading axes do not go together."""
    if queries == keys:
        return 1
    if not keys or len(queries) != len(keys) or queries[:-1] != keys[:-1] or not keys[-1] or queries[-1] % keys[-1]:
        return 0
    return queries[-1] // keys[-1]


def _mask(attributes: Attributes, head: int) -> tiles.Mask:
    scale = attributes["scale"]
    return tiles.Mask(
        bool(attributes["causal"]),
        attributes["window"],
        1.0 / math.sqrt(head) if scale is None else float(scale),
        attributes["precision"] == "tf32",
    )


def _forward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    q, k, v = specs
    _check(q, k, v, attributes)
    return (Spec(q.dtype, (*q.shape[:-1], v.shape[-1])), Spec(_row_dtype(q.dtype), q.shape[:-1]))


def _backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, q, k, v, out, logsumexp = specs
    result, rows = _forward_shape((q, k, v), attributes)
    need(grad, "grad", dtype=result.dtype, shape=result.shape)
    need(out, "out", dtype=result.dtype, shape=result.shape)
    need(logsumexp, "logsumexp", dtype=rows.dtype, shape=rows.shape)
    return (q, k, v)


def _flops(q: Spec, k: Spec, v: Spec, attributes: Attributes) -> tuple[float, float]:
    """FLOPs of one product over the head size of q, and of one over that of v; hidden pairs cost nothing."""
    seen = tiles.pairs(_mask(attributes, q.shape[-1]), q.shape[-2], k.shape[-2])
    heads = math.prod(q.shape[:-2])
    return 2.0 * heads * seen * q.shape[-1], 2.0 * heads * seen * v.shape[-1]


def _rate(q: Spec, attributes: Attributes) -> str:
    return "tf32" if attributes["precision"] == "tf32" else q.dtype


def _keys(k: Spec, attributes: Attributes) -> int:
    """Keys that a query may see, whatever comes before it."""
    return max(1, min(attributes["window"] or k.shape[-2], k.shape[-2]))


def _forward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    wide, value = _flops(specs[0], specs[1], specs[2], attributes)
    return Cost(
        wide + value, moved(specs, outputs), dtype=_rate(specs[0], attributes), keys=_keys(specs[1], attributes)
    )


def _backward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    wide, value = _flops(specs[1], specs[2], specs[3], attributes)
    nbytes, keys = moved(specs, outputs), _keys(specs[2], attributes)
    return Cost(3 * wide + 2 * value, nbytes, dtype=_rate(specs[1], attributes), keys=keys)


def _split(array: AnyArray, per: int) -> AnyArray:
    """(..., heads, tokens, size) as (heads of k, per, tokens, size)."""
    wide = widen(array)
    return wide.reshape((-1, per, *wide.shape[-2:]) if wide.size else (0, per, *wide.shape[-2:]))


def _joined(array: AnyArray) -> AnyArray:
    """(..., heads, keys, size) as (heads, keys, size)."""
    wide = widen(array)
    return wide.reshape((math.prod(wide.shape[:-2]), *wide.shape[-2:]))


def _forward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    per = _grouped(inputs[0].shape[:-2], inputs[1].shape[:-2])
    q, k, v = _split(inputs[0], per), _joined(inputs[1]), _joined(inputs[2])
    out = np.empty((*q.shape[:3], v.shape[-1]), q.dtype)
    logsumexp = np.empty(q.shape[:3], q.dtype)
    tiles.forward(q, k, v, _mask(attributes, q.shape[-1]), out, logsumexp)
    return narrow(out, outputs[0]), narrow(logsumexp, outputs[1])


def _backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    per = _grouped(inputs[1].shape[:-2], inputs[2].shape[:-2])
    grad, q, out = (_split(inputs[i], per) for i in (0, 1, 4))
    k, v = _joined(inputs[2]), _joined(inputs[3])
    logsumexp = inputs[5].reshape(q.shape[:3])
    into = tiles.Gradients(np.empty(q.shape, q.dtype), np.zeros(k.shape, k.dtype), np.zeros(v.shape, v.dtype))
    tiles.backward(grad, (q, k, v), (out, logsumexp), _mask(attributes, q.shape[-1]), into)
    return narrow(into.q, outputs[0]), narrow(into.k, outputs[1]), narrow(into.v, outputs[2])


# --- sequences of several lengths, packed one after the other -------------------------------------------------------


def _check_packed(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, Spec]:
    q, k, v, begins_q, begins_k = specs
    if len(q.shape) != 3 or len(k.shape) != 3 or len(v.shape) != 3:
        raise KernelValueError(f"q, k and v must be [tokens, heads, head], not {q}, {k}, {v}")
    same_dtype((q, k, v))
    need(v, "v", shape=(*k.shape[:2], v.shape[2]))
    if q.shape[2] != k.shape[2] or not _grouped(q.shape[1:2], k.shape[1:2]) or 0 in (q.shape[2], v.shape[2]):
        raise KernelValueError(f"k {k} does not go with q {q}: heads (or a multiple) and head size must be the same")
    if len(begins_q.shape) != 1 or begins_q.shape[0] < 2:
        raise KernelValueError(f"begins must be [sequences + 1], not {begins_q}")
    for name, spec in (("begins_q", begins_q), ("begins_k", begins_k)):
        need(spec, name, dtype=("i32", "i64"), shape=begins_q.shape)
    _check_mask(q, attributes)
    return Spec(q.dtype, (*q.shape[:2], v.shape[2])), Spec(_row_dtype(q.dtype), q.shape[:2])


def _packed_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, q, k, v, begins_q, begins_k, out, logsumexp = specs
    result, rows = _check_packed((q, k, v, begins_q, begins_k), attributes)
    need(grad, "grad", dtype=result.dtype, shape=result.shape)
    need(out, "out", dtype=result.dtype, shape=result.shape)
    need(logsumexp, "logsumexp", dtype=rows.dtype, shape=rows.shape)
    return (q, k, v)


def _packed_cost(specs: Sequence[Spec], attributes: Attributes, products: tuple[int, int], nbytes: float) -> Cost:
    """The lengths are data; the clock takes them as equal."""
    q, k, v, begins = specs[:4]
    count = begins.shape[0] - 1
    tokens, keys = -(-q.shape[0] // count), -(-k.shape[0] // count)
    seen = 2.0 * count * q.shape[1] * tiles.pairs(_mask(attributes, q.shape[2]), tokens, keys)
    flops = seen * (products[0] * q.shape[2] + products[1] * v.shape[2])
    seen_at_most = max(1, min(attributes["window"] or keys, keys))
    return Cost(flops, nbytes, dtype=_rate(q, attributes), keys=seen_at_most)


def _packed_forward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return _packed_cost(specs, attributes, (1, 1), moved(specs, outputs))


def _packed_backward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return _packed_cost(specs[1:], attributes, (3, 2), moved(specs, outputs))


def _sequences(begins_q: AnyArray, begins_k: AnyArray, tokens: int, keys: int) -> Iterator[tuple[slice, slice]]:
    for begins, length, name in ((begins_q, tokens, "begins_q"), (begins_k, keys, "begins_k")):
        if begins[0] != 0 or begins[-1] != length or (np.diff(begins) < 0).any():
            raise KernelValueError(f"{name} must rise from 0 to {length}, but is {begins[:8].tolist()}")
    for i in range(len(begins_q) - 1):
        yield slice(int(begins_q[i]), int(begins_q[i + 1])), slice(int(begins_k[i]), int(begins_k[i + 1]))


def _heads_first(array: AnyArray, per: int = 0) -> AnyArray:
    """(tokens, heads, size) as (heads, tokens, size), or with `per` as (heads of k, per, tokens, size): views."""
    first = array.swapaxes(0, 1)
    return first.reshape(first.shape[0] // per, per, *first.shape[1:]) if per else first


def _packed(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    per = _grouped(inputs[0].shape[1:2], inputs[1].shape[1:2])
    q, k, v = (widen(array) for array in inputs[:3])
    out = np.empty(outputs[0].shape, q.dtype)
    logsumexp = np.empty(outputs[1].shape, q.dtype)
    mask = _mask(attributes, q.shape[-1])
    for tokens, keys in _sequences(inputs[3], inputs[4], len(q), len(k)):
        some = _heads_first(q[tokens], per)
        part, rows = np.empty((*some.shape[:3], v.shape[2]), q.dtype), np.empty(some.shape[:3], q.dtype)
        tiles.forward(some, _heads_first(k[keys]), _heads_first(v[keys]), mask, part, rows)
        out[tokens] = part.reshape(q.shape[1], *part.shape[2:]).swapaxes(0, 1)
        logsumexp[tokens] = rows.reshape(q.shape[1], rows.shape[2]).T
    return narrow(out, outputs[0]), narrow(logsumexp, outputs[1])


def _packed_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    per = _grouped(inputs[1].shape[1:2], inputs[2].shape[1:2])
    grad, q, k, v, out = (widen(inputs[i]) for i in (0, 1, 2, 3, 6))
    d_q, d_k, d_v = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    mask = _mask(attributes, q.shape[-1])
    for tokens, keys in _sequences(inputs[4], inputs[5], len(q), len(k)):
        given = _heads_first(q[tokens], per), _heads_first(k[keys]), _heads_first(v[keys])
        rows = inputs[7][tokens].T.reshape(given[0].shape[:3])
        part = np.empty(given[0].shape, q.dtype)
        into = tiles.Gradients(part, _heads_first(d_k[keys]), _heads_first(d_v[keys]))
        tiles.backward(_heads_first(grad[tokens], per), given, (_heads_first(out[tokens], per), rows), mask, into)
        d_q[tokens] = part.reshape(q.shape[1], *part.shape[2:]).swapaxes(0, 1)
    return narrow(d_q, outputs[0]), narrow(d_k, outputs[1]), narrow(d_v, outputs[2])


_ATTRIBUTES: Final = {"causal": True, "scale": None, "window": 0, "precision": "f32"}

_WEIGHTS: Final = "a weight may be 0 in f32 that is not in f64; held over finite numbers of ordinary size"
_BEGINS: Final = Draw((4,), "rises 9", "i64")

KERNELS: Final = (
    Kernel(
        "attention",
        ("q", "k", "v"),
        FLOATS,
        _forward_shape,
        _forward_cost,
        _forward,
        "softmax(scale q k^T) v in tiles; causal or not, over the last `window` keys or all (0); heads of q may be a "
        "multiple of those of k; also log(sum(exp)) per query; scale defaults to 1/sqrt(head)",
        _ATTRIBUTES,
        backward="attention_backward",
        outputs=("out", "logsumexp"),
        bound=Bound(64, INPUTS, special=_WEIGHTS),
        examples=(
            example((2, 2, 5, 4), (2, 2, 5, 4), (2, 2, 5, 4)),
            example((1, 4, 5, 4), (1, 2, 7, 4), (1, 2, 7, 3), window=3),
            example((2, 6, 4), (2, 4, 4), (2, 4, 4), causal=False, scale=0.3),
            example((2, 6, 4), (2, 6, 4), (2, 6, 4), causal=False, window=2),
        ),
    ),
    Kernel(
        "attention_backward",
        ("grad", "q", "k", "v", "out", "logsumexp"),
        FLOATS,
        _backward_shape,
        _backward_cost,
        _backward,
        "gradients of q, k and v",
        _ATTRIBUTES,
        outputs=("grad_q", "grad_k", "grad_v"),
        bound=Bound(256, LARGEST, special=_WEIGHTS),
        examples=(
            example(*[(2, 5, 4)] * 5, Draw((2, 5), "constant 3", "wide")),
            example(*[(2, 5, 4)] * 5, Draw((2, 5), "constant 3", "wide"), window=2),
        ),
    ),
    Kernel(
        "attention_packed",
        ("q", "k", "v", "begins_q", "begins_k"),
        FLOATS,
        _check_packed,
        _packed_forward_cost,
        _packed,
        "attention of sequences packed one after the other, [tokens, heads, head]; sequence i is begins[i] to "
        "begins[i + 1]; a query that sees no key gives 0",
        _ATTRIBUTES,
        backward="attention_packed_backward",
        outputs=("out", "logsumexp"),
        bound=Bound(64, INPUTS, special=_WEIGHTS),
        examples=(
            example((9, 4, 4), (9, 2, 4), (9, 2, 4), _BEGINS, _BEGINS),
            example((9, 2, 4), (7, 2, 4), (7, 2, 3), _BEGINS, Draw((4,), "rises 7", "i64"), causal=False),
        ),
    ),
    Kernel(
        "attention_packed_backward",
        ("grad", "q", "k", "v", "begins_q", "begins_k", "out", "logsumexp"),
        FLOATS,
        _packed_backward_shape,
        _packed_backward_cost,
        _packed_backward,
        "gradients of q, k and v",
        _ATTRIBUTES,
        outputs=("grad_q", "grad_k", "grad_v"),
        bound=Bound(256, LARGEST, special=_WEIGHTS),
        examples=(example(*[(9, 2, 4)] * 4, _BEGINS, _BEGINS, (9, 2, 4), Draw((9, 2), "constant 3", "wide")),),
    ),
)
