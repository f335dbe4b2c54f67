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
    ends: dict[tuple[int, int], float] = {}
    for number, event in enumerate(trace["traceEvents"]):
        reason = _wrong(event) or _overlaps(event, ends)
        if reason:
            raise InputError(f"{source}: event {number} {reason}: {str(event)[:200]}")


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


def summary(trace: Mapping[str, Any]) -> list[str]:
    """Lines that say what is in a trace: per device, its time and the share of each kind of work."""
    found: dict[int, dict[str, float]] = {}
    spans: dict[int, tuple[float, float]] = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            kinds = found.setdefault(event["pid"], {})
            kinds[event["cat"]] = kinds.get(event["cat"], 0.0) + event["dur"]
            begin, end = spans.get(event["pid"], (math.inf, 0.0))
            spans[event["pid"]] = (min(begin, event["ts"]), max(end, event["ts"] + event["dur"]))
    lines = []
    for rank in sorted(found):
        begin, end = spans[rank]
        parts = ", ".join(f"{kind} {micros / 1e3:.3f} ms" for kind, micros in sorted(found[rank].items()))
        lines.append(f"rank {rank}: {(end - begin) / 1e3:.3f} ms of device time: {parts}")
    return lines
