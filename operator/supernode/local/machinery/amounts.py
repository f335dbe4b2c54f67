"""Kubernetes quantities (`500m`, `1.5Gi`, `1e3`) as exact numbers, and their canonical text.

Flows in: text or numbers from objects. Flows out: a Fraction with its family of suffixes, or the text that the real
server would write back. `supernode.quantity` turns quantities into integers of canonical units; this keeps them as
they are.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

_PATTERN: Final = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d+)?")
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_MAX_TEXT: Final = 256


def parse(text: str | int | float) -> tuple[Fraction, str]:
    """The value and its family: `binary`, `decimal` or `exponent`.

    Raises:
        ValueError: not a quantity.
    """
    if isinstance(text, bool):
        raise ValueError("a quantity is a number or a text")
    written = str(text).strip()
    match = _PATTERN.fullmatch(written) if len(written) <= _MAX_TEXT else None
    if match is None:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    sign, digits, suffix = match.group(1), match.group(2), match.group(3) or ""
    value = Fraction(digits.rstrip(".") if digits.endswith(".") else digits) * (-1 if sign == "-" else 1)
    if suffix in _BINARY:
        return value * 1024 ** _BINARY[suffix], "binary"
    if suffix in _DECIMAL:
        return value * Fraction(10) ** _DECIMAL[suffix], "decimal"
    exponent = int(suffix[1:])
    if abs(exponent) > 1000:
        raise ValueError(f"the exponent of {written!r} is out of range")
    return value * Fraction(10) ** exponent, "exponent"


def canonical(text: str | int | float) -> str:
    """The one text that the real server writes for this quantity.

    Raises:
        ValueError: not a quantity.
    """
    value, family = parse(text)
    sign = "-" if value < 0 else ""
    size = abs(value)
    if family == "binary" and size >= 1024:
        whole = math.ceil(size)
        power = 0
        while power < 6 and whole % 1024 == 0:
            whole //= 1024
            power += 1
        return f"{sign}{whole}{['', *_BINARY][power]}"
    # Nothing below one billionth is kept; what is smaller is rounded up.
    nanos = math.ceil(size * 10**9)
    if nanos == 0:
        return "0"
    power = -9
    while power < 18 and nanos % 1000 == 0:
        nanos //= 1000
        power += 3
    if family == "exponent":
        return f"{sign}{nanos}" + (f"e{power}" if power else "")
    return f"{sign}{nanos}{next(suffix for suffix, exponent in _DECIMAL.items() if exponent == power)}"
