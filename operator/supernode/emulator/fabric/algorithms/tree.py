"""Binomial tree: log2(P) steps of the whole buffer. Best for small buffers, where the latency counts.

Pods are numbered from the root; a pod takes its children's contributions in the order of their numbers, so the order
of the sum is fixed by the tree alone.
"""

from __future__ import annotations

from supernode.emulator.fabric.pods import Flat, Pods
from supernode.emulator.fabric.reduction import fold


def reduce(pods: Pods, total: Flat, root: int, op: str) -> None:
    """Reduce `total` over all pods into that of `root`; the others' hold partial sums afterwards."""
    size = pods.count
    place = (pods.me - root) % size
    step = 1

    def add(start: int, values: Flat) -> None:
        fold(op, total[start : start + values.size], values)

    while step < size:
        if place & step:
            pods.exchange([((place - step + root) % size, total)])
            return
        if place + step < size:
            pods.take((place + step + root) % size, total, add)
        step *= 2


def broadcast(pods: Pods, values: Flat, root: int) -> None:
    """`values` of `root` to all pods."""
    size = pods.count
    place = (pods.me - root) % size
    step = 1
    while step < size:
        step *= 2
    while step > 1:
        step //= 2
        if place % (2 * step) == step:
            pods.exchange([], [((place - step + root) % size, values)])
        elif place % (2 * step) == 0 and place + step < size:
            pods.exchange([((place + step + root) % size, values)])


def all_reduce(pods: Pods, total: Flat, op: str) -> None:
    """Reduce to the first pod and broadcast from there."""
    reduce(pods, total, 0, op)
    broadcast(pods, total, 0)
