"""Elementwise reduction of contributions, in a fixed order, in the accumulator type.

The order is the callers': `fold` adds one contribution to what is there. 16-bit floats are widened to f32 once, and
rounded once by `finish`. Average is a sum that is divided at the end; for integers it is cut towards minus infinity.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from supernode.errors import FabricError

# Elements handled at once where a widened copy is needed: 256 KiB of f32, which stays in a core's cache.
BLOCK = 1 << 16


def fold(op: str, total: np.ndarray[Any, Any], part: np.ndarray[Any, Any]) -> None:
    """Reduce `part` into `total` in place; both flat and of the same length, `part` may be of a narrower type."""
    if total.dtype == part.dtype:
        _apply(op, total, part)
        return
    for start in range(0, total.size, BLOCK):
        piece = slice(start, start + BLOCK)
        _apply(op, total[piece], part[piece].astype(total.dtype))


def _apply(op: str, total: np.ndarray[Any, Any], part: np.ndarray[Any, Any]) -> None:
    # Overflow and NaN are results, as on a device, not something to warn about.
    with np.errstate(all="ignore"):
        if op in ("sum", "average"):
            np.add(total, part, out=total)
        elif op == "product":
            np.multiply(total, part, out=total)
        elif op == "min":
            np.minimum(total, part, out=total)
        elif op == "max":
            np.maximum(total, part, out=total)
        else:
            raise FabricError(f"reduction {op!r} is unknown")


def finish(op: str, total: np.ndarray[Any, Any], ranks: int, out: np.ndarray[Any, Any]) -> None:
    """Turn a complete `total` over `ranks` contributions into the result, rounded to the type of `out`."""
    with np.errstate(all="ignore"):
        if op == "average":
            if total.dtype.kind in "iu":
                np.floor_divide(total, total.dtype.type(ranks), out=total)
            else:
                np.divide(total, total.dtype.type(ranks), out=total)
        if out is not total and out.ctypes.data != total.ctypes.data:
            np.copyto(out, total, casting="unsafe")
