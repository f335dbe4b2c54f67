"""Seconds of one collective: latency and bandwidth (alpha-beta) per level of the wiring, hierarchically.

Flows in: which collective, how many bytes, and the `Links` of the group: for each level of the wiring, its bandwidth
and latency and how many parts the group has there. Flows out: seconds. The predictor and the emulator's fabric both
call this. Not here: contention between groups that share a link (a level's bandwidth is that of one accelerator, so
groups of different accelerators do not take it from each other), and the choice of who is in a group.

Levels go from the outside in, as in a SuperNodeGroup, and the last one is the node. The bandwidth of a level is that
of the links inside one of its domains, between the domains of the next level; ranks in different domains of the
outermost level use the outermost level's links. A large collective is pipelined: all levels work at the same time on
different pieces, so their bandwidth terms overlap (the slowest counts) and their latencies add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from supernode.chips import Chip
from supernode.errors import ModelError
from supernode.steptime.calibration import DEFAULT, family_of

KINDS: Final[tuple[str, ...]] = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "send_recv",
    "barrier",
)


@dataclass(frozen=True, slots=True)
class LinkLevel:
    """The links inside one domain of a level.

    Attributes:
        name: of the level, such as ``supernode``; ``node`` for the innermost.
        bandwidth: bytes/s of one accelerator, one way, as the data sheet says.
        latency: seconds per hop.
        efficiency: share of the bandwidth that a large collective reaches (see `calibration`).
        launch: seconds before the first byte moves; the largest of the levels in use counts once.
    """

    name: str
    bandwidth: float
    latency: float
    efficiency: float = DEFAULT.network_links
    launch: float = DEFAULT.collective_launch

    def __post_init__(self) -> None:
        if not (self.bandwidth > 0 and math.isfinite(self.bandwidth)):
            raise ModelError(f"level {self.name} has a bandwidth of {self.bandwidth:g} bytes/s; it must be above 0")
        if not (self.latency >= 0 and math.isfinite(self.latency)):
            raise ModelError(f"level {self.name} has a latency of {self.latency:g} s; it must be 0 or more")
        if not 0 < self.efficiency <= 1:
            raise ModelError(f"level {self.name} has an efficiency of {self.efficiency:g}; it must be in (0, 1]")


@dataclass(frozen=True, slots=True)
class Links:
    """How one communication group lies in the wiring. Levels outermost first, the node last.

    Attributes:
        levels: the levels, the same for every group of a job.
        sizes: per level, into how many parts (domains of the next level; devices for the node level) the group falls
            inside one domain, the largest such number. 1 = the group does not use this level's links.
        lanes: per level, how many ranks of the group are inside each of those parts, the smallest such number: they
            carry the level's traffic side by side. 1 for the node level.
    """

    levels: tuple[LinkLevel, ...]
    sizes: tuple[int, ...]
    lanes: tuple[int, ...]

    @property
    def widest(self) -> int:
        """Index of the outermost level that the group crosses; -1 if it is a single rank."""
        return next((i for i, size in enumerate(self.sizes) if size > 1), -1)


def levels_for(chip: Chip, figures: Sequence[tuple[str, float, float]]) -> tuple[LinkLevel, ...]:
    """Link levels with the efficiencies of the chip's family.

    The node, and every level at least half as fast as the chip's scale-up links, counts as scale-up.

    Args:
        chip: of the devices at the ends of the links.
        figures: per level (name, bandwidth in bytes/s, latency in seconds), outermost first; the last is the node.
    """
    family = family_of(chip.name)
    last = len(figures) - 1
    fast = chip.link_bandwidth / 2 if chip.link_bandwidth is not None else math.inf
    return tuple(
        LinkLevel(
            name=name,
            bandwidth=bandwidth,
            latency=latency,
            efficiency=family.node_links if index == last or bandwidth >= fast else family.network_links,
            launch=family.collective_launch,
        )
        for index, (name, bandwidth, latency) in enumerate(figures)
    )


def regular_links(levels: tuple[LinkLevel, ...], sizes: Sequence[int]) -> Links:
    """Links of a group that is spread evenly: `sizes` parts per level, outermost first; their product is its size.

    Raises:
        ModelError: the numbers of levels and sizes differ, or a size is below 1.
    """
    if len(sizes) != len(levels) or min(sizes, default=0) < 1:
        raise ModelError(f"{len(levels)} levels need as many sizes of 1 or more, not {tuple(sizes)}")
    lanes = tuple(math.prod(sizes[i + 1 :]) for i in range(len(sizes)))
    return Links(levels, tuple(int(s) for s in sizes), lanes)


def links_of(levels: tuple[LinkLevel, ...], domains: ArrayLike) -> Links:
    """Links of the group whose rank r lies in the domain `domains[level][r]`.

    Args:
        levels: outermost first, the node last.
        domains: integers (levels, ranks); the same number means the same domain. Numbers need to be unique only inside
            the domain of the next outer level.

    Raises:
        ModelError: the shape does not match the levels, or there is no rank.
    """
    ids = np.asarray(domains, dtype=np.int64)
    if ids.ndim != 2 or ids.shape[0] != len(levels) or ids.shape[1] == 0:
        raise ModelError(f"{len(levels)} levels need domains of shape ({len(levels)}, ranks), not {ids.shape}")
    ranks = ids.shape[1]
    sizes: list[int] = []
    lanes: list[int] = []
    outer = np.zeros(ranks, dtype=np.int64)  # domain of each rank on the level at hand; level 0 takes in everything
    path = np.unique(ids[0], return_inverse=True)[1]
    for level in range(len(levels)):
        if level == len(levels) - 1:
            inner = np.arange(ranks, dtype=np.int64)
        else:
            numbers = np.unique(ids[level + 1], return_inverse=True)[1]
            inner = path = np.unique(path * ranks + numbers, return_inverse=True)[1]
        # How many parts each outer domain has, and how many ranks each part has.
        _, first, members = np.unique(inner, return_index=True, return_counts=True)
        per_domain = np.unique(outer[first], return_counts=True)[1]
        sizes.append(int(per_domain.max()))
        lanes.append(int(members.min()))
        outer = inner
    return Links(levels, tuple(sizes), tuple(lanes))


def collective_seconds(kind: str, nbytes: float, links: Links) -> float:
    """Seconds from the moment the last rank comes until all are done; 0 for a group of one rank.

    Args:
        kind: one of `KINDS`.
        nbytes: all_reduce, broadcast, reduce: the buffer of one rank; all_gather: the gathered result;
            reduce_scatter: the whole input of one rank; all_to_all: the whole send buffer of one rank; gather and
            scatter: the buffer of the root; send_recv: the message; barrier: ignored.
        links: of the group (for send_recv: of the two ranks).

    Raises:
        ModelError: unknown kind, or a negative or infinite number of bytes.
    """
    if kind not in _FORMULAS:
        raise ModelError(f"unknown collective {kind!r}; known are {', '.join(KINDS)}")
    if not 0 <= nbytes < math.inf:
        raise ModelError(f"{kind} of {nbytes} bytes: the size must be 0 or more")
    used = [
        _Hop(level, size, lanes)
        for level, size, lanes in zip(links.levels, links.sizes, links.lanes, strict=True)
        if size > 1
    ]
    if not used:
        return 0.0
    return max(hop.level.launch for hop in used) + _FORMULAS[kind](0.0 if kind == "barrier" else nbytes, used)


@dataclass(frozen=True, slots=True)
class _Hop:
    """One level that the group crosses: its links, number of parts (above 1), and ranks side by side per part."""

    level: LinkLevel
    size: int
    lanes: int

    def seconds(self, nbytes: float) -> float:
        """Seconds that `nbytes` take over one accelerator's links of this level."""
        return nbytes / (self.level.bandwidth * self.level.efficiency)

    @property
    def depth(self) -> int:
        """Steps of a binary tree over the parts."""
        return (self.size - 1).bit_length()


