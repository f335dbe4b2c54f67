"""Kubernetes quantities (`500m`, `1.5Gi`, `12e6`) as exact integers in canonical units, and back.

Canonical units: milli-CPU for `cpu`, bytes for memory and storage, devices for everything that is counted.
In: a string or number as it stands in a manifest. Out: an int, or an InputError that names the field.
No floats: a request that is not a whole number of units is rounded up, as Kubernetes rounds what it keeps.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from supernode.errors import InputError

_SUFFIXES: Final[dict[str, Fraction]] = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "k": Fraction(10**3),
    **{suffix: Fraction(10 ** (3 * power)) for power, suffix in enumerate("MGTPE", start=2)},
    **{f"{suffix}i": Fraction(2 ** (10 * power)) for power, suffix in enumerate("KMGTPE", start=1)},
}
_PATTERN: Final = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([eE][+-]?[0-9]+)|([a-zA-Z]*))", re.ASCII)
# Numbers of Kubernetes objects are signed 64-bit; longer texts than this can't be meant.
MAXIMUM: Final = 2**63 - 1
_MAXIMUM_LENGTH: Final = 64
_BINARY: Final = ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki")


def parse_quantity(value: str | int | float, *, field: str = "") -> Fraction:
    """The exact value of a quantity, in its own unit.

    Args:
        value: as it stands in the manifest: `2`, `500m`, `1.5Gi`, `3e2`.
        field: path of the value in the object, for messages.

    Raises:
        InputError: not a quantity, or outside what 64 bits hold.
    """
    text = str(value)
    match = _PATTERN.fullmatch(text) if len(text) <= _MAXIMUM_LENGTH and not isinstance(value, bool) else None
    if match is None:
        raise InputError(
            f"not a quantity: {text[:_MAXIMUM_LENGTH]!r}; write such as 2, 500m, 1.5Gi or 3e2", field=field
        )
    sign, digits, exponent, suffix = match.groups()
    number = Fraction(digits if not digits.startswith(".") else f"0{digits}")
    if exponent:
        power = int(exponent[1:])
        if abs(power) > _MAXIMUM_LENGTH:
            raise InputError(f"out of range: {text!r}; at most {MAXIMUM}", field=field)
        number *= Fraction(10) ** power
    else:
        unit = _SUFFIXES.get(suffix or "")
        if unit is None:
            raise InputError(
                f"unknown suffix {suffix!r} in {text!r}; known: {' '.join(_SUFFIXES).strip()}", field=field
            )
        number *= unit
    if number > MAXIMUM:
        raise InputError(f"out of range: {text!r}; at most {MAXIMUM}", field=field)
    return -number if sign == "-" else number


def parse_cpu(value: str | int | float, *, field: str = "") -> int:
    """CPU in milli-CPU, rounded up: `1.5` -> 1500."""
    return _units(value, 1000, field)


def parse_bytes(value: str | int | float, *, field: str = "") -> int:
    """Memory or storage in bytes, rounded up: `1Ki` -> 1024."""
    return _units(value, 1, field)


def parse_count(value: str | int | float, *, field: str = "") -> int:
    """Devices, pods or another count; a fraction is an error, as Kubernetes refuses it for extended resources."""
    number = parse_quantity(value, field=field)
    if number < 0 or number.denominator != 1:
        raise InputError(f"must be a whole number of at least 0, found {value!r}", field=field)
    return int(number)


def parse_resource(name: str, value: str | int | float, *, field: str = "") -> int:
    """A resource in its canonical unit by its name: `cpu`, memory and storage names, and counts for all others."""
    if name == "cpu":
        return parse_cpu(value, field=field)
    if name in ("memory", "ephemeral-storage", "storage") or name.startswith("hugepages-"):
        return parse_bytes(value, field=field)
    return parse_count(value, field=field)


def format_cpu(milli: int) -> str:
    """Milli-CPU as Kubernetes writes it: 1500 -> `1500m`, 2000 -> `2`."""
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def format_bytes(count: int) -> str:
    """Bytes with the largest binary suffix that is exact: 1536 -> `1536`, 2048 -> `2Ki`."""
    for power, suffix in zip(range(6, 0, -1), _BINARY, strict=True):
        if count and count % 2 ** (10 * power) == 0:
            return f"{count // 2 ** (10 * power)}{suffix}"
    return str(count)


def format_resource(name: str, amount: int) -> str:
    """The inverse of `parse_resource`."""
    if name == "cpu":
        return format_cpu(amount)
    if name in ("memory", "ephemeral-storage", "storage") or name.startswith("hugepages-"):
        return format_bytes(amount)
    return str(amount)


def _units(value: str | int | float, per_unit: int, field: str) -> int:
    number = parse_quantity(value, field=field) * per_unit
    if number < 0:
        raise InputError(f"must not be negative, found {value!r}", field=field)
    units = -(-number.numerator // number.denominator)
    if units > MAXIMUM:
        raise InputError(f"out of range: {value!r}; at most {MAXIMUM}", field=field)
    return units
