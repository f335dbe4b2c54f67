"""Virtual time of a collective: it starts when the last rank is ready, and takes what the links of its group take.

Flows in: the call and the latest ready time (seconds on the devices' clocks). Flows out: the time at which all ranks
are done, and what the collective needs of its links, for `contention`. All seconds are `steptime.collectives`' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from supernode.emulator.dtypes import ITEM_BYTES, dtype_name
from supernode.emulator.fabric.call import PEER_TO_PEER, CollectiveCall
from supernode.emulator.fabric.contention import Need, Port
from supernode.emulator.fabric.topology import Topology
from supernode.steptime.collectives import Links, collective_seconds

# Kinds whose cost is that of the buffer over all ranks, not of one rank's share.
_OF_ALL: Final = frozenset({"all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"})
# As good as no limit next to any link: bytes/s.
_FREE: Final = 1e30


class LinkClock:
    """Turns ready times into finish times, over the links of one job."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._seconds = lru_cache(maxsize=4096)(self._price)
        self._needs = lru_cache(maxsize=4096)(self._need)

    def seconds(self, call: CollectiveCall, elements: int | None = None) -> float:
        """Seconds of a call that has its links for itself; `elements`: in place of the call's own, per rank."""
        return self._seconds(_kind(call), self._bytes(call, elements), call.group)

    def finish(self, call: CollectiveCall, ready: float) -> float:
        """Virtual time at which all ranks are done; `ready` is the latest ready time, in seconds."""
        return ready + self.seconds(call)

    def need(self, call: CollectiveCall, elements: int | None = None) -> Need:
        """What a call needs of its links."""
        return self._needs(_kind(call), self._bytes(call, elements), call.group)

    def _bytes(self, call: CollectiveCall, elements: int | None) -> int:
        if call.kind == "barrier":
            return 0
        if elements is None:
            elements = max(sum(call.sends), sum(call.receives)) if call.uneven else call.count
        count = elements * len(call.group) if call.kind in _OF_ALL else elements
        return count * ITEM_BYTES[dtype_name(call.dtype)]

    def _price(self, kind: str, nbytes: int, group: tuple[int, ...]) -> float:
        return float(collective_seconds(kind, nbytes, self._topology.links(group)))

    def _need(self, kind: str, nbytes: int, group: tuple[int, ...]) -> Need:
        latency = self._seconds(kind, 0, group)
        seconds = self._seconds(kind, nbytes, group) - latency
        if seconds <= 0:
            return Need(latency, 0.0, {})
        links = self._topology.links(group)
        shares = {level: share for level, share in _shares(kind, nbytes, links, seconds) if share > 0}
        whole = {(level, way): share for level, share in shares.items() for way in ("in", "out")}
        one_of = 1 / max(1, len(group) - 1)

        def one_way(way: str, part: float) -> Mapping[Port, float]:
            return {(level, way): share * part for level, share in shares.items()}

        if kind == "send_recv":
            return Need(latency, seconds, {"send": one_way("out", 1.0), "recv": one_way("in", 1.0)})
        if kind in ("gather", "scatter"):
            # The root's links carry everything, the others' one part each.
            at_root, elsewhere = ("in", "out") if kind == "gather" else ("out", "in")
            return Need(latency, seconds, {"root": one_way(at_root, 1.0), "": one_way(elsewhere, one_of)})
        return Need(latency, seconds, {"": whole, "root": whole})


def role(call: CollectiveCall, rank: int) -> str:
    """A rank's role in a call, as the keys of `Need.ports`."""
    if call.kind in PEER_TO_PEER:
        return call.kind
    return "root" if rank == call.root_or_peer else ""


def _kind(call: CollectiveCall) -> str:
    if call.kind in PEER_TO_PEER:
        return "send_recv"
    return "all_to_all" if call.uneven else call.kind


def _shares(kind: str, nbytes: int, links: Links, seconds: float) -> list[tuple[int, float]]:
    """(level, share of its links in use): what the level alone would take of the time that all take."""
    if kind == "send_recv":
        return [(links.widest, 1.0)] if links.widest >= 0 else []
    found = []
    for index, size in enumerate(links.sizes):
        if size > 1:
            levels = tuple(
                level if number == index else replace(level, bandwidth=_FREE)
                for number, level in enumerate(links.levels)
            )
            alone = replace(links, levels=levels)
            own = float(collective_seconds(kind, nbytes, alone)) - float(collective_seconds(kind, 0, alone))
            found.append((index, min(1.0, max(0.0, own / seconds))))
    return found
