"""Virtual time of a collective: it starts when the last rank is ready, and takes what the links of its group take.

Flows in: the call and each rank's ready time (seconds on the devices' clocks). Flows out: the time at which all ranks
are done. One pod of the group computes it and tells the others, so it is the same everywhere. Each collective has
its links for itself: queueing of several groups on one shared link would be added in `LinkClock.finish`, which
already sees every collective of the groups that its pod coordinates.
"""

from __future__ import annotations

from functools import lru_cache

from supernode.emulator.dtypes import ITEM_BYTES, dtype_name
from supernode.emulator.fabric.call import PEER_TO_PEER, CollectiveCall
from supernode.emulator.fabric.topology import Topology
from supernode.steptime.collectives import collective_seconds

# Kinds whose cost is that of the buffer over all ranks, not of one rank's share.
_OF_ALL = frozenset({"all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"})


class LinkClock:
    """Turns ready times into finish times, over the links of one job."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._seconds = lru_cache(maxsize=4096)(self._price)

    def finish(self, call: CollectiveCall, ready: float) -> float:
        """Virtual time at which all ranks are done; `ready` is the latest ready time, in seconds."""
        kind = "send_recv" if call.kind in PEER_TO_PEER else call.kind
        count = call.count * len(call.group) if kind in _OF_ALL else call.count
        width = 0 if kind == "barrier" else ITEM_BYTES[dtype_name(call.dtype)]
        return ready + self._seconds(kind, count * width, call.group)

    def _price(self, kind: str, nbytes: int, group: tuple[int, ...]) -> float:
        return float(collective_seconds(kind, nbytes, self._topology.links(group)))
