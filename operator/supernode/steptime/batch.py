"""Wirings for `predict_batch`: the links of many places or cuts as arrays.

Flows in: `Wiring` values of the same levels, or sizes of regular trees. Flows out: one `Wiring` whose sizes and lanes
are float64 arrays (n,), one per level. Not here: seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supernode.errors import ModelError
from supernode.steptime.arithmetic import Num
from supernode.steptime.collectives import LinkLevel, Links
from supernode.steptime.cuts import Cuts
from supernode.steptime.wiring import Wiring

_KINDS: Final = ("tensor", "context", "pipeline", "data", "expert")


def stack_wirings(wirings: Sequence[Wiring]) -> Wiring:
    """One wiring per row, as arrays.

    Raises:
        ModelError: there is none, or the levels differ.
    """
    if not wirings:
        raise ModelError("a batch needs at least one wiring")
    levels = wirings[0].tensor.levels
    if any(wiring.tensor.levels != levels for wiring in wirings):
        raise ModelError("the wirings of a batch must have the same levels; predict those of each kind of levels apart")

    def stacked(kind: str) -> Links:
        groups: list[Links] = [getattr(wiring, kind) for wiring in wirings]
        sizes = np.array([links.sizes for links in groups], dtype=np.float64).T
        lanes = np.array([links.lanes for links in groups], dtype=np.float64).T
        return Links(levels, tuple(sizes), tuple(lanes))

    return Wiring(*map(stacked, _KINDS))


def regular_wirings(levels: tuple[LinkLevel, ...], sizes: ArrayLike, cuts: Cuts) -> Wiring:
    """`wiring.regular_wiring` for a batch, without a loop over rows.

    Exact where the groups fit the tree evenly (each divides the other); elsewhere an estimate on the slow side: no
    group is spread wider or has narrower lanes than it says.

    Args:
        levels: outermost first, the node last.
        sizes: parts per level (levels,) or (levels, n), outermost first, devices last; a product above the number of
            devices means that the job leaves the outermost domains in part empty.
        cuts: n cuts, arrays.

    Raises:
        ModelError: sizes of another shape, or below 1.
    """
    parts = np.asarray(sizes, dtype=np.float64)
    count = np.size(cuts.tensor)
    if parts.ndim == 1:
        parts = np.repeat(parts[:, None], count, axis=1)
    if parts.shape != (len(levels), count) or (parts < 1).any():
        raise ModelError(f"{len(levels)} levels need sizes of 1 or more, shape ({len(levels)}, {count})")
    # blocks[l]: devices in one domain of level l; the last, of one device.
    blocks = np.ones((len(levels) + 1, count))
    for level in range(len(levels) - 1, -1, -1):
        blocks[level] = blocks[level + 1] * parts[level]
    near = _near(cuts)
    row = cuts.tensor * cuts.context
    inside = row * near
    far = (inside * cuts.pipeline, cuts.data / near)
    return Wiring(
        tensor=_links(levels, blocks, [(1.0, cuts.tensor)]),
        context=_links(levels, blocks, [(cuts.tensor, cuts.context)]),
        pipeline=_pair(levels, blocks, inside, cuts),
        data=_links(levels, blocks, [(cuts.tensor, cuts.context * near), far]),
        expert=_links(levels, blocks, _expert(cuts, near, inside * cuts.pipeline)),
    )


def _near(cuts: Cuts) -> Num:
    """`wiring.near_experts` for a batch."""
    near = np.maximum(cuts.expert // cuts.context, 1.0)
    return np.where((near * cuts.context == cuts.expert) & (cuts.data % near == 0), near, 1.0)


def _expert(cuts: Cuts, near: Num, spread: Num) -> list[tuple[Num, Num]]:
    """Strides and counts of an expert group: context ranks first, then data ranks next to them, then others."""
    inside = np.minimum(cuts.context * near, cuts.expert)
    return [(cuts.tensor, inside), (spread, np.maximum(cuts.expert / inside, 1.0))]


def _members(block: NDArray[np.float64], runs: Sequence[tuple[Num, Num]], most: bool) -> NDArray[np.float64]:
    """Members of a group in one block of neighbouring devices: the most, or the fewest where any are."""
    total = np.ones_like(block)
    for stride, count in runs:
        share = block / stride
        whole = np.ceil(share) if most else np.floor(share)
        total = total * np.clip(whole, 1.0, count)
    return total


def _links(levels: tuple[LinkLevel, ...], blocks: NDArray[np.float64], runs: Sequence[tuple[Num, Num]]) -> Links:
    sizes, lanes = [], []
    outer = np.ones_like(blocks[0])
    for _, count in runs:
        outer = outer * count
    for level in range(len(levels)):
        block = blocks[level + 1]
        few = np.minimum(_members(block, runs, most=False), outer)
        most = np.minimum(_members(block, runs, most=True), outer)
        # A group that neither divides the blocks nor is divided by them straddles a border somewhere.
        torn = np.zeros(block.shape, dtype=np.bool_)
        for stride, count in runs:
            torn |= (count > 1) & (block % (stride * count) != 0) & ((stride * count) % block != 0)
        torn &= (outer > 1) & (block > 1)
        sizes.append(np.minimum(np.ceil(outer / few) + torn, outer))
        lanes.append(np.where(torn, 1.0, few))
        outer = most
    return Links(levels, tuple(sizes), tuple(lanes))


def _pair(levels: tuple[LinkLevel, ...], blocks: NDArray[np.float64], inside: Num, cuts: Cuts) -> Links:
    """The pair of neighbouring stages over the widest border: two parts on that level, one on the others."""
    sizes = []
    devices = inside * cuts.pipeline
    replicas = cuts.devices / devices
    for level in range(len(levels)):
        outer, block = blocks[level], blocks[level + 1]
        # A border between blocks that lies between two stages, both of them inside the same outer block.
        crossed = (block < devices) | (block % devices != 0) & (replicas > 1)
        apart = (cuts.pipeline > 1) & crossed & (outer > block) & (outer > inside)
        sizes.append(np.where(apart, 2.0, 1.0))
    return Links(levels, tuple(sizes), tuple(np.ones(blocks.shape[1]) for _ in levels))
