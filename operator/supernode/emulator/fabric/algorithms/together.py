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

import numpy as np

from supernode.emulator.fabric.boards import Layout, Sums, boards, pieces
from supernode.emulator.fabric.memory import block_bytes, half
from supernode.emulator.fabric.order import evaluate
from supernode.emulator.fabric.pods import Flat, Pods

# (complete values of this pod's section, where they go): average, and rounding to a narrower type.
Finish = Callable[[Flat, Flat], None]


def show(pods: Pods, total: Flat, layout: Layout) -> None:
    """Put what the others need of an all-reduce's first round on this pod's board, before anyone is told."""
    mine = layout.mine[pods.rounds % 2]
    if layout.small:
        np.copyto(mine[0], total)
    else:
        _show_pieces(pods.me, total, layout.rounds[0], mine)


def _show_pieces(me: int, total: Flat, places: Sequence[slice], rows: Sequence[Flat]) -> None:
    """Put the other pods' pieces of `total` on this pod's board."""
    for index, place in enumerate(places):
        if index != me:
            np.copyto(rows[index][: place.stop - place.start], total[place])


def all_reduce(pods: Pods, total: Flat, layout: Layout, result: Flat, finish: Finish, *, shown: bool) -> None:
    """Every pod's `total` is reduced, finished section by section, and all of it lands in `result` on every pod.

    `result` may be the memory of `total`. `shown`: `show` was called, and all pods have rung since.
    """
    if layout.small:
        _all_reduce_small(pods, total, layout, result, finish, shown=shown)
        return
    me, sums = pods.me, layout.sums
    spare = pods.scratch.take("spare", layout.width, total.dtype) if layout.nested else None
    for number, places in enumerate(layout.rounds):
        turn = pods.rounds % 2
        if number or not shown:
            _show_pieces(me, total, places, layout.mine[turn])
            layout.ring()
        own = places[me]
        size = own.stop - own.start
        values = [total[own]] * pods.count
        theirs = layout.theirs[turn]
        for index, link, row, _ in theirs:
            if number or not shown:
                link.wait_ring(pods.waker, pods.patience)
            values[index] = row[:size]
        ready = layout.results[turn][:size]
        if layout.plain:
            evaluate(sums.orders[me], sums.op, values, ready, spare)
        else:
            complete = pods.scratch.take("complete", layout.width, total.dtype)[:size]
            evaluate(sums.orders[me], sums.op, values, complete, spare)
            finish(complete, ready)
        layout.ring()
        np.copyto(result[own], ready)
        for index, link, _, row in theirs:
            link.wait_ring(pods.waker, pods.patience)
            place = places[index]
            np.copyto(result[place], row[: place.stop - place.start])
        pods.rounds += 1


def _all_reduce_small(pods: Pods, total: Flat, layout: Layout, result: Flat, finish: Finish, *, shown: bool) -> None:
    """One step: every pod shows its whole vector and sums all sections itself."""
    if not shown:
        show(pods, total, layout)
        layout.ring()
    turn, sums = pods.rounds % 2, layout.sums
    values = [layout.mine[turn][0]] * pods.count
    for index, link, row, _ in layout.theirs[turn]:
        if not shown:
            link.wait_ring(pods.waker, pods.patience)
        values[index] = row
    complete = result if layout.plain else pods.scratch.take("complete", total.size, total.dtype)
    if len(set(sums.orders)) == 1:
        evaluate(sums.orders[0], sums.op, values, complete)
    else:
        for section, order in zip(sums.sections, sums.orders, strict=True):
            evaluate(order, sums.op, [part[section] for part in values], complete[section])
    if not layout.plain:
        finish(complete, result)
    pods.rounds += 1


def reduce_scatter(pods: Pods, total: Flat, sums: Sums) -> None:
    """Section i of all pods' `total` is reduced at pod i; this pod's own is complete afterwards."""
    around, me, count = boards(pods), pods.me, pods.count
    width = block_bytes(total.nbytes) // (count * total.itemsize)

    def rows(board: Flat) -> Flat:
        return half(board, pods.rounds)[: count * width * total.itemsize].view(total.dtype).reshape(count, width)

    for start in range(0, max(section.stop - section.start for section in sums.sections), width):
        places = pieces(sums.sections, start, width)
        _show_pieces(me, total, places, list(rows(around.board)))
        around.ring()
        own = places[me]
        size = own.stop - own.start
        values = [total[own]] * count
        for index, link in around.links.items():
            link.wait_ring(pods.waker, pods.patience)
            values[index] = rows(link.theirs)[me, :size]
        complete = pods.scratch.take("complete", width, total.dtype)[:size]
        evaluate(sums.orders[me], sums.op, values, complete, pods.scratch.take("spare", width, total.dtype))
        total[own] = complete
        pods.rounds += 1


def all_gather(pods: Pods, values: Flat, sections: Sequence[slice]) -> None:
    """Section i of `values` is right at pod i; afterwards all sections are, everywhere."""
    around, me = boards(pods), pods.me
    width = block_bytes(values.nbytes) // values.itemsize
    longest = max(section.stop - section.start for section in sections)
    for start in range(0, longest, width):
        places = pieces(sections, start, width)
        own = values[places[me]]
        half(around.board, pods.rounds)[: own.nbytes].view(values.dtype)[:] = own
        around.ring()
        for index, link in around.links.items():
            link.wait_ring(pods.waker, pods.patience)
            piece = values[places[index]]
            piece[:] = half(link.theirs, pods.rounds)[: piece.nbytes].view(values.dtype)
        pods.rounds += 1


def broadcast(pods: Pods, values: Flat, root: int) -> None:
    """`values` of pod `root` to all: written once, read by each."""
    around = boards(pods)
    width = block_bytes(values.nbytes) // values.itemsize
    for number, start in enumerate(range(0, values.size, width)):
        piece = values[start : start + width]
        if pods.me == root:
            if number > 1:
                for link in around.links.values():  # all have read what this half held
                    link.wait_ring(pods.waker, pods.patience)
            half(around.board, pods.rounds)[: piece.nbytes].view(values.dtype)[:] = piece
            around.ring()
        else:
            link = around.links[root]
            link.wait_ring(pods.waker, pods.patience)
            piece[:] = half(link.theirs, pods.rounds)[: piece.nbytes].view(values.dtype)
            link.ring()
        pods.rounds += 1
    if pods.me == root:
        for link in around.links.values():
            for _ in range(min(2, -(-values.size // width))):
                link.wait_ring(pods.waker, pods.patience)
