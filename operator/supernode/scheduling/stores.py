"""Storage as placement sees it: which is close to which domain, and how fast a gang reads and writes there.

Flows in: the stores of a snapshot, a demand that uses some, the domains of a place. Flows out: the `Storage` that the
step-time model waits for. Not here: the wait itself (`steptime.storage`).

A gang that lies wholly inside a store's domain has the store's own rates. From elsewhere the way leads over the links
between the two, and all that is known of them is what one link of the outermost level between carries: that is the most
that a gang elsewhere gets. Gangs that use one store share its rates equally.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from supernode.errors import InputError
from supernode.scheduling.snapshot import Holding, Int64, Store
from supernode.scheduling.topology import Int32, Level, Topology
from supernode.steptime.calibration import ASSUMED_NETWORK_BANDWIDTH
from supernode.steptime.storage import Storage

NO_STORAGE: Final = Storage()


@dataclass(frozen=True, slots=True)
class StorageUse:
    """What a gang reads and writes.

    Attributes:
        dataset: store of its samples; empty = none.
        checkpoint: store of its checkpoints; empty = none.
        every_steps: from one checkpoint to the next.
        checkpoint_bytes: of one.
        found: (store, gangs that use it, this one included) for the two that are there; set by `resolved`.
    """

    dataset: str = ""
    checkpoint: str = ""
    every_steps: int = 0
    checkpoint_bytes: float = 0.0
    found: tuple[tuple[Store, int], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Stores that it uses, each once."""
        return tuple(name for name in dict.fromkeys((self.dataset, self.checkpoint)) if name)


def check_stores(stores: Sequence[Store], levels: Sequence[Level]) -> None:
    """Refuse storage that a group with these levels can't have.

    Raises:
        InputError: names group and field.
    """
    for index, store in enumerate(stores):
        obj, where = f"SuperNodeGroup {store.group}", f"spec.storage[{index}]"
        if all(level.name != store.level for level in levels):
            raise InputError(f"no level is called {store.level!r}", field=f"{where}.level", obj=obj)
        for field, rate in (("readGBps", store.read), ("writeGBps", store.write)):
            if not 0 < rate < math.inf:
                raise InputError(f"must be above 0 and finite, found {rate}", field=f"{where}.{field}", obj=obj)


def resolved(use: StorageUse, stores: tuple[Store, ...], holders: Mapping[str, Holding], key: str) -> StorageUse:
    """The same use with the stores' figures, and how many gangs share each; names that lead nowhere are left out."""
    found: list[tuple[Store, int]] = []
    for name in use.names:
        store = next((store for store in stores if store.name == name), None)
        if store is not None:
            others = sum(1 for holding in holders.values() if name in holding.stores and holding.key != key)
            found.append((store, others + 1))
    return replace(use, found=tuple(found))


def storage_at(use: StorageUse, topology: Topology | None, domains: Int64 | Int32, network: float | None) -> Storage:
    """What a gang gets of its stores.

    Args:
        use: resolved.
        topology: of the group that all its nodes are in; None = they are in several, or in none.
        domains: integers (levels or more, nodes): domains of its nodes per level.
        network: bytes/s of one link between groups; None = unknown.
    """
    rates: dict[str, tuple[float, float]] = {}
    for store, users in use.found:
        link = math.inf
        border = _border(store, topology, domains)
        if border is not None:
            link = network or ASSUMED_NETWORK_BANDWIDTH
            if topology is not None and store.group == topology.name:
                link = topology.levels[max(border - 1, 0)].bandwidth
        rates[store.name] = min(store.read / users, link), min(store.write / users, link)
    return _storage(use, rates)


def storage_near(use: StorageUse) -> Storage:
    """The most that a gang can get: what it gets right beside all its stores."""
    return _storage(use, {store.name: (store.read / users, store.write / users) for store, users in use.found})


def far_from(use: StorageUse, topology: Topology | None, domains: Int64 | Int32) -> int:
    """Of how many of its stores the gang is not wholly inside the domain."""
    return sum(_border(store, topology, domains) is not None for store, _ in use.found)


def near_domains(use: StorageUse, topology: Topology, level: int) -> list[int]:
    """Domains of a level (its depth: nodes) that are inside or around the domain of one of the stores."""
    chosen: list[int] = []
    for store, _ in use.found:
        at = topology.level_index(store.level) if store.group == topology.name else -1
        if at < 0:
            continue
        for domain in _named(store, topology, at):
            start, end = topology.starts[at][domain : domain + 2].tolist()
            if level == len(topology.levels):
                chosen += range(start, end)
            else:
                chosen += np.unique(topology.node_domain[start:end, level]).tolist()
    return list(dict.fromkeys(chosen))


def _named(store: Store, topology: Topology, level: int) -> list[int]:
    """Domains of that name; under different parents there may be several."""
    return [index for index, name in enumerate(topology.domain_names[level]) if name == store.domain]


def _border(store: Store, topology: Topology | None, domains: Int64 | Int32) -> int | None:
    """The outermost level on which a node is in another domain than the store; None = all are in the store's own."""
    if topology is None or store.group != topology.name:
        return 0
    at = topology.level_index(store.level)
    outermost: int | None = None
    homes = _named(store, topology, at) if at >= 0 else []
    if not homes:
        return 0
    best = -1
    for home in homes:  # the nearest of them counts
        path = [0] * (at + 1)
        inner = home
        for level in range(at, -1, -1):
            path[level] = inner
            inner = int(topology.parents[level][inner])
        apart = [level for level in range(at + 1) if bool((domains[level] != path[level]).any())]
        if not apart:
            return None
        if apart[0] > best:
            best, outermost = apart[0], apart[0]
    return outermost


def _storage(use: StorageUse, rates: Mapping[str, tuple[float, float]]) -> Storage:
    read = rates.get(use.dataset, (math.inf, math.inf))[0]
    if use.checkpoint not in rates:
        return Storage(read=read)
    return Storage(
        read=read,
        write=rates[use.checkpoint][1],
        every_steps=use.every_steps,
        checkpoint_bytes=use.checkpoint_bytes,
    )
