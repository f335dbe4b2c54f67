"""Scaled dot-product attention and its gradient, in blocks: the matrix of all scores never exists.

Flows in: q (..., tokens, head), k and v (..., keys, head). Flows out: the weighted values and, per query, the
logarithm of the sum of exponentials (f32; f64 of f64), from which the backward kernel makes the weights again. 16-bit
inputs compute in f32 and round once. A causal query sees the keys up to its own place, counted from the end.
Not here: projections and head layout (`matmul`, `transpose`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.rules import moved, narrow, need, same_dtype, widen
from supernode.emulator.kernels.table import AnyArray, Attributes, Cost, Kernel, Spec
from supernode.errors import KernelError

# Queries of one block, and bytes of scores of one block (about a second-level cache).
_ROWS: Final = 256
_SCORE_BYTES: Final = 1 << 20


def _row_dtype(dtype: str) -> str:
    return "f64" if dtype == "f64" else "f32"


def _check(q: Spec, k: Spec, v: Spec, attributes: Attributes) -> None:
    if len(q.shape) < 2:
        raise KernelError("q needs two axes or more: [..., tokens, head]")
    same_dtype((q, k, v))
    if len(k.shape) != len(q.shape) or k.shape[:-2] != q.shape[:-2] or k.shape[-1] != q.shape[-1]:
        raise KernelError(f"k {k} does not go with q {q}: leading axes and head size must be the same")
    need(v, "v", shape=k.shape)
    if q.shape[-1] == 0:
        raise KernelError("the head size is 0")
    if k.shape[-2] == 0 or (attributes["causal"] and q.shape[-2] > k.shape[-2]):
        raise KernelError(f"{q.shape[-2]} queries but {k.shape[-2]} keys: some query would see none")
    if attributes["scale"] is not None:
        float(attributes["scale"])


def _forward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    q, k, v = specs
    _check(q, k, v, attributes)
    return (q, Spec(_row_dtype(q.dtype), q.shape[:-1]))


def _backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, q, k, v, out, logsumexp = specs
    _check(q, k, v, attributes)
    need(grad, "grad", dtype=q.dtype, shape=q.shape)
    need(out, "out", dtype=q.dtype, shape=q.shape)
    need(logsumexp, "logsumexp", dtype=_row_dtype(q.dtype), shape=q.shape[:-1])
    return (q, k, v)


def _cost(q: Spec, k: Spec, attributes: Attributes, products: int, nbytes: float) -> Cost:
    """`products` matrix products of tokens x keys x head; a causal mask saves the upper triangle."""
    tokens, head = q.shape[-2:]
    keys = k.shape[-2]
    pairs = tokens * keys - (tokens * (tokens - 1) // 2 if attributes["causal"] else 0)
    return Cost(2.0 * products * math.prod(q.shape[:-2]) * pairs * head, nbytes, dtype=q.dtype)


def _forward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return _cost(specs[0], specs[1], attributes, 2, moved(specs, outputs))


def _backward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return _cost(specs[1], specs[2], attributes, 5, moved(specs, outputs))


class _Block(NamedTuple):
    """Heads, queries and keys that are worked on together, and the mask of their scores (None: all are seen)."""

    heads: slice
    rows: slice
    keys: slice
    hidden: AnyArray | None


def _blocks(heads: int, tokens: int, keys: int, itemsize: int, causal: bool) -> Iterator[_Block]:
    """The blocks, in a fixed order."""
    rows = min(tokens, _ROWS)
    group = max(1, _SCORE_BYTES // max(1, rows * keys * itemsize))
    for first in range(0, heads, group):
        for start in range(0, tokens, rows):
            stop = min(start + rows, tokens)
            if not causal:
                yield _Block(slice(first, first + group), slice(start, stop), slice(0, keys), None)
                continue
            offset = keys - tokens
            seen = stop + offset
            hidden = np.arange(seen)[None, :] > (np.arange(start, stop) + offset)[:, None]
            yield _Block(slice(first, first + group), slice(start, stop), slice(0, seen), hidden)


def _heads(array: AnyArray, axes: int) -> AnyArray:
    """(..., tokens, head) as (heads, tokens, head); for rows, (..., tokens) as (heads, tokens)."""
    wide = widen(array)
    return wide.reshape((math.prod(wide.shape[:-axes]), *wide.shape[-axes:]))


def _scores(q: AnyArray, k: AnyArray, block: _Block, scale: Any) -> AnyArray:
    out: AnyArray = q[block.heads, block.rows] @ k[block.heads, block.keys].swapaxes(-1, -2)
    out *= scale
    if block.hidden is not None:
        np.copyto(out, -np.inf, where=block.hidden)
    return out


def _scale(attributes: Attributes, q: AnyArray) -> Any:
    given = attributes["scale"]
    return q.dtype.type(1.0 / math.sqrt(q.shape[-1]) if given is None else given)


def _forward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    q, k, v = (_heads(array, 2) for array in inputs)
    scale = _scale(attributes, q)
    out = np.empty_like(q)
    logsumexp = np.empty(q.shape[:2], q.dtype)
    for block in _blocks(q.shape[0], q.shape[1], k.shape[1], q.itemsize, bool(attributes["causal"])):
        weights = _scores(q, k, block, scale)
        top = weights.max(axis=-1, keepdims=True)
        weights -= top
        np.exp(weights, out=weights)
        total = weights.sum(axis=-1, keepdims=True)
        part = weights @ v[block.heads, block.keys]
        part /= total
        out[block.heads, block.rows] = part
        logsumexp[block.heads, block.rows] = (np.log(total) + top)[..., 0]
    return narrow(out, outputs[0]), narrow(logsumexp, outputs[1])


def _backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    grad, q, k, v, out = (_heads(array, 2) for array in inputs[:5])
    logsumexp = _heads(inputs[5], 1)
    scale = _scale(attributes, q)
    d_q, d_k, d_v = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    inner = np.einsum("hti,hti->ht", grad, out)
    for block in _blocks(q.shape[0], q.shape[1], k.shape[1], q.itemsize, bool(attributes["causal"])):
        heads, rows, keys, _ = block
        weights = _scores(q, k, block, scale)
        weights -= logsumexp[heads, rows][..., None]
        np.exp(weights, out=weights)
        g = grad[heads, rows]
        d_v[heads, keys] += weights.swapaxes(-1, -2) @ g
        slope = g @ v[heads, keys].swapaxes(-1, -2)
        slope -= inner[heads, rows][..., None]
        slope *= weights
        slope *= scale
        d_q[heads, rows] = slope @ k[heads, keys]
        d_k[heads, keys] += slope.swapaxes(-1, -2) @ q[heads, rows]
    return narrow(d_q, outputs[0]), narrow(d_k, outputs[1]), narrow(d_v, outputs[2])


_ATTRIBUTES: Final = {"causal": True, "scale": None}

KERNELS: Final = (
    Kernel(
        "attention",
        ("q", "k", "v"),
        FLOATS,
        _forward_shape,
        _forward_cost,
        _forward,
        "softmax(scale q k^T) v, causal or not; also gives log(sum(exp)) per query; scale defaults to 1/sqrt(head)",
        _ATTRIBUTES,
        backward="attention_backward",
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
    ),
)
