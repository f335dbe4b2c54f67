"""The demo's GPT a second time, in plain NumPy f32: forward, backward and AdamW by hand, nothing of ours imported.

Parameters are a dict of named arrays as in `GPTConfig.shapes`. Attention is the textbook form with the whole matrix
of scores. Used to show that training on the devices is in step with it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

F = np.float32
Weights = dict[str, np.ndarray[Any, Any]]


def unflatten(flat: np.ndarray[Any, Any], shapes: dict[str, tuple[int, ...]]) -> Weights:
    weights, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        weights[name] = flat[start:stop].reshape(shape).astype(F)
        start = stop
    assert start == flat.size
    return weights


def flatten(weights: Weights, shapes: dict[str, tuple[int, ...]]) -> np.ndarray[Any, Any]:
    return np.concatenate([weights[name].ravel() for name in shapes])


EPSILON = F(1e-5)


def norm(x, gain, bias):
    mean = x.mean(-1, keepdims=True, dtype=F)
    centred = x - mean
    rstd = 1 / np.sqrt((centred**2).mean(-1, keepdims=True, dtype=F) + EPSILON)
    normal = centred * rstd
    return normal * gain + bias, (normal, rstd)


def norm_back(dy, gain, saved):
    normal, rstd = saved
    dnormal = dy * gain
    dx = rstd * (dnormal - dnormal.mean(-1, keepdims=True) - normal * (dnormal * normal).mean(-1, keepdims=True))
    axes = tuple(range(dy.ndim - 1))
    return dx, (dy * normal).sum(axes), dy.sum(axes)


def gelu(x):
    return F(0.5) * x * (1 + np.tanh(F(math.sqrt(2 / math.pi)) * (x + F(0.044715) * x**3)))


def gelu_slope(x):
    c = F(math.sqrt(2 / math.pi))
    t = np.tanh(c * (x + F(0.044715) * x**3))
    return F(0.5) * (1 + t) + F(0.5) * x * (1 - t**2) * c * (1 + 3 * F(0.044715) * x**2)


def heads_of(x, heads):
    """(batch, sequence, hidden) -> (batch, heads, sequence, size)."""
    batch, sequence, hidden = x.shape
    return x.reshape(batch, sequence, heads, hidden // heads).transpose(0, 2, 1, 3)


def joined(x):
    batch, heads, sequence, size = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, sequence, heads * size)


def loss_and_gradients(w: Weights, tokens, targets, *, layers: int, heads: int) -> tuple[float, Weights]:
    """Mean cross-entropy of one batch, and its gradient by every parameter."""
    batch, sequence = tokens.shape
    hidden = w["token"].shape[1]
    scale = F(1 / math.sqrt(hidden // heads))
    mask = np.triu(np.ones((sequence, sequence), bool), 1)
    x = w["token"][tokens] + w["position"]
    tape = []
    for layer in range(layers):
        p = f"{layer}."
        a, norm1 = norm(x, w[p + "norm1.gain"], w[p + "norm1.bias"])
        qkv = a @ w[p + "attention.qkv.weight"] + w[p + "attention.qkv.bias"]
        q, k, v = (heads_of(part, heads) for part in np.split(qkv, 3, axis=-1))
        scores = np.where(mask, -np.inf, (q @ k.transpose(0, 1, 3, 2)) * scale)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = joined(shares @ v)
        x = x + mixed @ w[p + "attention.out.weight"] + w[p + "attention.out.bias"]
        b, norm2 = norm(x, w[p + "norm2.gain"], w[p + "norm2.bias"])
        wide = b @ w[p + "mlp.up.weight"] + w[p + "mlp.up.bias"]
        active = gelu(wide)
        x = x + active @ w[p + "mlp.down.weight"] + w[p + "mlp.down.bias"]
        tape.append((a, norm1, q, k, v, shares, mixed, b, norm2, wide, active))
    last, last_norm = norm(x, w["norm.gain"], w["norm.bias"])
    logits = last @ w["token"].T
    logits -= logits.max(-1, keepdims=True)
    odds = np.exp(logits)
    odds /= odds.sum(-1, keepdims=True)
    rows = np.arange(batch)[:, None], np.arange(sequence)[None, :], targets
    loss = -np.log(odds[rows]).mean(dtype=np.float64)

    g: Weights = {}
    dlogits = odds
    dlogits[rows] -= 1
    dlogits /= F(batch * sequence)
    g["token"] = np.einsum("bsv,bsh->vh", dlogits, last, optimize=True)
    dx, g["norm.gain"], g["norm.bias"] = norm_back(dlogits @ w["token"], w["norm.gain"], last_norm)
    for layer in reversed(range(layers)):
        p = f"{layer}."
        a, norm1, q, k, v, shares, mixed, b, norm2, wide, active = tape[layer]
        g[p + "mlp.down.weight"] = np.einsum("bsi,bso->io", active, dx, optimize=True)
        g[p + "mlp.down.bias"] = dx.sum((0, 1))
        dwide = (dx @ w[p + "mlp.down.weight"].T) * gelu_slope(wide)
        g[p + "mlp.up.weight"] = np.einsum("bsi,bso->io", b, dwide, optimize=True)
        g[p + "mlp.up.bias"] = dwide.sum((0, 1))
        db, g[p + "norm2.gain"], g[p + "norm2.bias"] = norm_back(
            dwide @ w[p + "mlp.up.weight"].T, w[p + "norm2.gain"], norm2
        )
        dx = dx + db
        g[p + "attention.out.weight"] = np.einsum("bsi,bso->io", mixed, dx, optimize=True)
        g[p + "attention.out.bias"] = dx.sum((0, 1))
        dmixed = heads_of(dx @ w[p + "attention.out.weight"].T, heads)
        dv = shares.transpose(0, 1, 3, 2) @ dmixed
        dshares = dmixed @ v.transpose(0, 1, 3, 2)
        dscores = shares * (dshares - (dshares * shares).sum(-1, keepdims=True)) * scale
        dq, dk = dscores @ k, dscores.transpose(0, 1, 3, 2) @ q
        dqkv = np.concatenate([joined(part) for part in (dq, dk, dv)], axis=-1)
        g[p + "attention.qkv.weight"] = np.einsum("bsi,bso->io", a, dqkv, optimize=True)
        g[p + "attention.qkv.bias"] = dqkv.sum((0, 1))
        da, g[p + "norm1.gain"], g[p + "norm1.bias"] = norm_back(
            dqkv @ w[p + "attention.qkv.weight"].T, w[p + "norm1.gain"], norm1
        )
        dx = dx + da
    np.add.at(g["token"], tokens, dx)
    g["position"] = dx.sum(0)
    return float(loss), g


class AdamW:
    """Textbook AdamW with decoupled weight decay, f32."""

    def __init__(self, weights: Weights, *, beta1: float, beta2: float, epsilon: float, decay: float) -> None:
        self.beta1, self.beta2, self.epsilon, self.decay = beta1, beta2, epsilon, decay
        self.m = {name: np.zeros_like(value) for name, value in weights.items()}
        self.v = {name: np.zeros_like(value) for name, value in weights.items()}
        self.t = 0

    def step(self, weights: Weights, gradients: Weights, rate: float) -> None:
        self.t += 1
        for name, g in gradients.items():
            self.m[name] = F(self.beta1) * self.m[name] + F(1 - self.beta1) * g
            self.v[name] = F(self.beta2) * self.v[name] + F(1 - self.beta2) * g * g
            mean = self.m[name] / F(1 - self.beta1**self.t)
            variance = self.v[name] / F(1 - self.beta2**self.t)
            weights[name] = weights[name] * F(1 - rate * self.decay) - F(rate) * mean / (
                np.sqrt(variance) + F(self.epsilon)
            )
