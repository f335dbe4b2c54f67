"""Dtypes of the array namespace: the standard's promotion table, held here a second time; limits; kinds; names."""

from __future__ import annotations

import inspect
import itertools

import ml_dtypes
import numpy as np
import pytest

import supernode.emulator.array_api as xp
from supernode.emulator.array_api import types

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float32", "float64", "complex64", "complex128")
#: signed x unsigned of the standard's table; pairs with uint64 have no common dtype.
MIXED = {
    ("int8", "uint8"): "int16",
    ("int8", "uint16"): "int32",
    ("int8", "uint32"): "int64",
    ("int16", "uint8"): "int16",
    ("int16", "uint16"): "int32",
    ("int16", "uint32"): "int64",
    ("int32", "uint8"): "int32",
    ("int32", "uint16"): "int32",
    ("int32", "uint32"): "int64",
    ("int64", "uint8"): "int64",
    ("int64", "uint16"): "int64",
    ("int64", "uint32"): "int64",
}
NAMES = """
abs acos acosh add all any arange argmax argmin argsort asarray asin asinh astype atan atan2 atanh bitwise_and
bitwise_invert bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor bool broadcast_arrays broadcast_to
can_cast ceil clip complex128 complex64 concat conj copysign cos cosh count_nonzero cumulative_prod cumulative_sum
diff divide e empty empty_like equal exp expand_dims expm1 eye finfo flip float32 float64 floor floor_divide
from_dlpack full full_like greater greater_equal hypot iinfo imag inf int16 int32 int64 int8 isdtype isfinite isinf
isnan less less_equal linspace log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor matmul
matrix_transpose max maximum mean meshgrid min minimum moveaxis multiply nan negative newaxis nextafter nonzero
not_equal ones ones_like permute_dims pi positive pow prod real reciprocal remainder repeat reshape result_type roll
round searchsorted sign signbit sin sinh sort sqrt square squeeze stack std subtract sum take take_along_axis tan tanh
tensordot tile tril triu trunc uint16 uint32 uint64 uint8 unique_all unique_counts unique_inverse unique_values
unstack var vecdot where zeros zeros_like __array_api_version__ __array_namespace_info__ fft linalg
"""
BESIDE = {"Array", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "__version__"}


def expected(one: str, two: str) -> str | None:
    """By the values that a dtype holds, as NumPy has it, but never across kinds."""
    kinds = {"i": 0, "u": 0, "f": 1, "c": 1, "b": 2}
    if kinds[one[0]] != kinds[two[0]]:
        return None
    if {one[0], two[0]} == {"i", "u"}:
        return MIXED.get((one, two), MIXED.get((two, one)))
    return str(np.result_type(one, two))


@pytest.mark.parametrize(("one", "two"), list(itertools.product((*INTEGERS, *FLOATS, "bool"), repeat=2)))
def test_promotion(one: str, two: str) -> None:
    a, b, name = getattr(xp, one), getattr(xp, two), expected(one, two)
    if name is None:
        with pytest.raises(TypeError, match="not promoted"):
            xp.result_type(a, b)
        assert not xp.can_cast(a, b)
    else:
        assert xp.result_type(a, b) is getattr(xp, name)
        assert xp.can_cast(a, b) is (name == two)


def test_sixteen_bit_floats_widen() -> None:
    assert xp.result_type(xp.float16, xp.bfloat16) is xp.float32
    assert xp.result_type(xp.float8_e5m2, xp.float8_e5m2) is xp.float8_e5m2
    for other in (xp.float8_e4m3fn, xp.float32, xp.int8, 1.5):
        with pytest.raises(TypeError, match=r"not promoted|does not go with"):
            xp.result_type(xp.float8_e5m2, other)
    assert not any(xp.isdtype(xp.float8_e4m3fn, kind) for kind in types.KINDS)
    assert (xp.finfo(xp.float8_e4m3fn).max, xp.finfo(xp.float8_e5m2).max) == (448.0, 57344.0)
    assert xp.result_type(xp.bfloat16, xp.float64) is xp.float64
    assert xp.result_type(xp.bfloat16, 1.5) is xp.bfloat16
    assert xp.result_type(xp.float16, xp.complex64) is xp.complex64


@pytest.mark.parametrize(
    ("dtype", "value", "name"),
    [
        ("int8", 1, "int8"),
        ("float32", 1, "float32"),
        ("float32", 1.5, "float32"),
        ("float32", 1j, "complex64"),
        ("float64", 1j, "complex128"),
        ("complex64", 1.5, "complex64"),
        ("bool", True, "bool"),
        ("int8", 1.5, None),
        ("bool", 1, None),
        ("int8", True, None),
        ("float32", True, None),
        ("int8", 1j, None),
    ],
)
def test_python_numbers(dtype: str, value: complex, name: str | None) -> None:
    if name is None:
        with pytest.raises(TypeError, match="does not go with"):
            xp.result_type(getattr(xp, dtype), value)
    else:
        assert xp.result_type(getattr(xp, dtype), value) is getattr(xp, name)


@pytest.mark.parametrize("name", [*FLOATS, "float16"])
def test_finfo(name: str) -> None:
    found, known = xp.finfo(getattr(xp, name)), np.finfo(name)
    assert (found.bits, found.eps, found.max, found.smallest_normal) == (
        known.bits,
        known.eps,
        known.max,
        known.smallest_normal,
    )
    assert found.dtype.name == known.dtype.name


def test_limits_of_the_others() -> None:
    assert xp.finfo(xp.bfloat16).eps == float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)
    assert (xp.iinfo(xp.uint8).min, xp.iinfo(xp.uint8).max, xp.iinfo(xp.uint8).bits) == (0, 255, 8)
    with pytest.raises(TypeError, match="floating-point"):
        xp.finfo(xp.int8)
    with pytest.raises(TypeError, match="integer"):
        xp.iinfo(xp.float32)


def test_kinds() -> None:
    assert xp.isdtype(xp.int8, "integral")
    assert xp.isdtype(xp.int8, ("bool", xp.int8))
    assert not xp.isdtype(xp.uint8, "signed integer")
    assert xp.isdtype(xp.complex64, "numeric")
    assert not xp.isdtype(xp.bool, "numeric")
    with pytest.raises(ValueError, match="none of"):
        xp.isdtype(xp.int8, "number")
    info = xp.__array_namespace_info__()
    assert list(info.dtypes(kind="complex floating")) == ["complex64", "complex128"]
    assert len(info.dtypes()) == 13


def test_every_name_of_the_standard_and_no_other() -> None:
    assert set(xp.__all__) == set(NAMES.split()) | BESIDE
    assert xp.__array_api_version__ == "2024.12"
    for name in xp.__all__:
        value = getattr(xp, name)
        if inspect.isfunction(value):
            assert value.__doc__, name
            assert value.__name__ == name
            inspect.signature(value)


def test_arrays_need_no_connection_to_be_named() -> None:
    assert repr(types.float32) == "supernode.emulator.array_api.float32"
