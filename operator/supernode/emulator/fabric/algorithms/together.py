"""All pods see each other's boards: everyone puts its part where all can read it, each sums what it owns.

For an all-reduce each pod writes (P-1)/P of the buffer, sums its own section of all, and reads the rest: less than a
ring moves, in two steps instead of 2 (P-1). Work goes in rounds of one half of the boards each, so that what is
shared stays in the cores' caches. A half is written again two rounds later: by then every pod has rung for the round in
between, so it has read the half before. Rounds are counted on from one collective to the next, so what the first round
of an all-reduce shows can be written before the pods have agreed on it (`show`): their agreement is the ring. The order
of every sum is the one that is asked for (`order`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Sums:
    """What is summed: section i at pod i, in the order `orders[i]`."""

    op: str
    sections: Sequence[slice]
    orders: Sequence[Order]


def links(pods: Pods) -> dict[int, MemoryLink]:
    """Links by pod index, in the order in which this pod's neighbours come to their work."""
    found = {}
    for step in range(1, pods.count):
        index = (pods.me + step) % pods.count
        link = pods.connect(pods.numbers[index])
        if not isinstance(link, MemoryLink):
            raise TypeError(f"the link to worker {pods.numbers[index]} is not through memory")
        found[index] = link
    return found


def ring_all(others: dict[int, MemoryLink]) -> None:
    """Tell every pod that something is there."""
    for link in others.values():
        link.ring()


def _rows(memory: Bytes, count: int, width: int, dtype: np.dtype[Any]) -> Flat:
    return memory[: count * width * dtype.itemsize].view(dtype).reshape(count, width)


def _pieces(sections: Sequence[slice], start: int, width: int) -> list[slice]:
    return [slice(min(s.start + start, s.stop), min(s.start + start + width, s.stop)) for s in sections]


def _width(pods: Pods, total: Flat) -> int:
    """Elements of a section in a round."""
    return block_bytes(total.nbytes) // (pods.count * total.itemsize)


def show(pods: Pods, total: Flat, sections: Sequence[slice]) -> None:
    """Put what the others need of an all-reduce's first round on this pod's board, before anyone is told."""
    if total.nbytes <= SMALL:
        board = next(iter(links(pods).values())).board
        half(board, pods.rounds)[: total.nbytes].view(total.dtype)[:] = total
    else:
        _show_pieces(pods, total, sections, 0)


def _show_pieces(pods: Pods, total: Flat, sections: Sequence[slice], start: int) -> None:
    """Put the other pods' pieces of `total` on this pod's board."""
    board = next(iter(links(pods).values())).board
    width = _width(pods, total)
    mine = _rows(half(board, pods.rounds), pods.count, width, total.dtype)
    for index, place in enumerate(_pieces(sections, start, width)):
        if index != pods.me:
            mine[index, : place.stop - place.start] = total[place]


def reduce_scatter(pods: Pods, total: Flat, sums: Sums) -> None:
    """Section i of all pods' `total` is reduced at pod i; this pod's own is complete afterwards."""
    others, me, width = links(pods), pods.me, _width(pods, total)
    for start in range(0, max(section.stop - section.start for section in sums.sections), width):
        _show_pieces(pods, total, sums.sections, start)
        ring_all(others)
        own = _pieces(sums.sections, start, width)[me]
        complete = pods.scratch.take("complete", width, total.dtype)[: own.stop - own.start]
        evaluate(sums.orders[me], sums.op, _shown(pods, others, total, own), complete, _spare(pods, total))
        total[own] = complete
        pods.rounds += 1


def all_reduce(pods: Pods, total: Flat, sums: Sums, result: Flat, finish: Finish, *, shown: bool) -> None:
    """Every pod's `total` is reduced, finished section by section, and all of it lands in `result` on every pod.

    `result` may be the memory of `total`. `shown`: `show` was called, and all pods have rung since.
    """
    if total.nbytes <= SMALL:
        _all_reduce_small(pods, total, sums, result, finish, shown=shown)
        return
    others, me, count, width = links(pods), pods.me, pods.count, _width(pods, total)
    board = next(iter(others.values())).board
    for start in range(0, max(section.stop - section.start for section in sums.sections), width):
        if start or not shown:
            _show_pieces(pods, total, sums.sections, start)
            ring_all(others)
        pieces = _pieces(sums.sections, start, width)
        own = pieces[me]
        values = _shown(pods, others, total, own, rung=shown and not start)
        mine = _rows(half(board, pods.rounds), count, width, total.dtype)[me, : own.stop - own.start]
        ready = mine.view(np.uint8)[: mine.size * result.itemsize].view(result.dtype)
        if result.dtype == total.dtype:
            evaluate(sums.orders[me], sums.op, values, ready, _spare(pods, total))
            finish(ready, ready)
        else:
            complete = pods.scratch.take("complete", width, total.dtype)[: mine.size]
            evaluate(sums.orders[me], sums.op, values, complete, _spare(pods, total))
            finish(complete, ready)
        ring_all(others)
        result[own] = ready
        for index, link in others.items():
            link.wait_ring(pods.waker, pods.patience)
            piece = result[pieces[index]]
            row = _rows(half(link.theirs, pods.rounds), count, width, total.dtype)[index]
            piece[:] = row.view(np.uint8)[: piece.nbytes].view(result.dtype)
        pods.rounds += 1


