"""Which node and devices each worker has, as `status.placement.assignment` keeps it: short, however large the gang.

The API server checks, converts and copies every value of an object at every write of its status: a thousand workers
with a line and eight numbers each cost it 150 ms, and this form of the same 25. Workers count through the entries in
order; in an entry through its nodes, and on each node through `devices`: sets of indices as Linux writes those of
processors (`0-3,6`, cpuset(7)). A gang on whole nodes of one pool is one entry.

Flows in and out: workers and their JSON. Not here: the rest of a placement (`translate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from supernode.cluster.kinds import Json
from supernode.scheduling.placement import WorkerPlacement

# Longest set of indices that is written out: no node has more devices by far.
_LONGEST: Final = 1024


def assignment_json(workers: Sequence[WorkerPlacement]) -> list[Json]:
    """Workers in rank order as the entries of `status.placement.assignment`."""
    entries: list[Json] = []
    for (node, pool), neighbours in groupby(workers, key=lambda worker: (worker.node, worker.pool)):
        devices = [indices_text(worker.devices) for worker in neighbours]
        if entries and entries[-1]["pool"] == pool and entries[-1]["devices"] == devices:
            entries[-1]["nodes"].append(node)
        else:
            entries.append({"pool": pool, "nodes": [node], "devices": devices})
    return entries


def workers_of(placement: Mapping[str, Any]) -> list[WorkerPlacement]:
    """The workers of a `status.placement`, by rank; none where it has none.

    Raises:
        AttributeError, TypeError, ValueError: a status that nobody can have written.
    """
    found: list[WorkerPlacement] = []
    for entry in placement.get("assignment") or []:
        pool = str(entry.get("pool") or placement.get("pool") or "")
        sets = [indices_of(text) for text in entry.get("devices") or []]
        for node in entry.get("nodes") or []:
            for devices in sets:
                found.append(WorkerPlacement(len(found), str(node), pool, devices))
    return found


def worker_count(placement: Mapping[str, Any]) -> int:
    """How many workers a `status.placement` has a place for."""
    return sum(len(entry.get("nodes") or ()) * len(entry.get("devices") or ()) for entry in _entries(placement))


def nodes_of(placement: Mapping[str, Any]) -> set[str]:
    """Names of the nodes of a `status.placement`."""
    return {str(node) for entry in _entries(placement) for node in entry.get("nodes") or ()}


def pools_of(placement: Mapping[str, Any]) -> set[str]:
    """Names of the pools of a `status.placement`."""
    return {str(entry.get("pool") or placement.get("pool") or "") for entry in _entries(placement)}


def indices_text(indices: Iterable[int]) -> str:
    """`0-3,6` for 0, 1, 2, 3, 6."""
    return _text(tuple(sorted(set(indices))))


@lru_cache(maxsize=4096)
def _text(indices: tuple[int, ...]) -> str:
    parts: list[list[int]] = []
    for value in indices:
        if parts and parts[-1][-1] == value - 1:
            parts[-1] = [parts[-1][0], value]
        else:
            parts.append([value])
    return ",".join("-".join(map(str, part)) for part in parts)


@lru_cache(maxsize=4096)
def indices_of(text: str) -> tuple[int, ...]:
    """The inverse of `indices_text`; what stands there twice comes twice.

    Raises:
        ValueError: not such a text, or one with more indices than anything has.
    """
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        if not _number(first) or (dash and not _number(last)):
            raise ValueError(f"{text!r} is no set of indices such as 0-3,6")
        start, end = int(first), int(last or first)
        if not start <= end < start + _LONGEST:
            raise ValueError(f"{part!r} is no range of indices from low to high, of at most {_LONGEST}")
        found.extend(range(start, end + 1))
        if len(found) > _LONGEST:
            raise ValueError(f"{text!r} has more than {_LONGEST} indices")
    return tuple(found)


def _number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _entries(placement: Mapping[str, Any]) -> list[Json]:
    entries: list[Json] = placement.get("assignment") or []
    return entries
