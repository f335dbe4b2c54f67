"""Attention beside the naive one, which holds the matrix of all scores."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.emulator_kernels.arrays import Array, close, normal

from supernode.emulator.kernels import TABLE, Spec, tiles
from supernode.emulator.kernels.tiles import Mask, pairs
from supernode.errors import KernelError


def visible(tokens: int, keys: int, *, causal: bool, window: int) -> Array:
    place, key = np.arange(tokens)[:, None] + keys - tokens, np.arange(keys)[None, :]
    out = np.ones((tokens, keys), bool)
    if causal:
        out &= key <= place
    if window:
        out &= key > place - window
        if not causal:
            out &= key < place + window
    return out


def naive(q: Array, k: Array, v: Array, *, causal: bool = True, window: int = 0) -> tuple[Array, Array]:
    """Per head [tokens, head]; rows that see nothing give 0 and -inf."""
    seen = visible(len(q), len(k), causal=causal, window=window)
    scores = np.where(seen, q @ k.T / math.sqrt(q.shape[-1]), -np.inf)
    weights = np.where(seen, np.exp(scores - np.where(seen.any(1), scores.max(1, initial=-np.inf), 0)[:, None]), 0)
    total = weights.sum(1)
    with np.errstate(divide="ignore"):
        logs = np.log(total) + np.where(seen.any(1), scores.max(1, initial=-np.inf), 0)
    return weights @ v / np.where(total == 0, 1, total)[:, None], logs


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(1, 12), st.booleans(), st.integers(0, 6))
def test_pairs_that_the_clock_counts_are_those_that_are_seen(tokens: int, keys: int, causal: bool, window: int) -> None:
    seen = visible(tokens, keys, causal=causal, window=window)
    assert pairs(Mask(causal, window, 1.0), tokens, keys) == seen.sum()
    for start, stop in itertools.combinations(range(tokens + 1), 2):
        first, last = Mask(causal, window, 1.0).seen(start, stop, tokens, keys)
        columns = np.flatnonzero(seen[start:stop].any(0))
        assert not len(columns) or (first <= columns[0] and columns[-1] < last)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_attention_in_any_tiles_is_the_naive_one(data: st.DataObject) -> None:
    kv, per = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    tokens = data.draw(st.integers(1, 11))
    causal, window = data.draw(st.booleans()), data.draw(st.integers(0, 5))
    keys = data.draw(st.integers(tokens, 14))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    q, k, v = (rng.standard_normal(s) for s in ((kv * per, tokens, 4), (kv, keys, 4), (kv, keys, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_ROWS", data.draw(st.integers(1, 6)))
        patch.setattr(tiles, "_LEAST_ROWS", 1)
        patch.setattr(tiles, "_KEYS", data.draw(st.integers(1, 6)))
        plan = TABLE.plan(
            "attention", tuple(Spec("f64", x.shape) for x in (q, k, v)), {"causal": causal, "window": window}
        )
        attributes = {**plan.kernel.attributes, "causal": causal, "window": window}
        with np.errstate(all="ignore"):
            out, logs = plan.kernel.run((q, k, v), attributes, plan.outputs)
    for head in range(kv * per):
        expected, rows = naive(q[head], k[head // per], v[head // per], causal=causal, window=window)
        close(out[head], expected)
        close(logs[head], rows)


def test_packed_sequences_are_as_if_alone(kernel: Any) -> None:
    begins_q, begins_k = np.array([0, 4, 4, 5, 11]), np.array([0, 6, 8, 8, 14])
    q, k, v = normal(11, 4, 3), normal(14, 2, 3), normal(14, 2, 5)
    for causal, window in ((True, 0), (False, 0), (True, 2)):
        out, logs = kernel("attention_packed", q, k, v, begins_q, begins_k, causal=causal, window=window)
        for i in range(4):
            tokens, keys = slice(*begins_q[i : i + 2]), slice(*begins_k[i : i + 2])
            for head in range(4):
                given_ = (q[tokens, head], k[keys, head // 2], v[keys, head // 2])
                expected, rows = naive(*given_, causal=causal, window=window)
                close(out[tokens, head], expected)
                np.testing.assert_allclose(logs[tokens, head], rows, atol=1e-12)
    for wrong in (np.array([0, 4, 3, 5, 11]), np.array([0, 4, 4, 5, 10]), np.array([1, 4, 4, 5, 11])):
        with pytest.raises(KernelError, match="must rise from 0 to 11"):
            kernel("attention_packed", q, k, v, wrong, begins_k)


def peak_bytes(function: Any) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_attention_never_holds_the_matrix_of_scores(kernel: Any) -> None:
    tokens = 4096
    scores = tokens * tokens * 4
    q, k, v = (normal(1, tokens, 16).astype(np.float32) for _ in range(3))
    out, logs = kernel("attention", q, k, v)
    begins = np.array([0, tokens])
    packed = [x.reshape(tokens, 1, 16) for x in (q, k, v)]
    calls = [
        lambda: kernel("attention", q, k, v),
        lambda: kernel("attention_backward", out, q, k, v, out, logs),
        lambda: kernel("attention", q, k, v, causal=False),
        lambda: kernel("attention_packed", *packed, begins, begins),
        lambda: kernel("attention_packed_backward", packed[0], *packed, begins, begins, packed[0], packed[0][..., 0]),
    ]
    for call in calls:
        assert peak_bytes(call) < scores / 8
    whole = peak_bytes(lambda: kernel("matmul", q, k, transpose_b=True))
    assert whole >= scores  # what the bound would catch
