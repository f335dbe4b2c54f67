"""Elementwise reduction of contributions, in a fixed order, in the accumulator type.

The order is the callers': `fold` adds one contribution to what is there. Floats of 16 and 8 bits are widened to f32
once, and rounded once by `finish`, 8-bit ones saturating as in every conversion of the device. Average is a sum that is
divided at the end; for integers it is cut towards minus infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from supernode.emulator.rounding import convert, widen, widen_into
from supernode.errors import FabricError

# Elements handled at once where a widened copy is needed: 256 KiB of f32, which stays in a core's cache.
BLOCK = 1 << 16
Flat = np.ndarray[Any, Any]
_FUNCTIONS: Final[dict[str, Callable[..., object]]] = {
    "sum": np.add,
    "average": np.add,
    "product": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}


def fold(op: str, total: np.ndarray[Any, Any], part: np.ndarray[Any, Any]) -> None:
    """Reduce `part` into `total` in place; both flat and of the same length, `part` may be of a narrower type."""
    if total.dtype == part.dtype:
        combine(op, total, part, total)
        return
    for start in range(0, total.size, BLOCK):
        piece = slice(start, start + BLOCK)
        combine(op, total[piece], _widened(part[piece], total.dtype), total[piece])


def function_of(op: str) -> Callable[..., object]:
    """The NumPy function (left, right, out=) of a reduction."""
    function = _FUNCTIONS.get(op)
    if function is None:
        raise FabricError(f"reduction {op!r} is unknown")
    return function


def combine(op: str, left: Flat, right: Flat, out: Flat) -> None:
    """`left op right` into `out`, all of one type and length; `out` may be one of the two."""
    function = function_of(op)
    # Overflow and NaN are results, as on a device, not something to warn about.
    with np.errstate(all="ignore"):
        function(left, right, out=out)


def finish(op: str, total: np.ndarray[Any, Any], ranks: int, out: np.ndarray[Any, Any]) -> None:
    """Turn a complete `total` over `ranks` contributions into the result, rounded to the type of `out`."""
    if op != "average" and out.dtype == total.dtype:
        if not same_place(out, total):
            np.copyto(out, total)
        return
    with np.errstate(all="ignore"):
        if op == "average":
            if total.dtype.kind in "iu":
                np.floor_divide(total, total.dtype.type(ranks), out=total)
            else:
                np.divide(total, total.dtype.type(ranks), out=total)
        if out.dtype == total.dtype:
            if not same_place(out, total):
                np.copyto(out, total)
            return
        for start in range(0, total.size, BLOCK):
            piece = slice(start, start + BLOCK)
            out[piece] = convert(total[piece], out.dtype)


def put(total: Flat, part: Flat) -> None:
    """The first contribution: `part`, widened where that is due, into `total`."""
    if total.dtype == part.dtype:
        if not same_place(total, part):
            np.copyto(total, part)
    else:
        widen_into(part, total)


def same_place(left: Flat, right: Flat) -> bool:
    """Whether two arrays begin at the same byte."""
    if left is right:
        return True
    place: bool = left.__array_interface__["data"] == right.__array_interface__["data"]
    return place


def _widened(part: Flat, wide: np.dtype[Any]) -> Flat:
    return widen(part) if wide == np.float32 else part.astype(wide)
