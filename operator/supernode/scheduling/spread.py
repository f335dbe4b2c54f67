"""How many workers each node of a domain takes, in rank order.

Flows in: a tree with the workers that fit, a domain, a number of workers. Flows out: nodes in rank order with their
workers. One pass per level over arrays, whatever the number of nodes. Not here: choosing the domain.

On each level the children with the most room are filled first, so that few borders are crossed; what is left over
goes into the child that it fills best. Children with more workers come first in rank order, so that groups of ranks
stay aligned, then by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from supernode.scheduling.fit import Tree
from supernode.scheduling.snapshot import Int64


@dataclass(frozen=True, eq=False, slots=True)
class Spread:
    """Workers per node.

    Attributes:
        nodes: int64 (k,) nodes in rank order (positions in wiring order, or rows: the caller knows).
        takes: int64 (k,) workers on each, at least 1.
    """

    nodes: Int64
    takes: Int64


def spread_domain(tree: Tree, level: int, domain: int, workers: int, *, even: bool) -> Spread:
    """Spread workers over the nodes of one domain; they must fit.

    Args:
        tree: with room for `workers` in that domain.
        level: of the domain; the tree's depth for a single node.
        domain: index on that level.
        workers: how many.
        even: equal shares for as few children as possible, instead of filling one after the other.
    """
    start = (np.asarray([domain], dtype=np.int64), np.asarray([workers], dtype=np.int64))
    return spread_below(tree, level, start[0], start[1], even=even)


def spread_below(tree: Tree, level: int, domains: Int64, takes: Int64, *, even: bool) -> Spread:
    """The same for several domains of one level at once; their order is kept.

    Args:
        tree: with room for each of `takes` in its domain.
        level: of the domains.
        domains: int64 (d,) indices on that level, in rank order.
        takes: int64 (d,) workers for each.
        even: see `spread_domain`.
    """
    for below in range(level + 1, tree.depth + 1):
        runs = tree.children[below - 1]
        first, last = runs[domains], runs[domains + 1]
        counts = last - first
        owner = np.repeat(np.arange(domains.size), counts)
        offsets = np.repeat(np.cumsum(counts) - counts, counts)
        children = np.arange(int(counts.sum())) - offsets + np.repeat(first, counts)
        shares = allot(owner, tree.caps[below][children], takes, tree.units[below], even=even)
        chosen = np.flatnonzero(shares)
        order = chosen[np.lexsort((children[chosen], -shares[chosen], owner[chosen]))]
        domains, takes = children[order], shares[order]
    return Spread(domains, takes)


def allot(owner: Int64, caps: Int64, need: Int64, unit: int, *, even: bool) -> Int64:
    """Share out what each owner needs among its children.

    Args:
        owner: int64 (c,) non-decreasing: whose child each one is.
        caps: int64 (c,) room, multiples of `unit`.
        need: int64 (owners,) at most the sum of the owner's room, multiples of `unit`.
        unit: shares are multiples of this.
        even: see `spread_domain`.

    Returns:
        int64 (c,), summing to `need` per owner, none above its room.
    """
    size = caps.size
    order = np.lexsort((np.arange(size), -caps, owner))
    who, room = owner[order], caps[order]
    begins = np.searchsorted(who, np.arange(need.size))
    total = np.cumsum(room) - room
    before = total - total[begins][who]
    shares = np.minimum(np.maximum(need[who] - before, 0), room)
    _fill_best(who, room, shares, need.size)
    if even:
        _even_out(who, room, shares, need, begins, unit)
    result = np.empty(size, dtype=np.int64)
    result[order] = shares
    return result


def _fill_best(who: Int64, room: Int64, shares: Int64, owners: int) -> None:
    """Move each owner's last, partly used share to the unused child that it fills best. Changes `shares`."""
    partly = np.flatnonzero((shares > 0) & (shares < room))
    if not partly.size:
        return
    rest = np.zeros(owners, dtype=np.int64)
    place = np.full(owners, -1, dtype=np.int64)
    rest[who[partly]] = shares[partly]
    place[who[partly]] = partly
    wanted = rest[who]
    better = (shares == 0) & (wanted > 0) & (room >= wanted) & (room < room[place[who]])
    found = np.flatnonzero(better)
    if not found.size:
        return
    # Room falls along each owner's run, names rise among equals: of the smallest that will do, the first.
    order = found[np.lexsort((found, room[found], who[found]))]
    _, first = np.unique(who[order], return_index=True)
    best = order[first]
    shares[place[who[best]]] = 0
    shares[best] = rest[who[best]]


def _even_out(who: Int64, room: Int64, shares: Int64, need: Int64, begins: Int64, unit: int) -> None:
    """Give equal shares to as many children as were used, where they have the room. Changes `shares`."""
    used = np.bincount(who[shares > 0], minlength=need.size)
    units = need // unit
    base, extra = units // np.maximum(used, 1), units % np.maximum(used, 1)
    position = np.arange(who.size) - begins[who]
    equal = np.where(position < used[who], (base[who] + (position < extra[who])) * unit, 0)
    fits = np.ones(need.size, dtype=np.bool_)
    np.logical_and.at(fits, who, equal <= room)
    np.copyto(shares, equal, where=fits[who])
