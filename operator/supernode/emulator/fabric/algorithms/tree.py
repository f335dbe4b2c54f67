"""Binomial tree: log2(P) steps of the whole buffer. Best for small buffers, where the latency counts.

Pods are numbered from the root; a pod takes its children's contributions in the order of their numbers, so the order
of the sum is fixed by the tree alone. An all-reduce up and down the tree can go along with the pods' words about what
they call (`opinions`): on the way up it changes nothing but memory of the channel's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from supernode.emulator.fabric.link import Take
from supernode.emulator.fabric.pods import Flat, Pods
from supernode.emulator.fabric.reduction import combine, fold

# (complete values, where they go): average, and rounding to a narrower type.
Finish = Callable[[Flat, Flat], None]


class Place(NamedTuple):
    """A pod's place in the tree of root 0: indices of its parent (-1: none) and of its children, nearest first."""

    parent: int
    children: tuple[int, ...]


def place(me: int, count: int) -> Place:
    """Where pod `me` of `count` is."""
    children: list[int] = []
    step = 1
    while step < count:
        if me & step:
            return Place(me - step, tuple(children))
        if me + step < count:
            children.append(me + step)
        step *= 2
    return Place(-1, tuple(children))


class TreeSum:
    """An all-reduce that goes along: the children's sums come in turn, then what comes down is the result."""

    def __init__(self, pods: Pods, total: Flat, op: str, result: Flat, finish: Finish) -> None:
        """`total`: this pod's contribution, only read; `result`: written when all pods agree."""
        self._pods = pods
        self._op = op
        self._finish = finish
        self.values = total
        self.result = result

    def take(self, *, last: bool) -> Take:
        """What adds a child's sum to ours; `last`: it is the root's last, so all pods agree."""
        op, mine = self._op, self.values
        if last and self.result.dtype == mine.dtype:
            out = self.result
        else:
            out = self._pods.scratch.take("sum", mine.size, mine.dtype)
        self.values = out

        def add(start: int, values: Flat) -> None:
            here = slice(start, start + values.size)
            combine(op, mine[here], values, out[here])

        return add

    def complete(self) -> None:
        """At the root, when all has come: the result."""
        self._finish(self.values, self.result)


def reduce(pods: Pods, total: Flat, root: int, op: str) -> None:
    """Reduce `total` over all pods into that of `root`; the others' hold partial sums afterwards."""
    size = pods.count
    parent, children = place((pods.me - root) % size, size)

    def add(start: int, values: Flat) -> None:
        fold(op, total[start : start + values.size], values)

    for child in children:
        pods.take((child + root) % size, total, add)
    if parent >= 0:
        pods.exchange([((parent + root) % size, total)])


def broadcast(pods: Pods, values: Flat, root: int) -> None:
    """`values` of `root` to all pods."""
    size = pods.count
    parent, children = place((pods.me - root) % size, size)
    if parent >= 0:
        pods.exchange([], [((parent + root) % size, values)])
    for child in reversed(children):
        pods.exchange([((child + root) % size, values)])


def all_reduce(pods: Pods, total: Flat, op: str) -> None:
    """Reduce to the first pod and broadcast from there."""
    reduce(pods, total, 0, op)
    broadcast(pods, total, 0)
