"""Emulated devices as extended resources on the nodes' status, Kubernetes' way for resources without a plug-in.

Flows in: nodes and what each should offer. Flows out: patches of `nodes/status`. Level-triggered: a kubelet that
drops the resource (it does when it registers again) finds it put back at the next look.
"""

from __future__ import annotations

from collections.abc import Mapping

from supernode.cluster.client import Client
from supernode.cluster.kinds import NODES, Json
from supernode.errors import NotFoundError


def missing(node: Json, wanted: Mapping[str, int], withdrawn: frozenset[str] = frozenset()) -> Json:
    """The merge patch that makes a node offer `wanted` (resource -> count) and nothing of `withdrawn`; {} if it does.

    Both `capacity` and `allocatable` are set: schedulers read the one, quotas and people the other.
    """
    status = node.get("status") or {}
    patch: Json = {}
    for side in ("capacity", "allocatable"):
        offered = status.get(side) or {}
        changes: dict[str, str | None] = {
            resource: str(count) for resource, count in wanted.items() if offered.get(resource) != str(count)
        }
        changes |= {resource: None for resource in withdrawn if resource in offered and resource not in wanted}
        if changes:
            patch[side] = changes
    return {"status": patch} if patch else {}


async def advertise(
    client: Client, node: Json, wanted: Mapping[str, int], withdrawn: frozenset[str] = frozenset()
) -> Json | None:
    """Make a node offer `wanted`; gives the node as it is now, or None if nothing had to change or it is gone."""
    patch = missing(node, wanted, withdrawn)
    if not patch:
        return None
    try:
        return await client.patch(NODES, node["metadata"]["name"], patch, subresource="status")
    except NotFoundError:
        return None
