"""All pods see each other's boards: everyone puts its part where all can read it, each sums what it owns.

For an all-reduce each pod writes (P-1)/P of the buffer, sums its own section of all, and reads the rest: less than a
ring moves, in two steps instead of 2 (P-1). Work goes in rounds of one half of the boards each, so that what is
shared stays in the cores' caches. A half is written again two rounds later: by then every pod has rung for the round in
between, so it has read the half before. The order of every sum is the one that is asked for (`order`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.fabric.memory import Bytes, block_bytes, half
from supernode.emulator.fabric.memory_link import MemoryLink
from supernode.emulator.fabric.order import Order, evaluate
from supernode.emulator.fabric.pods import Flat, Pods

# Vectors up to here are summed by every pod itself, which saves a step.
SMALL: Final = 64 << 10

# (complete values of this pod's section, where they go): average, and rounding to a narrower type.
Finish = Callable[[Flat, Flat], None]


def _links(pods: Pods) -> dict[int, MemoryLink]:
    """Links by pod index, in the order in which this pod's neighbours come to their work."""
    links = {}
    for step in range(1, pods.count):
        index = (pods.me + step) % pods.count
        link = pods.connect(pods.numbers[index])
        if not isinstance(link, MemoryLink):
            raise TypeError(f"the link to worker {pods.numbers[index]} is not through memory")
        links[index] = link
    return links


def _rows(memory: Bytes, count: int, width: int, dtype: np.dtype[Any]) -> Flat:
    return memory[: count * width * dtype.itemsize].view(dtype).reshape(count, width)


def _ring_all(links: dict[int, MemoryLink]) -> None:
    for link in links.values():
        link.ring()


def reduce_scatter(
    pods: Pods,
    total: Flat,
    sections: Sequence[slice],
    op: str,
    orders: Sequence[Order],
    share: tuple[Flat, Finish] | None = None,
) -> None:
    """Section i of all pods' `total` is reduced at pod i, in the order `orders[i]`.

    Args:
        pods: of the group.
        total: this pod's contribution; its own section is complete afterwards, unless `share` is given.
        sections: of `total`, one per pod.
        op: reduction.
        orders: of the sums, one per section.
        share: (values, finish): an all-reduce: sections are finished as they are complete, and all of them land in
            `values`, on every pod.
    """
    links, me, count = _links(pods), pods.me, pods.count
    width = block_bytes(total.nbytes) // (count * total.itemsize)
    longest = max(section.stop - section.start for section in sections)
    board = next(iter(links.values())).board
    complete = pods.scratch.take("complete", width, total.dtype)
    spare = pods.scratch.take("spare", width, total.dtype)
    for number, start in enumerate(range(0, longest, width)):
        pieces = [slice(min(s.start + start, s.stop), min(s.start + start + width, s.stop)) for s in sections]
        mine = _rows(half(board, number), count, width, total.dtype)
        for index in links:
            piece = total[pieces[index]]
            mine[index, : piece.size] = piece
        _ring_all(links)
        own = pieces[me]
        size = own.stop - own.start
        values: list[Flat] = [total[own]] * count
        for index, link in links.items():
            link.wait_ring(pods.waker, pods.patience)
            values[index] = _rows(half(link.theirs, number), count, width, total.dtype)[me, :size]
        if share is None:
            evaluate(orders[me], op, values, complete[:size], spare)
            total[own] = complete[:size]
            continue
        result, finish = share
        shown = mine[me, :size].view(np.uint8)[: size * result.itemsize].view(result.dtype)
        if result.dtype == total.dtype:
            evaluate(orders[me], op, values, shown, spare)
            finish(shown, shown)
        else:
            evaluate(orders[me], op, values, complete[:size], spare)
            finish(complete[:size], shown)
        _ring_all(links)
        result[own] = shown
        for index, link in links.items():
            link.wait_ring(pods.waker, pods.patience)
            piece = result[pieces[index]]
            row = _rows(half(link.theirs, number), count, width, total.dtype)[index]
            piece[:] = row.view(np.uint8)[: piece.nbytes].view(result.dtype)


def all_reduce_small(pods: Pods, total: Flat, op: str, order: Order) -> None:
    """One step: every pod shows its whole vector and sums them all itself. For vectors of at most half a board."""
    links = _links(pods)
    board = next(iter(links.values())).board
    mine = half(board, 0)[: total.nbytes].view(total.dtype)
    mine[:] = total
    _ring_all(links)
    values: list[Flat] = [mine] * pods.count
    for index, link in links.items():
        link.wait_ring(pods.waker, pods.patience)
        values[index] = half(link.theirs, 0)[: total.nbytes].view(total.dtype)
    evaluate(order, op, values, total)
    # The next collective begins with a word of every pod, so nobody writes its board before all have read it.


def all_gather(pods: Pods, values: Flat, sections: Sequence[slice]) -> None:
    """Section i of `values` is right at pod i; afterwards all sections are, everywhere."""
    links, me = _links(pods), pods.me
    width = block_bytes(values.nbytes) // values.itemsize
    longest = max(section.stop - section.start for section in sections)
    board = next(iter(links.values())).board
    for number, start in enumerate(range(0, longest, width)):
        pieces = [slice(min(s.start + start, s.stop), min(s.start + start + width, s.stop)) for s in sections]
        own = values[pieces[me]]
        half(board, number)[: own.nbytes].view(values.dtype)[:] = own
        _ring_all(links)
        for index, link in links.items():
            link.wait_ring(pods.waker, pods.patience)
            piece = values[pieces[index]]
            piece[:] = half(link.theirs, number)[: piece.nbytes].view(values.dtype)


def broadcast(pods: Pods, values: Flat, root: int) -> None:
    """`values` of pod `root` to all: written once, read by each."""
    links = _links(pods)
    width = block_bytes(values.nbytes) // values.itemsize
    board = next(iter(links.values())).board
    for number, start in enumerate(range(0, values.size, width)):
        piece = values[start : start + width]
        if pods.me == root:
            if number > 1:
                for link in links.values():  # all have read what this half held
                    link.wait_ring(pods.waker, pods.patience)
            half(board, number)[: piece.nbytes].view(values.dtype)[:] = piece
            _ring_all(links)
        else:
            link = links[root]
            link.wait_ring(pods.waker, pods.patience)
            piece[:] = half(link.theirs, number)[: piece.nbytes].view(values.dtype)
            link.ring()
    if pods.me == root:
        for link in links.values():
            for _ in range(min(2, -(-values.size // width))):
                link.wait_ring(pods.waker, pods.patience)
