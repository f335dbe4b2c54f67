"""Which devices of its nodes a gang gets: the lowest free ones, or where links join only some, the best groups.

Flows in: free devices per node as masks, workers per node. Flows out: device indices per worker. Not here: which nodes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from supernode.scheduling.snapshot import Int64, PoolInfo, UInt64


def pick_devices(free: UInt64, takes: Int64, devices: int, linked: int = 64) -> NDArray[np.uint8]:
    """Devices on each node: the lowest free ones, or where a node's devices are linked in groups, the best groups.

    Args:
        free: uint64 (k,) free devices, at least takes x devices on each.
        takes: int64 (k,) workers on each.
        devices: per worker.
        linked: so many devices with neighbouring indices (0.., linked.., ...) are joined by the node's fast links.

    Returns:
        uint8 (workers, devices) indices, ascending in each row, workers in rank order.
    """
    return pick_with_masks(free, takes, devices, linked)[0]


def pick_with_masks(free: UInt64, takes: Int64, devices: int, linked: int) -> tuple[NDArray[np.uint8], UInt64 | None]:
    """`pick_devices`, and what that takes of each node where that is known without counting: uint64 (k,)."""
    alike = free.size > 4 and bool((free == free[0]).all() and (takes == takes[0]).all())
    if alike:  # many nodes, all the same: work out one
        one, mask = _picked(int(free[0]), int(takes[0]), devices, linked)
        return np.tile(one, (free.size, 1)), np.full(free.size, mask, dtype=np.uint64)
    if free.size > 64 and linked >= 64:
        bits = (free[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1) != 0
        first = np.cumsum(bits, axis=1) <= (takes * devices)[:, None]
        indices: NDArray[np.uint8] = np.nonzero(bits & first)[1].astype(np.uint8).reshape(-1, devices)
        return indices, None
    parts = [_picked(mask, count, devices, linked) for mask, count in zip(free.tolist(), takes.tolist(), strict=True)]
    masks = np.asarray([mask for _, mask in parts], dtype=np.uint64)
    return parts[0][0] if len(parts) == 1 else np.concatenate([chosen for chosen, _ in parts]), masks


@lru_cache(maxsize=4096)
def _picked(mask: int, workers: int, devices: int, linked: int) -> tuple[NDArray[np.uint8], int]:
    """uint8 (workers, devices) of one node, read-only, and the same as a mask."""
    free = [index for index in range(mask.bit_length()) if mask >> index & 1]
    chosen: list[int] = []
    if linked >= mask.bit_length():
        chosen = free[: workers * devices]
    else:
        for _ in range(workers):
            mine = _linked(free, devices, linked)
            chosen += mine
            free = [index for index in free if index not in mine]
    result = np.asarray(chosen, dtype=np.uint8).reshape(workers, devices)
    result.setflags(write=False)
    return result, sum(1 << index for index in chosen)


def _linked(free: list[int], devices: int, linked: int) -> list[int]:
    """Free devices for one worker, in as few link groups as can be: whole groups first, then the group that the rest
    fills best, so that large groups stay whole for others; ties by index.
    """
    groups: dict[int, list[int]] = {}
    for index in free:
        groups.setdefault(index // linked, []).append(index)
    chosen: list[int] = []
    while len(chosen) < devices:
        left = devices - len(chosen)
        enough = [group for group in groups.values() if len(group) >= left]
        best = min(enough, key=len) if enough else max(groups.values(), key=len)
        chosen += best[:left]
        del groups[best[0] // linked]
    return sorted(chosen)


def link_group(pool: PoolInfo) -> int:
    """How many neighbouring devices of a node the chip's links join; 64 = all."""
    return pool.chip.link_domain or 64


def highest(mask: int, count: int) -> int:
    """The `count` highest bits of a mask (all, if it has no more)."""
    result = 0
    while mask and count > 0:
        bit = 1 << (mask.bit_length() - 1)
        result |= bit
        mask ^= bit
        count -= 1
    return result


def untorn_workers(free: UInt64, devices: int, linked: int) -> Int64:
    """int64 (k,): workers per node whose devices all lie in one link group of the node; see `pick_devices`."""
    count = np.zeros(free.shape, dtype=np.int64)
    group = np.uint64((1 << linked) - 1)
    for first in range(0, 64, linked):
        count += np.bitwise_count((free >> np.uint64(first)) & group).astype(np.int64) // devices
    return count
