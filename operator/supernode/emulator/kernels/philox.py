"""Counter-based random numbers: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, SC 2011).

Flows in: a seed (the key), a subsequence (a rank, a layer) and an offset. Flows out: 32-bit numbers: number i of a
(seed, subsequence) is the same wherever and in whatever pieces it is made. Not here: what becomes of them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

AnyArray = np.ndarray[Any, Any]

# Multipliers and Weyl increments of the paper's table for 4x32.
_M0: Final = np.uint64(0xD2511F53)
_M1: Final = np.uint64(0xCD9E8D57)
_W0: Final = 0x9E3779B9
_W1: Final = 0xBB67AE85
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
# Blocks of four numbers made at once: the four words and two products stay in a core's cache.
_AT_ONCE: Final = 8192


def philox(counters: AnyArray, key: tuple[int, int], rounds: int = 10) -> AnyArray:
    """The function itself.

    Args:
        counters: uint64 (4, blocks), each word below 2^32; overwritten.
        key: two words below 2^32.
        rounds: 10 in the generator of that name.

    Returns:
        uint64 (4, blocks), each word below 2^32.
    """
    c0, c1, c2, c3 = counters
    k0, k1 = key
    for _ in range(rounds):
        left, right = c0 * _M0, c2 * _M1
        high = right >> _HALF
        high ^= c1
        high ^= np.uint64(k0)
        c1 = right
        c1 &= _LOW
        other = left >> _HALF
        other ^= c3
        other ^= np.uint64(k1)
        c3 = left
        c3 &= _LOW
        c0, c2 = high, other
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3))


def random_bits(count: int, *, seed: int, subsequence: int = 0, offset: int = 0) -> AnyArray:
    """Numbers `offset` to `offset + count` of a sequence.

    Args:
        count: how many.
        seed: 64 bits, the key.
        subsequence: 64 bits, the upper half of the counter: another one for each rank, layer or use.
        offset: of the first number; four numbers come from one counter.

    Returns:
        uint32 (count,).
    """
    first, skip = divmod(offset, 4)
    blocks = -(-(skip + count) // 4)
    out = np.empty((blocks, 4), np.uint32)
    key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
    for start in range(0, blocks, _AT_ONCE):
        stop = min(start + _AT_ONCE, blocks)
        counters = np.empty((4, stop - start), np.uint64)
        places = np.arange(start, stop, dtype=np.uint64)
        places += np.uint64(first & (1 << 64) - 1)
        np.bitwise_and(places, _LOW, out=counters[0])
        np.right_shift(places, _HALF, out=counters[1])
        counters[2], counters[3] = subsequence & 0xFFFFFFFF, subsequence >> 32 & 0xFFFFFFFF
        out[start:stop] = philox(counters, key).T
    return out.reshape(-1)[skip : skip + count]


def random_unit(bits: AnyArray, dtype: Any = np.float32) -> AnyArray:
    """Numbers of [0, 1) from 32-bit numbers: 24 bits of them in f32, all in f64."""
    if dtype == np.float32:
        return np.asarray((bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24))
    return np.asarray(bits.astype(np.float64) * 2.0**-32)
