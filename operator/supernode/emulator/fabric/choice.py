"""How a reduction goes between pods: ring, tree or hierarchy, by the size and by the wiring of the placement.

Flows in: the call. Flows out: a `Plan`, the same on every pod, since it depends on the call and the wiring alone. The
times that are compared are `steptime.collectives`' own, so what the virtual clock charges is the way that is taken:

    tree       few steps, the whole vector in each: small vectors, many domains
    ring       each pod moves 2 (P-1)/P of the vector
    hierarchy  the ring's traffic where the pods lie in several domains of a level (super-nodes): reduce-scatter inside
               each domain, all-reduce of the parts between domains over all lanes, all-gather inside

The network's switch may sum inside a node only, and there the devices of a pod are reduced in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from supernode.emulator.dtypes import ITEM_BYTES, dtype_name
from supernode.emulator.fabric import order
from supernode.emulator.fabric.call import CollectiveCall
from supernode.emulator.fabric.order import Order
from supernode.emulator.fabric.topology import Topology
from supernode.steptime.collectives import all_reduce_ways


@dataclass(frozen=True, slots=True)
class Plan:
    """One way.

    Attributes:
        way: `tree`, `ring` or `hierarchy`.
        inner: pods in each domain of a hierarchy; all of them otherwise.
    """

    way: str
    inner: int

    def orders(self, count: int) -> tuple[Order, ...]:
        """The order of the sum of each pod's section, for `count` pods in ring order."""
        return _orders(self.way, self.inner, count)

    def sections(self, size: int, count: int) -> tuple[slice, ...]:
        """What each of `count` pods owns of a vector of `size` elements."""
        return _sections(self.inner, size, count)


@lru_cache(maxsize=1024)
def _orders(way: str, inner: int, count: int) -> tuple[Order, ...]:
    if way == "tree":
        return (order.tree(0, count),) * count

    def around(owner: int) -> Order:
        domain, place = divmod(owner, inner)

        def inside(number: int) -> Order:
            return order.over(order.ring(place, inner), lambda index: number * inner + index)

        return order.over(order.ring(domain, count // inner), inside)

    return tuple(around(owner) for owner in range(count))


@lru_cache(maxsize=1024)
def _sections(inner: int, size: int, count: int) -> tuple[slice, ...]:
    outer = count // inner
    inside = even_sections(size, inner)
    parts = [even_sections(section.stop - section.start, outer) for section in inside]
    return tuple(
        slice(inside[place].start + parts[place][domain].start, inside[place].start + parts[place][domain].stop)
        for domain in range(outer)
        for place in range(inner)
    )


def even_sections(size: int, parts: int) -> list[slice]:
    """`size` elements cut into `parts` stretches whose lengths differ by at most one."""
    edges = [size * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


class Chooser:
    """Plans for the reductions of one job, by its wiring."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._plan = lru_cache(maxsize=4096)(self._choose)

    def plan(self, call: CollectiveCall) -> Plan:
        """How this all-reduce goes between the pods of its group."""
        return self._plan(call.count * ITEM_BYTES[dtype_name(call.dtype)], call.group)

    def _choose(self, nbytes: int, group: tuple[int, ...]) -> Plan:
        pods = self._topology.ring(tuple(sorted({rank // self._topology.devices for rank in group})))
        ways = all_reduce_ways(float(nbytes), self._topology.links(group))
        if ways and ways.get("tree", np.inf) < ways["ring"]:
            return Plan("tree", len(pods))
        inner = self._inner(pods)
        return Plan("hierarchy", inner) if 1 < inner < len(pods) else Plan("ring", len(pods))

    def _inner(self, pods: tuple[int, ...]) -> int:
        """Pods per domain of the outermost level on which they lie in several domains of the same size, two or more."""
        path = np.zeros(len(pods), dtype=np.int64)
        for domains in self._topology.domains[:-1]:
            path = np.unique(path * (int(domains.max()) + 1) + domains[list(pods)], return_inverse=True)[1]
            sizes = np.bincount(path)
            if len(sizes) > 1:
                return int(sizes[0]) if sizes[0] > 1 and (sizes == sizes[0]).all() else len(pods)
        return len(pods)
