"""Training kernels beside what they stand for: whole classes and tables, loops over experts, one thread."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.unit.emulator_kernels.arrays import RNG, Array, close, normal

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import parallel
from supernode.errors import KernelError

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
