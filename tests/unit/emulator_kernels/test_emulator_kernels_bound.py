"""Every kernel of the table against f64 (f64 against 80 bits), within the bound that its entry declares.

The examples of the entries are filled with numbers by hypothesis' seeds: ordinary ones, or nasty ones (denormals,
infinities, NaN, both zeros, the whole range of the type). A kernel without bound or example fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.emulator.dtypes import COMPLEX, DTYPES, FLOATS, FP8, INTEGERS, NARROW, WIDE, dtype_name
from supernode.emulator.kernels import TABLE, Kernel, Spec
from supernode.emulator.kernels.table import INPUTS, LARGEST, MAGNITUDES, RESULT, TERMS, UNKNOWN, Bound, Draw, Example
from supernode.errors import KernelError

Array = np.ndarray[Any, Any]
REALS = (*FLOATS, *FP8)
LONG = np.longdouble


def test_every_kernel_declares_a_bound_and_an_example() -> None:
    for kernel in TABLE.kernels.values():
        assert kernel.bound != UNKNOWN, f"{kernel.name} has no error bound: give its entry one (table.Bound)"
        assert kernel.examples, f"{kernel.name} has no example: give its entry one (table.example)"
        assert kernel.bound.steps < math.inf or kernel.bound.special


def info(dtype: str) -> Any:
    return ml_dtypes.finfo(DTYPES[dtype])


def numbers(rng: np.random.Generator, draw: Draw, dtype: str, nasty: bool, bound: Bound) -> Array:
    """An input of an example in f64 or integers, ready to be converted to its dtype."""
    # Where terms are added up, their sum must stay a number of the type, or its infinity says nothing.
    degree, sums = bound.degree, bound.size not in (RESULT, TERMS)
    word, _, rest = draw.values.partition(" ")
    shape = draw.shape
    if word == "below":
        return rng.integers(0, int(rest), shape)
    if word == "rises":
        return np.sort(np.r_[0, rng.integers(0, int(rest) + 1, shape[0] - 2), int(rest)])
    if word == "permutation":
        return rng.permutation(shape[0])
    if word == "constant":
        return np.full(shape, float(rest))
    if word == "truth":
        return rng.random(shape) < 0.5
    if word == "unit":
        return rng.random(shape) * 0.98 + 0.01
    x = rng.standard_normal(shape)
    if word == "positive":
        return np.exp(x)
    if word in ("regular", "definite"):
        matrix = x / 8 + (np.eye(*shape[-2:]) * np.arange(1, 1 + shape[-1]))
        return matrix if word == "regular" else matrix + np.swapaxes(matrix, -1, -2)
    if not nasty or word == "normal" or dtype not in REALS:
        return x
    limits, room = info(dtype), min(info(dtype).maxexp, 1000) / degree
    least = -min(-int(limits.minexp), 1000) / degree
    most = math.floor(room) - (10 if sums else 4)
    out = np.ldexp(x, rng.integers(min(math.ceil(least), most - 4), most, shape))
    special = np.array([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, float(limits.smallest_subnormal)])
    if degree > 1 or sums:
        special = special[:6]
    else:
        special = np.append(special, float(limits.max))
    # Now and then only: one NaN in a row hides everything else.
    return np.where(rng.random(shape) < rng.choice([0, 0.02, 0.3]), rng.choice(special, shape), out)


def convert(x: Array, dtype: np.dtype[Any]) -> Array:
    if dtype in map(DTYPES.get, FP8):
        limit = info(dtype_name(dtype)).max
        x = np.clip(x, -float(limit), float(limit))
    return np.asarray(np.asarray(x).astype(dtype))


def drawn(rng: np.random.Generator, kernel: Kernel, example: Example, dtype: str, nasty: bool) -> list[Array]:
    out = []
    for draw in example.inputs:
        own = dtype_name(WIDE[dtype]) if draw.dtype == "wide" else draw.dtype or dtype
        x = numbers(rng, draw, own, nasty, kernel.bound)
        if own in COMPLEX:
            x = x + 1j * numbers(rng, draw, own, nasty, kernel.bound)
            if draw.values == "definite":
                x = x.real + 0j
        out.append(convert(x, DTYPES[own]))
    return out


def run(
    kernel: Kernel, inputs: Sequence[Array], attributes: dict[str, Any], given: Sequence[Array] = ()
) -> list[Array]:
    """Results of a kernel, what it wrote in place among them; `given`: with arrays of another type than planned."""
    specs = tuple(Spec(dtype_name(x.dtype), x.shape) for x in inputs)
    plan = TABLE.plan(kernel.name, specs, attributes)
    arrays = [x.copy() for x in given or inputs]
    results = list(plan.kernel.run(arrays, {**kernel.attributes, **attributes}, plan.outputs))
    return [*results, *(arrays[i] for i in kernel.writes)]


def exact(x: Array, wide: Any) -> Array:
    """The same numbers in a wider type; integers and booleans as they are."""
    return x if x.dtype.kind in "iub" else x.astype(np.complex128 if x.dtype.kind == "c" else wide)


def reference(kernel: Kernel, inputs: list[Array], attributes: dict[str, Any], dtype: str) -> list[Array] | None:
    """The results in f64; those of f64 in 80 bits, rounded once; None where the host's library has no 80 bits."""
    wider = dict(attributes)
    if "dtype" in wider and not inputs:
        wider["dtype"] = "c128" if dtype in COMPLEX else "f64"
    wide = [exact(x, np.float64) for x in inputs]
    if dtype not in ("f64", "c128"):
        try:
            return run(kernel, wide, wider)
        except KernelError:
            # It has no f64 version of all its inputs: f64 numbers all the same, planned as if they were narrow.
            return run(kernel, inputs, wider, wide)
    if dtype == "c128" or not inputs:
        return None
    try:
        return run(kernel, inputs, wider, [exact(x, LONG) for x in inputs])
    except (TypeError, LookupError):
        return None  # LAPACK, and tables of types


