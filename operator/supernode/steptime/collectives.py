"""Seconds of one collective: latency and bandwidth (alpha-beta) per level of the wiring, hierarchically.

Flows in: which collective, how many bytes, and the `Links` of the group: for each level of the wiring, its bandwidth
and latency and how many parts the group has there. Flows out: seconds. The predictor and the emulator's fabric both
call this. Contention: a level's bandwidth is that of one accelerator, so groups of different accelerators do not take
it from each other; where several groups of the same accelerators work at once, `Links.sharing` says how many. Not here:
the choice of who is in a group.

Levels go from the outside in, as in a SuperNodeGroup, and the last one is the node. The bandwidth of a level is that
of the links inside one of its domains, between the domains of the next level; ranks in different domains of the
outermost level use the outermost level's links. A large collective is pipelined: all levels work at the same time on
different pieces, so their bandwidth terms overlap (the slowest counts) and their latencies add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from supernode.chips import Chip
from supernode.errors import ModelError
from supernode.steptime.arithmetic import Num, choose, doublings, largest, root, smallest
from supernode.steptime.calibration import (
    BLOCK,
    CROWD,
    DEFAULT,
    EXCHANGE,
    PIECES,
    SWITCH_FROM,
    SWITCH_LAUNCH,
    THIN_LANES,
    family_of,
)

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
        thin: the efficiency where fewer than `THIN_LANES` ranks of a part have links to the next; None = the same.
        switch: share of the bandwidth at which the level's switch itself sums an all-reduce; 0 = it does not.
        network: it is the network between nodes, not a scale-up link.
        mesh: devices that are joined by one link to each other instead of by a switch; 0 = a switch.
        pair_tree: the library may reduce by a tree over two domains too, which sends the buffer once where a ring sends
            it 2 (n - 1) / n times.
    """

    name: str
    bandwidth: float
    latency: float
    efficiency: float = DEFAULT.network_links
    launch: float = DEFAULT.collective_launch
    thin: float | None = None
    switch: float = 0.0
    mesh: int = 0
    network: bool = False
    pair_tree: bool = False

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
        sharing: per level, how many groups use the same accelerators' links at the same time; None = one.

    In a batch, sizes and lanes hold one array (n,) per level (`batch.stack_wirings`, `batch.regular_wirings`).
    """

    levels: tuple[LinkLevel, ...]
    sizes: tuple[Num, ...]
    lanes: tuple[Num, ...]
    sharing: tuple[Num, ...] | None = None

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
    mesh = chip.link_domain or 0 if family.mesh else 0
    levels = []
    for index, (name, bandwidth, own) in enumerate(figures):
        # What crosses a border also passes the links inside, so no level is quicker than those it contains.
        latency = max(own, *(inner for _, _, inner in figures[index:]))
        if index == last or bandwidth >= fast:
            inside = index == last
            levels.append(
                LinkLevel(
                    name,
                    bandwidth,
                    latency,
                    family.node_links,
                    family.collective_launch,
                    switch=family.switch_reduce if inside else 0.0,
                    mesh=mesh if inside else 0,
                    pair_tree=family.pair_tree,
                )
            )
        else:
            levels.append(
                LinkLevel(
                    name,
                    bandwidth,
                    latency,
                    family.network_links,
                    family.collective_launch,
                    thin=family.network_thin,
                    network=True,
                    pair_tree=family.pair_tree,
                )
            )
    return tuple(levels)


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


def crowded(links: Links, devices: Num) -> Links:
    """The same links while all groups of a job of so many devices reduce at once (`calibration.CROWD`)."""
    share = choose(devices > BLOCK, 1 / CROWD, 1.0)
    return Links(
        links.levels, links.sizes, links.lanes, tuple(share if level.network else 1.0 for level in links.levels)
    )


def collective_seconds(kind: str, nbytes: Num, links: Links) -> Num:
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
    return float(transfer_seconds(kind, nbytes, links, alone=True))


def all_reduce_ways(nbytes: float, links: Links) -> dict[str, float]:
    """Seconds of each way in which an all-reduce of this group can be done: `ring`, `tree`, `switch`; the best counts.

    Empty for a group of one rank. A ring over several levels is one ring per lane, which is what a hierarchy of
    reduce-scatter inside, all-reduce between and all-gather inside moves.
    """
    launch, hops = _hops_of(links, alone=True)
    ways: dict[str, Num] = {}
    if hops:
        _all_reduce(nbytes, hops, ways)
    return {name: float(launch + seconds) for name, seconds in ways.items()}


def transfer_seconds(kind: str, nbytes: Num, links: Links, alone: bool = False) -> Num:
    """`collective_seconds` unchecked, for numbers and for arrays (bytes, sizes and lanes; one element a prediction).

    `alone`: no other group of the job works at the same time, so few lanes are few for the whole node.
    """
    launch, hops = _hops_of(links, alone)
    if not hops:
        return 0.0
    return launch + _FORMULAS[kind](0.0 if kind == "barrier" else nbytes, hops)


def _hops_of(links: Links, alone: bool) -> tuple[Num, list[_Hop]]:
    """Seconds of the launch, and the levels that the group crosses."""
    hops: list[_Hop] = []
    launch: Num = 0.0
    inmost = len(links.levels) - 1
    for index, (level, size, lanes) in enumerate(zip(links.levels, links.sizes, links.lanes, strict=True)):
        used: Num = 1
        if type(size) is np.ndarray:
            used = size > 1
            launch = np.maximum(launch, level.launch * used)
        elif size > 1:
            launch = largest(launch, level.launch)
        else:
            continue
        rate: Num = level.bandwidth * level.efficiency
        if alone and level.thin is not None:
            rate = level.bandwidth * choose(lanes < THIN_LANES, level.thin, level.efficiency)
        if level.mesh > 1:  # one link to each other device: those to devices outside the group stay idle
            rate = rate * smallest((size - 1) / (level.mesh - 1), 1.0)
        share = 1 if links.sharing is None else links.sharing[index]
        hops.append(_Hop(level, size, lanes, used * share / rate, used, index == inmost))
    return launch, hops


class _Hop(NamedTuple):
    """One level that the group crosses (in a batch: that some group crosses).

    `pace`: seconds per byte of one accelerator's links, 0 where the level is not used; `used`: 1 or 0.
    """

    level: LinkLevel
    size: Num
    lanes: Num
    pace: Num
    used: Num
    inmost: bool


def _piped(latency: Num, transfer: Num) -> Num:
    """Seconds of a chain of steps, cut into pieces that follow each other.

    S steps of l seconds, V bytes: with pieces of c bytes (S + V/c)(l + c/b), least for c = sqrt(V l b / S), which gives
    S l + V/b + 2 sqrt(S l V/b). Buffers end the growth of the pieces (`PIECES`); what longer messages lose per piece
    is part of the measured bandwidth.
    """
    return latency + transfer + 2 * root(latency * smallest(transfer, PIECES))


def _all_reduce(nbytes: Num, hops: Sequence[_Hop], ways: dict[str, Num] | None = None) -> Num:
    """The faster of rings (least traffic) and trees (fewest steps), or the switch's own sums where it has them.

    `ways`: is told what each of those that are possible takes; for numbers only.
    """
    latency, transfer = _half_ring_parts(nbytes, hops)
    best = _piped(2 * latency, 2 * transfer)
    if ways is not None:
        ways["ring"] = best
    last = hops[-1]
    outside: Num = 0.0  # steps and traffic between nodes: a double binary tree
    traffic: Num = 0.0
    wide: Num = False  # whether a tree may be used
    for hop in hops:
        if hop.inmost:
            continue
        wide = wide | (hop.size > 2) | (hop.size == 2) & hop.level.pair_tree
        outside = outside + 2 * doublings(hop.size) * hop.level.latency
        # Each domain sends its sums up and the totals down, over all its lanes; of two, each sends one half of both.
        traffic = largest(traffic, choose(hop.size > 2, 2.0, 1.0) * nbytes * hop.pace / hop.lanes)
    if last.inmost:
        # Inside a node the tree is a chain.
        latency = outside + 2 * (last.size - 1) * last.level.latency
        chain = _piped(latency, largest(traffic, 2 * nbytes * last.pace))
        if ways is not None and wide:
            ways["tree"] = chain
        best = choose(wide, smallest(best, chain), best)
        if last.level.switch > 0:
            # The switch sums: every device sends and receives the buffer once, in two steps.
            pace = last.pace * last.level.efficiency / last.level.switch
            latency = outside + 2 * last.used * last.level.latency
            summed = SWITCH_LAUNCH + _piped(latency, largest(traffic, nbytes * pace))
            if ways is not None and last.size >= SWITCH_FROM:
                ways["switch"] = summed
            best = choose(last.size >= SWITCH_FROM, smallest(best, summed), best)
    elif type(wide) is np.ndarray or wide:
        tree = _piped(outside, traffic)
        if ways is not None and wide:
            ways["tree"] = tree
        best = choose(wide, smallest(best, tree), best)
    return best


def _half_ring(nbytes: Num, hops: Sequence[_Hop]) -> Num:
    """All-gather or reduce-scatter: one of the two halves of a ring all-reduce."""
    return _piped(*_half_ring_parts(nbytes, hops))


def _half_ring_parts(nbytes: Num, hops: Sequence[_Hop]) -> tuple[Num, Num]:
    """Latency and transfer. As many rings as there are lanes run at once; each goes through every rank once and
    crosses each border once.
    """
    latency: Num = 0.0
    ranks: Num = 1
    pace: Num = 0.0
    for hop in hops:
        latency = latency + ranks * (hop.size - 1) * hop.level.latency
        ranks = ranks * hop.size
        pace = largest(pace, hop.pace / hop.lanes)
    return latency, (ranks - 1) / ranks * nbytes * pace


def _members(hops: Sequence[_Hop]) -> Num:
    """Ranks of the group, by its outermost border."""
    ranks: Num = 1
    for hop in hops:
        ranks = largest(ranks, hop.size * hop.lanes * hop.used)
    return ranks


def _all_to_all(nbytes: Num, hops: Sequence[_Hop]) -> Num:
    """Pairwise exchange; each rank's own links carry what it sends to the ranks beyond each level."""
    ranks = _members(hops)
    latency: Num = 0.0
    transfer: Num = 0.0
    for hop in hops:
        latency = latency + (hop.size - 1) * hop.level.latency
        share = 1.0 if hop.inmost else 1 / EXCHANGE
        transfer = largest(transfer, share * nbytes * (hop.size - 1) * hop.lanes / ranks * hop.pace)
    return latency + transfer


