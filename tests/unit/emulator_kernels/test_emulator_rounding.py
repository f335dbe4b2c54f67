"""Conversion between element types: every pair rounds once, to nearest even, by an oracle of fractions."""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.emulator.dtypes import DTYPES, FP8
from supernode.emulator.kernels.philox import philox, random_bits, random_unit
from supernode.emulator.rounding import convert, stochastic, tf32, widen

NARROW = ("f8e4m3", "f8e5m2", "f16", "bf16")


@cache
def numbers(name: str) -> list[Fraction]:
    """Every number of a narrow type that is 0 or positive, in order: in the order of their bit patterns."""
    dtype = DTYPES[name]
    bits = np.arange(1 << (8 * dtype.itemsize - 1), dtype=f"u{dtype.itemsize}")
    with np.errstate(all="ignore"):
        values = bits.view(dtype).astype(np.float64)
    return [Fraction(float(value)) for value in values if np.isfinite(value)]


def nearest(value: Fraction, name: str) -> float:
    """The number of a type next to a value; the even one of two; infinity beyond half a step above the largest."""
    known, size = numbers(name), abs(value)
    place = bisect_left(known, size)
    if place == len(known):
        step = known[-1] - known[-2]
        # With an infinity in the type, half a step above the largest number ties to it; e4m3 has none and saturates.
        out = math.inf if size - known[-1] >= step / 2 else float(known[-1])
    elif place == 0 or known[place] == size:
        out = float(known[place])
    else:
        low, high = size - known[place - 1], known[place] - size
        out = float(known[place - (low < high or (low == high and (place - 1) % 2 == 0))])
    return math.copysign(out, value)


@settings(max_examples=300, deadline=None)
@given(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-1e6, 1e6)
    | st.floats(-1e-2, 1e-2)
    | st.builds(math.ldexp, st.integers(-(1 << 20), 1 << 20), st.integers(-60, 100)),
    st.sampled_from(NARROW),
)
def test_f64_to_narrow_is_the_nearest(value: float, name: str) -> None:
    with np.errstate(all="ignore"):
        found = float(convert(np.array([value]), DTYPES[name]).astype(np.float64)[0])
    expected = nearest(Fraction(value), name)
    if name in FP8 and math.isinf(expected):
        expected = math.copysign(float(numbers(name)[-1]), value)
    assert found == expected
    assert math.copysign(1, found) == math.copysign(1, value)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-300, 300), st.sampled_from(NARROW), st.integers(0, 1 << 32)
)
def test_integers_to_narrow_are_the_nearest(value: int, name: str, below: int) -> None:
    # Just beside a tie of bf16, where rounding twice would go wrong.
    for whole in (value, (value >> 40 << 40) + below):
        with np.errstate(all="ignore"):
            found = float(convert(np.array([whole], np.int64), DTYPES[name]).astype(np.float64)[0])
        expected = nearest(Fraction(whole), name)
        top = float(numbers(name)[-1])
        assert found == (max(-top, min(top, expected)) if name in FP8 else expected)


def test_a_tie_that_rounding_twice_would_miss() -> None:
    # 1 + 2^-8 + 2^-40: a tie of bf16 once f32 has dropped the last bit.
    value = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8])
    assert convert(value, DTYPES["bf16"]).astype(float).tolist() == [1 + 2.0**-7, 1.0]
    assert convert(np.array([(1 << 60) + (1 << 52) + 1]), DTYPES["bf16"]).astype(float)[0] == (1 << 60) + (1 << 53)


@pytest.mark.parametrize("name", FP8)
def test_eight_bits_saturate_and_keep_nan(name: str) -> None:
    top = float(ml_dtypes.finfo(DTYPES[name]).max)
    x = np.array([1e30, -1e30, math.inf, -math.inf, math.nan, top, -0.0], np.float32)
    found = convert(x, DTYPES[name]).astype(float)
    assert found.tolist()[:4] == [top, -top, top, -top]
    assert math.isnan(found[4])
    assert found[5] == top
    assert math.copysign(1, found[6]) == -1
    loose = convert(x, DTYPES[name], saturate=False).astype(float)
    assert (np.isnan(loose[:5]) if name == "f8e4m3" else np.isinf(loose[:4])).all()
    assert {float(v) for v in (448, 57344)} == {float(numbers(n)[-1]) for n in FP8}