def sizes(kernel: Kernel, inputs: list[Array], attributes: dict[str, Any], results: list[Array]) -> list[Array]:
    """What the errors of the results are relative to."""
    size = kernel.bound.size
    wide = [exact(x, np.float64) for x in inputs]
    floats = [np.abs(x) for x in wide if x.dtype.kind in "fc"]
    if callable(size):
        return [np.abs(part) for part in size(wide, {**kernel.attributes, **attributes}, results)]
    if size == RESULT:
        return [np.abs(x) for x in results]
    if size == TERMS:
        value = attributes.get("value")
        return [sum(floats, np.asarray(0.0 if value is None else abs(value)))]
    if size == MAGNITUDES:
        found = run(kernel, inputs, attributes, [np.abs(x) if x.dtype.kind in "fc" else x for x in wide])
        return [np.abs(x).astype(np.float64) for x in found]
    if size == LARGEST:
        return [np.abs(np.nan_to_num(x)).max(initial=0.0) for x in results]
    assert size == INPUTS
    return [
        np.asarray(max((float(np.nan_to_num(x, posinf=0).max(initial=0.0)) for x in floats), default=0.0))
        for _ in results
    ]


def spacing(x: Array, dtype: str) -> Array:
    """Distance to the next number of a type, at the numbers x."""
    limits = info(dtype)
    _, exponent = np.frexp(np.where(np.isfinite(x), x, 0.0))
    return np.ldexp(1.0, np.maximum(exponent - 1, int(limits.minexp)) - int(limits.nmant))


def check(
    kernel: Kernel, found: Array, expected: Array, size: Array, arithmetic: str, words: str, *, complex_launch: bool
) -> None:
    """Compare one result with its reference."""
    dtype = dtype_name(found.dtype)
    if dtype not in (*REALS, *COMPLEX) or (kernel.bound.steps == 0 and not complex_launch):
        same = found.astype(expected.dtype)
        np.testing.assert_array_equal(same, expected, err_msg=words)
        return
    real = "f32" if dtype == "c64" else "f64" if dtype == "c128" else dtype
    # Complex operations are several real ones, and are held by magnitude.
    steps = max(4 * kernel.bound.steps, 4) if complex_launch else kernel.bound.steps
    result = found.astype(np.complex128 if dtype in COMPLEX else np.float64)
    limit = steps * float(info(arithmetic).eps) * size + 64 * float(info(arithmetic).smallest_subnormal)
    if dtype in NARROW or dtype == "f64":  # (the reference of f64 is itself rounded to f64)
        limit = limit + 0.5 * spacing(np.abs(expected), real)
    top = float(info(real).max)
    beyond = (np.abs(expected) + limit >= top) & (np.abs(result) >= top) & (np.sign(result) == np.sign(expected))
    good = (
        (np.abs(result - expected) <= limit) | (result == expected) | (np.isnan(result) & np.isnan(expected)) | beyond
    )
    # Infinitely large terms allow any error; the classes must agree all the same.
    good |= np.isinf(size) & ~np.isfinite(expected) & ~np.isfinite(result)
    if not np.all(good):
        place = tuple(np.argwhere(~np.broadcast_to(good, result.shape))[0]) if result.ndim else ()
        share = np.abs(result - expected)[place] / np.broadcast_to(limit, result.shape)[place]
        raise AssertionError(f"{words}: {result[place]!r} for {expected[place]!r}, {share:.3g} of the bound")