def _rooted(nbytes: Num, hops: Sequence[_Hop]) -> Num:
    """Gather or scatter: the root's own links carry everything."""
    ranks = _members(hops)
    latency: Num = 0.0
    transfer: Num = 0.0
    for hop in hops:
        latency = latency + doublings(hop.size) * hop.level.latency
        transfer = largest(transfer, nbytes * (hop.size - 1) * hop.lanes / ranks * hop.pace)
    return latency + transfer


def _broadcast(nbytes: Num, hops: Sequence[_Hop]) -> Num:
    """Pipelined tree, or its reverse (reduce); lanes carry a part each."""
    latency: Num = 0.0
    pace: Num = 0.0
    for hop in hops:
        latency = latency + doublings(hop.size) * hop.level.latency
        pace = largest(pace, hop.pace / hop.lanes)
    return _piped(latency, nbytes * pace)


def _send_recv(nbytes: Num, hops: Sequence[_Hop]) -> Num:
    """One message over the outermost level between the two."""
    latency, pace = hops[-1].level.latency * hops[-1].used, hops[-1].pace
    for hop in hops[-2::-1]:
        latency = choose(hop.size > 1, hop.level.latency, latency)
        pace = choose(hop.size > 1, hop.pace, pace)
    return latency + nbytes * pace


_FORMULAS: Final[dict[str, Callable[[Num, Sequence[_Hop]], Num]]] = {
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
