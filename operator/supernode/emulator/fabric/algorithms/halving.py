"""Halving and doubling: the sums of a binomial tree, with all pods at work and a ring's traffic.

Pods exchange halves with the neighbour one place away, then halves of those with the one two places away, and so on:
each ends with one section of the sum, in the very order in which a tree adds. Then the sections go back the same way.
2 log2(P) steps, 2 (P-1)/P of the buffer; for a number of pods that is a power of two.
"""

from __future__ import annotations

from collections.abc import Callable

from supernode.emulator.fabric.pods import Flat, Pods
from supernode.emulator.fabric.reduction import combine


def fits(count: int) -> bool:
    """Whether so many pods can go this way."""
    return count > 1 and count & (count - 1) == 0


def all_reduce(pods: Pods, total: Flat, result: Flat, op: str, finish: Callable[[Flat, Flat], None]) -> None:
    """Reduce `total` over all pods, finish each section at its owner, bring all of them together in `result`."""
    me, low, high = pods.me, 0, total.size
    steps: list[tuple[int, slice, slice]] = []
    distance = 1
    while distance < pods.count:
        middle = (low + high) // 2
        halves = slice(low, middle), slice(middle, high)
        upper = bool(me & distance)
        mine, other = halves[upper], halves[not upper]
        _reduce_half(pods, me ^ distance, total[mine], total[other], op)
        steps.append((me ^ distance, mine, other))
        low, high = mine.start, mine.stop
        distance *= 2
    finish(total[low:high], result[low:high])
    for partner, mine, other in reversed(steps):
        pods.exchange([(partner, result[mine])], [(partner, result[other])])


def _reduce_half(pods: Pods, partner: int, mine: Flat, other: Flat, op: str) -> None:
    first = pods.me < partner

    def add(start: int, values: Flat) -> None:
        here = mine[start : start + values.size]
        # Left is who comes first, as in the tree: minimum and maximum tell -0 from 0 by it.
        combine(op, here, values, here) if first else combine(op, values, here, here)

    pods.take(partner, mine, add, [(partner, other)])
