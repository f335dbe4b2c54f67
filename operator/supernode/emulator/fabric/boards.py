"""What lies where on the boards of a group's pods: laid out once, so that a call walks views that are ready-made.

At a MiB most of what Python does in an all-reduce is done on cold caches: each layer that is not passed counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from supernode.emulator.fabric.memory import BLOCK, Bytes, block_bytes, half, opinion_area
from supernode.emulator.fabric.memory_link import MemoryLink
from supernode.emulator.fabric.order import Order, branches

if TYPE_CHECKING:
    from supernode.emulator.fabric.pods import Pods

Flat = np.ndarray[Any, Any]
# Vectors up to here are summed by every pod itself, which saves a step.
SMALL: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Sums:
    """What is summed: section i at pod i, in the order `orders[i]`."""

    op: str
    sections: Sequence[slice]
    orders: Sequence[Order]


class Boards:
    """All pods' boards.

    Attributes:
        links: by pod index, in the order in which this pod's neighbours come to their work.
        board: this pod's.
        opinions: twice, used in turn: where this pod says what it calls, and where each other pod does.
    """

    def __init__(self, pods: Pods) -> None:
        self.links: dict[int, MemoryLink] = {}
        for step in range(1, pods.count):
            index = (pods.me + step) % pods.count
            link = pods.connect(pods.numbers[index])
            if not isinstance(link, MemoryLink):
                raise TypeError(f"the link to worker {pods.numbers[index]} is not through memory")
            self.links[index] = link
        self._ring_all = [link.ring for link in self.links.values()]
        self.board = next(iter(self.links.values())).board
        self.opinions = tuple(
            (
                opinion_area(self.board, turn).data,
                [(link, opinion_area(link.theirs, turn).data) for link in self.links.values()],
            )
            for turn in (0, 1)
        )

    def ring(self) -> None:
        """Tell every pod that something is there."""
        for ring in self._ring_all:
            ring()


def boards(pods: Pods) -> Boards:
    """Those of a group whose pods share memory; the first call may wait for the other pods."""
    if pods.boards is None:
        pods.boards = Boards(pods)
    return pods.boards


class Layout:
    """Where an all-reduce of one size, of one type and in one order lies on the boards.

    Attributes:
        sums: what is summed, and how.
        small: every pod sums all of it, in one round; otherwise its own section, and takes the others' sums.
        width: elements of a section in a round.
        rounds: of each round what it covers, by pod.
        plain: the sum is the result, without rounding or division.
        nested: the order of this pod's section needs a second place.
        mine, theirs: by turn; rows that this pod writes by reader, and of each other pod (index, link, the row for
            this pod, the row of its results). Where it is small: what a pod shows, as its only row.
        results: by turn, this pod's row of results.
    """

    def __init__(self, pods: Pods, size: int, types: tuple[np.dtype[Any], np.dtype[Any]], sums: Sums) -> None:
        """`types`: of the values as they are reduced, and of the result."""
        dtype, final = types
        around = boards(pods)
        self.sums = sums
        self.ring = around.ring
        self.plain = sums.op != "average" and dtype == final
        self.nested = branches(sums.orders[pods.me])
        nbytes = size * dtype.itemsize
        self.small = nbytes <= SMALL
        count = 1 if self.small else pods.count
        longest = max(section.stop - section.start for section in sums.sections)
        self.width = size if self.small else round_width(longest, nbytes, count * dtype.itemsize)

        def rows(board: Bytes, turn: int) -> list[Flat]:
            return list(half(board, turn)[: count * self.width * dtype.itemsize].view(dtype).reshape(count, self.width))

        def final_row(row: Flat) -> Flat:
            return row.view(np.uint8)[: self.width * final.itemsize].view(final)

        self.mine = [rows(around.board, turn) for turn in (0, 1)]
        mine, other = (0, lambda index: 0) if self.small else (pods.me, lambda index: index)
        self.theirs = [
            [
                (index, link, found[mine], final_row(found[other(index)]))
                for index, link in around.links.items()
                for found in [rows(link.theirs, turn)]
            ]
            for turn in (0, 1)
        ]
        self.results = [final_row(found[mine]) for found in self.mine]
        starts = () if self.small else range(0, longest, self.width)
        self.rounds = [pieces(sums.sections, start, self.width) for start in starts]


def round_width(longest: int, nbytes: int, row_bytes: int) -> int:
    """Elements of a section in a round, where the longest section has `longest`: all rounds about alike."""
    block = block_bytes(nbytes)
    # A little more than a block: no round for a few elements that are left.
    rounds = max(1, -(-nbytes // (block + block // 8)))
    while True:
        width = -(-longest // rounds)
        if width * row_bytes <= BLOCK:
            return width
        rounds += 1


def pieces(sections: Sequence[slice], start: int, width: int) -> list[slice]:
    """What a round that begins at element `start` of each section covers."""
    return [slice(min(s.start + start, s.stop), min(s.start + start + width, s.stop)) for s in sections]
