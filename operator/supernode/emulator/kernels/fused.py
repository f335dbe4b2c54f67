"""Launches that libraries make of several kernels: attention on projections as they lie, a linear layer's gradients.

Flows in: queries, keys and values side by side as one product leaves them, [batch, tokens, 3, heads, head] (what
flash-attention's packed interface takes), or the input and the output's gradient of a linear layer. Flows out: the
weighted values [batch, tokens, heads, head], or the gradients of weight and bias (cuBLASLt has that as an epilogue). No
array is transposed in device memory. Not here: the arithmetic (`tiles`, `matmul`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels import tiles
from supernode.emulator.kernels.matmul import gemm_cost
from supernode.emulator.kernels.rules import known_dtype, moved, narrow, need, number, same_dtype, widen
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
from supernode.errors import KernelValueError


def _mask(qkv: Sequence[int], attributes: Attributes) -> tiles.Mask:
    scale = attributes["scale"]
    return tiles.Mask(bool(attributes["causal"]), 0, 1.0 / math.sqrt(qkv[4]) if scale is None else float(scale))


def _attention_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (qkv,) = specs
    if len(qkv.shape) != 5 or qkv.shape[2] != 3 or 0 in qkv.shape[1:]:
        raise KernelValueError(f"qkv must be [batch, tokens, 3, heads, head] with at least one of each, not {qkv}")
    if attributes["scale"] is not None:
        number(attributes, "scale")
    batch, tokens, _, heads, head = qkv.shape
    rows = Spec("f64" if qkv.dtype == "f64" else "f32", (batch, heads, tokens))
    return Spec(qkv.dtype, (batch, tokens, heads, head)), rows


def _attention_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, qkv, out, logsumexp = specs
    result, rows = _attention_shape((qkv,), attributes)
    need(grad, "grad", dtype=result.dtype, shape=result.shape)
    need(out, "out", dtype=result.dtype, shape=result.shape)
    need(logsumexp, "logsumexp", dtype=rows.dtype, shape=rows.shape)
    return (qkv,)


def _cost(products: int, place: int, specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    shape = specs[place].shape
    seen = tiles.pairs(_mask(shape, attributes), shape[1], shape[1])
    flops = 2.0 * products * shape[0] * shape[3] * seen * shape[4]
    return Cost(flops, moved(specs, outputs), dtype=specs[place].dtype, keys=shape[1])


def _attention_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return _cost(2, 0, specs, attributes, outputs)


def _attention_backward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return _cost(5, 1, specs, attributes, outputs)


def _heads_first(array: AnyArray) -> AnyArray:
    """(batch, tokens, heads, head) as (batch * heads, tokens, head)."""
    wide = widen(array).swapaxes(1, 2)
    return np.ascontiguousarray(wide).reshape(-1, *wide.shape[2:])


def _parts(qkv: AnyArray) -> tuple[AnyArray, AnyArray, AnyArray]:
    q, k, v = (_heads_first(qkv[:, :, place]) for place in range(3))
    return q[:, None], k, v


def _attention(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    shape = inputs[0].shape
    q, k, v = _parts(inputs[0])
    out, logsumexp = np.empty(q.shape, q.dtype), np.empty(q.shape[:3], q.dtype)
    tiles.forward(q, k, v, _mask(shape, attributes), out, logsumexp)
    turned = out.reshape(shape[0], shape[3], shape[1], shape[4]).swapaxes(1, 2)
    return narrow(turned, outputs[0]), narrow(logsumexp.reshape(outputs[1].shape), outputs[1])


def _attention_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    shape = inputs[1].shape
    given = _parts(inputs[1])
    grad, out = _heads_first(inputs[0])[:, None], _heads_first(inputs[2])[:, None]
    rows = inputs[3].reshape(out.shape[:3])
    into = tiles.Gradients(np.empty_like(given[0]), np.zeros_like(given[1]), np.zeros_like(given[2]))
    tiles.backward(grad, given, (out, rows), _mask(shape, attributes), into)
    result = np.empty(shape, grad.dtype)
    for place, part in enumerate((into.q, into.k, into.v)):
        result[:, :, place] = part.reshape(shape[0], shape[3], shape[1], shape[4]).swapaxes(1, 2)
    return (narrow(result, outputs[0]),)


def _gradient_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, grad = specs
    dtype = same_dtype(specs) if attributes["dtype"] is None else known_dtype(attributes["dtype"])
    if len(x.shape) != 2 or len(grad.shape) != 2 or x.shape[0] != grad.shape[0] or dtype not in FLOATS:
        raise KernelValueError(f"x {x} and grad {grad} must be [rows, inputs] and [rows, outputs], gradients floats")
    return Spec(dtype, (x.shape[1], grad.shape[1])), Spec(dtype, grad.shape[1:])


def _gradient_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    words = {"transpose_a": True, "transpose_b": False, "precision": "f32"}
    return gemm_cost(specs[0], specs[1], outputs[0], words, moved(specs, outputs))


def _gradient(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x, grad = widen(inputs[0]), widen(inputs[1])
    return narrow(x.T @ grad, outputs[0]), narrow(grad.sum(axis=0), outputs[1])


_ATTRIBUTES: Final = {"causal": True, "scale": None}
_WEIGHTS: Final = "a weight may be 0 in f32 that is not in f64; held over finite numbers of ordinary size"
_TURNED: Final = "sums of terms of both signs; held over finite numbers of ordinary size"

KERNELS: Final = (
    Kernel(
        "attention_qkv",
        ("qkv",),
        FLOATS,
        _attention_shape,
        _attention_cost,
        _attention,
        "attention of [batch, tokens, 3, heads, head] as a product leaves it: no transposes; also log(sum(exp))",
        _ATTRIBUTES,
        backward="attention_qkv_backward",
        outputs=("out", "logsumexp"),
        bound=Bound(64, INPUTS, special=_WEIGHTS),
        examples=(example((2, 5, 3, 2, 4)), example((1, 6, 3, 3, 2), causal=False, scale=0.3)),
    ),
    Kernel(
        "attention_qkv_backward",
        ("grad", "qkv", "out", "logsumexp"),
        FLOATS,
        _attention_backward_shape,
        _attention_backward_cost,
        _attention_backward,
        "gradient of qkv",
        _ATTRIBUTES,
        outputs=("grad_qkv",),
        bound=Bound(256, LARGEST, special=_WEIGHTS),
        examples=(example((2, 5, 2, 4), (2, 5, 3, 2, 4), (2, 5, 2, 4), Draw((2, 2, 5), "constant 3", "wide")),),
    ),
    Kernel(
        "linear_gradient",
        ("x", "grad"),
        FLOATS,
        _gradient_shape,
        _gradient_cost,
        _gradient,
        "gradients of weight and bias of a linear layer: x^T grad, and the column sums of grad in the same pass",
        {"dtype": None},
        outputs=("grad_weight", "grad_bias"),
        bound=Bound(64, LARGEST, special=_TURNED),
        examples=(example((9, 4), (9, 5)),),
    ),
)