def _shown(pods: Pods, others: dict[int, MemoryLink], total: Flat, own: slice, *, rung: bool = False) -> list[Flat]:
    """All pods' values of the piece that this pod sums; waits until they are there, unless all have rung."""
    width, size = _width(pods, total), own.stop - own.start
    values: list[Flat] = [total[own]] * pods.count
    for index, link in others.items():
        if not rung:
            link.wait_ring(pods.waker, pods.patience)
        values[index] = _rows(half(link.theirs, pods.rounds), pods.count, width, total.dtype)[pods.me, :size]
    return values


def _spare(pods: Pods, total: Flat) -> Flat:
    return pods.scratch.take("spare", _width(pods, total), total.dtype)


def _all_reduce_small(pods: Pods, total: Flat, sums: Sums, result: Flat, finish: Finish, *, shown: bool) -> None:
    """One step: every pod shows its whole vector and sums all sections itself."""
    others = links(pods)
    if not shown:
        show(pods, total, sums.sections)
        ring_all(others)
    board = next(iter(others.values())).board
    values: list[Flat] = [half(board, pods.rounds)[: total.nbytes].view(total.dtype)] * pods.count
    for index, link in others.items():
        if not shown:
            link.wait_ring(pods.waker, pods.patience)
        values[index] = half(link.theirs, pods.rounds)[: total.nbytes].view(total.dtype)
    complete = pods.scratch.take("complete", total.size, total.dtype)
    if len(set(sums.orders)) == 1:
        evaluate(sums.orders[0], sums.op, values, complete)
    else:
        for section, order in zip(sums.sections, sums.orders, strict=True):
            evaluate(order, sums.op, [part[section] for part in values], complete[section])
    finish(complete, result)
    pods.rounds += 1


def all_gather(pods: Pods, values: Flat, sections: Sequence[slice]) -> None:
    """Section i of `values` is right at pod i; afterwards all sections are, everywhere."""
    others, me = links(pods), pods.me
    width = block_bytes(values.nbytes) // values.itemsize
    longest = max(section.stop - section.start for section in sections)
    board = next(iter(others.values())).board
    for start in range(0, longest, width):
        pieces = _pieces(sections, start, width)
        own = values[pieces[me]]
        half(board, pods.rounds)[: own.nbytes].view(values.dtype)[:] = own
        ring_all(others)
        for index, link in others.items():
            link.wait_ring(pods.waker, pods.patience)
            piece = values[pieces[index]]
            piece[:] = half(link.theirs, pods.rounds)[: piece.nbytes].view(values.dtype)
        pods.rounds += 1


def broadcast(pods: Pods, values: Flat, root: int) -> None:
    """`values` of pod `root` to all: written once, read by each."""
    others = links(pods)
    width = block_bytes(values.nbytes) // values.itemsize
    board = next(iter(others.values())).board
    for number, start in enumerate(range(0, values.size, width)):
        piece = values[start : start + width]
        if pods.me == root:
            if number > 1:
                for link in others.values():  # all have read what this half held
                    link.wait_ring(pods.waker, pods.patience)
            half(board, pods.rounds)[: piece.nbytes].view(values.dtype)[:] = piece
            ring_all(others)
        else:
            link = others[root]
            link.wait_ring(pods.waker, pods.patience)
            piece[:] = half(link.theirs, pods.rounds)[: piece.nbytes].view(values.dtype)
            link.ring()
        pods.rounds += 1
    if pods.me == root:
        for link in others.values():
            for _ in range(min(2, -(-values.size // width))):
                link.wait_ring(pods.waker, pods.patience)
