"""Every pod sends every other what that one sums: two steps for any number of pods, over connections.

The same bytes as a ring, in two steps instead of 2 (P-1), and the first goes along with the pods' words about what
they call (`opinions`): until all have agreed nothing is written but memory of the channel's own. Of small vectors every
pod gets everything and sums it all: one step. The order of every sum is the one that is asked for (`order`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supernode.emulator.fabric.boards import Sums
from supernode.emulator.fabric.link import Incoming, Outgoing, Transfer, move
from supernode.emulator.fabric.order import branches, evaluate
from supernode.emulator.fabric.pods import Flat, Pods

# Vectors up to here go whole to every pod.
WHOLE: Final = 16 << 10

# (complete values, where they go): average, and rounding to a narrower type.
Finish = Callable[[Flat, Flat], None]


class DirectSum:
    """An all-reduce that goes along: each pod's part of ours goes out, ours of theirs come in, then `complete`."""

    def __init__(self, pods: Pods, total: Flat, sums: Sums, result: Flat, finish: Finish) -> None:
        """`total`: this pod's contribution, only read; `result`: written by `complete`."""
        self._pods = pods
        self._total = total
        self._sums = sums
        self._result = result
        self._finish = finish
        self._whole = total.nbytes <= WHOLE
        # Vectors that are not whole have elements for each pod: they are longer than pods are many.
        own = total if self._whole else total[sums.sections[pods.me]]
        self._values: list[Flat] = [own] * pods.count

    def outgoing(self, index: int) -> Flat:
        """What goes to a pod."""
        return self._total if self._whole else self._total[self._sums.sections[index]]

    def incoming(self, index: int) -> Flat:
        """Where what a pod sends goes."""
        own = self._values[self._pods.me]
        into = self._values[index] = self._pods.scratch.take(f"from {index}", own.size, own.dtype)
        return into

    def complete(self) -> None:
        """All pods agree, and their parts have come: the rest of the way."""
        pods, sums, values = self._pods, self._sums, self._values
        done = pods.scratch.take("complete", values[pods.me].size, self._total.dtype)
        if self._whole and len(set(sums.orders)) > 1:
            for section, order in zip(sums.sections, sums.orders, strict=True):
                evaluate(order, sums.op, [part[section] for part in values], done[section])
        else:
            order = sums.orders[pods.me]
            spare = pods.scratch.take("spare", done.size, done.dtype) if branches(order) else None
            evaluate(order, sums.op, values, done, spare)
        if self._whole:
            self._finish(done, self._result)
            return
        own = self._result[sums.sections[pods.me]]
        self._finish(done, own)
        others = [(pods.me + step) % pods.count for step in range(1, pods.count)]
        links = [(index, pods.connect(pods.numbers[index])) for index in others]
        # How much comes is known from the call, so no header is due.
        transfers: list[Transfer] = [Outgoing.announced(link, own) for _, link in links]
        transfers += [Incoming(link, self._result[sums.sections[index]]).announced() for index, link in links]
        move(transfers, pods.waker, pods.patience)
