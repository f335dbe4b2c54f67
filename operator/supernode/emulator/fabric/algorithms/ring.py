"""Ring: every pod sends to the next and receives from the one before. Best for large buffers.

Each pod moves 2 (P-1)/P of the buffer for an all-reduce, whatever P is. The sum of a section starts at the pod after
its owner and goes round, so its order is fixed by the ring alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from supernode.emulator.fabric.pods import Flat, Pods
from supernode.emulator.fabric.reduction import fold

# Part of a buffer that a chain forwards at once.
CHAIN_BYTES = 1 << 20


def reduce_scatter(pods: Pods, total: Flat, sections: Sequence[slice], op: str) -> None:
    """Reduce `total` over all pods; afterwards section i is complete at pod i, the others hold partial sums."""
    size, me = pods.count, pods.me
    for step in range(1, size):
        out = total[sections[(me - step) % size]]
        mine = total[sections[(me - step - 1) % size]]

        def add(start: int, values: Flat, mine: Flat = mine) -> None:
            fold(op, mine[start : start + values.size], values)

        pods.take((me - 1) % size, mine, add, [((me + 1) % size, out)])


def all_gather(pods: Pods, values: Flat, sections: Sequence[slice]) -> None:
    """Section i of `values` is right at pod i; afterwards all sections are, everywhere."""
    size, me = pods.count, pods.me
    for step in range(size - 1):
        out = values[sections[(me - step) % size]]
        into = values[sections[(me - step - 1) % size]]
        pods.exchange([((me + 1) % size, out)], [((me - 1) % size, into)])


def broadcast(pods: Pods, values: Flat, root: int) -> None:
    """A chain from `root` along the ring, forwarded piece by piece."""
    size = pods.count
    place = (pods.me - root) % size
    width = max(1, CHAIN_BYTES // values.itemsize)
    pieces = [values[start : start + width] for start in range(0, values.size, width)]
    before, after = (pods.me - 1) % size, (pods.me + 1) % size
    last = place == size - 1
    for number in range(len(pieces) + 1):
        receives = [(before, pieces[number])] if place > 0 and number < len(pieces) else []
        # The root has all pieces from the start; the others forward what the turn before brought.
        sends = [] if last or number == 0 else [(after, pieces[number - 1])]
        pods.exchange(sends, receives)