CASES = [
    pytest.param(kernel, dtype, id=f"{kernel.name}-{dtype}")
    for kernel in TABLE.kernels.values()
    for dtype in (
        kernel.dtypes if kernel.dtypes == ("bool",) else [d for d in kernel.dtypes if d in (*REALS, *COMPLEX)]
    )
    if kernel.bound.steps < math.inf
]


@pytest.mark.parametrize(("kernel", "dtype"), CASES)
def test_within_the_bound(kernel: Kernel, dtype: str) -> None:
    # A function of its own for each case: hypothesis chains the settings of one that is run again and again, and a
    # thousand links are more than Python follows.
    @settings(max_examples=6, deadline=None, database=None, derandomize=True)
    @given(st.integers(0, 1 << 32), st.booleans())
    def held(seed: int, nasty: bool) -> None:
        hold(kernel, dtype, seed, nasty)

    held()


def hold(kernel: Kernel, dtype: str, seed: int, nasty: bool) -> None:
    rng = np.random.default_rng(seed)
    nasty = nasty and not kernel.bound.special
    for example in kernel.examples:
        attributes = dict(example.attributes)
        if not example.inputs and "dtype" in kernel.attributes:
            attributes["dtype"] = dtype
        with np.errstate(all="ignore"):
            inputs = drawn(rng, kernel, example, dtype, nasty)
            try:
                found = run(kernel, inputs, attributes)
            except KernelError:
                if dtype in COMPLEX:  # what is fused behind a product is for real numbers
                    continue
                raise
            expected = reference(kernel, inputs, attributes, dtype)
            if expected is None:
                continue
            wide = [exact(x, np.float64) if x.dtype != LONG else x.astype(np.float64) for x in expected]
            size = sizes(kernel, inputs, attributes, wide)
            arithmetic = dtype_name(WIDE[dtype]) if dtype in REALS else "f32" if dtype == "c64" else "f64"
            for i, (one, other) in enumerate(zip(found, wide, strict=True)):
                words = f"{kernel.name} {dtype} {attributes} output {i}, seed {seed}"
                check(
                    kernel,
                    one,
                    other,
                    size[i] if len(size) > i else size[0],
                    arithmetic,
                    words,
                    complex_launch=dtype in COMPLEX,
                )


#: Whole numbers that follow other rules than arithmetic modulo a power of two.
OTHER_RULES = {
    "quantised_matmul",  # scales
    "dequantise",
    "integer_matmul",  # zero points of the same type
    "decode",
    "encode",
    "bitcast",
    "host_operator",
    "interpolate",  # means, rounded
}
WHOLE = [
    pytest.param(kernel, dtype, id=f"{kernel.name}-{dtype}")
    for kernel in TABLE.kernels.values()
    for dtype in kernel.dtypes
    if dtype in INTEGERS and dtype not in ("i64", "u64") and kernel.name not in OTHER_RULES
]


@pytest.mark.parametrize(("kernel", "dtype"), WHOLE)
def test_integers_are_those_of_64_bits_wrapped_around(kernel: Kernel, dtype: str) -> None:
    rng = np.random.default_rng(1)
    target, limits = DTYPES[dtype], np.iinfo(DTYPES[dtype])
    for example in kernel.examples:
        inputs = []
        for place, draw in enumerate(example.inputs):
            own = draw.dtype or dtype
            if draw.values in ("any", "normal", "positive", "unit", "regular", "definite") and own == dtype:
                low, high = (0, 7) if "shift" in kernel.name and place else (limits.min, int(limits.max) + 1)
                x = rng.integers(low if draw.values == "any" else 1, high, draw.shape)
                inputs.append(np.where(rng.random(draw.shape) < 0.2, rng.integers(0, 3, draw.shape), x).astype(target))
            else:
                inputs.append(numbers(rng, draw, own, False, kernel.bound).astype(DTYPES[own]))
        attributes = dict(example.attributes)
        if not inputs and "dtype" in kernel.attributes:
            attributes["dtype"] = dtype
        wide = [x.astype(np.int64) if x.dtype == target else x for x in inputs]
        with np.errstate(all="ignore"):
            try:
                found = run(kernel, inputs, attributes)
            except KernelError:
                continue  # an example for floats
            try:
                expected = run(kernel, wide, {**attributes, **({"dtype": "i64"} if not inputs else {})})
            except KernelError:
                continue  # no version of 64 bits
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other.astype(one.dtype), err_msg=f"{kernel.name} {dtype} {attributes}")
