"""Training kernels beside what they stand for: naive attention, direct convolution, whole classes and tables, loops."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import TABLE, Spec, parallel, tiles
from supernode.emulator.kernels.tiles import Mask, pairs
from supernode.errors import KernelError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(23)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def close(found: Array, expected: Array, limit: float = 1e-10) -> None:
    assert found.shape == np.shape(expected)
    assert np.abs(found - expected).max(initial=0) <= limit * max(1.0, np.abs(expected).max(initial=0))


# --- attention -----------------------------------------------------------------------------------------------------


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


# --- products and convolutions ---------------------------------------------------------------------------------------


def test_what_is_fused_behind_a_product_is_what_follows_it(kernel: Any) -> None:
    a, b, bias = normal(3, 4, 5), normal(5, 6), normal(6)
    product = a @ b + bias
    for name in ("relu", "gelu", "silu", "sigmoid", "tanh"):
        close(kernel("matmul", a, b, bias, activation=name)[0], kernel(name, product)[0])
    close(kernel("matmul", a, b, bias, activation="gelu_exact")[0], kernel("gelu", product, approximate="none")[0])
    with pytest.raises(KernelError, match="activation must be one of"):
        kernel("matmul", a, b, activation="cos")


def test_tf32_products_round_their_inputs(kernel: Any) -> None:
    one = np.array([[1 + 2.0**-10, 1.0]], np.float32)
    low = np.array([[1 + 2.0**-11 + 2.0**-20], [0.0]], np.float32)
    assert kernel("matmul", one, low, precision="tf32")[0].item() == (1 + 2.0**-10) ** 2
    assert kernel("matmul", one, low)[0].item() == np.float32((1 + 2.0**-10) * (1 + 2.0**-11 + 2.0**-20))
    with pytest.raises(KernelError, match="tf32 is for f32"):
        kernel("matmul", one.astype(np.float64), low.astype(np.float64), precision="tf32")


def test_products_of_bytes_are_exact(kernel: Any) -> None:
    a, b = RNG.integers(-128, 128, (7, 2000)).astype(np.int8), RNG.integers(-128, 128, (2000, 5)).astype(np.int8)
    whole = a.astype(np.int64) @ b.astype(np.int64)
    assert (kernel("matmul", a, b, dtype="i32")[0] == whole).all()
    assert (kernel("matmul", a, b)[0] == whole.astype(np.int8)).all()  # wraps around
    more = np.array([3, -3, 100, 0, 7], np.int8)
    assert (kernel("matmul", a, b, more)[0] == (whole + more).astype(np.int8)).all()
    assert (
        kernel("matmul", a.astype(np.int16), b.astype(np.int16), more.astype(np.int16))[0]
        == (whole + more).astype(np.int16)
    ).all()
    ends = np.full((1, 2000), -128, np.int8)
    assert kernel("matmul", ends, ends.T.copy(), dtype="i32")[0].item() == 2000 << 14
    rows, columns = np.abs(normal(7)).astype(np.float32), np.abs(normal(5)).astype(np.float32)
    found = kernel("quantised_matmul", a, b, rows, columns, dtype="f64")[0]
    close(found, whole * rows.astype(float)[:, None] * columns.astype(float), 1e-12)
    one = np.float32(0.5).reshape(())
    bias = normal(5).astype(np.float32)
    fused = kernel("quantised_matmul", a, b, one, one, bias, activation="relu")[0]
    close(fused, np.maximum(whole * 0.25 + bias, 0), 1e-6)


@pytest.mark.parametrize("dtype", ["i8", "u8", "f8e4m3", "f8e5m2"])
def test_quantising_there_and_back(kernel: Any, dtype: str) -> None:
    x = (normal(6, 40) * np.exp(normal(6, 1) * 3)).astype(np.float32)
    x = np.abs(x) if dtype == "u8" else x
    for axis in (None, 0):
        (scale,) = kernel("quantisation_scale", x, dtype=dtype, axis=axis)
        (q,) = kernel("quantise", x, scale, dtype=dtype, axis=axis)
        back = kernel("dequantise", q, scale, axis=axis)[0]
        spread = scale if axis is None else scale[:, None]
        step = {"f8e4m3": 2.0**-4, "f8e5m2": 2.0**-3}.get(dtype)
        # Half a step of a whole number; of a float, half a unit in its last place, or half of the smallest number.
        least = {"f8e4m3": 2.0**-10, "f8e5m2": 2.0**-17}.get(dtype, 0.5)
        limit = spread * least + (0 if step is None else np.abs(x) * step)
        assert (np.abs(back - x) <= limit * 1.0001).all()
        assert np.abs(q.astype(float)).max() == {"i8": 127, "u8": 255, "f8e4m3": 448, "f8e5m2": 57344}[dtype]


def direct(x: Array, w: Array, stride: list[int], pads: list[list[int]], dilation: list[int], groups: int) -> Array:
    """Convolution by its definition, place by place."""
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    axes, per = w.ndim - 2, w.shape[0] // groups
    sizes = [(x.shape[2 + i] - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in range(axes)]
    out = np.zeros((x.shape[0], w.shape[0], *sizes))
    for place in np.ndindex(*sizes):
        for offset in np.ndindex(*w.shape[2:]):
            at = tuple(p * s + o * d for p, s, o, d in zip(place, stride, offset, dilation, strict=True))
            for o in range(w.shape[0]):
                channels = slice(o // per * w.shape[1], (o // per + 1) * w.shape[1])
                out[(slice(None), o, *place)] += x[(slice(None), channels, *at)] @ w[(o, slice(None), *offset)]
    return out


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolution_is_its_definition(data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))
    groups = data.draw(st.sampled_from([1, 2]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    few = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, stride, dilation = few(1, 3), few(1, 2), few(1, 2)
    pads = [[data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))] for _ in range(axes)]
    sizes = [d * (k - 1) + 1 + data.draw(st.integers(0, 3)) for k, d in zip(kernel, dilation, strict=True)]
    x = rng.standard_normal((2, groups * data.draw(st.integers(1, 2)), *sizes))
    w = rng.standard_normal((groups * data.draw(st.integers(1, 2)), x.shape[1] // groups, *kernel))
    attributes = {"stride": stride, "padding": pads, "dilation": dilation, "groups": groups}
    expected = direct(x, w, stride, pads, dilation, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supernode.emulator.kernels.windows._COLUMN_BYTES", data.draw(st.sampled_from([1, 1 << 22])))
        close(launch("convolution", x, w, **attributes)[0], expected)
        # The transpose is the adjoint: <conv(x), y> = <x, transpose(y)>.
        y = rng.standard_normal(expected.shape)
        wanted = [
            n + low + high - d * (k - 1) - 1 for n, k, d, (low, high) in zip(sizes, kernel, dilation, pads, strict=True)
        ]
        more = [n % s for n, s in zip(wanted, stride, strict=True)]
        if all(m < max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
            (back,) = launch("convolution_transpose", y, w, **attributes, output_padding=more)
            assert math.isclose((expected * y).sum(), (x * back).sum(), rel_tol=1e-9, abs_tol=1e-9)


def launch(name: str, *inputs: Array, **attributes: Any) -> tuple[Array, ...]:
    specs = tuple(Spec({v: k for k, v in DTYPES.items()}[x.dtype], x.shape) for x in inputs)
    plan = TABLE.plan(name, specs, attributes)
    with np.errstate(all="ignore"):
        return plan.kernel.run(inputs, {**plan.kernel.attributes, **attributes}, plan.outputs)


# --- classes and tables that are spread over ranks -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16"])
def test_cross_entropy_of_shards_is_that_of_the_whole(kernel: Any, dtype: str) -> None:
    logits = (normal(9, 12) * 4).astype(DTYPES[dtype])
    targets = RNG.integers(0, 12, 9)
    loss, logsumexp = kernel("softmax_cross_entropy", logits, targets)
    (slope,) = kernel("softmax_cross_entropy_backward", logits, targets, logsumexp, scale=3.0)
    shards = [np.ascontiguousarray(logits[:, start : start + 4]) for start in (0, 4, 8)]
    top = np.max([kernel("cross_entropy_top", shard)[0] for shard in shards], axis=0)
    sums = sum(kernel("cross_entropy_sums", s, targets, top, start=4 * i)[0] for i, s in enumerate(shards))
    whole_loss, whole_logs = kernel("cross_entropy_of_sums", sums, top)
    limit = 1e-12 if dtype == "f64" else 1e-6
    close(whole_loss, loss, limit)
    close(whole_logs, logsumexp, limit)
    parts = [
        kernel("cross_entropy_shard_gradient", s, targets, whole_logs, start=4 * i, scale=3.0)[0]
        for i, s in enumerate(shards)
    ]
    close(np.hstack(parts).astype(float), slope.astype(float), 1e-2 if dtype == "bf16" else limit)
    lost = targets.copy()
    lost[3] = 40
    sums = sum(kernel("cross_entropy_sums", s, lost, top, start=4 * i)[0] for i, s in enumerate(shards))
    assert np.isnan(kernel("cross_entropy_of_sums", sums, top)[0])


def test_embedding_of_shards_adds_up_to_that_of_the_whole(kernel: Any) -> None:
    table, tokens = normal(12, 3), RNG.integers(0, 12, (4, 5))
    shards = [table[start : start + 4].copy() for start in (0, 4, 8)]
    parts = [kernel("embedding", s, tokens, start=4 * i, total=12)[0] for i, s in enumerate(shards)]
    assert (sum(parts) == table[tokens]).all()
    outside = np.array([-1, 12, 3])
    assert np.isnan(kernel("embedding", shards[1], outside, start=4, total=12)[0]).all(axis=1).tolist() == [
        True,
        True,
        False,
    ]
    assert np.isnan(kernel("embedding", shards[1], np.array([3, 8]), start=4)[0]).all()
    grad = normal(4, 5, 3)
    (whole,) = kernel("embedding_backward", grad, tokens, rows=12)
    pieces = [kernel("embedding_backward", grad, tokens, rows=4, start=start)[0] for start in (0, 4, 8)]
    assert (np.vstack(pieces) == whole).all()


def test_large_numbers_move_no_softmax(kernel: Any) -> None:
    """What every row has too much of cancels, however large: exponentials are of distances from the largest."""
    x, targets = RNG.integers(-8, 8, (6, 9)).astype(float), RNG.integers(0, 9, 6)
    for dtype, shift in (("f64", 1e6), ("f32", 4096.0), ("bf16", 128.0), ("f32", -4096.0)):
        near, far = x.astype(DTYPES[dtype]), (x + shift).astype(DTYPES[dtype])
        for name in ("softmax", "log_softmax"):
            assert (kernel(name, near)[0] == kernel(name, far)[0]).all(), (name, dtype)
        assert (kernel("top_k_gating", near, k=2)[2] == kernel("top_k_gating", far, k=2)[2]).all()
        losses = [float(kernel("softmax_cross_entropy", logits, targets)[0]) for logits in (near, far)]
        assert math.isclose(*losses, abs_tol=abs(shift) * 1e-6)
        sums = [kernel("cross_entropy_sums", v, targets, kernel("cross_entropy_top", v)[0])[0] for v in (near, far)]
        assert (sums[0] == sums[1]).all()
        one = np.ones((1, 1, 1), DTYPES[dtype])
        seen = [
            kernel("attention", one, v[:1, :, None], x[:1, :, None].astype(DTYPES[dtype]), causal=False)[0]
            for v in (near, far)
        ]
        assert (seen[0] == seen[1]).all()


# --- random numbers, positions ---------------------------------------------------------------------------------------


def test_dropout_is_reproducible_by_rank_and_place(kernel: Any) -> None:
    x = np.ones(200_000, np.float32)
    (whole,) = kernel("dropout", x, rate=0.3, seed=5, subsequence=2)
    assert abs((whole == 0).mean() - 0.3) < 0.005
    assert set(np.unique(whole).tolist()) == {0.0, float(np.float32(1 / 0.7))}
    half = kernel("dropout", x[100_001:], rate=0.3, seed=5, subsequence=2, offset=100_001)[0]
    assert (half == whole[100_001:]).all()
    assert (kernel("dropout", x, rate=0.3, seed=5, subsequence=3)[0] != whole).any()
    assert (kernel("dropout_backward", x, rate=0.3, seed=5, subsequence=2)[0] == whole).all()
    assert (kernel("dropout", x, rate=0.0, seed=5)[0] == x).all()
    assert (kernel("dropout", x, rate=1.0, seed=5)[0] == 0).all()


def test_rotary_keeps_lengths_and_sees_distances_only(kernel: Any) -> None:
    q, k = normal(1, 8), normal(1, 8)
    products = []
    for shift in (0, 17):
        for interleaved in (False, True):
            a = kernel("rotary", q, np.array([5 + shift]), interleaved=interleaved)[0]
            b = kernel("rotary", k, np.array([2 + shift]), interleaved=interleaved)[0]
            assert math.isclose((a * a).sum(), (q * q).sum())
            products.append((a * b).sum())
    assert math.isclose(products[0], products[2])
    assert math.isclose(products[1], products[3])
    x = normal(3, 6)
    turned = kernel("rotary", x, np.array([0, 1, 2]), rotated=4)[0]
    assert (turned[:, 4:] == x[:, 4:]).all()
    assert (turned[0] == x[0]).all()
    c, s = math.cos(1), math.sin(1)
    close(turned[1, [0, 2]], np.array([x[1, 0] * c - x[1, 2] * s, x[1, 2] * c + x[1, 0] * s]))


# --- experts ---------------------------------------------------------------------------------------------------------


def test_a_mixture_of_experts_is_its_sum(kernel: Any) -> None:
    tokens, experts, k = 10, 4, 2
    x, logits, matrices = normal(tokens, 3), normal(tokens, experts), normal(experts, 3, 5)
    logits[4] = 1.0  # all alike: the lower numbers win
    weights, chosen, shares = kernel("top_k_gating", logits, k=k)
    assert chosen[4].tolist() == [0, 1]
    rows, order, counts = kernel("permute_tokens", x, chosen, count=experts)
    products = kernel("grouped_matmul", rows, matrices, counts)[0]
    found = kernel("unpermute_tokens", products, order, weights)[0]
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    close(shares, softmax)
    for t in range(tokens):
        best = np.argsort(-logits[t], kind="stable")[:k]
        share = softmax[t, best] / softmax[t, best].sum()
        close(found[t], sum(w * x[t] @ matrices[e] for w, e in zip(share, best, strict=True)))
    assert counts.sum() == tokens * k
    assert (np.sort(chosen.reshape(-1)[order]) == chosen.reshape(-1)[order]).all()
    even = np.full((8, 4), 0.25)
    assert kernel("load_balance_loss", even, np.arange(16, dtype=np.int32).reshape(8, 2) % 4)[0] == 1.0
    worst = np.eye(4)[np.zeros(8, int)]
    assert kernel("load_balance_loss", worst, np.zeros((8, 1), np.int32))[0] == 4.0
    with pytest.raises(KernelError, match="add up to 3"):
        kernel("grouped_matmul", rows, matrices, np.array([1, 1, 1, 0]))
    with pytest.raises(KernelError, match="experts are 0 to 3"):
        kernel("permute_tokens", x, np.full((tokens, 1), 7, np.int32), count=4)
    with pytest.raises(KernelError, match="each of 20 places once"):
        kernel("unpermute_tokens", products, np.zeros_like(order), weights)


# --- clipping and loss scaling ---------------------------------------------------------------------------------------


def test_clipping_by_the_norm_over_all_tensors(kernel: Any) -> None:
    grads = [normal(70_000).astype(np.float32), normal(3, 4).astype(np.float32)]
    (squares,) = kernel("total_squares", *grads)
    norm = math.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in grads))
    factor, found = kernel("clip_factor", squares, max_norm=1.5)
    assert math.isclose(found, norm, rel_tol=1e-6)
    for grad in grads:
        kernel("scale_by", grad, factor)
    assert math.isclose(math.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in grads)), 1.5, rel_tol=1e-5)
    assert kernel("clip_factor", squares, max_norm=1e9)[0] == 1
    tiny = np.full(4, 1e-30, np.float32)  # whose squares are no numbers of f32
    assert math.isclose(kernel("total_squares", tiny, np.zeros(1))[0], 4e-60, rel_tol=1e-6)


def test_loss_scale_halves_on_overflow_and_grows_after_good_steps(kernel: Any) -> None:
    scale, steps, found = (np.array(v, t) for v, t in ((1024, np.float32), (0, np.int32), (0, np.float32)))
    grad = np.array([1024.0, -2048.0], DTYPES["bf16"])
    kernel("unscale", grad, scale, found)
    assert grad.astype(float).tolist() == [1.0, -2.0]
    assert found == 0
    for _ in range(3):
        kernel("update_scale", scale, steps, found, interval=3)
    assert (scale, steps) == (2048, 0)
    for bad in (math.inf, math.nan):
        kernel("unscale", np.array([1.0, bad], np.float32), scale, found)
        assert found == 1
        kernel("update_scale", scale, steps, found, interval=3)
        assert (found, steps) == (0, 0)
    assert scale == 512


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 3])
def test_results_do_not_depend_on_the_number_of_threads(kernel: Any, threads: int, monkeypatch: Any) -> None:
    bf16 = DTYPES["bf16"]
    x, gain = normal(600, 512).astype(np.float32), normal(512).astype(np.float32)
    q = normal(8, 600, 16).astype(np.float32)
    image, weight = normal(4, 8, 40, 40).astype(np.float32), normal(8, 8, 3, 3).astype(np.float32)
    flat = normal(300_000).astype(np.float32)

    def everything() -> list[Array]:
        out, mean, rstd = kernel("layer_norm", x, gain, gain)
        seen, logs = kernel("attention", q, q, q)
        state = [flat.astype(bf16), flat.astype(bf16), flat.copy(), flat.copy(), np.square(flat)]
        kernel("adamw", *state, learning_rate=1e-3, step=2, rounding="stochastic", seed=3)
        return [
            *(out, mean, rstd, seen, logs, *state),
            *kernel("layer_norm_backward", x, x, gain, mean, rstd),
            *kernel("attention_backward", seen, q, q, q, seen, logs),
            *kernel("convolution", image, weight, padding=1),
            *kernel("dropout", flat, rate=0.5, seed=1),
            *kernel("total_squares", flat, x),
        ]

    monkeypatch.setattr(parallel, "cores", lambda: 1)
    alone = everything()
    monkeypatch.setattr(parallel, "cores", lambda: threads)
    for one, other in zip(alone, everything(), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_piece_that_fails_fails_the_kernel_once_all_have_stopped(monkeypatch: Any) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    done: list[int] = []

    def work(piece: int) -> None:
        if piece == 3:
            raise KernelError("piece 3")
        done.append(piece)

    with pytest.raises(KernelError, match="piece 3"):
        parallel.share(work, range(100))
    assert 3 not in done
