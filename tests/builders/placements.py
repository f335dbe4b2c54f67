"""A job's `status.placement` in tests: read and written without the code that is tested."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def workers_in(placement: Json | None) -> list[Json]:
    """Rank, node, pool and devices of each worker."""
    found: list[Json] = []
    for entry in (placement or {}).get("assignment", []):
        for node in entry["nodes"]:
            for text in entry["devices"]:
                found.append(
                    {
                        "rank": len(found),
                        "node": node,
                        "pool": entry.get("pool", (placement or {}).get("pool", "")),
                        "devices": [i for part in filter(None, text.split(",")) for i in _range(part)],
                    }
                )
    return found


def placed_on(workers: list[Json]) -> Json:
    """The part of a placement that says where these are; an entry for each of them."""
    entries = []
    for worker in workers:
        entry = {"nodes": [worker["node"]], "devices": [",".join(map(str, worker["devices"]))]}
        entries.append({"pool": worker["pool"], **entry} if "pool" in worker else entry)
    return {"assignment": entries}


def _range(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)
