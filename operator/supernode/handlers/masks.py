"""Which nodes a gang's pods may go to, as masks over the rows of one snapshot; made anew for each snapshot.

Flows in: demands and their jobs' pod templates. Flows out: the demands with their masks. Gangs with the same wishes
get the same mask: the scheduler counts room once for all gangs with one mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from supernode.cluster import nodes, translate
from supernode.cluster.kinds import Json
from supernode.handlers.context import Context
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.snapshot import Snapshot


class Masks:
    """The masks of one snapshot.

    Args:
        context: what handlers share.
        snapshot: whose rows are meant.
    """

    def __init__(self, context: Context, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._raw = {name: node for (_, name), node in context.stores.nodes.objects().items()}
        self._known: dict[tuple[Any, ...], Any] = {}

    def on(self, demand: GangDemand, obj: Json, shut: frozenset[str] = frozenset()) -> GangDemand:
        """The demand on the nodes that the job's template allows, but for those in `shut`."""
        spec = translate.template_of(obj).get("spec") or {}
        wishes = nodes.placement_rules(spec)
        masks: dict[str, Any] = {}
        for name in demand.pools:
            pool = self.snapshot.pool(name)
            if pool is None:
                continue
            if (name, wishes) not in self._known:
                self._known[name, wishes] = translate.eligible_rows(self.snapshot, pool, self._raw, spec)
            masks[name] = self._known[name, wishes]
            if shut:
                if (name, wishes, shut) not in self._known:
                    open_ = np.asarray([node not in shut for node in self.snapshot.node_names], dtype=np.bool_)
                    mask = masks[name]
                    self._known[name, wishes, shut] = open_ if mask is None else mask & open_
                masks[name] = self._known[name, wishes, shut]
        return demand.with_eligible(masks)
