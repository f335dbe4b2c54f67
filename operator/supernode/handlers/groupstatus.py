"""What a SuperNodeGroup's status should say. Pure.

Flows in: its wiring, counts of its accelerators, the room of each pool in it, what jobs get out of it, and the nodes
whose labels do not fit. Flows out: the status as JSON, and whether it is ready, with a reason and a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from supernode.api.rules import Problem
from supernode.cluster.kinds import Json
from supernode.handlers.census import Counts
from supernode.handlers.effective import Effective, effective_json
from supernode.scheduling.room import LevelRoom
from supernode.scheduling.topology import Topology

# Names that a condition's message lists.
LISTED: Final = 10
# Levels of all pools that a group's status tells of.
ROOMS: Final = 128


def group_status(
    topology: Topology | None,
    counts: Counts,
    rooms: Iterable[tuple[str, LevelRoom]],
    effective: Effective | None,
    unlabelled: Mapping[str, str],
) -> Json:
    """The status, without conditions.

    Args:
        topology: the group's tree; None if it has none.
        counts: accelerators of its nodes, over all pools.
        rooms: (pool, room on a level) of each pool that has nodes in it.
        effective: what running jobs get out of it.
        unlabelled: node that the group selects -> label that it lacks.
    """
    domains = {}
    if topology is not None:
        domains = {level.name: len(names) for level, names in zip(topology.levels, topology.domain_names, strict=True)}
    status: Json = {
        "nodes": counts.nodes,
        "unlabelledNodes": len(unlabelled),
        "domains": domains,
        "capacity": counts.capacity,
        "allocated": counts.allocated,
        "free": counts.free,
        "unhealthy": counts.unhealthy,
        "room": [
            {
                "pool": pool,
                "level": room.level,
                "largestGang": room.largest,
                "domain": "/".join(room.domain),
                "domainSize": room.capacity,
                "fragmentation": round(room.fragmentation, 3),
            }
            for pool, room in rooms
        ][:ROOMS],
    }
    if effective is not None:
        status["effective"] = effective_json(effective)
    return status


def group_ready(status: Json, problem: Problem | None, unlabelled: Mapping[str, str]) -> tuple[bool, str, str]:
    """Whether it is ready, a reason, and a sentence."""
    if problem is not None:
        return False, "Misconfigured", str(problem)
    if unlabelled:
        return False, "NodesUnlabelled", f"{_lacking(unlabelled)}; they are in no domain, and no gang is placed by them"
    if not status["nodes"]:
        return False, "NoNodes", "spec.nodeSelector selects no node"
    nodes, accelerators = many(status["nodes"], "node"), many(status["capacity"], "accelerator")
    found = [f"{number} {level}" for level, number in status["domains"].items()]
    return True, "Ready", ", ".join([f"{nodes} with {accelerators}, {status['free']} free", *found])


def many(number: int, what: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def named(found: Iterable[str]) -> str:
    """Some nodes by name, and how many more there are."""
    names = sorted(found)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"node{'s' if len(names) > 1 else ''} {', '.join(names[:LISTED])}{more}"


def _lacking(unlabelled: Mapping[str, str]) -> str:
    """Which nodes lack which label: `node a lacks supernode.dev/spine, nodes b, c lack supernode.dev/supernode`."""
    by_label: dict[str, list[str]] = {}
    for node, label in unlabelled.items():
        by_label.setdefault(label, []).append(node)
    return ", ".join(
        f"{named(found)} {'lacks' if len(found) == 1 else 'lack'} the label {label}"
        for label, found in sorted(by_label.items())
    )
