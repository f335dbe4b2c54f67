"""Seconds of one collective: latency and bandwidth (alpha-beta) per level of the wiring, hierarchically.

Flows in: which collective, how many bytes, and the `Links` of the group: for each level of the wiring, its bandwidth
and latency and how many parts the group has there. Flows out: seconds. The predictor and the emulator's fabric both
call this. Not here: how a group lies in the wiring (`links`, whose names are found here too).

A large collective is pipelined: all levels work at the same time on different pieces, so their bandwidth terms overlap
(the slowest counts) and their latencies add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from supernode.errors import ModelError
from supernode.steptime.arithmetic import Num, choose, doublings, largest, root, smallest
from supernode.steptime.calibration import PIECES, SWITCH_FROM, SWITCH_LAUNCH, THIN_LANES
from supernode.steptime.links import LinkLevel, Links, crowded, levels_for, links_of, regular_links

__all__ = [
    "KINDS",
    "LinkLevel",
    "Links",
    "all_reduce_ways",
    "collective_seconds",
    "crowded",
    "levels_for",
    "links_of",
    "regular_links",
    "transfer_seconds",
]

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
        share = 1.0 if hop.inmost else 1 / hop.level.exchange
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
