"""Storage, from what users write to what the scheduler decides on.

Flows in: groups and jobs. Flows out: `Store` and `StorageUse` values, names. Units change here: GB/s become bytes/s.
"""

from __future__ import annotations

from supernode.api.group import SuperNodeGroup
from supernode.api.job import TrainingJobSpec
from supernode.cluster.kinds import Json
from supernode.scheduling.snapshot import Store
from supernode.scheduling.stores import StorageUse


def stores_in(group: SuperNodeGroup) -> tuple[Store, ...]:
    """The storage that a group describes."""
    name = group.metadata.name
    return tuple(
        Store(store.name, name, store.level, store.domain, store.read_gbps * 1e9, store.write_gbps * 1e9)
        for store in group.spec.storage
    )


def storage_use(spec: TrainingJobSpec) -> StorageUse | None:
    """What a job reads and writes; None where it does not say."""
    use = spec.storage
    if use is None or (use.dataset is None and use.checkpoint is None):
        return None
    saved = use.checkpoint
    if saved is None:
        return StorageUse(use.dataset or "")
    return StorageUse(use.dataset or "", saved.store, saved.every_steps, saved.size_gb * 1e9)


def stores_of(obj: Json) -> tuple[str, ...]:
    """Names of the storage that a job uses, as its raw spec says."""
    use = (obj.get("spec") or {}).get("storage") or {}
    names = (use.get("dataset"), (use.get("checkpoint") or {}).get("store"))
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))
