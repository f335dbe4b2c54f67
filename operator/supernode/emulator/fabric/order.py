"""The order of a sum over pods, as an expression: the same in whatever way the bytes travel, so the same bits.

An expression is the index of a pod, or a pair (left, right) of expressions that are reduced as `left op right`. Rings,
trees and hierarchies each stand for one; the algorithms that run over connections follow it by their nature, the one
that runs in shared memory evaluates it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from supernode.emulator.fabric.reduction import function_of

Flat = np.ndarray[Any, Any]
Order = int | tuple["Order", "Order"]


def ring(owner: int, count: int) -> Order:
    """Begins with the pod after the owner of the section and goes round to the owner."""
    order: Order = (owner + 1) % count
    for step in range(2, count + 1):
        order = ((owner + step) % count, order)
    return order


def tree(root: int, count: int) -> Order:
    """A binomial tree: each pod adds those of its children, nearest first."""
    orders: list[Order] = [(place + root) % count for place in range(count)]
    step = 1
    while step < count:
        for place in range(0, count - step, 2 * step):
            orders[place] = (orders[place], orders[place + step])
        step *= 2
    return orders[0]


def over(order: Order, replace: Callable[[int], Order]) -> Order:
    """The same order with each index replaced by an expression of its own."""
    if isinstance(order, int):
        return replace(order)
    return over(order[0], replace), over(order[1], replace)


def branches(order: Order) -> bool:
    """Whether some sum waits for another, so that `evaluate` needs a second place."""
    if isinstance(order, int):
        return False
    left, right = order
    return not (isinstance(left, int) or isinstance(right, int)) or branches(left) or branches(right)


def evaluate(order: Order, op: str, values: Sequence[Flat], out: Flat, spare: Flat | None = None) -> None:
    """Reduce `values` (by pod) into `out`, which is none of them.

    `spare`: memory of at least `out`'s length for a sum that waits for another; without it some is taken.
    """
    if isinstance(order, int):
        np.copyto(out, values[order])
        return
    function = function_of(op)
    # Overflow and NaN are results, as on a device, not something to warn about.
    with np.errstate(all="ignore"):
        _evaluate(order, function, values, out, spare)


def _evaluate(
    order: tuple[Order, Order], function: Callable[..., object], values: Sequence[Flat], out: Flat, spare: Flat | None
) -> None:
    left, right = order
    if isinstance(left, int):
        if isinstance(right, int):
            function(values[left], values[right], out=out)
            return
        _evaluate(right, function, values, out, spare)
        function(values[left], out, out=out)
    elif isinstance(right, int):
        _evaluate(left, function, values, out, spare)
        function(out, values[right], out=out)
    else:
        other = np.empty_like(out) if spare is None else spare[: out.size]
        _evaluate(left, function, values, out, spare)
        # A sum of sums of sums needs one more place for each.
        _evaluate(right, function, values, other, None)
        function(out, other, out=out)
