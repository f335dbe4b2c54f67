"""The pods of one group during one collective, as the algorithms see them: who there is, and moving bytes to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from supernode.emulator.fabric.link import Link, Take, Transfer, move

if TYPE_CHECKING:
    from supernode.emulator.fabric.boards import Boards

Flat = np.ndarray[Any, Any]
# (index of the pod, flat array)
Sending = tuple[int, Flat]
Receiving = tuple[int, Flat]
# Bytes that a stretch has which is reduced as it comes: they stay in a core's cache.
LANDING = 256 << 10


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
        together: all of them share memory.
        direct: there are few of them, not together: they tell each other what they call without a detour.
        boards: theirs, once they are known; see `boards`.
        meetings, rounds: on boards so far, the same on all pods; they say which of two areas is used next.
    """

    numbers: tuple[int, ...]
    members: tuple[tuple[int, ...], ...]
    me: int
    connect: Callable[[int], Link]
    waker: int
    patience: float
    scratch: Scratch
    together: bool = False
    direct: bool = False
    boards: Boards | None = None
    meetings: int = 0
    rounds: int = 0

    @property
    def count(self) -> int:
        """Pods in the group."""
        return len(self.numbers)

    @property
    def places(self) -> tuple[int, ...]:
        """Places in the group, pod by pod in ring order."""
        return tuple(place for pod in self.members for place in pod)

    def some(self, indices: Iterable[int]) -> Pods:
        """Some of the pods, this one among them, by their indices."""
        chosen = list(indices)
        return replace(
            self,
            numbers=tuple(self.numbers[index] for index in chosen),
            members=tuple(self.members[index] for index in chosen),
            me=chosen.index(self.me),
            together=False,
            direct=False,
            boards=None,
        )

    def index_of(self, place: int) -> int:
        """Index of the pod that holds a place of the group."""
        return next(index for index, places in enumerate(self.members) if place in places)

    def exchange(self, sends: Sequence[Sending], receives: Sequence[Receiving] = ()) -> None:
        """Send and receive flat arrays at the same time; empty ones are skipped on both sides."""
        transfers: list[Transfer] = [
            self.connect(self.numbers[index]).outgoing(values) for index, values in sends if values.size
        ]
        transfers += [self.connect(self.numbers[index]).incoming(target) for index, target in receives if target.size]
        move(transfers, self.waker, self.patience)

    def take(self, source: int, taken: Flat, take: Take, sends: Sequence[Sending] = ()) -> None:
        """Let `take` reduce what comes from a pod, while others are sent to; `taken` says how much and its type."""
        transfers: list[Transfer] = [
            self.connect(self.numbers[index]).outgoing(values) for index, values in sends if values.size
        ]
        if taken.size:
            landing = self.scratch.take("landing", LANDING // taken.itemsize, taken.dtype)
            transfers.append(self.connect(self.numbers[source]).taking(taken.size, landing, take))
        move(transfers, self.waker, self.patience)
