"""Gating of a mixture of experts: the k best of each token, and the loss that balances the load.

Flows in: logits of a router [tokens, experts]. Flows out: weights and numbers of the chosen experts, all shares,
a loss. Equal logits: the lower number wins. Not here: moving the tokens, and the experts' products (`experts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.experts import check_experts, wide_of
from supernode.emulator.kernels.rules import narrow, need, streaming, whole, widen
from supernode.emulator.kernels.table import LARGEST, REQUIRED, AnyArray, Attributes, Bound, Draw, Kernel, Spec, example
from supernode.errors import KernelValueError


def _gating_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    (logits,) = specs
    if len(logits.shape) != 2:
        raise KernelValueError(f"logits must be [tokens, experts], not {logits}")
    k = whole(attributes, "k", 1, logits.shape[1])
    dtype = wide_of(logits.dtype)
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
    check_experts(experts, shares.shape[1])
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
        raise KernelValueError(f"shares must be [tokens, experts] and experts [tokens, k], not {shares} and {experts}")
    need(experts, "experts", dtype="i32", shape=(shares.shape[0], experts.shape[1]))
    return (Spec(shares.dtype, ()),)


def _loads(experts: AnyArray, count: int) -> AnyArray:
    """Share of all choices that fell on each expert; f64."""
    check_experts(experts, count)
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


_CHOICES: Final = Draw((6, 2), "below 4", "i32")
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
)
