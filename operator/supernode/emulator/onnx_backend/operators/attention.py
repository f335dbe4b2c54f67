"""Attention and rotary positions.

Flows in: queries, keys and values (batch, heads, tokens, size) or (batch, tokens, heads * size), masks, a cache. Flows
out: what is attended to, and the cache with the new keys and values. Without a mask or a score that the model wants to
see, it is the fused kernel; else products and a softmax. Not here: linear attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from supernode.emulator.client import Array
from supernode.emulator.dtypes import FLOATS
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.emulator.onnx_backend.operators.creation import element_type
from supernode.emulator.onnx_backend.values import storage

_SOFTCAPPED, _BIASED, _SOFTMAX = 1, 2, 3


def _heads(call: Call, place: int, name: str) -> Array:
    x = call.array(place)
    if len(x.shape) == 4:
        return x
    count = int(call.get(name))
    apart = x.reshape([*x.shape[:2], count, x.shape[2] // count])
    out: Array = call.launch("transpose", apart, axes=[0, 2, 1, 3])
    return out


def _repeated(call: Call, x: Array, heads: int) -> Array:
    """Keys or values with each head as often as several queries share it."""
    batch, own, tokens, size = x.shape
    if own == heads:
        return x
    wide = [batch, own, heads // own, tokens, size]
    out: Array = call.launch("broadcast_to", x.reshape([batch, own, 1, tokens, size]), shape=wide)
    return out.reshape([batch, heads, tokens, size])


def _allowed(call: Call, queries: int, keys: int) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Which keys a query may see by position: (queries, keys), or (batch, 1, queries, keys); None: all."""
    left, right = int(call.get("left_window_size", -1)), int(call.get("right_window_size", -1))
    causal = bool(call.get("is_causal", 0))
    lengths = call.value(6).reshape(-1, 1, 1) if call.has(6) else None
    out: Any = None
    if causal or left >= 0 or right >= 0:
        offset: Any = 0
        if call.has(4):
            offset = call.tensor(4).shape[2]
        elif lengths is not None:
            offset = lengths - queries
        ahead = np.arange(keys)[None, :] - (np.arange(queries)[:, None] + offset)
        out = np.ones_like(ahead, bool)
        if causal:
            out &= ahead <= 0
        if left >= 0:
            out &= -ahead <= left
        if right >= 0:
            out &= ahead <= right
    if lengths is not None:
        real = np.arange(keys)[None, None, :] < lengths
        out = real if out is None else out & real
        out = np.broadcast_to(out, (len(lengths), queries, keys))[:, None]
    return None if out is None else np.ascontiguousarray(out)


def _bias(call: Call, queries: int, keys: int, dtype: str) -> Array | None:
    """What is added to the scores: 0 or what the mask says where a key may be seen, -inf elsewhere."""
    allowed = _allowed(call, queries, keys)
    flags = None if allowed is None else call.constant(allowed, np.dtype(bool))
    bias: Array | None = None
    none = call.launch("zeros", shape=[], dtype=dtype)
    never = call.launch("full", shape=[], value=-math.inf, dtype=dtype)
    if call.has(3):
        mask = call.array(3)
        short = keys - mask.shape[-1]
        if short > 0:
            widths = [[0, 0]] * (len(mask.shape) - 1) + [[0, short]]
            fill = False if mask.dtype == "bool" else -math.inf
            mask = call.launch("pad", mask, call.constant(fill, call.tensor(3).dtype), widths=widths)
        bias = call.launch("where", mask, none, never) if mask.dtype == "bool" else call.cast(mask, dtype)
    if flags is not None:
        bias = call.launch("where", flags, none if bias is None else bias, never)
    return bias


def _attention(call: Call) -> Any:
    floats = [call.array(place).dtype for place in range(3)]
    if set(floats) - set(FLOATS) or len(set(floats)) > 1:
        return NotImplemented
    own = floats[0]
    flat = len(call.tensor(0).shape) == 3
    q = _heads(call, 0, "q_num_heads")
    k, v = _heads(call, 1, "kv_num_heads"), _heads(call, 2, "kv_num_heads")
    if call.has(4):
        k = call.launch("concatenate", call.array(4), k, axis=2)
        v = call.launch("concatenate", call.array(5), v, axis=2)
    present = (k, v)
    scale = float(call.get("scale") or 1 / math.sqrt(q.shape[3]))
    seen = len(call.node.outputs) > 3 and bool(call.node.outputs[3])
    scores: Array | None = None
    window = _fused_window(call, q, k)
    if window is not None and not seen:
        causal = bool(call.get("is_causal", 0))
        out, _ = call.launch("attention", q, k, v, causal=causal, scale=scale, window=window)
    else:
        k, v = _repeated(call, k, q.shape[1]), _repeated(call, v, q.shape[1])
        out, scores = _by_parts(call, q, k, v, scale, own)
    if flat:
        batch, heads, tokens, size = out.shape
        out = call.launch("transpose", out, axes=[0, 2, 1, 3]).reshape([batch, tokens, heads * size])
    results = [call.out(out), call.out(present[0]), call.out(present[1])]
    return [*results, call.out(scores)] if scores is not None else results


