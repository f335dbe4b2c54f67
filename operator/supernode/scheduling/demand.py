"""What a gang asks for, as a frozen value.

Flows in: a TrainingJob that `cluster.translate` has read. Flows out: `GangDemand`, which `place` answers with a
`Placement` or an `Unplaceable`. Not here: what is free, and the job's pods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from supernode.errors import InputError
from supernode.scheduling.stores import StorageUse
from supernode.scheduling.topology import check_figure
from supernode.steptime.model import ModelShape, Parallelism

#: Largest number of devices that one node can have: they are bits of a 64-bit mask.
MOST_DEVICES: Final = 64
_MOST: Final = 2**31 - 1
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LevelConstraint:
    """All workers in one domain of a level: `required`, or else preferred. The level ``node`` means one node."""

    level: str
    required: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """Each run of `size` consecutive ranks (0..size-1, size..2 size-1, ...) shares a domain of `level`."""

    level: str
    size: int


class Key:
    """Stands for some parts in the keys of dictionaries: made once for equal parts, so identity is enough to compare.

    (One that has been forgotten is made anew: what was kept under it is worked out again.)
    """

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[object, ...]) -> None:
        self.parts = parts


@lru_cache(maxsize=65536)
def _key(*parts: object) -> Key:
    return Key(parts)


@dataclass(frozen=True, eq=False)
class GangDemand:
    """A gang: all its workers are placed, or none. Compared by identity; never changed after it is made.

    Attributes:
        key: ``namespace/name`` of the job; namespace for quotas, whole for holders and ties.
        pools: names of the pools it may use, alternatives in the user's order.
        workers: pods wanted.
        devices: accelerators of each worker, 1 to 64.
        request: per worker, resource name -> amount in canonical units (``cpu`` in milli-CPU, ``memory`` and
            ``ephemeral-storage`` in bytes, any other in its own unit), without the accelerators. ``pods`` defaults
            to 1.
        min_count: fewest workers that may start; None = all. A gang with `parallelism` always needs all of them.
        mix: ``None``, or ``Stages``: its pipeline stages may be spread over several pools, which takes a model and a
            parallelism of at least 2 stages.
        eligible: pool -> bool (nodes,) over the rows of the snapshot that `place` is called with: which nodes the pod
            template allows (taints, node selector, affinity); None or absent = all. See `with_eligible`.
        constraints: topology wishes, any number of levels, required and preferred.
        slices: from the outside in; each size is a multiple of the next.
        model: shape of what is trained, for the step time; None = unknown, then placements are compared by the
            seconds of an all-reduce over the gang.
        parallelism: its device count is workers x devices; None = data-parallel over all devices.
        priority: higher goes first.
        created: seconds since the epoch; older goes first.
        seconds: that it runs at most; None = not known. A gang that is sure to be over in time may use devices that are
            kept for another one.
        storage: what it reads and writes; None = nothing that is waited for.
        disruption: what stops when the gang has to yield: ``All`` (all of it) or ``Single`` (one worker, and no other).

    Raises:
        InputError: numbers that no job can have; names job and field.
    """

    key: str
    pools: tuple[str, ...]
    workers: int
    devices: int
    request: Mapping[str, int] = field(default_factory=dict)
    min_count: int | None = None
    mix: str = "None"
    eligible: Mapping[str, Mask | None] = field(default_factory=dict, repr=False)
    constraints: tuple[LevelConstraint, ...] = ()
    slices: tuple[Slice, ...] = ()
    model: ModelShape | None = None
    parallelism: Parallelism | None = None
    priority: int = 0
    created: float = 0.0
    seconds: float | None = None
    disruption: str = "All"
    storage: StorageUse | None = None

    def __post_init__(self) -> None:
        obj = f"TrainingJob {self.key}"
        if not self.pools:
            raise InputError("needs at least one pool", field="spec.pools", obj=obj)
        if len(set(self.pools)) < len(self.pools):
            raise InputError(f"names a pool twice: {', '.join(self.pools)}", field="spec.pools", obj=obj)
        _between(self.priority, -(2**31), _MOST, "priority", obj)
        _between(self.workers, 1, _MOST, "spec.workers", obj)
        _between(self.devices, 1, MOST_DEVICES, "spec.acceleratorsPerWorker", obj)
        if self.min_count is not None:
            _between(self.min_count, 1, self.workers, "spec.scheduling.policy.gang.minCount", obj)
        for name, amount in self.request.items():
            _between(amount, 0, 2**62, f"spec.template.spec resource {name}", obj)
        inner: Slice | None = None
        for index, item in reversed(list(enumerate(self.slices))):
            where = f"spec.scheduling.constraints.slices[{index}].size"
            _between(item.size, 1, _MOST, where, obj)
            if inner is not None and item.size % inner.size:
                raise InputError(
                    f"{item.size} is not a multiple of {inner.size}, the size of the slice inside it",
                    field=where,
                    obj=obj,
                )
            if self.workers % item.size:
                raise InputError(
                    f"{self.workers} workers can't be cut into slices of {item.size}", field=where, obj=obj
                )
            inner = item
        if self.parallelism is not None and self.parallelism.devices != self.workers * self.devices:
            raise InputError(
                f"tensor x pipeline x data x context = {self.parallelism.devices}, but {self.workers} workers x "
                f"{self.devices} accelerators = {self.workers * self.devices}",
                field="spec.parallelism",
                obj=obj,
            )
        for name in ("created", "seconds"):
            value = getattr(self, name)
            if value is not None:
                check_figure(value, name, obj)
        object.__setattr__(self, "request", MappingProxyType({"pods": 1, **self.request}))
        object.__setattr__(self, "eligible", MappingProxyType(dict(self.eligible)))

    @property
    def namespace(self) -> str:
        """Namespace of the job."""
        return self.key.split("/", 1)[0]

    @property
    def mixable(self) -> bool:
        """Whether it may be spread over several pools."""
        cut = self.parallelism
        several = self.mix == "Stages" and len(self.pools) > 1 and self.model is not None
        return several and cut is not None and cut.pipeline > 1

    @property
    def fewest(self) -> int:
        """Fewest workers that may start."""
        return self.workers if self.min_count is None or self.parallelism is not None else self.min_count

    @cached_property
    def kind(self) -> Key:
        """What decides how many workers fit where; gangs of one kind share their counts."""
        return _key(self.devices, tuple(sorted(self.request.items())), self.slices, self.constraints)

    @cached_property
    def question(self) -> Key:
        """All that the answer depends on but pools, node masks and the namespace's quota."""
        return _key(self.kind, self.workers, self.fewest, self.model, self.parallelism, self.mix, self.storage)

    def with_storage(self, storage: StorageUse) -> GangDemand:
        """The same demand with the figures of its stores."""
        copy = self._copy()
        object.__setattr__(copy, "storage", storage)
        return copy

    def _copy(self) -> GangDemand:
        copy = object.__new__(GangDemand)
        for name in self.__dataclass_fields__:
            object.__setattr__(copy, name, getattr(self, name))
        return copy

    def with_eligible(self, eligible: Mapping[str, Mask | None], pools: tuple[str, ...] | None = None) -> GangDemand:
        """The same demand with other node masks (they belong to one snapshot's rows), and on fewer pools if given."""
        copy = self._copy()
        object.__setattr__(copy, "eligible", MappingProxyType(dict(eligible)))
        object.__setattr__(copy, "pools", self.pools if pools is None else pools)
        return copy


def _between(value: object, least: int, most: int, field: str, obj: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"must be a whole number from {least} to {most}, found {value!r}", field=field, obj=obj)
