"""Quantities: Kubernetes' own spellings to exact integers and back; anything else is an InputError."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.errors import InputError
from supernode.quantity import (
    MAXIMUM,
    format_bytes,
    format_cpu,
    format_resource,
    parse_bytes,
    parse_count,
    parse_cpu,
    parse_quantity,
    parse_resource,
)

# A second, independent table of the suffixes, as the Kubernetes documentation lists them.
SUFFIXES = {
    "n": "0.000000001", "u": "0.000001", "m": "0.001", "": "1", "k": "1000", "M": "1000000", "G": "1000000000",
    "T": "1000000000000", "P": "1000000000000000", "E": "1000000000000000000", "Ki": "1024", "Mi": "1048576",
    "Gi": "1073741824", "Ti": "1099511627776", "Pi": "1125899906842624", "Ei": "1152921504606846976",
}  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix(suffix: str) -> None:
    assert parse_quantity(f"1{suffix}") == Fraction(SUFFIXES[suffix])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("12", 12), ("+3", 3), ("-3", -3), ("1.5", Fraction(3, 2)), (".5", Fraction(1, 2)), ("5.", 5),
        ("1e3", 1000), ("1E3", 1000), ("1E", 10**18), ("1.5e-1", Fraction(3, 20)), ("1.5Gi", 1610612736),
        (4, 4), (0.25, Fraction(1, 4)), ("100m", Fraction(1, 10)),
    ],
)  # fmt: skip
def test_spellings(text: str | int | float, value: Fraction | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1Gb", "1gi", "1K", "Gi", "1.2.3", "--1", "1e", "1e1.5", "0x10", "１", "1_000", "nan", "inf",
     "1ee3", "1e999999999", "1" * 65, "9223372036854775808", "8Ei", "1Gi\n", True, None],
)  # fmt: skip
def test_what_is_not_a_quantity_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_quantity(text, field="spec.x")
    assert caught.value.field == "spec.x"


def test_canonical_units_round_up() -> None:
    assert parse_cpu("1.5") == 1500
    assert parse_cpu("100u") == 1
    assert parse_cpu("0.0001") == 1
    assert parse_cpu(2) == 2000
    assert parse_bytes("1Ki") == 1024
    assert parse_bytes("100m") == 1
    assert parse_bytes("1.5") == 2
    assert parse_count("8") == 8
    assert parse_count("1k") == 1000


@pytest.mark.parametrize("text", ["1.5", "-1", "100m"])
def test_devices_are_whole(text: str) -> None:
    with pytest.raises(InputError, match="whole number"):
        parse_count(text)


@pytest.mark.parametrize("parse", [parse_cpu, parse_bytes])
def test_requests_are_not_negative(parse: object) -> None:
    with pytest.raises(InputError, match="negative"):
        parse("-1")  # type: ignore[operator]


def test_the_limit_holds_in_the_canonical_unit() -> None:
    assert parse_bytes(str(MAXIMUM)) == MAXIMUM
    with pytest.raises(InputError, match="out of range"):
        parse_cpu(str(MAXIMUM))


@pytest.mark.parametrize(
    ("name", "text", "amount"),
    [("cpu", "250m", 250), ("memory", "1Gi", 2**30), ("ephemeral-storage", "1k", 1000), ("hygon.com/hcu", "4", 4),
     ("hugepages-2Mi", "4Mi", 2**22), ("pods", "110", 110)],
)  # fmt: skip
def test_the_unit_follows_the_resource(name: str, text: str, amount: int) -> None:
    assert parse_resource(name, text) == amount


@given(st.sampled_from(["cpu", "memory", "hygon.com/hcu"]), st.integers(0, MAXIMUM))
def test_formatting_and_parsing_are_inverse(name: str, amount: int) -> None:
    assert parse_resource(name, format_resource(name, amount)) == amount


@given(
    st.decimals(min_value=0, max_value=10**12, allow_nan=False, allow_infinity=False, places=6),
    st.sampled_from(sorted(SUFFIXES)),
)
def test_a_decimal_with_a_suffix_is_exact(number: object, suffix: str) -> None:
    expected = Fraction(str(number)) * Fraction(SUFFIXES[suffix])
    if expected <= MAXIMUM:
        assert parse_quantity(f"{number:f}{suffix}") == expected
        assert parse_bytes(f"{number:f}{suffix}") - expected < 1
    else:
        with pytest.raises(InputError):
            parse_quantity(f"{number:f}{suffix}")


@given(st.text(max_size=80))
def test_any_text_gives_a_number_or_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        assert abs(parse_quantity(text)) <= MAXIMUM


def test_formats() -> None:
    assert [format_cpu(n) for n in (0, 1500, 2000)] == ["0", "1500m", "2"]
    assert [format_bytes(n) for n in (0, 1536, 2048, 3 * 2**30, 2**60)] == ["0", "1536", "2Ki", "3Gi", "1Ei"]