@pytest.mark.parametrize("name", [*NARROW, "f32"])
def test_widening_is_exact(name: str) -> None:
    dtype = DTYPES[name]
    bits = np.arange(256, dtype=np.uint8) if dtype.itemsize == 1 else np.arange(1 << 16, dtype=np.uint16)
    x = bits.view(dtype) if dtype.itemsize < 4 else bits.astype(dtype)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(widen(x), x.astype(np.float32))
        np.testing.assert_array_equal(widen(x[::3]), x[::3].astype(np.float32))
        np.testing.assert_array_equal(widen(x[5].reshape(())), x[5].astype(np.float32))


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32))
def test_tf32_keeps_ten_bits(value: float) -> None:
    with np.errstate(all="ignore"):
        found = tf32(np.array([value], np.float32))[0]
    if not math.isfinite(value) or value == 0:
        assert math.isnan(value) or found == value
        return
    quantum = Fraction(2) ** (max(math.frexp(value)[1] - 1, -126) - 10)
    steps = Fraction(value) / quantum
    expected = float(round(steps) * quantum)  # round() is to nearest even
    assert float(found) == (expected if abs(expected) < 2.0**128 else math.copysign(math.inf, value))


def test_stochastic_rounding_is_right_on_average_and_reproducible() -> None:
    count = 40_000
    for name in (*NARROW, "f32"):
        dtype = DTYPES[name]
        info = ml_dtypes.finfo(dtype)
        step = float(info.eps)
        for share in (0.0, 0.25, 0.9):
            x = np.full(count, -(1 + step * share))
            bits = random_bits(count, seed=9, subsequence=3)
            found = stochastic(x, dtype, bits).astype(np.float64)
            assert set(found.tolist()) <= {-1.0, -(1 + step)}
            # Four standard deviations of a share of `count` draws.
            assert abs((found != -1.0).mean() - share) <= 4 * math.sqrt(share * (1 - share) / count)
        again = stochastic(x, dtype, random_bits(count, seed=9, subsequence=3))
        assert (again.astype(float) == found).all()
    tiny = float(ml_dtypes.finfo(DTYPES["f8e5m2"]).smallest_subnormal)
    low = stochastic(np.full(count, tiny / 4), DTYPES["f8e5m2"], random_bits(count, seed=1)).astype(float)
    assert abs((low == tiny).mean() - 0.25) < 0.01
    with np.errstate(all="ignore"):
        special = stochastic(np.array([math.inf, -math.inf, math.nan, 1e30]), DTYPES["f16"], np.zeros(4, np.uint32))
    np.testing.assert_array_equal(special.astype(float), [math.inf, -math.inf, math.nan, math.inf])


# The generator's authors publish these in their Random123 library (tests/kat_vectors): counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, result: str) -> None:
    k0, k1 = words(key)
    found = philox(np.array(words(counter), np.uint64)[:, None], (k0, k1))
    assert found[:, 0].tolist() == words(result)


def test_philox_sequence_is_the_function_of_its_counters() -> None:
    seed, subsequence = (7 << 32) + 5, (3 << 32) + 2
    whole = random_bits(40_000, seed=seed, subsequence=subsequence, offset=0)
    expected = philox(np.array([[9], [0], [2], [3]], np.uint64), (5, 7))[:, 0]
    assert whole[36:40].tolist() == expected.tolist()
    far = random_bits(8, seed=seed, subsequence=subsequence, offset=4 << 33)
    assert far[:4].tolist() == philox(np.array([[0], [2], [2], [3]], np.uint64), (5, 7))[:, 0].tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100_000), st.integers(0, 70), st.integers(0, (1 << 64) - 1))
def test_philox_pieces_are_those_of_the_whole(offset: int, count: int, seed: int) -> None:
    whole = random_bits(offset % 50 + count, seed=seed, offset=offset)
    assert (random_bits(count, seed=seed, offset=offset + offset % 50) == whole[offset % 50 :]).all()


def test_unit_numbers_are_below_one() -> None:
    ends: Any = np.array([0, 0xFFFFFFFF], np.uint32)
    for dtype in (np.float32, np.float64):
        low, high = random_unit(ends, dtype)
        assert low == 0
        assert high < 1
