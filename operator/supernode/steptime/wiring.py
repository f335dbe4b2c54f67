"""Which links each kind of parallelism really uses: from the domains of the workers to `Links` per kind.

Flows in: link levels, the domain of every worker on every level in rank order, and the parallelism. Flows out: a
`Wiring`. Not here: seconds.

Ranks count through tensor, context, expert, pipeline and data, in this order from the fastest, so a tensor group is a
run of neighbouring ranks and a data group is spread over the whole job. Expert ranks are data ranks that share a
layer's experts (`near_experts`); they exchange tokens in every layer, so they come before the pipeline, whose stages
send far less. Where groups of one kind lie differently, the widest spread and the narrowest lane of any of them count:
all wait for the slowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from supernode.errors import ModelError
from supernode.steptime.collectives import LinkLevel, Links
from supernode.steptime.model import Parallelism

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Wiring:
    """Links of each kind of group, the slowest of its kind.

    Attributes:
        tensor: between tensor ranks.
        context: between context ranks.
        pipeline: between neighbouring stages (a pair, over the widest border that any pair crosses).
        data: between the ranks that hold the same weights: data and context ranks together.
        expert: between expert ranks.
    """

    tensor: Links
    context: Links
    pipeline: Links
    data: Links
    expert: Links


def wiring_of(
    levels: tuple[LinkLevel, ...], domains: ArrayLike, parallelism: Parallelism, devices_per_worker: int = 1
) -> Wiring:
    """The wiring of a placed job.

    Args:
        levels: outermost first, the node last.
        domains: integers (levels, workers) by rank: on each level the same number means the same domain. Each domain's
            ranks must be neighbours, as `place` arranges them.
        parallelism: its device count is workers x devices_per_worker.
        devices_per_worker: neighbouring device ranks in one worker.

    Raises:
        ModelError: shapes or counts that don't match.
    """
    ids = np.asarray(domains, dtype=np.int64)
    if ids.ndim != 2 or ids.shape[0] != len(levels):
        raise ModelError(f"{len(levels)} levels need domains of shape ({len(levels)}, workers), not {ids.shape}")
    if ids.shape[1] * devices_per_worker != parallelism.devices:
        raise ModelError(
            f"tensor x pipeline x data x context = {parallelism.devices}, but {ids.shape[1]} workers x "
            f"{devices_per_worker} devices = {ids.shape[1] * devices_per_worker}",
            field="parallelism",
        )
    return _wiring(levels, runs(ids).tobytes(), ids.shape[1], parallelism, devices_per_worker)


def regular_wiring(levels: tuple[LinkLevel, ...], sizes: Sequence[int], parallelism: Parallelism) -> Wiring:
    """The wiring of a job that fills a regular tree: `sizes` parts per level, outermost first, devices last.

    Raises:
        ModelError: the sizes don't multiply to the number of devices.
    """
    ids = np.zeros((len(levels), parallelism.devices), dtype=np.int64)
    if len(sizes) != len(levels) or int(np.prod(np.asarray(sizes, dtype=np.int64))) != parallelism.devices:
        raise ModelError(f"sizes {tuple(sizes)} must be one per level and multiply to {parallelism.devices} devices")
    block = parallelism.devices
    for level in range(1, len(levels)):
        block //= sizes[level - 1]
        ids[level] = np.arange(parallelism.devices) // block
    return wiring_of(levels, ids, parallelism)


def runs(domains: Int64) -> NDArray[np.int32]:
    """The same domains, numbered in rank order per level: equal shapes become equal arrays, whatever their names.

    A domain ends where any level around it does.
    """
    result = np.zeros(domains.shape, dtype=np.int32)
    if domains.shape[1] > 1:
        changes = np.logical_or.accumulate(domains[:, 1:] != domains[:, :-1], axis=0)
        np.cumsum(changes, axis=1, out=result[:, 1:])
    return result


def near_experts(data: int, context: int, expert: int) -> int:
    """How many data ranks lie next to each other, before the pipeline's stages, because they share a layer's experts.

    Experts are shared by context ranks first; where the two don't divide, data ranks stay outermost.
    """
    near = max(expert // context, 1)
    return near if near * context == expert and data % near == 0 else 1


@lru_cache(maxsize=4096)
def _wiring(levels: tuple[LinkLevel, ...], key: bytes, workers: int, p: Parallelism, devices: int) -> Wiring:
    """`key`: the bytes of int32 (levels, workers), as `runs` numbers them."""
    moved = np.moveaxis
    ids = np.frombuffer(key, dtype=np.int32).reshape(len(levels), workers)
    near = near_experts(p.data, p.context, p.expert)
    ranks = np.repeat(ids, devices, axis=1).reshape(len(levels), p.data // near, p.pipeline, near, p.context, p.tensor)
    grid = moved(ranks, 3, 2).reshape(len(levels), p.data, p.pipeline, p.context, p.tensor)
    replicas = moved(grid, 2, 1).reshape(len(levels), p.pipeline, p.data * p.context, p.tensor)
    if p.expert > 1:
        shape = (len(levels), p.pipeline, p.data * p.context // p.expert, p.expert, p.tensor)
        expert = moved(replicas.reshape(shape), 3, -1)
    else:
        expert = grid[..., :1]
    stages = moved(grid, 2, -1)  # (levels, data, context, tensor, pipeline)
    pairs = np.stack((stages[..., :-1], stages[..., 1:]), axis=-1) if p.pipeline > 1 else stages
    return Wiring(
        tensor=_links(levels, grid),
        context=_links(levels, moved(grid, 3, -1)),
        pipeline=_links(levels, pairs),
        data=_links(levels, moved(replicas, 2, -1)),
        expert=_links(levels, expert),
    )


def _links(levels: tuple[LinkLevel, ...], grid: NDArray[np.int32]) -> Links:
    """Links of the groups that lie along the last axis of `grid` (levels, ..., size)."""
    depth, size = len(levels), grid.shape[-1]
    groups = grid.reshape(depth, -1, size)
    count = groups.shape[1]
    if size == 1:
        return Links(levels, (1,) * depth, (1,) * depth)
    # starts[l][g, i]: a new domain of level l begins at member i of group g.
    starts = np.ones((depth, count, size), dtype=np.bool_)
    starts[:, :, 1:] = groups[:, :, 1:] != groups[:, :, :-1]
    outer = np.repeat(np.arange(count), size)  # level 0: each group is one whole
    sizes: list[int] = []
    lanes: list[int] = []
    for level in range(depth):
        if level == depth - 1:
            first = np.ones(count * size, dtype=np.bool_)
        else:
            first = starts[level + 1].reshape(-1)
        inner = np.cumsum(first) - 1
        sizes.append(int(np.bincount(outer[first]).max()))
        lanes.append(int(np.bincount(inner).min()))
        outer = inner
    return Links(levels, tuple(sizes), tuple(lanes))
