"""Traces of several sidecars as one file, and what such a file must be.

Flows in: traces as JSON objects. Flows out: one trace of the whole job, or an error that names the event that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from supernode.errors import InputError

_METADATA: Final = {
    "process_name": "name",
    "process_labels": "labels",
    "process_sort_index": "sort_index",
    "thread_name": "name",
    "thread_sort_index": "sort_index",
}
#: Categories of work.
_KINDS: Final = ("kernel", "copy", "collective")
#: Largest overlap of two pieces of work of one stream that is rounding, in microseconds.
_ROUNDING: Final = 1e-3


def merge(traces: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """One trace of all devices.

    Args:
        traces: (where it is from, trace of one sidecar).

    Raises:
        InputError: one is no trace, or two have the same device.
    """
    events: list[Any] = []
    owners: dict[int, str] = {}
    other: dict[str, Any] = {"producer": "supernode emulator", "clock": "virtual device time", "sources": []}
    for source, trace in traces:
        check(trace, source)
        for rank in sorted({event["pid"] for event in trace["traceEvents"]}):
            if rank in owners:
                raise InputError(f"{source} and {owners[rank]} both have device {rank}: give each sidecar once")
            owners[rank] = source
        events += trace["traceEvents"]
        other["sources"].append({"from": source, **dict(trace.get("otherData", {}))})
    events.sort(key=lambda event: (event["ph"] != "M", event["pid"], event["tid"], event["ts"]))
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": other}


def check(trace: object, source: str) -> None:
    """Hold a trace to the rules of the format, as far as it is used here.

    Raises:
        InputError: it breaks one; the message names the event.
    """
    if not isinstance(trace, Mapping) or not isinstance(trace.get("traceEvents"), list):
        raise InputError(f"{source} is not a trace: it has no list traceEvents")
    dropped = _dropped(trace)
    if dropped is None:
        raise InputError(f"{source} is not a trace: otherData.droppedEvents is not counts by rank")
    absent = dropped.keys() - {event.get("pid") for event in trace["traceEvents"] if isinstance(event, Mapping)}
    if absent:
        raise InputError(f"{source} is not a trace: it drops events of rank {min(absent)}, which it does not have")
    ends: dict[tuple[int, int], float] = {}
    for number, event in enumerate(trace["traceEvents"]):
        reason = _wrong(event) or _overlaps(event, ends)
        if reason:
            raise InputError(f"{source}: event {number} {reason}: {str(event)[:200]}")


def _dropped(trace: Mapping[str, Any]) -> dict[int, int] | None:
    """Events that were kept no longer, by rank; None if that is not what stands there."""
    other = trace.get("otherData", {})
    counts = other.get("droppedEvents", {}) if isinstance(other, Mapping) else None
    if not isinstance(counts, Mapping):
        return None
    if not all(str(rank).isdecimal() and type(count) is int for rank, count in counts.items()):
        return None
    return {int(rank): count for rank, count in counts.items()}


def _wrong(event: object) -> str:
    if not isinstance(event, Mapping):
        return "is not an object"
    if not isinstance(event.get("name"), str) or event.get("ph") not in ("X", "M"):
        return "has no name, or is of another phase than X and M"
    for field in ("pid", "tid"):
        if type(event.get(field)) is not int:
            return f"has no whole number {field}"
    for field in ("ts", "dur") if event["ph"] == "X" else ("ts",):
        value = event.get(field)
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            return f"has no {field} of 0 or more"
    args = event.get("args", {})
    if not isinstance(args, Mapping):
        return "has args that are no object"
    if event["ph"] == "M" and _METADATA.get(event["name"]) not in args:
        return "is metadata of an unknown name, or without its argument"
    if event["ph"] == "X" and event.get("cat") not in _KINDS:
        return f"is of none of the categories {', '.join(_KINDS)}"
    return ""


def _overlaps(event: Mapping[str, Any], ends: dict[tuple[int, int], float]) -> str:
    """Work of one stream follows each other."""
    if event["ph"] != "X":
        return ""
    track = (event["pid"], event["tid"])
    if event["ts"] < ends.get(track, 0.0) - _ROUNDING:
        return f"begins before the one before it on its stream ends ({ends[track]:.3f})"
    ends[track] = event["ts"] + event["dur"]
    return ""


def figures(trace: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is in a merged trace, per device: its rank, seconds from its first event to its last, seconds of each
    kind of work, events, and how many earlier ones were dropped.
    """
    found: dict[int, dict[str, Any]] = {}
    spans: dict[int, tuple[float, float]] = {}
    for event in trace["traceEvents"]:
        rank = event["pid"]
        row = found.setdefault(
            rank,
            {"rank": rank, "seconds": 0.0, "kernel": 0.0, "copy": 0.0, "collective": 0.0, "events": 0, "dropped": 0},
        )
        if event["ph"] == "X":
            kind = str(event.get("cat", ""))
            row[kind] = row.get(kind, 0.0) + event["dur"] / 1e6
            row["events"] += 1
            begin, end = spans.get(rank, (math.inf, 0.0))
            spans[rank] = (min(begin, event["ts"]), max(end, event["ts"] + event["dur"]))
    for rank, (begin, end) in spans.items():
        found[rank]["seconds"] = (end - begin) / 1e6
    for source in trace["otherData"]["sources"]:
        for rank, count in (source.get("droppedEvents") or {}).items():
            found[int(rank)]["dropped"] = int(count)
    return [found[rank] for rank in sorted(found)]


def summary(trace: Mapping[str, Any]) -> list[str]:
    """Lines that say what is in a merged trace: per device, its time and the share of each kind of work."""
    lines = []
    for device in figures(trace):
        kinds = [(kind, device[kind]) for kind in ("collective", "copy", "kernel") if device[kind]]
        parts = ", ".join(f"{kind} {seconds * 1e3:.3f} ms" for kind, seconds in kinds) or "nothing"
        lines.append(f"rank {device['rank']}: {device['seconds'] * 1e3:.3f} ms of device time: {parts}")
        if device["dropped"]:
            lines.append(f"rank {device['rank']}: {device['dropped']} earlier events were kept no longer")
    return lines
