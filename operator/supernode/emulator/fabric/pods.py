"""The pods of one group during one collective, as the algorithms see them: who there is, and moving bytes to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from supernode.emulator.fabric.link import Incoming, Link, Outgoing, move

Flat = np.ndarray[Any, Any]
# (index of the pod, flat array) and, for a receive, what to do with each stretch of elements as it comes.
Sending = tuple[int, Flat]
Receiving = tuple[int, Flat, "Callable[[int, int], None] | None"]


class Scratch:
    """Memory that a channel keeps between collectives, so that large ones do not touch fresh pages each time."""

    KEEP = 256 << 20

    def __init__(self) -> None:
        self._kept: dict[str, np.ndarray[Any, np.dtype[np.uint8]]] = {}

    def take(self, name: str, elements: int, dtype: np.dtype[Any]) -> Flat:
        """An uninitialised flat array; the next `take` of the same name may reuse its memory."""
        size = elements * dtype.itemsize
        held = self._kept.get(name)
        if held is None or held.size < size:
            held = np.empty(size, dtype=np.uint8)
            if size <= self.KEEP:
                self._kept[name] = held
        return held[:size].view(dtype)


@dataclass
class Pods:
    """Pods of a group, in ring order.

    Attributes:
        numbers: pod numbers in the order in which rings visit them.
        members: per pod, the places in the group (0..group size-1) of its devices, ascending.
        me: index of this pod in `numbers`.
        connect: gives the link to a pod by its number, made at first use.
    """

    numbers: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    me: int
    connect: Callable[[int], Link]
    waker: int
    patience: float
    scratch: Scratch

    @property
    def count(self) -> int:
        """Pods in the group."""
        return len(self.numbers)

    @property
    def places(self) -> tuple[int, ...]:
        """Places in the group, pod by pod in ring order."""
        return tuple(place for pod in self.members for place in pod)

    def index_of(self, place: int) -> int:
        """Index of the pod that holds a place of the group."""
        return next(index for index, places in enumerate(self.members) if place in places)

    def exchange(self, sends: Sequence[Sending], receives: Sequence[Receiving] = ()) -> None:
        """Send and receive flat arrays at the same time; empty ones are skipped on both sides."""
        transfers: list[Outgoing | Incoming] = [
            Outgoing.tensor(self.connect(self.numbers[index]), values) for index, values in sends if values.size
        ]
        transfers += [
            Incoming(self.connect(self.numbers[index]), target, taken)
            for index, target, taken in receives
            if target.size
        ]
        move(transfers, self.waker, self.patience)