def _fused_window(call: Call, q: Array, k: Array) -> int | None:
    """The window (0: all keys) with which the fused kernel does what the node wants; None: it does not."""
    if call.has(3) or call.has(6) or call.get("softcap", 0.0) or call.get("softmax_precision"):
        return None
    left, right = int(call.get("left_window_size", -1)), int(call.get("right_window_size", -1))
    if not call.get("is_causal", 0):
        return 0 if left < 0 and right < 0 else None
    # The fused kernel's last query sees the last key, the node's first query the key behind those of the cache.
    past = call.tensor(4).shape[2] if call.has(4) else 0
    if past != k.shape[2] - q.shape[2]:
        return None
    return left + 1 if left >= 0 else 0


def _by_parts(call: Call, q: Array, k: Array, v: Array, scale: float, own: str) -> tuple[Array, Array]:
    """Products and a softmax, each rounded to the type of the queries, as the standard's function says."""
    root = math.sqrt(scale)
    q = call.launch("scale", q, factor=root)
    scores = call.launch("matmul", q, call.launch("scale", k, factor=root), transpose_b=True)
    mode = int(call.get("qk_matmul_output_mode", 0))
    shown = scores
    softcap = float(call.get("softcap", 0.0) or 0.0)
    if softcap > 0:
        capped = call.launch("tanh", call.launch("divide", scores, value=softcap))
        scores = call.launch("scale", capped, factor=softcap)
        shown = scores if mode == _SOFTCAPPED else shown
    bias = _bias(call, q.shape[2], k.shape[2], own)
    if bias is not None:
        scores = call.launch("add", scores, bias)
    shown = scores if mode == _BIASED else shown
    precision = call.get("softmax_precision")
    wide = storage(element_type(precision)) if precision else own
    chances = call.launch("softmax", call.cast(scores, wide), axis=-1)
    if bias is not None:
        # A query that may see nothing attends to nothing, and its softmax is no number.
        most = call.launch("max", bias, axis=[-1], keepdims=True)
        blind = call.launch("isinf", most)
        chances = call.launch("where", blind, call.launch("zeros", shape=[], dtype=wide), chances)
    chances = call.cast(chances, own)
    shown = chances if mode == _SOFTMAX else shown
    out: Array = call.launch("matmul", chances, v)
    return out, shown


def _rotary(call: Call) -> Any:
    x = call.array(0)
    if x.dtype not in FLOATS:
        return NotImplemented
    flat = len(x.shape) == 3
    if flat:
        heads = int(call.get("num_heads"))
        turned = x.reshape([*x.shape[:2], heads, x.shape[2] // heads])
    else:
        turned = call.launch("transpose", x, axes=[0, 2, 1, 3])
    size = turned.shape[3]
    width = int(call.get("rotary_embedding_dim", 0)) or size
    cos, sin = call.array(1), call.array(2)
    if call.has(3):
        cos, sin = (call.launch("take", table, call.array(3), axis=0) for table in (cos, sin))
    cos, sin = (table.reshape([*table.shape[:2], 1, table.shape[2]]) for table in (cos, sin))
    rest = call.launch("slice", turned, start=width, stop=size, axis=3) if width < size else None
    part = call.launch("slice", turned, start=0, stop=width, axis=3) if width < size else turned
    half = width // 2
    interleaved = bool(call.get("interleaved", 0))
    if interleaved:
        pairs = part.reshape([*part.shape[:3], half, 2])
        first, second = (
            found.reshape([*part.shape[:3], half]) for found in call.launch("split", pairs, sections=2, axis=4)
        )
    else:
        first, second = call.launch("split", part, sections=2, axis=3)
    real = call.launch("subtract", call.launch("multiply", cos, first), call.launch("multiply", sin, second))
    imaginary = call.launch("add", call.launch("multiply", sin, first), call.launch("multiply", cos, second))
    if interleaved:
        columns = [a.reshape([*part.shape[:3], half, 1]) for a in (real, imaginary)]
        out = call.launch("concatenate", *columns, axis=4).reshape(part.shape)
    else:
        out = call.launch("concatenate", real, imaginary, axis=3)
    if rest is not None:
        out = call.launch("concatenate", out, rest, axis=3)
    out = out.reshape(x.shape) if flat else call.launch("transpose", out, axes=[0, 2, 1, 3])
    return call.out(out)


OPERATORS: Final[Mapping[str, Lowering]] = {"Attention": _attention, "RotaryEmbedding": _rotary}
