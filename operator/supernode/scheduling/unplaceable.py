"""Why a gang was not placed, as a value: a reason code and the counts behind it.

Flows out of `place` and `cycle`; `explain` alone turns it into English.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Reason codes of the API (condition `Scheduled`)."""

    NO_MATCHING_POOL = "NoMatchingPool"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    EXCEEDS_MAX_QUOTA = "ExceedsMaxQuota"
    INSUFFICIENT_ACCELERATORS = "InsufficientAccelerators"
    INSUFFICIENT_NODE_RESOURCES = "InsufficientNodeResources"
    TOPOLOGY_PLACEMENT_FAILED = "TopologyPlacementFailed"
    OUT_OF_DEVICE_MEMORY = "OutOfDeviceMemory"
    WAITING_FOR_PREEMPTION = "WaitingForPreemption"
    WAITING_FOR_REPAIR = "WaitingForRepair"
    SUSPENDED = "Suspended"
    MISCONFIGURED = "Misconfigured"


@dataclass(frozen=True, slots=True)
class PoolRefusal:
    """What stood in the way in one pool. Counts of devices and workers are of this gang's kind.

    Attributes:
        pool: name; it need not exist.
        code: why this pool can't take the gang.
        nodes: nodes of the pool that are ready and that the job may use.
        excluded: nodes of the pool that are not ready, or that taints, selectors or reservations close to it.
        devices: devices on those `nodes`, whoever holds them.
        free: free devices on those `nodes`.
        fits: workers that fit now where most fit: in the best domain of the required level, or in the pool.
        fits_empty: workers that would fit there if nothing ran.
        level: the level that `fits` is about; empty = the pool as a whole.
        resource: the node resource that is short (`INSUFFICIENT_NODE_RESOURCES`), or the quota's resource.
        limit: the quota's limit, or the device's memory in bytes.
        used: devices that the namespace holds already, or bytes that one device would need.
        compute: MFLOP/s that the gang's place would promise; then a quota in compute stands in the way, and `limit` and
            `used` are MFLOP/s too. 0 = not about that.
        detail: what is wrong, where numbers can't say it (`MISCONFIGURED`); names of lost nodes (`WAITING_FOR_REPAIR`)
            or of the gangs that give way (`WAITING_FOR_PREEMPTION`).
        wanted: workers that need another place (`WAITING_FOR_REPAIR`); 0 = not about that.
        domain: path of the domain that `fits` is about, outermost first; empty = not one.
    """

    pool: str
    code: Reason
    nodes: int = 0
    excluded: int = 0
    devices: int = 0
    free: int = 0
    fits: int = 0
    fits_empty: int = 0
    level: str = ""
    resource: str = ""
    limit: int = 0
    used: int = 0
    detail: str = ""
    wanted: int = 0
    domain: tuple[str, ...] = ()
    compute: int = 0


@dataclass(frozen=True, slots=True)
class MixRefusal:
    """Why a gang can't be put over several pools either (`mix: Stages`). Counts are of whole pipeline stages.

    Attributes:
        code: why.
        stages: that the gang has.
        fits: pool -> stages that it takes now, in the place where most fit together.
        empty: stages that the pools would take together if nothing ran.
        level: the required level that `fits` is about; empty = anywhere.
        held: layers that the memory of those stages holds (`OUT_OF_DEVICE_MEMORY`).
        layers: of the model.
        detail: what is wrong, where numbers can't say it (`MISCONFIGURED`).
    """

    code: Reason
    stages: int
    fits: tuple[tuple[str, int], ...] = ()
    empty: int = 0
    level: str = ""
    held: int = 0
    layers: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """The gang can't start now.

    Attributes:
        code: of the pool that is nearest to taking the gang.
        pools: one refusal per pool that was asked for, in the user's order.
        possible: it would fit an empty cluster (as far as this cycle knows): waiting can help.
        reserved_for: key of the gang that waits longer and for which free devices are kept; empty if none.
        mix: why its stages can't be spread over several pools either; None = it may not be spread.
    """

    code: Reason
    pools: tuple[PoolRefusal, ...]
    possible: bool = False
    reserved_for: str = ""
    mix: MixRefusal | None = None

    @property
    def nearest(self) -> PoolRefusal:
        """The refusal that `code` comes from; the first, if it comes from the mix."""
        return next((refusal for refusal in self.pools if refusal.code == self.code), self.pools[0])
