"""Queueing on links in virtual time: what is left of a link that another transfer of the same device uses.

Each accelerator has its own share of every level of the wiring, one for each direction (see `steptime.collectives`), so
transfers of different accelerators never wait for each other; two of the same accelerator do, where they use the same
level in the same direction. The one that the program issued first has the link; a later one gets what is left, from
moment to moment. That order is the program's alone, so the result does not depend on which thread of which host
happened to run first, and no transfer ever needs to know of one that has not been issued yet.

Flows in: what each transfer needs (`Need`) and the stretches of time in which others use a port. Flows out: the
stretches in which it moves itself, and when it ends. Pure arithmetic; who asks whom is `agreement`'s and
`participant`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

#: A port of a device: (level of the wiring, "in" or "out").
Port = tuple[int, str]
#: (begin, end, speed): between the two moments a transfer goes at this share of its own speed.
Stretch = tuple[float, float, float]
# A share of a link that is no more than rounding.
_NOTHING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Need:
    """What a transfer needs of time and links when it is alone.

    Attributes:
        latency: seconds in which it does not hold a link.
        seconds: that it then moves bytes.
        ports: share of each port of a rank that it uses while it moves, by the rank's role.
    """

    latency: float
    seconds: float
    ports: Mapping[str, Mapping[Port, float]]


def limit(
    need: Mapping[Port, float], others: Iterable[tuple[Mapping[Port, float], Sequence[Stretch]]]
) -> list[Stretch]:
    """How fast a transfer can go on one device beside others: stretches with a speed below 1, in order.

    Args:
        need: the share of each port that it uses at full speed.
        others: of each other transfer the same, and when it moves.
    """
    shared = [
        (begin, end, port, share * speed)
        for ports, stretches in others
        for port, share in ports.items()
        if need.get(port, 0.0) > _NOTHING
        for begin, end, speed in stretches
    ]
    edges = sorted({edge for begin, end, _, _ in shared for edge in (begin, end)})
    found = []
    for begin, end in pairwise(edges):
        used: dict[Port, float] = {}
        for first, last, port, share in shared:
            if first <= begin and end <= last:
                used[port] = used.get(port, 0.0) + share
        speed = min((max(0.0, 1.0 - rate) / need[port] for port, rate in used.items()), default=1.0)
        if speed < 1.0 - _NOTHING:
            found.append((begin, end, speed if speed > _NOTHING else 0.0))
    return found


def slowest(limits: Iterable[Sequence[Stretch]]) -> list[Stretch]:
    """The limits of several devices as one: all move at the speed of the slowest."""
    every = [stretch for stretches in limits for stretch in stretches]
    edges = sorted({edge for begin, end, _ in every for edge in (begin, end)})
    found = []
    for begin, end in pairwise(edges):
        speeds = [speed for first, last, speed in every if first <= begin and end <= last]
        if speeds:
            found.append((begin, end, min(speeds)))
    return found


def schedule(begin: float, seconds: float, limits: Sequence[Stretch]) -> list[Stretch]:
    """When a transfer of `seconds` moves that may begin at `begin`, under limits in order; the last stretch ends it."""
    moving: list[Stretch] = []
    now, left = begin, seconds
    for first, last, speed in limits:
        if last <= now:
            continue
        if now < first:
            if now + left <= first:
                break
            moving.append((now, first, 1.0))
            left -= first - now
            now = first
        if speed > 0.0:
            if now + left / speed <= last:
                return [*moving, (now, now + left / speed, speed)]
            moving.append((now, last, speed))
            left -= (last - now) * speed
        now = last
    return [*moving, (now, now + left, 1.0)]
