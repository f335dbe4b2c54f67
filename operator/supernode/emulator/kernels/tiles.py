"""Attention in tiles: scores of some queries and some keys at a time, softmax as the tiles come. NumPy in, NumPy out.

Flows in: q (kv heads, queries per kv head, tokens, size), k and v (kv heads, keys, size), all in the arithmetic's type.
Flows out: weighted values and log(sum(exp)) per query, or the gradients. Tiles that the mask hides are never touched;
no array is larger than its input but one tile per thread. The online softmax is that of Milakov and Gimelshein (2018),
the recomputing backward that of Dao et al. (FlashAttention, 2022). Not here: shapes, dtypes, cost (`attention`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from supernode.emulator.kernels.parallel import share
from supernode.emulator.rounding import tf32

AnyArray = np.ndarray[Any, Any]

# Queries and keys of one tile, and bytes of the scores that are worked on at once: half a second-level cache.
_ROWS: Final = 256
_LEAST_ROWS: Final = 32
_KEYS: Final = 256
_SCORE_BYTES: Final = 1 << 19
# Scores below which threads cost more than they bring.
_WORTH: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Mask:
    """Which keys a query sees.

    Attributes:
        causal: those up to its own place; places are counted from the end of queries and keys.
        window: of those, the last so many (0: all); without `causal` as many less one on both sides of its place.
        scale: factor of the scores.
        low: products round their inputs to tf32.
    """

    causal: bool
    window: int
    scale: float
    low: bool = False

    def seen(self, start: int, stop: int, tokens: int, keys: int) -> tuple[int, int]:
        """First and last-but-one key that some query of [start, stop) sees."""
        offset = keys - tokens
        first = max(0, start + offset - self.window + 1) if self.window else 0
        last = keys
        if self.causal:
            last = min(keys, stop + offset)
        elif self.window:
            last = min(keys, stop - 1 + offset + self.window)
        return first, max(last, first)

    def hidden(self, rows: tuple[int, int], keys: tuple[int, int], offset: int) -> AnyArray | None:
        """True where a query of `rows` must not see a key of `keys`; None if all are seen."""
        most_left, most_right = rows[0] + offset, rows[1] - 1 + offset
        right = (
            keys[1] - 1 > most_left + (0 if self.causal else self.window - 1) if self.causal or self.window else False
        )
        left = bool(self.window) and keys[0] < most_right - self.window + 1
        if not right and not left:
            return None
        places = np.arange(rows[0] + offset, rows[1] + offset)[:, None]
        columns = np.arange(keys[0], keys[1])[None, :]
        out = np.zeros((rows[1] - rows[0], keys[1] - keys[0]), np.bool_)
        if right:
            out |= columns > places + (0 if self.causal else self.window - 1)
        if left:
            out |= columns < places - (self.window - 1)
        return out


def pairs(mask: Mask, tokens: int, keys: int) -> int:
    """How many (query, key) pairs of one head are seen."""
    offset = keys - tokens
    begin = max(offset, 0)  # place of the first query that is not before the first key
    if mask.causal:
        top = mask.window or keys
        return _ramp(keys, top) - _ramp(begin, top)
    if not mask.window:
        return tokens * keys
    aside = mask.window - 1
    left = _ramp(keys - 1, aside) - _ramp(begin - 1, aside)
    early = _ramp(aside, keys) - _ramp(mask.window + offset - 1, keys) if offset < 0 else 0
    return left + _ramp(keys - begin - 1, aside) + keys - begin + early


def _ramp(count: int, top: int) -> int:
    """min(1, top) + min(2, top) + ... + min(count, top)."""
    if count <= 0:
        return 0
    rising = min(count, top)
    return rising * (rising + 1) // 2 + (count - rising) * top


def _tiles(mask: Mask, start: int, stop: int, tokens: int, keys: int) -> Iterator[tuple[int, int, AnyArray | None]]:
    first, last = mask.seen(start, stop, tokens, keys)
    for low in range(first, last, _KEYS):
        high = min(low + _KEYS, last)
        yield low, high, mask.hidden((start, stop), (low, high), keys - tokens)


def _rows(q: AnyArray) -> int:
    """Queries of one tile: fewer where several heads share their keys."""
    fitting = _SCORE_BYTES // max(1, int(q.shape[1]) * _KEYS * q.itemsize)
    return max(_LEAST_ROWS, min(_ROWS, fitting))


def _groups(q: AnyArray) -> Iterator[slice]:
    heads, per, tokens, _ = q.shape
    group = max(1, _SCORE_BYTES // max(1, per * min(tokens, _rows(q)) * _KEYS * q.itemsize))
    for first in range(0, heads, group):
        yield slice(first, min(first + group, heads))


def _product(a: AnyArray, b: AnyArray, mask: Mask, out: AnyArray | None = None) -> AnyArray:
    product: AnyArray = np.matmul(tf32(a) if mask.low else a, tf32(b) if mask.low else b, out=out)
    return product


def _scores(q: AnyArray, k: AnyArray, hidden: AnyArray | None, mask: Mask) -> AnyArray:
    out = _product(q, k[:, None].swapaxes(-1, -2), mask)
    if hidden is not None:
        _hide(out, hidden)
    return out


def _hide(scores: AnyArray, hidden: AnyArray) -> None:
    """-infinity where hidden, whatever was there, by the bits: several times as fast as a choice of numbers."""
    if scores.itemsize > 8:  # wider than any whole number
        np.copyto(scores, -np.inf, where=hidden)
        return
    kind = np.dtype(f"u{scores.itemsize}")
    bits = scores.view(kind)
    chosen = hidden.astype(kind)
    bits &= chosen - kind.type(1)
    bits |= chosen * np.array(-np.inf, scores.dtype).view(kind)


def forward(q: AnyArray, k: AnyArray, v: AnyArray, mask: Mask, out: AnyArray, logsumexp: AnyArray) -> None:
    """Write the weighted values (heads, per, tokens, size of v) and log(sum(exp)) (heads, per, tokens).

    A query that sees no key gets zeros and -infinity.
    """
    tokens, keys = q.shape[2], k.shape[1]
    rows = _rows(q)

    def block(piece: tuple[slice, int]) -> None:
        heads, start = piece
        stop = min(start + rows, tokens)
        some = q[heads, :, start:stop] * q.dtype.type(mask.scale)
        top = total = values = None
        for low, high, hidden in _tiles(mask, start, stop, tokens, keys):
            weights = _scores(some, k[heads, low:high], hidden, mask)
            peak = weights.max(axis=-1, keepdims=True)
            if top is not None:
                np.maximum(peak, top, out=peak)
            safe = peak if hidden is None else np.where(np.isneginf(peak), peak.dtype.type(0), peak)
            weights -= safe
            np.exp(weights, out=weights)
            part = weights.sum(axis=-1, keepdims=True)
            product = _product(weights, v[heads, None, low:high], mask)
            if top is None:
                total, values = part, product
            else:
                fade = np.exp(top - safe)
                total *= fade
                total += part
                values *= fade
                values += product
            top = peak
        if top is None or total is None or values is None:
            out[heads, :, start:stop] = 0
            logsumexp[heads, :, start:stop] = -np.inf
            return
        blind = np.isneginf(top) & (total == 0)
        logsumexp[heads, :, start:stop] = (np.log(total) + np.where(blind, 0, top))[..., 0]
        np.copyto(total, 1, where=blind)
        np.divide(values, total, out=out[heads, :, start:stop])

    pieces = [(heads, start) for heads in _groups(q) for start in reversed(range(0, tokens, rows))]
    share(block, pieces, worth=q.shape[0] * q.shape[1] * tokens * keys >= _WORTH)


@dataclass(frozen=True, slots=True)
class Gradients:
    """Where `backward` writes: the shapes of q, k and v; those of k and v hold zeros before."""

    q: AnyArray
    k: AnyArray
    v: AnyArray


def backward(
    grad: AnyArray,
    inputs: tuple[AnyArray, AnyArray, AnyArray],
    results: tuple[AnyArray, AnyArray],
    mask: Mask,
    into: Gradients,
) -> None:
    """Add the gradients, making the weights again from log(sum(exp)); heads are independent, queries in order."""
    q, k, v = inputs
    out, logsumexp = results
    tokens, keys = q.shape[2], k.shape[1]
    scale = q.dtype.type(mask.scale)

    step = _rows(q)

    def group(heads: slice) -> None:
        for start in range(0, tokens, step):
            stop = min(start + step, tokens)
            rows = (heads, slice(None), slice(start, stop))
            some, slope_out = q[rows] * scale, grad[rows]
            inner = np.einsum("hpti,hpti->hpt", slope_out, out[rows])[..., None]
            known = logsumexp[rows][..., None]
            known = np.where(np.isneginf(known), q.dtype.type(0), known)
            d_q = np.zeros_like(some)
            for low, high, hidden in _tiles(mask, start, stop, tokens, keys):
                weights = _scores(some, k[heads, low:high], hidden, mask)
                weights -= known
                np.exp(weights, out=weights)
                into.v[heads, low:high] += _product(_columns(weights), _flat(slope_out), mask)
                slope = _product(slope_out, v[heads, None, low:high].swapaxes(-1, -2), mask)
                slope -= inner
                slope *= weights
                d_q += _product(slope, k[heads, None, low:high], mask)
                into.k[heads, low:high] += _product(_columns(slope), _flat(some), mask)
            np.multiply(d_q, scale, out=into.q[rows])

    share(group, _groups(q), worth=q.shape[0] * q.shape[1] * tokens * keys >= _WORTH)


def _flat(x: AnyArray) -> AnyArray:
    """(heads, per, rows, columns) as (heads, per * rows, columns)."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])


def _columns(x: AnyArray) -> AnyArray:
    return _flat(x).swapaxes(-1, -2)
