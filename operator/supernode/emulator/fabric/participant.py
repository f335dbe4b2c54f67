"""One program's place in the fabric: which calls it has issued on which device, in its own order.

Flows in: calls when the program issues them, long before the devices come to them. Flows out: tickets, which say which
of the program's earlier transfers may still hold a link. A program that ends, or is started again in its pod, is told
to the other pods: its calls never meet those of the program before.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from supernode.emulator.fabric.call import CollectiveCall
from supernode.emulator.fabric.contention import Stretch

#: Earlier transfers of a device that a transfer is compared with.
REMEMBERED: Final = 256


@dataclass(eq=False)
class Ticket:
    """A call that a program has issued for one device.

    Attributes:
        rank: of the device.
        epoch: how many programs have used this group on this device before.
        number: of the call among those of the device, in the program's order.
        stream: that it runs on; calls of one stream follow each other anyway.
        position: among the device's calls of the same channel.
        done: set when it has ended, well or not.
        finish, moving: virtual end, and when it held its links; empty while it runs, and if it failed.
    """

    call: CollectiveCall
    rank: int
    epoch: int
    number: int
    stream: object
    key: str
    position: int
    earlier: tuple[Ticket, ...] = ()
    done: threading.Event = field(default_factory=threading.Event)
    finish: float = 0.0
    moving: tuple[Stretch, ...] = ()

    @property
    def members(self) -> tuple[int, ...]:
        """Ranks that take part."""
        return self.call.members(self.rank)

    @property
    def name(self) -> tuple[str, int]:
        """What the transfer is called on every pod."""
        return self.key, self.position

    def settle(self, finish: float = 0.0, moving: tuple[Stretch, ...] = ()) -> None:
        """It has ended."""
        self.finish = finish
        self.moving = moving
        self.earlier = ()  # else every ticket would keep all before it
        self.done.set()


class Around(Protocol):
    """What a participant needs of the fabric."""

    def ranks(self) -> range:
        """Global ranks of this pod's devices."""

    def place(self, call: CollectiveCall, rank: int, epoch: int) -> tuple[str, tuple[int, ...]]:
        """The channel that a call belongs to: its key, and the ranks that meet there."""

    def epoch(self, call: CollectiveCall, rank: int) -> int:
        """The next number of a program that uses a group on a device."""

    def carry(
        self, ticket: Ticket, send: np.ndarray[Any, Any] | None, recv: np.ndarray[Any, Any] | None, ready: float
    ) -> float:
        """Do it; see `Fabric.run`."""

    def give_up(self, ticket: Ticket, reason: str) -> None:
        """See `Fabric.withdraw`."""

    def ended(self, channels: Mapping[str, tuple[int, ...]], ranks: set[int]) -> None:
        """A program that used these channels (key and ranks) on these devices is gone."""


class Participant:
    """A program (one client of one sidecar). `issue` is called in the program's order, on one thread."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._epochs: dict[tuple[object, ...], int] = {}
        self._positions: Counter[tuple[str, int]] = Counter()
        self._numbers: Counter[int] = Counter()
        self._issued: dict[int, deque[Ticket]] = {}
        self._channels: dict[str, tuple[int, ...]] = {}
        self._ranks: set[int] = set()
        self._streams: dict[int, set[int]] = {}

    def issue(self, call: CollectiveCall, local_device: int, stream: object) -> Ticket:
        """The program has come to a call; FabricError when the call itself is wrong."""
        rank = self._around.ranks()[local_device]
        group = (call.group, call.channel, call.generation, rank)
        epoch = self._epochs.get(group)
        if epoch is None:
            epoch = self._epochs[group] = self._around.epoch(call, rank)
        key, members = self._around.place(call, rank, epoch)
        before = self._issued.setdefault(rank, deque(maxlen=REMEMBERED))
        streams = self._streams.setdefault(rank, set())
        streams.add(id(stream))
        ticket = Ticket(
            call,
            rank,
            epoch,
            self._numbers[rank],
            stream,
            key,
            self._positions[key, rank],
            tuple(other for other in before if other.stream is not stream) if len(streams) > 1 else (),
        )
        self._numbers[rank] += 1
        self._positions[key, rank] += 1
        before.append(ticket)
        self._channels[key] = members
        self._ranks.add(rank)
        return ticket

    def run(
        self, ticket: Ticket, send: np.ndarray[Any, Any] | None, recv: np.ndarray[Any, Any] | None, ready: float
    ) -> float:
        """Take part with a ticket; see `Fabric.run`."""
        try:
            return self._around.carry(ticket, send, recv, ready)
        finally:
            ticket.settle(ticket.finish, ticket.moving)

    def withdraw(self, ticket: Ticket, reason: str) -> None:
        """Say that the device cannot take part; see `Fabric.withdraw`."""
        try:
            self._around.give_up(ticket, reason)
        finally:
            ticket.settle(ticket.finish, ticket.moving)

    def leave(self) -> None:
        """The program has ended: whoever still waits for it, or comes to one of its groups later, is told."""
        for tickets in self._issued.values():
            for ticket in tickets:
                ticket.settle(ticket.finish, ticket.moving)
        if self._channels:
            self._around.ended(self._channels, self._ranks)