def _all_reduce(nbytes: float, hops: Sequence[_Hop]) -> float:
    """The faster of rings (least traffic) and double binary trees (fewest steps)."""
    ring = 2 * _half_ring(nbytes, hops)
    tree = sum(2 * h.depth * h.level.latency for h in hops) + max(h.seconds(2 * nbytes / h.lanes) for h in hops)
    return min(ring, tree)


def _half_ring(nbytes: float, hops: Sequence[_Hop]) -> float:
    """All-gather or reduce-scatter: one of the two halves of a ring all-reduce.

    As many rings as there are lanes run at once; each goes once through every rank and crosses each border once.
    """
    latency = 0.0
    ranks = 1
    for hop in hops:
        latency += ranks * (hop.size - 1) * hop.level.latency
        ranks *= hop.size
    return latency + max(h.seconds((ranks - 1) / ranks * nbytes / h.lanes) for h in hops)


def _all_to_all(nbytes: float, hops: Sequence[_Hop]) -> float:
    """Pairwise exchange; each rank's own links carry what it sends to the ranks beyond each level."""
    ranks = hops[0].size * hops[0].lanes
    latency = sum((h.size - 1) * h.level.latency for h in hops)
    return latency + max(h.seconds(nbytes * (h.size - 1) * h.lanes / ranks) for h in hops)


def _broadcast(nbytes: float, hops: Sequence[_Hop]) -> float:
    """Pipelined tree, or its reverse (reduce); lanes carry a part each."""
    return sum(h.depth * h.level.latency for h in hops) + max(h.seconds(nbytes / h.lanes) for h in hops)


def _rooted(nbytes: float, hops: Sequence[_Hop]) -> float:
    """Gather or scatter: the root's own links carry everything."""
    ranks = hops[0].size * hops[0].lanes
    latency = sum(h.depth * h.level.latency for h in hops)
    return latency + max(h.seconds(nbytes * (h.size - 1) * h.lanes / ranks) for h in hops)


def _send_recv(nbytes: float, hops: Sequence[_Hop]) -> float:
    """One message over the outermost level between the two."""
    return hops[0].level.latency + hops[0].seconds(nbytes)


_FORMULAS: Final[dict[str, Callable[[float, Sequence[_Hop]], float]]] = {
    "all_reduce": _all_reduce,
    "all_gather": _half_ring,
    "reduce_scatter": _half_ring,
    "all_to_all": _all_to_all,
    "broadcast": _broadcast,
    "reduce": _broadcast,
    "gather": _rooted,
    "scatter": _rooted,
    "send_recv": _send_recv,
    "barrier": _all_reduce,
}
