"""Links: what each level of the wiring can carry, and how a group of ranks lies on it.

Flows in: chip, figures per level, the domains of a group's ranks. Flows out: `LinkLevel` and `Links`. Contention: a
level's bandwidth is that of one accelerator, so groups of different accelerators do not take it from each other; where
several groups of the same accelerators work at once, `Links.sharing` says how many. Not here: seconds (`collectives`),
and the choice of who is in a group.

Levels go from the outside in, as in a SuperNodeGroup, and the last one is the node. The bandwidth of a level is that
of the links inside one of its domains, between the domains of the next level; ranks in different domains of the
outermost level use the outermost level's links.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from supernode.chips import Chip
from supernode.errors import ModelError
from supernode.steptime.arithmetic import Num, choose
from supernode.steptime.calibration import BLOCK, CROWD, DEFAULT, family_of


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
        exchange: share of what rings reach that is left to all-to-all between its domains.
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
    exchange: float = DEFAULT.exchange

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
                    exchange=family.exchange,
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
                    exchange=family.exchange,
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
